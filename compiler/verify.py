"""The verifier: what must hold of a graph at each level; raises VerifyError.

Levels: "pir" (Paddle's ops), "calls" (primitives, calls, opaque), "flat"
(primitives, claimed calls, opaque), "fused" (groups, claimed calls, opaque, check).
"""

from __future__ import annotations

from pirol.compiler.dims import same_shape
from pirol.compiler.errors import ShapeError, VerifyError
from pirol.compiler.ir import Graph, Op, Value
from pirol.prim import PRIMS
from pirol.prim.prim import STEPS

LEVELS = ("pir", "calls", "flat", "fused")


def verify(graph: Graph, level: str) -> None:
    """Check order, types and the ops allowed at this level."""
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}")
    _scope(graph, level)


def _scope(graph: Graph, level: str) -> None:
    seen: set[Value] = set(graph.inputs)
    for op in graph.ops:
        for operand in op.operands:
            _check(operand in seen, op, "reads a value that is not defined before it")
        _allowed(op, level)
        _types(op)
        if op.body is not None:
            _body(op, level)
        for branch in op.branches:
            _scope(branch, "pir")
            levels = op.attrs.get("gradient", ())
            cotangents = sum(len(given) for _, given in levels)
            count = len(op.operands) - cotangents == len(branch.inputs) + 1
            _check(count, op, "operands do not fit a branch")
        for result in op.results:
            _check(result not in seen, op, "defines a value twice")
            seen.add(result)
    for value in graph.results:
        if value not in seen:
            raise VerifyError(f"graph {graph.name}: returns a value nobody defines")
    for index, value in graph.writes:
        kind = graph.inputs[index].type
        same = value.dtype == kind.dtype and same_shape(value.shape, kind.shape)
        if level != "pir" and not same:
            raise VerifyError(f"graph {graph.name}: write {index} changes the type")


def _check(ok: bool, op: Op, what: str) -> None:
    if not ok:
        raise VerifyError(f"{op.title} {op.line}: {what}")


def _allowed(op: Op, level: str) -> None:
    if level == "pir":
        return
    match op.name:
        case "opaque":
            ok = op.body is None
        case "pd_op.if" | "pd_op.while":
            ok = len(op.branches) == (2 if op.name == "pd_op.if" else 1)
        case "call":
            ok = op.body is not None and (level == "calls" or "claimed" in op.attrs)
        case "group":
            ok = op.body is not None and level == "fused"
        case _:
            prim = PRIMS.get(op.name)
            ok = prim is not None and (level != "fused" or prim.kind in STEPS)
    _check(ok, op, f"op {op.name} is not allowed at level {level}")


def _types(op: Op) -> None:
    prim = PRIMS.get(op.name)
    if prim is None:
        return
    try:
        types = prim.infer([v.type for v in op.operands], op.attrs)
    except ShapeError as error:
        raise VerifyError(f"{op.name} {op.line}: {error}") from error
    _check(len(types) == len(op.results), op, "wrong number of results")
    for expected, result in zip(types, op.results):
        ok = expected.dtype == result.dtype and same_shape(expected.shape, result.shape)
        _check(ok, op, f"result is {result.type}, its rule says {expected}")


def _body(op: Op, level: str) -> None:
    body = op.body
    assert body is not None
    _scope(body, "flat" if level == "fused" else level)
    pairs = [*zip(op.operands, body.inputs), *zip(op.results, body.outputs)]
    same_length = len(op.operands) == len(body.inputs)
    same_length = same_length and len(op.results) == len(body.outputs)
    ok = same_length and all(
        a.dtype == b.dtype and same_shape(a.shape, b.shape) for a, b in pairs
    )
    _check(ok, op, "operands or results do not fit the body")
