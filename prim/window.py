"""Windowed max and sum: strides, padding (low, high) and dilation for each dim."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import add, floordiv, product, sub
from pirol.compiler.ir import TensorType
from pirol.prim.elementwise import NUMBERS, zeros_like
from pirol.prim.prim import Attrs, Prim, define, require
from pirol.prim.reduce import lowest

Types = Sequence[TensorType]


def window_extent(size: Any, k: int, stride: int, pad: Any, dilation: int) -> Any:
    """Output extent of a window of k taps over `size`, padded (low, high)."""
    reach = dilation * (k - 1) + 1
    return add(floordiv(sub(add(size, pad[0] + pad[1]), reach), stride), 1)


def _infer_window(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = types[0]
    lists = [attrs[k] for k in ("window", "strides", "padding", "dilation")]
    ok = all(len(part) == x.rank for part in lists) and x.dtype in NUMBERS
    require(ok, "window", (x, *lists), "window, strides, padding, dilation a dim")
    return (TensorType(tuple(map(window_extent, x.shape, *lists)), x.dtype),)


def _infer_window_max(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    (value,) = _infer_window(types, attrs)
    return value, TensorType(value.shape, "int64")


def window_offsets(window: Sequence[int]) -> list[tuple[int, ...]]:
    """All positions within the window, row-major."""
    return [tuple(map(int, k)) for k in np.ndindex(*window)]


def _window_max(
    x: Any, *, window: Any, strides: Any, padding: Any, dilation: Any
) -> Any:
    """The largest value (NaN wins) of each window and its flat index in x; -1: none."""
    sizes = (window, strides, padding, dilation)
    shape = [window_extent(*a) for a in zip(x.shape, *sizes)]
    best = np.full(shape, lowest(x.dtype), x.dtype)
    index = np.full(shape, -1, np.int64)
    for value, flat, inside in _taps(x, shape, *sizes):
        take = (
            inside & ((value > best) | (index < 0) | (value != value)) & (best == best)
        )
        best, index = np.where(take, value, best), np.where(take, flat, index)
    return best, index


def _taps(
    x: Any, shape: Any, window: Any, strides: Any, padding: Any, dilation: Any
) -> Iterator[tuple[Any, Any, Any]]:
    """For each tap, what each window has there: value, flat index, whether inside."""
    grid = np.indices(shape)
    for tap in window_offsets(window):
        at = [
            g * s - p[0] + t * d
            for g, s, p, t, d in zip(grid, strides, padding, tap, dilation)
        ]
        inside = np.ones(shape, bool)
        for a, size in zip(at, x.shape):
            inside &= (a >= 0) & (a < size)
        safe = [np.clip(a, 0, max(n - 1, 0)) for a, n in zip(at, x.shape)]
        flat = np.zeros(shape, np.int64)
        for a, n in zip(safe, x.shape):
            flat = flat * n + a
        yield x[tuple(safe)] if x.size else np.zeros(shape, x.dtype), flat, inside


FEW = 8  # taps whose shares are looked for, and not put where they belong


def _window_max_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """The share of each window's choice, in a fixed order."""
    taps, part = math.prod(op.attrs["window"]), _planes(op)
    if taps <= FEW or part is None:
        return _shares_of_taps(b, op, cts[0])
    x, index, (first, last) = op.operands[0], op.results[1], part
    before, after = [
        (
            product(v.shape[:first]),
            product(v.shape[first:last]),
            product(v.shape[last:]),
        )
        for v in (x, index)
    ]
    ct = b.select(b.lt(index, 0), zeros_like(b, cts[0]), cts[0])
    ct, place = (b.reshape(v, shape=after) for v in (ct, b.max(index, 0)))
    if before[2] != 1:
        place = b.idiv(place, b.dim(before[2], after))
    number = b.iota(axis=0, shape=after, dtype="int64")
    place = b.sub(place, b.mul(number, b.dim(before[1], after)))
    found = b.scatter_add(ct, place, shape=before, dims=(0, -1, 2))
    return (b.reshape(found, shape=x.shape),)


def _planes(op: Any) -> tuple[int, int] | None:
    """The first of the dims with windows, and the one behind the last; None where there
    are others between them."""
    at = op.attrs
    still = [
        (k, s, *p) == (1, 1, 0, 0)
        for k, s, p in zip(at["window"], at["strides"], at["padding"])
    ]
    some = [k for k, alone in enumerate(still) if not alone]
    if not some or len(some) != some[-1] - some[0] + 1:
        return None
    return some[0], some[-1] + 1


def _shares_of_taps(b: Any, op: Any, ct: Any) -> Sequence[Any]:
    """Each tap's share, placed back by pad."""
    x, index, at = op.operands[0], op.results[1], op.attrs
    total, zero = None, zeros_like(b, ct)
    for tap in window_offsets(at["window"]):
        hit = b.eq(index, _tap_index(b, op, tap))
        placed = _place(b, b.select(hit, ct, zero), x.shape, tap, at)
        total = placed if total is None else b.add(total, placed)
    return (total,)


def _tap_index(b: Any, op: Any, tap: Sequence[int]) -> Any:
    """The flat input index that this tap reads for each output; out of range: -2."""
    out, x, at = op.results[1], op.operands[0], op.attrs
    flat, inside = None, None
    for k, size in enumerate(x.shape):
        line = b.iota(axis=k, shape=out.shape, dtype="int64")
        shift = tap[k] * at["dilation"][k] - at["padding"][k][0]
        place = b.add(b.mul(line, at["strides"][k]), shift)
        ok = b.and_(b.ge(place, 0), b.lt(place, b.dim(size, out.shape)))
        flat = (
            place if flat is None else b.add(b.mul(flat, b.dim(size, out.shape)), place)
        )
        inside = ok if inside is None else b.and_(inside, ok)
    return b.select(inside, flat, b.const(value=-2, shape=out.shape, dtype="int64"))


def _place(b: Any, part: Any, shape: Any, tap: Any, at: Attrs) -> Any:
    """`part`, strided and shifted to where the tap reads, in the input's shape."""
    low, keep, sizes = [], [], []
    for k, size in enumerate(shape):
        shift = tap[k] * at["dilation"][k] - at["padding"][k][0]
        low.append(max(shift, 0))
        keep.append(max(-shift, 0))
        sizes.append(size)
    high = tuple(add(size, back) for size, back in zip(sizes, keep))
    inner = tuple(s - 1 for s in at["strides"])
    wide = b.pad(part, low=tuple(low), high=high, interior=inner, value=0)
    return b.slice(
        wide, starts=tuple(keep), sizes=tuple(sizes), steps=(1,) * len(sizes)
    )


def _window_sum(
    x: Any, *, window: Any, strides: Any, padding: Any, dilation: Any
) -> Any:
    """The sum of each window; what lies outside x counts as 0."""
    sizes = (window, strides, padding, dilation)
    shape = [window_extent(*a) for a in zip(x.shape, *sizes)]
    total = np.zeros(shape, x.dtype)
    for value, _, inside in _taps(x, shape, *sizes):
        total += np.where(inside, value, x.dtype.type(0))
    return total


def _window_sum_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """Each tap's share is the whole cotangent."""
    x, at = op.operands[0], op.attrs
    total = None
    for tap in window_offsets(at["window"]):
        placed = _place(b, cts[0], x.shape, tap, at)
        total = placed if total is None else b.add(total, placed)
    return (total,)


define(Prim("window_max", "window", _infer_window_max, _window_max, _window_max_vjp))
define(Prim("window_sum", "window", _infer_window, _window_sum, _window_sum_vjp))
