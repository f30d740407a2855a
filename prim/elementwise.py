"""Elementwise primitives: arithmetic, elementary functions, compare, select, cast.

All operands have one shape; the Builder inserts the broadcasts. Integers wrap, and
idiv and rem by 0 are 0, as in NumPy. What complex numbers take is split into real and
imaginary parts (passes/complex_parts.py) before there are kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import same_shape
from pirol.compiler.ir import (
    COMPLEX,
    DTYPES,
    FLOATS,
    HALVES,
    INEXACT,
    INTS,
    TensorType,
)
from pirol.prim.prim import Attrs, Prim, define, require

NUMBERS = FLOATS + INTS
ALL = (*NUMBERS, "bool")


def _same(name: str, allowed: Sequence[str], result: str | None = None) -> Any:
    def infer(types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
        first = types[0]
        shapes = all(same_shape(t.shape, first.shape) for t in types)
        dtypes = all(t.dtype == first.dtype for t in types)
        require(shapes and dtypes, name, types, "one shape and one dtype")
        require(first.dtype in allowed, name, types, f"a dtype of {', '.join(allowed)}")
        return (TensorType(first.shape, result or first.dtype),)

    return infer


def _unary(
    name: str, fn: Any, scalar: dict[str, str], vjp: Any, allowed: Any, cost: int = 1
) -> None:
    def back(b: Any, op: Any, cts: Any) -> Sequence[Any]:
        return (vjp(b, cts[0], op.operands[0], op.results[0]),)

    infer = _same(name, allowed)
    define(
        Prim(name, "elementwise", infer, fn, back if vjp else None, scalar, cost=cost)
    )


def _binary(
    name: str, fn: Any, scalar: dict[str, str], vjp: Any, allowed: Any, cost: int = 1
) -> None:
    def back(b: Any, op: Any, cts: Any) -> Sequence[Any]:
        return tuple(vjp(b, cts[0], *op.operands, op.results[0]))

    infer = _same(name, allowed)
    define(
        Prim(name, "elementwise", infer, fn, back if vjp else None, scalar, cost=cost)
    )


def _compare(name: str, fn: Callable[..., Any], sign: str, allowed: Any = ALL) -> None:
    infer = _same(name, allowed, result="bool")
    define(Prim(name, "compare", infer, fn, None, {"any": f"({{0}} {sign} {{1}})"}))


def _libm(name: str) -> dict[str, str]:
    return {"float": f"{name}{{f}}({{0}})"}


def _typed(fn: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, *rest: Any) -> Any:
        return np.asarray(fn(x, *rest)).astype(np.asarray(x).dtype, copy=False)

    return run


def _ties(first: str) -> Callable[..., Any]:
    """Gradient of max ("gt") or min ("lt"): the chosen operand's; ties share it evenly.
    The result is not asked: it might be of operands that differ in the last bit."""

    def run(b: Any, ct: Any, x: Any, y: Any, out: Any) -> Sequence[Any]:
        half, zero = b.mul(ct, 0.5), b.mul(ct, 0.0)
        shared, choose = b.eq(x, y), getattr(b, first)
        of_x = b.select(shared, half, b.select(choose(x, y), ct, zero))
        of_y = b.select(shared, half, b.select(choose(y, x), ct, zero))
        return of_x, of_y

    return run


def _signed(b: Any, ct: Any, x: Any) -> Any:
    """Gradient of abs: ct with the sign of x, 0 where x is 0."""
    positive = b.select(b.eq(x, 0), zeros_like(b, ct), ct)
    return b.select(b.lt(x, 0), b.neg(ct), positive)


def zeros_like(b: Any, ct: Any) -> Any:
    """Zeros; unlike ct * 0 they are 0 for an infinite ct too."""
    return b.const(value=0.0, shape=ct.shape, dtype=ct.dtype)


TWO_OVER_SQRT_PI = 1.1283791670955126

# name, NumPy meaning, scalar expression, gradient (b, ct, x, out), dtypes, cost
_unary(
    "neg",
    np.negative,
    {"float": "(-{0})", "int": "(({c})-({u}){0})"},
    lambda b, ct, x, y: b.neg(ct),
    NUMBERS + COMPLEX,
)
_unary(
    "abs",
    np.abs,
    {"float": "fabs{f}({0})", "int": "({0} < 0 ? ({c})-({u}){0} : {0})"},
    lambda b, ct, x, y: _signed(b, ct, x),
    NUMBERS,
)
_unary("exp", np.exp, _libm("exp"), lambda b, ct, x, y: b.mul(ct, y), INEXACT, 10)
_unary("log", np.log, _libm("log"), lambda b, ct, x, y: b.div(ct, x), INEXACT, 10)
_unary(
    "sqrt",
    np.sqrt,
    _libm("sqrt"),
    lambda b, ct, x, y: b.div(b.mul(ct, 0.5), y),
    INEXACT,
    4,
)
_unary(
    "rsqrt",
    _typed(lambda x: 1 / np.sqrt(x)),
    {"float": "(({c})1 / sqrt{f}({0}))"},
    lambda b, ct, x, y: b.mul(ct, b.mul(-0.5, b.div(y, x))),
    INEXACT,
    6,
)
_unary(
    "tanh",
    np.tanh,
    _libm("tanh"),
    lambda b, ct, x, y: b.mul(ct, b.sub(1.0, b.mul(y, y))),
    INEXACT,
    12,
)
_unary(  # one primitive: by parts, its gradient would be 0 * inf far below 0
    "sigmoid",
    _typed(lambda x: 1 / (1 + np.exp(-x))),
    {"float": "(({c})1 / (({c})1 + exp{f}(-{0})))"},
    lambda b, ct, x, y: b.mul(ct, b.mul(y, b.sub(1.0, y))),
    INEXACT,
    14,
)
_unary(
    "erf",
    _typed(np.vectorize(math.erf, otypes=[np.float64])),
    _libm("erf"),
    lambda b, ct, x, y: b.mul(ct, b.mul(TWO_OVER_SQRT_PI, b.exp(b.neg(b.mul(x, x))))),
    FLOATS,
    12,
)
_unary(
    "log1p",
    np.log1p,
    _libm("log1p"),
    lambda b, ct, x, y: b.div(ct, b.add(x, 1.0)),
    INEXACT,
    12,
)
_unary(
    "expm1",
    np.expm1,
    _libm("expm1"),
    lambda b, ct, x, y: b.mul(ct, b.add(y, 1.0)),
    INEXACT,
    12,
)
_unary(
    "sin",
    np.sin,
    _libm("sin"),
    lambda b, ct, x, y: b.mul(ct, b.cos(x)),
    INEXACT,
    12,
)
_unary(
    "cos",
    np.cos,
    _libm("cos"),
    lambda b, ct, x, y: b.neg(b.mul(ct, b.sin(x))),
    INEXACT,
    12,
)


def _with(name: str, fn: Any, slope: Any) -> None:
    """A function of libm; slope(b, x, y) is its derivative."""
    _unary(
        name,
        fn,
        _libm(name),
        lambda b, ct, x, y: b.mul(ct, slope(b, x, y)),
        INEXACT,
        12,
    )


def _beyond_one(b: Any, x: Any) -> Any:
    return b.add(b.mul(x, x), 1.0)


def _within_one(b: Any, x: Any) -> Any:
    return b.sub(1.0, b.mul(x, x))


def _acosh_slope(b: Any, x: Any, y: Any) -> Any:
    """Of complex numbers by two roots: one would have the wrong sign left of 0."""
    if x.dtype in COMPLEX:
        return b.mul(b.rsqrt(b.sub(x, 1.0)), b.rsqrt(b.add(x, 1.0)))
    return b.rsqrt(b.sub(b.mul(x, x), 1.0))


_with("log2", np.log2, lambda b, x, y: b.div(1 / math.log(2), x))
_with("log10", np.log10, lambda b, x, y: b.div(1 / math.log(10), x))
_with("tan", np.tan, lambda b, x, y: _beyond_one(b, y))
_with("asin", np.arcsin, lambda b, x, y: b.rsqrt(_within_one(b, x)))
_with("acos", np.arccos, lambda b, x, y: b.neg(b.rsqrt(_within_one(b, x))))
_with("atan", np.arctan, lambda b, x, y: b.div(1.0, _beyond_one(b, x)))
_with("sinh", np.sinh, lambda b, x, y: b.cosh(x))
_with("cosh", np.cosh, lambda b, x, y: b.sinh(x))
_with("asinh", np.arcsinh, lambda b, x, y: b.rsqrt(_beyond_one(b, x)))
_with("acosh", np.arccosh, _acosh_slope)
_with("atanh", np.arctanh, lambda b, x, y: b.div(1.0, _within_one(b, x)))


def _rounding(name: str, fn: Any, c: str) -> None:
    _unary(name, fn, _libm(c), lambda b, ct, x, y: b.mul(ct, 0.0), FLOATS)


_rounding("floor", np.floor, "floor")
_rounding("ceil", np.ceil, "ceil")
_rounding("round", np.rint, "rint")  # half to even
_rounding("trunc", np.trunc, "trunc")
_unary("not", np.invert, {"bool": "(!{0})", "int": "(~{0})"}, None, (*INTS, "bool"))

_binary(
    "add",
    np.add,
    {"float": "({0} + {1})", "int": "(({c})(({u}){0} + ({u}){1}))"},
    lambda b, ct, x, y, out: (ct, ct),
    NUMBERS + COMPLEX,
)
_binary(
    "sub",
    np.subtract,
    {"float": "({0} - {1})", "int": "(({c})(({u}){0} - ({u}){1}))"},
    lambda b, ct, x, y, out: (ct, b.neg(ct)),
    NUMBERS + COMPLEX,
)
_binary(
    "mul",
    np.multiply,
    {"float": "({0} * {1})", "int": "(({c})(({u}){0} * ({u}){1}))"},
    lambda b, ct, x, y, out: (b.mul(ct, y), b.mul(ct, x)),
    NUMBERS + COMPLEX,
)
_binary(
    "div",
    np.true_divide,
    {"float": "({0} / {1})"},
    lambda b, ct, x, y, out: (b.div(ct, y), b.neg(b.div(b.mul(ct, out), y))),
    INEXACT,
    4,
)
_binary(
    "max",
    np.maximum,
    {"float": "pr_max_{t}({0}, {1})", "any": "({0} > {1} ? {0} : {1})"},
    _ties("gt"),
    ALL,
)
_binary(
    "min",
    np.minimum,
    {"float": "pr_min_{t}({0}, {1})", "any": "({0} < {1} ? {0} : {1})"},
    _ties("lt"),
    ALL,
)


def _pow_vjp(b: Any, ct: Any, x: Any, y: Any, out: Any) -> Sequence[Any]:
    """0 for x where y is 0, and for y where the power is 0: no 0 * inf."""
    zero = zeros_like(b, ct)
    slope = b.mul(y, b.pow(x, b.sub(y, 1.0)))
    of_x = b.select(b.eq(y, 0.0), zero, b.mul(ct, slope))
    of_y = b.select(b.eq(out, 0.0), zero, b.mul(ct, b.mul(out, b.log(x))))
    return of_x, of_y


def _pow(x: Any, y: Any) -> Any:
    """As C's pow; for a single exponent of 0.5 NumPy takes sqrt: -inf gives NaN."""
    if np.iscomplexobj(x):
        return np.power(x, y)
    root = (y == 0.5) & ((x == 0) | np.isinf(x))
    return np.where(root, np.abs(x), np.power(x, y))


