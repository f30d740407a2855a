"""Paddle's reductions: sums, means, extremes, products, norms of vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler import dims
from pirol.compiler.ir import COMPLEX, DTYPES, FLOATS, INEXACT, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.pointwise import NUMBERS, holds, power
from pirol.prim.decomp.registry import axes_of, axis_in, axis_of, decomposes, need


def spread(b: Builder, reduced: Value, like: Value, axes: Sequence[int]) -> Value:
    """The reduced value in the operand's shape, its axes broadcast."""
    kept = tuple(k for k in range(like.type.rank) if k not in axes)
    result: Value = b.broadcast(reduced, shape=like.shape, dims=kept)
    return result


def largest(b: Builder, x: Value, axes: tuple[int, ...]) -> Value:
    """max over the axes, for what does not depend on it but for rounding: it has no
    gradient, and backward need not know where it was."""
    found: Value = b.stop_gradient(b.reduce_max(x, axes=axes))
    return found


def mean_of(b: Builder, x: Value, axes: Sequence[int]) -> Value:
    """The mean over axes."""
    count = dims.product(x.shape[a] for a in axes)
    total = b.reduce_sum(x, axes=tuple(axes))
    size = b.const(value=count, shape=total.shape, dtype=x.dtype)
    result: Value = b.div(total, size)
    return result


def _reduced(b: Builder, x: Value, axes: Sequence[int], keep: bool, name: str) -> Any:
    over = _named(x, axes, name)
    result = getattr(b, name)(x, axes=over)
    return _kept(b, result, x, over) if keep else result


def _named(x: Value, axes: Sequence[int], name: str) -> tuple[int, ...]:
    """The axes counted from the front and sorted; all where none is named."""
    if not x.type.rank:
        return ()
    at = sorted({axis_in(int(a), x.type.rank, name) for a in axes})
    return tuple(at or range(x.type.rank))


def _kept(b: Builder, value: Value, x: Value, axes: Sequence[int]) -> Any:
    shape = tuple(1 if k in axes else d for k, d in enumerate(x.shape))
    return b.reshape(value, shape=shape)


@decomposes("pd_op.sum", compute_in="float32")
def sum_(b: Builder, x: Value, axis: Any, *, keepdim: bool, dtype: str) -> Any:
    """The sum over axes (all, where none is named); bool and int32 add up as int64."""
    kind = dtype if dtype != "undefined" else x.dtype
    if dtype == "undefined" and x.dtype in ("bool", "int32"):
        kind = "int64"
    need(kind != "bool", "sum of bool")
    x = b.cast(x, dtype=kind)
    return _reduced(b, x, axes_of(b, axis), keepdim, "reduce_sum")


@decomposes("pd_op.reduce_as", compute_in="float32")
def reduce_as(b: Builder, x: Value, target: Value) -> Any:
    """The sum over what a tensor of the target's shape is broadcast along."""
    more = x.type.rank - target.type.rank
    pairs = enumerate(zip(x.shape[more:], target.shape), more)
    ones = [k for k, (d, size) in pairs if size == 1 and d != 1]
    return b.reshape(b.reduce_sum(x, axes=(*range(more), *ones)), shape=target.shape)


@decomposes("pd_op.mean", compute_in="float32")
def mean_(b: Builder, x: Value, axis: Any = (), *, keepdim: bool) -> Any:
    """The mean over axes (all, where none is named); of integers and bools by way of
    float32."""
    axes = _named(x, axes_of(b, axis), "mean")
    if x.dtype in INEXACT:
        result = mean_of(b, x, axes)
    else:
        result = b.cast(mean_of(b, b.cast(x, dtype="float32"), axes), dtype=x.dtype)
        result = _or_lowest(b, result, dims.product(x.shape[a] for a in axes))
    return _kept(b, result, x, axes) if keepdim else result


def _or_lowest(b: Builder, value: Value, count: Any) -> Value:
    """The mean of so many integers; of none what a cast of NaN gives."""
    if dims.equal(count, 0) is False:
        return value
    nothing = True if value.dtype == "bool" else bound(DTYPES[value.dtype][1], "min")
    chosen: Value = b.select(b.eq(b.dim(count), 0), nothing, value)
    return chosen


def _extreme(name: str) -> None:
    @decomposes(f"pd_op.{name}")
    def of_operand(b: Builder, x: Value, axis: Any, *, keepdim: bool) -> Any:
        return _ends(b, x, axes_of(b, axis), keepdim, name)

    @decomposes(f"pd_op.a{name}")
    def of_attr(b: Builder, x: Value, *, axis: Sequence[int], keepdim: bool) -> Any:
        return _ends(b, x, axis, keepdim, name)


