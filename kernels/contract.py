"""Schedule for contractions (matmul, conv): tiles of products, finished while in cache.

The axes that only one operand depends on are the tile's rows ("high"), those of the
other its columns ("wide"), the lanes. A panel of the columns' operand is packed by
evaluating its load, so that a conv needs no image of its windows in memory; the
epilogue reads the tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.emit import (
    Emitter,
    Passes,
    axes_of,
    closure,
    column_loops,
    grain,
    in_scratch,
    unravel,
)
from pirol.kernels.kernel import (
    Apply,
    At,
    Dot,
    Expr,
    If,
    Kernel,
    Let,
    Loop,
    Num,
    Offset,
    Put,
    Ref,
    Set,
    Stmt,
    Turn,
    Var,
)
from pirol.kernels.nest import Axis, Load, Nest, Reduce, Scalar
from pirol.kernels.tile import row_stores
from pirol.prim.contract import COMPILED_IN

BYTES = 256  # of a panel's row: several vectors
UNIT = 6  # rows that are computed at once
ROWS = 132  # the most rows of a tile
WORTH = 1 << 18  # products that pay for a thread
ALL = 1 << 62


def contraction(nest: Nest) -> Contraction | None:
    """How a nest's contraction is cut into tiles; None where it has no two sides."""
    total = Passes(nest).total
    dot = None if total is None else nest.nodes[total]
    if total is None or not isinstance(dot, Reduce) or dot.kind != "dot":
        return None
    factors = nest.nodes[dot.args[0]]
    assert isinstance(factors, Scalar)
    sides = [axes_of(nest, k) for k in factors.args]
    only = [[a for a in nest.rows if a.name in s - t] for s, t in (sides, sides[::-1])]
    if not all(only) or dot.dtype not in COMPILED_IN:
        return None
    lane = _lane(nest)
    right = 1 if lane in only[1] else 0
    if lane not in only[right]:
        return None
    only[right] = [*(a for a in only[right] if a is not lane), lane]
    left = factors.args[1 - right]
    return Contraction(
        nest, total, left, factors.args[right], only[1 - right], only[right]
    )


def _lane(nest: Nest) -> Axis:
    """The row axis along which the first store is contiguous, else the last one."""
    index = nest.stores[0].index
    along = [a for a in nest.rows if index.along(a.name)]
    return (along or nest.rows)[-1]


