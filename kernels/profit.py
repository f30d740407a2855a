"""Whether a legal fusion also pays: costly values must not be computed again."""

from __future__ import annotations

import math

from pirol.compiler import dims
from pirol.compiler.ir import Graph, Op
from pirol.kernels.lower import Refusal
from pirol.kernels.nest import Load, Nest, Node, Reduce, Scalar, Store, index_of
from pirol.prim import PRIMS
from pirol.prim.prim import COSTLY, ELEMENTWISE

LARGE = 1 << 15  # elements that are worth more than one thread
REPEATS = 2  # how often a costly value may be computed
LOOKUP = 4  # the cost of a load at a place that data name


def unprofitable(body: Graph, nest: Nest) -> Refusal | None:
    """A refusal where costly primitives, or cheap ones that are costly together, would
    run more often than apart, where each row would store the same element, or one row
    a large tensor."""
    if _is_one_row(nest):
        return Refusal(
            "serial", "one thread would store all elements of a large tensor"
        )
    if nest.rows and any(_is_stored_again(nest, s) for s in nest.stores):
        return Refusal("repeat", "every row would store the same element")
    cheap = sum(map(_cheap, body.ops)) >= COSTLY
    apart = sum(_costly(op.name) for op in body.ops)
    if not cheap and apart == 0:
        return None
    again = _repeated(nest)
    if cheap and sum(_cost(nest.nodes[k]) for k in again) >= COSTLY:
        return Refusal("recompute", "cheap values would be computed again and again")
    found = [n for n in nest.nodes if isinstance(n, Scalar) and _costly(n.prim)]
    if len(found) > apart:
        return Refusal("recompute", "a costly value would be computed at two places")
    for k in again:
        node = nest.nodes[k]
        if isinstance(node, Scalar) and _costly(node.prim):
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


def _cheap(op: Op) -> int:
    """The cost of an op that is cheap, or looks a table up."""
    prim = PRIMS.get(op.name)
    if op.name == "gather" or prim is None:
        return LOOKUP
    return prim.cost if prim.kind in ELEMENTWISE and not prim.costly else 0


def _cost(node: Node) -> int:
    """Of a cheap value, or of a load at a place that data name."""
    if isinstance(node, Load):
        return LOOKUP if node.index.data() else 0
    cheap = isinstance(node, Scalar) and not _costly(node.prim)
    return PRIMS[node.prim].cost if cheap else 0


def _costly(name: str) -> bool:
    return name in PRIMS and PRIMS[name].costly


def _repeated(nest: Nest) -> list[int]:
    """The nodes that loops outside their innermost own axis repeat."""
    rows = {a.name for a in nest.rows}
    found: list[int] = []
    depends: list[set[str]] = []  # the axes that each node's value depends on
    for k, node in enumerate(nest.nodes):
        arguments = (depends[a] for a in nest.arguments(node))
        reduces = isinstance(node, Reduce)
        depends.append(rows if reduces else index_of(node).axes().union(*arguments))
        own = depends[k]
        if nest.columns and not own & {a.name for a in nest.columns}:
            own = rows
        if _times(nest, own) > REPEATS:
            found.append(k)
    return found


def _times(nest: Nest, own: set[str]) -> float:
    """How often the loops around a value's innermost own axis repeat it."""
    inner = max((j for j, a in enumerate(nest.axes) if a.name in own), default=-1)
    around = (a.extent for a in nest.axes[: inner + 1] if a.name not in own)
    times = dims.product(around)
    return times if isinstance(times, int) else math.inf