def _angle_vjp(b: Any, ct: Any, y: Any, x: Any, out: Any) -> Sequence[Any]:
    part = b.div(ct, b.add(b.mul(x, x), b.mul(y, y)))
    return b.mul(part, x), b.neg(b.mul(part, y))


def _hypot_vjp(b: Any, ct: Any, x: Any, y: Any, out: Any) -> Sequence[Any]:
    """0 where both are 0."""
    zero, none = b.eq(out, 0.0), zeros_like(b, ct)
    return tuple(b.select(zero, none, b.mul(ct, b.div(v, out))) for v in (x, y))


def _log_hypot(x: Any, y: Any) -> Any:
    """log(sqrt(x * x + y * y)); near 1, where it is small, by what is beyond 1."""
    wide = np.longdouble if np.asarray(x).dtype == np.float64 else np.float64
    x, y = (np.abs(v).astype(wide) for v in (x, y))
    large, less = np.maximum(x, y), np.minimum(x, y)
    beyond = np.log1p((large - 1) * (large + 1) + less * less) / 2
    near = (large > 0.5) & (large < 2)
    return np.where(near, beyond, np.log(np.hypot(x, y)))


def _log_hypot_vjp(b: Any, ct: Any, x: Any, y: Any, out: Any) -> Sequence[Any]:
    size = b.hypot(x, y)
    return tuple(b.mul(ct, b.div(b.div(v, size), size)) for v in (x, y))


