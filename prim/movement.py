"""Creation and movement: const, iota, reshape, transpose, slice, pad, concat..

Shapes in attributes are tuples of Dims and may hold symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import add, equal, maximum, mul, product, sub
from pirol.compiler.ir import DTYPES, TensorType
from pirol.prim.prim import Attrs, Prim, define, require

Types = Sequence[TensorType]


def _created(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    require(attrs["dtype"] in DTYPES, "const", attrs["dtype"], "a dtype")
    return (TensorType(tuple(attrs["shape"]), attrs["dtype"]),)


def _const(*, value: Any, shape: Any, dtype: str) -> Any:
    return np.full(shape, np.asarray(value).astype(DTYPES[dtype][1]))  # integers wrap


def _iota(*, axis: int, shape: Any, dtype: str) -> Any:
    line = np.arange(shape[axis]).astype(DTYPES[dtype][1])
    place = [-1 if k == axis else 1 for k in range(len(shape))]
    return np.broadcast_to(line.reshape(place), shape).copy()


define(Prim("const", "creation", _created, _const, lambda b, op, cts: ()))
define(Prim("iota", "creation", _created, _iota, lambda b, op, cts: ()))


def _infer_reshape(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    shape = tuple(attrs["shape"])
    ok = equal(product(shape), types[0].size)
    require(ok, "reshape", (types[0], shape), "as many elements as before")
    return (TensorType(shape, types[0].dtype),)


def _infer_transpose(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    perm = tuple(attrs["perm"])
    ok = sorted(perm) == list(range(types[0].rank))
    require(ok, "transpose", (types[0], perm), "a permutation of the axes")
    return (TensorType(tuple(types[0].shape[p] for p in perm), types[0].dtype),)


def _infer_broadcast(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    shape, at, source = tuple(attrs["shape"]), attrs["dims"], types[0].shape
    ok = len(at) == len(source) and list(at) == sorted(set(at))
    ok = ok and all(
        equal(d, 1) is True or equal(d, shape[k]) is True for d, k in zip(source, at)
    )
    require(ok, "broadcast", (types[0], shape, at), "dims that are 1 or equal")
    return (TensorType(shape, types[0].dtype),)


def _broadcast(x: Any, *, shape: Any, dims: Any) -> Any:
    full = [1] * len(shape)
    for size, at in zip(np.shape(x), dims):
        full[at] = size
    return np.broadcast_to(np.reshape(x, full), shape).copy()


def _broadcast_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    source, at = op.operands[0], op.attrs["dims"]
    shape = op.attrs["shape"]
    kept = [k for d, k in zip(source.shape, at) if equal(d, shape[k]) is True]
    axes = tuple(k for k in range(len(shape)) if k not in kept)
    summed = b.reduce_sum(cts[0], axes=axes) if axes else cts[0]
    return (b.reshape(summed, shape=source.shape),)


def _inverse(perm: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.argsort(perm))


define(
    Prim(
        "reshape",
        "movement",
        _infer_reshape,
        lambda x, *, shape: np.reshape(x, shape),
        lambda b, op, cts: (b.reshape(cts[0], shape=op.operands[0].shape),),
    )
)
define(
    Prim(
        "transpose",
        "movement",
        _infer_transpose,
        lambda x, *, perm: np.transpose(x, perm).copy(),
        lambda b, op, cts: (b.transpose(cts[0], perm=_inverse(op.attrs["perm"])),),
    )
)
define(Prim("broadcast", "movement", _infer_broadcast, _broadcast, _broadcast_vjp))


def _infer_reverse(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    axes = list(attrs["axes"])
    ok = sorted(set(axes)) == axes and all(0 <= a < types[0].rank for a in axes)
    require(ok, "reverse", (types[0], axes), "sorted axes within the rank")
    return (types[0],)


define(
    Prim(
        "reverse",
        "movement",
        _infer_reverse,
        lambda x, *, axes: np.flip(x, tuple(axes)).copy(),
        lambda b, op, cts: (b.reverse(cts[0], axes=op.attrs["axes"]),),
    )
)


def _infer_slice(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, starts, sizes, steps = (
        types[0],
        *(attrs[k] for k in ("starts", "sizes", "steps")),
    )
    ok = len(starts) == len(sizes) == len(steps) == x.rank and all(s > 0 for s in steps)
    require(ok, "slice", (x, starts, sizes, steps), "one start, size, step > 0 a dim")
    return (TensorType(tuple(sizes), x.dtype),)


def _slice(x: Any, *, starts: Any, sizes: Any, steps: Any) -> Any:
    cut = tuple(
        slice(a, a + (n - 1) * s + 1 if n else a, s)
        for a, n, s in zip(starts, sizes, steps)
    )
    return x[cut].copy()


def _slice_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """Zeros with the cotangent at the places that the slice read."""
    x, low, steps = op.operands[0], op.attrs["starts"], op.attrs["steps"]
    inner = tuple(s - 1 for s in steps)
    reach = [add(a, spread(n, i)) for a, n, i in zip(low, op.attrs["sizes"], inner)]
    high = tuple(sub(d, r) for d, r in zip(x.shape, reach))
    return (b.pad(cts[0], low=low, high=high, interior=inner, value=0),)


def spread(size: Any, interior: int) -> Any:
    """The extent of `size` items with `interior` gaps between neighbours; 0 for 0."""
    if interior == 0:
        return size
    return maximum(sub(mul(size, interior + 1), interior), 0)


def _infer_pad(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, low, high, inner = types[0], attrs["low"], attrs["high"], attrs["interior"]
    ok = len(low) == len(high) == len(inner) == x.rank
    ok = ok and all(not isinstance(p, int) or p >= 0 for p in (*low, *high, *inner))
    require(ok, "pad", (x, low, high, inner), "low, high, interior >= 0 for each dim")
    shape = tuple(
        add(add(lo, spread(d, i)), hi)
        for d, lo, hi, i in zip(x.shape, low, high, inner)
    )
    return (TensorType(shape, x.dtype),)


def _pad(x: Any, *, low: Any, high: Any, interior: Any, value: Any) -> Any:
    wide = [max((d - 1) * (i + 1) + 1, 0) for d, i in zip(x.shape, interior)]
    shape = [lo + w + hi for lo, w, hi in zip(low, wide, high)]
    out = np.full(shape, np.asarray(value).astype(x.dtype))
    at = tuple(slice(lo, lo + w, i + 1) for lo, w, i in zip(low, wide, interior))
    out[at] = x
    return out


def _pad_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    x, steps = op.operands[0], tuple(i + 1 for i in op.attrs["interior"])
    return (b.slice(cts[0], starts=op.attrs["low"], sizes=x.shape, steps=steps),)


def _infer_concat(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    axis, first = attrs["axis"], types[0]
    ok = 0 <= axis < first.rank and all(
        t.rank == first.rank
        and t.dtype == first.dtype
        and all(
            k == axis or equal(a, b) is True
            for k, (a, b) in enumerate(zip(t.shape, first.shape))
        )
        for t in types
    )
    require(ok, "concat", types, f"one dtype, and equal dims but for axis {axis}")
    total: Any = 0
    for t in types:
        total = add(total, t.shape[axis])
    shape = tuple(total if k == axis else d for k, d in enumerate(first.shape))
    return (TensorType(shape, first.dtype),)


def _concat_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    axis, grads, start = op.attrs["axis"], [], 0
    for x in op.operands:
        starts = tuple(start if k == axis else 0 for k in range(x.type.rank))
        steps = (1,) * x.type.rank
        grads.append(b.slice(cts[0], starts=starts, sizes=x.shape, steps=steps))
        start = add(start, x.shape[axis])
    return grads


define(Prim("slice", "movement", _infer_slice, _slice, _slice_vjp))
define(Prim("pad", "movement", _infer_pad, _pad, _pad_vjp))
define(
    Prim(
        "concat",
        "movement",
        _infer_concat,
        lambda *xs, axis: np.concatenate(xs, axis),
        _concat_vjp,
    )
)
