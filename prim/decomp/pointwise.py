"""Elementwise Paddle ops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pirol.compiler import dims
from pirol.compiler.ir import COMPLEX, FLOATS, HALVES, INEXACT, INTS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import decomposes, need

NUMBERS = (*FLOATS, *INTS)


def _one_dtype(x: Value, y: Value) -> None:
    need(x.dtype == y.dtype, f"operands of two dtypes, {x.dtype} and {y.dtype}")


def _binary(name: str, prim: str, floats_only: bool = False) -> None:
    @decomposes(f"pd_op.{name}", compute_in="float32")
    def run(b: Builder, x: Value, y: Value) -> Any:
        _one_dtype(x, y)
        need(not floats_only or x.dtype in INEXACT, f"{name} of {x.dtype}")
        need(x.dtype != "bool" or prim in OF_BOOL, f"{name} of bool")
        chosen = OF_BOOL[prim] if x.dtype == "bool" else prim
        return getattr(b, chosen)(x, y)


# What a binary primitive is on bools.
OF_BOOL = {p: p for p in ("eq", "ne", "lt", "le", "gt", "ge", "max", "min")}
OF_BOOL |= {"add": "or_", "mul": "and_"}

for _name, _prim in {
    "add": "add",
    "subtract": "sub",
    "multiply": "mul",
    "maximum": "max",
    "minimum": "min",
    "less_than": "lt",
    "less_equal": "le",
    "greater_than": "gt",
    "greater_equal": "ge",
}.items():
    _binary(_name, _prim)
_binary("divide", "div", floats_only=True)


@decomposes("pd_op.atan2", compute_in="float32")
def atan2(b: Builder, x: Value, y: Value) -> Any:
    """The angle of (y, x); of integers in float64."""
    _one_dtype(x, y)
    if x.dtype in INTS:
        x, y = b.cast(x, dtype="float64"), b.cast(y, dtype="float64")
    need(x.dtype in FLOATS, f"atan2 of {x.dtype}")
    return b.atan2(x, y)


@decomposes("pd_op.equal", compute_in="float32")
def equal(b: Builder, x: Value, y: Value) -> Any:
    """Equal; floats also where they differ by less than 1e-15, as Paddle's do."""
    _one_dtype(x, y)
    same = b.eq(x, y)
    if x.dtype not in FLOATS:
        return same
    return b.or_(same, b.lt(b.abs(b.sub(x, y)), 1e-15))


@decomposes("pd_op.not_equal", compute_in="float32")
def not_equal(b: Builder, x: Value, y: Value) -> Any:
    """Not what `equal` is."""
    return b.not_(equal(b, x, y))


def _unary(name: str) -> None:
    @decomposes(f"pd_op.{name}", compute_in="float32")
    def run(b: Builder, x: Value) -> Any:
        if x.dtype in OF_INTS and name in TAKE_INTS:
            x = b.cast(x, dtype="float32")
        need(x.dtype in INEXACT, f"{name} of {x.dtype}")
        return getattr(b, name)(x)


OF_INTS = ("int32", "int64")  # for which Paddle has kernels that give float32
TAKE_INTS = ("exp", "expm1", "log", "log2", "log10", "log1p")
for _name in ("exp", "log", "sqrt", "rsqrt", "tanh", "erf", "sin", "cos"):
    _unary(_name)
for _name in ("log1p", "expm1", "log2", "log10", "tan", "asin", "acos", "atan"):
    _unary(_name)
for _name in ("sinh", "cosh", "asinh", "acosh", "atanh"):
    _unary(_name)


def _rounding(name: str, operand: str = "x") -> None:
    @decomposes(f"pd_op.{name}", compute_in="float32", operands=operand)
    def run(b: Builder, x: Value) -> Any:
        need(x.dtype != "bool", f"{name} of bool")
        return getattr(b, name)(x) if x.dtype in FLOATS else x


_rounding("floor")
_rounding("ceil")
_rounding("trunc", "input")


