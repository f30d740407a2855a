"""Neighbours: groups that read one large tensor become one, which reads it once.

    s = sum(x * x, rows)    y = x * 2      one kernel, of which x is read once

Fusion puts producers into consumers; of these two neither needs the other. They are
joined where both go over all elements of the tensor in one order: their reductions are
along the same axes, or one has none and the other's rows are long ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pirol.compiler.dims import Dim, equal, known, product, symbols_of
from pirol.compiler.ir import Graph, Op, Value, defined_by, named_by
from pirol.passes.fuse import Lower
from pirol.passes.siblings import join
from pirol.prim import PRIMS
from pirol.prim.prim import ELEMENTWISE

LEAST = 1 << 12  # elements of a tensor that is worth it
UNKNOWN = 1024  # what a size counts as that is not known
LONG = 64  # elements of a row that a loop of its own is made for
MOST_VALUES = 16  # that a kernel reads and stores
MOST_STEPS = 1000  # that are looked through for a way between two groups
PLAIN = (*ELEMENTWISE, "creation", "reduce", "stop")
VIEWS = ("reshape", "broadcast")


def neighbours(graph: Graph, lower: Lower) -> Graph:
    """A fused graph with such groups joined; `lower` says what may be one kernel."""
    steps = _Steps(graph)
    for value in [*graph.inputs, *(r for op in graph.ops for r in op.results)]:
        if _size(value.type.size) >= LEAST:
            steps.join_readers(value, lower)
    return graph.with_ops(steps.in_order()) if steps.joined else graph


@dataclass(eq=False)
class _Step:
    """An op among those that it needs, and that need it; rank: its place."""

    op: Op
    rank: int
    needs: set[_Step] = field(default_factory=set)
    feeds: set[_Step] = field(default_factory=set)


class _Steps:
    def __init__(self, graph: Graph) -> None:
        self.joined = False
        self.steps = {_Step(op, k) for k, op in enumerate(graph.ops)}
        self.readers: dict[Value, list[_Step]] = {}
        makers = {r: step for step in self.steps for r in step.op.results}
        setters: dict[str, _Step] = {}  # of sizes
        acted: _Step | None = None
        for step in sorted(self.steps, key=_rank):
            found = {makers[v] for v in step.op.operands if v in makers}
            if _acts(step.op):
                found |= {acted} if acted is not None else set()
                acted = step
            found |= {setters[name] for name in named_by(step.op) & setters.keys()}
            for name in defined_by(step.op):
                setters.setdefault(name, step)
            step.needs = found - {step}
            for need in step.needs:
                need.feeds.add(step)
            if _is_plain(step.op):
                for value in dict.fromkeys(step.op.operands):
                    self.readers.setdefault(value, []).append(step)

    def join_readers(self, value: Value, lower: Lower) -> None:
        """Join those of a value's readers that go over all of it."""
        size = value.type.size
        readers = [s for s in self.readers.get(value, ()) if _goes_over(s.op, size)]
        kept: list[_Step] = []
        for step in readers:
            for k, other in enumerate(kept):
                made = self.join(other, step, lower)
                if made is not None:
                    kept[k] = made
                    break
            else:
                kept.append(step)

    def join(self, first: _Step, then: _Step, lower: Lower) -> _Step | None:
        """One step that does what both do; None: there is none."""
        if not _in_one_order(first.op, then.op):
            return None
        if _reaches(first, then) or _reaches(then, first):
            return None
        made = _Step(join((first.op, then.op)), max(first.rank, then.rank))
        values = len(made.op.operands) + len(made.op.results)
        if values > MOST_VALUES or made.op.body is None or lower(made.op.body):
            return None
        both = {first, then}
        made.needs = (first.needs | then.needs) - both
        made.feeds = (first.feeds | then.feeds) - both
        for other in made.needs:
            other.feeds = (other.feeds - both) | {made}
        for other in made.feeds:
            other.needs = (other.needs - both) | {made}
        self.steps -= both
        self.steps.add(made)
        for value in made.op.operands:
            self.readers[value] = list(
                dict.fromkeys(made if s in both else s for s in self.readers[value])
            )
        self.joined = True
        return made

    def in_order(self) -> Iterator[Op]:
        """The ops, each behind those that it needs."""
        done: set[_Step] = set()
        edges = len(self.steps) + sum(len(step.needs) for step in self.steps)
        for step in sorted(self.steps, key=_rank):
            stack = [step]
            while stack:
                waiting = sorted(stack[-1].needs - done, key=_rank)
                stack += waiting
                assert len(stack) <= edges, "groups that wait for each other"
                if not waiting and (last := stack.pop()) not in done:
                    done.add(last)
                    yield last.op


def _rank(step: _Step) -> int:
    return step.rank


def _acts(op: Op) -> bool:
    """Whether it keeps its place among others that act, or sets a size."""
    return bool(not op.results or op.branches or op.attrs.get("effect"))


def _is_plain(op: Op) -> bool:
    """Whether it is a group that takes elements in the order in which they lie."""
    if op.name != "group" or op.body is None or op.body.guards:
        return False
    return all(
        o.name in VIEWS or (o.name in PRIMS and PRIMS[o.name].kind in PLAIN)
        for o in op.body.ops
    )


def _goes_over(op: Op, size: Dim) -> bool:
    """Whether that is the size of its largest values."""
    assert op.body is not None
    values = [*op.operands, *(r for o in op.body.ops for r in o.results)]
    largest = max(values, key=lambda v: _size(v.type.size)).type.size
    return equal(largest, size) is True


def _in_one_order(first: Op, then: Op) -> bool:
    """Whether one loop is right for both."""
    one, other = _reduced(first), _reduced(then)
    if one == other:
        return True
    rows = {_row(*each) for each in one | other}
    row = rows.pop()
    if rows or row is None:
        return False
    return bool(one and other) or _size(row) >= LONG


def _reduced(op: Op) -> set[tuple[tuple[Dim, ...], tuple[int, ...]]]:
    """Of each reduction of a group: the shape of its operand, and the axes."""
    assert op.body is not None
    return {
        (o.operands[0].shape, o.attrs["axes"])
        for o in op.body.ops
        if PRIMS[o.name].kind == "reduce"
    }


def _row(shape: tuple[Dim, ...], axes: tuple[int, ...]) -> Dim | None:
    """The elements of a row, where the last axes are reduced; else None."""
    last = tuple(range(len(shape) - len(axes), len(shape)))
    return product(shape[k] for k in axes) if axes == last else None


def _reaches(first: _Step, then: _Step) -> bool:
    """Whether a way leads from one to the other, or might."""
    todo: list[_Step] = [first]
    seen: set[_Step] = {first}
    while todo:
        fresh: Iterable[_Step] = todo.pop().feeds - seen
        if then in fresh or len(seen) > MOST_STEPS:
            return True
        todo += fresh
        seen.update(fresh)
    return False


def _size(size: Dim) -> int:
    return int(known(size, dict.fromkeys(symbols_of(size), UNKNOWN)))
