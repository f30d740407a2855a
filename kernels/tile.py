"""Reductions whose lanes are rows: an accumulator for each, in tiles of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pirol.compiler import dims
from pirol.compiler.dims import product
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.across import across, corner_at
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.emit import (
    TILE,
    Emitter,
    Passes,
    accumulator,
    argmax_update,
    axes_of,
    cast,
    closure,
    column_loops,
    identity,
    join,
)
from pirol.kernels.kernel import (
    Apply,
    Array,
    At,
    Expr,
    If,
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
from pirol.kernels.nest import Axis, Load, Nest, Reduce, Scalar, Scan, index_of
from pirol.kernels.stages import is_long
from pirol.kernels.turn import reads_along
from pirol.prim import PRIMS

NEAR = 1 << 19  # bytes that stay in a core's own cache
LEAST = 32  # rows of a tile, at least
WIDE = 1024  # and of one that runs along memory, while few sums fill the nearest cache
FEW_SUMS = 2
SHORT = 128  # lanes of a row whose last vector counts
VECTORS = (8, 4)  # lanes
EIGHT = 8  # elements of a long column that a lane takes at once
FEW_TERMS = 32  # columns of no more elements than this are taken whole


def whole_lanes(var: str, stop: Affine, body: tuple[Stmt, ...]) -> tuple[Loop, ...]:
    """A loop whose iterations may run twice: where it is short and the last vector
    would not be full, that one begins earlier."""
    loop = Loop(var, affine.ZERO, stop, body, "lanes")
    last = stop.const
    if stop.terms or not isinstance(last, int) or last > SHORT:
        return (loop,)
    vector = next((v for v in VECTORS if v <= last), 1)
    if last % vector == 0:
        return (loop,)
    whole = replace(loop, stop=constant(last - last % vector))
    return whole, replace(loop, start=constant(last - vector))


def at_hand(nest: Nest) -> bool:
    """Whether an element is read where one is stored: it may be the same memory, and
    no iteration may run twice."""
    stored = {s.index for s in nest.stores}
    return any(isinstance(n, Load) and n.index in stored for n in nest.nodes)


def costly(nest: Nest) -> bool:
    """Whether a costly function is among its nodes."""
    return any(isinstance(n, Scalar) and PRIMS[n.prim].costly for n in nest.nodes)


def in_vectors(var: str, start: Affine, stop: Affine, body: tuple[Stmt, ...]) -> Stmt:
    """Such a loop of any length, all in vectors if it is long enough for one: what is
    left of these is done with some before it. So no function is called for single
    elements, which takes ten times as long."""
    vector = VECTORS[0]
    count = affine.add(stop, affine.scale(start, -1))
    whole = Affine(((affine.Quotient(count, vector), vector),))
    whole = affine.add(start, whole)
    back = Offset(affine.add(stop, constant(-vector)))
    first = Apply("max", (Offset(start), back), "int64", "int64")
    rest = Apply("lt", (Ref("whole"), Offset(stop)), "int64", "bool")
    loop = Loop(var, start, axis("whole"), body, "lanes")
    again = replace(loop, start=axis("last"), stop=stop)
    last = (Let("last", "int64", first), again)
    loops = (Let("whole", "int64", Offset(whole)), loop, If(rest, last))
    return If(Num(True, "bool"), loops)


def row_stores(
    nest: Nest, passes: Passes, have: dict[int, Expr], done: Sequence[int] = ()
) -> list[Stmt]:
    """The row-level stores, all that they need computed on the spot, but for nodes
    that are Lets already."""
    emitter = Emitter(nest, have)
    needed = closure(nest, [s.node for s in passes.row_stores], [*have, *done])
    puts = [emitter.put(s) for s in passes.row_stores]
    return [*emitter.lets(needed), *puts]


@dataclass
class Tile:
    """Some rows as lanes, an accumulator array for each reduction."""

    nest: Nest
    passes: Passes
    lane: str
    stop: Affine

    def __post_init__(self) -> None:
        self.made: set[str] = set()  # the arrays declared so far
        self.size = self.wide() if len(self.passes.passes) < 2 else self.small()

    def wide(self) -> int:
        """How many rows there are, so that lines of memory are read on and on. Chunks
        of rows with costly functions end with TILEs."""
        read = [n for k, n in enumerate(self.nest.nodes) if self.nest.per_element[k]]
        kept = sum(isinstance(n, (Reduce, Scan)) for n in self.nest.nodes)
        along = all(n.index.along(self.lane) for n in read if isinstance(n, Load))
        fits = along and kept <= FEW_SUMS and not costly(self.nest)
        return WIDE if fits else TILE

    def small(self) -> int:
        """How many rows there are, so that a second pass finds what the first read."""
        nodes = self.nest.nodes
        read = sum(
            BITS[n.dtype] // 8
            for n, each in zip(nodes, self.nest.per_element)
            if isinstance(n, Load) and each
        )
        size, columns = TILE, product(a.extent for a in self.nest.columns)
        while (
            isinstance(columns, int) and size > LEAST and size * columns * read > NEAR
        ):
            size //= 2
        return size

    def lanes(self, body: Sequence[Stmt]) -> Loop:
        """A loop over the tile."""
        start = axis("tile")
        stop = affine.add(start, constant(self.size))
        return Loop(self.lane, start, stop, tuple(body), kind="lanes", limit=self.stop)

    def place(self) -> Affine:
        return affine.add(axis(self.lane), affine.scale(axis("tile"), -1))

    def body(self) -> list[Stmt]:
        found, have = self.turned()
        for p, (reduces, _) in enumerate(self.passes.passes):
            found += self.one_pass(p, have)
            have |= {k: self.read(k) for k in reduces}
        if self.passes.row_stores:
            found.append(self.lanes(row_stores(self.nest, self.passes, have)))
        return found

    def turned(self) -> tuple[list[Stmt], dict[int, Expr]]:
        """Blocks of what short rows read, turned so that lanes lie in memory, and the
        elements there; nothing where each is read once and little is done with it."""
        row = next((a for a in self.nest.rows if a.name == self.lane), None)
        much = costly(self.nest) or len(self.passes.passes) > 1
        if row is None or len(self.nest.columns) != 1 or not much:
            return [], {}
        (column,), found, have = self.nest.columns, list[Stmt](), dict[int, Expr]()
        extent = column.extent
        if not isinstance(extent, int) or extent > FEW_TERMS:
            return [], {}
        first = {column.name: affine.ZERO}
        left = affine.add(self.stop, affine.scale(axis("tile"), -1))
        place = affine.add(affine.scale(axis(column.name), self.size), self.place())
        for k, load in enumerate(self.nest.nodes):
            if not isinstance(load, Load) or not reads_along(load, column, row):
                continue
            name = f"rows{k}"
            source = corner_at(f"in{load.buffer}", load.index, self.lane, first)
            to = (name, affine.ZERO, constant(self.size))
            sides = (left, self.size), (constant(extent), extent)
            found.append(Array(name, load.dtype, self.size * extent, "local"))
            found.append(Turn(load.dtype, to, source, *sides))
            have[k] = At(name, place)
        return found, have

    def reduce(self, k: int) -> Reduce | Scan:
        node = self.nest.nodes[k]
        assert isinstance(node, (Reduce, Scan))
        return node

    def kept(self, k: int) -> str:
        terms = product(a.extent for a in self.nest.columns)
        return accumulator(self.reduce(k), terms)

    def read(self, k: int) -> Expr:
        value = At(f"acc{k}", self.place())
        return cast(value, self.kept(k), self.reduce(k).dtype)

    def one_pass(self, p: int, have: dict[int, Expr]) -> list[Stmt]:
        reduces, stores = self.passes.passes[p]
        emitter = Emitter(self.nest, dict(have))
        emitter.scan = lambda k: self.scan(k, emitter)
        needed = closure(self.nest, self.passes.targets(p), have)
        scans = [k for k in needed if isinstance(self.nest.nodes[k], Scan)]
        found = [stmt for k in (*reduces, *scans) for stmt in self.start(k)]
        way, turned = (self.lane, self.size, self.stop), () if scans else stores
        blocks = across(self.nest, *way, needed, turned)
        if blocks is not None:
            emitter.have |= blocks.have()
            needed = closure(self.nest, self.passes.targets(p), emitter.have)
        body = emitter.lets(needed)
        argmax = any(self.reduce(k).kind == "argmax" for k in reduces)
        lines = any(map(self.in_lines, needed))
        if stores or scans or argmax or lines or is_long(body):
            for k in reduces:
                body += self.update(k, emitter)
            columns = [a.name for a in self.nest.columns]
            if blocks is not None:
                body += [blocks.put(emitter, s) for s in stores]
                inner = blocks.around(self.lanes(body))
                return [*found, column_loops(self.nest, [inner], columns[:-1])]
            body += [emitter.put(s) for s in stores]
            return [*found, column_loops(self.nest, [self.lanes(body)], columns)]
        return [*found, *self.reduced(reduces, emitter, body)]

    def in_lines(self, k: int) -> bool:
        """Whether it is a load of lines along the lanes, at places that data name:
        compilers see that they are lines in a loop over the lanes alone."""
        index = index_of(self.nest.nodes[k])
        named = {a for node in index.data() for a in axes_of(self.nest, node)}
        columns = {a.name for a in self.nest.columns}
        lines = index.along(self.lane) and self.lane not in named
        return lines and bool(named & columns)

    def reduced(
        self, reduces: Sequence[int], emitter: Emitter, body: list[Stmt]
    ) -> list[Stmt]:
        """The loops of a pass that only reduces, a few elements at a time in registers.

        The innermost columns, if few, are run through for each lane; else eight of the
        last column are. What is left of eight is added one by one.
        """
        inner, outer = self.few_columns()
        names = [a.name for a in outer]
        if not outer or inner:
            some = self.in_registers(reduces, emitter, body, inner)
            return [column_loops(self.nest, [some], names)]
        last, ones = outer[-1], [*body]
        eights = dims.mul(dims.floordiv(last.extent, EIGHT), EIGHT)
        place = affine.add(axis("eight"), axis("each"))
        block = [Let(last.name, "int64", Offset(place)), *body]
        some = self.in_registers(reduces, emitter, block, [Axis("each", EIGHT, True)])
        for k in reduces:
            ones += self.update(k, emitter)
        start, stop = constant(eights), constant(last.extent)
        loops = [
            Loop("eight", affine.ZERO, start, (some,), step=EIGHT),
            Loop(last.name, start, stop, (self.lanes(ones),)),
        ]
        whole = If(Num(True, "bool"), tuple(loops))
        return [column_loops(self.nest, [whole], names[:-1])]

    def few_columns(self) -> tuple[list[Axis], list[Axis]]:
        """The innermost columns that are run through for each lane, and the others."""
        columns, count, terms = self.nest.columns, 0, 1
        while count < len(columns):
            extent = columns[-1 - count].extent
            if not isinstance(extent, int) or terms * extent > FEW_TERMS:
                break
            count, terms = count + 1, terms * extent
        at = len(columns) - count
        return list(columns[at:]), list(columns[:at])

    def in_registers(
        self,
        reduces: Sequence[int],
        emitter: Emitter,
        body: Sequence[Stmt],
        inner: Sequence[Axis],
    ) -> Stmt:
        """Lanes that each reduce some elements, and then join their accumulators."""
        before: list[Stmt] = []
        after: list[Stmt] = []
        joined: list[Stmt] = []
        for k in reduces:
            node, wide, name = self.reduce(k), self.kept(k), f"part{k}"
            before.append(Var(name, node.dtype, identity(node.kind, node.dtype)))
            value = emitter.ref(node.args[0])
            joined.append(Set(name, join(node.kind, Ref(name), value, node.dtype)))
            part, old = cast(Ref(name), node.dtype, wide), At(f"acc{k}", self.place())
            after.append(Put(f"acc{k}", self.place(), join(node.kind, old, part, wide)))
        loops: tuple[Stmt, ...] = (*body, *joined)
        for column in reversed(inner):
            stop = constant(column.extent)
            loops = (Loop(column.name, affine.ZERO, stop, loops),)
        return self.lanes([*before, *loops, *after])

    def start(self, k: int) -> list[Stmt]:
        node = self.reduce(k)
        if node.kind != "argmax":
            first = identity(node.kind, self.kept(k))
            return self.filled(f"acc{k}", self.kept(k), first)
        of = self.nest.nodes[node.args[0]].dtype
        return [
            *self.filled(f"best{k}", of, identity("argmax", of)),
            *self.filled(f"acc{k}", "int64", Num(-1, "int64")),
        ]

    def filled(self, name: str, dtype: str, value: Expr) -> list[Stmt]:
        fill = self.lanes([Put(name, self.place(), value)])
        if name in self.made:
            return [fill]
        self.made.add(name)
        return [Array(name, dtype, self.size, "local"), fill]

    def scan(self, k: int, emitter: Emitter) -> list[Stmt]:
        value = Let(f"v{k}", self.reduce(k).dtype, self.read(k))
        return [*self.update(k, emitter), value]

    def update(self, k: int, emitter: Emitter) -> list[Stmt]:
        node, place = self.reduce(k), self.place()
        given = [emitter.ref(a) for a in node.args]
        old = At(f"acc{k}", place)
        if node.kind != "argmax":
            value = cast(given[0], node.dtype, self.kept(k))
            return [Put(f"acc{k}", place, join(node.kind, old, value, self.kept(k)))]
        of = self.nest.nodes[node.args[0]].dtype
        best, index = argmax_update(
            At(f"best{k}", place), old, given[0], given[1], given[2], of
        )
        return [
            Let(f"new{k}", "int64", index),
            Put(f"best{k}", place, best),
            Put(f"acc{k}", place, Ref(f"new{k}")),
        ]
