"""Schedule for transposes: reads along one axis and writes along another, in blocks.

A load that is contiguous along an axis other than the innermost is first turned, block
by block, into an array in which the innermost axis is contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.emit import Emitter, Passes, closure, unravel
from pirol.kernels.kernel import Array, At, Expr, Kernel, Loop, Stmt, Turn
from pirol.kernels.nest import Axis, Load, Nest

HIGH, WIDE = 16, 64  # a block: rows along the axis read, elements along the innermost
LEAST = 8  # a static axis shorter than this is not worth turning


@dataclass(frozen=True)
class Turned:
    """The loads to turn (node numbers), and the axis along which they are read."""

    nest: Nest
    along: Axis
    loads: tuple[int, ...]

    @property
    def inner(self) -> Axis:
        """The axis along which is written."""
        return self.nest.rows[-1]

    def kernel(self, grain: Dim) -> Kernel:
        """The kernel; `grain`: how many blocks of rows are worth a thread."""
        outer = [a for a in self.nest.rows[:-1] if a is not self.along]
        blocks = dims.floordiv(dims.add(self.along.extent, HIGH - 1), HIGH)
        axes = (*outer, Axis("high", blocks, False))
        places = unravel([a.name for a in axes], _with_axes(self.nest, axes), "r")
        body = (*places, *self.arrays(), self.block())
        loop = Loop("r", axis("begin"), axis("end"), body, kind="rows")
        rows = product(a.extent for a in axes)
        nest = self.nest
        return Kernel(nest.name, nest.inputs, nest.outputs, (loop,), rows, grain)

    def arrays(self) -> list[Stmt]:
        """A block's memory for each turned load."""
        nodes = self.nest.nodes
        return [
            Array(f"t{k}", nodes[k].dtype, HIGH * WIDE, "local") for k in self.loads
        ]

    def block(self) -> Stmt:
        """All blocks along the innermost axis."""
        inner, start = self.inner, axis("wide")
        turns = [self.turn(k) for k in self.loads]
        emitter = Emitter(self.nest, {k: self.turned(k) for k in self.loads})
        stores = Passes(self.nest).row_stores
        needed = closure(self.nest, [s.node for s in stores], emitter.have)
        body = [*emitter.lets(needed), *(emitter.put(s) for s in stores)]
        limit = constant(inner.extent)
        stop = affine.add(start, constant(WIDE))
        lanes = Loop(inner.name, start, stop, tuple(body), "lanes", limit=limit)
        first = affine.scale(axis("high"), HIGH)
        rows = Loop(
            self.along.name,
            first,
            affine.add(first, constant(HIGH)),
            (lanes,),
            limit=constant(self.along.extent),
        )
        return Loop("wide", affine.ZERO, limit, (*turns, rows), step=WIDE)

    def turn(self, k: int) -> Stmt:
        """Read a load's block, from its first row and element on."""
        load = self.nest.nodes[k]
        assert isinstance(load, Load)
        first = affine.scale(axis("high"), HIGH)
        corner = {self.along.name: first, self.inner.name: axis("wide")}
        return Turn(
            f"t{k}",
            f"in{load.buffer}",
            load.dtype,
            affine.substitute(load.index, corner),
            constant(load.index.coefficient(self.inner.name)),
            _rest(self.inner, axis("wide")),
            _rest(self.along, first),
        )

    def turned(self, k: int) -> Expr:
        """A load's element in its block."""
        row = affine.add(axis(self.along.name), affine.scale(axis("high"), -HIGH))
        place = affine.add(axis(self.inner.name), affine.scale(axis("wide"), -1))
        return At(f"t{k}", affine.add(affine.scale(row, WIDE), place))


def _rest(of: Axis, start: Affine) -> Affine:
    return affine.add(constant(of.extent), affine.scale(start, -1))


def _with_axes(nest: Nest, axes: tuple[Axis, ...]) -> Nest:
    return Nest(nest.name, axes, (), (), (), ())


def turned(nest: Nest) -> Turned | None:
    """How to turn a nest's loads, if it has such and reduces nothing."""
    if nest.columns or len(nest.rows) < 2:
        return None
    inner = nest.rows[-1]
    straight = all(s.index.coefficient(inner.name) == 1 for s in nest.stores)
    if not straight or not _long(inner):
        return None
    found: dict[str, list[int]] = {}
    for k, node in enumerate(nest.nodes):
        along = _read_along(nest, node) if isinstance(node, Load) else None
        if along is not None:
            found.setdefault(along.name, []).append(k)
    if not found:
        return None
    best = max(found, key=lambda name: len(found[name]))
    along = next(a for a in nest.rows if a.name == best)
    return Turned(nest, along, tuple(found[best]))


def _long(of: Axis) -> bool:
    return not isinstance(of.extent, int) or of.extent >= LEAST


def _read_along(nest: Nest, load: Load) -> Axis | None:
    """The outer axis along which a load is contiguous, if it steps on the innermost."""
    inner, index = nest.rows[-1].name, load.index
    steps = index.plain(inner) and index.coefficient(inner) not in (0, 1)
    if load.guard is not None or index.data() or not steps:
        return None
    for along in nest.rows[:-1]:
        one = index.coefficient(along.name) == 1
        if one and index.plain(along.name) and _long(along):
            return along
    return None
