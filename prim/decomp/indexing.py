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
from pirol.prim.decomp.registry import axis_in, decomposes, ints, need, number
from pirol.prim.decomp.shape import sized


def places(
    b: Builder, index: Value, size: Any, what: str, negative: bool = True
) -> Value:
    """The index as int64, checked; a negative one, where allowed, counted on."""
    need(index.dtype in ("int32", "int64"), f"{what}: an index of {index.dtype}")
    place: Value = b.cast(index, dtype="int64")
    extent = b.dim(size)
    low = b.neg(extent) if negative else b.dim(0)
    if not _sure(b, index, size, negative):
        inside = b.and_(b.ge(place, low), b.lt(place, extent))
        b.check(inside, message=f"{what}: an index outside the dim")
    if not negative:
        return place
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
    at = axis_in(int(number(b, axis, "axis")), x.type.rank, "gather")
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
    lines = [_column(b, x, index, k, shape) for k in range(depth)]
    order = (*(-1 for _ in range(depth)), *range(len(lead), len(shape)))
    return b.gather(x, *lines, shape=shape, dims=order)


def _column(
    b: Builder, x: Value, index: Value, at: int, shape: Shape, negative: bool = True
) -> Value:
    """One coordinate of the index, broadcast to the result's shape."""
    last = index.type.rank - 1
    line = dropped(b, cut(b, index, last, at, 1), (last,))
    place = places(b, line, x.shape[at], "gather_nd", negative)
    result: Value = b.broadcast(place, shape=shape, dims=tuple(range(last)))
    return result


@decomposes("pd_op.scatter_nd_add", composite=False)
def scatter_nd_add(b: Builder, x: Value, index: Value, updates: Value) -> Any:
    """x with the updates added at the places that the last dim of the index lists."""
    _addable(x, updates, "scatter_nd_add")
    need(index.type.rank >= 1, "scatter_nd_add by a scalar")
    depth = index.shape[-1]
    need(isinstance(depth, int) and depth <= x.type.rank, "scatter_nd_add: its depth")
    lead = index.shape[:-1]
    shape = (*lead, *x.shape[depth:])
    updates = _shaped(b, updates, shape, "scatter_nd_add")
    lines = [_column(b, x, index, k, shape, False) for k in range(depth)]
    order = (*(-1 for _ in range(depth)), *range(len(lead), len(shape)))
    return b.add(x, b.scatter_add(updates, *lines, shape=x.shape, dims=order))


@decomposes("pd_op.index_add", composite=False, operands="x index add_value")
def index_add(b: Builder, x: Value, index: Value, value: Value, *, axis: int) -> Any:
    """x with slices of the value added to those of an axis that the index names."""
    _addable(x, value, "index_add")
    at = axis_in(axis, x.type.rank, "index_add")
    place = places(b, index, x.shape[at], "index_add", negative=False)
    shape = (*x.shape[:at], index.shape[0], *x.shape[at + 1 :])
    value = _shaped(b, value, shape, "index_add")
    return b.add(x, _summed(b, value, at, place, x.shape[at]))


@decomposes("pd_op.index_put", composite=False)
def index_put(
    b: Builder, x: Value, indices: list[Value], value: Value, *, accumulate: bool
) -> Any:
    """x with the value added at places, whose coordinates broadcast together."""
    need(accumulate, "index_put that overwrites")
    _addable(x, value, "index_put")
    need(all(v.dtype != "bool" for v in indices), "index_put by a mask")
    wide = b.broadcast_together(indices)
    count, rank = len(wide), wide[0].type.rank
    shape = (*wide[0].shape, *x.shape[count:])
    lines = [
        b.broadcast(places(b, v, d, "index_put"), shape=shape, dims=tuple(range(rank)))
        for v, d in zip(wide, x.shape)
    ]
    order = (*(-1 for _ in lines), *range(rank, len(shape)))
    value = b.broadcast_to(value, shape)
    return b.add(x, b.scatter_add(value, *lines, shape=x.shape, dims=order))


