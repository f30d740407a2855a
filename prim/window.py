"""Windowed max and sum: strides, padding (low, high) and dilation for each dim."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import add, floordiv, maximum, mul, product, sub
from pirol.compiler.ir import TensorType
from pirol.prim.elementwise import NUMBERS, zeros_like
from pirol.prim.prim import Attrs, Prim, define, require
from pirol.prim.reduce import lowest

Types = Sequence[TensorType]
PLACES = 2**31  # of a plane


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
    first, last = attrs["plane"]
    size = product(types[0].shape[first:last])
    outside = (*range(first), *range(last, value.rank))
    some = first < last and not (isinstance(size, int) and size > PLACES)
    ok = some and all(still(attrs, k) for k in outside)
    require(ok, "window_max", types, "all windows in the plane, of 2 ** 31 places")
    return value, TensorType(value.shape, "int32")


def still(attrs: Attrs, k: int) -> bool:
    """Whether there is no window along a dim."""
    low, high = attrs["padding"][k]
    return (attrs["window"][k], attrs["strides"][k], low, high) == (1, 1, 0, 0)


def window_offsets(window: Sequence[int]) -> list[tuple[int, ...]]:
    """All positions within the window, row-major."""
    return [tuple(map(int, k)) for k in np.ndindex(*window)]


def _window_max(
    x: Any, *, window: Any, strides: Any, padding: Any, dilation: Any, plane: Any
) -> Any:
    """The largest value (NaN wins) of each window, and its place, row-major, in the
    dims `plane` (the first, and the one behind the last); -1: none."""
    sizes = (window, strides, padding, dilation)
    shape = [window_extent(*a) for a in zip(x.shape, *sizes)]
    best = np.full(shape, lowest(x.dtype), x.dtype)
    index = np.full(shape, -1, np.int64)
    for value, flat, inside in _taps(x, shape, *sizes):
        take = (
            inside & ((value > best) | (index < 0) | (value != value)) & (best == best)
        )
        best, index = np.where(take, value, best), np.where(take, flat, index)
    inner = math.prod(x.shape[plane[1] :])
    places = math.prod(x.shape[plane[0] : plane[1]])
    place = index // max(inner, 1) % max(places, 1)
    return best, np.where(index < 0, -1, place).astype(np.int32)


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


def _window_max_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """The sum of what the windows give that chose a place, in a fixed order."""
    x, index, (first, last) = op.operands[0], op.results[1], op.attrs["plane"]
    before, after = [
        (
            product(v.shape[:first]),
            product(v.shape[first:last]),
            product(v.shape[last:]),
        )
        for v in (x, index)
    ]
    ct = b.select(b.lt(index, 0), zeros_like(b, cts[0]), cts[0])
    ct, place = (b.reshape(v, shape=after) for v in (ct, index))  # places are clamped
    place = b.cast(place, dtype="int64")
    found = b.scatter_add(ct, place, shape=before, dims=(0, -1, 2))
    return (b.reshape(found, shape=x.shape),)


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
    """At each place the sum of the windows over it: those whose taps, walked backwards,
    meet it among the cotangent's elements, spread by the strides."""
    x, at = op.operands[0], op.attrs
    reaches = [d * (k - 1) for d, k in zip(at["dilation"], at["window"])]
    before = [reach - low for reach, (low, _) in zip(reaches, at["padding"])]
    starts = tuple(maximum(mul(-1, k), 0) for k in before)
    sizes = tuple(map(add, x.shape, reaches))
    ones = (1,) * len(sizes)
    wide = b.pad(
        cts[0],
        low=tuple(maximum(k, 0) for k in before),
        high=tuple(map(add, sizes, starts)),
        interior=tuple(s - 1 for s in at["strides"]),
        value=0,
    )
    wide = b.slice(wide, starts=starts, sizes=sizes, steps=ones)
    attrs = {"window": at["window"], "dilation": at["dilation"], "strides": ones}
    return (b.window_sum(wide, **attrs, padding=((0, 0),) * len(ones)),)


define(Prim("window_max", "window", _infer_window_max, _window_max, _window_max_vjp))
define(Prim("window_sum", "window", _infer_window, _window_sum, _window_sum_vjp))
