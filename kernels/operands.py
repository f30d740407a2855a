"""What contractions multiply, and where that lies in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pirol.compiler import dims
from pirol.compiler.dims import Dim
from pirol.kernels import affine
from pirol.kernels.affine import Affine
from pirol.kernels.emit import Passes
from pirol.kernels.nest import Axis, Load, Nest, Reduce, Scalar
from pirol.prim.contract import COMPILED_IN


def factors_of(nest: Nest) -> tuple[int, tuple[int, ...]] | None:
    """The nest's contraction and what it multiplies; None where it has none."""
    total = Passes(nest).total
    dot = None if total is None else nest.nodes[total]
    if total is None or not isinstance(dot, Reduce) or dot.kind != "dot":
        return None
    factors = nest.nodes[dot.args[0]]
    assert isinstance(factors, Scalar)
    return (total, factors.args) if dot.dtype in COMPILED_IN else None


def places_of(nest: Nest, node: int) -> tuple[Affine, Affine] | None:
    """A load's place as a row's and a term's; None where it is not always there, or not
    the sum of two."""
    load = nest.nodes[node]
    assert isinstance(load, Load)
    if load.guard is not None or load.index.data():
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
