"""Simplify a graph: peephole rules, constants folded, equal ops made one, dead gone.

Input and output: a graph of any level below "fused"; bodies are simplified too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pirol.compiler.dims import equal, same_shape
from pirol.compiler.ir import (
    COMPLEX,
    DTYPES,
    FLOATS,
    HALVES,
    Graph,
    Op,
    Value,
    prune,
    rename,
)
from pirol.prim import PRIMS, Builder
from pirol.prim.prim import ELEMENTWISE, WIDE

Rule = Callable[[Builder, Op], "Value | None"]


def canonicalize(graph: Graph) -> Graph:
    """The simplified graph; the same object where nothing could be done."""
    while True:
        changed = _once(graph)
        if changed is graph:
            return graph
        graph = changed


def _once(graph: Graph) -> Graph:
    b = Builder()
    replaced: dict[Value, Value] = {}
    seen: dict[Any, Op] = {}
    for op in graph.ops:
        op = _with_body(_renamed(op, replaced))
        b.line = op.line
        if op.name == "check" and _constant_of(b, op.operands[0]) is True:
            continue
        value = _simplified(b, op)
        if value is not None:
            replaced[op.result] = value
            continue
        twin = seen.setdefault(_key(op), op)
        if twin is op:
            b.add_op(op)
        else:
            replaced.update(zip(op.results, twin.results))
    result = prune(rename(graph.with_ops(b.ops), replaced))
    same = len(result.ops) == len(graph.ops)
    return graph if same and all(map(_is, result.ops, graph.ops)) else result


def _is(a: Op, b: Op) -> bool:
    return a is b


def _renamed(op: Op, replaced: Mapping[Value, Value]) -> Op:
    operands = tuple(replaced.get(v, v) for v in op.operands)
    same = all(a is b for a, b in zip(operands, op.operands))
    return op if same else replace(op, operands=operands)


def _with_body(op: Op) -> Op:
    if op.body is None:
        return op
    body = canonicalize(op.body)
    return op if body is op.body else replace(op, body=body)


def _key(op: Op) -> Any:
    if op.body is not None or op.name not in PRIMS or op.attrs.get("effect"):
        return id(op)
    attrs = tuple(sorted((k, _exact(v)) for k, v in op.attrs.items()))
    return op.name, op.operands, attrs


def _exact(value: Any) -> Any:
    """Text in which 0.0 and -0.0, 1 and 1.0 and True differ."""
    return repr(value)


def _simplified(b: Builder, op: Op) -> Value | None:
    if op.body is not None or op.name not in PRIMS:
        return None
    for rule in (*RULES.get(op.name, ()), _fold):
        value = rule(b, op)
        if value is not None:
            return value
    return None


def _fold(b: Builder, op: Op) -> Value | None:
    """An elementwise op on constants -> a constant; of halves only what is exact."""
    if PRIMS[op.name].kind not in ELEMENTWISE:
        return None
    if op.name != "cast" and any(v.dtype in HALVES for v in op.operands):
        return None
    sources = [b.producers.get(v) for v in op.operands]
    values = [s.attrs["value"] for s in sources if s is not None and s.name == "const"]
    numbers = all(isinstance(v, (int, float, bool)) for v in values)
    if len(values) != len(sources) or not numbers:
        return None
    arrays = [
        np.asarray(v).astype(DTYPES[x.dtype][1]) for v, x in zip(values, op.operands)
    ]
    with np.errstate(all="ignore"):
        found = np.asarray(PRIMS[op.name].numpy(*arrays, **op.attrs))
    kind = op.result.type
    value = found.astype(DTYPES[kind.dtype][1]).item()
    return _const(b, value, kind.shape, kind.dtype)


def _const(b: Builder, value: Any, shape: Any, dtype: str) -> Value:
    result: Value = b.const(value=value, shape=shape, dtype=dtype)
    return result


def _same_type(b: Builder, op: Op) -> Value | None:
    """cast, reshape, broadcast to what it is already -> x"""
    x, kind = op.operands[0], op.result.type
    return x if x.dtype == kind.dtype and same_shape(x.shape, kind.shape) else None


def cast_back(b: Builder, op: Op) -> Value | None:
    """a half widened and rounded to what it was -> the half"""
    inner = b.producers.get(op.operands[0])
    if inner is None or inner.name != "cast" or op.operands[0].dtype != WIDE:
        return None
    x = inner.operands[0]
    return x if x.dtype == op.result.dtype and x.dtype in HALVES else None


def _reshape_twice(b: Builder, op: Op) -> Value | None:
    """reshape(reshape(x)) -> reshape(x)"""
    inner = b.producers.get(op.operands[0])
    if inner is None or inner.name != "reshape":
        return None
    result: Value = b.reshape(inner.operands[0], shape=op.result.shape)
    return result


def _transpose_none(b: Builder, op: Op) -> Value | None:
    """transpose(x, identity) -> x"""
    perm = tuple(op.attrs["perm"])
    return op.operands[0] if perm == tuple(range(len(perm))) else None


def _transpose_twice(b: Builder, op: Op) -> Value | None:
    """transpose(transpose(x, p), q) -> transpose(x, p o q)"""
    inner = b.producers.get(op.operands[0])
    if inner is None or inner.name != "transpose":
        return None
    perm = tuple(inner.attrs["perm"][k] for k in op.attrs["perm"])
    result: Value = b.transpose(inner.operands[0], perm=perm)
    return result


def _moved_const(b: Builder, op: Op) -> Value | None:
    """reshape, transpose, broadcast, slice of a constant -> constant"""
    inner = b.producers.get(op.operands[0])
    if inner is None or inner.name != "const":
        return None
    return _const(b, inner.attrs["value"], op.result.shape, op.result.dtype)


def _whole_slice(b: Builder, op: Op) -> Value | None:
    """slice of everything -> x"""
    x = op.operands[0]
    whole = same_shape(x.shape, op.result.shape)
    whole = whole and all(equal(s, 0) is True for s in op.attrs["starts"])
    return x if whole and all(s == 1 for s in op.attrs["steps"]) else None


def _one_part(b: Builder, op: Op) -> Value | None:
    """concat(x) -> x"""
    return op.operands[0] if len(op.operands) == 1 else None


def _no_axes(b: Builder, op: Op) -> Value | None:
    """a reduction over no axes -> x"""
    return None if op.attrs["axes"] else op.operands[0]


def _no_pad(b: Builder, op: Op) -> Value | None:
    """pad by nothing -> x"""
    parts = (*op.attrs["low"], *op.attrs["high"], *op.attrs["interior"])
    return op.operands[0] if all(equal(p, 0) is True for p in parts) else None


def _decided(b: Builder, op: Op) -> Value | None:
    """select(True, x, y) -> x; select(False, x, y) -> y"""
    sure = _constant_of(b, op.operands[0])
    return None if sure is None else op.operands[1 if sure else 2]


def _constant_of(b: Builder, value: Value) -> Any:
    source = b.producers.get(value)
    return (
        source.attrs["value"] if source is not None and source.name == "const" else None
    )


def _neutral(unit: Any, sides: tuple[int, ...]) -> Rule:
    def rule(b: Builder, op: Op) -> Value | None:
        for side in sides:
            number = _constant_of(b, op.operands[side])
            plain = isinstance(number, (int, float)) and not isinstance(number, bool)
            if plain and _exact(float(number)) == _exact(float(unit)):
                return op.operands[1 - side]
        return None

    return rule


def _add_zero(b: Builder, op: Op) -> Value | None:
    """x + (-0.0) -> x for floats (0.0 would turn -0.0 into 0.0); x + 0 for integers"""
    if op.result.dtype in COMPLEX:
        return None
    unit = -0.0 if op.result.dtype in FLOATS else 0
    return _neutral(unit, (0, 1))(b, op)


def _twice(b: Builder, op: Op) -> Value | None:
    """-(-x), conj(conj(x)) -> x"""
    inner = b.producers.get(op.operands[0])
    return inner.operands[0] if inner is not None and inner.name == op.name else None


def _conj_around(b: Builder, op: Op) -> Value | None:
    """conj(fft(conj(x))) -> the transform of x the other way round"""
    inner = b.producers.get(op.operands[0])
    if inner is None or inner.name != "fft":
        return None
    first = b.producers.get(inner.operands[0])
    if first is None or first.name != "conj":
        return None
    attrs = {**inner.attrs, "forward": not inner.attrs["forward"]}
    found: Value = b.fft(first.operands[0], **attrs)
    return found


def _one_term(b: Builder, op: Op) -> Value | None:
    """dot_general over dims of 1 -> x * y, which fusion takes anywhere"""
    (x, y), at, shape = op.operands, op.attrs, op.result.shape
    one = all(equal(x.shape[k], 1) is True for k in at["x_sum"])
    if x.dtype not in FLOATS or not one:
        return None
    both = len(at["x_batch"])
    first = x.type.rank - len(at["x_sum"])  # of y's own dims
    parts = []
    for value, side, start in ((x, "x", both), (y, "y", first)):
        batch, gone = at[f"{side}_batch"], at[f"{side}_sum"]
        own = [k for k in range(value.type.rank) if k not in (*batch, *gone)]
        turned = b.transpose(value, perm=(*batch, *own, *gone))
        plain = b.reshape(turned, shape=turned.shape[: both + len(own)])
        places = (*range(both), *range(start, start + len(own)))
        parts.append(b.broadcast(plain, shape=shape, dims=places))
    product: Value = b.mul(*parts)
    return product


RULES: dict[str, tuple[Rule, ...]] = {
    "dot_general": (_one_term,),
    "neg": (_twice,),
    "conj": (_twice, _conj_around),
    "cast": (_same_type, cast_back),
    "reshape": (_same_type, _reshape_twice, _moved_const),
    "broadcast": (_same_type, _moved_const),
    "transpose": (_transpose_none, _transpose_twice, _moved_const),
    "slice": (_whole_slice, _moved_const),
    "pad": (_no_pad,),
    "select": (_decided,),
    "concat": (_one_part,),
    "reduce_sum": (_no_axes,),
    "reduce_max": (_no_axes,),
    "reduce_min": (_no_axes,),
    "mul": (_neutral(1, (0, 1)),),
    "div": (_neutral(1, (1,)),),
    "sub": (_neutral(0.0, (1,)),),
    "add": (_add_zero,),
}
