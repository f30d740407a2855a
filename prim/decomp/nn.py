"""Paddle's layers of products: matmul and convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Dim
from pirol.compiler.ir import INTS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import decomposes, ints, need
from pirol.prim.decomp.shape import with_channels


@decomposes("pd_op.matmul")
def matmul(
    b: Builder, x: Value, y: Value, *, transpose_x: bool, transpose_y: bool
) -> Any:
    """Matrix products, the leading dims broadcast; a vector is a row or a column."""
    if x.dtype == "float32" and y.dtype in INTS:  # which Paddle multiplies too
        y = b.cast(y, dtype=x.dtype)
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
    if y.type.rank > 2:
        x, y = (b.broadcast_to(v, (*lead, *v.shape[-2:])) for v in (x, y))
    # One matrix for all of a batch is multiplied by more rows, and so is its gradient
    # one sum.
    batch = tuple(range(y.type.rank - 2))
    sums = {"x_sum": (x.type.rank + xk,), "y_sum": (y.type.rank + yk,)}
    product = b.dot_general(x, y, x_batch=batch, y_batch=batch, **sums)
    ends = [d for d, gone in zip(product.shape[-2:], (row, column)) if not gone]
    return b.reshape(product, shape=(*lead, *ends))


@decomposes("pd_op.bmm")
def bmm(b: Builder, x: Value, y: Value) -> Any:
    """Matrix products of two batches of the same size."""
    return matmul(b, x, y, transpose_x=False, transpose_y=False)


@decomposes("pd_op.dot")
def dot(b: Builder, x: Value, y: Value) -> Any:
    """The sums of products along the last axis."""
    need(x.dtype == y.dtype != "bool", f"dot of {x.dtype} and {y.dtype}")
    return b.reduce_sum(b.mul(x, y), axes=(x.type.rank - 1,))


@decomposes("pd_op.addmm", "pd_op.baddbmm", operands="input x y")
def addmm(
    b: Builder, start: Value, x: Value, y: Value, *, beta: float, alpha: float
) -> Any:
    """beta start + alpha (x @ y)"""
    product = bmm(b, x, y)
    need(start.dtype == product.dtype, f"addmm of {start.dtype} and {product.dtype}")
    return b.add(b.mul(product, alpha), b.mul(start, beta))


@decomposes(
    "pd_op.conv2d", "pd_op.depthwise_conv2d", "pd_op.conv3d", operands="input filter"
)
def conv(
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
    """x [N, C, ...], or channels last, with w [O, C / groups, ...]."""
    rank = x.type.rank
    last = not data_format.startswith("NC")
    if last:
        x = b.transpose(x, perm=(0, rank - 1, *range(1, rank - 1)))
    x = with_channels(b, "conv", x, 1, dims.mul(w.shape[1], groups))
    size = w.shape[2:]
    axes = tuple(range(2, rank))
    pad = window_padding(x, axes, size, strides, paddings, padding_algorithm)
    fixed = padding_algorithm == "SAME"
    y = b.conv(
        x,
        w,
        strides=tuple(strides),
        padding=tuple(pad),
        dilation=(1,) * (rank - 2) if fixed else tuple(dilations),
        groups=groups,
    )
    return b.transpose(y, perm=(0, *range(2, rank), 1)) if last else y


@decomposes(
    *("pd_op.conv2d_transpose", "pd_op.depthwise_conv2d_transpose"),
    "pd_op.conv3d_transpose",
    operands="x filter output_size",
)
def conv_transpose(
    b: Builder,
    x: Value,
    w: Value,
    size: Any = (),
    *,
    strides: Sequence[int],
    paddings: Sequence[int],
    output_padding: Sequence[int],
    padding_algorithm: str,
    groups: int,
    dilations: Sequence[int],
    data_format: str,
    output_size: Sequence[int] = (),
) -> Any:
    """The gradient of a conv's input; x its cotangent, w [C, O / groups, ...]."""
    rank = x.type.rank
    last = not data_format.startswith("NC")
    if last:
        x = b.transpose(x, perm=(0, rank - 1, *range(1, rank - 1)))
    x = with_channels(b, "conv_transpose", x, 1, w.shape[0])
    axes = tuple(range(2, rank))
    pad = window_padding(x, axes, w.shape[2:], strides, paddings, padding_algorithm)
    if padding_algorithm == "SAME":
        dilations = (1,) * (rank - 2)
    need(all(isinstance(p, int) for pair in pad for p in pair), "SAME of unknown sizes")
    sizes = ints(b, size or output_size, "the output size") or [
        dims.add(dims.mul(dims.sub(n, 1), s), d * (k - 1) + 1 - p - q + more)
        for n, k, s, (p, q), d, more in zip(
            x.shape[2:],
            w.shape[2:],
            strides,
            pad,
            dilations,
            output_padding or (0,) * (rank - 2),
        )
    ]
    y = b.conv_input_grad(
        x,
        w,
        shape=(x.shape[0], dims.mul(w.shape[1], groups), *sizes),
        strides=tuple(strides),
        padding=tuple(pad),
        dilation=tuple(dilations),
        groups=groups,
    )
    return b.transpose(y, perm=(0, *range(2, rank), 1)) if last else y


def window_padding(
    x: Value,
    axes: Sequence[int],
    size: Sequence[Dim],
    strides: Sequence[int],
    paddings: Sequence[int],
    algorithm: str,
) -> list[tuple[Dim, Dim]]:
    """(low, high) for each spatial dim, as Paddle's padding algorithms have it."""
    if algorithm == "VALID":
        return [(0, 0)] * len(axes)
    if algorithm == "EXPLICIT":
        return list(pairs(paddings, len(axes)))
    found: list[tuple[Dim, Dim]] = []
    for axis, k, s in zip(axes, size, strides):
        extent = x.shape[axis]
        last = dims.mul(dims.sub(dims.ceildiv(extent, s), 1), s)
        both = dims.maximum(dims.sub(dims.add(last, k), extent), 0)
        low = dims.floordiv(both, 2)
        found.append((low, dims.sub(both, low)))
    return found


def pairs(paddings: Sequence[int], rank: int) -> tuple[tuple[int, int], ...]:
    """(low, high) a dim, from one number a dim or from two."""
    if len(paddings) == rank:
        return tuple((p, p) for p in paddings)
    return tuple((paddings[2 * k], paddings[2 * k + 1]) for k in range(rank))
