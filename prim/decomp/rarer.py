"""Rarer activations and comparisons, each as Paddle's own kernel computes it."""

from __future__ import annotations

from typing import Any

from pirol.compiler.ir import BITS, FLOATS, INEXACT, INTS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.pointwise import size
from pirol.prim.decomp.registry import decomposes, need, number

WIDE = ("float32", "float64")


def _floats(x: Value, op: str) -> None:
    need(x.dtype in FLOATS, f"{op} of {x.dtype}")


def _where(b: Builder, condition: Value, x: Value) -> Any:
    """x or 0 of x's sign; NaN and, where the condition fails, Inf become NaN."""
    return b.mul(b.cast(condition, dtype=x.dtype), x)


@decomposes("pd_op.hardshrink", compute_in="float32")
def hardshrink(b: Builder, x: Value, *, threshold: float) -> Any:
    """x at or beyond the threshold on either side, else 0."""
    _floats(x, "hardshrink")
    return _where(b, b.or_(b.le(x, -threshold), b.ge(x, threshold)), x)


@decomposes("pd_op.softshrink", compute_in="float32")
def softshrink(b: Builder, x: Value, *, threshold: float) -> Any:
    """What x has beyond the threshold on either side, else 0."""
    _floats(x, "softshrink")
    above = _where(b, b.gt(x, threshold), b.sub(x, threshold))
    below = _where(b, b.lt(x, -threshold), b.add(x, threshold))
    return b.add(above, below)


@decomposes("pd_op.tanh_shrink", compute_in="float32")
def tanh_shrink(b: Builder, x: Value) -> Any:
    """x - tanh(x)"""
    _floats(x, "tanh_shrink")
    return b.sub(x, b.tanh(x))


@decomposes("pd_op.stanh", compute_in="float32")
def stanh(b: Builder, x: Value, *, scale_a: float, scale_b: float) -> Any:
    """scale_b tanh(scale_a x)"""
    _floats(x, "stanh")
    return b.mul(b.tanh(b.mul(x, scale_a)), scale_b)


@decomposes("pd_op.thresholded_relu", compute_in="float32")
def thresholded_relu(b: Builder, x: Value, *, threshold: float, value: float) -> Any:
    """x above the threshold, else the value; NaN for NaN and -Inf."""
    _floats(x, "thresholded_relu")
    return b.add(_where(b, b.gt(x, threshold), b.sub(x, value)), value)


@decomposes("pd_op.logit", compute_in="float32")
def logit(b: Builder, x: Value, *, eps: float) -> Any:
    """log(x / (1 - x)), x first brought to [eps, 1 - eps] if eps is not 0."""
    _floats(x, "logit")
    inside = b.min(b.max(x, eps), 1.0 - eps) if eps else x
    return b.log(b.div(inside, b.sub(1.0, inside)))


@decomposes("pd_op.heaviside", compute_in="float32")
def heaviside(b: Builder, x: Value, y: Value) -> Any:
    """0 for x < 0, y for x = 0, 1 for x > 0."""
    need(x.dtype == y.dtype != "bool", f"heaviside of {x.dtype}, {y.dtype}")
    step = b.cast(b.gt(x, 0), dtype=x.dtype)
    if x.dtype in FLOATS:  # the same, with a gradient of zeros
        step = b.select(b.gt(x, 0), b.copysign(1.0, x), 0.0)
    return b.select(b.eq(x, 0), y, step)


def _ignoring_nan(name: str, prim: str) -> None:
    @decomposes(f"pd_op.{name}", compute_in="float32")
    def run(b: Builder, x: Value, y: Value) -> Any:
        need(x.dtype == y.dtype != "bool", f"{name} of {x.dtype}, {y.dtype}")
        if x.dtype not in FLOATS:
            return getattr(b, prim)(x, y)
        best = b.select(b.ne(y, y), x, getattr(b, prim)(x, y))
        return b.select(b.ne(x, x), y, best)


_ignoring_nan("fmax", "max")
_ignoring_nan("fmin", "min")


@decomposes("pd_op.lerp", compute_in="float32")
def lerp(b: Builder, x: Value, y: Value, weight: Value) -> Any:
    """x + weight (y - x); to Paddle the weight has no gradient."""
    need(x.dtype == y.dtype == weight.dtype, "lerp of several dtypes")
    _floats(x, "lerp")
    weight = b.stop_gradient(weight)
    return b.add(x, b.mul(weight, b.sub(y, x)))


