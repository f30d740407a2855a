"""Schedule for transposes: reads along one axis and writes along another, in blocks.

A load that is contiguous along an axis other than the lanes' is first turned, block by
block, into an array in which it is contiguous; a store is turned after, the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, Quotient, axis, constant
from pirol.kernels.emit import Emitter, closure, unravel
from pirol.kernels.kernel import Array, At, Kernel, Loop, Put, Stmt, Turn
from pirol.kernels.nest import Axis, Load, Nest, Store

HIGHS, WIDE = (64, 32, 16), 64  # a block: elements of one axis, and of the lanes'
NEAR = 1 << 14  # bytes of blocks that leave room beside them in the nearest cache
MANY = 16  # blocks of rows for threads to share
LEAST = 8  # a static axis shorter than this is not worth turning
SQUARE = {32: 8, 64: 4}  # the side of what registers turn, by an element's bits


@dataclass(frozen=True)
class Turned:
    """A nest whose lanes run along `inner`; across them, in blocks, `along`.

    The loads (node numbers) that are contiguous along `along` are turned, and the
    stores if `back`.
    """

    nest: Nest
    inner: Axis
    along: Axis
    loads: tuple[int, ...]
    back: bool

    def kernel(self, grain: Dim) -> Kernel:
        """The kernel; `grain`: how many blocks of rows are worth a thread."""
        outer = [a for a in self.nest.rows if a not in (self.inner, self.along)]
        blocks = dims.ceildiv(self.along.extent, self.size)
        axes = (*outer, Axis("high", blocks, False))
        places = unravel([a.name for a in axes], _with_axes(self.nest, axes), "r")
        body = (*places, *self.arrays(), self.block())
        loop = Loop("r", axis("begin"), axis("end"), body, kind="rows")
        rows = product(a.extent for a in axes)
        nest = self.nest
        return Kernel(nest.name, nest.inputs, nest.outputs, (loop,), rows, grain)

    @cached_property
    def size(self) -> int:
        """Rows of a block: many, since memory is read and written in longer pieces."""
        others = [a.extent for a in self.nest.rows if a not in (self.inner, self.along)]
        each = WIDE * sum(BITS[dtype] // 8 for _, dtype in self.kept)

        def fits(high: int) -> bool:
            blocks = dims.mul(dims.ceildiv(self.along.extent, high), product(others))
            few = isinstance(blocks, int) and blocks < MANY
            return high * each <= NEAR and not few

        return next(filter(fits, HIGHS), HIGHS[-1])

    def arrays(self) -> list[Stmt]:
        """A block's memory for each turned load and store."""
        length = self.size * WIDE
        return [Array(name, dtype, length, "local") for name, dtype in self.kept]

    @property
    def kept(self) -> list[tuple[str, str]]:
        """The arrays of blocks and their dtypes."""
        nodes = self.nest.nodes
        blocks = [(f"t{k}", nodes[k].dtype) for k in self.loads]
        if self.back:
            blocks += [(f"o{s.output}", nodes[s.node].dtype) for s in self.nest.stores]
        return blocks

    def block(self) -> Stmt:
        """All blocks along the lanes' axis."""
        inner, start = self.inner, axis("wide")
        turns = [self.turn(k) for k in self.loads]
        emitter = Emitter(self.nest, {k: At(f"t{k}", self.place) for k in self.loads})
        needed = closure(self.nest, [s.node for s in self.nest.stores], emitter.have)
        puts = [self.put(emitter, s) for s in self.nest.stores]
        body = (*emitter.lets(needed), *puts)
        limit = constant(inner.extent)
        stop = affine.add(start, constant(WIDE))
        lanes = Loop(inner.name, start, stop, body, "lanes", limit=limit)
        rows = Loop(
            self.along.name,
            self.first,
            affine.add(self.first, constant(self.size)),
            (lanes,),
            limit=constant(self.along.extent),
        )
        backs = [self.turn_back(s) for s in self.nest.stores] if self.back else []
        return Loop("wide", affine.ZERO, limit, (*turns, rows, *backs), step=WIDE)

    @property
    def first(self) -> Affine:
        """Where a block begins on `along`."""
        return affine.scale(axis("high"), self.size)

    @property
    def place(self) -> Affine:
        """An element's place in its block."""
        row = affine.add(axis(self.along.name), affine.scale(self.first, -1))
        lane = affine.add(axis(self.inner.name), affine.scale(axis("wide"), -1))
        return affine.add(affine.scale(row, WIDE), lane)

    def corner(self, index: Affine) -> Affine:
        """An index at a block's first row and lane."""
        first = {self.along.name: self.first, self.inner.name: axis("wide")}
        return affine.substitute(index, first)

    def turn(self, k: int) -> Stmt:
        """Read a load's block."""
        load = self.nest.nodes[k]
        assert isinstance(load, Load)
        step = constant(load.index.coefficient(self.inner.name))
        source = (f"in{load.buffer}", self.corner(load.index), step)
        to = (f"t{k}", affine.ZERO, constant(WIDE))
        return Turn(load.dtype, to, source, self.wide, self.high)

    def put(self, emitter: Emitter, store: Store) -> Stmt:
        """Store an element, or keep it in its block."""
        if not self.back:
            return emitter.put(store)
        return Put(f"o{store.output}", self.place, emitter.ref(store.node))

    def turn_back(self, store: Store) -> Stmt:
        """Write a store's block."""
        step = constant(store.index.coefficient(self.inner.name))
        to = (f"out{store.output}", self.corner(store.index), step)
        source = (f"o{store.output}", affine.ZERO, constant(WIDE))
        dtype = self.nest.nodes[store.node].dtype
        return Turn(dtype, to, source, self.high, self.wide)

    @property
    def wide(self) -> tuple[Affine, int]:
        """How much of a block there is on the lanes' axis."""
        return _rest(self.inner, axis("wide")), WIDE

    @property
    def high(self) -> tuple[Affine, int]:
        """How much of a block there is across the lanes."""
        return _rest(self.along, self.first), self.size


