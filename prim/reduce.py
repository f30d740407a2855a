"""Reductions over axes.

A reduction drops its axes. Over no elements: sum 0, product 1, max and min the
dtype's lowest and highest value (-inf and inf for floats).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler.ir import COMPLEX, TensorType
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
        _infer("reduce_sum", NUMBERS + COMPLEX),
        _sum,
        lambda b, op, cts: (_back(b, cts[0], op),),
    )
)


def _prod(x: Any, *, axes: Any) -> Any:
    return np.asarray(np.prod(x, axis=tuple(axes), dtype=x.dtype))


def _prod_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """The product of the others: found by division, with a single 0 left out."""
    x, axes = op.operands[0], op.attrs["axes"]
    none, one = zeros_like(b, x), b.const(value=1.0, shape=x.shape, dtype=x.dtype)
    zero = b.eq(x, 0.0)
    zeros = _back(b, b.reduce_sum(b.cast(zero, dtype=x.dtype), axes=axes), op)
    rest = _back(b, b.reduce_prod(b.select(zero, one, x), axes=axes), op)
    alone = b.select(b.eq(zeros, 1.0), rest, none)
    others = b.select(b.eq(zeros, 0.0), b.div(rest, x), none)
    return (b.mul(_back(b, cts[0], op), b.select(zero, alone, others)),)


define(
    Prim(
        "reduce_prod",
        "reduce",
        _infer("reduce_prod", NUMBERS + COMPLEX),
        _prod,
        _prod_vjp,
    )
)
define(Prim("reduce_max", "reduce", _infer("reduce_max", ALL), _max, _extreme_vjp))
define(Prim("reduce_min", "reduce", _infer("reduce_min", ALL), _min, _extreme_vjp))