@decomposes("pd_op.isclose")
def isclose(
    b: Builder, x: Value, y: Value, rtol: Value, atol: Value, *, equal_nan: bool
) -> Any:
    """|x - y| <= atol + rtol |y|, or equal."""
    need(x.dtype == y.dtype, f"isclose of {x.dtype}, {y.dtype}")
    if x.dtype not in INEXACT:
        x, y = (b.cast(v, dtype="float64") for v in (x, y))
    reach = b.mul(size(b, y), number(b, rtol, "rtol"))
    reach = b.add(reach, number(b, atol, "atol"))
    apart = size(b, b.sub(x, y))
    near = b.or_(b.eq(x, y), b.le(apart, reach))
    near = b.or_(near, b.le(b.abs(b.sub(apart, reach)), 1e-15))
    finite = b.and_(b.eq(x, x), b.eq(y, y))
    both = b.and_(b.ne(x, x), b.ne(y, y))
    near = b.and_(near, finite)
    return b.or_(near, both) if equal_nan else near


@decomposes("pd_op.allclose")
def allclose(
    b: Builder, x: Value, y: Value, rtol: Value, atol: Value, *, equal_nan: bool
) -> Any:
    """Whether all elements are close."""
    near = isclose(b, x, y, rtol, atol, equal_nan=equal_nan)
    return b.reduce_min(near, axes=tuple(range(near.type.rank)))


@decomposes("pd_op.copysign", compute_in="float32")
def copysign(b: Builder, x: Value, y: Value) -> Any:
    """|x| with the sign of y; integers have no -0."""
    need(x.dtype == y.dtype, f"copysign of {x.dtype}, {y.dtype}")
    if x.dtype in FLOATS:
        return b.copysign(x, y)
    need(x.dtype in INTS, f"copysign of {x.dtype}")
    zero = b.const(value=0, shape=(), dtype=x.dtype)
    positive = b.max(x, b.sub(zero, x)) if x.dtype != "uint8" else x
    return b.select(b.lt(y, 0), b.sub(zero, positive), positive)


@decomposes("pd_op.shard_index", operands="input")
def shard_index(
    b: Builder,
    x: Value,
    *,
    index_num: int,
    nshards: int,
    shard_id: int,
    ignore_value: int,
) -> Any:
    """The index within its shard, of those of this shard; else ignore_value."""
    each = -(-index_num // nshards)
    inside = b.and_(b.ge(x, 0), b.lt(x, index_num))
    b.check(b.reduce_min(inside, axes=tuple(range(x.type.rank))), "no index of a shard")
    start = shard_id * each
    here = b.and_(b.ge(x, start), b.lt(x, start + each))
    return b.select(here, b.sub(x, start), ignore_value)


@decomposes("pd_op.nextafter")
def nextafter(b: Builder, x: Value, y: Value) -> Any:
    """The number next to x on the way to y."""
    need(x.dtype == y.dtype and x.dtype in WIDE, f"nextafter of {x.dtype}, {y.dtype}")
    return b.nextafter(x, y)


@decomposes("pd_op.bitwise_left_shift")
def bitwise_left_shift(
    b: Builder, x: Value, y: Value, *, is_arithmetic: bool = True
) -> Any:
    """x << y; 0 for less than 0, or for as many bits as there are."""
    need(x.dtype == y.dtype and x.dtype in INTS, f"shift of {x.dtype} by {y.dtype}")
    return b.shift_left(x, y)


@decomposes("pd_op.bitwise_right_shift")
def bitwise_right_shift(b: Builder, x: Value, y: Value, *, is_arithmetic: bool) -> Any:
    """x >> y, filled with the sign, or with zeros."""
    need(x.dtype == y.dtype and x.dtype in INTS, f"shift of {x.dtype} by {y.dtype}")
    moved = b.shift_right(x, y)
    if is_arithmetic or x.dtype.startswith("u"):
        return moved
    most = BITS[x.dtype] - 1
    inside = b.and_(b.ge(y, 0), b.le(y, most))
    filled = b.shift_left(b.shift_left(-1, b.sub(most, y)), 1)
    return b.select(inside, b.and_(moved, b.xor(filled, -1)), 0)