@decomposes("pd_op.round", compute_in="float32")
def round_(b: Builder, x: Value, *, decimals: int) -> Any:
    """x to so many decimals (fewer than 0: to tens, hundreds..), a half to even."""
    need(x.dtype in NUMBERS, f"round of {x.dtype}")
    if x.dtype not in FLOATS:
        need(decimals == 0, "round of integers to decimals")
        return x
    if decimals == 0:
        return b.round(x)
    there, back = ("mul", "div") if decimals > 0 else ("div", "mul")
    step = 10.0 ** abs(decimals)
    whole = getattr(b, back)(b.round(getattr(b, there)(x, step)), step)
    return b.select(_finite(b, x), whole, x)


def _finite(b: Builder, x: Value) -> Any:
    return b.lt(b.abs(x), math.inf)


def _about(name: str, of_integers: bool, prim: str, bound: float) -> None:
    """isnan, isinf and isfinite: a comparison of |x|, and a constant for integers."""

    @decomposes(f"pd_op.{name}", compute_in="float32")
    def run(b: Builder, x: Value) -> Any:
        need(x.dtype in (*NUMBERS, *COMPLEX), f"{name} of {x.dtype}")
        if x.dtype in INTS:
            return b.const(value=of_integers, shape=x.shape, dtype="bool")
        parts = (b.real(x), b.imag(x)) if x.dtype in COMPLEX else (x,)
        sizes = [b.abs(part) for part in parts]
        told = [getattr(b, prim)(s, s if math.isnan(bound) else bound) for s in sizes]
        return (b.and_ if of_integers else b.or_)(*told) if told[1:] else told[0]


_about("isnan", False, "ne", math.nan)
_about("isinf", False, "eq", math.inf)
_about("isfinite", True, "lt", math.inf)


@decomposes("pd_op.sign", compute_in="float32")
def sign(b: Builder, x: Value) -> Any:
    """1, -1, 0 for both zeros, and NaN."""
    need(x.dtype in NUMBERS, f"sign of {x.dtype}")
    one = b.const(value=1, shape=x.shape, dtype=x.dtype)
    below = b.select(b.lt(x, 0), b.neg(one), b.abs(x))
    return b.select(b.gt(x, 0), one, below)


@decomposes("pd_op.full_batch_size_like")
def number_like(
    b: Builder, x: Value, *, shape: Any, dtype: str, value: float, input_dim_idx: int,
    output_dim_idx: int,
) -> Any:  # fmt: skip
    """The number that Paddle writes out in x's shape for `2.0 ** x` and `3 / x`."""
    same = len(shape) == x.type.rank and input_dim_idx == output_dim_idx
    need(same, "full_batch_size_like in another shape")
    known = zip(shape, x.shape)
    whole = all(d < 0 or dims.equal(d, size) is not False for d, size in known)
    need(whole, "full_batch_size_like in another shape")
    item = value if dtype in FLOATS else int(value)
    return b.const(value=item, shape=x.shape, dtype=dtype)


@decomposes("pd_op.reciprocal", compute_in="float32")
def reciprocal(b: Builder, x: Value) -> Any:
    """1 / x"""
    need(x.dtype in INEXACT, f"reciprocal of {x.dtype}")
    return b.div(1.0, x)


@decomposes("pd_op.add_n", compute_in="float32", operands="inputs")
def add_n(b: Builder, inputs: list[Value]) -> Any:
    """The sum of the tensors, from the first on."""
    need(all(v.dtype != "bool" for v in inputs), "add_n of bools")
    total = inputs[0]
    for value in inputs[1:]:
        _one_dtype(total, value)
        total = b.add(total, value)
    return total


@decomposes("pd_op.floor_divide", compute_in="float32")
def floor_divide(b: Builder, x: Value, y: Value) -> Any:
    """x / y rounded down, as Python's //; of integers by 0, Paddle is left to raise."""
    _one_dtype(x, y)
    need(x.dtype in NUMBERS, f"floor_divide of {x.dtype}")
    if x.dtype not in FLOATS:
        _divisor_is_not_zero(b, y)
        return b.idiv(x, y)
    rest = b.fmod(x, y)
    quotient = b.div(b.sub(x, rest), y)
    one = b.cast(_other_sign(b, rest, y), dtype=x.dtype)
    quotient = b.sub(quotient, one)  # whole, but for its own rounding
    whole = b.floor(quotient)
    over = b.gt(b.sub(quotient, whole), 0.5)
    whole = b.add(whole, b.cast(over, dtype=x.dtype))
    plain = b.div(x, y)
    whole = b.select(b.eq(whole, 0.0), b.mul(plain, 0.0), whole)
    return b.select(b.eq(y, 0.0), plain, whole)


