"""Schedule for reductions along memory on CUDA: a row's elements stay in registers.

A row is a warp's, or a block's. Each thread takes its elements 16 bytes at a time and
holds what more than one pass over the row needs; rows too long for that are read again.
What is divided by one number of its row is multiplied by that one's inverse, and set
right; the rare element for which that does not do is divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.cuda_contract import below
from pirol.kernels.cuda_rows import BLOCK, LANES, Team, is_first, joined_by
from pirol.kernels.cuda_vector import Wide, kept, wide
from pirol.kernels.emit import Passes, closure, column_loops
from pirol.kernels.kernel import (
    Apply,
    Array,
    At,
    Expr,
    If,
    Inverse,
    Kernel,
    Let,
    Loop,
    Num,
    Offset,
    Over,
    Put,
    Ref,
    Set,
    Stmt,
    Var,
    WarpReduce,
)
from pirol.kernels.nest import Load, Nest, Node, Scalar, Store
from pirol.prim import PRIMS

LEAST, MOST = 16, 64  # registers that are held: what is aimed at, and the most
THREADS = 512  # of a row that is too long to be held; BLOCK: of unknown length
TEAM = 1024  # the most threads of one that holds it
RESIDENT = 1024  # threads at once, however many registers they hold
MUCH = 16  # elements of a thread, where it is not known
BUSY = 1 << 16  # threads that keep a device busy
COSTLY = 4  # of what is computed once, as quotients
AHEAD = 4  # accesses of a long row one behind the other


def held(nest: Nest) -> Kernel:
    """The kernel of a nest with column axes."""
    last = nest.columns[-1]
    each = MUCH if not isinstance(last.extent, int) else last.extent // LANES
    found = wide(nest, last, most=1 << (max(each, 1).bit_length() - 1))
    if found is None:
        found = Wide(nest, last.name, 1, (), ())
    hold, team = _shared(nest, last.extent, found)
    warps = team // LANES
    return _Held(nest, warps, wide=found, hold=hold, team=team).kernel()


def _shared(nest: Nest, extent: Dim, found: Wide) -> tuple[dict[int, int], int]:
    """The nodes to hold, with the pass that computes each, and a row's threads."""
    if not isinstance(extent, int):
        return {}, BLOCK
    hold, words = _hold(nest, found.loads) if len(nest.columns) == 1 else ({}, 0)
    team = _team(nest, extent, found.width, max(words, 1))
    return ({}, THREADS) if team is None else (hold, team)


