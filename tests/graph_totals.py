"""What reductions, scans and windows mean, in NumPy and apart from Pirol."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from graph_meaning import (
    Array,
    Expected,
    Wide,
    _larger,
    _settled,
    _smaller,
    converted,
    dtype_of,
    moved,
)

from pirol.compiler.ir import FLOATS, HALVES

# Terms that a float32 sum may add up one by one before a wider total takes them; the
# error is then at most so many half ulps of sum(|x|).
IN_LINE = 1024


def of_halves(fn: Callable[..., Expected]) -> Callable[..., Expected]:
    """The function, which of halves makes the sums.. of float32, rounded."""

    @functools.wraps(fn)
    def run(*args: Any, **attrs: Any) -> Expected:
        given = next(a for a in args if isinstance(a, Expected))
        wide = [converted(a, "float32") if a is given else a for a in args]
        if given.dtype not in HALVES:
            return fn(*args, **attrs)
        return converted(fn(*wide, **attrs), given.dtype)

    return run


@of_halves
def reduced(name: str, x: Expected, axes: Sequence[int]) -> Expected:
    """What a reduction gives."""
    at = tuple(axes)
    if name in ("reduce_sum", "reduce_prod"):
        return (_sum if name == "reduce_sum" else _product)(x, at)
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
    if kind.kind not in "biu":
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


def _sum(x: Expected, axes: tuple[int, ...]) -> Expected:
    if not axes and x.dtype in FLOATS:
        value, bound = x.wide()
        return Expected(x.dtype, value, bound, signed=False)
    terms = math.prod(x.value.shape[k] for k in axes)
    return _total(x, lambda a: _folded(a, axes, np.add, a.dtype.type(0)), terms)


def _total(x: Expected, add: Callable[[Array], Array], terms: Any) -> Expected:
    """The sums that `add` makes, each of so many terms."""
    if x.dtype not in FLOATS:
        with np.errstate(all="ignore"):
            return Expected(x.dtype, add(x.value))
    value, bound = x.wide()
    in_line = np.minimum(terms, IN_LINE) if x.dtype == "float32" else terms
    with np.errstate(all="ignore"):
        size = add(np.where(np.isfinite(value), np.abs(value) + bound, 0))
        info = np.finfo(dtype_of(x.dtype))
        error = add(bound) + (in_line + 8) * Wide(info.eps) / 2 * size
        error = error + Wide(info.smallest_subnormal)
        doubt = np.isinf(add(bound)) | (size > info.max)
        return _settled(add(value), np.asarray(error), doubt, x.dtype)


@of_halves
def running(x: Expected, axis: int) -> Expected:
    """What cumsum gives: each element the sum of those up to it, taken one by one."""
    rest = x.value.ndim - axis - 1
    terms = np.arange(1, x.value.shape[axis] + 1).reshape(-1, *[1] * rest)
    return _total(x, lambda a: np.add.accumulate(a, axis, dtype=a.dtype), terms)


@of_halves
def running_product(x: Expected, axis: int) -> Expected:
    """What cumprod gives: each element the product of those up to it."""
    lines = [slice(None)] * x.value.ndim
    found = []
    for k in range(x.value.shape[axis]):
        lines[axis] = slice(k + 1)
        found.append(_product(moved(x, lambda a, _: a[tuple(lines)]), (axis,)))
    if not found:
        return x
    value = np.stack([f.value for f in found], axis)
    if found[0].bound is None:
        return replace(found[0], value=value)
    bound = np.stack([f.bound for f in found], axis)
    return replace(found[0], value=value, bound=bound, signed=False)


@of_halves
def running_extreme(x: Expected, axis: int, which: str) -> Expected:
    """What cummax or cummin gives; of zeros any, and so the sign is."""
    join = np.maximum if which == "max" else np.minimum
    value = join.accumulate(x.value, axis)
    bound = None if x.bound is None else np.maximum.accumulate(x.bound, axis)
    return replace(x, value=value, bound=bound, signed=False)


# Windows ---------------------------------------------------------------------------


@of_halves
def window_total(x: Expected, shape: Sequence[int], **at: Any) -> Expected:
    """What window_sum gives."""
    taps = list(np.ndindex(*at["window"]))

    def spread(a: Array, _: Any) -> Array:
        out = np.zeros((*shape, len(taps)), a.dtype)
        for k, tap in enumerate(taps):
            place, valid = _place_of(np.indices(shape), tap, a.shape, **at)
            out[..., k] = np.where(valid, a[place], 0) if a.size else 0
        return out

    return _sum(moved(x, spread), (len(shape),))


def _place_of(
    to: Array, tap: Sequence[int], source: Sequence[int], *, window: Any, strides: Any,
    padding: Any, dilation: Any,
) -> tuple[tuple[Array, ...], Any]:  # fmt: skip
    """Where in the source a tap of each window lies, and whether it is within it."""
    each = zip(to, tap, strides, padding, dilation)
    places = [a * s - p[0] + t * d for a, t, s, p, d in each]
    valid = np.ones(to.shape[1:], bool)
    for place, size in zip(places, source):
        valid &= (place >= 0) & (place < size)
    return tuple(np.where(valid, p, 0) for p in places), valid


def windowed(
    x: Array, window: Any, strides: Any, padding: Any, dilation: Any
) -> tuple[Array, Array]:
    """window_max, tap by tap: (largest value, its flat index or -1)."""
    spans = [d * (k - 1) + 1 for k, d in zip(window, dilation)]
    shape = [
        (n + p[0] + p[1] - r) // s + 1
        for n, p, r, s in zip(x.shape, padding, spans, strides)
    ]
    best = np.full(shape, _bound_of(x.dtype, True), x.dtype)
    index = np.full(shape, -1, np.int64)
    for tap in np.ndindex(*window) if x.size else ():
        place, valid = _place_of(
            np.indices(shape), tap, x.shape, window=window, strides=strides,
            padding=padding, dilation=dilation,
        )  # fmt: skip
        new = x[place]
        better = (index < 0) | (new > best) | (new != new)
        take = valid & (best == best) & better
        best = np.where(take, new, best)
        index = np.where(take, np.ravel_multi_index(place, x.shape), index)
    return best, index.astype(np.int32)