@decomposes("pd_op.remainder", compute_in="float32")
def remainder(b: Builder, x: Value, y: Value) -> Any:
    """x - y * floor(x / y), exact, with y's sign; of integers by 0, Paddle raises."""
    _one_dtype(x, y)
    need(x.dtype in NUMBERS, f"remainder of {x.dtype}")
    if x.dtype not in FLOATS:
        _divisor_is_not_zero(b, y)
        return b.rem(x, y)
    rest = b.fmod(x, y)
    return b.select(_other_sign(b, rest, y), b.add(rest, y), rest)


def _other_sign(b: Builder, rest: Value, y: Value) -> Any:
    return b.and_(b.ne(rest, 0.0), b.ne(b.lt(rest, 0.0), b.lt(y, 0.0)))


def _divisor_is_not_zero(b: Builder, y: Value) -> None:
    known = b.known(y)
    need(known is None or 0 not in known, "a divisor is 0")
    if known is None or not all(isinstance(d, int) or d.is_positive for d in known):
        b.check(b.ne(y, 0), "a divisor is 0")


@decomposes("pd_op.pow", compute_in="float32")
def pow_(b: Builder, x: Value, *, y: float) -> Any:
    """x ** y; an integer's exponent is cut off to an integer."""
    need(x.dtype != "bool", "pow of bool")
    return power(b, x, y)


@decomposes("pd_op.elementwise_pow", compute_in="float32")
def elementwise_pow(b: Builder, x: Value, y: Value) -> Any:
    """x ** y; of integers rounded from that of float64, as Paddle has it."""
    _one_dtype(x, y)
    need(x.dtype != "bool", "elementwise_pow of bool")
    known = b.known(y)
    if known is not None and len(known) == 1 and isinstance(known[0], (int, float)):
        shape = b.broadcast_shape(x.shape, y.shape)
        return power(b, b.broadcast_to(x, shape), known[0])
    if x.dtype in INEXACT:
        return b.pow(x, y)
    found = b.pow(b.cast(x, dtype="float64"), b.cast(y, dtype="float64"))
    return b.cast(b.round(found), dtype=x.dtype)


def power(b: Builder, x: Value, exponent: float) -> Any:
    """x ** exponent, by multiplying and roots where that has pow's special values."""
    if x.dtype in INTS:
        need(0 <= exponent < 2**31, f"integers to the power of {exponent}")
        return _multiplied(b, x, int(exponent))
    if exponent in (0, 1, 2, 3, 4):
        return _multiplied(b, x, int(exponent))
    if exponent == -1:
        return b.div(1.0, x)
    if exponent in (0.5, -0.5) and x.dtype in FLOATS:
        # pow(-0.0, 0.5) is 0.0 and pow(-inf, 0.5) is inf.
        root = b.add(b.sqrt(x), 0.0)
        root = b.select(b.eq(x, -math.inf), b.abs(x), root)
        return root if exponent > 0 else b.div(1.0, root)
    return b.pow(x, float(exponent))


def _multiplied(b: Builder, x: Value, times: int) -> Value:
    """x * x * .. by squaring."""
    found: Value | None = None
    while times:
        if times % 2:
            found = x if found is None else b.mul(found, x)
        times //= 2
        x = b.mul(x, x) if times else x
    return b.const(value=1, shape=x.shape, dtype=x.dtype) if found is None else found


@decomposes("pd_op.clip", compute_in="float32", operands="x min max")
def clip(b: Builder, x: Value, low: Value, high: Value) -> Any:
    """low where x < low, high where x > high, else x; NaN stays.

    The ends have no gradient, as in Paddle.
    """
    need(x.dtype in NUMBERS, f"clip of {x.dtype}")
    least, most = _scalar(b, low, x), _scalar(b, high, x)
    if isinstance(least, Value) or isinstance(most, Value):
        ends = [_as_value(b, end, x) for end in (least, most)]
        b.check(b.le(*ends), "clip's min is over its max")
    else:
        need(least <= most, f"clip to {least}..{most}")
    below = b.select(b.lt(x, least), _as_value(b, least, x), x)
    return b.select(b.gt(x, most), _as_value(b, most, x), below)


