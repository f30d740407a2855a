"""Activations. Where one has a kink, its gradient there is Paddle's too."""

from __future__ import annotations

from typing import Any

from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import decomposes, need

SQRT_HALF = 0.7071067811865476
SQRT_2_OVER_PI = 0.7978845608028654


@decomposes("pd_op.sigmoid", compute_in="float32")
def sigmoid(b: Builder, x: Value) -> Any:
    """1 / (1 + exp(-x))"""
    return b.sigmoid(x)


@decomposes("pd_op.silu", compute_in="float32")
def silu(b: Builder, x: Value) -> Any:
    """x * sigmoid(x)"""
    return b.mul(x, b.sigmoid(x))


@decomposes("pd_op.relu")
def relu(b: Builder, x: Value) -> Any:
    """x where x > 0, else 0; 0 for NaN, as Paddle."""
    return b.select(b.gt(x, 0), x, b.const(value=0, shape=(), dtype=x.dtype))


@decomposes("pd_op.gelu", compute_in="float32")
def gelu(b: Builder, x: Value, *, approximate: bool) -> Any:
    """x * Phi(x); approximate: Phi by tanh."""
    if approximate:
        cubic = b.add(x, b.mul(0.044715, b.mul(x, b.mul(x, x))))
        phi = b.add(1.0, b.tanh(b.mul(SQRT_2_OVER_PI, cubic)))
    else:
        phi = b.add(1.0, b.erf(b.mul(x, SQRT_HALF)))
    return b.mul(b.mul(x, 0.5), phi)


def _within(b: Builder, x: Value, low: float, high: float) -> Any:
    """x cut off at low and high, NaN kept; constant at both ends, these included."""
    ends = [b.const(value=end, shape=(), dtype=x.dtype) for end in (low, high)]
    above = b.select(b.ge(x, high), ends[1], x)
    return b.select(b.le(x, low), ends[0], above)


@decomposes("pd_op.relu6", compute_in="float32")
def relu6(b: Builder, x: Value) -> Any:
    """x cut off at 0 and 6."""
    return _within(b, x, 0.0, 6.0)


@decomposes("pd_op.hardtanh", compute_in="float32")
def hardtanh(b: Builder, x: Value, *, t_min: float, t_max: float) -> Any:
    """x cut off at t_min and t_max."""
    need(t_min <= t_max, f"hardtanh from {t_min} to {t_max}")
    return _within(b, x, t_min, t_max)


@decomposes("pd_op.hardsigmoid", compute_in="float32")
def hardsigmoid(b: Builder, x: Value, *, slope: float, offset: float) -> Any:
    """x * slope + offset, cut off at 0 and 1."""
    return _within(b, b.add(b.mul(x, slope), offset), 0.0, 1.0)


@decomposes("pd_op.hardswish", compute_in="float32")
def hardswish(b: Builder, x: Value) -> Any:
    """x * (x + 3 cut off at 0 and 6) / 6"""
    return b.mul(x, b.div(_within(b, b.add(x, 3.0), 0.0, 6.0), 6.0))


@decomposes("pd_op.leaky_relu", compute_in="float32")
def leaky_relu(b: Builder, x: Value, *, negative_slope: float) -> Any:
    """x, and x * negative_slope below 0."""
    return b.select(b.lt(x, 0.0), b.mul(x, negative_slope), x)


@decomposes("pd_op.rrelu", compute_in="float32")
def rrelu(b: Builder, x: Value, *, lower: float, upper: float, is_test: bool) -> Any:
    """leaky_relu by a random slope, in a test by the mean one; and the slopes."""
    need(is_test, "rrelu draws its slopes")
    return leaky_relu(b, x, negative_slope=(lower + upper) / 2), None


@decomposes("pd_op.prelu", compute_in="float32")
def prelu(b: Builder, x: Value, alpha: Value, *, data_format: str, mode: str) -> Any:
    """x, and x * alpha below 0; one alpha for all, a channel, or an element."""
    if mode == "all":
        slope = b.reshape(alpha, shape=())
    elif mode == "channel":
        channel = 1 if data_format.startswith("NC") else x.type.rank - 1
        slope = b.reshape(alpha, shape=(x.shape[channel],))
        slope = b.broadcast(slope, shape=x.shape, dims=(channel,))
    else:
        need(mode == "element", f"prelu's mode {mode}")
        slope = b.reshape(alpha, shape=x.shape[1:])
    return b.select(b.gt(x, 0.0), x, b.mul(x, slope))