def _copysign_vjp(b: Any, ct: Any, x: Any, y: Any, out: Any) -> Sequence[Any]:
    """ct, turned round where the sign is; 0 where x is 0."""
    turned = b.mul(ct, b.copysign(1.0, b.mul(b.copysign(1.0, x), b.copysign(1.0, y))))
    zero = zeros_like(b, ct)
    return b.select(b.eq(x, 0.0), zero, turned), zero


_binary("hypot", np.hypot, {"float": "pr_hypot_{t}({0}, {1})"}, _hypot_vjp, FLOATS, 8)
_binary(
    "log_hypot",
    _typed(_log_hypot),
    {"float": "pr_log_hypot_{t}({0}, {1})"},
    _log_hypot_vjp,
    FLOATS,
    20,
)
_binary(
    "copysign",
    np.copysign,
    {"float": "copysign{f}({0}, {1})"},
    _copysign_vjp,
    FLOATS,
)
_binary(
    "nextafter",
    np.nextafter,
    {"float": "nextafter{f}({0}, {1})"},
    None,
    ("float32", "float64"),
)
_binary("atan2", np.arctan2, {"float": "atan2{f}({0}, {1})"}, _angle_vjp, FLOATS, 16)
_binary("pow", _pow, {"float": "pow{f}({0}, {1})"}, _pow_vjp, INEXACT, 20)
_binary(
    "fmod",
    np.fmod,
    {"float": "pr_fmod_{t}({0}, {1})"},
    lambda b, ct, x, y, out: (ct, b.neg(b.mul(ct, b.trunc(b.div(x, y))))),
    FLOATS,
    20,
)


