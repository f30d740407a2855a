"""partition: a graph with its gradient -> a forward graph, and a backward one.

The forward graph also returns what the backward one reads of it. A minimum cut picks
that: each value costs the bytes to keep it, and what is elementwise or moves memory may
be computed again, inside the kernels that use it; not so what finds a row's largest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import networkx as nx

from pirol.compiler.dims import known, symbols_of
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import BITS, Graph, Op, Value, prune, symbols_in
from pirol.prim import PRIMS
from pirol.prim.prim import ELEMENTWISE

# What may be computed again, by the option `recompute`: kinds of primitives.
AGAIN: dict[str, tuple[str, ...]] = {"none": ("movement", "creation", "stop")}
AGAIN["auto"] = (*ELEMENTWISE, *AGAIN["none"])


@dataclass(frozen=True)
class Parts:
    """The forward graph returns the outputs, and then `kept`, which are the first
    inputs of the backward graph; cotangents follow, and its outputs are gradients."""

    forward: Graph
    backward: Graph
    kept: tuple[Value, ...]


def partition(
    graph: Graph,
    inputs: int,
    outputs: int,
    sizes: Mapping[str, int],
    drawn: Sequence[Value] = (),
    recompute: str = "auto",
) -> Parts:
    """Cut a joint graph of so many inputs and outputs before those of the gradient.

    sizes: the symbols' values that the costs are counted with; drawn: values to keep in
    any case; recompute: a key of AGAIN.
    """
    given, cts = graph.inputs[:inputs], graph.inputs[inputs:]
    after = _depending(graph, cts)
    ops = [op for op in graph.ops if after.isdisjoint(op.results)]
    late = [op for op in graph.ops if not after.isdisjoint(op.results)]
    grads = graph.outputs[outputs:]
    needed = {v for op in late for v in op.operands} | {*grads}
    needed -= {*after, *cts}
    cheap = {*given, *graph.outputs[:outputs]}
    cut = _cut(ops, given, needed, cheap, sizes, AGAIN[recompute])
    kept = list(dict.fromkeys([*cut, *drawn]))
    backward = _backward(graph, kept, cts, grads)
    missing = _unbound(backward)
    kept += [v for v in given if v not in kept and missing & _plain(v)]
    missing = missing.difference(*map(_plain, kept))
    binds = [op for op in ops if op.name == "bind" and missing & _bound(op)]
    kept += [v for op in binds for v in op.operands if v not in kept]
    for name in sorted(missing.difference(*map(_bound, binds))):
        kept += _showing(name, ops, sizes)
    backward = _backward(graph, kept, cts, grads)
    backward = replace(backward, ops=(*binds, *backward.ops))
    if _unbound(backward):
        raise Unsupported("the gradient has sizes that only the program's run tells")
    ends = (*graph.outputs[:outputs], *kept)
    forward = replace(graph, inputs=given, ops=tuple(ops), outputs=ends)
    return Parts(prune(forward), backward, tuple(kept))


def _depending(graph: Graph, cts: Iterable[Value]) -> set[Value]:
    """The values computed from cotangents."""
    found = set(cts)
    for op in graph.ops:
        if not found.isdisjoint(op.operands):
            found.update(op.results)
    return found


def _cut(
    ops: Sequence[Op],
    given: Sequence[Value],
    needed: Iterable[Value],
    cheap: set[Value],
    sizes: Mapping[str, int],
    kinds: Sequence[str],
) -> list[Value]:
    """The values to keep, in the order that they are made.

    A node is a value before ("in") and after ("out") it is kept; what cannot be made
    again hangs on the source.
    """
    net = nx.DiGraph()
    net.add_edge("source", "sink", capacity=0)

    def node(value: Value, again: bool) -> None:
        weight = known(value.type.size, sizes) * BITS[value.dtype] // 8
        # To be written and read, or only read; a tie is cut near the inputs.
        cost = 2 * weight + 1 if value in cheap else 4 * weight + 2
        net.add_edge((value, "in"), (value, "out"), capacity=cost)
        if not again:
            net.add_edge("source", (value, "in"))

    for value in given:
        node(value, again=False)
    producers = {r: op for op in ops for r in op.results}
    for op in ops:
        again = op.name in PRIMS and PRIMS[op.name].kind in kinds
        again = again and not _finds_extremes(op, producers)
        for result in op.results:
            node(result, again)
            for operand in op.operands:
                net.add_edge((operand, "out"), (result, "in"))
    for value in needed:
        net.add_edge((value, "out"), "sink")
    _, (near, _) = nx.minimum_cut(net, "source", "sink")
    order = [*given, *(r for op in ops for r in op.results)]
    return [v for v in order if (v, "in") in near and (v, "out") not in near]


def _finds_extremes(op: Op, producers: Mapping[Value, Op]) -> bool:
    """Whether it tells which elements are their row's largest or smallest. Elements
    that another kernel computes again may differ in the last bit, and none be."""
    if op.name != "eq":
        return False
    x, bound = op.operands
    source = producers.get(bound)
    while source is not None and source.name in ("broadcast", "reshape"):
        source = producers.get(source.operands[0])
    if source is None or source.name not in ("reduce_max", "reduce_min"):
        return False
    return source.operands[0] is x


def _backward(
    graph: Graph, kept: Sequence[Value], cts: Sequence[Value], grads: Sequence[Value]
) -> Graph:
    """The ops from the kept values and cotangents to the gradients."""
    inputs = (*kept, *cts)
    wanted, ops = {*grads}, []
    for op in reversed(graph.ops):
        made = set(op.results) - set(inputs)
        if made & wanted:
            wanted.update(op.operands)
            ops.append(op)
    ops.reverse()
    return Graph(f"{graph.name}_backward", inputs, tuple(ops), tuple(grads))


def _showing(name: str, ops: Sequence[Op], sizes: Mapping[str, int]) -> list[Value]:
    """The smallest value that shows a size which only the run tells, if any."""
    values = [r for op in ops for r in op.results if name in _plain(r)]
    return sorted(values, key=lambda v: known(v.type.size, sizes))[:1]


def _plain(value: Value) -> set[str]:
    """The symbols that a tensor's shape shows as they are."""
    return {str(d) for d in value.shape if not isinstance(d, int) and d.is_Symbol}


def _bound(op: Op) -> set[str]:
    """The symbols that the items of a tensor set."""
    return symbols_of(*op.attrs["items"]) if op.name == "bind" else set()


def _unbound(graph: Graph) -> set[str]:
    """The symbols that a graph needs and none of its inputs shows."""
    shown = {name for v in graph.inputs for name in _plain(v)}
    shown.update(*map(_bound, graph.ops))
    values = [*graph.inputs, *(r for op in graph.ops for r in op.results)]
    found = symbols_of(*(d for v in values for d in v.shape))
    return (found | symbols_in([tuple(op.attrs.values()) for op in graph.ops])) - shown
