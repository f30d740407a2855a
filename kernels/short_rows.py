"""Several short rows at once, whose loads lie apart: all are first brought together.

A row of 6 would leave most of a vector empty, and what was stored one by one is slow to
load as a vector just then. So a block of rows is brought into arrays, row by row, and
what is done with the elements goes along the arrays, over the rows' ends:

    for (row = r; row < r + 10; ++row)
      for (i = 0; i < 6; ++i)  near6[..] = in0[v5 + ..];
    for (at = 0; at < 64; ++at)  ..near6[at]..

What is the same for all rows, such as the places of a window's elements, is computed
once, before the first block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pirol.compiler.dims import Dim
from pirol.kernels import affine
from pirol.kernels.affine import Affine, Data, Quotient, axis, constant
from pirol.kernels.emit import (
    Emitter,
    Passes,
    axes_of,
    cast,
    closure,
    unravel,
)
from pirol.kernels.gathered import levels, needed
from pirol.kernels.kernel import Array, At, Expr, Let, Loop, Put, Stmt
from pirol.kernels.nest import Const, Index, Load, Nest, index_of
from pirol.kernels.tile import SHORT

BLOCK = 64  # lanes of a block, if a row has no more: what they need stays in L1
WHOLE = 64  # lanes of the widest vectors, of bytes: others are fewer, and divide it
NARROW = 2**31  # places below it are kept in 32 bits: vectors of more of them


def short_rows(nest: Nest, passes: Passes) -> tuple[Stmt, ...] | None:
    """The statements for the rows begin..end of all but the last axis; None where the
    last one is not short."""
    *outer, last = nest.rows
    if not outer or not isinstance(last.extent, int) or not 0 < last.extent <= SHORT:
        return None
    return _Block(nest, passes, last.name, last.extent).statements()


@dataclass
class _Block:
    """About BLOCK lanes of whole rows; `kept` says of which dtype a node's array is."""

    nest: Nest
    passes: Passes
    lane: str
    width: int

    def __post_init__(self) -> None:
        self.kept: dict[int, str] = {}
        self.made: list[Stmt] = []
        self.rows = max(1, BLOCK // self.width)
        self.stored = [s.node for s in self.passes.row_stores]
        self.used = closure(self.nest, self.stored, ())

    def statements(self) -> tuple[Stmt, ...]:
        near = [k for k in self.used if self.apart(k)]
        same = {k for k in self.used if axes_of(self.nest, k) == {self.lane}}
        begin, here = axis("begin"), axis("r")
        before = self.stages([k for k in near if k in same], begin)
        before += self.computed(self.asked(same), begin)
        body = self.stages([k for k in near if k not in same], here)
        body += self.computed(self.stored, here)
        body.append(self.stores(here))
        loop = Loop("r", begin, axis("end"), tuple(body), "rows", self.rows)
        return (*self.made, *before, loop)

    def apart(self, k: int) -> bool:
        """Whether a node is told by where the loops stand, or by data."""
        node = self.nest.nodes[k]
        index = index_of(node)
        return isinstance(node, (Load, Index)) and bool(index.axes() or index.data())

    def asked(self, same: set[int]) -> list[int]:
        """What others read of the nodes that are the same for all rows."""
        others = [k for k in self.used if k not in same]
        read = {a for k in others for a in self.nest.arguments(self.nest.nodes[k])}
        return sorted(same & (read | {*self.stored}))

    def stages(self, near: Sequence[int], first: Affine) -> list[Stmt]:
        """What lies apart, into arrays, those first that need none of the others."""
        found: list[Stmt] = []
        for level in levels(self.nest, near):
            found += self.computed(needed(self.nest, level), first)
            found.append(self.brought(level, first))
        return found

    def computed(self, nodes: Sequence[int], first: Affine) -> list[Stmt]:
        """What is computed of the arrays, into others; on to a whole vector, where what
        lies behind the last lane may be any number: a library function may give other
        bits in what is left of a loop."""
        fresh = [k for k in dict.fromkeys(nodes) if k not in self.kept]
        if not fresh:
            return []
        emitter = Emitter(self.nest, self.have(axis("at")))
        here = closure(self.nest, fresh, emitter.have)
        body = emitter.lets(here)
        fresh = sorted({*fresh, *self.read_later(here)})
        body += [self.put(k, axis("at"), emitter.ref(k)) for k in fresh]
        rest = affine.add(self.left(first), constant(WHOLE - 1))
        whole = Affine(((Quotient(rest, WHOLE), WHOLE),))
        return [self.flat(body, constant(self.length), whole)]

    def read_later(self, here: Sequence[int]) -> list[int]:
        """What is stored, or others read, of the nodes that are computed here."""
        nodes = self.nest.nodes
        others = [k for k in self.used if k not in here and k not in self.kept]
        read = {a for k in others for a in self.nest.arguments(nodes[k])}
        read |= {*self.stored}
        return [k for k in here if k in read and not isinstance(nodes[k], Const)]

    def brought(self, level: Sequence[int], first: Affine) -> Stmt:
        """Nodes that lie apart, row by row."""
        nodes, place = self.nest.nodes, self.place(first)
        named = needed(self.nest, level)
        body: list[Stmt] = [
            Let(f"v{d}", nodes[d].dtype, self.have(place)[d]) for d in named
        ]
        emitter = Emitter(self.nest)
        body += [self.put(k, place, emitter.value(nodes[k])) for k in level]
        return self.by_rows(body, first)

    def stores(self, first: Affine) -> Stmt:
        """What is stored: along the arrays where it lies in memory as in them."""
        stores, rows = self.passes.row_stores, self.nest.rows
        in_line = affine.linear(
            [axis(a.name) for a in rows], tuple(a.extent for a in rows)
        )
        if any(s.index != in_line for s in stores):
            have = self.have(self.place(first))
            puts = [Put(f"out{s.output}", s.index, have[s.node]) for s in stores]
            return self.by_rows(puts, first)
        have, at = self.have(axis("at")), affine.scale(first, self.width)
        place = affine.add(axis("at"), at)
        puts = [Put(f"out{s.output}", place, have[s.node]) for s in stores]
        return self.flat(puts, constant(self.rows * self.width), self.left(first))

    def by_rows(self, body: Sequence[Stmt], first: Affine) -> Stmt:
        """A loop over the block's rows, and over the lanes of each."""
        lanes = Loop(self.lane, affine.ZERO, constant(self.width), tuple(body), "lanes")
        outer = unravel([a.name for a in self.nest.rows[:-1]], self.nest, "row")
        stop = affine.add(first, constant(self.rows))
        return Loop("row", first, stop, (*outer, lanes), limit=axis("end"))

    def flat(self, body: Sequence[Stmt], stop: Affine, limit: Affine) -> Stmt:
        return Loop("at", affine.ZERO, stop, tuple(body), "lanes", limit=limit)

    def place(self, first: Affine) -> Affine:
        """Where the arrays have the lane of a row."""
        row = affine.add(axis("row"), affine.scale(first, -1))
        return affine.add(affine.scale(row, self.width), axis(self.lane))

    def left(self, first: Affine) -> Affine:
        """The lanes from a row on."""
        rows = affine.add(axis("end"), affine.scale(first, -1))
        return affine.scale(rows, self.width)

    @property
    def length(self) -> int:
        """Of the arrays: the lanes of a block, on to a whole vector."""
        return -(-self.rows * self.width // WHOLE) * WHOLE

    def put(self, k: int, place: Affine, value: Expr) -> Stmt:
        """A node's value into its array, which is there from now on."""
        dtype = self.nest.nodes[k].dtype
        if k not in self.kept:
            self.kept[k] = "int32" if self.narrow(k) else dtype
            self.made.append(Array(f"near{k}", self.kept[k], self.length, "local"))
        return Put(f"near{k}", place, cast(value, dtype, self.kept[k]))

    def narrow(self, k: int) -> bool:
        """Whether a node names places that 32 bits hold."""
        indices = [index_of(n) for n in self.nest.nodes]
        below: list[Dim] = [
            atom.below
            for index in indices
            for atom, _ in index.terms
            if isinstance(atom, Data) and atom.node == k
        ]
        known = all(isinstance(n, int) and n <= NARROW for n in below)
        return bool(below) and known

    def have(self, place: Affine) -> dict[int, Expr]:
        """The nodes that arrays hold, at a place."""
        nodes = self.nest.nodes
        return {
            k: cast(At(f"near{k}", place), dtype, nodes[k].dtype)
            for k, dtype in self.kept.items()
        }
