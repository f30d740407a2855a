"""Neighbours: groups that read one large tensor become one, which reads it once.

    s = sum(x * x, rows)    y = x * 2      one kernel, of which x is read once

Fusion puts producers into consumers; of these two neither needs the other. They are
joined where both go over all elements of the tensor in one order: their reductions are
along the same axes, or one has none and the other's rows are long ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pirol.compiler.dims import Dim, about, equal, product
from pirol.compiler.ir import Graph, Op, Value
from pirol.passes.fuse import Lower, relink, waiting
from pirol.passes.siblings import join, keeps_place
from pirol.prim import PRIMS
from pirol.prim.prim import ELEMENTWISE

LEAST = 1 << 12  # elements of a tensor that is worth it
LONG = 64  # elements of a row that a loop of its own is made for
MOST_VALUES = 16  # that a kernel reads and stores
MOST_STEPS = 1000  # that are looked through for a way between two groups
PLAIN = (*ELEMENTWISE, "creation", "reduce", "stop")
VIEWS = ("reshape", "broadcast")


def neighbours(graph: Graph, lower: Lower) -> Graph:
    """A fused graph with such groups joined; `lower` says what may be one kernel."""
    steps = _Steps(graph)
    for value in [*graph.inputs, *(r for op in graph.ops for r in op.results)]:
        if about(value.type.size) >= LEAST:
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
        of = {step.op: step for step in self.steps}
        made = graph.producers()
        pairs = [(made[v], op) for op in graph.ops for v in op.operands if v in made]
        pairs += waiting(graph, [*filter(keeps_place, graph.ops)])
        for first, then in pairs:
            of[then].needs.add(of[first])
            of[first].feeds.add(of[then])
        for op in filter(_is_plain, graph.ops):
            for value in dict.fromkeys(op.operands):
                self.readers.setdefault(value, []).append(of[op])

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
        relink(made, first, then)
        both = {first, then}
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
    largest = max(values, key=lambda v: about(v.type.size)).type.size
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
    return bool(one and other) or about(row) >= LONG


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
