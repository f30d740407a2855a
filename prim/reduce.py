"""Reductions over axes, and windowed max.

A reduction drops its axes. Over no elements: sum 0, max and min the dtype's lowest
and highest value (-inf and inf for floats).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import add, floordiv, sub
from pirol.compiler.ir import TensorType
from pirol.prim.elementwise import ALL, NUMBERS, zeros_like
from pirol.prim.prim import Attrs, Prim, define, require

Types = Sequence[TensorType]


def lowest(dtype: Any) -> Any:
    """The identity of max for a NumPy dtype."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return False
    return -np.inf if kind.kind == "f" else np.iinfo(kind).min


def highest(dtype: Any) -> Any:
    """The identity of min for a NumPy dtype."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return True
    return np.inf if kind.kind == "f" else np.iinfo(kind).max


def _infer(name: str, allowed: Sequence[str]) -> Any:
    def infer(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x, axes = types[0], attrs["axes"]
        ok = x.dtype in allowed and sorted(set(axes)) == list(axes)
        ok = ok and all(0 <= a < x.rank for a in axes)
        require(ok, name, (x, axes), "sorted axes within the rank, a number dtype")
        shape = tuple(d for k, d in enumerate(x.shape) if k not in axes)
        return (TensorType(shape, x.dtype),)

    return infer


def _back(b: Any, ct: Any, op: Any) -> Any:
    """The value of the reduced shape, spread over the operand's shape."""
    shape, axes = op.operands[0].shape, op.attrs["axes"]
    kept = tuple(k for k in range(len(shape)) if k not in axes)
    return b.broadcast(ct, shape=shape, dims=kept)


def _extreme_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """Elements equal to the extreme share the cotangent evenly."""
    x = op.operands[0]
    hit = b.cast(b.eq(x, _back(b, op.results[0], op)), dtype=x.dtype)
    count = b.reduce_sum(hit, axes=op.attrs["axes"])
    return (b.mul(hit, _back(b, b.div(cts[0], count), op)),)


def _sum(x: Any, *, axes: Any) -> Any:
    return np.asarray(np.sum(x, axis=tuple(axes), dtype=x.dtype))


def _max(x: Any, *, axes: Any) -> Any:
    return np.asarray(np.max(x, axis=tuple(axes), initial=lowest(x.dtype)))


def _min(x: Any, *, axes: Any) -> Any:
    return np.asarray(np.min(x, axis=tuple(axes), initial=highest(x.dtype)))


define(
    Prim(
        "reduce_sum",
        "reduce",
        _infer("reduce_sum", NUMBERS),
        _sum,
        lambda b, op, cts: (_back(b, cts[0], op),),
    )
)
define(Prim("reduce_max", "reduce", _infer("reduce_max", ALL), _max, _extreme_vjp))
define(Prim("reduce_min", "reduce", _infer("reduce_min", ALL), _min, _extreme_vjp))


def window_extent(size: Any, k: int, stride: int, pad: Any, dilation: int) -> Any:
    """Output extent of a window of k taps over `size`, padded (low, high)."""
    reach = dilation * (k - 1) + 1
    return add(floordiv(sub(add(size, pad[0] + pad[1]), reach), stride), 1)


def _infer_window(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = types[0]
    lists = [attrs[k] for k in ("window", "strides", "padding", "dilation")]
    ok = all(len(part) == x.rank for part in lists) and x.dtype in NUMBERS
    require(ok, "window_max", (x, *lists), "window, strides, padding, dilation a dim")
    shape = tuple(map(window_extent, x.shape, *lists))
    return TensorType(shape, x.dtype), TensorType(shape, "int64")


def window_offsets(window: Sequence[int]) -> list[tuple[int, ...]]:
    """All positions within the window, row-major."""
    return [tuple(map(int, k)) for k in np.ndindex(*window)]


def _window_max(
    x: Any, *, window: Any, strides: Any, padding: Any, dilation: Any
) -> Any:
    """The largest value (NaN wins) of each window and its flat index in x; -1: none."""
    shape = [
        window_extent(*a) for a in zip(x.shape, window, strides, padding, dilation)
    ]
    best = np.full(shape, lowest(x.dtype), x.dtype)
    index = np.full(shape, -1, np.int64)
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
        value = x[tuple(safe)] if x.size else best
        flat = np.zeros(shape, np.int64)
        for a, n in zip(safe, x.shape):
            flat = flat * n + a
        take = (
            inside & ((value > best) | (index < 0) | (value != value)) & (best == best)
        )
        best, index = np.where(take, value, best), np.where(take, flat, index)
    return best, index


def _window_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """Each tap's share, placed back by pad; no scatter, so the order is fixed."""
    x, index, at = op.operands[0], op.results[1], op.attrs
    total, zero = None, zeros_like(b, cts[0])
    for tap in window_offsets(at["window"]):
        hit = b.eq(index, _tap_index(b, op, tap))
        part = b.select(hit, cts[0], zero)
        placed = _place(b, part, x.shape, tap, at)
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


define(Prim("window_max", "window", _infer_window, _window_max, _window_vjp))
