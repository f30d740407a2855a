"""Schedule for windows that overlap (pooling, depthwise conv): a padded plane first.

What the windows read is written once, padding included, into scratch; its guards are
then gone, and the taps are read at fixed distances. Where all steps are 1 the lanes run
along the whole plane, so that short lines fill vectors too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.emit import Emitter, Passes, closure, identity, join, unravel
from pirol.kernels.kernel import (
    Array,
    At,
    Expr,
    Kernel,
    Let,
    Loop,
    Put,
    Ref,
    Set,
    Stmt,
    Var,
)
from pirol.kernels.nest import Axis, Index, Load, Nest, Node, Reduce
from pirol.kernels.tile import row_stores

MOST = 64  # taps that are run through for each lane
WORTH = 32768  # taps that pay for a thread


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
    def overlaps(self) -> bool:
        """Whether neighbouring windows share places."""
        assert isinstance(self.tap.extent, int)
        return self.step <= (self.tap.extent - 1) * self.reach


def windows(nest: Nest) -> Windows | None:
    """A nest whose only reduction is over overlapping windows, else None."""
    found = [k for k, n in enumerate(nest.nodes) if isinstance(n, Reduce)]
    if len(found) != 1 or nest.in_order or not nest.columns:
        return None
    taps = product(a.extent for a in nest.columns)
    pairs = list(zip(reversed(nest.rows), reversed(nest.columns)))
    if not isinstance(taps, int) or taps > MOST or len(nest.rows) <= len(nest.columns):
        return None
    reduce = nest.nodes[found[0]]
    assert isinstance(reduce, Reduce)
    for source in closure(nest, reduce.args, ()):
        load = nest.nodes[source]
        if isinstance(load, Load):
            sides = [_side(load.index, row, tap) for row, tap in reversed(pairs)]
            some = [s for s in sides if s is not None]
            if len(some) == len(sides) and any(s.overlaps for s in some):
                return _packed(nest, found[0], some)
    return None


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
            if same and dims.equal(step, 0) is False and math.gcd(a, b) == 1:
                return Side(row, tap, a, b)
    return None


def _packed(nest: Nest, reduce: int, sides: Sequence[Side]) -> Windows | None:
    """With the outermost node that depends on places alone, and no load on more."""
    of = nest.nodes[reduce]
    todo, chosen = list(of.args) if isinstance(of, Reduce) else [], set[int]()
    rows = {s.row.name for s in sides}
    while todo:
        k = todo.pop()
        inside = [nest.nodes[j] for j in closure(nest, [k], ())]
        axes = set[str]().union(*(i.axes() for n in inside for i in _indices(n)))
        if not axes & rows:
            continue
        moved = [[_moved(i, sides) for i in _indices(n)] for n in inside]
        if all(i is not None for some in moved for i in some):
            chosen.add(k)
            continue
        if not nest.arguments(nest.nodes[k]) or isinstance(nest.nodes[k], Load):
            return None
        todo += nest.arguments(nest.nodes[k])
    (only,) = chosen if len(chosen) == 1 else (None,)
    return None if only is None else Windows(nest, reduce, only, tuple(sides))


def _indices(node: Node) -> list[Affine]:
    match node:
        case Load(_, index, _, _) | Index(index, _):
            return [index]
    return []


def _moved(index: Affine, sides: Sequence[Side]) -> Affine | None:
    """The index as a function of places, if it is one."""
    for s in sides:
        if not (index.plain(s.row.name) and index.plain(s.tap.name)):
            return None
        step, reach = (index.coefficient(a.name) for a in (s.row, s.tap))
        unit = dims.floordiv(step, s.step)
        exact = dims.equal(dims.mul(unit, s.step), step) is True
        if not exact or dims.equal(dims.mul(unit, s.reach), reach) is not True:
            return None
        gone = {s.row.name: affine.ZERO, s.tap.name: affine.ZERO}
        index = affine.substitute(index, gone)
        index = affine.add(index, affine.scale(axis(s.place), unit))
    return index


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
        dtype = self.nest.nodes[self.source].dtype
        plane = product(s.extent for s in self.sides)
        item = BITS[dtype] // 8
        bytes_ = dims.mul(dims.floordiv(dims.add(dims.mul(plane, item), 63), 64), 64)
        of = self.nest.nodes[self.reduce].dtype
        arrays: list[Stmt] = [Array("plane", dtype, 0, "scratch")]
        scratch = bytes_
        body = [*unravel([a.name for a in outer], self.nest, "r"), self.pack()]
        if self.flat:
            arrays.append(Array("totals", of, 0, "scratch", bytes_))
            scratch = dims.add(bytes_, dims.mul(plane, BITS[of] // 8))
            body += [self.totals(), self.lines([], At("totals", self.at([])))]
        else:
            taps = self.taps(self.at_tap)
            body.append(self.lines(taps, Ref("total")))
        loop = Loop("r", axis("begin"), axis("end"), tuple(body), kind="rows")
        work = dims.mul(plane, product(a.extent for a in self.nest.columns))
        return Kernel(
            self.nest.name,
            self.nest.inputs,
            self.nest.outputs,
            (*arrays, loop),
            product(a.extent for a in outer),
            dims.add(dims.floordiv(WORTH, dims.maximum(work, 1)), 1),
            scratch,
        )

    @property
    def flat(self) -> bool:
        """Whether the plane is walked as one line."""
        return len(self.sides) > 1 and all(s.step == 1 for s in self.sides)

    def pack(self) -> Stmt:
        """The plane, padding included."""
        nodes = tuple(map(self.placed, self.nest.nodes))
        nest = replace(self.nest, nodes=nodes)
        lets = Emitter(nest).lets(closure(nest, [self.source], ()))
        put = Put(
            "plane",
            self.flat_place([axis(s.place) for s in self.sides]),
            Ref(f"v{self.source}"),
        )
        inner: Stmt = Let("one", "int64", Ref("r"))
        for k, s in enumerate(reversed(self.sides)):
            kind = "serial" if k else "lanes"
            body = (inner,) if k else (*lets, put)
            inner = Loop(s.place, affine.ZERO, constant(s.extent), body, kind)
        return inner

    def placed(self, node: Node) -> Node:
        """The node at places, where it is one of those packed."""
        moved = [_moved(i, self.sides) for i in _indices(node)]
        if not moved or moved[0] is None:
            return node
        if isinstance(node, Load):
            return replace(node, index=moved[0])
        assert isinstance(node, Index)
        return replace(node, value=moved[0])

    def flat_place(self, at: Sequence[Affine]) -> Affine:
        """The element of the plane at some places."""
        return affine.linear(at, tuple(s.extent for s in self.sides))

    def at(self, taps: Sequence[Affine]) -> Affine:
        """The element of the plane where the loops stand."""
        rows = [affine.scale(axis(s.row.name), s.step) for s in self.sides]
        return self.flat_place([affine.add(r, t) for r, t in zip(rows, taps)] or rows)

    @property
    def reached(self) -> list[Affine]:
        """How far the taps lie from the first."""
        return [affine.scale(axis(s.tap.name), s.reach) for s in self.sides]

    @property
    def at_tap(self) -> Affine:
        """The element of the plane that a row's tap reads."""
        return self.at(self.reached)

    def taps(self, place: Affine) -> list[Stmt]:
        """The reduction of one lane, as `total`."""
        node = self.nest.nodes[self.reduce]
        assert isinstance(node, Reduce)
        emitter = Emitter(self.nest, {self.source: At("plane", place)})
        lets = emitter.lets(closure(self.nest, node.args, emitter.have))
        value = emitter.ref(node.args[0])
        joined = Set("total", join(node.kind, Ref("total"), value, node.dtype))
        body: tuple[Stmt, ...] = (*lets, joined)
        for a in reversed(self.nest.columns):
            body = (Loop(a.name, affine.ZERO, constant(a.extent), body),)
        return [Var("total", node.dtype, identity(node.kind, node.dtype)), *body]

    def totals(self) -> Stmt:
        """The reductions along the whole plane, those between the lines too."""
        place = affine.add(axis("j"), self.flat_place(self.reached))
        last = [dims.sub(s.row.extent, 1) for s in self.sides]
        stop = affine.add(self.flat_place([constant(n) for n in last]), constant(1))
        put = Put("totals", axis("j"), Ref("total"))
        return Loop("j", affine.ZERO, stop, (*self.taps(place), put), "lanes")

    def lines(self, before: Sequence[Stmt], total: Expr) -> Stmt:
        """What is stored, line by line."""
        stores = row_stores(self.nest, Passes(self.nest), {self.reduce: total})
        body: tuple[Stmt, ...] = (*before, *stores)
        for k, s in enumerate(reversed(self.sides)):
            kind = "serial" if k else "lanes"
            extent = constant(s.row.extent)
            body = (Loop(s.row.name, affine.ZERO, extent, body, kind),)
        return body[0]
