"""Softmax, and the norms of layers: what scales a group of elements as a whole."""

from __future__ import annotations

from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.reductions import largest, mean_of, spread
from pirol.prim.decomp.registry import axis_in, decomposes, need
from pirol.prim.decomp.shape import sized, with_channels


@decomposes("pd_op.softmax", compute_in="float32")
def softmax(b: Builder, x: Value, *, axis: int) -> Any:
    """exp(x - max) / sum(exp(x - max)); stable for large x."""
    need(x.dtype in FLOATS, f"softmax of {x.dtype}")
    if x.type.rank == 0:
        return b.const(value=1.0, shape=(), dtype=x.dtype)
    axes = (axis_in(axis, x.type.rank, "softmax"),)
    e = b.exp(b.sub(x, spread(b, largest(b, x, axes), x, axes)))
    return b.div(e, spread(b, b.reduce_sum(e, axes=axes), x, axes))


@decomposes("pd_op.log_softmax", compute_in="float32")
def log_softmax(b: Builder, x: Value, *, axis: int) -> Any:
    """x - max - log(sum(exp(x - max)))"""
    need(x.dtype in FLOATS, f"log_softmax of {x.dtype}")
    if x.type.rank == 0:
        return b.const(value=0.0, shape=(), dtype=x.dtype)
    axes = (axis_in(axis, x.type.rank, "log_softmax"),)
    low, total = centred_exp(b, x, axes)
    return b.sub(low, spread(b, b.log(total), x, axes))


def centred_exp(b: Builder, x: Value, axes: tuple[int, ...]) -> tuple[Value, Value]:
    """x - max over the axes, and sum(exp(x - max))."""
    low: Value = b.sub(x, spread(b, largest(b, x, axes), x, axes))
    total: Value = b.reduce_sum(b.exp(low), axes=axes)
    return low, total


@decomposes("pd_op.layer_norm", compute_in="float32")
def layer_norm(
    b: Builder,
    x: Value,
    scale: Value | None,
    bias: Value | None,
    *,
    epsilon: float,
    begin_norm_axis: int,
) -> Any:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, and the mean and variance."""
    axes = tuple(range(begin_norm_axis, x.type.rank))
    weight = scale or bias
    if weight is not None and len(axes) == 1:
        x = with_channels(b, "layer_norm", x, axes[0], weight.shape[0])
    centred, mean, variance = _centred(b, x, axes)
    y = b.mul(centred, spread(b, b.rsqrt(b.add(variance, epsilon)), x, axes))
    tail = x.shape[begin_norm_axis:]
    if scale is not None:
        y = b.mul(y, b.reshape(scale, shape=tail))
    if bias is not None:
        y = b.add(y, b.reshape(bias, shape=tail))
    return y, mean, variance


@decomposes("pd_op.batch_norm_", "pd_op.batch_norm", compute_in="float32")
def batch_norm(
    b: Builder,
    x: Value,
    mean: Value,
    variance: Value,
    scale: Value | None,
    bias: Value | None,
    *,
    is_test: bool,
    use_global_stats: bool,
    trainable_statistics: bool,
    momentum: float,
    epsilon: float,
    data_format: str,
) -> Any:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias a channel.

    In training mean and variance are the batch's, and the second and third results are
    the running ones, moved on towards them; of one element, or none, all stay as they
    are. To Paddle the running ones have no gradient.
    """
    channel = 1 if data_format.startswith("NC") else x.type.rank - 1
    x = with_channels(b, "batch_norm", x, channel, mean.shape[0])
    variance = _as_long(b, variance, mean)
    scale, bias = (v and _as_long(b, v, mean) for v in (scale, bias))
    mean, variance = b.stop_gradient(mean), b.stop_gradient(variance)
    reserve = b.const(value=0, shape=(0,), dtype="uint8")  # what only a GPU keeps
    if (is_test and not trainable_statistics) or use_global_stats:
        y = _normalised(b, x, mean, variance, scale, epsilon, channel)
        saved = b.rsqrt(b.add(variance, epsilon))
        y = _affine(b, y, None, bias, channel)
        return y, mean, variance, mean, saved, reserve
    axes = tuple(k for k in range(x.type.rank) if k != channel)
    _, batch_mean, batch_variance = _centred(b, x, axes)
    y = _normalised(b, x, batch_mean, batch_variance, scale, epsilon, channel)
    y = _affine(b, y, None, bias, channel)
    moved = _moved(b, mean, batch_mean, momentum)
    spread_out = _moved(b, variance, batch_variance, momentum)
    count = dims.product(x.shape[k] for k in axes)
    if not (isinstance(count, int) and count > 1):
        y = _if_several(b, count, y, x)
        moved = _if_several(b, count, moved, mean)
        spread_out = _if_several(b, count, spread_out, variance)
    saved = b.rsqrt(b.add(batch_variance, epsilon))
    return y, moved, spread_out, batch_mean, saved, reserve


