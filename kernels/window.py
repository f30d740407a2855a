"""Schedule for windows that overlap (pooling, depthwise conv): a padded plane first.

What the windows read is written once, padding included, into scratch; its guards are
then gone, and the taps are read at fixed distances. Places with one remainder by the
step lie together, so that the lanes run along the whole plane, and short lines fill
vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

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
    grain,
    identity,
    in_scratch,
    join,
    unravel,
)
from pirol.kernels.kernel import (
    At,
    Expr,
    Fetch,
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
    Var,
)
from pirol.kernels.nest import Axis, Load, Nest, Node, Reduce, index_of, with_index
from pirol.kernels.tile import at_hand, row_stores, whole_lanes

MOST = 64  # taps that are run through for each lane
DEALT = (2, 3, 4)  # steps of which compilers take vectors of elements apart
KEPT = 1 << 14  # bytes of a plane's lines that are all read before any is dealt out
AHEAD = 1 << 18  # bytes of a plane of the input that is fetched while another is read
LINE = 64  # bytes that come into a cache together
LONG = 24  # elements of lines that fill vectors
FEW = 25  # taps


@dataclass(frozen=True)
class Side:
    """An axis of the plane: place = row * step + tap * reach."""

    row: Axis
    tap: Axis
    step: int
    reach: int

    @property
    def place(self) -> str:
        """The variable of a place."""
        return f"p_{self.row.name}"

    @property
    def extent(self) -> Dim:
        """How many places there are."""
        assert isinstance(self.tap.extent, int)
        last = dims.mul(dims.sub(self.row.extent, 1), self.step)
        return dims.add(last, (self.tap.extent - 1) * self.reach + 1)

    @property
    def length(self) -> Dim:
        """Places with one remainder by the step, at most."""
        return dims.ceildiv(self.extent, self.step)

    @property
    def overlaps(self) -> bool:
        """Whether neighbouring windows share places."""
        assert isinstance(self.tap.extent, int)
        return self.step <= (self.tap.extent - 1) * self.reach


def windows(nest: Nest) -> Windows | None:
    """A nest whose only reduction is over overlapping windows, else None."""
    total = Passes(nest).total
    if total is None or nest.in_order:
        return None
    taps = product(a.extent for a in nest.columns)
    if not isinstance(taps, int) or taps > MOST:
        return None
    for source in closure(nest, nest.arguments(nest.nodes[total]), ()):
        load = nest.nodes[source]
        if isinstance(load, Load):
            sides = _sides(nest, load.index)
            if sides is not None and any(s.overlaps for s in sides):
                return _packed(nest, total, sides)
    return None


def _sides(nest: Nest, index: Affine) -> list[Side] | None:
    """Each tap axis with the row axis that it goes along, and the rows inside those."""
    found: dict[Axis, Side] = {}
    index = _whole_numbers(index)
    for tap in nest.columns:
        sides = [s for row in nest.rows if (s := _side(index, row, tap))]
        if not sides:
            return None
        side = min(sides, key=lambda s: s.step + s.reach)
        found[side.row] = side
    if len(found) != len(nest.columns):
        return None
    first = min(map(nest.rows.index, found))
    if first == 0:  # nothing to share out
        return None
    return [found.get(row) or _whole(row) for row in nest.rows[first:]]


def _whole(row: Axis) -> Side:
    """A row axis without a window."""
    return Side(row, Axis(f"no_{row.name}", 1, True), 1, 0)


def _whole_numbers(index: Affine) -> Affine:
    """The index with what its quotients are of in their place: the same places, where
    it goes by rows and taps together."""
    total = constant(index.const)
    for atom, coefficient in index.terms:
        of = atom.of if isinstance(atom, affine.Quotient) else Affine(((atom, 1),))
        total = affine.add(total, affine.scale(of, coefficient))
    return total


def _side(index: Affine, row: Axis, tap: Axis) -> Side | None:
    """How a row axis and a tap axis make places, by what they are to an index."""
    step, reach = (index.coefficient(a.name) for a in (row, tap))
    if not (isinstance(step, int) and isinstance(reach, int) and step > 0 < reach):
        return _symbolic(step, reach, row, tap)
    unit = math.gcd(step, reach)
    return Side(row, tap, step // unit, reach // unit)


def _symbolic(step: Dim, reach: Dim, row: Axis, tap: Axis) -> Side | None:
    """Where one coefficient is a small multiple of the other."""
    for a in range(1, 9):
        for b in range(1, 9):
            same = dims.equal(dims.mul(step, b), dims.mul(reach, a)) is True
            if same and dims.equal(step, 0) is not True and math.gcd(a, b) == 1:
                return Side(row, tap, a, b)
    return None


def _packed(nest: Nest, reduce: int, sides: Sequence[Side]) -> Windows | None:
    """With the outermost node that depends on places alone, and no load on more."""
    todo, chosen = [*nest.arguments(nest.nodes[reduce])], set[int]()
    rows = {s.row.name for s in sides}
    while todo:
        k = todo.pop()
        if not axes_of(nest, k) & rows:
            continue
        inside = (index_of(nest.nodes[j]) for j in closure(nest, [k], ()))
        if all(_moved(index, sides) is not None for index in inside):
            chosen.add(k)
            continue
        if not nest.arguments(nest.nodes[k]) or isinstance(nest.nodes[k], Load):
            return None
        todo += nest.arguments(nest.nodes[k])
    if len(chosen) != 1:
        return None
    return Windows(nest, reduce, chosen.pop(), tuple(sides))


def _moved(index: Affine, sides: Sequence[Side]) -> Affine | None:
    """The index as a function of places, if it is one."""
    for s in sides:
        row, tap, place = s.row.name, s.tap.name, axis(s.place)
        if not (index.plain(row) and index.plain(tap)):
            if s.step > 1:
                return None
            taken = affine.add(place, affine.scale(axis(tap), -s.reach))
            index = affine.substitute(index, {row: taken})
            if tap in index.axes():
                return None
            continue
        step, reach = (index.coefficient(name) for name in (row, tap))
        unit = dims.floordiv(step, s.step)
        exact = dims.equal(dims.mul(unit, s.step), step) is True
        if not exact or dims.equal(dims.mul(unit, s.reach), reach) is not True:
            return None
        index = affine.substitute(index, {row: affine.ZERO, tap: affine.ZERO})
        index = affine.add(index, affine.scale(place, unit))
    return index


def _part(side: Side) -> Affine:
    """The remainder of a place by the step."""
    return axis(f"{side.place}_part") if side.step > 1 else affine.ZERO


def _number(side: Side, part: int) -> Affine:
    """A place from its remainder and its number among those of that remainder."""
    return affine.add(affine.scale(axis(f"{side.place}_at"), side.step), constant(part))


def _over_parts(side: Side, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """A loop over the remainders of places."""
    if side.step == 1:
        return body
    return (Loop(f"{side.place}_part", affine.ZERO, constant(side.step), body),)


def _over(side: Side, body: Sequence[Stmt], kind: str) -> tuple[Loop, ...]:
    """A loop over the places of a remainder."""
    var, stop = f"{side.place}_at", constant(side.extent)
    if side.step > 1:
        first = affine.scale(_part(side), -1)
        left = affine.add(constant(dims.add(side.extent, side.step - 1)), first)
        stop = Affine(((affine.Quotient(left, side.step), 1),))
    place = Offset(affine.add(_number(side, 0), _part(side)))
    body = (Let(side.place, "int64", place), *body)
    if kind == "lanes":
        return whole_lanes(var, stop, body)
    return (Loop(var, affine.ZERO, stop, body),)


@dataclass(frozen=True)
class Windows:
    """A nest whose reduction reads node `source` at the places of the sides."""

    nest: Nest
    reduce: int
    source: int
    sides: tuple[Side, ...]

    def kernel(self) -> Kernel:
        """The kernel; a task is one plane."""
        outer = [a for a in self.nest.rows if a not in [s.row for s in self.sides]]
        source, total = (self.nest.nodes[k].dtype for k in (self.source, self.reduce))
        lines = [s.extent for s in self.sides[:-1]] if self.kept else []
        arrays, scratch = in_scratch(
            [
                ("plane", source, product(self.shape)),
                *([] if self.by_lines else [("totals", total, self.line)]),
                *(
                    [("row", source, product((*lines, self.width)))]
                    if self.dealt
                    else []
                ),
            ]
        )
        body = (
            *unravel([a.name for a in outer], self.nest, "r"),
            *self.pack(),
            *(() if self.by_lines else self.totals()),
            *self.lines(),
        )
        loop = Loop("r", axis("begin"), axis("end"), body, kind="rows")
        work = dims.mul(self.line, product(a.extent for a in self.nest.columns))
        return Kernel(
            self.nest.name,
            self.nest.inputs,
            self.nest.outputs,
            (*arrays, loop),
            product(a.extent for a in outer),
            grain(work),
            scratch,
        )

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The plane's parts, one for each remainder of places by steps, and lines."""
        return (*(s.step for s in self.sides), *(s.length for s in self.sides))

    @property
    def line(self) -> Dim:
        """The elements of one part."""
        return product(s.length for s in self.sides)

    def pack(self) -> tuple[Stmt, ...]:
        """The plane, padding included."""
        nest = replace(self.nest, nodes=tuple(map(self.placed, self.nest.nodes)))
        needed = closure(nest, [self.source], ())
        lets, value = Emitter(nest).lets(needed), Ref(f"v{self.source}")
        fetched, last = self.fetched(nest, needed), self.sides[-1]
        if self.dealt:
            put = Put("row", self.in_row(axis(last.place)), value)
            read = whole_lanes(last.place, constant(last.extent), (*lets, put))
            if self.kept:
                return *self.each_line((*fetched, *read)), *self.each_line(self.deal())
            return self.each_line((*fetched, *read, *self.deal()))
        put = Put("plane", self.at([_part(s) for s in self.sides]), value)
        body = _over_parts(last, _over(last, (*lets, put), "lanes"))
        return self.each_line((*fetched, *body))

    def fetched(self, nest: Nest, needed: Sequence[int]) -> tuple[Stmt, ...]:
        """The line's place in the next plane is brought near: where much is done with
        each element, too few loads are under way at once to hide how far memory is."""
        last, outer = (
            self.sides[-1],
            self.nest.rows[len(self.nest.rows) - len(self.sides) - 1],
        )
        found: list[Stmt] = []
        for load in (nest.nodes[k] for k in needed):
            if not isinstance(load, Load) or not load.index.along(last.place):
                continue
            plane = load.index.coefficient(outer.name)
            item = BITS[load.dtype] // 8
            if isinstance(plane, int) and 0 < plane * item <= AHEAD:
                index = affine.add(load.index, constant(plane))
                fetch = Fetch(f"in{load.buffer}", index)
                stop, step = constant(last.extent), LINE // item
                found.append(Loop(last.place, affine.ZERO, stop, (fetch,), step=step))
        return tuple(found)

    def each_line(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        """Loops over the plane's lines."""
        for s in reversed(self.sides[:-1]):
            body = _over(s, body, "serial")
        for s in reversed(self.sides[:-1]):
            body = _over_parts(s, body)
        return body

    @property
    def dealt(self) -> bool:
        """Whether lines are read as they lie, and then dealt out to the parts."""
        return self.sides[-1].step in DEALT

    @property
    def kept(self) -> bool:
        """Whether all lines are read before any is dealt out: what was stored just now
        is slow to load."""
        size = product((*(s.extent for s in self.sides[:-1]), self.width))
        bits = BITS[self.nest.nodes[self.source].dtype]
        return isinstance(size, int) and size * bits // 8 <= KEPT

    @property
    def width(self) -> Dim:
        """The elements of a line, filled up to the step."""
        return dims.mul(self.sides[-1].length, self.sides[-1].step)

    def in_row(self, place: Affine) -> Affine:
        """Where a place of the line at hand is, among those that were read."""
        if not self.kept:
            return place
        outer = self.sides[:-1]
        at = [*(axis(s.place) for s in outer), place]
        return affine.linear(at, (*(s.extent for s in outer), self.width))

    def deal(self) -> tuple[Stmt, ...]:
        """From a line that was read each remainder to its part."""
        s = self.sides[-1]
        parts = [_part(side) for side in self.sides[:-1]]
        puts = tuple(
            Put(
                "plane",
                self.at([*parts, constant(k)]),
                At("row", self.in_row(_number(s, k))),
            )
            for k in range(s.step)
        )
        return whole_lanes(f"{s.place}_at", constant(s.length), puts)

    def at(self, parts: Sequence[Affine]) -> Affine:
        """The element of the plane where the sides' variables stand."""
        at = [axis(f"{s.place}_at") for s in self.sides]
        return affine.linear([*parts, *at], self.shape)

    def placed(self, node: Node) -> Node:
        """The node at places, where it is one of those packed."""
        moved = _moved(index_of(node), self.sides)
        return node if moved is None else with_index(node, moved)

    def total(self, place: Affine) -> tuple[Stmt, ...]:
        """The reduction of the window that begins at a place of its part."""
        reach = [affine.scale(axis(s.tap.name), s.reach) for s in self.sides]
        taps = {a.name: a.extent for a in self.nest.columns}
        pairs = [affine.divide(r, s.step, taps) for r, s in zip(reach, self.sides)]
        tap = [rest for _, rest in pairs] + [whole for whole, _ in pairs]
        place = affine.add(place, affine.linear(tap, self.shape))
        node = self.nest.nodes[self.reduce]
        assert isinstance(node, Reduce)
        emitter = Emitter(self.nest, {self.source: At("plane", place)})
        lets = emitter.lets(closure(self.nest, node.args, emitter.have))
        value = emitter.ref(node.args[0])
        joined = Set("total", join(node.kind, Ref("total"), value, node.dtype))
        start = Var("total", node.dtype, identity(node.kind, node.dtype))
        return (start, *self.each_tap((*lets, joined)))

    def totals(self) -> tuple[Stmt, ...]:
        """The reductions along the whole plane, those between the lines too."""
        put = Put("totals", axis("j"), Ref("total"))
        last = [constant(dims.sub(s.row.extent, 1)) for s in self.sides]
        stop = affine.add(self.in_line(last), constant(1))
        return whole_lanes("j", stop, (*self.total(axis("j")), put))

    def each_tap(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        """Loops over the taps; one by one where their parts of the plane differ, which
        compilers do not see through while they make vectors."""
        columns = self.nest.columns
        if all(s.step == 1 for s in self.sides):
            for a in reversed(columns):
                body = (Loop(a.name, affine.ZERO, constant(a.extent), body),)
            return body
        found: list[Stmt] = []
        for tap in np.ndindex(*(a.extent for a in columns)):
            at = [Let(a.name, "int64", Num(k, "int64")) for a, k in zip(columns, tap)]
            found.append(If(Num(True, "bool"), (*at, *body)))
        return tuple(found)

    def in_line(self, at: Sequence[Affine]) -> Affine:
        """The place of a row in its part of the plane."""
        return affine.linear(at, tuple(s.length for s in self.sides))

    @property
    def by_lines(self) -> bool:
        """Whether lines are reduced one by one: they fill vectors by themselves, and
        compilers make these of so few taps."""
        extent = self.sides[-1].row.extent
        taps = product(a.extent for a in self.nest.columns)
        fills = not isinstance(extent, int) or extent >= LONG
        return fills and isinstance(taps, int) and taps <= FEW

    def lines(self) -> tuple[Stmt, ...]:
        """What is stored, line by line."""
        rows = self.in_line([axis(s.row.name) for s in self.sides])
        by_lines = self.by_lines
        total: Expr = Ref("total") if by_lines else At("totals", rows)
        have: dict[int, Expr] = {self.reduce: total}
        passes, last = Passes(self.nest), self.sides[-1].row
        before = self.total(rows) if by_lines else ()
        body = (*before, *row_stores(self.nest, passes, have))
        if at_hand(self.nest):
            stop = constant(last.extent)
            body = (Loop(last.name, affine.ZERO, stop, body, "lanes"),)
        else:
            body = whole_lanes(last.name, constant(last.extent), body)
        for s in reversed(self.sides[:-1]):
            body = (Loop(s.row.name, affine.ZERO, constant(s.row.extent), body),)
        return body