@decomposes("pd_op.put_along_axis", composite=False, operands="arr indices values")
def put_along_axis(
    b: Builder,
    x: Value,
    index: Value,
    value: Value,
    *,
    axis: int,
    reduce: str,
    include_self: bool,
) -> Any:
    """x with the value added at each place of the index, but for one coordinate."""
    need(reduce == "add" and include_self, f"put_along_axis that does {reduce}")
    _addable(x, value, "put_along_axis")
    lines, order = along(b, x, axis, index, "put_along_axis")
    value = b.broadcast_to(value, index.shape)
    return b.add(x, b.scatter_add(value, *lines, shape=x.shape, dims=order))


@decomposes("pd_op.scatter", composite=False)
def scatter(
    b: Builder, x: Value, index: Value, updates: Value, *, overwrite: bool
) -> Any:
    """x, its rows that the index names replaced by the sums of the updates."""
    need(not overwrite, "scatter that overwrites")
    _addable(x, updates, "scatter")
    if index.type.rank == 2:
        need(dims.equal(index.shape[1], 1) is True, "scatter by a matrix")
        index = dropped(b, index, (1,))
    need(index.type.rank == 1, f"scatter by {index.type}")
    updates = _shaped(b, updates, (index.shape[0], *x.shape[1:]), "scatter")
    place = places(b, index, x.shape[0], "scatter")
    times = _counted(b, place, x.shape[0])
    hit = b.broadcast(b.gt(times, 0), shape=x.shape, dims=(0,))
    return b.add(b.select(hit, 0, x), _summed(b, updates, 0, place, x.shape[0]))


@decomposes(
    "pd_op.send_u_recv", composite=False, operands="x src_index dst_index out_size"
)
def send_u_recv(
    b: Builder,
    x: Value,
    source: Value,
    target: Value,
    size: Any = (),
    *,
    reduce_op: str,
) -> Any:
    """Rows of x by an index, added up (or their mean) at rows named by another."""
    need(reduce_op in ("SUM", "MEAN"), f"send_u_recv that takes the {reduce_op}")
    need(x.dtype != "bool" and source.type.rank == 1, f"send_u_recv of {x.type}")
    b.require_equal(source.shape[0], target.shape[0], "send_u_recv")
    given = ints(b, size, "the number of rows")
    need(not given or isinstance(given[0], int), "send_u_recv to an unknown size")
    rows = given[0] if given and given[0] > 0 else x.shape[0]
    sent = looked_up(b, x, 0, source, "send_u_recv", negative=False)
    place = places(b, target, rows, "send_u_recv", negative=False)
    place = b.relabelled(place, source.shape)
    total = _summed(b, sent, 0, place, rows)
    if reduce_op == "SUM":
        return total, None
    times = _counted(b, place, rows)
    many = b.cast(b.max(times, 1), dtype=x.dtype)
    return b.div(total, b.broadcast(many, shape=total.shape, dims=(0,))), times


def _summed(b: Builder, x: Value, axis: int, place: Value, size: Any) -> Value:
    """The slices of an axis added up at places of one of another size."""
    wide = b.broadcast(place, shape=x.shape, dims=(axis,))
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    order = tuple(-1 if k == axis else k for k in range(x.type.rank))
    sums: Value = b.scatter_add(x, wide, shape=shape, dims=order)
    return sums


def _counted(b: Builder, place: Value, size: Any) -> Value:
    """How often each of so many places is named."""
    one = b.const(value=1, shape=place.shape, dtype="int32")
    return _summed(b, one, 0, place, size)


def _shaped(b: Builder, x: Value, shape: Shape, what: str) -> Value:
    """x, whose dims must be those of the shape."""
    need(x.type.rank == len(shape), f"{what}: {x.type} at places of another rank")
    return sized(b, what, x, shape)


def _addable(x: Value, value: Value, what: str) -> None:
    need(x.dtype == value.dtype != "bool", f"{what} of {x.dtype} and {value.dtype}")


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