def _ends(b: Builder, x: Value, axes: Sequence[int], keep: bool, name: str) -> Any:
    over = _named(x, axes, name)
    need(_some(x, over), f"{name} over an axis of no elements")
    for a in over:
        b.require_at_least(x.shape[a], 1, f"{name} over an axis")
    return _reduced(b, x, axes, keep, f"reduce_{name}")


def _some(x: Value, axes: Sequence[int]) -> bool:
    return all(dims.equal(x.shape[a], 0) is not True for a in axes)


_extreme("max")
_extreme("min")


def _place(name: str, prim: str, sign: str, which: str) -> None:
    @decomposes(f"pd_op.{name}")
    def run(
        b: Builder, x: Value, axis: Value, *, flatten: bool, keepdims: bool, dtype: str
    ) -> Any:
        need(x.dtype in NUMBERS, f"{name} of {x.dtype}")
        kept = (1,) * x.type.rank
        if flatten:
            x = b.reshape(x, shape=(x.type.size,))
        at = 0 if flatten else axis_of(b, axis, x.type.rank, name)
        x = b.reshape(x, shape=(1,)) if not x.type.rank else x
        worst = bound(DTYPES[x.dtype][1], which)
        lowest = b.const(value=worst, shape=x.shape, dtype=x.dtype)
        known = b.select(b.ne(x, x), lowest, x) if x.dtype in FLOATS else x
        best = spread(b, getattr(b, prim)(known, axes=(at,)), x, (at,))
        hit = b.and_(b.eq(x, best), getattr(b, sign)(best, lowest))
        places = b.iota(axis=at, shape=x.shape, dtype="int64")
        none = b.const(value=2**63 - 1, shape=x.shape, dtype="int64")
        found = b.reduce_min(b.select(hit, places, none), axes=(at,))
        result = b.select(b.eq(found, 2**63 - 1), b.mul(found, 0), found)
        if keepdims:
            every = flatten or not kept
            result = (
                b.reshape(result, shape=kept) if every else _kept(b, result, x, (at,))
            )
        return b.cast(result, dtype=dtype)


# The place of the first largest (smallest) element, NaN left out; 0 where no element is
# beyond the dtype's finite bound.
_place("argmax", "reduce_max", "gt", "min")
_place("argmin", "reduce_min", "lt", "max")


def bound(kind: Any, which: str) -> int | float:
    """The least ("min") or greatest ("max") finite number of a NumPy dtype."""
    if np.dtype(kind).kind == "f":
        return float(getattr(np.finfo(kind), which))
    return int(getattr(np.iinfo(kind), which))


@decomposes("pd_op.mean_all", compute_in="float32")
def mean_all(b: Builder, x: Value) -> Any:
    """The mean of all elements."""
    return mean_(b, x, keepdim=False)


WIDER = {"float32": "float64", "complex64": "complex128"}


@decomposes("pd_op.prod", compute_in="float32")
def prod(b: Builder, x: Value, axis: Any, *, keepdim: bool, reduce_all: bool) -> Any:
    """The product over axes; float32 is multiplied up in float64."""
    axes = [] if reduce_all else axes_of(b, axis)
    need(x.dtype != "bool", "prod of bool")
    if x.dtype in COMPLEX:
        count = dims.product(x.shape[a] for a in _named(x, axes, "prod"))
        need(isinstance(count, int), "a product of complex numbers of unknown count")
    wide = b.cast(x, dtype=WIDER.get(x.dtype, x.dtype))
    return b.cast(_reduced(b, wide, axes, keepdim, "reduce_prod"), dtype=x.dtype)


def _truth(name: str, prim: str) -> None:
    @decomposes(f"pd_op.{name}")
    def run(b: Builder, x: Value, *, axis: Sequence[int], keepdim: bool) -> Any:
        return _reduced(b, holds(b, x), axis, keepdim, prim)


_truth("any", "reduce_max")
_truth("all", "reduce_min")


