"""Sorts and top-k, for programs that run without Paddle: by counting.

An element's place is how many go before it: smaller ones, and equal ones that come
earlier, so that the sort is stable. NaN are larger than all else, as in Paddle. That is
n * n comparisons of a row of n, up to MOST; in Paddle's own process its library sorts.
"""

from __future__ import annotations

from typing import Any

from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import cut
from pirol.prim.decomp.pointwise import NUMBERS
from pirol.prim.decomp.registry import axis_in, decomposes, need, number

MOST = 2048  # elements of a row


def _last(b: Builder, x: Value, axis: int) -> Value:
    """The tensor with this axis last."""
    order = [k for k in range(x.type.rank) if k != axis]
    result: Value = b.transpose(x, perm=(*order, axis))
    return result


def _back(b: Builder, x: Value, axis: int) -> Value:
    """The tensor with its last axis there."""
    last = x.type.rank - 1
    order = list(range(last))
    order.insert(axis, last)
    result: Value = b.transpose(x, perm=tuple(order))
    return result


def places(b: Builder, x: Value, descending: bool) -> Value:
    """Of each element its place among those of its row, the last axis; int64."""
    rank, shape = x.type.rank, (*x.shape, x.shape[-1])
    lead = tuple(range(rank - 1))
    own = b.broadcast(x, shape=shape, dims=(*lead, rank - 1))
    other = b.broadcast(x, shape=shape, dims=(*lead, rank))
    own_at, other_at = (
        b.iota(axis=k, shape=shape, dtype="int32") for k in (rank - 1, rank)
    )
    earlier = b.lt(other_at, own_at)
    if x.dtype not in FLOATS:
        before = b.gt(other, own) if descending else b.lt(other, own)
        before = b.or_(before, b.and_(b.eq(other, own), earlier))
    else:
        not_behind = b.not_(b.le(other, own) if descending else b.ge(other, own))
        known = own if descending else other  # NaN are never the lesser
        first = b.and_(not_behind, b.eq(known, known))
        both = b.and_(b.ne(own, own), b.ne(other, other))
        same = b.or_(b.eq(other, own), both)
        before = b.or_(first, b.and_(same, earlier))
    count = b.reduce_sum(b.cast(before, dtype="int32"), axes=(rank,))
    result: Value = b.cast(count, dtype="int64")
    return result


def in_order(b: Builder, x: Value, axis: int, descending: bool) -> tuple[Value, Value]:
    """The elements along an axis in order, and where each was; that axis is last."""
    size = x.shape[axis]
    need(isinstance(size, int) and size <= MOST, f"more than {MOST} in a row, maybe")
    x = _last(b, x, axis)
    at, kept = places(b, x, descending), tuple(range(x.type.rank - 1))
    of = b.iota(axis=x.type.rank - 1, shape=x.shape, dtype="int64")
    none = (b.const(value=0, shape=x.shape, dtype=v.dtype) for v in (x, of))
    found = (b.put(n, v, at, dims=(*kept, -1)) for n, v in zip(none, (x, of)))
    values, indices = found
    return values, indices


@decomposes("pd_op.argsort", compute_in="float32", alone=True)
def argsort(b: Builder, x: Value, *, axis: int, descending: bool) -> Any:
    """The sorted tensor, and the places that its elements had."""
    need(x.dtype in NUMBERS and x.type.rank > 0, f"argsort of {x.type}")
    axis = axis_in(axis, x.type.rank, "argsort")
    found = in_order(b, x, axis, descending)
    return tuple(_back(b, v, axis) for v in found)


@decomposes("pd_op.topk", compute_in="float32", alone=True)
def topk(b: Builder, x: Value, k: Value, *, axis: int, largest: bool) -> Any:
    """The k largest (or smallest) along an axis, in order, and where they were."""
    need(x.dtype in NUMBERS and x.type.rank > 0, f"topk of {x.type}")
    axis, count = axis_in(axis, x.type.rank, "topk"), number(b, k, "k")
    size = x.shape[axis]
    fits = isinstance(count, int) and isinstance(size, int) and 0 < count <= size
    need(fits, f"the first {count} of {size}")
    found = in_order(b, x, axis, descending=largest)
    last = x.type.rank - 1
    return tuple(_back(b, cut(b, v, last, 0, count), axis) for v in found)