def _whole(fn: Any) -> Any:
    def run(x: Any, y: Any) -> Any:
        with np.errstate(divide="ignore", over="ignore"):
            return fn(x, y)

    return run


# Rounded down; the remainder has the divisor's sign.
_binary(
    "idiv",
    _whole(np.floor_divide),
    {"int": "pr_idiv_{t}({0}, {1})"},
    None,
    INTS,
    6,
)
_binary("rem", _whole(np.remainder), {"int": "pr_rem_{t}({0}, {1})"}, None, INTS, 6)
_binary("and", np.bitwise_and, {"any": "({0} & {1})"}, None, (*INTS, "bool"))
_binary("or", np.bitwise_or, {"any": "({0} | {1})"}, None, (*INTS, "bool"))
_binary("xor", np.bitwise_xor, {"any": "({0} ^ {1})"}, None, (*INTS, "bool"))
# By less than 0, or all bits, or more: 0, and right of numbers below 0: -1.
_binary("shift_left", np.left_shift, {"int": "pr_shl_{t}({0}, {1})"}, None, INTS)
_binary("shift_right", np.right_shift, {"int": "pr_shr_{t}({0}, {1})"}, None, INTS)

_compare("eq", np.equal, "==", ALL + COMPLEX)
_compare("ne", np.not_equal, "!=", ALL + COMPLEX)
_compare("lt", np.less, "<")
_compare("le", np.less_equal, "<=")
_compare("gt", np.greater, ">")
_compare("ge", np.greater_equal, ">=")


def _infer_select(types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    cond, x, y = types
    one_shape = all(same_shape(t.shape, x.shape) for t in (cond, y))
    ok = cond.dtype == "bool" and x.dtype == y.dtype and one_shape
    require(ok, "select", types, "bool, then two of one shape and dtype")
    return (x,)


def _select_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    cond, zero = op.operands[0], zeros_like(b, cts[0])
    return None, b.select(cond, cts[0], zero), b.select(cond, zero, cts[0])


define(
    Prim(
        "select",
        "select",
        _infer_select,
        np.where,
        _select_vjp,
        {"any": "({0} ? {1} : {2})"},
    )
)


def _infer_cast(types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    require(attrs["dtype"] in DTYPES, "cast", attrs["dtype"], "a dtype")
    return (TensorType(types[0].shape, attrs["dtype"]),)


def _cast(x: Any, *, dtype: str) -> Any:
    kind = np.dtype(DTYPES[dtype][1])
    x = np.real(x) if kind.kind not in "cb" else np.asarray(x)
    with np.errstate(invalid="ignore", over="ignore"):
        return (x.astype(np.float32) if dtype in HALVES else x).astype(kind)


def _cast_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    source = op.operands[0].dtype
    return (b.cast(cts[0], dtype=source) if source in INEXACT else None,)


define(Prim("cast", "cast", _infer_cast, _cast, _cast_vjp, {"any": "(({c}){0})"}))

SAME_BITS = {"float32": "int32", "float64": "int64"}
SAME_BITS |= {whole: number for number, whole in SAME_BITS.items()}


def _infer_bitcast(types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    got = (types[0].dtype, attrs["dtype"])
    ok = SAME_BITS.get(got[0]) == got[1]
    require(ok, "bitcast", got, "float32 and int32, or float64 and int64")
    return (TensorType(types[0].shape, attrs["dtype"]),)


def _bitcast(x: Any, *, dtype: str) -> Any:
    return np.ascontiguousarray(x).view(DTYPES[dtype][1]).reshape(np.shape(x))


# The number with the same bits.
define(
    Prim("bitcast", "cast", _infer_bitcast, _bitcast, None, {"any": "pr_bits_{t}({0})"})
)

# x itself; no gradient passes through it. Gone before kernels are made.
define(
    Prim(
        "stop_gradient",
        "stop",
        lambda types, attrs: (types[0],),
        lambda x: x,
    )
)
