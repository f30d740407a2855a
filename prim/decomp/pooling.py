"""Pooling over spatial dims: windows, whole planes, adaptive and fractional bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Dim, Shape
from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import cut
from pirol.prim.decomp.nn import window_padding
from pirol.prim.decomp.registry import decomposes, ints, need
from pirol.prim.window import PLACES


@dataclass(frozen=True)
class _Windows:
    """Windows over the dims `axes` of x; `pad` is (low, high) for each."""

    axes: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[tuple[Dim, Dim], ...]
    dilation: tuple[int, ...] = ()

    def attrs(self, rank: int) -> dict[str, Any]:
        """The attributes of a windowed primitive: no window on the other dims."""

        def spread(given: Sequence[Any], other: Any) -> tuple[Any, ...]:
            found = dict(zip(self.axes, given))
            return tuple(found.get(k, other) for k in range(rank))

        return {
            "window": spread(self.size, 1),
            "strides": spread(self.stride, 1),
            "padding": spread(self.pad, (0, 0)),
            "dilation": spread(self.dilation, 1),
        }

    def largest(self, b: Builder, x: Value) -> Sequence[Value]:
        """The largest value of each window, and its place in these dims (int32)."""
        plane = (self.axes[0], self.axes[-1] + 1)
        result: Sequence[Value] = b.window_max(
            x, **self.attrs(x.type.rank), plane=plane
        )
        return result


@dataclass(frozen=True)
class _Kind:
    """How to pool, as Paddle's attributes say it."""

    strides: Sequence[int]
    paddings: Sequence[int]
    ceil_mode: bool
    exclusive: bool
    data_format: str
    pooling_type: str
    global_pooling: bool
    adaptive: bool
    padding_algorithm: str


KIND = tuple(f.name for f in fields(_Kind))


@decomposes("pd_op.pool2d", compute_in="float32", keywords=KIND)
def pool2d(b: Builder, x: Value, kernel_size: Any, **kind: Any) -> Any:
    """Windows of an operand's size over 2 dims; see `_pooled`."""
    return _pooled(b, x, ints(b, kernel_size, "kernel_size"), _Kind(**kind))


@decomposes("pd_op.pool3d", compute_in="float32", keywords=KIND)
def pool3d(b: Builder, x: Value, *, kernel_size: Sequence[int], **kind: Any) -> Any:
    """Windows over 3 dims; see `_pooled`."""
    return _pooled(b, x, list(kernel_size), _Kind(**kind))


@decomposes("pd_op.lp_pool2d", compute_in="float32", keywords=("norm_type", *KIND))
def lp_pool2d(
    b: Builder, x: Value, *, kernel_size: Any, norm_type: float, **kind: Any
) -> Any:
    """(sum x ** p) ** (1 / p) of windows over 2 dims; the largest for infinity."""
    size, p = list(kernel_size), float(norm_type)
    need(p != 0 and not math.isnan(p), f"lp_pool2d with a norm_type of {p}")
    need(not (kind["global_pooling"] or kind["adaptive"]), "an lp_pool2d of planes")
    if p == math.inf:
        return _pooled(b, x, size, _Kind(**kind | {"pooling_type": "max"}))
    powers = x if p == 1 else b.pow(x, p)
    total = _pooled(b, powers, size, _Kind(**kind))
    return total if p == 1 else b.pow(total, 1 / p)


def _pooled(b: Builder, x: Value, size: list[Any], kind: _Kind) -> Any:
    """The largest or the mean value of windows of the spatial dims, or ("lp") the sum.

    exclusive: the mean is over the elements inside x, else also over the padding.
    """
    need(x.dtype in FLOATS, f"pooling of {x.dtype}")
    first = 2 if kind.data_format.startswith("NC") else 1
    axes = tuple(range(first, first + x.type.rank - 2))
    if kind.global_pooling or (kind.adaptive and size == [1] * len(axes)):
        return _whole_plane(b, x, axes, kind.pooling_type)
    if kind.adaptive:
        return _adaptive(b, x, axes, size, kind.pooling_type)
    strides = tuple(kind.strides)
    pad = window_padding(x, axes, size, strides, kind.paddings, kind.padding_algorithm)
    extra = [s - 1 if kind.ceil_mode else 0 for s in strides]
    ends = tuple((lo, dims.add(hi, e)) for (lo, hi), e in zip(pad, extra))
    windows = _Windows(axes, tuple(size), strides, ends)
    if kind.pooling_type == "max":
        return windows.largest(b, x)[0]
    total = b.window_sum(x, **windows.attrs(x.type.rank))
    if kind.pooling_type == "lp":
        return total
    return b.div(total, _counts(b, x, total, windows, kind.exclusive))