def _as_long(b: Builder, x: Value, other: Value) -> Value:
    """x, a value for each channel, as the other is."""
    return sized(b, "batch_norm", x, other.shape)


def _normalised(
    b: Builder,
    x: Value,
    mean: Value,
    variance: Value,
    scale: Value | None,
    epsilon: float,
    channel: int,
) -> Value:
    factor = b.rsqrt(b.add(variance, epsilon))
    if scale is not None:
        factor = b.mul(factor, scale)
    wide = [b.broadcast(v, shape=x.shape, dims=(channel,)) for v in (mean, factor)]
    result: Value = b.mul(b.sub(x, wide[0]), wide[1])
    return result


def _moved(b: Builder, old: Value, new: Value, momentum: float) -> Value:
    result: Value = b.add(b.mul(old, momentum), b.mul(new, 1.0 - momentum))
    return result


def _if_several(b: Builder, count: dims.Dim, value: Value, other: Value) -> Value:
    """The value, or the other where the count is 1 or 0."""
    few = b.le(b.dim(count, value.shape), 1)
    result: Value = b.select(few, other, value)
    return result


def _centred(b: Builder, x: Value, axes: tuple[int, ...]) -> tuple[Value, Value, Value]:
    """x - mean over the axes, the mean, and the variance."""
    mean = mean_of(b, x, axes)
    centred: Value = b.sub(x, spread(b, mean, x, axes))
    return centred, mean, mean_of(b, b.mul(centred, centred), axes)


def _affine(
    b: Builder, y: Value, scale: Value | None, bias: Value | None, channel: int
) -> Value:
    """y * scale + bias, both of one number a channel."""
    for prim, value in (("mul", scale), ("add", bias)):
        if value is not None:
            wide = b.broadcast(value, shape=y.shape, dims=(channel,))
            y = getattr(b, prim)(y, wide)
    return y


@decomposes("pd_op.group_norm", compute_in="float32")
def group_norm(
    b: Builder,
    x: Value,
    scale: Value | None,
    bias: Value | None,
    *,
    epsilon: float,
    groups: int,
    data_format: str,
) -> Any:
    """Each sample's groups of channels normed; and their means and variances."""
    first = data_format.startswith("NC")
    channel = 1 if first else x.type.rank - 1
    weight = scale or bias
    if weight is not None:
        x = with_channels(b, "group_norm", x, channel, weight.shape[0])
    size = x.shape[channel]
    need(isinstance(size, int) and size % groups == 0, f"{groups} groups of {size}")
    parted = (*x.shape[:channel], groups, size // groups, *x.shape[channel + 1 :])
    whole = b.reshape(x, shape=parted)
    axes = tuple(k for k in range(1, len(parted)) if k != channel)
    centred, mean, variance = _centred(b, whole, axes)
    factor = b.rsqrt(b.add(variance, epsilon))
    y = b.mul(centred, spread(b, factor, whole, axes))
    y = b.reshape(y, shape=x.shape)
    return _affine(b, y, scale, bias, channel), mean, variance


@decomposes("pd_op.instance_norm", compute_in="float32")
def instance_norm(
    b: Builder, x: Value, scale: Value | None, bias: Value | None, *, epsilon: float
) -> Any:
    """Each channel of each sample normed; and the means and 1 / deviations, flat."""
    axes = tuple(range(2, x.type.rank))
    centred, mean, variance = _centred(b, x, axes)
    factor = b.rsqrt(b.add(variance, epsilon))
    y = _affine(b, b.mul(centred, spread(b, factor, x, axes)), scale, bias, 1)
    flat = (dims.mul(x.shape[0], x.shape[1]),)
    return y, b.reshape(mean, shape=flat), b.reshape(factor, shape=flat)


@decomposes("pd_op.fused_rms_norm_quant", compute_in="float32")
def rms_norm(
    b: Builder,
    x: Value,
    bias: Value | None,
    residual: Value | None,
    scale: Value | None,
    shift: Value | None,
    *,
    epsilon: float,
    begin_norm_axis: int,
    quant_scale: float,
) -> Any:
    """x / sqrt(mean(x * x) + epsilon) * scale + shift; what Paddle's CPU kernel leaves
    of the inverse deviation is not computed."""
    need(quant_scale <= 0, "rms_norm with a quantised result")
    need(bias is None and residual is None, "rms_norm of a sum")
    axes = tuple(range(begin_norm_axis, x.type.rank))
    square = mean_of(b, b.mul(x, x), axes)
    y = b.mul(x, spread(b, b.rsqrt(b.add(square, epsilon)), x, axes))
    tail = x.shape[begin_norm_axis:]
    if scale is not None:
        y = b.mul(y, b.reshape(scale, shape=tail))
    if shift is not None:
        y = b.add(y, b.reshape(shift, shape=tail))
    return y, None