def _below_zero(b: Builder, x: Value) -> Any:
    """x where it is not over 0, else 0: what exp is given so as not to overflow."""
    return b.select(b.gt(x, 0.0), b.const(value=0.0, shape=(), dtype=x.dtype), x)


@decomposes("pd_op.elu", compute_in="float32")
def elu(b: Builder, x: Value, *, alpha: float) -> Any:
    """x, and alpha * (exp(x) - 1) below 0."""
    low = b.mul(b.expm1(_below_zero(b, x)), alpha)
    return b.select(b.gt(x, 0.0), x, low)


@decomposes("pd_op.celu", compute_in="float32")
def celu(b: Builder, x: Value, *, alpha: float) -> Any:
    """x, and alpha * (exp(x / alpha) - 1) below 0."""
    need(alpha > 0, f"celu with alpha {alpha}")
    low = b.mul(b.expm1(b.div(_below_zero(b, x), alpha)), alpha)
    return b.select(b.gt(x, 0.0), x, low)


@decomposes("pd_op.selu", compute_in="float32")
def selu(b: Builder, x: Value, *, scale: float, alpha: float) -> Any:
    """scale * x, and scale * alpha * (exp(x) - 1) where x is not over 0."""
    low = b.add(b.mul(b.expm1(_below_zero(b, x)), alpha), 0.0)  # Paddle has no -0.0
    return b.mul(b.select(b.gt(x, 0.0), x, low), scale)


@decomposes("pd_op.swish", compute_in="float32")
def swish(b: Builder, x: Value) -> Any:
    """x * sigmoid(x)"""
    return silu(b, x)


@decomposes("pd_op.swiglu", compute_in="float32")
def swiglu(b: Builder, x: Value, y: Value | None) -> Any:
    """silu(x) * y; of one operand, of the halves of its last axis."""
    if y is None:
        size = x.shape[-1]
        need(isinstance(size, int) and size % 2 == 0, f"the halves of {size}")
        x, y = (_part(b, x, k * (size // 2), size // 2) for k in (0, 1))
    return b.mul(silu(b, x), y)


def _part(b: Builder, x: Value, start: int, size: int) -> Any:
    zeros = (0,) * (x.type.rank - 1)
    return b.slice(
        x,
        starts=(*zeros, start),
        sizes=(*x.shape[:-1], size),
        steps=(1,) * x.type.rank,
    )


@decomposes("pd_op.mish", compute_in="float32")
def mish(b: Builder, x: Value) -> Any:
    """x * tanh(log(1 + e)) with e = exp(x), the tanh being (ee + 2e) / (ee + 2e + 2).

    Over 20 it is 1, for float64 too.
    """
    e = b.exp(b.min(x, 20.0))
    part = b.mul(e, b.add(e, 2.0))
    return b.mul(x, b.div(part, b.add(part, 2.0)))


@decomposes("pd_op.softplus", compute_in="float32")
def softplus(b: Builder, x: Value, *, beta: float, threshold: float) -> Any:
    """log(1 + exp(x * beta)) / beta, and x where x * beta is over the threshold."""
    wide = b.mul(x, beta)
    over = b.gt(wide, threshold)
    low = b.log1p(b.exp(b.select(over, threshold, wide)))
    return b.select(over, x, b.div(low, beta))


@decomposes("pd_op.softsign", compute_in="float32")
def softsign(b: Builder, x: Value) -> Any:
    """x / (1 + |x|)"""
    return b.div(x, b.add(b.abs(x), 1.0))


@decomposes("pd_op.logsigmoid", compute_in="float32")
def logsigmoid(b: Builder, x: Value) -> Any:
    """min(x, 0) - log(1 + exp(-|x|))"""
    need(x.dtype in FLOATS, f"logsigmoid of {x.dtype}")
    return b.sub(b.min(x, 0.0), log1p_exp(b, b.neg(b.abs(x))))


def log1p_exp(b: Builder, x: Value) -> Any:
    """log(1 + exp(x)), of an x that is not over 0."""
    return b.log1p(b.exp(x))