def _hold(nest: Nest, loads: Sequence[int]) -> tuple[dict[int, int], int]:
    """The nodes to hold, with the pass that computes each; 32-bit registers at once
    for an element. All `loads` of a row are under way from its first pass on."""
    passes = Passes(nest)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for p in range(len(passes.passes)):
        targets = passes.targets(p)
        fresh = closure(nest, targets, first)
        read = {a for k in fresh for a in nest.arguments(nest.nodes[k])}
        last |= {k: p for k in read.union(targets) if k in first}
        for k in fresh:
            if nest.per_element[k] and _worth(nest.nodes[k]):
                first[k] = p
    last |= {k: first[k] for k in first.keys() - last.keys()}
    first |= {k: 0 for k in loads if k in first and _of_rows(nest, nest.nodes[k])}
    hold = {k: p for k, p in first.items() if last[k] > p}
    live = [
        sum(BITS[nest.nodes[k].dtype] for k in hold if hold[k] <= p < last[k])
        for p in range(len(passes.passes))
    ]
    return hold, -(-max(live, default=0) // 32)


def _of_rows(nest: Nest, node: Node) -> bool:
    """Whether it loads elements that each row has of its own, at places that no data
    tell."""
    if not isinstance(node, Load) or node.index.data():
        return False
    return any(a.name in node.index.axes() for a in nest.rows)


def _worth(node: Any) -> bool:
    """Whether it costs more to compute again than to hold."""
    return isinstance(node, Load) or (
        isinstance(node, Scalar) and PRIMS[node.prim].cost >= COSTLY
    )


def _team(nest: Nest, extent: int, width: int, words: int) -> int | None:
    """How many threads a row gets, so that each can hold its elements."""

    def own(team: int) -> int:
        return -(-extent // (team * width)) * width

    team, loaded = LANES, words * _part(nest)
    while team < TEAM and own(team) > width and own(team) * loaded > LEAST:
        team *= 2
    if own(team) * words > MOST:
        return None
    rows = product(a.extent for a in nest.rows)
    while (
        isinstance(rows, int)
        and rows * team < BUSY
        and team < BLOCK
        and own(team) > width
    ):
        team *= 2
    return team


def _part(nest: Nest) -> float:
    """How much less than what is held comes from memory: of halves a thread takes more
    elements, for as many bytes on their way."""
    loads = [
        BITS[n.dtype]
        for n, element in zip(nest.nodes, nest.per_element)
        if element and isinstance(n, Load)
    ]
    return min(max(16, *loads), 32) / 32 if loads else 1.0


@dataclass(kw_only=True)
class _Held(Team):
    """hold: the nodes to hold, with the pass that computes each; team: threads of a
    row, `warps` of them."""

    wide: Wide
    hold: dict[int, int]
    team: int

    def kernel(self) -> Kernel:
        whole = super().kernel()
        block = BLOCK if self.team == LANES else self.team
        resident = RESIDENT // block
        return replace(whole, block=block, team=self.team, resident=resident)

    @property
    def own(self) -> str:
        """What numbers a thread in its team."""
        return "lane" if self.team == LANES else "thread"

    @property
    def extent(self) -> Dim:
        """A row's elements along the last column axis."""
        return self.nest.columns[-1].extent

    @property
    def turns(self) -> Dim:
        """How many times a thread takes `width` elements."""
        return dims.ceildiv(self.extent, self.team * self.wide.width)

    def chosen(self) -> Expr | None:
        return is_first(self.own)

    def body(self) -> list[Stmt]:
        length = dims.mul(self.turns, self.wide.width)
        nodes = self.nest.nodes
        arrays = [Array(f"h{k}", nodes[k].dtype, length, "local") for k in self.hold]
        return [*arrays, *super().body()]

    def one_pass(self, p: int) -> list[Stmt]:
        reduces, stores = self.passes.passes[p]
        targets = self.passes.targets(p)
        emitter = self.emitter
        found = emitter.row_level(targets)
        for k in reduces:
            found += self.start(k)
        stops = [*emitter.done, *emitter.have]
        early = [k for k in self.wide.loads if self.hold.get(k) == p]
        needed = closure(self.nest, [*targets, *early], stops)
        fetched = [k for k in self.wide.loads if k in needed]
        base = [k for k in self.wide.base() if k in needed]
        emitter.have |= {k: self.fetched(k) for k in fetched}
        rest = [k for k in needed if k not in fetched and k not in base]
        lets = emitter.lets(rest)
        one: list[Stmt] = [Let(self.wide.along, "index", Offset(self.place)), *lets]
        one += [Put(f"h{k}", self.slot, Ref(f"v{k}")) for k in rest if k in self.hold]
        for k in reduces:
            one += self.update(k)
        apart = [s for s in stores if s in self.wide.stores]
        one += [self.put(s, apart) for s in stores]
        # What is done again reads operands, and a result may lie on one of them.
        later = len(apart) == len(stores) and not self.seeks(reduces)
        quick = list(map(self.quick, one)) if later else []
        found += [inverse for inverse, _ in filter(None, quick)]
        near = [o[1] if o else s for s, o in zip(one, quick)] if any(quick) else []
        found.append(self.turn(base, fetched, one, apart, near, reduces))
        for k in reduces:
            found += self.finish(k)
        for k in fetched:
            if k not in self.hold:
                del emitter.have[k]
        emitter.have |= {k: At(f"h{k}", self.slot) for k in self.hold if k in needed}
        emitter.done.update(reduces)
        return found

    def seeks(self, reduces: Sequence[int]) -> bool:
        """Whether one of them has more than one accumulator."""
        return any(self.node(k).kind == "argmax" for k in reduces)

    @property
    def place(self) -> Affine:
        """An element's place on the last column axis."""
        return affine.add(axis("first"), axis("e"))

    @property
    def slot(self) -> Affine:
        """An element's place in an array of those that are held."""
        return affine.add(affine.scale(axis("k"), self.wide.width), axis("e"))

    def fetched(self, k: int) -> Expr:
        """A load's element in the array that it was fetched to."""
        return At(f"h{k}", self.slot) if k in self.hold else At(f"x{k}", axis("e"))

    def put(self, store: Store, apart: Sequence[Store]) -> Stmt:
        """A store of an element, or into the array of what is stored at once."""
        if store in apart:
            return Put(kept(store), axis("e"), self.emitter.ref(store.node))
        return self.emitter.put(store)

    def quick(self, stmt: Stmt) -> tuple[Inverse, Over] | None:
        """A quotient by what a row has one of, from that one's inverse."""
        match stmt:
            case Let(name, "float32", Apply("div", (value, Ref(by)))) if (
                by.startswith("v") and not self.nest.per_element[int(by[1:])]
            ):
                inverse = f"inverse_{name}"
                over = Over(name, value, Ref(by), inverse, "far")
                return Inverse(inverse, Ref(by)), over
        return None

    def turn(
        self,
        base: Sequence[int],
        fetched: Sequence[int],
        one: Sequence[Stmt],
        apart: Sequence[Store],
        near: Sequence[Stmt] = (),
        reduces: Sequence[int] = (),
    ) -> Stmt:
        """The loops over a thread's elements, `width` of them at a time; `near`: the
        same work, quick, but to be done again where it sets `far`, with what `reduces`
        came to before."""
        width, first = self.wide.width, axis("first")
        plain = [k for k in fetched if k not in self.hold]
        start = affine.scale(axis("k"), width)
        several: list[Stmt] = [*self.emitter.lets(base)]
        several += self.wide.arrays(plain, apart)
        for k in fetched:
            array, to = (f"h{k}", start) if k in self.hold else (f"x{k}", affine.ZERO)
            several.append(self.wide.fetch(k, array, to, first))
        loop = Loop("e", affine.ZERO, constant(width), tuple(one), unroll=width)
        if near:
            back = [Set(f"acc{k}", Ref(f"old{k}")) for k in reduces]
            several += [Let(f"old{k}", self.kept(k), Ref(f"acc{k}")) for k in reduces]
            several.append(Var("far", "bool", Num(False, "bool")))
            several.append(replace(loop, body=tuple(near)))
            several.append(If(Ref("far"), (*back, loop)))
        else:
            several.append(loop)
        several += [self.wide.put(s, first) for s in apart]
        every = affine.add(
            affine.scale(axis("k"), self.team * width),
            affine.scale(axis(self.own), width),
        )
        body: list[Stmt] = [Let("first", "index", Offset(every))]
        whole, turns = self.team * width, self.turns
        if isinstance(self.extent, int) and self.extent % whole == 0:
            body += several
        else:
            body.append(If(below(first, self.extent), tuple(several)))
        few = isinstance(turns, int) and (self.hold or turns <= MOST)
        ahead = turns if few and isinstance(turns, int) else AHEAD
        loop = Loop("k", affine.ZERO, constant(turns), tuple(body), unroll=ahead)
        names = [a.name for a in self.nest.columns[:-1]]
        return column_loops(self.nest, [loop], names)

    def joined(self, k: int, node: Any) -> list[Stmt]:
        if self.team > LANES:
            return super().joined(k, node)
        return [WarpReduce(joined_by(node.kind, node.dtype), f"acc{k}", node.dtype)]
