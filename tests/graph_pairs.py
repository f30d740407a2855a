"""Pairs (primitive, dtype): those that kernels have, and those that a graph has."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from graph_meaning import ALL_KINDS, KINDS

from pirol.compiler.errors import ShapeError
from pirol.compiler.ir import FLOATS, HALVES, Graph, Op, TensorType
from pirol.prim import PRIMS

LOWERED = ("elementwise", "compare", "select", "cast", "creation", "movement")
LOWERED += ("reduce", "window", "scan", "put")
UNARY = {
    "float": (
        *("neg", "abs", "exp", "log", "sqrt", "rsqrt", "tanh", "erf", "floor", "ceil"),
        *("round", "trunc", "log1p", "expm1", "sin", "cos", "sigmoid", "log2"),
        *("log10", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh"),
        *("atanh", "lgamma", "erfinv", "i0", "i0e", "i1", "i1e"),
    ),
    "int": ("neg", "abs", "not"),
    "bool": ("not",),
}
BINARY = {
    "float": (
        *("add", "sub", "mul", "div", "max", "min", "pow", "fmod", "atan2", "hypot"),
        *("log_hypot", "copysign", "nextafter", "polygamma"),
    ),
    "int": (
        *("add", "sub", "mul", "max", "min", "and", "or", "xor", "idiv", "rem"),
        *("shift_left", "shift_right"),
    ),
    "bool": ("and", "or", "xor", "max", "min"),
}


def binary_of(dtype: str) -> tuple[str, ...]:
    """Those of two operands of a dtype; the number next to a half is no primitive's."""
    names = BINARY[class_of(dtype)]
    return tuple(n for n in names if n != "nextafter" or dtype not in HALVES)


NUMBERS_ONLY = ("reduce_sum", "reduce_prod", "window_max", "window_sum", "cumsum")
NUMBERS_ONLY += ("cumprod", "cummax", "cummin")
CASTS = ("cast", "bitcast")  # the bits of NaN are nobody's promise
Pair = tuple[str, str]


def class_of(dtype: str) -> str:
    """float, int or bool."""
    if dtype == "bool":
        return "bool"
    return "float" if dtype in FLOATS else "int"


def accepts(name: str, dtype: str) -> bool:
    """Whether a primitive that kernels have takes the dtype."""
    prim, x = PRIMS[name], TensorType((2,), dtype)
    if dtype in HALVES:
        return prim.kind in ("movement", "put", "select") or name == "const"
    if name == "dot_general":
        return dtype != "bool"
    if prim.kind in ("window", "scan"):
        return dtype != "bool"
    if prim.kind not in ("elementwise", "compare", "reduce"):
        return True
    attrs: dict[str, Any] = {"axes": (0,)} if prim.kind == "reduce" else {}
    for types in ([x], [x, x]):
        try:
            prim.infer(types, attrs)
            return True
        except (ShapeError, IndexError, ValueError):
            continue
    return False


@functools.cache
def legal_pairs() -> tuple[Pair, ...]:
    """Every pair that kernels have; a cast counts for each dtype that it gives."""
    names = [n for n, p in PRIMS.items() if p.kind in LOWERED and n not in CASTS]
    names.append("dot_general")
    plain = [(n, d) for n in names for d in ALL_KINDS if accepts(n, d)]
    casts = [(to, d) for to in KINDS for d in KINDS]
    casts += [pair for h in HALVES for pair in ((h, "float32"), ("float32", h))]
    return (*plain, *((f"cast to {to}", d) for to, d in casts))


def pairs_of(graph: Graph) -> Iterator[Pair]:
    """The pair of each op: the dtype is that of its (last) operand, if it has any."""
    for op in graph.ops:
        yield (f"cast to {op.result.dtype}" if op.name == "cast" else op.name), _of(op)


def _of(op: Op) -> str:
    if op.name in ("gather", "put"):  # the indices come behind
        return op.operands[0].dtype
    return (*op.results[:1], *op.operands)[-1].dtype
