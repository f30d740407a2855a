"""Pooling over spatial dims: windows, whole planes, adaptive and fractional bins."""

from __future__ import annotations

import functools
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
from pirol.prim.decomp.pointwise import power
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


FEW = 8  # elements of a bin that are looked at one after the other
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
    if p == 2:
        return b.sqrt(_pooled(b, b.mul(x, x), size, _Kind(**kind)))
    total = _pooled(b, power(b, x, p), size, _Kind(**kind))
    return power(b, total, 1 / p)


def _pooled(b: Builder, x: Value, size: list[Any], kind: _Kind) -> Any:
    """The largest or the mean value of windows of the spatial dims, or ("lp") the sum.

    exclusive: the mean is over the elements inside x, else also over the padding.
    """
    need(x.dtype in FLOATS, f"pooling of {x.dtype}")
    first = 2 if kind.data_format.startswith("NC") else 1
    axes = tuple(range(first, first + x.type.rank - 2))
    if kind.global_pooling or kind.adaptive:
        size = [1] * len(axes) if kind.global_pooling else size
        if kind.pooling_type == "max":
            return _largest_bins(b, x, axes, size)[0]
        return _mean_bins(b, x, axes, size)
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
    """The largest value of each window, and its place in the plane."""
    need(x.dtype in FLOATS, f"pooling of {x.dtype}")
    axes = tuple(range(2, x.type.rank))
    if adaptive or global_pooling:
        size = [1] * len(axes) if global_pooling else kernel_size
        return _largest_bins(b, x, axes, size)
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
    bins = []
    for n, o, size in zip(x.shape[2:], output_size, kernel_size):
        bins.append(_uneven(b, n, o, size, float(random_u)))
    return _largest_of(b, x, tuple(range(2, x.type.rank)), bins)


Bins = tuple[Value, Value, Dim]  # first places, the places behind them, places at most


def _largest_of(
    b: Builder, x: Value, axes: tuple[int, ...], bins: Sequence[Bins]
) -> tuple[Value, Value]:
    """The first largest value of bins of the dims `axes`, which lie side by side, and
    its place in them (int32): of each line along the first, then of those along the
    next."""
    best: Value = b.stop_gradient(x)
    place: Value | None = None
    for axis, (start, end, taps) in zip(axes, bins):
        taps = _widest(b, start, end) or taps
        few = isinstance(taps, int) and taps <= FEW
        find = _first_of_few if few else _first_of
        best, place = find(b, best, place, axis, (start, end, taps))
    assert place is not None
    picked, line = _in_line(b, b.cast(place, dtype="int64"), axes), _in_line(b, x, axes)
    value = _at(b, line, axes[0], picked)
    return b.reshape(value, shape=best.shape), place


def _widest(b: Builder, start: Value, end: Value) -> int:
    """The most elements of a bin; 0 where that is not known."""
    pairs = list(zip(b.known(start) or (), b.known(end) or ()))
    if not all(isinstance(k, int) for pair in pairs for k in pair):
        return 0
    return max((last - first for first, last in pairs), default=0)


def _first_of(
    b: Builder, x: Value, place: Value | None, axis: int, bins: Bins
) -> tuple[Value, Value]:
    """The first largest value of the bins of an axis, and its place: in x, or in whose
    places `place` holds."""
    rank = x.type.rank
    at, inside = _taps(b, x.shape, axis, *bins)
    found, flat = _at(b, x, axis, at), _flat(b, x, place, axis, at)
    best = b.reduce_max(b.select(inside, found, float("-inf")), axes=(rank,))
    same = b.eq(found, b.broadcast(best, shape=at.shape, dims=tuple(range(rank))))
    first = b.and_(inside, b.or_(same, b.ne(found, found)))
    return best, b.reduce_min(b.select(first, flat, PLACES - 1), axes=(rank,))


def _first_of_few(
    b: Builder, x: Value, place: Value | None, axis: int, bins: Bins
) -> tuple[Value, Value]:
    """`_first_of` where bins have few elements: one after the other."""
    start, end, taps = bins
    shape = (*x.shape[:axis], start.shape[0], *x.shape[axis + 1 :])
    places = (b.cast(v, dtype="int32") for v in (start, b.sub(end, 1)))
    at, last = (b.broadcast(v, shape=shape, dims=(axis,)) for v in places)
    here = [at, *(b.min(b.add(at, tap), last) for tap in range(1, taps))]
    wide = [b.cast(k, dtype="int64") for k in here]
    values = [_at(b, x, axis, k) for k in wide]
    best = functools.reduce(b.max, values)
    same = [b.or_(b.eq(v, best), b.ne(v, v)) for v in values]
    if place is None:  # the places ascend
        first = here[-1]
        for k, found in zip(here[-2::-1], same[-2::-1]):
            first = b.select(found, k, first)
        return best, first
    flat = [_flat(b, x, place, axis, k) for k in wide]
    firsts = [b.select(s, k, PLACES - 1) for s, k in zip(same, flat)]
    return best, functools.reduce(b.min, firsts)