@dataclass(frozen=True)
class Contraction:
    """A nest with one contraction `dot` of the loads `left` and `right`."""

    nest: Nest
    dot: int
    left: int
    right: int
    high: Sequence[Axis]
    wide: Sequence[Axis]

    def kernel(self) -> Kernel:
        """The kernel; a task is one tile, and those of a panel follow each other."""
        order = (*self.outer, self.blocks("wide"), self.blocks("high"))
        nest = replace(self.nest, axes=order)
        body = [
            *unravel([a.name for a in order], nest, "r"),
            *self.block_ends(),
            self.pack_once(),
            *self.pack_left(),
            self.tile(),
            self.epilogue(),
        ]
        loop = Loop("r", axis("begin"), axis("end"), tuple(body), kind="rows")
        start = Var("packed", "int64", Num(-1, "int64"))
        arrays, scratch = self.arrays()
        return Kernel(
            self.nest.name,
            self.nest.inputs,
            self.nest.outputs,
            (*arrays, start, loop),
            product(a.extent for a in order),
            grain(dims.mul(self.rows * self.width, self.terms), WORTH),
            scratch,
        )

    # ---- sizes ----

    @property
    def dtype(self) -> str:
        """The dtype of the products."""
        return self.nest.nodes[self.dot].dtype

    @property
    def width(self) -> int:
        """The columns of a panel."""
        return int(BYTES * 8 // BITS[self.dtype])

    @property
    def rows(self) -> int:
        """The rows of a tile: a number, so that blocks of rows are alike in size."""
        count = product(a.extent for a in self.high)
        if not isinstance(count, int):
            return ROWS
        each = -(-count // max(1, -(-count // ROWS)))
        return -(-each // UNIT) * UNIT or UNIT

    @property
    def terms(self) -> Dim:
        """How many products an element is the sum of."""
        return product(a.extent for a in self.nest.columns)

    @property
    def outer(self) -> list[Axis]:
        """The axes that both operands depend on, or none."""
        return [a for a in self.nest.rows if a not in (*self.high, *self.wide)]

    def arrays(self) -> tuple[list[Stmt], Dim]:
        """The panel, the tile, and the left rows where they are packed."""
        sizes = {
            "panel": dims.mul(self.terms, self.width),
            "tile": self.rows * self.width,
        }
        if self.left_steps is None:
            sizes["left"] = dims.mul(self.rows, self.terms)
        return in_scratch((name, self.dtype, size) for name, size in sizes.items())

    # ---- blocks ----

    def blocks(self, side: str) -> Axis:
        """The axis of a side's blocks."""
        size, count = self.sides[side]
        blocks = dims.ceildiv(count, size)
        return Axis(f"{side}_block", blocks, False)

    @property
    def sides(self) -> dict[str, tuple[int, Dim]]:
        """For each side: a block's size, and all that there is."""
        return {
            "high": (self.rows, product(a.extent for a in self.high)),
            "wide": (self.width, product(a.extent for a in self.wide)),
        }

    def block_ends(self) -> list[Stmt]:
        """Names for where the task's block begins and ends on each side."""
        found: list[Stmt] = []
        for side, (size, count) in self.sides.items():
            first = affine.scale(axis(f"{side}_block"), size)
            stop = affine.add(first, constant(size))
            found.append(Let(f"{side}_first", "int64", Offset(first)))
            found.append(Let(f"{side}_stop", "int64", _least(stop, constant(count))))
        return found

    def each_column(self, body: Iterable[Stmt]) -> Stmt:
        """A loop over the block's columns, the lanes, with `column` within the panel.

        Several axes are walked in lines of the last one.
        """
        lane, length = self.wide[-1], self.wide[-1].extent
        first, stop = axis("wide_first"), axis("wide_stop")
        if len(self.wide) == 1:
            return Loop(lane.name, first, stop, tuple(body), kind="lanes")
        start = affine.scale(axis("line"), length)
        low = affine.add(first, affine.scale(start, -1))
        high = affine.add(stop, affine.scale(start, -1))
        lines = [
            *unravel([a.name for a in self.wide[:-1]], self.nest, "line"),
            Let("lane_first", "int64", _apply("max", low, affine.ZERO)),
            Let("lane_stop", "int64", _least(high, constant(length))),
            Loop(
                lane.name, axis("lane_first"), axis("lane_stop"), tuple(body), "lanes"
            ),
        ]
        last = affine.add(stop, constant(-1))
        ends = [Affine(((affine.Quotient(e, length), 1),)) for e in (first, last)]
        return Loop("line", ends[0], affine.add(ends[1], constant(1)), tuple(lines))

    @property
    def column(self) -> Affine:
        """The place of a column in its panel."""
        shape = tuple(a.extent for a in self.wide)
        flat = affine.linear([axis(a.name) for a in self.wide], shape)
        return affine.add(flat, affine.scale(axis("wide_first"), -1))

    @property
    def term(self) -> Affine:
        """The number of a product among those summed."""
        shape = tuple(a.extent for a in self.nest.columns)
        return affine.linear([axis(a.name) for a in self.nest.columns], shape)

    # ---- operands ----

    def pack_once(self) -> Stmt:
        """Pack the panel, unless the task before had the same."""
        count = self.blocks("high").extent
        number = Offset(Affine(((affine.Quotient(axis("r"), count), 1),)))
        changed = Apply("ne", (Ref("packed"), number), "int64", "bool")
        return If(changed, (Set("packed", number), *self.clear(), *self.pack()))

    def clear(self) -> list[Stmt]:
        """Zeros where a panel's last vector lies behind the columns."""
        count = self.sides["wide"][1]
        if isinstance(count, int) and count % self.width == 0:
            return []
        width = constant(self.width)
        place = affine.add(affine.scale(axis("k"), self.width), axis("j"))
        zero = Put("panel", place, Num(0, self.dtype))
        columns = Loop("j", _used("wide"), width, (zero,))
        return [Loop("k", affine.ZERO, constant(self.terms), (columns,))]

    def pack(self) -> list[Stmt]:
        """panel[term, column] = the right operand."""
        width = constant(self.width)
        load, flat = self.nest.nodes[self.right], self.flat_steps(self.right, self.wide)
        assert isinstance(load, Load)
        if flat is not None and flat[1] == 1 and flat[0] != 1:
            start = _at(load.index, [*self.nest.columns, *self.wide])
            start = affine.add(start, affine.scale(axis("wide_first"), flat[0]))
            source = (f"in{load.buffer}", start, constant(flat[0]))
            wide, high = (_used("wide"), self.width), (constant(self.terms), ALL)
            return [Turn(load.dtype, ("panel", affine.ZERO, width), source, wide, high)]
        place = affine.add(affine.scale(self.term, self.width), self.column)
        put = Put("panel", place, Ref(f"v{self.right}"))
        lanes = self.each_column([*self.lets(self.right), put])
        names = [a.name for a in self.nest.columns]
        return [column_loops(self.nest, [lanes], names)]

    def lets(self, node: int) -> list[Stmt]:
        """An operand's value."""
        return Emitter(self.nest).lets(closure(self.nest, [node], ()))

    def flat_steps(self, node: int, axes: Sequence[Axis]) -> tuple[Dim, Dim] | None:
        """A load's steps along a side's axes and along the terms, if both are even."""
        load = self.nest.nodes[node]
        assert isinstance(load, Load)
        if load.guard is not None or load.index.data():
            return None
        side, term = _step(load.index, axes), _step(load.index, self.nest.columns)
        return None if side is None or term is None else (side, term)

    @property
    def left_steps(self) -> tuple[Dim, Dim] | None:
        """The left operand's steps where it is read as it lies; None: it is packed."""
        return self.flat_steps(self.left, self.high)

    def pack_left(self) -> list[Stmt]:
        """left[row, term] = the left operand, where it does not lie evenly."""
        if self.left_steps is not None:
            return []
        place = affine.add(affine.scale(self.row, self.terms), self.term)
        put = Put("left", place, Ref(f"v{self.left}"))
        last = self.nest.columns[-1]
        stop = constant(last.extent)
        body = (*self.lets(self.left), put)
        inner: Stmt = Loop(last.name, affine.ZERO, stop, body, kind="lanes")
        names = [a.name for a in self.nest.columns[:-1]]
        inner = column_loops(self.nest, [inner], names)
        return [self.each_row([inner])]

    # ---- the tile ----

    @property
    def row(self) -> Affine:
        """The place of a row in its tile."""
        return affine.add(axis("row"), affine.scale(axis("high_first"), -1))

    def each_row(self, body: Iterable[Stmt]) -> Stmt:
        """A loop over the tile's rows."""
        places = unravel([a.name for a in self.high], self.nest, "row")
        return Loop("row", axis("high_first"), axis("high_stop"), (*places, *body))

    def tile(self) -> Stmt:
        """The products of the tile."""
        load = self.nest.nodes[self.left]
        assert isinstance(load, Load)
        if self.left_steps is None:
            left = ("left", affine.ZERO, constant(self.terms), constant(1))
        else:
            row, term = self.left_steps
            start = _at(load.index, [*self.nest.columns, *self.high])
            start = affine.add(start, affine.scale(axis("high_first"), row))
            left = (f"in{load.buffer}", start, constant(row), constant(term))
        width = constant(self.width)
        return Dot(
            self.dtype,
            ("tile", affine.ZERO, width),
            left,
            ("panel", affine.ZERO, width),
            _used("high"),
            _used("wide"),
            constant(self.terms),
        )

    def epilogue(self) -> Stmt:
        """What is done with each element of the tile."""
        place = affine.add(affine.scale(self.row, self.width), self.column)
        have: dict[int, Expr] = {self.dot: At("tile", place)}
        lanes = self.each_column(row_stores(self.nest, Passes(self.nest), have))
        return self.each_row([lanes])


def _used(side: str) -> Affine:
    """How many rows or columns the task's block has."""
    return affine.add(axis(f"{side}_stop"), affine.scale(axis(f"{side}_first"), -1))


def _apply(prim: str, *args: Affine) -> Expr:
    return Apply(prim, tuple(map(Offset, args)), "int64", "int64")


def _least(a: Affine, b: Affine) -> Expr:
    return _apply("min", a, b)


def _at(index: Affine, axes: Iterable[Axis]) -> Affine:
    """The index where the axes are 0."""
    return affine.substitute(index, {a.name: affine.ZERO for a in axes})


def _step(index: Affine, axes: Sequence[Axis]) -> Dim | None:
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
