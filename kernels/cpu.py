"""Schedules for the CPU: Nest -> Kernel.

Seven forms. "Along rows": the lanes are neighbouring rows (pointwise work, reductions
over few or over outer elements). "Along columns": the lanes are one row's elements
(softmax, layer_norm), in as many passes over the row as its reductions need. The
third, for transposes, is in turn.py, the fourth, for contractions, in contract.py, the
fifth, for windows, in window.py, the sixth, for what goes to places that data name, in
scatter.py, the seventh, for contractions of lines that one operand has for all rows, in
along.py. Loads that lie apart are first brought together (gathered.py), of several
short rows at once (short_rows.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.compiler.ir import FLOATS
from pirol.kernels import affine
from pirol.kernels.accumulators import Accumulator
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.along import along_lines
from pirol.kernels.contract import contraction
from pirol.kernels.contract_direct import directly
from pirol.kernels.contract_halves import of_halves
from pirol.kernels.emit import (
    TILE,
    Emitter,
    Passes,
    cast,
    closure,
    column_loops,
    grain,
    identity,
    in_scratch,
    join,
    unravel,
)
from pirol.kernels.gathered import brought_together, lines, scattered, with_gaps
from pirol.kernels.hoisted import hoisted
from pirol.kernels.kernel import (
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
from pirol.kernels.merge import join_short
from pirol.kernels.nest import (
    Axis,
    Load,
    Nest,
    Reduce,
    Scalar,
    Scan,
    plain_sums,
)
from pirol.kernels.peeled import peeled
from pirol.kernels.scatter import scatter
from pirol.kernels.short_rows import short_rows
from pirol.kernels.stages import staged
from pirol.kernels.streamed import streamed
from pirol.kernels.tile import Tile, at_hand, costly, row_stores, whole_lanes
from pirol.kernels.turn import turned
from pirol.kernels.window import windows
from pirol.prim import PRIMS

BLOCK = 1024  # elements added up in their own dtype before a wider total takes them
LINES = 64  # lines of so many elements or fewer, and so many of them, are short
VECTOR = 8  # so few neighbouring rows do not fill a vector
SEVERAL = 8  # of so many, a result takes little beside what it is made of
LONG = 4096  # lanes, of which no task has much more
FEW = 16  # a row of fewer elements is not worth lanes of its own,
FEW_COSTLY = 32  # nor one of fewer with costly functions, read once


def schedule(nest: Nest, near: bool = False) -> Kernel:
    """The CPU kernel of a nest; near: its results are read while they are in cache."""
    kernel = staged(hoisted(peeled(scheduled(nest))))
    return kernel if near or nest.reduces or costly(nest) else streamed(kernel)


def scheduled(nest: Nest) -> Kernel:
    """The kernel by the form that fits."""
    sums = scatter(nest)
    if sums is not None:
        return sums
    tiles = contraction(nest)
    if tiles is not None:
        return directly(of_halves(tiles).turned()).kernel()
    planes = windows(plain_sums(nest))
    if planes is not None:
        return planes.kernel()
    lines = along_lines(nest)
    if lines is not None:
        return lines
    nest = plain_sums(nest)
    if _lanes_in_columns(nest):
        return _AlongColumns(nest).kernel()
    turns = turned(nest)
    if turns is not None:
        return turns.kernel(_work(nest, dims.mul(turns.inner.extent, turns.size)))
    return _along_rows(nest)


def _lanes_in_columns(nest: Nest) -> bool:
    if not nest.columns or nest.in_order:
        return False
    last = nest.columns[-1]
    alone = costly(nest) and len(Passes(nest).passes) == 1
    few = FEW_COSTLY if alone else FEW
    if isinstance(last.extent, int) and last.extent < few:
        return not nest.rows
    if not nest.rows:
        return True
    # What only results read goes through blocks where it lies otherwise (across.py).
    row, every = nest.rows[-1], nest.numbers
    sums = [k for k in every if isinstance(nest.nodes[k], Reduce)]
    read = closure(nest, sums, ())
    if _contiguous(nest, row, read) and not _contiguous(nest, last, read):
        return False
    return _contiguous(nest, last, every) >= _contiguous(nest, row, every)


def _contiguous(nest: Nest, along: Axis, nodes: Iterable[int]) -> int:
    """How many elements loads among some nodes read that run along an axis."""
    loads = [(nest.nodes[k], nest.per_element[k]) for k in nodes]
    return sum(
        nest.reads(n)
        for n, element in loads
        if isinstance(n, Load) and element and n.index.along(along.name)
    )


def _work(nest: Nest, per_row: Dim) -> Dim:
    """Rows that are worth a thread, given the elements of one row."""
    costs = (PRIMS[n.prim].cost for n in nest.nodes if isinstance(n, Scalar))
    return grain(dims.mul(max(1, sum(costs)), dims.maximum(per_row, 1)))


def _along_rows(nest: Nest) -> Kernel:
    nest = _lanes_last(nest)
    if nest.columns:
        nest = join_short(nest, VECTOR)
    rows = nest.rows
    inner = rows[-1] if rows else None
    passes = Passes(nest)
    tiled = any(isinstance(n, (Reduce, Scan)) for n in nest.nodes)
    columns = product(a.extent for a in nest.columns)
    if len(rows) <= 1:
        extent, unit = inner.extent if inner else 1, _unit(nest)
        start, stop = (affine.scale(axis(name), unit) for name in ("begin", "end"))
        limit = constant(extent) if unit > 1 else None
        body = _row_tiles(nest, passes, inner, start, stop, tiled, limit)
        units = dims.ceildiv(extent, unit)
        each = _work(nest, dims.mul(columns, unit))
        return _kernel(nest, tuple(body), units, each)
    assert inner is not None
    apart = not tiled and scattered(nest, inner.name)
    block = short_rows(nest, passes) if apart else None
    outer = rows[:-2] if not tiled and not block and _pairs(rows) else rows[:-1]
    statements = block or _by_rows(nest, passes, outer, tiled)
    each = _work(nest, product(a.extent for a in (*nest.columns, *rows[len(outer) :])))
    lead = tuple((a.name, a.extent) for a in outer)
    count = product(a.extent for a in outer)
    return replace(_kernel(nest, statements, count, each), lead=lead)


def _pairs(rows: Sequence[Axis]) -> bool:
    """Whether the last axis does not fill a vector, and the one before it does: then
    its lanes have a few elements each, which compilers store as vectors."""
    if len(rows) < 3:
        return False
    before, last = (a.extent for a in rows[-2:])
    if not isinstance(last, int) or last >= VECTOR:
        return False
    return not isinstance(before, int) or VECTOR <= before <= LONG


def _lanes_last(nest: Nest) -> Nest:
    """With the rows' axis last along which most is read, where results lie along the
    columns and so in blocks (across.py), or are few beside what is read."""
    rows, columns = nest.rows, nest.columns
    if len(rows) < 2 or not columns:
        return nest
    several = product(a.extent for a in columns)
    few = isinstance(several, int) and several < SEVERAL
    stores = [s for s in nest.stores if few or Passes(nest).per_element(s)]
    if not all(s.index.along(columns[-1].name) for s in stores):
        return nest
    best = max(reversed(rows), key=lambda a: _contiguous(nest, a, nest.numbers))
    return replace(nest, axes=(*(a for a in nest.axes if a is not best), best))


def _by_rows(
    nest: Nest, passes: Passes, outer: Sequence[Axis], tiled: bool
) -> tuple[Stmt, ...]:
    """The rows of the outer axes, one after the other."""
    body = unravel([a.name for a in outer], nest, "r")
    lane, *inner = nest.rows[len(outer) :]
    if inner:
        stores = tuple(row_stores(nest, passes, {}))
        each = Loop(inner[0].name, affine.ZERO, constant(inner[0].extent), stores)
        body.append(
            Loop(lane.name, affine.ZERO, constant(lane.extent), (each,), "lanes")
        )
    else:
        stop = constant(lane.extent)
        body += _row_tiles(nest, passes, lane, affine.ZERO, stop, tiled)
    return (Loop("r", axis("begin"), axis("end"), tuple(body), kind="rows"),)


def _unit(nest: Nest) -> int:
    """How many rows a chunk is a multiple of.

    A library function may differ in the last bit between the lanes of a vector and
    the rest of a loop; so that no chunk's end makes a rest, they end with tiles.
    """
    return TILE if costly(nest) else 1


def _kernel(nest: Nest, body: tuple[Stmt, ...], rows: Dim, each: Dim) -> Kernel:
    return Kernel(nest.name, nest.inputs, nest.outputs, body, rows, each)


def _row_tiles(
    nest: Nest,
    passes: Passes,
    inner: Axis | None,
    start: Affine,
    stop: Affine,
    tiled: bool,
    limit: Affine | None = None,
) -> list[Stmt]:
    """The work of the rows start..stop of the inner axis, in tiles if need be."""
    lane = inner.name if inner else "one"
    tile = Tile(nest, passes, lane, limit or stop)
    if not tiled:
        gaps = with_gaps(nest, lane) if limit is not None else []
        apart = sorted({*scattered(nest, lane), *gaps})
        if not apart:
            same = lines(nest, lane)
            body = tuple(row_stores(nest, passes, {}, same))
            loops: tuple[Stmt, ...] = whole_lanes(lane, stop, body)
            if limit or start != affine.ZERO or at_hand(nest):
                loops = (Loop(lane, start, stop, body, kind="lanes", limit=limit),)
            return [*Emitter(nest).lets(same), *loops]
        body = tuple(brought_together(nest, passes, apart, tile))
        return [Loop("tile", start, stop, body, step=tile.size, limit=limit)]
    statements = tuple(tile.body())
    return [Loop("tile", start, stop, statements, step=tile.size, limit=limit)]


@dataclass
class _AlongColumns:
    """One row at a time; lanes are its elements."""

    nest: Nest

    def kernel(self) -> Kernel:
        self.passes = Passes(self.nest)
        self.emitter = Emitter(self.nest)
        self.scratch = self.choose_scratch()
        rows = [a.name for a in self.nest.rows]
        body = unravel(rows, self.nest, "r")
        arrays, scratch = self.arrays()
        body += arrays
        for p in range(len(self.passes.passes)):
            body += self.one_pass(p)
        body += self.emitter.row_level([s.node for s in self.passes.row_stores])
        body += [self.emitter.put(s) for s in self.passes.row_stores]
        loop = Loop("r", axis("begin"), axis("end"), tuple(body), kind="rows")
        return Kernel(
            self.nest.name,
            self.nest.inputs,
            self.nest.outputs,
            (loop,),
            product(a.extent for a in self.nest.rows),
            _work(self.nest, self.elements()),
            scratch,
            lead=tuple((a.name, a.extent) for a in self.nest.rows),
        )

    def elements(self) -> Dim:
        return product(a.extent for a in self.nest.columns)

    def choose_scratch(self) -> list[int]:
        """Costly nodes that more than one pass needs."""
        times: dict[int, int] = {}
        for p in range(len(self.passes.passes)):
            for k in closure(self.nest, self.passes.targets(p), ()):
                times[k] = times.get(k, 0) + 1
        nodes, per_element = self.nest.nodes, self.nest.per_element
        return [
            k
            for k, node in enumerate(nodes)
            if times.get(k, 0) > 1
            and per_element[k]
            and isinstance(node, Scalar)
            and PRIMS[node.prim].costly
        ]

    def arrays(self) -> tuple[list[Stmt], Dim]:
        nodes, length = self.nest.nodes, self.elements()
        return in_scratch((f"keep{k}", nodes[k].dtype, length) for k in self.scratch)

    def place(self) -> Affine:
        columns = self.nest.columns
        return affine.linear(
            [axis(a.name) for a in columns], tuple(a.extent for a in columns)
        )

    def one_pass(self, p: int) -> list[Stmt]:
        reduces, stores = self.passes.passes[p]
        targets = self.passes.targets(p)
        found = self.emitter.row_level(targets)
        kept = [k for k in self.scratch if k in self.emitter.have]
        needed = closure(self.nest, targets, [*self.emitter.done, *kept])
        body = self.emitter.lets(needed)
        fresh = [k for k in self.scratch if k in needed]
        body += [Put(f"keep{k}", self.place(), Ref(f"v{k}")) for k in fresh]
        found += self.columns(reduces, body, [self.emitter.put(s) for s in stores])
        self.emitter.have |= {k: At(f"keep{k}", self.place()) for k in fresh}
        self.emitter.done.update(reduces)
        return found

    def columns(
        self, reduces: Sequence[int], body: list[Stmt], puts: list[Stmt]
    ) -> list[Stmt]:
        """The loops over the columns, and the reductions' results as Lets."""
        turned = bool(reduces) and not puts and self.turned()
        blocked = not turned and self.blocked(reduces)
        before: list[Stmt] = []
        after: list[Stmt] = []
        combine: list[tuple[str, str, str]] = []
        for k in reduces:
            part = self.part(k)
            body = [*body, *part.step(self.arg(k))]
            combine += part.combine()
            before += part.begin()
            if blocked:
                after.append(self.total(k))
        names = [a.name for a in self.nest.columns[:-1]]
        if turned:
            body = [column_loops(self.nest, body, names)]
        loop = self.lanes([*body, *puts], combine, blocked)
        if not blocked:
            results: list[Stmt] = [
                self.result(k, self.part(k).end(), self.dtype(k)) for k in reduces
            ]
            around = loop if turned else column_loops(self.nest, [loop], names)
            return [*before, around, *results]
        extent = constant(self.nest.columns[-1].extent)
        block = Loop("block", affine.ZERO, extent, (*before, loop, *after), step=BLOCK)
        totals: list[Stmt] = [
            Var(f"acc{k}", self.wide(k), identity(self.kind(k), self.wide(k)))
            for k in reduces
        ]
        results = [self.result(k, Ref(f"acc{k}"), self.wide(k)) for k in reduces]
        return [*totals, column_loops(self.nest, [block], names), *results]

    def part(self, k: int) -> Accumulator:
        return Accumulator(k, self.kind(k), self.dtype(k))

    def kind(self, k: int) -> str:
        node: Any = self.nest.nodes[k]
        return str(node.kind)

    def dtype(self, k: int) -> str:
        return self.nest.nodes[k].dtype

    def arg(self, k: int) -> Expr:
        return self.emitter.ref(self.nest.arguments(self.nest.nodes[k])[0])

    def wide(self, k: int) -> str:
        summed = self.kind(k) == "sum" and self.dtype(k) in FLOATS
        return "float64" if summed else self.dtype(k)

    def blocked(self, reduces: Sequence[int]) -> bool:
        extent, one = self.nest.columns[-1].extent, len(self.nest.columns) == 1
        short = one and isinstance(extent, int) and extent <= BLOCK
        return not short and any(self.wide(k) == "float64" for k in reduces)

    def turned(self) -> bool:
        """Whether the lanes are best the outermost loop: to join the lanes of a vector
        once a row, and not once a short line."""
        *outer, last = self.nest.columns
        lines = product(a.extent for a in outer)
        return bool(outer) and all(
            isinstance(n, int) and 0 < n <= LINES for n in (lines, last.extent)
        )

    def total(self, k: int) -> Stmt:
        wide = self.wide(k)
        part = cast(self.part(k).end(), self.dtype(k), wide)
        return Set(f"acc{k}", join(self.kind(k), Ref(f"acc{k}"), part, wide))

    def result(self, k: int, value: Expr, of: str) -> Stmt:
        return Let(f"v{k}", self.dtype(k), cast(value, of, self.dtype(k)))

    def lanes(self, body: Sequence[Stmt], combine: Any, blocked: bool) -> Loop:
        last = self.nest.columns[-1]
        extent = constant(last.extent)
        if not blocked:
            start, stop, limit = affine.ZERO, extent, None
        else:
            start, limit = axis("block"), extent
            stop = affine.add(start, constant(BLOCK))
        return Loop(
            last.name, start, stop, tuple(body), "lanes", 1, limit, tuple(combine)
        )
