"""Schedule for contractions (matmul, conv): tiles of products, finished while in cache.

The axes that only one operand depends on are the tile's rows ("high"), those of the
other its columns ("wide"). A panel of the columns' operand is packed by evaluating its
load; the rows' operand is read one number at a time, which may lie anywhere, so that a
conv needs no image of its windows in memory. The epilogue reads the tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

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
from pirol.kernels.merge import merge_axes
from pirol.kernels.nest import Axis, Const, Nest
from pirol.kernels.operands import (
    even_steps,
    factors_of,
    is_widened,
    load_of,
    places_of,
    run_of_terms,
    shares,
    start_of,
    step_of,
)
from pirol.kernels.tile import at_hand, costly, in_vectors, row_stores
from pirol.kernels.turn import SQUARE, turned_tile

BYTES = 256  # of a panel's row: several vectors
UNIT = 6  # rows that are computed at once
ROWS, FEW = 66, 24  # the most rows of a tile, and those of one of many terms
ACROSS = 96  # the most of one that is turned: whole vectors of rows
TASK = 1 << 24  # products; a task has no more where that leaves it FEW rows
WORTH = 1 << 18  # products that pay for a thread
ALL = 1 << 62
ONE = {"high": "row", "wide": "column"}  # where they are walked one by one


def contraction(nest: Nest) -> Contraction | None:
    """How a nest's contraction is cut into tiles; None where it has no two sides."""
    found = factors_of(nest)
    if found is None:
        return None
    dot, factors = found
    sides = [axes_of(nest, k) for k in factors]
    only = [[a for a in nest.rows if a.name in s - t] for s, t in (sides, sides[::-1])]
    if not all(only):
        return None
    lane = _lane(nest)
    right = 1 if lane in only[1] else 0
    if lane not in only[right]:
        return None
    only[right] = [*(a for a in only[right] if a is not lane), lane]
    left, other = factors[1 - right], factors[right]
    return Contraction(nest, dot, left, other, only[1 - right], only[right])


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
    lanes: str = "wide"  # the side along which results lie in memory

    def turned(self) -> Contraction:
        """With the sides changed where the columns' operand is read in windows that
        share elements: those would be packed again and again, and are read as rows as
        they lie."""
        other = self.exchanged()
        load = load_of(self.nest, self.right)
        shared = shares(load.index, self.wide, self.nest.columns)
        return other if shared and other.left_places is not None else self

    def exchanged(self) -> Contraction:
        """With the sides changed."""
        return replace(
            self,
            left=self.right,
            right=self.left,
            high=self.wide,
            wide=self.high,
            lanes="high",
        )

    def kernel(self) -> Kernel:
        """The kernel; a task is one tile."""
        order = (*self.outer, *self.order)
        nest = replace(self.nest, axes=order)
        body = [
            *unravel([a.name for a in order], nest, "r"),
            *self.block_ends(),
            *self.packing(),
            *self.prepare_left(),
            *self.tile(),
            *self.epilogue(),
        ]
        loop = Loop("r", axis("begin"), axis("end"), tuple(body), kind="rows")
        none = [Var("packed", "int64", Num(-1, "int64"))] if self.panels() else []
        arrays, scratch = self.arrays()
        return Kernel(
            self.nest.name,
            self.nest.inputs,
            self.nest.outputs,
            (*arrays, *self.list_terms(), *none, loop),
            product(a.extent for a in order),
            grain(dims.mul(self.rows * self.width, self.terms), WORTH),
            scratch,
            lead=tuple((a.name, a.extent) for a in self.outer),
        )

    @property
    def order(self) -> tuple[Axis, Axis]:
        """The blocks' axes: tiles of a panel follow each other."""
        return self.blocks("wide"), self.blocks("high")

    # ---- sizes ----

    @property
    def dtype(self) -> str:
        """The dtype of the products."""
        return self.nest.nodes[self.dot].dtype

    @property
    def item(self) -> str:
        """The dtype of what is packed."""
        return self.dtype

    @property
    def width(self) -> int:
        """The columns of a panel."""
        return int(BYTES * 8 // BITS[self.dtype])

    @property
    def rows(self) -> int:
        """The rows of a tile: a number, so that blocks of rows are alike in size."""
        count, most = product(a.extent for a in self.high), self.most
        if not isinstance(count, int):
            return most
        each = -(-count // max(1, -(-count // most)))
        return -(-each // UNIT) * UNIT or UNIT

    @property
    def most(self) -> int:
        """The most rows of a tile."""
        most = ACROSS if self.turns else ROWS
        if isinstance(self.terms, int):
            fit = TASK // (self.width * max(self.terms, 1)) // UNIT * UNIT
            most = min(most, max(FEW, fit))
        return most

    @property
    def terms(self) -> Dim:
        """How many products an element is the sum of."""
        return product(a.extent for a in self.nest.columns)

    @property
    def outer(self) -> list[Axis]:
        """The axes that both operands depend on, or none."""
        return [a for a in self.nest.rows if a not in (*self.high, *self.wide)]

    def arrays(self) -> tuple[list[Stmt], Dim]:
        """The panel, the tile, and the left rows where they are packed, or else their
        places and the terms' where those lie unevenly."""
        found: list[tuple[str, str, Dim]] = [
            *self.panels(),
            ("tile", self.dtype, self.whole_rows * self.width),
        ]
        if self.turns:
            found.append(("across", self.dtype, self.width * self.whole_rows))
        if self.packs_left:
            found.append(("left", self.item, dims.mul(self.rows, self.terms)))
        elif self.left_steps is None:
            found += [
                ("rows_at", "int64", self.rows),
                ("terms_at", "int64", self.terms),
            ]
        return in_scratch(found)

    def panels(self) -> list[tuple[str, str, Dim]]:
        """Arrays for the panel."""
        return [("panel", self.item, dims.mul(self.terms, self.width))]

    @property
    def turns(self) -> bool:
        """Whether results lie in memory across the tile's lines: it is turned before
        it is read, since elements that lie apart are slow to bring together."""
        return self.lanes == "high" and BITS[self.dtype] in SQUARE

    @property
    def whole_rows(self) -> int:
        """The rows of a tile, and what is turned with the last ones."""
        square = SQUARE[BITS[self.dtype]] if self.turns else 1
        return -(-self.rows // square) * square

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

    def each_lane(self, side: str, axes: Sequence[Axis], body: Iterable[Stmt]) -> Stmt:
        """A loop over the block's part of a side, as lanes.

        Several axes are walked in lines of the last one.
        """
        lane, length = axes[-1], axes[-1].extent
        first, stop = axis(f"{side}_first"), axis(f"{side}_stop")
        if len(axes) == 1:
            return Loop(lane.name, first, stop, tuple(body), kind="lanes")
        start = affine.scale(axis("line"), length)
        low = affine.add(first, affine.scale(start, -1))
        high = affine.add(stop, affine.scale(start, -1))
        lines = [
            *self.places(axes[:-1], "line"),
            Let("lane_first", "int64", _apply("max", low, affine.ZERO)),
            Let("lane_stop", "int64", _least(high, constant(length))),
            Loop(
                lane.name, axis("lane_first"), axis("lane_stop"), tuple(body), "lanes"
            ),
        ]
        last = affine.add(stop, constant(-1))
        ends = [Affine(((affine.Quotient(e, length), 1),)) for e in (first, last)]
        return Loop("line", ends[0], affine.add(ends[1], constant(1)), tuple(lines))

    def each_one(self, side: str, axes: Sequence[Axis], body: Iterable[Stmt]) -> Stmt:
        """A loop over the block's part of a side, one behind the other."""
        first, stop, name = axis(f"{side}_first"), axis(f"{side}_stop"), ONE[side]
        return Loop(name, first, stop, (*self.places(axes, name), *body))

    def places(self, axes: Sequence[Axis], flat: str) -> list[Stmt]:
        """Lets for axes from their row-major number."""
        nest = replace(self.nest, axes=tuple(axes))
        return unravel([a.name for a in axes], nest, flat)

    @property
    def term(self) -> Affine:
        """The number of a product among those summed."""
        shape = tuple(a.extent for a in self.nest.columns)
        return affine.linear([axis(a.name) for a in self.nest.columns], shape)

    # ---- operands ----

    def packing(self) -> list[Stmt]:
        """Pack the panel, if any, unless the task before had the same."""
        if not self.panels():
            return []
        count = self.blocks("high").extent
        number = Offset(Affine(((affine.Quotient(axis("r"), count), 1),)))
        changed = Apply("ne", (Ref("packed"), number), "int64", "bool")
        body = (Set("packed", number), *self.clear(), *self.pack())
        return [If(changed, body)]

    def clear(self) -> list[Stmt]:
        """Zeros where a panel's last vector lies behind the columns."""
        count = self.sides["wide"][1]
        if isinstance(count, int) and count % self.width == 0:
            return []
        width = constant(self.width)
        place = affine.add(affine.scale(axis("k"), self.width), axis("j"))
        zero = Put("panel", place, Num(0, self.dtype))
        columns = Loop("j", used_of("wide"), width, (zero,))
        return [Loop("k", affine.ZERO, constant(self.terms), (columns,))]

    def pack(self) -> list[Stmt]:
        """panel[term, column] = the right operand; where the last terms lie one behind
        the other, they are turned."""
        load = load_of(self.nest, self.right)
        run = run_of_terms(self.nest, self.right, self.wide)
        outer = [a.name for a in self.nest.columns[: len(self.nest.columns) - len(run)]]
        if run:
            step, width = step_of(load.index, self.wide), constant(self.width)
            assert step is not None
            start = affine.add(
                start_of(load.index, [*run, *self.wide]),
                affine.scale(axis("wide_first"), step),
            )
            source = (f"in{load.buffer}", start, constant(step))
            to = ("panel", affine.scale(start_of(self.term, run), self.width), width)
            wide = (used_of("wide"), self.width)
            high = (constant(product(a.extent for a in run)), ALL)
            turn = Turn(load.dtype, to, source, wide, high)
            return [column_loops(self.nest, [turn], outer)]
        return [self.gather("panel")]

    def gather(self, array: str) -> Stmt:
        """array[term, column] = the right operand, element by element."""
        node = self.packed(self.right)
        column = affine.add(_flat(self.wide), affine.scale(axis("wide_first"), -1))
        place = affine.add(affine.scale(self.term, self.width), column)
        put = Put(array, place, Ref(f"v{node}"))
        lanes = self.each_lane("wide", self.wide, [*self.lets(node), put])
        return column_loops(self.nest, [lanes], [a.name for a in self.nest.columns])

    def packed(self, node: int) -> int:
        """The node that is packed of a factor: as it is multiplied."""
        return node

    def lets(self, node: int) -> list[Stmt]:
        """An operand's value."""
        return Emitter(self.nest).lets(closure(self.nest, [node], ()))

    @property
    def left_steps(self) -> tuple[Dim, Dim] | None:
        """The left operand's steps where it is read as it lies; None: it is packed."""
        if is_widened(self.nest, self.left):
            return None
        return even_steps(self.nest, self.left, self.high)

    @property
    def left_places(self) -> tuple[Affine, Affine] | None:
        """The left operand's places, if they are sums of a row's and a term's."""
        return places_of(self.nest, self.left)

    @property
    def packs_left(self) -> bool:
        """Whether the left operand is packed for each task."""
        return self.left_steps is None and self.left_places is None

    def list_terms(self) -> list[Stmt]:
        """terms_at[term] = its part of the left operand's places, if uneven."""
        if self.packs_left or self.left_steps is not None:
            return []
        assert self.left_places is not None
        put = Put("terms_at", self.term, Offset(self.left_places[1]))
        names = [a.name for a in self.nest.columns]
        return [column_loops(self.nest, [put], names)]

    def prepare_left(self) -> list[Stmt]:
        """What the left operand needs where it lies unevenly: its rows' places in
        rows_at, or itself packed."""
        if self.left_steps is not None:
            return []
        if self.packs_left:
            return self.pack_left()
        assert self.left_places is not None
        row = affine.add(_flat(self.high), affine.scale(axis("high_first"), -1))
        put = Put("rows_at", row, Offset(self.left_places[0]))
        return [self.each_lane("high", self.high, [put])]

    def pack_left(self) -> list[Stmt]:
        """left[row, term] = the left operand."""
        place = affine.add(affine.scale(self.row, self.terms), self.term)
        node = self.packed(self.left)
        put = Put("left", place, Ref(f"v{node}"))
        last = self.nest.columns[-1]
        stop = constant(last.extent)
        body = (*self.lets(node), put)
        inner: Stmt = Loop(last.name, affine.ZERO, stop, body, kind="lanes")
        names = [a.name for a in self.nest.columns[:-1]]
        inner = column_loops(self.nest, [inner], names)
        return [self.each_one("high", self.high, [inner])]

    # ---- the tile ----

    @property
    def row(self) -> Affine:
        """The place of a row in its tile."""
        return affine.add(axis("row"), affine.scale(axis("high_first"), -1))

    def tile(self) -> list[Stmt]:
        """The products of the tile."""
        load = load_of(self.nest, self.left)
        left = (f"in{load.buffer}", affine.ZERO, affine.ZERO, affine.ZERO)
        tables = ("0", "0")
        if self.packs_left:
            left = ("left", affine.ZERO, constant(self.terms), constant(1))
        elif self.left_steps is None:
            tables = ("rows_at", "terms_at")
        else:
            row, term = self.left_steps
            start = start_of(load.index, [*self.nest.columns, *self.high])
            start = affine.add(start, affine.scale(axis("high_first"), row))
            left = (left[0], start, constant(row), constant(term))
        width = constant(self.width)
        dot = Dot(
            self.item,
            ("tile", affine.ZERO, width),
            left,
            ("panel", affine.ZERO, width),
            used_of("high"),
            used_of("wide"),
            constant(self.terms),
            tables,
        )
        return [dot]

    def epilogue(self) -> list[Stmt]:
        """What is done with each element of the tile, along memory."""
        nest, other = self.finish, "high" if self.lanes == "wide" else "wide"
        names = {a.name for a in (self.wide if self.lanes == "wide" else self.high)}
        along = [a for a in nest.axes if a.name in names]
        rest = [a for a in nest.axes if a.name not in names]
        at = {self.lanes: _flat(along), other: axis(ONE[other])}
        row, column = (
            affine.add(at[side], affine.scale(axis(f"{side}_first"), -1))
            for side in ("high", "wide")
        )
        lines, step = (column, self.whole_rows) if self.turns else (row, self.width)
        place = affine.add(affine.scale(lines, step), row if self.turns else column)
        element = At("across" if self.turns else "tile", place)
        have: dict[int, Expr] = {self.dot: element}
        body = tuple(row_stores(nest, Passes(nest), have))
        if len(along) == 1 and costly(nest) and not at_hand(nest):
            first, stop = (axis(f"{self.lanes}_{end}") for end in ("first", "stop"))
            loops: Stmt = in_vectors(along[0].name, first, stop, body)
        else:
            loops = self.each_lane(self.lanes, along, body)
        found = self.each_one(other, rest, [loops])
        if not self.turns:
            return [found]
        rows, columns = (self.whole_rows, self.width), used_of("wide")
        return [turned_tile(self.dtype, "across", "tile", rows, columns), found]

    @cached_property
    def finish(self) -> Nest:
        """The nest of what follows the products, each side's axes merged."""
        nodes = self.nest.nodes
        needed = closure(self.nest, [s.node for s in self.nest.stores], [self.dot])
        kept = (n if k in needed else Const(0, n.dtype) for k, n in enumerate(nodes))
        axes = (*self.wide, *self.high)
        rest = replace(self.nest, nodes=tuple(kept), axes=axes)
        return merge_axes(rest, {a.name for a in self.wide})


def used_of(side: str) -> Affine:
    """How many rows or columns the task's block has."""
    return affine.add(axis(f"{side}_stop"), affine.scale(axis(f"{side}_first"), -1))


def _flat(axes: Sequence[Axis]) -> Affine:
    """The row-major number of where the axes stand."""
    return affine.linear([axis(a.name) for a in axes], tuple(a.extent for a in axes))


def _apply(prim: str, *args: Affine) -> Expr:
    return Apply(prim, tuple(map(Offset, args)), "int64", "int64")


def _least(a: Affine, b: Affine) -> Expr:
    return _apply("min", a, b)
