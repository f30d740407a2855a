"""Schedules for CUDA that take elements one by one: Rows and Lanes.

Rows: a thread a row, for reductions over few elements. Teams: several threads share out
one row's elements; partial results are joined by shuffles within warps, then through
shared memory, always in the same order (cuda_held.py). Lanes: a block 32 rows, where
memory runs along the rows: a warp's lanes are rows, its warps share out their elements,
and are joined through shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.kernels import affine
from pirol.kernels.affine import axis, constant
from pirol.kernels.emit import (
    JOIN,
    Emitter,
    Passes,
    accumulator,
    argmax_update,
    cast,
    closure,
    column_loops,
    identity,
    unravel,
)
from pirol.kernels.kernel import (
    Apply,
    Array,
    At,
    Barrier,
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
    Var,
    WarpReduce,
)
from pirol.kernels.nest import Nest, Scan

BLOCK = 256
WARPS = BLOCK // 32
LANES = 32  # threads of a warp
ROOM = 48 * 1024  # bytes of shared memory


def joined_by(kind: str, dtype: str) -> str:
    """The primitive that joins two parts of a reduction; of float32's extremes one that
    takes either of two zeros: which comes first is up to the schedule."""
    either = {"max": "largest", "min": "smallest"} if dtype == "float32" else {}
    return either.get(kind, JOIN[kind])


def join(kind: str, old: Expr, new: Expr, dtype: str) -> Expr:
    """A reduction's accumulator after one more value."""
    return Apply(joined_by(kind, dtype), (old, new), dtype, dtype)


def over_rows(
    nest: Nest,
    body: Sequence[Stmt],
    count: Dim,
    arrays: Sequence[Stmt] = (),
    turns: int = 1,
) -> Kernel:
    """The nest's kernel: arrays, and a loop over `count` rows, of which a thread takes
    `turns` one behind the other."""
    ends = axis("begin"), axis("end")
    loop = Loop("r", *ends, tuple(body), kind="rows", unroll=turns)
    whole = (*arrays, loop)
    kernel = Kernel(nest.name, nest.inputs, nest.outputs, whole, count)
    return replace(kernel, block=BLOCK, turns=turns)


@dataclass
class Rows:
    """A thread a row."""

    nest: Nest

    def kernel(self) -> Kernel:
        """The whole kernel."""
        return over_rows(self.nest, self.body(), self.count())

    def count(self) -> Dim:
        """How many iterations the loop over the rows has."""
        return product(a.extent for a in self.nest.rows)

    def __post_init__(self) -> None:
        self.passes = Passes(self.nest)
        self.emitter = Emitter(self.nest, scan=self.scan)
        self.scanned: set[int] = set()  # the scans that have their accumulators

    def body(self) -> list[Stmt]:
        found = self.places()
        for p in range(len(self.passes.passes)):
            found += self.one_pass(p)
        stores = self.passes.row_stores
        found += self.emitter.row_level([s.node for s in stores])
        puts = tuple(self.emitter.put(s) for s in stores)
        chosen = self.chosen() if puts else None
        return [*found, *puts] if chosen is None else [*found, If(chosen, puts)]

    def places(self) -> list[Stmt]:
        """The row axes' values."""
        return unravel([a.name for a in self.nest.rows], self.nest, "r")

    def chosen(self) -> Expr | None:
        """What holds for the thread that stores a row's results; None: each does."""
        return None

    def one_pass(self, p: int) -> list[Stmt]:
        reduces, stores = self.passes.passes[p]
        targets = self.passes.targets(p)
        found = self.emitter.row_level(targets)
        needed = closure(self.nest, targets, self.emitter.done)
        scans = [k for k in needed if isinstance(self.node(k), Scan)]
        for k in (*reduces, *scans):
            found += self.start(k)
        body = self.emitter.lets(needed)
        for k in reduces:
            body += self.update(k)
        body += [self.emitter.put(s) for s in stores]
        found.append(self.loops(body))
        for k in reduces:
            found += self.finish(k)
        self.emitter.done.update(reduces)
        return found

    def loops(self, body: Sequence[Stmt]) -> Stmt:
        return _scoped(self.nest, body, [a.name for a in self.nest.columns])

    def node(self, k: int) -> Any:
        return self.nest.nodes[k]

    def kept(self, k: int) -> str:
        """The dtype that a thread adds up in."""
        return accumulator(self.node(k), product(a.extent for a in self.nest.columns))

    def start(self, k: int) -> list[Stmt]:
        node = self.node(k)
        if node.kind != "argmax":
            first = identity(node.kind, self.kept(k))
            if k in self.scanned:
                return [Set(f"acc{k}", first)]
            self.scanned.update({k} if isinstance(node, Scan) else ())
            return [Var(f"acc{k}", self.kept(k), first)]
        of = self.node(node.args[0]).dtype
        best = Var(f"best{k}", of, identity("argmax", of))
        return [best, Var(f"acc{k}", "int64", Num(-1, "int64"))]

    def update(self, k: int) -> list[Stmt]:
        node, old = self.node(k), Ref(f"acc{k}")
        given = [self.emitter.ref(a) for a in node.args]
        if node.kind != "argmax":
            value = cast(given[0], node.dtype, self.kept(k))
            return [Set(f"acc{k}", join(node.kind, old, value, self.kept(k)))]
        of = self.node(node.args[0]).dtype
        best, index = argmax_update(
            Ref(f"best{k}"), old, given[0], given[1], given[2], of
        )
        return [
            Let(f"new{k}", "int64", index),
            Set(f"best{k}", best),
            Set(f"acc{k}", Ref(f"new{k}")),
        ]

    def scan(self, k: int) -> list[Stmt]:
        value = cast(Ref(f"acc{k}"), self.kept(k), self.node(k).dtype)
        return [*self.update(k), Let(f"v{k}", self.node(k).dtype, value)]

    def finish(self, k: int) -> list[Stmt]:
        node = self.node(k)
        value = cast(Ref(f"acc{k}"), self.kept(k), node.dtype)
        last: list[Stmt] = [Let(f"v{k}", node.dtype, value)]
        return [*self.joined(k, node), *last]

    def joined(self, k: int, node: Any) -> list[Stmt]:
        """What joins the threads' parts of a reduction."""
        return []