@decomposes("pd_op.max_pool2d_with_index", "pd_op.max_pool3d_with_index")
def max_pool_with_index(
    b: Builder,
    x: Value,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int],
    paddings: Sequence[int],
    global_pooling: bool,
    adaptive: bool,
    ceil_mode: bool,
) -> Any:
    """The largest value of each window, and its place in the plane (not of bins)."""
    need(x.dtype in FLOATS, f"pooling of {x.dtype}")
    axes = tuple(range(2, x.type.rank))
    if adaptive:
        return _adaptive(b, x, axes, kernel_size, "max"), None
    if global_pooling:
        return _whole_plane(b, x, axes, "max"), None
    pad = [(p, p + (s - 1 if ceil_mode else 0)) for p, s in zip(paddings, strides)]
    windows = _Windows(axes, tuple(kernel_size), tuple(strides), tuple(pad))
    return windows.largest(b, x)


@decomposes("pirol.max_pool", compute_in="float32")
def max_pool(
    b: Builder,
    x: Value,
    *,
    axes: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    index: str,
) -> Any:
    """The largest value of each window over the dims `axes`, and its place in them; -1
    where a window has padding alone (pirol.nn.functional)."""
    windows = _Windows(
        tuple(axes), tuple(size), tuple(strides), tuple(padding), tuple(dilation)
    )
    value, place = windows.largest(b, x)
    return value, b.cast(place, dtype=index)


@decomposes(
    "pd_op.fractional_max_pool2d",
    "pd_op.fractional_max_pool3d",
    compute_in="float32",
)
def fractional_max_pool(
    b: Builder,
    x: Value,
    *,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    random_u: float,
) -> Any:
    """The first largest value of windows that start at uneven steps, and its place in
    the plane."""
    need(x.dtype in FLOATS, f"pooling of {x.dtype}")
    need(random_u != 0, "fractional pooling whose steps are drawn at random")
    lead, plane = x.shape[:2], x.shape[2:]
    widths = [
        size or dims.add(dims.ceildiv(n, o), 1)
        for n, o, size in zip(plane, output_size, kernel_size)
    ]
    rank, shape = len(plane), (*lead, *output_size, *widths)
    inside, places = b.const(value=True, shape=shape, dtype="bool"), []
    for k, (n, o, size) in enumerate(zip(plane, output_size, kernel_size)):
        start, end = _uneven(b, n, o, size, float(random_u))
        start, end = (b.broadcast(v, shape=shape, dims=(2 + k,)) for v in (start, end))
        tap = b.iota(axis=2 + rank + k, shape=shape, dtype="int64")
        places.append(b.add(start, tap))
        inside = b.and_(inside, b.lt(places[-1], b.min(end, b.dim(n, shape))))
    order, over = (0, 1, *(-1 for _ in plane)), tuple(range(2 + rank, 2 + 2 * rank))
    found = b.gather(b.stop_gradient(x), *places, shape=shape, dims=order)
    best = b.reduce_max(b.select(inside, found, float("-inf")), axes=over)
    best = b.broadcast(best, shape=shape, dims=tuple(range(2 + rank)))
    first = b.and_(inside, b.or_(b.eq(found, best), b.ne(found, found)))
    flat = b.dim(0, shape)
    for place, n in zip(places, plane):
        flat = b.add(b.mul(flat, b.dim(n, shape)), place)
    place = b.reduce_min(b.select(first, flat, b.dim(PLACES, shape)), axes=over)
    picked = b.reshape(place, shape=(*lead, dims.product(output_size)))
    x = b.reshape(x, shape=(*lead, dims.product(plane)))
    value = b.gather(x, picked, shape=picked.shape, dims=(0, 1, -1))
    return b.reshape(value, shape=place.shape), b.cast(place, dtype="int32")


def _uneven(
    b: Builder, extent: Dim, count: int, size: int, u: float
) -> tuple[Value, Value]:
    """Where fractional windows start, and the places behind them, in Paddle's float32;
    of no given size, they lie side by side."""

    def number(value: Any) -> Value:
        found: Value = b.const(value=value, shape=(), dtype="float32")
        return found

    step = b.div(number(dims.sub(extent, size)), number(count - (size > 0)))
    shift = number(u)
    if not size:
        base = dims.floordiv(extent, count)
        most = b.sub(b.div(number(dims.add(base, 2)), step), 1.0)
        rest = b.div(number(dims.sub(dims.add(extent, 1), base)), step)
        shift = b.mul(shift, b.min(most, b.sub(rest, float(count - 1))))
    line = b.iota(axis=0, shape=(count + 1,), dtype="float32")
    moved = b.cast(b.mul(b.add(line, shift), step), dtype="int64")
    edges = b.sub(moved, b.cast(b.mul(shift, step), dtype="int64"))
    start = cut(b, edges, 0, 0, count)
    return start, b.add(start, size) if size else cut(b, edges, 0, 1, count)