def _as_value(b: Builder, number: Any, like: Value) -> Any:
    if isinstance(number, Value):
        return number
    return b.const(value=number, shape=(), dtype=like.dtype)


def _scalar(b: Builder, value: Value, like: Value) -> Any:
    """A scalar operand in the dtype of `like`: its number where known, or a Value."""
    known = b.known(value)
    if known is None or not isinstance(known[0], (int, float)):
        return b.cast(b.reshape(b.stop_gradient(value), shape=()), dtype=like.dtype)
    if like.dtype in FLOATS:
        return float(known[0])
    bounds = np.iinfo(like.dtype)
    return max(bounds.min, min(bounds.max, int(known[0])))


@decomposes("pd_op.masked_fill")
def masked_fill(b: Builder, x: Value, mask: Value, value: Value) -> Any:
    """The value where the mask holds, else x; all broadcast together."""
    need(mask.dtype == "bool", f"a mask of {mask.dtype}")
    if x.dtype in HALVES:  # in mixed precision, constants stay float32
        value = b.cast(value, dtype=x.dtype)
    _one_dtype(x, value)
    return b.select(mask, value, x)


@decomposes("pd_op.abs")
def absolute(b: Builder, x: Value) -> Any:
    """|x|"""
    return size(b, x)


def size(b: Builder, x: Value) -> Any:
    """|x|, a real number for complex ones."""
    if x.dtype in COMPLEX:
        return b.hypot(b.real(x), b.imag(x))
    return b.abs(x)


@decomposes("pd_op.square", compute_in="float32")
def square(b: Builder, x: Value) -> Any:
    """x * x"""
    return b.mul(x, x)


@decomposes("pd_op.scale", compute_in="float32")
def scale(
    b: Builder, x: Value, factor: Value, *, bias: float, bias_after_scale: bool
) -> Any:
    """x * factor + bias, or (x + bias) * factor; in x's dtype."""
    need(x.dtype != "bool", "scale of bool")
    known = b.known(factor)
    times = (
        known[0]
        if known is not None
        else b.cast(b.reshape(b.stop_gradient(factor), shape=()), dtype=x.dtype)
    )
    if isinstance(times, float) and x.dtype in INTS:
        times = int(times)
    plus = int(bias) if x.dtype in INTS else bias
    if not bias_after_scale:
        return b.mul(b.add(x, plus), times)
    return b.add(b.mul(x, times), plus)


@decomposes("pd_op.where")
def where(b: Builder, condition: Value, x: Value, y: Value) -> Any:
    """x where the condition holds, else y."""
    _one_dtype(x, y)
    return b.select(condition, x, y)


def _logic(name: str, prim: str) -> None:
    @decomposes(f"pd_op.logical_{name}")
    def logical(b: Builder, x: Value, y: Value) -> Any:
        return getattr(b, prim)(holds(b, x), holds(b, y))

    @decomposes(f"pd_op.bitwise_{name}")
    def bitwise(b: Builder, x: Value, y: Value) -> Any:
        _one_dtype(x, y)
        need(x.dtype not in INEXACT, f"bitwise_{name} of {x.dtype}")
        return getattr(b, prim)(x, y)


def holds(b: Builder, x: Value) -> Any:
    """x as a truth: anything but 0, so NaN too."""
    return x if x.dtype == "bool" else b.ne(x, 0)


_logic("and", "and_")
_logic("or", "or_")
_logic("xor", "xor")


@decomposes("pd_op.logical_not")
def logical_not(b: Builder, x: Value) -> Any:
    """Whether x is false, or 0."""
    return b.not_(holds(b, x))


@decomposes("pd_op.bitwise_not")
def bitwise_not(b: Builder, x: Value) -> Any:
    """All bits turned; not x, of bool."""
    need(x.dtype not in INEXACT, f"bitwise_not of {x.dtype}")
    return b.not_(x)


@decomposes("pd_op.cast", composite=False)
def cast(b: Builder, x: Value, *, dtype: str) -> Any:
    """x in another dtype."""
    return b.cast(x, dtype=dtype)