@decomposes("pd_op.logsumexp", compute_in="float32")
def logsumexp(
    b: Builder, x: Value, *, axis: Sequence[int], keepdim: bool, reduce_all: bool
) -> Any:
    """log(sum(exp(x))), of what is left when the largest is taken out."""
    need(x.dtype in FLOATS, f"logsumexp of {x.dtype}")
    axes = _named(x, [] if reduce_all else axis, "logsumexp")
    top = largest(b, x, axes)
    e = b.exp(b.sub(x, spread(b, top, x, axes)))
    result = b.add(top, b.log(b.reduce_sum(e, axes=axes)))
    return _kept(b, result, x, axes) if keepdim else result


@decomposes("pd_op.p_norm", compute_in="float32")
def p_norm(
    b: Builder, x: Value, *, porder: float, axis: int, keepdim: bool, asvector: bool
) -> Any:
    """sum(|x| ** p) ** (1 / p); p = 0 counts what is not 0, inf is the largest |x|."""
    need(x.dtype in FLOATS, f"p_norm of {x.dtype}")
    axes = _named(x, [] if asvector else [axis], "p_norm")
    result = _norm(b, x, axes, porder)
    return _kept(b, result, x, axes) if keepdim else result


def _norm(b: Builder, x: Value, axes: tuple[int, ...], p: float) -> Any:
    if p == 0:
        # A function of x, if flat: its gradient is there, and 0.
        return b.reduce_sum(b.select(b.ne(x, 0), 1.0, b.abs(b.floor(x))), axes=axes)
    if math.isinf(p):
        need(_some(x, axes), "p_norm over an axis of no elements")
        return getattr(b, "reduce_max" if p > 0 else "reduce_min")(b.abs(x), axes=axes)
    total = b.reduce_sum(power(b, b.abs(x), p), axes=axes)
    if p < 0 or p == 1:
        return power(b, total, 1 / p)
    nothing = b.eq(total, 0)  # where the gradient is 0
    total = b.select(nothing, 1, total)
    return b.select(nothing, 0, b.sqrt(total) if p == 2 else power(b, total, 1 / p))


@decomposes("pd_op.frobenius_norm", compute_in="float32")
def frobenius_norm(
    b: Builder, x: Value, axis: Any, *, keep_dim: bool, reduce_all: bool
) -> Any:
    """The root of the sum of squares over axes, or of all."""
    need(x.dtype in FLOATS, f"frobenius_norm of {x.dtype}")
    at = _named(x, [] if reduce_all else axes_of(b, axis), "frobenius_norm")
    result = _norm(b, x, at, 2)
    return _kept(b, result, x, at) if keep_dim else result


@decomposes("pd_op.dist", compute_in="float32")
def dist(b: Builder, x: Value, y: Value, *, p: float) -> Any:
    """The norm by p of x - y."""
    need(x.dtype == y.dtype and x.dtype in FLOATS, f"dist of {x.dtype}, {y.dtype}")
    apart = b.sub(x, y)
    return _norm(b, apart, tuple(range(apart.type.rank)), p)


@decomposes("pd_op.renorm", compute_in="float32")
def renorm(b: Builder, x: Value, *, p: float, axis: int, max_norm: float) -> Any:
    """x, each slice of the axis made shorter whose norm by p is above max_norm."""
    need(x.dtype in FLOATS and p > 0, f"renorm of {x.dtype} by p = {p}")
    (at,) = _named(x, [axis], "renorm")
    axes = tuple(k for k in range(x.type.rank) if k != at)
    norm = _norm(b, x, axes, p)
    factor = b.select(b.gt(norm, max_norm), b.div(max_norm, norm), 1.0)
    return b.mul(x, b.broadcast(factor, shape=x.shape, dims=(at,)))


@decomposes("pd_op.squared_l2_norm", compute_in="float32")
def squared_l2_norm(b: Builder, x: Value) -> Any:
    """The sum of all squares, as a vector of one."""
    total = b.reduce_sum(b.mul(x, x), axes=tuple(range(x.type.rank)))
    return b.reshape(total, shape=(1,))


@decomposes("pd_op.equal_all")
def equal_all(b: Builder, x: Value, y: Value) -> Any:
    """Whether both have one shape, and all elements are equal."""
    need(x.dtype == y.dtype, f"equal_all of {x.dtype} and {y.dtype}")
    if len(x.shape) != len(y.shape) or any(
        dims.equal(p, q) is False for p, q in zip(x.shape, y.shape)
    ):
        return b.const(value=False, shape=(), dtype="bool")
    for p, q in zip(x.shape, y.shape):
        b.require_equal(p, q, "equal_all of sizes that may be unlike")
    return b.reduce_min(b.eq(x, y), axes=tuple(range(x.type.rank)))
