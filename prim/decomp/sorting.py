"""Sorts, and what is found in sorted rows: top-k, medians, modes, places.

Equal elements stay in the order that they had; NaN are larger than all else, as in
Paddle. In Paddle's own sorts, but for stable ones, the places of equal elements are up
to its library; so in its process it runs what such places are asked of, and the ops
here give values alone. Programs without Paddle have both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.pointwise import NUMBERS
from pirol.prim.decomp.registry import axis_in, decomposes, need, number


def _last(b: Builder, x: Value, axis: int) -> Value:
    """The tensor with this axis last."""
    order = [k for k in range(x.type.rank) if k != axis]
    return _turned(b, x, (*order, axis))


def _back(b: Builder, x: Value, axis: int) -> Value:
    """The tensor with its last axis there."""
    last = x.type.rank - 1
    order = list(range(last))
    order.insert(axis, last)
    return _turned(b, x, tuple(order))


def _turned(b: Builder, x: Value, perm: tuple[int, ...]) -> Value:
    result: Value = x if perm == tuple(range(len(perm))) else b.transpose(x, perm=perm)
    return result


def first_of(
    b: Builder, x: Value, axis: int, count: Any, descending: bool
) -> tuple[Value, Value]:
    """The first `count` along an axis, in order, and where each was."""
    found = b.sort(_last(b, x, axis), descending=descending, count=count)
    values, places = (_back(b, v, axis) for v in found)
    return values, places


def places_alone(name: str, **given: Any) -> Callable[..., Any]:
    """Register a decomposition to values and places: whole for programs without Paddle;
    in its process without the places."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(run)
        def values(*operands: Any, **attrs: Any) -> Any:
            return run(*operands, **attrs)[0], None

        decomposes(name, alone=True, **given)(run)
        decomposes(name, **given)(values)
        return run

    return register


@decomposes("pd_op.argsort", alone=True)
def argsort(b: Builder, x: Value, *, axis: int, descending: bool) -> Any:
    """The sorted tensor, and the places that its elements had."""
    need(x.dtype in NUMBERS, f"argsort of {x.type}")
    if x.type.rank == 0:
        return x, b.const(value=0, shape=(), dtype="int64")
    axis = axis_in(axis, x.type.rank, "argsort")
    return first_of(b, x, axis, x.shape[axis], descending)


@decomposes("pd_op.argsort")
def stable_argsort(
    b: Builder, x: Value, *, axis: int, descending: bool, stable: bool
) -> Any:
    """The same, with the places of a stable sort only."""
    values, places = argsort(b, x, axis=axis, descending=descending)
    return values, places if stable else None


@places_alone("pd_op.topk")
def topk(b: Builder, x: Value, k: Value, *, axis: int, largest: bool) -> Any:
    """The k largest (or smallest) along an axis, in order, and where they were."""
    need(x.dtype in NUMBERS and x.type.rank > 0, f"topk of {x.type}")
    axis, count = axis_in(axis, x.type.rank, "topk"), number(b, k, "k")
    need(not isinstance(count, int) or count > 0, f"the first {count}")
    b.require_at_least(x.shape[axis], count, "topk")
    return first_of(b, x, axis, count, descending=largest)


@places_alone("pd_op.kthvalue")
def kthvalue(b: Builder, x: Value, *, k: int, axis: int, keepdim: bool) -> Any:
    """The k-th smallest along an axis, from 1 on, and where it was."""
    need(x.dtype in NUMBERS and x.type.rank > 0, f"kthvalue of {x.type}")
    axis = axis_in(axis, x.type.rank, "kthvalue")
    need(k > 0, f"the number {k} of those in order")
    b.require_at_least(x.shape[axis], k, "kthvalue")
    return _picked(b, x, axis, k - 1, k, keepdim)


def _picked(
    b: Builder, x: Value, axis: int, place: Any, count: Any, keepdim: bool
) -> tuple[Value, ...]:
    """What comes at a place (a dim, or of each row its own) of an axis, of which the
    first `count` are sorted, and where it was."""
    found = b.sort(_last(b, x, axis), descending=False, count=count)
    return tuple(_at(b, v, place, axis, keepdim) for v in found)


def _at(b: Builder, rows: Value, place: Any, axis: int, keepdim: bool) -> Value:
    """Of each row, the last axis, the element at a place; without that axis, or as a
    dim of 1 there."""
    lead = rows.shape[:-1]
    if not isinstance(place, Value):
        place = b.broadcast(b.dim(place), shape=lead, dims=())
    found = b.gather(rows, place, shape=lead, dims=(*range(len(lead)), -1))
    shape = (*lead[:axis], 1, *lead[axis:])
    result: Value = b.reshape(found, shape=shape) if keepdim else found
    return result


