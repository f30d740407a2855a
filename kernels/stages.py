"""Stages: a CPU's lanes that compute one costly function after the other, taken apart.

While a vector waits for a function's result the processor goes on with the next one, if
that is near enough. Where an iteration is long it is not: so a tile's vectors do the
first part of the iteration, one behind the other, then the next part. What later parts
need lies in arrays of the tile; what is only loaded is loaded again. Stores come last,
since their memory may be that of a load.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pirol.kernels import affine
from pirol.kernels.affine import axis
from pirol.kernels.emit import TILE, in_tiles, with_lanes
from pirol.kernels.kernel import (
    Apply,
    Array,
    At,
    Kernel,
    Let,
    Loop,
    Put,
    Ref,
    Set,
    Stmt,
    buffers_read,
    names_read,
    parts_of,
)
from pirol.prim import PRIMS

LONG = 16  # the cost of what a stage does one after the other
PAYS = 24  # and of all stages, from which on they pay
BESIDE = 2  # how many times as much an iteration may compute in all


def staged(kernel: Kernel) -> Kernel:
    """The kernel with its long lanes in stages."""
    return replace(kernel, body=tuple(with_lanes(kernel.body, _Stages().lanes)))


def is_long(body: Sequence[Stmt]) -> bool:
    """Whether lanes that do this are better in stages, if they can be."""
    return _Cut(body).pays


def can_be_cut(body: Sequence[Stmt]) -> bool:
    """Whether it has no loops, and reads nothing that it stored before, as a scan."""
    stored = set[str]()
    for stmt in body:
        if isinstance(stmt, Put):
            stored.add(stmt.buffer)
        elif not isinstance(stmt, (Let, Set)) or not stored.isdisjoint(
            buffers_read(stmt)
        ):
            return False
    return True


@dataclass
class _Stages:
    made: int = 0  # loops that are in stages now

    def lanes(self, loop: Loop) -> list[Stmt]:
        """A loop in stages, or as it is."""
        if not can_be_cut(loop.body):
            return [loop]
        cut = _Cut(loop.body)
        if not cut.pays:
            return [loop]
        self.made += 1
        return in_tiles(loop, TILE, "from", lambda tile: self.parts(tile, cut))

    def parts(self, loop: Loop, cut: _Cut) -> list[Stmt]:
        """A loop of no more than TILE iterations in stages."""
        place = affine.add(axis(loop.var), affine.scale(loop.start, -1))
        arrays: dict[str, Array] = {}
        found: list[Stmt] = []
        for k in reversed(range(cut.count)):
            kept = [name for name in arrays if cut.stage[name] == k]
            own, given = cut.part(k, kept)
            for name in given:
                there = f"{name}_{self.made}", cut.lets[name].dtype
                arrays.setdefault(name, Array(*there, TILE, "local"))
            body: list[Stmt] = []
            last = k == cut.count - 1
            for stmt in cut.body:
                if not isinstance(stmt, Let):
                    body += [stmt] * last
                elif stmt.name in given:
                    body.append(replace(stmt, value=At(arrays[stmt.name].name, place)))
                elif stmt.name in own:
                    body.append(stmt)
            body += [Put(arrays[name].name, place, Ref(name)) for name in kept]
            combine = loop.combine if last else ()
            found.insert(0, replace(loop, body=tuple(body), combine=combine))
        return [*arrays.values(), *found]


class _Cut:
    """What belongs to which stage. `stage` of a Let is the first that can compute it;
    what is light is computed in each that needs it."""

    def __init__(self, body: Sequence[Stmt]) -> None:
        self.body = body
        self.lets = {s.name: s for s in body if isinstance(s, Let)}
        self.stage: dict[str, int] = {}
        self.light: set[str] = set()
        paths: dict[str, int] = {}  # the cost of the longest path in the stage
        whole: dict[str, int] = {}  # and in all
        for name, let in self.lets.items():
            cost, args = _cost(let.value), self.arguments(let)
            at = max((self.stage[a] for a in args), default=0)
            path = cost + max(
                (paths[a] for a in args if self.stage[a] == at), default=0
            )
            if path > LONG and path > cost:
                at, path = at + 1, cost
            self.stage[name], paths[name] = at, path
            whole[name] = cost + max((whole[a] for a in args), default=0)
            if not cost and (let.dtype == "index" or self.light.issuperset(args)):
                self.light.add(name)
        longest = max(whole.values(), default=0)
        # Where there is much beside the longest path the processor has that to do.
        each = sum(_cost(let.value) for let in self.lets.values())
        self.pays = longest >= PAYS and each <= BESIDE * longest
        self.count = 1 + max(self.stage.values(), default=0)

    def arguments(self, stmt: Stmt) -> list[str]:
        """The Lets that a statement reads."""
        return [n for n in dict.fromkeys(names_read(stmt)) if n in self.lets]

    def part(self, k: int, kept: Iterable[str]) -> tuple[set[str], list[str]]:
        """The Lets of a stage, which leaves what is `kept`, and those that it is given
        by the stages before, in order."""
        last = k == self.count - 1
        ends = [s for s in self.body if last and not isinstance(s, Let)]
        todo = [*kept, *(name for s in ends for name in self.arguments(s))]
        own, given = set[str](), set[str]()
        while todo:
            name = todo.pop()
            if name in own or name in given:
                continue
            if name in self.light or self.stage[name] == k:
                own.add(name)
                todo += self.arguments(self.lets[name])
            else:
                given.add(name)
        return own, [name for name in self.lets if name in given]


def _cost(expr: Any) -> int:
    """Of the operations of an expression."""
    return sum(
        PRIMS[part.prim].cost for part in parts_of(expr) if isinstance(part, Apply)
    )
