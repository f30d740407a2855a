"""Siblings: small groups of one shape that need nothing of each other become one.

    p1 = power1 * 0.9   p2 = power2 * 0.9   ..      one kernel, which stores them all

An optimizer has several such for each parameter, and a launch takes longer than they
do. Groups that nobody reads (they make what inputs become) are joined wherever they
are; others where the longest ways from the inputs to them are of one length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pirol.compiler.ir import Graph, Op, Value, defined_by
from pirol.passes.fuse import Lower
from pirol.prim import PRIMS
from pirol.prim.prim import ELEMENTWISE

LARGEST = 1 << 12  # elements of a result
MOST_VALUES = 96  # that a kernel reads and stores
PLAIN = (*ELEMENTWISE, "movement", "creation")


def siblings(graph: Graph, lower: Lower, largest: int = LARGEST) -> Graph:
    """A fused graph with such groups joined; `lower` says what may be one kernel."""
    depths, users = _depths(graph), graph.users()
    alike: dict[Any, list[Op]] = {}
    acts = 0  # what acts, or sets a size, keeps its place among what is joined
    for op in graph.ops:
        acts += keeps_place(op) or bool(defined_by(op))
        shape = _shape(op, largest)
        if shape is not None:
            read = any(users[v] for v in op.results)
            place = (acts, depths[op]) if read else None
            alike.setdefault((shape, place), []).append(op)
    joined: dict[Op, Op] = {}
    for ops in alike.values():
        for part in _parts(ops):
            made = join(part)
            assert made.body is not None
            if lower(made.body) is None:
                joined.update(dict.fromkeys(part, made))
    return graph.with_ops(_ordered(graph, joined)) if joined else graph


def keeps_place(op: Op) -> bool:
    """Whether it acts, or sets a size: such ops keep their order."""
    return bool(not op.results or op.branches or op.attrs.get("effect"))


def _depths(graph: Graph) -> dict[Op, int]:
    """The longest way from the inputs to each op, in ops."""
    found: dict[Op, int] = {}
    made: dict[Value, int] = {}
    for op in graph.ops:
        found[op] = 1 + max((made.get(v, 0) for v in op.operands), default=0)
        made.update(dict.fromkeys(op.results, found[op]))
    return found


def _shape(op: Op, largest: int) -> Any:
    """The number of elements that each result of an elementwise group has; None of
    another."""
    if op.name != "group" or op.body is None or op.body.guards:
        return None
    if any(o.name not in PRIMS or PRIMS[o.name].kind not in PLAIN for o in op.body.ops):
        return None
    sizes = {v.type.size for v in op.results}
    size = sizes.pop()
    small = not sizes and isinstance(size, int) and 0 < size <= largest
    return (size, tuple(op.results[0].shape) if size > 1 else ()) if small else None


def _parts(ops: Sequence[Op]) -> Iterator[list[Op]]:
    """Several at a time, as many as a kernel may have."""
    part: list[Op] = []
    count = 0
    for op in ops:
        more = len(op.operands) + len(op.results)
        if part and count + more > MOST_VALUES:
            if len(part) > 1:
                yield part
            part, count = [], 0
        part.append(op)
        count += more
    if len(part) > 1:
        yield part


def join(ops: Sequence[Op]) -> Op:
    """One group that does what several do."""
    inputs: dict[Value, Value] = {}  # outer -> own
    made: list[Op] = []
    outputs: list[Value] = []
    for op in ops:
        assert op.body is not None
        env = {}
        for outer, own in zip(op.operands, op.body.inputs):
            env[own] = inputs.setdefault(outer, Value(outer.type))
        for inner in op.body.ops:
            results = tuple(Value(r.type) for r in inner.results)
            operands = tuple(env[v] for v in inner.operands)
            made.append(
                Op(inner.name, operands, inner.attrs, results, inner.body, inner.line)
            )
            env.update(zip(inner.results, results))
        outputs += [env[v] for v in op.body.outputs]
    body = Graph("body", tuple(inputs.values()), tuple(made), tuple(outputs))
    results = tuple(v for op in ops for v in op.results)
    line = next((op.line for op in reversed(ops) if op.line), "")
    return Op("group", tuple(inputs), {}, results, body, line)


def _ordered(graph: Graph, joined: Mapping[Op, Op]) -> list[Op]:
    """The ops in order; what is joined is where its last part was, or where one is
    read."""
    rank = {joined.get(op, op): k for k, op in enumerate(graph.ops)}  # of the last
    makers = {r: op for op in rank for r in op.results}
    done: dict[Op, None] = {}
    edges = len(rank) + sum(len(op.operands) for op in rank)
    for op in sorted(rank, key=rank.__getitem__):
        stack = [op]
        while stack:
            wanted = [makers[v] for v in stack[-1].operands if v in makers]
            waiting = [o for o in wanted if o not in done]
            stack += waiting
            assert len(stack) <= edges, "groups that wait for each other"
            if not waiting:
                done.setdefault(stack.pop())
    return list(done)
