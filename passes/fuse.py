"""Fuse: primitives -> groups, each one loop nest; refusals are kept with reasons.

Greedy over edges, producer into consumer, in program order. A merge must leave the
groups free of cycles and must be accepted by `lower` (graph -> None or a refusal).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import (
    HALVES,
    Graph,
    Op,
    Value,
    defined_by,
    named_by,
    prune,
    structure,
)
from pirol.prim import PRIMS
from pirol.prim.prim import PAIRED, STEPS, WIDE

# Views of what memory holds, and constants.
FREE = (
    *("const", "iota", "broadcast", "reshape", "transpose", "reverse", "slice"),
    *("real", "imag"),
)
Lower = Callable[[Graph], Any]


@dataclass(frozen=True)
class Refused:
    """An edge that was not fused: the ops' names, and the reason (code and words)."""

    producer: str
    consumer: str
    code: str
    why: str

    def __str__(self) -> str:
        return f"{self.producer} -> {self.consumer}: {self.code} ({self.why})"


def fuse(graph: Graph, lower: Lower) -> tuple[Graph, list[Refused]]:
    """The graph as groups, library calls and opaque ops, and the refused edges."""
    fuser = _Fuser(_unshare(graph), lower)
    fuser.run()
    return fuser.result(), fuser.refused


def _unshare(graph: Graph) -> Graph:
    """A copy of each view or constant for each of its users: views cost nothing, and a
    half is widened faster than it is read as what it is widened to."""
    producers = graph.producers()
    returned = set(graph.results)
    ops: list[Op] = []

    def private(value: Value, user: Op) -> Value:
        source = producers.get(value)
        if source is None or not (is_free(source) or _widens_for(source, [user])):
            return value
        operands = tuple(private(v, user) for v in source.operands)
        result = Value(value.type)
        ops.append(replace(source, operands=operands, results=(result,)))
        return result

    for op in graph.ops:
        if not is_free(op) or op.result in returned:
            operands = tuple(private(v, op) for v in op.operands)
            ops.append(replace(op, operands=operands))
    return prune(graph.with_ops(ops))


def is_free(op: Op) -> bool:
    """Whether it is a view, or a constant."""
    return op.name in FREE


def _widens_for(op: Op, users: Sequence[Op]) -> bool:
    """Whether it widens a half for users whose kernels may as well do it."""
    half = op.name == "cast" and op.operands[0].dtype in HALVES
    multiplied = ("dot_general",) if half and op.operands[0].dtype == PAIRED else ()
    plain = all(
        _fusible(u) and (PRIMS[u.name].kind != "contract" or u.name in multiplied)
        for u in users
    )
    return half and op.result.dtype == WIDE and plain


def waiting(graph: Graph, acting: Sequence[Op]) -> Iterator[tuple[Op, Op]]:
    """Ops of which the second follows the first, though it reads none of its results:
    those that act keep their order, and what uses a size follows what sets it."""
    yield from zip(acting, acting[1:])
    setters: dict[str, Op] = {}
    for op in graph.ops:
        for name in named_by(op) & setters.keys() if setters else ():
            yield setters[name], op
        for name in defined_by(op):
            setters.setdefault(name, op)


def relink(made: Any, first: Any, then: Any) -> None:
    """Put a node in the place of two, among those that they need and feed."""
    both = {first, then}
    made.needs = (first.needs | then.needs) - both
    made.feeds = (first.feeds | then.feeds) - both
    for other in made.needs:
        other.feeds = (other.feeds - both) | {made}
    for other in made.feeds:
        other.needs = (other.needs - both) | {made}


@dataclass(eq=False)
class _Group:
    ops: list[Op]
    fusible: bool
    feeds: set[_Group] = field(default_factory=set)
    needs: set[_Group] = field(default_factory=set)