def _flat(b: Builder, x: Value, place: Value | None, axis: int, at: Value) -> Value:
    """The places behind places of an axis."""
    here: Value = b.cast(at, dtype="int32")
    if place is None:
        return here
    extent = b.cast(b.dim(x.shape[axis]), dtype="int32")
    here = b.add(b.mul(_at(b, place, axis, at), extent), here)
    return here


def _at(b: Builder, x: Value, axis: int, places: Value) -> Value:
    """x at places of one axis, whose other dims, and what follows, are their own."""
    order = tuple(-1 if k == axis else k for k in range(x.type.rank))
    result: Value = b.gather(x, places, shape=places.shape, dims=order)
    return result


def _in_line(b: Builder, x: Value, axes: tuple[int, ...]) -> Value:
    """x with one dim in place of neighbouring ones."""
    first, last = axes[0], axes[-1] + 1
    plane = dims.product(x.shape[first:last])
    result: Value = b.reshape(x, shape=(*x.shape[:first], plane, *x.shape[last:]))
    return result


def _taps(
    b: Builder, shape: Shape, axis: int, start: Value, end: Value, taps: Dim
) -> tuple[Value, Value]:
    """The places along an axis that each of its bins may have, in a last dim, and which
    of them it has."""
    wide = (*shape[:axis], start.shape[0], *shape[axis + 1 :], taps)
    start, end = (b.broadcast(v, shape=wide, dims=(axis,)) for v in (start, end))
    at = b.add(start, b.iota(axis=len(shape), shape=wide, dtype="int64"))
    return at, b.lt(at, b.min(end, b.dim(shape[axis], wide)))


def _uneven(b: Builder, extent: Dim, count: int, size: int, u: float) -> Bins:
    """Fractional windows, where Paddle's float32 has them; of no given size, they lie
    side by side."""

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
    if size:
        return start, b.add(start, size), size
    return start, cut(b, edges, 0, 1, count), dims.add(dims.ceildiv(extent, count), 1)


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


def _largest_bins(
    b: Builder, x: Value, axes: tuple[int, ...], size: Sequence[Any]
) -> Sequence[Value]:
    """The first largest value of bins that cover each dim as evenly as they can, and
    its place."""
    extents = [x.shape[k] for k in axes]
    widths = tuple(dims.floordiv(n, o) for n, o in zip(extents, size))
    known = all(isinstance(w, int) and w > 0 for w in widths)
    if known and all(map(_even, extents, size)):
        none = ((0, 0),) * len(axes)
        return _Windows(axes, widths, widths, none).largest(b, x)
    bins = [_bins(b, n, o) for n, o in zip(extents, size)]
    return _largest_of(b, x, axes, bins)


def _even(extent: Dim, bins: Any) -> bool:
    whole = dims.mul(dims.floordiv(extent, bins), bins)
    return dims.equal(whole, extent) is True


def _mean_bins(
    b: Builder, x: Value, axes: tuple[int, ...], size: Sequence[Any]
) -> Value:
    """The mean of such bins."""
    if all(map(_even, (x.shape[k] for k in axes), size)):
        total = _sum_of_even(b, x, axes, size)
        count = dims.product(dims.floordiv(x.shape[k], o) for k, o in zip(axes, size))
        mean: Value = b.div(
            total, b.const(value=count, shape=total.shape, dtype=x.dtype)
        )
        return mean
    total, counts = x, []
    for axis, o in zip(axes, size):
        start, end, taps = _bins(b, x.shape[axis], o)
        at, inside = _taps(b, total.shape, axis, start, end, taps)
        found = b.select(inside, _at(b, total, axis, at), 0.0)
        total = b.reduce_sum(found, axes=(x.type.rank,))
        counts.append((axis, b.cast(b.sub(end, start), dtype=x.dtype)))
    for axis, count in counts:
        total = b.div(total, b.broadcast(count, shape=total.shape, dims=(axis,)))
    return total


def _sum_of_even(
    b: Builder, x: Value, axes: tuple[int, ...], size: Sequence[Any]
) -> Value:
    shape: list[Dim] = []
    inner: list[int] = []
    for k, extent in enumerate(x.shape):
        if k not in axes:
            shape.append(extent)
            continue
        bins = size[axes.index(k)]
        shape += [bins, dims.floordiv(extent, bins)]
        inner.append(len(shape) - 1)
    result: Value = b.reduce_sum(b.reshape(x, shape=tuple(shape)), axes=tuple(inner))
    return result


def _bins(b: Builder, extent: Dim, bins: Any) -> Bins:
    """Bin i of o over n elements is [i * n // o, ((i + 1) * n + o - 1) // o)."""
    most = dims.mul(dims.add(extent, 1), bins)
    dtype = "int32" if isinstance(most, int) and most < PLACES else "int64"
    line = b.iota(axis=0, shape=(bins,), dtype=dtype)
    scaled = b.mul(line, b.cast(b.dim(extent, (bins,)), dtype=dtype))
    last = b.add(
        scaled, b.cast(b.dim(dims.add(extent, bins - 1), (bins,)), dtype=dtype)
    )
    taps = dims.add(dims.ceildiv(extent, bins), 1)
    start, end = (b.idiv(v, bins) for v in (scaled, last))
    return (*(b.cast(v, dtype="int64") for v in (start, end)), taps)
