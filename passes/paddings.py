"""paddings: the zeros around a conv's input written out, for kernels that read windows
where they lie.

conv(x, w, padding=p) -> conv(pad(x, p), w). The convs that share an input read parts of
one that has zeros enough for all.
"""

from __future__ import annotations

from collections.abc import Iterable

from pirol.compiler.dims import add, equal, floordiv, product
from pirol.compiler.ir import Graph, Op, Value
from pirol.prim import Builder
from pirol.prim.builder import rewritten

TAPS = 64  # of windows that one channel alone reads, a plane at a time
Pads = tuple[tuple[int, int], ...]


def paddings(graph: Graph) -> Graph:
    """The graph with no padding left in its convs, but for those of one output channel
    a group and small windows, whose kernels pad a plane at a time."""
    most: dict[Value, Pads] = {}
    read: dict[Value, Value] = {}  # a conv's result -> its input
    for op in filter(_padded, graph.ops):
        x = read[op.result] = op.operands[0]
        most[x] = _most(most.get(x, op.attrs["padding"]), op.attrs["padding"])
    made: dict[Value, Value] = {}

    def rule(b: Builder, op: Op) -> Value | None:
        if not _padded(op):
            return None
        (x, w), source = op.operands, read[op.result]
        have = most[source]
        if source not in made:
            made[source] = _pad(b, x, have)
        part = _part(b, x, made[source], op.attrs["padding"], have)
        at = {**op.attrs, "padding": ((0, 0),) * len(have)}
        found: Value = b.conv(part, w, **at)
        return found

    return rewritten(graph, rule)


def _padded(op: Op) -> bool:
    if op.name != "conv" or not any(map(any, op.attrs["padding"])):
        return False
    w = op.operands[1].shape
    terms, one = product(w[1:]), equal(floordiv(w[0], op.attrs["groups"]), 1) is True
    return not (one and isinstance(terms, int) and terms <= TAPS)


def _most(a: Iterable[tuple[int, int]], b: Iterable[tuple[int, int]]) -> Pads:
    return tuple((max(p[0], q[0]), max(p[1], q[1])) for p, q in zip(a, b))


def _pad(b: Builder, x: Value, padding: Pads) -> Value:
    low, high = ((0, 0, *(pair[k] for pair in padding)) for k in (0, 1))
    none = (0,) * x.type.rank
    padded: Value = b.pad(x, low=low, high=high, interior=none, value=0)
    return padded


def _part(b: Builder, x: Value, padded: Value, wanted: Pads, have: Pads) -> Value:
    """Of `padded` what has no more zeros than wanted."""
    starts = (0, 0, *(q[0] - p[0] for p, q in zip(wanted, have)))
    sizes = (*x.shape[:2], *(add(n, sum(p)) for n, p in zip(x.shape[2:], wanted)))
    if padded.shape == sizes:
        return padded
    part: Value = b.slice(padded, starts=starts, sizes=sizes, steps=(1,) * x.type.rank)
    return part
