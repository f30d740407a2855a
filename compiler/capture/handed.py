"""Inputs that a program writes, and also hands on as they were before.

old = buffer.clone(); buffer.add_(x); return old      swap: x[:] = y; y[:] = a

A plan's writes come last, one by one, and what is an input's own memory would then be
what was written there. Such a program reads a copy, made before each call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pirol.compiler.capture.reader import Program
from pirol.compiler.ir import Graph, Op, Value
from pirol.compiler.pipeline import Run, flatten
from pirol.prim import PRIMS, Facts


def with_copies(program: Program, hints: Mapping[str, int]) -> Program:
    """The program, with copies of such inputs as its last inputs."""
    graph = program.graph
    if program.copies or not _may_hand_on(graph):
        return program
    handed = _handed_on(flatten(graph, Facts(dict(hints)), Run()))
    if not handed:
        return program
    new = {graph.inputs[k]: Value(graph.inputs[k].type) for k in handed}
    made = Graph(
        graph.name,
        (*graph.inputs, *new.values()),
        tuple(_reading(op, new) for op in graph.ops),
        tuple(new.get(v, v) for v in graph.outputs),
        tuple((k, new.get(v, v)) for k, v in graph.writes),
        graph.guards,
    )
    inputs = [*program.inputs, *(program.inputs[k] for k in handed)]
    return replace(program, graph=made, inputs=inputs, copies=len(handed))


def _may_hand_on(graph: Graph) -> bool:
    """Whether a closer look is needed: batch_norm_ alone reads its statistics."""
    users = graph.users()
    for place, _ in graph.writes:
        value = graph.inputs[place]
        readers = {op.name for op in users.get(value, ())}
        if value in graph.results or readers - {"pd_op.batch_norm_"}:
            return True
    return False


def _reading(op: Op, new: Mapping[Value, Value]) -> Op:
    operands = tuple(new.get(v, v) for v in op.operands)
    return op if operands == op.operands else replace(op, operands=operands)


def _handed_on(flat: Graph) -> list[int]:
    """The inputs that are written, and are results too, or written elsewhere."""
    producers = {r: op for op in flat.ops for r in op.results}
    places = {v: k for k, v in enumerate(flat.inputs)}

    def source(value: Value) -> int | None:
        while value in producers:
            op = producers[value]
            if op.name not in PRIMS or PRIMS[op.name].kind not in ("movement", "stop"):
                return None
            value = op.operands[0]
        return places.get(value)

    written = {at for at, _ in flat.writes}
    ends = {source(v) for v in flat.outputs}
    ends |= {k for at, v in flat.writes if (k := source(v)) != at}
    return [k for k in range(len(flat.inputs)) if k in written & ends]