def _rest(of: Axis, start: Affine) -> Affine:
    return affine.add(constant(of.extent), affine.scale(start, -1))


def _with_axes(nest: Nest, axes: tuple[Axis, ...]) -> Nest:
    return Nest(nest.name, axes, (), (), (), ())


def turned(nest: Nest) -> Turned | None:
    """How to turn a nest's loads, if it has such and reduces nothing.

    Where most accesses run along the axis that they are turned from, the lanes run
    along that one: then fewer have to be turned, and what is read is read in order.
    """
    if nest.reduces or len(nest.rows) < 2:
        return None
    inner = nest.rows[-1]
    straight = all(s.index.coefficient(inner.name) == 1 for s in nest.stores)
    if not straight or not is_long(inner):
        return None
    found: dict[str, list[int]] = {}
    for along in nest.rows[:-1]:
        found[along.name] = read_along(nest, along, inner)
    best = max(found, key=lambda name: len(found[name]))
    if not found[best]:
        return None
    along = next(a for a in nest.rows if a.name == best)
    others = read_along(nest, inner, along)
    steps = all(s.index.plain(best) for s in nest.stores)
    if steps and len(found[best]) >= len(others) + len(nest.stores):
        return Turned(nest, along, inner, tuple(others), True)
    return Turned(nest, inner, along, tuple(found[best]), False)


def is_long(of: Axis) -> bool:
    """Whether an axis is worth turning."""
    return not isinstance(of.extent, int) or of.extent >= LEAST


def read_along(nest: Nest, along: Axis, across: Axis) -> list[int]:
    """The loads that are contiguous along one axis and step on the other."""
    loads = ((k, n) for k, n in enumerate(nest.nodes) if isinstance(n, Load))
    return [k for k, n in loads if is_long(along) and reads_along(n, along, across)]


def reads_along(load: Load, along: Axis, across: Axis) -> bool:
    """Whether it is contiguous along one axis and steps on the other."""
    return load.guard is None and lies_along(load.index, along, across)


def lies_along(index: Affine, along: Axis, across: Axis) -> bool:
    """Whether memory runs along one axis, and an index steps on the other."""
    plain = index.plain(across.name) and index.plain(along.name) and not index.data()
    steps = index.coefficient(across.name) not in (0, 1)
    return plain and steps and index.coefficient(along.name) == 1


def turned_tile(
    dtype: str, to: str, tile: str, sizes: tuple[int, int], columns: Affine
) -> Turn:
    """to[column, row] = tile[row, column] of arrays of so many rows and columns, up to
    `columns`, in whole squares."""
    rows, width = sizes
    side = SQUARE[BITS[dtype]]
    squares = Affine(((Quotient(affine.add(columns, constant(side - 1)), side), side),))
    return Turn(
        dtype,
        (to, affine.ZERO, constant(rows)),
        (tile, affine.ZERO, constant(width)),
        (constant(rows), rows),
        (squares, width),
    )
