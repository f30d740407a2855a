"""Paddle's layers: softmax, norms, reductions, matmul, convolution, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import axis_in, decomposes, ints, need


def keepdim(b: Builder, reduced: Value, like: Value, axes: Sequence[int]) -> Value:
    """The reduced value in the operand's shape, its axes broadcast."""
    kept = tuple(k for k in range(like.type.rank) if k not in axes)
    result: Value = b.broadcast(reduced, shape=like.shape, dims=kept)
    return result


@decomposes("pd_op.softmax", compute_in="float32")
def softmax(b: Builder, x: Value, *, axis: int) -> Any:
    """exp(x - max) / sum(exp(x - max)); stable for large x."""
    need(x.dtype in FLOATS, f"softmax of {x.dtype}")
    if x.type.rank == 0:
        return b.const(value=1.0, shape=(), dtype=x.dtype)
    axes = (axis_in(axis, x.type.rank, "softmax"),)
    e = b.exp(b.sub(x, keepdim(b, b.reduce_max(x, axes=axes), x, axes)))
    return b.div(e, keepdim(b, b.reduce_sum(e, axes=axes), x, axes))


def mean_of(b: Builder, x: Value, axes: Sequence[int]) -> Value:
    """The mean over axes."""
    count = dims.product(x.shape[a] for a in axes)
    total = b.reduce_sum(x, axes=tuple(axes))
    size = b.const(value=count, shape=total.shape, dtype=x.dtype)
    result: Value = b.div(total, size)
    return result


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
    mean = mean_of(b, x, axes)
    centred = b.sub(x, keepdim(b, mean, x, axes))
    variance = mean_of(b, b.mul(centred, centred), axes)
    y = b.mul(centred, keepdim(b, b.rsqrt(b.add(variance, epsilon)), x, axes))
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
    epsilon: float,
    data_format: str,
) -> Any:
    """In inference: (x - mean) / sqrt(variance + epsilon) * scale + bias a channel."""
    frozen = (is_test and not trainable_statistics) or use_global_stats
    need(frozen, "batch_norm in training updates its statistics")
    channel = 1 if data_format.startswith("NC") else x.type.rank - 1

    def spread(value: Value) -> Value:
        result: Value = b.broadcast(value, shape=x.shape, dims=(channel,))
        return result

    factor = b.rsqrt(b.add(variance, epsilon))
    if scale is not None:
        factor = b.mul(factor, scale)
    y = b.mul(b.sub(x, spread(mean)), spread(factor))
    if bias is not None:
        y = b.add(y, spread(bias))
    return y, mean, variance, None, None, None


def _reduced(b: Builder, x: Value, axes: Sequence[int], keep: bool, name: str) -> Any:
    at = sorted({axis_in(int(a), x.type.rank, name) for a in axes})
    over = tuple(at or range(x.type.rank))
    result = getattr(b, name)(x, axes=over)
    return _kept(b, result, x, over) if keep else result


def _kept(b: Builder, value: Value, x: Value, axes: Sequence[int]) -> Any:
    shape = tuple(1 if k in axes else d for k, d in enumerate(x.shape))
    return b.reshape(value, shape=shape)


@decomposes("pd_op.sum", compute_in="float32")
def sum_(b: Builder, x: Value, axis: Any, *, keepdim: bool, dtype: str) -> Any:
    """The sum over axes (all, where none is named); bool and int32 add up as int64."""
    kind = dtype if dtype != "undefined" else x.dtype
    if dtype == "undefined" and x.dtype in ("bool", "int32"):
        kind = "int64"
    need(kind not in ("complex64", "complex128", "bool"), f"sum of {kind}")
    x = b.cast(x, dtype=kind)
    return _reduced(b, x, ints(b, axis, "axis"), keepdim, "reduce_sum")


@decomposes("pd_op.mean", compute_in="float32")
def mean_(b: Builder, x: Value, axis: Any = (), *, keepdim: bool) -> Any:
    """The mean over axes (all, where none is named)."""
    need(x.dtype in FLOATS, f"mean of {x.dtype}")
    named = sorted(axis_in(int(a), x.type.rank, "mean") for a in ints(b, axis, "axis"))
    axes = tuple(named or range(x.type.rank))
    result = mean_of(b, x, axes)
    return _kept(b, result, x, axes) if keepdim else result


