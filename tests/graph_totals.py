"""What reductions, scans and windows mean, in NumPy and apart from Pirol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from graph_meaning import (
    Array,
    Expected,
    Wide,
    _larger,
    _settled,
    _smaller,
    dtype_of,
    moved,
)

from pirol.compiler.ir import FLOATS

# Terms that a float32 sum may add up one by one before a wider total takes them; the
# error is then at most so many half ulps of sum(|x|).
IN_LINE = 1024


def reduced(name: str, x: Expected, axes: Sequence[int]) -> Expected:
    """What a reduction gives."""
    at = tuple(axes)
    if name in ("reduce_sum", "reduce_prod"):
        return (_total if name == "reduce_sum" else _product)(x, at)
    join = _larger if name == "reduce_max" else _smaller
    value = _folded(x.value, at, join, _bound_of(x.value.dtype, name == "reduce_max"))
    kept = x.dtype not in FLOATS or not at
    if x.bound is None:
        return Expected(x.dtype, value, None, kept and x.signed)
    bound = _folded(x.bound, at, np.maximum, Wide(0))
    return Expected(x.dtype, value, bound, signed=False)


def _bound_of(kind: Any, low: bool) -> Any:
    if kind.kind == "b":
        return not low
    if kind.kind == "f":
        return kind.type(-np.inf if low else np.inf)
    info = np.iinfo(kind)
    return info.min if low else info.max


def _folded(x: Array, axes: tuple[int, ...], join: Any, start: Any) -> Array:
    kept = [k for k in range(x.ndim) if k not in axes]
    rows = np.transpose(x, [*kept, *axes])
    shape = rows.shape[: len(kept)]
    flat = rows.reshape(*shape, math.prod(rows.shape[len(kept) :]))
    first = np.full((*shape, 1), start, x.dtype)
    while flat.shape[-1] > 1:
        half = flat.shape[-1] // 2
        both = join(flat[..., :half], flat[..., half : 2 * half])
        flat = np.concatenate([both, flat[..., 2 * half :]], axis=-1)
    total = join(flat, first) if flat.shape[-1] else first
    return np.asarray(total[..., 0], x.dtype)


def _product(x: Expected, axes: tuple[int, ...]) -> Expected:
    if x.dtype not in FLOATS:
        with np.errstate(all="ignore"):
            one = dtype_of(x.dtype).type(1)
            return Expected(x.dtype, _folded(x.value, axes, np.multiply, one))
    value, bound = x.wide()
    if not axes:
        return Expected(x.dtype, value, bound, signed=False)
    info = np.finfo(dtype_of(x.dtype))
    terms = math.prod(x.value.shape[k] for k in axes)
    with np.errstate(all="ignore"):
        total = np.asarray(value.prod(axis=axes))
        size = np.abs(value)
        # In another order a part of the product may leave the dtype's range.
        least = np.where(size > 0, np.minimum(size - bound, 1), 1).prod(axis=axes)
        most = np.where(np.isinf(size), 1, np.maximum(size + bound, 1)).prod(axis=axes)
        doubt = (least < info.tiny * 2) | (most > info.max / 2)
        doubt |= np.isinf(bound).any(axis=axes)
        error = (size + bound).prod(axis=axes) * Wide(1 + info.eps) ** terms
        return _settled(total, error - np.abs(total), doubt, x.dtype)


def _total(x: Expected, axes: tuple[int, ...]) -> Expected:
    if x.dtype not in FLOATS:
        kind = dtype_of(x.dtype)
        with np.errstate(all="ignore"):
            exact = _folded(x.value, axes, np.add, kind.type(0))
        return Expected(x.dtype, exact)
    if not axes:
        value, bound = x.wide()
        return Expected(x.dtype, value, bound, signed=False)
    value, bound = x.wide()
    terms = math.prod(x.value.shape[k] for k in axes)
    in_line = min(terms, IN_LINE) if x.dtype == "float32" else terms
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(value), np.abs(value) + bound, 0).sum(axis=axes)
        info = np.finfo(dtype_of(x.dtype))
        error = bound.sum(axis=axes) + (in_line + 8) * Wide(info.eps) / 2 * size
        error = error + Wide(info.smallest_subnormal)
        doubt = np.isinf(bound).any(axis=axes) | (size > info.max)
        total = np.asarray(value.sum(axis=axes))
        return _settled(total, np.asarray(error), doubt, x.dtype)


def running(x: Expected, axis: int) -> Expected:
    """What cumsum gives: each element the sum of those up to it, taken one by one."""
    count = x.value.shape[axis]
    before = np.tril(np.ones((count, count), bool))  # [to, from]

    def spread(a: Array, _: Any) -> Array:
        rows = np.moveaxis(a, axis, -1)[..., None, :]
        return np.asarray(np.where(before, rows, a.dtype.type(0)))

    total = _total(moved(x, spread), (x.value.ndim,))
    return moved(total, lambda a, _: np.moveaxis(a, -1, axis))


def window_total(x: Expected, shape: Sequence[int], **at: Any) -> Expected:
    """What window_sum gives."""
    taps = list(np.ndindex(*at["window"]))

    def spread(a: Array, _: Any) -> Array:
        out = np.zeros((*shape, len(taps)), a.dtype)
        for to in np.ndindex(*shape):
            for k, tap in enumerate(taps):
                place = _place_of(to, tap, **at)
                if all(0 <= p < n for p, n in zip(place, a.shape)):
                    out[(*to, k)] = a[place]
        return out

    return _total(moved(x, spread), (len(shape),))


def _place_of(
    to: Sequence[int], tap: Sequence[int], *, window: Any, strides: Any, padding: Any,
    dilation: Any,
) -> tuple[int, ...]:  # fmt: skip
    each = zip(to, tap, strides, padding, dilation)
    return tuple(a * s - p[0] + t * d for a, t, s, p, d in each)


def windowed(
    x: Array, window: Any, strides: Any, padding: Any, dilation: Any
) -> tuple[Array, Array]:
    """window_max by a walk over every window: (largest value, its flat index or -1)."""
    spans = [d * (k - 1) + 1 for k, d in zip(window, dilation)]
    shape = [
        (n + p[0] + p[1] - r) // s + 1
        for n, p, r, s in zip(x.shape, padding, spans, strides)
    ]
    best = np.full(shape, _bound_of(x.dtype, True), x.dtype)
    index = np.full(shape, -1, np.int64)
    for at in np.ndindex(*shape):
        for tap in np.ndindex(*window):
            place = _place_of(
                at, tap, window=window, strides=strides, padding=padding,
                dilation=dilation,
            )  # fmt: skip
            if not all(0 <= p < n for p, n in zip(place, x.shape)):
                continue
            new, old = x[place], best[at]
            if old == old and (index[at] < 0 or new > old or new != new):
                best[at], index[at] = new, np.ravel_multi_index(place, x.shape)
    return best, index
