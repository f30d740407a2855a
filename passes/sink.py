"""Sink: what a group stores for others, and these may as well compute, goes there.

    h = 1 - t * t; p = u * h      in the group of what else reads h, stores p
    q = dot(..) * p               a group far behind

Fusion puts an op where its operands are. Often a result is cheap to compute of tensors
that are in memory anyway (t and u): then it is less to read those than to write the
result and read it. Bytes of memory traffic decide, and how many ops would be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pirol.compiler.dims import about
from pirol.compiler.ir import BITS, Graph, Op, Value, prune
from pirol.prim import PRIMS
from pirol.prim.prim import ELEMENTWISE

STORE = 1.5  # what storing costs, in loads


@dataclass(frozen=True)
class Machine:
    """again: what an op of cost 1 costs that is repeated, in loads of its result; most:
    what one may cost that is; besides: whether numbers of rows are stored for it, which
    sums over rows then read."""

    again: float
    most: int
    besides: bool


# A GPU does some 28 operations while it loads a float. A CPU sums columns row by row.
MACHINES = {"cpu": Machine(0.1, 1, False), "cuda": Machine(0.03, 16, True)}
FEW = 16  # elements of a result for one of a row
MOST_OPS = 32  # of one result
FREE = ("const", "iota", "broadcast", "reshape")
STREAMS = (*ELEMENTWISE, "movement", "reduce", "stop")  # read each element once

Lower = Callable[[Graph], Any]


def sink(graph: Graph, lower: Lower, kind: str = "cpu") -> Graph:
    """A fused graph whose groups store less, for a CPU or "cuda"; `lower` says what may
    be one kernel."""
    groups = {op: _Group(op) for op in graph.ops if op.name == "group"}
    kept = set(graph.results)
    number = {op: k for k, op in enumerate(graph.ops)}
    users: dict[Value, set[Op]] = {}
    for op in graph.ops:
        for value in op.operands:
            users.setdefault(value, set()).add(op)
    for op in reversed(graph.ops):
        if op in groups:
            readers = {
                v: [
                    groups.get(u)
                    for u in sorted(users.get(v, ()), key=number.__getitem__)
                    if u not in groups or groups[u].stores  # else all of it went on
                ]
                for v in op.results
            }
            for value, found in readers.items():
                if not found and value not in kept:
                    del groups[op].stores[value]
            for reader in _Sinking(groups[op], readers, kept, kind).run(lower):
                for value in reader.reads:
                    users.setdefault(value, set()).add(reader.op)
    made = (groups[op].made() if op in groups else op for op in graph.ops)
    return graph.with_ops(op for op in made if op.results or op.name != "group")


@dataclass(eq=False)
class _Group:
    """A group, over values of its own: those of outer ones that it reads and stores."""

    op: Op
    ops: list[Op] = field(init=False)
    reads: dict[Value, Value] = field(init=False)
    stores: dict[Value, Value] = field(init=False)

    def __post_init__(self) -> None:
        assert self.op.body is not None
        self.ops = [*self.op.body.ops]
        self.reads = dict(zip(self.op.operands, self.op.body.inputs))
        self.stores = dict(zip(self.op.results, self.op.body.outputs))

    def body(self) -> Graph:
        """A function of what it reads."""
        inputs, outputs = (tuple(d.values()) for d in (self.reads, self.stores))
        return prune(Graph("body", inputs, tuple(self.ops), outputs))

    def made(self) -> Op:
        """The group as an op, reading only what it needs."""
        body = self.body()
        used = {v for op in body.ops for v in op.operands} | {*body.outputs}
        self.reads = {outer: own for outer, own in self.reads.items() if own in used}
        body = replace(body, inputs=tuple(self.reads.values()))
        results = tuple(self.stores)
        return replace(self.op, operands=tuple(self.reads), results=results, body=body)


Readers = Mapping[Value, Sequence[_Group | None]]  # None: another step


@dataclass
class _Again:
    """What is to be computed once more: of which outer values, by which ops."""

    leaves: dict[Value, None] = field(default_factory=dict)  # in a fixed order
    ops: set[Op] = field(default_factory=set)


class _Sinking:
    """Which results of a group go to their readers."""

    def __init__(
        self, group: _Group, readers: Readers, kept: set[Value], kind: str
    ) -> None:
        self.group, self.readers = group, readers
        self.machine = MACHINES[kind]
        self.makers = {r: op for op in group.ops for r in op.results}
        self.outer = {own: v for v, own in group.reads.items()}
        self.outer |= {own: v for v, own in group.stores.items()}
        self.small: dict[Value, Value] = {}  # own -> outer: what it would store besides
        self.open = [v for v in group.stores if v not in kept and self.may_go(v)]

    def may_go(self, value: Value) -> bool:
        """Whether some groups read it, each of them each element once."""
        readers = self.readers[value]
        made = self.cheap(self.makers.get(self.group.stores[value]))
        return bool(readers) and made and all(g and _streams(g, value) for g in readers)

    def run(self, lower: Lower) -> Iterable[_Group]:
        """Move what is worth it, and what kernels can be made of; to which groups."""
        chosen = self.chosen()
        while chosen:
            made = {g: self.with_(g, chosen) for g in self.reading(chosen)}
            refused = {g for g, m in made.items() if lower(m.body()) is not None}
            if not refused:
                before = self.group.stores
                self.group.stores = self.storing(chosen, made)
                if self.group.stores.keys() - before and lower(self.group.body()):
                    self.group.stores = before
                    return ()
                for reader, found in made.items():
                    reader.ops, reader.reads = found.ops, found.reads
                    reader.stores = found.stores
                return made
            self.open = [v for v in self.open if refused.isdisjoint(self.readers[v])]
            chosen = self.chosen()
        return ()

    def storing(
        self, chosen: Sequence[Value], made: Mapping[_Group, _Group]
    ) -> dict[Value, Value]:
        """What is stored without those: of small values what the readers want."""
        kept = {v: own for v, own in self.group.stores.items() if v not in chosen}
        wanted = {v for reader in made.values() for v in reader.reads}
        return kept | {v: own for own, v in self.small.items() if v in wanted}

    def reading(self, chosen: Sequence[Value]) -> list[_Group]:
        return list(dict.fromkeys(g for v in chosen for g in self.readers[v] if g))

    def chosen(self) -> list[Value]:
        """The results that are worth it, all together."""
        found, best = list(self.open), self.gain(self.open)
        while found:
            gains = [self.gain(found[:k] + found[k + 1 :]) for k in range(len(found))]
            if max(gains) <= best:
                break
            best = max(gains)
            del found[gains.index(best)]
        return found if best > 0 else []

    def gain(self, chosen: Sequence[Value]) -> float:
        """Bytes that are not loaded or stored any more."""
        total, gone = 0.0, {self.group.stores[v] for v in chosen}
        again: dict[_Group, _Again] = {}
        for value in chosen:
            tree = self.tree(value, gone)
            if tree is None:
                total -= 1e15
                continue
            for reader in self.readers[value]:
                assert reader is not None
                more = again.setdefault(reader, _Again())
                more.leaves |= tree.leaves
                more.ops |= tree.ops
            total += _bytes(value) * (STORE + len(self.readers[value]))
        leaves = {v for more in again.values() for v in more.leaves}
        total -= STORE * sum(_bytes(v) for v in leaves & {*self.small.values()})
        for reader, more in again.items():
            total -= sum(_bytes(v) for v in more.leaves if v not in reader.reads)
            total -= self.machine.again * sum(map(_repeated, more.ops))
        return total

    def tree(self, value: Value, gone: set[Value]) -> _Again | None:
        """What a result is computed of that is stored, where these are not any more, or
        as good as free to store; None where that would be too much."""
        found, stack = _Again(), [self.group.stores[value]]
        while stack:
            own = stack.pop()
            if own in self.outer and own not in gone:
                found.leaves[self.outer[own]] = None
                continue
            op = self.makers[own]
            few = _bytes(own) * FEW <= _bytes(value) and op.name not in FREE
            if few and self.machine.besides:
                found.leaves[self.small.setdefault(own, Value(own.type))] = None
                continue
            if op not in found.ops:
                found.ops.add(op)
                stack += op.operands
            if not self.cheap(op) or len(found.ops) > MOST_OPS:
                return None
        return found

    def cheap(self, op: Op | None) -> bool:
        """Whether an op may be repeated."""
        if op is None or len(op.results) != 1:
            return False
        prim = PRIMS.get(op.name)
        quick = (
            prim is not None
            and prim.kind in ELEMENTWISE
            and prim.cost <= self.machine.most
        )
        return quick or op.name in FREE

    def with_(self, reader: _Group, chosen: Sequence[Value]) -> _Group:
        """The reader, computing what it read."""
        made, env = _Group(reader.op), dict[Value, Value]()
        made.reads, made.ops = dict(reader.reads), []
        gone = {self.group.stores[v] for v in chosen}
        wanted = [v for v in chosen if reader in self.readers[v]]
        trees = [t for v in wanted if (t := self.tree(v, gone)) is not None]
        small = {v: own for own, v in self.small.items()}
        own_of = self.group.stores | self.group.reads | small
        for leaf in dict.fromkeys(v for tree in trees for v in tree.leaves):
            own = own_of[leaf]
            env[own] = made.reads.setdefault(leaf, Value(leaf.type))
        needed = {op for tree in trees for op in tree.ops}
        for op in self.group.ops:
            if op in needed:
                operands = tuple(env[v] for v in op.operands)
                env[op.result] = Value(op.result.type)
                results = (env[op.result],)
                made.ops.append(replace(op, operands=operands, results=results))
        turned = {made.reads.pop(v): env[self.group.stores[v]] for v in wanted}
        for op in reader.ops:
            operands = tuple(turned.get(v, v) for v in op.operands)
            made.ops.append(replace(op, operands=operands))
        made.stores = {v: turned.get(own, own) for v, own in reader.stores.items()}
        return made


def _streams(group: _Group, value: Value) -> bool:
    """Whether a group reads each element of a value once, as one of its largest."""
    ends = (*group.reads, *group.stores)
    if any(
        _bytes(v) // BITS[v.dtype] > _bytes(value) // BITS[value.dtype] for v in ends
    ):
        return False
    read = {group.reads[value]}
    for op in group.ops:
        if not read.isdisjoint(op.operands):
            if PRIMS[op.name].kind not in STREAMS:
                return False
            if PRIMS[op.name].kind == "movement":
                read.update(op.results)
    return True


def _repeated(op: Op) -> float:
    """What an op costs, in bytes of a result of cost 1."""
    return 0 if op.name in FREE else PRIMS[op.name].cost * _bytes(op.result)


def _bytes(value: Value) -> int:
    return about(value.type.size) * int(BITS[value.dtype]) // 8
