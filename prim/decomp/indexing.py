"""Paddle ops that look elements up by index tensors.

An index that Paddle would refuse stops the call by a `check`; Paddle then runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Shape
from pirol.compiler.ir import Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import cut, dropped
from pirol.prim.decomp.registry import axis_in, axis_of, decomposes, need


def places(
    b: Builder, index: Value, size: Any, what: str, negative: bool = True
) -> Value:
    """The index as int64, checked; a negative one, where allowed, counted on."""
    need(index.dtype in ("int32", "int64"), f"{what}: an index of {index.dtype}")
    place: Value = b.cast(index, dtype="int64")
    if not _sure(b, index, size, negative):
        narrow = isinstance(size, int) and size < 2**31
        seen = index if narrow else place  # of 32 bits, twice as many at once
        high = b.const(value=size, shape=(), dtype=seen.dtype)
        low = b.neg(high) if negative else 0
        inside = b.and_(b.ge(seen, low), b.lt(seen, high))
        b.check(inside, message=f"{what}: an index outside the dim")
    if not negative:
        return place
    extent = b.dim(size)
    wrapped: Value = b.select(b.lt(place, 0), b.add(place, extent), place)
    return wrapped


def _sure(b: Builder, index: Value, size: Any, negative: bool) -> bool:
    """Whether all elements are known, and known to lie within."""
    known = b.known(index)
    if known is None or not isinstance(size, int):
        return False
    low = -size if negative else 0
    return all(isinstance(k, int) and low <= k < size for k in known)


def looked_up(
    b: Builder, x: Value, axis: int, index: Value, what: str, negative: bool = True
) -> Value:
    """x with one axis replaced by the dims of the index, and the elements it names."""
    place = places(b, index, x.shape[axis], what, negative)
    rank = index.type.rank
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    wide = b.broadcast(place, shape=shape, dims=tuple(range(axis, axis + rank)))
    rest = range(axis + rank, len(shape))
    result: Value = b.gather(x, wide, shape=shape, dims=(*range(axis), -1, *rest))
    return result


@decomposes("pd_op.gather", composite=False)
def gather(b: Builder, x: Value, index: Value, axis: Value) -> Any:
    """The slices of one axis that the index (a scalar, a vector or a column) names."""
    at = axis_of(b, axis, x.type.rank, "gather")
    if index.type.rank == 2:
        need(dims.equal(index.shape[1], 1) is True, "gather by a matrix")
        index = dropped(b, index, (1,))
    return looked_up(b, x, at, index, "gather")


@decomposes("pd_op.index_select", composite=False)
def index_select(b: Builder, x: Value, index: Value, *, axis: int) -> Any:
    """The slices of one axis that the index names."""
    need(index.type.rank == 1, f"index_select by {index.type}")
    at = axis_in(axis, x.type.rank, "index_select")
    return looked_up(b, x, at, index, "index_select")


@decomposes("pd_op.index_sample", composite=False)
def index_sample(b: Builder, x: Value, index: Value) -> Any:
    """From each row of x the elements that the row of the index names."""
    b.require_equal(index.shape[0], x.shape[0], "index_sample")
    index = b.relabelled(index, (x.shape[0], index.shape[1]))
    place = places(b, index, x.shape[1], "index_sample", negative=False)
    return b.gather(x, place, shape=index.shape, dims=(0, -1))


@decomposes("pd_op.take_along_axis", composite=False, operands="arr indices")
def take_along_axis(b: Builder, x: Value, index: Value, *, axis: int) -> Any:
    """At each place of the index the element of x there, but for one coordinate."""
    lines, order = along(b, x, axis, index, "take_along_axis")
    return b.gather(x, *lines, shape=index.shape, dims=order)


def along(
    b: Builder, x: Value, axis: int, index: Value, what: str
) -> tuple[list[Value], tuple[int, ...]]:
    """The coordinates in x of each place of the index, but for one its own; and which
    of them are dims of the index (gather's lines and dims)."""
    at = axis_in(axis, x.type.rank, what)
    need(index.type.rank == x.type.rank, f"{what} of {x.type} by {index.type}")
    order, lines = [], []
    for k, (size, wanted) in enumerate(zip(x.shape, index.shape)):
        if k == at:
            lines.append(places(b, index, size, what))
        elif dims.equal(size, wanted) is not True:
            b.require_at_least(size, wanted, what)
            lines.append(b.iota(axis=k, shape=index.shape, dtype="int64"))
        same = k != at and dims.equal(size, wanted) is True
        order.append(k if same else -1)
    return lines, tuple(order)


@decomposes("pd_op.gather_nd", composite=False)
def gather_nd(b: Builder, x: Value, index: Value) -> Any:
    """The slices of x at the places that the last dim of the index lists."""
    need(index.type.rank >= 1, "gather_nd by a scalar")
    depth = index.shape[-1]
    need(isinstance(depth, int) and depth <= x.type.rank, "gather_nd: unknown depth")
    lead = index.shape[:-1]
    shape = (*lead, *x.shape[depth:])
    lines = [column(b, x, index, k, shape) for k in range(depth)]
    order = (*(-1 for _ in range(depth)), *range(len(lead), len(shape)))
    return b.gather(x, *lines, shape=shape, dims=order)


def column(
    b: Builder, x: Value, index: Value, at: int, shape: Shape, negative: bool = True
) -> Value:
    """One coordinate of the index, broadcast to the result's shape."""
    last = index.type.rank - 1
    line = dropped(b, cut(b, index, last, at, 1), (last,))
    place = places(b, line, x.shape[at], "gather_nd", negative)
    result: Value = b.broadcast(place, shape=shape, dims=tuple(range(last)))
    return result


@decomposes("pd_op.embedding", composite=False, operands="x weight")
def embedding(b: Builder, index: Value, table: Value, *, padding_idx: int) -> Any:
    """The rows that the index names; the padding row (-1: none) reads as zeros."""
    rows = looked_up(b, table, 0, index, "embedding", negative=False)
    if padding_idx == -1:
        return rows
    here = b.eq(b.cast(index, dtype="int64"), padding_idx)
    padded = b.broadcast(here, shape=rows.shape, dims=tuple(range(index.type.rank)))
    return b.select(padded, b.const(value=0, shape=(), dtype=rows.dtype), rows)


def picked(b: Builder, x: Value, index: Value, axes: Sequence[int], what: str) -> Value:
    """x at one place of each axis, the places being a vector's elements."""
    order = sorted(enumerate(axes), key=lambda pair: -pair[1])
    for k, axis in order:
        place = (
            index
            if index.type.rank == 0
            else b.reshape(cut(b, index, 0, k, 1), shape=())
        )
        x = looked_up(b, x, axis, place, what)
    return x


@decomposes("pd_op.multiplex", operands="inputs index")
def multiplex(b: Builder, inputs: list[Value], index: Value) -> Any:
    """Row i of the tensor that the i-th element of the index names."""
    first, rows = inputs[0], index.shape[0]
    need(index.dtype == "int32", f"an index of {index.dtype}")
    need(all(dims.same_shape(v.shape, first.shape) for v in inputs), "other shapes")
    b.require_equal(rows, first.shape[0], "multiplex")
    number = b.reshape(index, shape=(rows,))
    inside = b.and_(b.ge(number, 0), b.lt(number, len(inputs)))
    b.check(inside, message="multiplex: no such tensor")
    number = b.broadcast(number, shape=(rows, *first.shape[1:]), dims=(0,))
    found = first
    for k, value in enumerate(inputs[1:], 1):
        found = b.select(b.eq(number, k), value, found)
    return found