def _whole_plane(b: Builder, x: Value, axes: tuple[int, ...], kind: str) -> Any:
    count = dims.product(x.shape[k] for k in axes)
    shape = tuple(1 if k in axes else d for k, d in enumerate(x.shape))
    if kind == "max":
        return b.reshape(b.reduce_max(x, axes=axes), shape=shape)
    total = b.reduce_sum(x, axes=axes)
    size = b.const(value=count, shape=total.shape, dtype=x.dtype)
    return b.reshape(b.div(total, size), shape=shape)


def _counts(
    b: Builder, x: Value, total: Value, windows: _Windows, exclusive: bool
) -> Value:
    """How many elements each window's mean is over."""
    known, rest = 1, None
    each = zip(windows.axes, windows.size, windows.stride, windows.pad)
    for axis, size, stride, (low, high) in each:
        extent = x.shape[axis]
        if dims.equal(high, 0) is True and (not exclusive or low == 0):
            known *= size
            continue
        place = b.iota(axis=axis, shape=total.shape, dtype="int64")
        start = b.sub(b.mul(place, stride), _number(b, low, total))
        limit = extent if exclusive else dims.add(extent, low)
        end = b.min(b.add(start, size), _number(b, limit, total))
        if exclusive:
            start = b.max(start, 0)
        here = b.sub(end, start)
        rest = here if rest is None else b.mul(rest, here)
    if rest is None:
        result: Value = b.const(value=float(known), shape=total.shape, dtype=x.dtype)
        return result
    result = b.cast(b.mul(rest, known), dtype=x.dtype)
    return result


def _number(b: Builder, value: Dim, like: Value) -> Value:
    return b.dim(value, like.shape)


def _adaptive(
    b: Builder, x: Value, axes: tuple[int, ...], size: Sequence[Any], kind: str
) -> Any:
    """Bins that cover each spatial dim as evenly as they can."""
    extents = [x.shape[k] for k in axes]
    even = [dims.floordiv(n, o) for n, o in zip(extents, size)]
    if all(dims.equal(dims.mul(w, o), n) for w, o, n in zip(even, size, extents)):
        return _even_bins(b, x, axes, size, even, kind)
    return _uneven_bins(b, x, axes, size, kind)


def _even_bins(
    b: Builder,
    x: Value,
    axes: tuple[int, ...],
    size: Sequence[Any],
    widths: Sequence[Dim],
    kind: str,
) -> Any:
    shape: list[Dim] = []
    inner: list[int] = []
    for k, extent in enumerate(x.shape):
        if k not in axes:
            shape.append(extent)
            continue
        at = axes.index(k)
        shape += [size[at], widths[at]]
        inner.append(len(shape) - 1)
    bins = b.reshape(x, shape=tuple(shape))
    if kind == "max":
        return b.reduce_max(bins, axes=tuple(inner))
    total = b.reduce_sum(bins, axes=tuple(inner))
    count = b.const(value=dims.product(widths), shape=total.shape, dtype=x.dtype)
    return b.div(total, count)


def _uneven_bins(
    b: Builder, x: Value, axes: tuple[int, ...], size: Sequence[Any], kind: str
) -> Any:
    """Bin i of o over n elements is [i * n // o, ((i + 1) * n + o - 1) // o)."""
    out = tuple(size[axes.index(k)] if k in axes else d for k, d in enumerate(x.shape))
    taps = tuple(dims.add(dims.ceildiv(x.shape[k], o), 1) for k, o in zip(axes, size))
    shape, rank = (*out, *taps), x.type.rank
    places, inside, count = [], None, None
    for j, (axis, o) in enumerate(zip(axes, size)):
        start, end = _bin(b, axis, o, x.shape[axis], shape)
        place = b.add(start, b.iota(axis=rank + j, shape=shape, dtype="int64"))
        here = b.lt(place, end)
        places.append(place)
        inside = here if inside is None else b.and_(inside, here)
        start, end = _bin(b, axis, o, x.shape[axis], out)
        width = b.sub(end, start)
        count = width if count is None else b.mul(count, width)
    at = tuple(-1 if k in axes else k for k in range(rank))
    found = b.gather(x, *places, shape=shape, dims=at)
    over = tuple(range(rank, rank + len(axes)))
    if kind == "max":
        return b.reduce_max(b.select(inside, found, _lowest(b, found)), axes=over)
    total = b.reduce_sum(b.select(inside, found, 0.0), axes=over)
    return b.div(total, b.cast(count, dtype=x.dtype))


def _bin(
    b: Builder, axis: int, bins: Any, extent: Dim, shape: Shape
) -> tuple[Value, Value]:
    """First element of each bin along an axis of `shape`, and the one behind it."""
    scaled = b.mul(b.iota(axis=axis, shape=shape, dtype="int64"), b.dim(extent, shape))
    last = b.add(scaled, b.dim(dims.add(extent, bins - 1), shape))
    return b.idiv(scaled, bins), b.idiv(last, bins)


def _lowest(b: Builder, like: Value) -> Value:
    value: Value = b.const(value=float("-inf"), shape=like.shape, dtype=like.dtype)
    return value
