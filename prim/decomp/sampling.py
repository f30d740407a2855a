"""Images sampled at places that data name, cut into windows, or mixed by channels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Shape
from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import cut, dropped
from pirol.prim.decomp.nn import pairs
from pirol.prim.decomp.registry import axis_in, decomposes, ints, need
from pirol.prim.window import window_extent

MOST = 64  # taps of a window that are cut out one by one


@decomposes("pd_op.grid_sample", compute_in="float32")
def grid_sample(
    b: Builder,
    x: Value,
    grid: Value,
    *,
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> Any:
    """x [N, C, ...] at the grid's places, [N, ..., rank] with the last dim of x first;
    -1 and 1 are the centres of the outermost pixels, or (not align_corners) their outer
    edges."""
    rank = x.type.rank - 2
    need(x.dtype == grid.dtype and x.dtype in FLOATS, f"grid_sample of {x.dtype}")
    need(rank in (2, 3) and grid.type.rank == rank + 2, f"grid_sample by {grid.type}")
    need(mode in ("bilinear", "nearest"), f"grid_sample by {mode}")
    b.require_equal(grid.shape[0], x.shape[0], "grid_sample")
    shape = (*x.shape[:2], *grid.shape[1:-1])
    at, sizes = [], []
    for k, extent in enumerate(x.shape[2:]):
        line = dropped(b, cut(b, grid, rank + 1, rank - 1 - k, 1), (rank + 1,))
        size = b.cast(b.dim(extent), dtype=x.dtype)
        at.append(_brought(b, line, size, padding_mode, align_corners))
        sizes.append(size)
    if mode == "nearest":
        return _taken(b, x, [b.round(place) for place in at], sizes, shape)
    low = [b.floor(place) for place in at]
    after = [b.sub(place, first) for place, first in zip(at, low)]
    before = [b.sub(b.add(first, 1.0), place) for place, first in zip(at, low)]
    total: Value | None = None
    for corner in itertools.product((0, 1), repeat=rank):
        places = [b.add(first, float(c)) for first, c in zip(low, corner)]
        part = _taken(b, x, places, sizes, shape)
        for k in reversed(range(rank)):
            weight = after[k] if corner[k] else before[k]
            part = b.mul(part, _by_channel(b, weight, shape))
        total = part if total is None else b.add(total, part)
    return total


def _brought(b: Builder, x: Value, size: Value, padding: str, align: bool) -> Value:
    """The places in pixels, brought into the dim as the padding has it. Where a place
    lies on a bound, its gradient is that of a place within."""
    top = b.sub(size, 1.0)
    if align:
        x = b.mul(b.add(x, 1.0), b.mul(top, 0.5))
    else:
        x = b.sub(b.mul(b.add(x, 1.0), b.mul(size, 0.5)), 0.5)
    if padding == "zeros":
        return x
    if padding == "border":
        return _clipped(b, x, top)
    need(padding == "reflection", f"grid_sample padded by {padding}")
    if align:
        found = _reflected(b, x, b.mul(top, 2.0))
        only: Value = b.select(b.eq(top, 0.0), 0.0, found)
        return only
    found = b.sub(_reflected(b, b.add(x, 0.5), b.mul(size, 2.0)), 0.5)
    return _clipped(b, found, top)


def _clipped(b: Builder, x: Value, top: Value) -> Value:
    x = b.select(b.lt(x, 0.0), 0.0, x)
    inside: Value = b.select(b.gt(x, top), top, x)
    return inside


def _reflected(b: Builder, x: Value, there_and_back: Value) -> Value:
    away = b.select(b.lt(x, 0.0), b.neg(x), x)
    turns = b.floor(b.div(away, there_and_back))
    on = b.sub(away, b.mul(turns, there_and_back))
    back = b.sub(there_and_back, on)
    nearer: Value = b.select(b.gt(on, back), back, on)
    return nearer


def _by_channel(b: Builder, x: Value, shape: Shape) -> Value:
    """[N, ...] as [N, C, ...], the same for every channel."""
    at = (0, *range(2, len(shape)))
    wide: Value = b.broadcast(x, shape=shape, dims=at)
    return wide


def _taken(
    b: Builder,
    x: Value,
    places: Sequence[Value],
    sizes: Sequence[Value],
    shape: Shape,
) -> Value:
    """The elements at the places, 0 outside the image."""
    inside: Value | None = None
    for place, size in zip(places, sizes):
        out = b.or_(b.lt(place, 0.0), b.gt(place, b.sub(size, 1.0)))
        inside = b.not_(out) if inside is None else b.and_(inside, b.not_(out))
    lines = [_by_channel(b, b.cast(p, dtype="int64"), shape) for p in places]
    order = (0, 1, *(-1 for _ in places))
    found = b.gather(x, *lines, shape=shape, dims=order)
    assert inside is not None
    kept: Value = b.select(_by_channel(b, inside, shape), found, 0.0)
    return kept


@decomposes("pd_op.affine_grid", compute_in="float32", operands="input output_shape")
def affine_grid(b: Builder, theta: Value, sizes: Any, *, align_corners: bool) -> Any:
    """theta [N, rank, rank + 1] times (x, y, .., 1) of each pixel: [N, ..., rank]."""
    rank = theta.type.rank and theta.shape[1]
    wanted = ints(b, sizes, "the output's shape")
    need(rank in (2, 3) and len(wanted) == rank + 2, f"affine_grid of {theta.type}")
    need(theta.dtype in FLOATS, f"affine_grid of {theta.dtype}")
    shape = (theta.shape[0], *wanted[2:], rank)
    found = _column(b, theta, rank, shape)
    for k in reversed(range(rank)):
        line = _line(b, wanted[rank + 1 - k], theta.dtype, align_corners)
        line = b.broadcast(line, shape=shape, dims=(rank - k,))
        found = b.add(b.mul(line, _column(b, theta, k, shape)), found)
    return found


def _column(b: Builder, theta: Value, k: int, shape: Shape) -> Value:
    column = dropped(b, cut(b, theta, 2, k, 1), (2,))
    wide: Value = b.broadcast(column, shape=shape, dims=(0, len(shape) - 1))
    return wide


def _line(b: Builder, size: Any, dtype: str, align: bool) -> Value:
    """The centres of so many pixels, from -1 to 1, or of equal parts of that."""
    count = b.cast(b.dim(size), dtype=dtype)
    less = b.sub(count, 1.0)
    step = b.div(2.0, less if align else count)
    start = -1.0 if align else b.neg(b.div(less, count))
    place = b.cast(b.iota(axis=0, shape=(size,), dtype="int64"), dtype=dtype)
    line: Value = b.add(b.mul(place, step), start)
    return line


@decomposes("pd_op.unfold")
def unfold(
    b: Builder,
    x: Value,
    *,
    kernel_sizes: Sequence[int],
    strides: Sequence[int],
    paddings: Sequence[int],
    dilations: Sequence[int],
) -> Any:
    """The windows of [N, C, H, W] as columns: [N, C * taps, windows]."""
    need(x.type.rank == 4, f"unfold of {x.type}")
    taps = kernel_sizes[0] * kernel_sizes[1]
    need(taps <= MOST, f"unfold by windows of more than {MOST} elements")
    around = _around(paddings)
    none = (0,) * 4
    low, high = ((0, 0, *(p[k] for p in around)) for k in (0, 1))
    if any((*low, *high)):
        x = b.pad(x, low=low, high=high, interior=none, value=0)
    sizes = tuple(
        window_extent(n, k, s, (0, 0), d)
        for n, k, s, d in zip(x.shape[2:], kernel_sizes, strides, dilations)
    )
    steps = (1, 1, *strides)
    parts = []
    for tap in itertools.product(*map(range, kernel_sizes)):
        starts = (0, 0, *(t * d for t, d in zip(tap, dilations)))
        part = b.slice(x, starts=starts, sizes=(*x.shape[:2], *sizes), steps=steps)
        parts.append(b.reshape(part, shape=(*x.shape[:2], 1, *sizes)))
    columns = (dims.mul(x.shape[1], taps), dims.product(sizes))
    return b.reshape(b.concat(*parts, axis=2), shape=(x.shape[0], *columns))


def _around(paddings: Sequence[int]) -> Any:
    """What is padded before and behind each dim, of what unfold and fold are told."""
    top, left, *rest = paddings
    return pairs((top, rest[0], left, rest[1]) if rest else (top, left), 2)


@decomposes("pd_op.fold", compute_in="float32")
def fold(
    b: Builder,
    x: Value,
    *,
    output_sizes: Sequence[int],
    kernel_sizes: Sequence[int],
    strides: Sequence[int],
    paddings: Sequence[int],
    dilations: Sequence[int],
) -> Any:
    """[N, C * taps, windows] as [N, C, H, W], of which each is the sum of the windows
    that it lies in: what unfold does, turned round."""
    taps = kernel_sizes[0] * kernel_sizes[1]
    need(taps <= MOST, f"fold by windows of more than {MOST} elements")
    around = _around(paddings)
    need(all(low == high for low, high in around), "fold of another padding behind")
    whole = [n + sum(p) for n, p in zip(output_sizes, around)]
    sizes = tuple(
        window_extent(n, k, s, (0, 0), d)
        for n, k, s, d in zip(whole, kernel_sizes, strides, dilations)
    )
    need(dims.equal(x.shape[2], dims.product(sizes)) is True, "fold of such windows")
    n, c = x.shape[0], dims.floordiv(x.shape[1], taps)
    parts = b.reshape(x, shape=(n, c, taps, *sizes))
    total = None
    for k, tap in enumerate(itertools.product(*map(range, kernel_sizes))):
        part = b.slice(
            parts, starts=(0, 0, k, 0, 0), sizes=(n, c, 1, *sizes), steps=(1,) * 5
        )
        low = [t * d for t, d in zip(tap, dilations)]
        ends = [
            size - a - (m - 1) * s - 1
            for size, a, m, s in zip(whole, low, sizes, strides)
        ]
        spread = b.pad(
            b.reshape(part, shape=(n, c, *sizes)),
            low=(0, 0, *low),
            high=(0, 0, *ends),
            interior=(0, 0, *(s - 1 for s in strides)),
            value=0,
        )
        total = spread if total is None else b.add(total, spread)
    starts = (0, 0, *(p[0] for p in around))
    return b.slice(total, starts=starts, sizes=(n, c, *output_sizes), steps=(1,) * 4)


@decomposes("pd_op.maxout")
def maxout(b: Builder, x: Value, *, groups: int, axis: int) -> Any:
    """The largest of each group of neighbouring channels."""
    at = axis_in(axis, x.type.rank, "maxout")
    size = x.shape[at]
    need(isinstance(size, int) and size % groups == 0, f"{groups} groups of {size}")
    parted = (*x.shape[:at], size // groups, groups, *x.shape[at + 1 :])
    return b.reduce_max(b.reshape(x, shape=parted), axes=(at + 1,))


@decomposes("pd_op.temporal_shift")
def temporal_shift(
    b: Builder, x: Value, *, seg_num: int, shift_ratio: float, data_format: str
) -> Any:
    """The first channels from the image before, the next from that behind, of each
    `seg_num` images; zeros beyond them."""
    channel = 1 if data_format == "NCHW" else 3
    size = x.shape[channel]
    need(isinstance(size, int), f"temporal_shift of {size} channels")
    parted = (dims.floordiv(x.shape[0], seg_num), seg_num, *x.shape[1:])
    whole, at = b.reshape(x, shape=parted), channel + 1
    first, second = int(size * shift_ratio), int(size * 2 * shift_ratio)
    ends = ((0, first, 1), (first, second, -1), (second, size, 0))
    parts = [
        _moved(b, cut(b, whole, at, start, end - start), seg_num, way)
        for start, end, way in ends
        if end > start
    ]
    return b.reshape(b.concat(*parts, axis=at), shape=x.shape)


def _moved(b: Builder, x: Value, count: int, way: int) -> Value:
    """Along the second dim by one place, up (1) or down (-1)."""
    if not way:
        return x
    none = (0,) * x.type.rank
    less = cut(b, x, 1, max(-way, 0), count - 1)
    low, high = ((0, max(w, 0), *none[2:]) for w in (way, -way))
    moved: Value = b.pad(less, low=low, high=high, interior=none, value=0)
    return moved