@dataclass
class Team(Rows):
    """A row for some warps, that each have a part of it."""

    warps: int = WARPS

    def chosen(self) -> Expr | None:
        return is_first("thread")

    def kept(self, k: int) -> str:
        return str(self.node(k).dtype)

    def joined(self, k: int, node: Any) -> list[Stmt]:
        """Every thread ends with the row's result; a fixed tree."""
        name, dtype = f"acc{k}", node.dtype
        prim, memory = joined_by(node.kind, dtype), f"shared{k}"

        def offset(name: str) -> Expr:
            return Offset(axis(name))

        first = Apply("eq", (offset("lane"), Num(0, "int64")), "int64", "bool")
        rest = affine.divide(axis("lane"), self.warps, {"lane": 32})[1]
        found: list[Stmt] = [
            Array(memory, dtype, self.warps, "shared"),
            WarpReduce(prim, name, dtype),
            If(first, (Put(memory, axis("warp"), Ref(name)),)),
            Barrier(),
            Set(name, At(memory, rest)),
            WarpReduce(prim, name, dtype, self.warps),
        ]
        # With others, their barriers lie before the next row's numbers are put there.
        several = sum(len(reduces) for reduces, _ in self.passes.passes) > 1
        return found if several else [*found, Barrier()]


class Lanes(Team):
    """A block takes 32 rows, a lane each; beyond the last, lanes do its work again and
    store nothing."""

    def kernel(self) -> Kernel:
        return replace(super().kernel(), team=BLOCK)

    def count(self) -> Dim:
        return dims.ceildiv(super().count(), LANES)

    def places(self) -> list[Stmt]:
        count = super().count()
        number = affine.add(affine.scale(axis("r"), LANES), axis("lane"))
        ends = (Offset(number), Offset(constant(count)))
        last = Offset(constant(dims.sub(count, 1)))
        return [
            Let("inside", "bool", Apply("lt", ends, "int64", "bool")),
            Let("row", "index", Apply("min", (ends[0], last), "int64", "int64")),
            *unravel([a.name for a in self.nest.rows], self.nest, "row"),
        ]

    def chosen(self) -> Expr:
        return Apply("and", (is_first("warp"), Ref("inside")), "bool", "bool")

    def loops(self, body: Sequence[Stmt]) -> Stmt:
        guarded = [If(Ref("inside"), (s,)) if isinstance(s, Put) else s for s in body]
        last = self.nest.columns[-1]
        stop = constant(last.extent)
        shared = Loop(
            last.name, axis("warp"), stop, tuple(guarded), step=WARPS, unroll=8
        )
        names = [a.name for a in self.nest.columns[:-1]]
        return column_loops(self.nest, [shared], names)

    def joined(self, k: int, node: Any) -> list[Stmt]:
        """Every thread ends with its row's result, the warps' in order."""
        name, memory = f"acc{k}", f"shared{k}"
        own = affine.add(affine.scale(axis("warp"), LANES), axis("lane"))
        found: list[Stmt] = [
            Array(memory, node.dtype, WARPS * LANES, "shared"),
            Put(memory, own, Ref(name)),
            Barrier(),
        ]
        for w in range(WARPS):
            part = At(memory, affine.add(axis("lane"), constant(w * LANES)))
            value = part if w == 0 else join(node.kind, Ref(name), part, node.dtype)
            found.append(Set(name, value))
        return [*found, Barrier()]


def is_first(name: str) -> Expr:
    """Whether this number is 0."""
    ends = (Offset(axis(name)), Num(0, "int64"))
    return Apply("eq", ends, "int64", "bool")


def _scoped(nest: Nest, body: Sequence[Stmt], names: Sequence[str]) -> Stmt:
    """The loops over the columns; with none, a scope of its own."""
    if names:
        return column_loops(nest, body, names)
    return If(Num(True, "bool"), tuple(body))
