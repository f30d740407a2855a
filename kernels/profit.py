"""Whether a legal fusion also pays: costly values must not be computed again."""

from __future__ import annotations

from pirol.compiler import dims
from pirol.compiler.dims import Dim
from pirol.compiler.ir import Graph
from pirol.kernels.lower import Refusal
from pirol.kernels.nest import Nest, Reduce, Scalar, Store, index_of
from pirol.prim import PRIMS

LARGE = 1 << 15  # elements that are worth more than one thread
REPEATS = 2  # how often a costly value may be computed


def unprofitable(body: Graph, nest: Nest) -> Refusal | None:
    """A refusal where costly primitives would run more often than apart, where each row
    would store the same element, or one row a large tensor."""
    if _is_one_row(nest):
        return Refusal(
            "serial", "one thread would store all elements of a large tensor"
        )
    if nest.rows and any(_is_stored_again(nest, s) for s in nest.stores):
        return Refusal("repeat", "every row would store the same element")
    apart = sum(_costly(op.name) for op in body.ops)
    if apart == 0:
        return None
    found = [n for n in nest.nodes if isinstance(n, Scalar) and _costly(n.prim)]
    if len(found) > apart:
        return Refusal("recompute", "a costly value would be computed at two places")
    for k, node in enumerate(nest.nodes):
        if isinstance(node, Scalar) and _costly(node.prim) and _repeated(nest, k):
            return Refusal(
                "recompute", f"{node.prim} would be computed again and again"
            )
    return None


def _is_one_row(nest: Nest) -> bool:
    """Whether all of a large tensor is reduced, and then as much is stored."""
    size = dims.product(a.extent for a in nest.columns)
    stores = any(nest.per_element[s.node] for s in nest.stores)
    large = isinstance(size, int) and size >= LARGE
    return large and stores and all(a.extent == 1 for a in nest.rows)


def _is_stored_again(nest: Nest, store: Store) -> bool:
    """Whether rows that are more than one store to one place."""
    many = any(a.extent != 1 for a in nest.rows)
    return many and store.among is None and not store.index.axes()


def _costly(name: str) -> bool:
    return name in PRIMS and PRIMS[name].costly


def _repeated(nest: Nest, k: int) -> bool:
    """Whether the loops outside the value's innermost own axis repeat it."""
    own = _axes(nest, k)
    if nest.columns and not own & {a.name for a in nest.columns}:
        own = {a.name for a in nest.rows}
    inner = max((j for j, a in enumerate(nest.axes) if a.name in own), default=-1)
    times: Dim = 1
    for axis in nest.axes[: inner + 1]:
        if axis.name not in own:
            times = dims.mul(times, axis.extent)
    return not (isinstance(times, int) and times <= REPEATS)


def _axes(nest: Nest, k: int) -> set[str]:
    """The axes that a node's value depends on."""
    node = nest.nodes[k]
    if isinstance(node, Reduce):
        return {a.name for a in nest.rows}
    found = index_of(node).axes()
    for argument in nest.arguments(node):
        found |= _axes(nest, argument)
    return found