@places_alone("pd_op.mode")
def mode(b: Builder, x: Value, *, axis: int, keepdim: bool) -> Any:
    """The most frequent along an axis, of several the smallest, and where its last
    was; NaN are all different."""
    need(x.dtype in NUMBERS and x.type.rank > 0, f"mode of {x.type}")
    axis = axis_in(axis, x.type.rank, "mode")
    size, last = x.shape[axis], x.type.rank - 1
    b.require_at_least(size, 1, "mode")
    values, places = b.sort(_last(b, x, axis), descending=False, count=size)
    starts = b.ne(values, _before(b, values))
    place = b.iota(axis=last, shape=values.shape, dtype="int64")
    starts = b.cast(b.or_(starts, b.eq(place, 0)), dtype="int64")
    run, lead = b.sub(b.cumsum(starts, axis=last), 1), (*range(last), -1)
    one = b.const(value=1, shape=values.shape, dtype="int64")
    counts = b.scatter_add(one, run, shape=values.shape, dims=lead)
    count = b.gather(counts, run, shape=values.shape, dims=lead)
    most = b.reduce_max(count, axes=(last,))
    wide = b.broadcast(most, shape=values.shape, dims=tuple(range(last)))
    first = b.select(b.eq(count, wide), place, b.dim(size))
    first = b.reduce_min(first, axes=(last,))
    at = b.sub(b.add(first, most), 1)
    return tuple(_at(b, v, at, axis, keepdim) for v in (values, places))


def _before(b: Builder, x: Value) -> Value:
    """Each element's neighbour before it along the last axis."""
    last = x.type.rank - 1
    low = tuple(int(k == last) for k in range(last + 1))
    none = (0,) * (last + 1)
    moved = b.pad(x, low=low, high=none, interior=none, value=0)
    ones = (1,) * (last + 1)
    result: Value = b.slice(moved, starts=none, sizes=x.shape, steps=ones)
    return result


@places_alone("pd_op.median", compute_in="float32")
def median(b: Builder, x: Value, *, axis: Any, keepdim: bool, mode: str) -> Any:
    """The middle of rows in order, of two their mean, or (mode "min") the lesser one;
    NaN where there is any."""
    return _median(b, x, axis, keepdim, mode, skips=False)


@places_alone("pd_op.nanmedian", compute_in="float32")
def nanmedian(b: Builder, x: Value, *, axis: Any, keepdim: bool, mode: str) -> Any:
    """The median of what is not NaN; NaN, and place -1, where nothing is."""
    return _median(b, x, axis, keepdim, mode, skips=True)


def _median(
    b: Builder, x: Value, axes: Any, keepdim: bool, mode: str, skips: bool
) -> Any:
    """As the two above. The gradient of NaN goes to all that are NaN alike."""
    need(x.dtype in FLOATS, f"median of {x.dtype}")
    rank = x.type.rank
    axes = [axis_in(a, rank, "median") for a in axes] or list(range(rank))
    kept = tuple(k for k in range(rank) if k not in axes)
    shape = tuple(x.shape[k] for k in kept)
    size = dims.product(x.shape[k] for k in axes)
    b.require_at_least(size, 1, "median")
    need(mode == "avg" or len(axes) == 1, "places in several dims")
    rows = b.reshape(_turned(b, x, (*kept, *axes)), shape=(*shape, size))
    values, places = b.sort(rows, descending=False, count=size)
    there = b.eq(rows, rows)
    known = b.reduce_sum(b.cast(there, dtype="int64"), axes=(len(shape),))
    bad = b.eq(known, 0) if skips else b.lt(known, b.dim(size))
    low = b.shift_right(b.sub(known, 1), 1)
    ends = b.max(low, 0), b.shift_right(known, 1)
    if mode == "min":
        first = b.select(bad, known, ends[0])
        found: list[Any] = [
            _at(b, v, first, len(shape), False) for v in (values, places)
        ]
        if skips:
            found = [b.select(bad, o, v) for o, v in zip((math.nan, -1), found)]
    else:
        left, right = (_at(b, values, e, len(shape), False) for e in ends)
        middle = b.select(b.eq(*ends), left, b.mul(b.add(left, right), 0.5))
        none = b.reduce_sum(b.select(there, 0.0, rows), axes=(len(shape),))
        none = b.div(none, b.cast(b.sub(b.dim(size), known), dtype=x.dtype))
        found = [b.select(bad, none, middle), None]
    outer = tuple(1 if k in axes else d for k, d in enumerate(x.shape))
    if not keepdim:
        return tuple(found)
    return tuple(None if v is None else b.reshape(v, shape=outer) for v in found)


@decomposes("pd_op.searchsorted", operands="sorted_sequence values")
def searchsorted(
    b: Builder, rows: Value, x: Value, *, right: bool, out_int32: bool
) -> Any:
    """Of each of x how many of the sorted row come before it, with `right` also of its
    equals; all, as in Paddle, of what is not finite. Found by halves."""
    size, lead = rows.shape[-1], rows.type.rank - 1
    need(isinstance(size, int), "a row of which the length is not known")
    need(rows.dtype == x.dtype and x.dtype in NUMBERS, f"{x.type} in {rows.type}")
    if lead:
        for a, c in zip(rows.shape[:-1], x.shape[:-1]):
            b.require_equal(a, c, "searchsorted")
    at = (*range(lead), -1)
    low, high = (b.const(value=v, shape=x.shape, dtype="int64") for v in (0, size))
    for _ in range(size.bit_length()):
        middle = b.shift_right(b.add(low, high), 1)
        item = b.gather(rows, middle, shape=x.shape, dims=at)
        before = b.not_(b.gt(item, x)) if right else b.lt(item, x)
        is_open = b.lt(low, high)
        low = b.select(b.and_(is_open, before), b.add(middle, 1), low)
        high = b.select(b.or_(before, b.not_(is_open)), high, middle)
    if x.dtype in FLOATS:
        low = b.select(b.lt(b.abs(x), math.inf), low, size)
    return b.cast(low, dtype="int32") if out_int32 else low