def _extreme(name: str) -> None:
    @decomposes(f"pd_op.{name}")
    def run(b: Builder, x: Value, axis: Any, *, keepdim: bool) -> Any:
        axes = ints(b, axis, "axis")
        over = [axis_in(int(a), x.type.rank, name) for a in axes] or range(x.type.rank)
        empty = any(not _positive(x.shape[a]) for a in over)
        need(not empty, f"{name} over an axis that may be empty")
        return _reduced(b, x, axes, keepdim, f"reduce_{name}")


def _positive(dim: Any) -> bool:
    return dim > 0 if isinstance(dim, int) else True


_extreme("max")
_extreme("min")


@decomposes("pd_op.matmul")
def matmul(
    b: Builder, x: Value, y: Value, *, transpose_x: bool, transpose_y: bool
) -> Any:
    """Matrix products, the leading dims broadcast; a vector is a row or a column."""
    need(x.dtype == y.dtype, f"matmul of {x.dtype} and {y.dtype}")
    need(x.type.rank >= 1 and y.type.rank >= 1, "matmul of a scalar")
    row, column = x.type.rank == 1, y.type.rank == 1
    if row:
        x = b.reshape(x, shape=(1, *x.shape))
    if column:
        y = b.reshape(y, shape=(*y.shape, 1))
    xk = -2 if transpose_x and not row else -1
    yk = -1 if transpose_y and not column else -2
    b.require_equal(x.shape[xk], y.shape[yk], "matmul")
    lead = b.broadcast_shape(x.shape[:-2], y.shape[:-2])
    x, y = (b.broadcast_to(v, (*lead, *v.shape[-2:])) for v in (x, y))
    rank = len(lead) + 2
    batch = tuple(range(rank - 2))
    product = b.dot_general(
        x, y, x_batch=batch, y_batch=batch, x_sum=(rank + xk,), y_sum=(rank + yk,)
    )
    ends = [d for d, gone in zip(product.shape[-2:], (row, column)) if not gone]
    return b.reshape(product, shape=(*lead, *ends))


@decomposes("pd_op.conv2d", "pd_op.depthwise_conv2d")
def conv2d(
    b: Builder,
    x: Value,
    w: Value,
    *,
    strides: Sequence[int],
    paddings: Sequence[int],
    padding_algorithm: str,
    dilations: Sequence[int],
    groups: int,
    data_format: str,
) -> Any:
    """x [N, C, H, W] with w [O, C / groups, h, w]."""
    need(padding_algorithm == "EXPLICIT", f"padding {padding_algorithm}")
    need(data_format == "NCHW", f"data format {data_format}")
    return b.conv(
        x,
        w,
        strides=tuple(strides),
        padding=pairs(paddings, 2),
        dilation=tuple(dilations),
        groups=groups,
    )


def pairs(paddings: Sequence[int], rank: int) -> tuple[tuple[int, int], ...]:
    """(low, high) a dim, from one number a dim or from two."""
    if len(paddings) == rank:
        return tuple((p, p) for p in paddings)
    return tuple((paddings[2 * k], paddings[2 * k + 1]) for k in range(rank))


@decomposes("pd_op.pool2d")
def pool2d(
    b: Builder,
    x: Value,
    kernel_size: Any,
    *,
    strides: Sequence[int],
    paddings: Sequence[int],
    ceil_mode: bool,
    data_format: str,
    pooling_type: str,
    global_pooling: bool,
    adaptive: bool,
    padding_algorithm: str,
) -> Any:
    """Max-pooling, and pooling of the whole plane, of [N, C, H, W]."""
    need(data_format == "NCHW", f"data format {data_format}")
    size = ints(b, kernel_size, "kernel_size")
    if global_pooling or (adaptive and size == [1, 1]):
        return _whole_plane(b, x, pooling_type)
    need(not adaptive, "adaptive pooling to more than one place")
    need(pooling_type == "max", "average pooling by windows")
    need(padding_algorithm == "EXPLICIT" and not ceil_mode, "padding not explicit")
    value, _ = b.window_max(
        x,
        window=(1, 1, *size),
        strides=(1, 1, *strides),
        padding=((0, 0), (0, 0), *pairs(paddings, 2)),
        dilation=(1, 1, 1, 1),
    )
    return value


def _whole_plane(b: Builder, x: Value, kind: str) -> Any:
    value = b.reduce_max(x, axes=(2, 3)) if kind == "max" else mean_of(b, x, (2, 3))
    return b.reshape(value, shape=(*x.shape[:2], 1, 1))
