"""What contractions multiply, and where that lies in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pirol.compiler import dims
from pirol.compiler.dims import Dim
from pirol.kernels import affine
from pirol.kernels.affine import Affine
from pirol.kernels.emit import Passes
from pirol.kernels.nest import Axis, Load, Nest, Node, Reduce, Scalar
from pirol.prim.contract import COMPILED_IN
from pirol.prim.prim import PAIRED, WIDE


def factors_of(nest: Nest) -> tuple[int, tuple[int, ...]] | None:
    """The nest's contraction and what it multiplies; None where it has none."""
    total = Passes(nest).total
    dot = None if total is None else nest.nodes[total]
    if total is None or not isinstance(dot, Reduce) or dot.kind != "dot":
        return None
    factors = nest.nodes[dot.args[0]]
    assert isinstance(factors, Scalar)
    return (total, factors.args) if dot.dtype in COMPILED_IN else None


def widens(nodes: Sequence[Node], item: int, along: Affine | None) -> bool:
    """Whether a node is a half in memory, widened: a product takes it as it is, rows
    only where their terms, numbered by `along`, lie one behind the other."""
    half = _behind_cast(nodes, item, WIDE)
    found = None if half is None else nodes[half]
    if not isinstance(found, Load) or found.dtype != PAIRED:
        return False
    axes = along.axes() if along is not None else set()
    return all(dims.equal(found.index.coefficient(a), 1) is True for a in axes)


def rounds(nodes: Sequence[Node], item: int, apart: set[str]) -> bool:
    """Whether it is a number in memory, rounded to a half and widened, the same along
    some axes: it is rounded as it is packed, once for all of them."""
    half = _behind_cast(nodes, item, WIDE)
    number = None if half is None else _behind_cast(nodes, half, PAIRED)
    found = None if number is None else nodes[number]
    return isinstance(found, Load) and apart.isdisjoint(found.index.axes())


def _behind_cast(nodes: Sequence[Node], item: int, to: str) -> int | None:
    node = nodes[item]
    cast = isinstance(node, Scalar) and node.prim == "cast" and node.dtype == to
    return node.args[0] if cast and isinstance(node, Scalar) else None


def load_of(nest: Nest, node: int) -> Load:
    """The load that a factor is, or is a half of, widened."""
    found = nest.nodes[node]
    while isinstance(found, Scalar):
        found = nest.nodes[found.args[0]]
    assert isinstance(found, Load)
    return found


def is_widened(nest: Nest, node: int) -> bool:
    """Whether a factor is a half that was widened."""
    return not isinstance(nest.nodes[node], Load)


def places_of(nest: Nest, node: int) -> tuple[Affine, Affine] | None:
    """A load's place as a row's and a term's; None where it is not always there, is not
    the sum of two, or has to be widened."""
    load = load_of(nest, node)
    if is_widened(nest, node) or load.guard is not None or load.index.data():
        return None
    summed = {a.name for a in nest.columns}
    rows: list[tuple[affine.Atom, Dim]] = []
    terms: list[tuple[affine.Atom, Dim]] = []
    for atom, step in load.index.terms:
        axes = Affine(((atom, 1),)).axes()
        if axes & summed and axes - summed:
            return None
        (terms if axes & summed else rows).append((atom, step))
    return Affine(tuple(rows), load.index.const), Affine(tuple(terms))


def shares(index: Affine, some: Sequence[Axis], others: Sequence[Axis]) -> bool:
    """Whether axes of both kinds may lead to the same elements: one's steps lie within
    the reach of another's, and the other way round."""

    def within(a: Axis, b: Axis) -> bool:
        step, reach = index.coefficient(a.name), index.coefficient(b.name)
        return not affine.nonnegative(dims.sub(step, dims.mul(reach, b.extent)))

    return any(within(a, b) and within(b, a) for a in some for b in others)


def step_of(index: Affine, axes: Sequence[Axis]) -> Dim | None:
    """How far apart neighbours of the row-major axes lie, if always as far."""
    step = index.coefficient(axes[-1].name)
    reach = step
    for a in reversed(axes):
        if not index.plain(a.name):
            return None
        if dims.equal(index.coefficient(a.name), reach) is not True:
            return None
        reach = dims.mul(reach, a.extent)
    return step


def start_of(index: Affine, axes: Iterable[Axis]) -> Affine:
    """The index where the axes are 0."""
    return affine.substitute(index, {a.name: affine.ZERO for a in axes})


def even_steps(nest: Nest, node: int, axes: Sequence[Axis]) -> tuple[Dim, Dim] | None:
    """A load's steps along a side's axes and along the terms, if both are even."""
    load = load_of(nest, node)
    if load.guard is not None or load.index.data():
        return None
    side, term = step_of(load.index, axes), step_of(load.index, nest.columns)
    return None if side is None or term is None else (side, term)


def run_of_terms(nest: Nest, node: int, axes: Sequence[Axis]) -> list[Axis]:
    """The last terms' axes along which an operand lies in memory, where it does not
    along a side's axes."""
    load, columns = load_of(nest, node), list(nest.columns)
    if is_widened(nest, node) or load.guard is not None or load.index.data():
        return []
    if step_of(load.index, axes) in (None, 1):
        return []
    runs = (columns[k:] for k in range(len(columns)))
    return next((run for run in runs if step_of(load.index, run) == 1), [])