class _Fuser:
    def __init__(self, graph: Graph, lower: Lower) -> None:
        self.graph = graph
        self.lower = lower
        self.refused: list[Refused] = []
        self.answers: dict[Any, Any] = {}
        self.texts: dict[Op, str] = {}  # of attributes
        self.order = {op: k for k, op in enumerate(graph.ops)}
        self.producers = graph.producers()
        self.users = graph.users()
        self.results = set(graph.results)
        self.of = {op: _Group([op], _fusible(op)) for op in graph.ops}
        for op in graph.ops:
            for source in self.sources(op):
                self.link(source, op)
        acting = [op for op in graph.ops if op.attrs.get("effect")]
        for first, then in waiting(graph, acting):
            self.link(first, then)  # random draws keep their order

    def link(self, first: Op, then: Op) -> None:
        self.of[first].feeds.add(self.of[then])
        self.of[then].needs.add(self.of[first])

    def sources(self, op: Op) -> list[Op]:
        return [self.producers[v] for v in op.operands if v in self.producers]

    def run(self) -> None:
        for op in self.graph.ops:
            if not self.waits(op):
                self.take(op)

    def waits(self, op: Op) -> bool:
        """Whether it goes with its reader, not with what it reads: it is a view of what
        others read too, or repeats it, and else that would be written once for each of
        them; or a half is widened for a product, which takes halves."""
        if not op.operands or len(op.results) != 1 or op.result in self.results:
            return False
        if not (is_free(op) or _widens_for(op, self.users[op.result])):
            return False
        if op.name == "cast" and self.is_multiplied(op.result):
            return True
        source = self.producers.get(op.operands[0])
        many = op.name == "broadcast" or len(self.users[op.operands[0]]) > 1
        return source is not None and (many or self.waits(source))

    def is_multiplied(self, value: Value) -> bool:
        """Whether a product reads it, or a view of it."""
        return any(
            r.name == "dot_general" or (is_free(r) and self.is_multiplied(r.result))
            for r in self.users[value]
        )

    def take(self, op: Op) -> None:
        """Merge what an op reads into its group, what only now has its turn first."""
        for source in sorted(self.sources(op), key=self.waits, reverse=True):
            self.edge(source, op)
            if self.waits(source):
                self.take(source)

    def edge(self, source: Op, op: Op) -> None:
        a, b = self.of[source], self.of[op]
        if a is b:
            return
        refusal = self.try_merge(a, b)
        if refusal is not None:
            self.refused.append(Refused(source.title, op.title, *refusal))

    def try_merge(self, a: _Group, b: _Group) -> tuple[str, str] | None:
        for group in (a, b):
            if not group.fusible:
                return _own_step(group.ops[0])
        if _reaches(a, b):
            return "cycle", "another step lies between them"
        ops = sorted(a.ops + b.ops, key=self.order.__getitem__)
        answer = self.answer(self.body(ops))
        if answer is not None:
            return answer.code, answer.why
        self.merge(a, b, ops)
        return None

    def answer(self, body: Graph) -> Any:
        """What `lower` says of the ops; asked once for bodies that are built alike."""
        key = structure(body, self.texts)
        if key not in self.answers:
            self.answers[key] = self.lower(body)
        return self.answers[key]

    def merge(self, a: _Group, b: _Group, ops: list[Op]) -> None:
        group = _Group(ops, True)
        relink(group, a, b)
        for op in ops:
            self.of[op] = group

    def body(self, ops: list[Op]) -> Graph:
        inside = set(ops)
        defined = {r for op in ops for r in op.results}
        read = dict.fromkeys(v for op in ops for v in op.operands if v not in defined)
        outputs = [
            r
            for op in ops
            for r in op.results
            if r in self.results or any(u not in inside for u in self.users[r])
        ]
        return Graph("group", tuple(read), tuple(ops), tuple(outputs))

    def result(self) -> Graph:
        ops = [self.grouped(g) for g in self.sorted_groups()]
        return self.graph.with_ops(ops)

    def grouped(self, group: _Group) -> Op:
        if not group.fusible:
            return group.ops[0]
        body = self.body(group.ops)
        # A merged group was accepted as it stands when it was merged.
        answer = self.answer(body) if len(group.ops) == 1 else None
        if answer is not None:
            raise Unsupported(f"no kernel for {group.ops[0].title}: {answer.why}")
        inner = _isolated(body)
        line = next((op.line for op in reversed(group.ops) if op.line), "")
        return Op("group", body.inputs, {}, body.outputs, inner, line)

    def sorted_groups(self) -> list[_Group]:
        """Groups in dependence order, the earliest last op first."""
        waiting = dict.fromkeys(self.of[op] for op in self.graph.ops)
        rank = {g: max(self.order[op] for op in g.ops) for g in waiting}
        done: set[_Group] = set()
        found: list[_Group] = []
        while waiting:
            ready = [g for g in waiting if g.needs <= done]
            first = min(ready, key=rank.__getitem__)
            del waiting[first]
            done.add(first)
            found.append(first)
        return found


def _own_step(op: Op) -> tuple[str, str]:
    if op.name in PRIMS:
        return PRIMS[op.name].kind, f"{op.name} is a step of its own"
    return "library", f"{op.title} is run by Paddle"


def _fusible(op: Op) -> bool:
    return op.name in PRIMS and PRIMS[op.name].kind not in STEPS


def _isolated(body: Graph) -> Graph:
    """The body with inputs of its own, so that the group is a closed function."""
    env: dict[Value, Value] = {v: Value(v.type) for v in body.inputs}
    ops = []
    for op in body.ops:
        results = tuple(Value(r.type) for r in op.results)
        operands = tuple(env[v] for v in op.operands)
        ops.append(Op(op.name, operands, op.attrs, results, op.body, op.line))
        env.update(zip(op.results, results))
    outputs = tuple(env[v] for v in body.outputs)
    return Graph("body", tuple(env[v] for v in body.inputs), tuple(ops), outputs)


def _reaches(a: _Group, b: _Group) -> bool:
    """Whether a path leads from a to b through a third group."""
    if b.needs <= {a}:
        return False
    todo = [g for g in a.feeds if g is not b]
    seen: set[_Group] = set(todo)
    while todo:
        group = todo.pop()
        if group is b:
            return True
        fresh: Iterable[_Group] = group.feeds - seen
        seen.update(fresh)
        todo.extend(fresh)
    return False
