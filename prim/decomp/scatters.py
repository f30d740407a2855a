"""Paddle ops that add up, or put, elements at places that index tensors name.

Where two are put at one place the last one in order stays, and it alone has a gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Shape, product
from pirol.compiler.ir import INEXACT, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import cut, dropped
from pirol.prim.decomp.creation import typed
from pirol.prim.decomp.indexing import along, column, looked_up, places
from pirol.prim.decomp.registry import axis_in, decomposes, ints, need
from pirol.prim.decomp.shape import expanded, sized


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
    lines = [column(b, x, index, k, shape, False) for k in range(depth)]
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
    """x with the value put, or added, at places whose coordinates broadcast together,
    or where a mask is true."""
    need(x.dtype == value.dtype, f"index_put of {x.dtype} and {value.dtype}")
    if indices[0].dtype == "bool":
        need(len(indices) == 1, "index_put by a mask and others")
        (mask,), rank = indices, indices[0].type.rank
        need(0 < rank <= x.type.rank, f"index_put by {mask.type}")
        mask = sized(b, "index_put", mask, x.shape[:rank])
        part = _at_mask(b, x, mask, value)
        here = b.broadcast(mask, shape=x.shape, dims=tuple(range(rank)))
        return b.select(here, b.add(x, part) if accumulate else part, x)
    need(all(v.dtype != "bool" for v in indices), "index_put by a mask and others")
    wide = b.broadcast_together(indices)
    count, rank = len(wide), wide[0].type.rank
    shape = (*wide[0].shape, *x.shape[count:])
    lines = [
        b.broadcast(places(b, v, d, "index_put"), shape=shape, dims=tuple(range(rank)))
        for v, d in zip(wide, x.shape)
    ]
    order = (*(-1 for _ in lines), *range(rank, len(shape)))
    return _placed(
        b, x, expanded(b, value, shape, "index_put"), lines, order, accumulate
    )


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
    """x with the value put, or added, at each place of the index, but for one
    coordinate; or the mean there. x's own element may count, or not."""
    known = ("assign", "add", "mean")
    need(reduce in known, f"put_along_axis that does {reduce}")
    need(x.dtype == value.dtype, f"put_along_axis of {x.dtype} and {value.dtype}")
    lines, order = along(b, x, axis, index, "put_along_axis")
    if value.type.rank == index.type.rank:
        for k, (have, wanted) in enumerate(zip(value.shape, index.shape)):
            if dims.equal(have, 1) is not True and dims.equal(have, wanted) is False:
                b.require_at_least(have, wanted, "put_along_axis")
                value = cut(b, value, k, 0, wanted)
    value = expanded(b, value, index.shape, "put_along_axis")
    added = reduce != "assign"
    if reduce == "assign" or (reduce == "add" and include_self):
        return _placed(b, x, value, lines, order, added)
    one = b.const(value=1, shape=value.shape, dtype="int32")
    none = b.const(value=0, shape=x.shape, dtype="int32")
    times = _placed(b, none, one, lines, order, added)
    kept = x if include_self else b.select(b.gt(times, 0), 0, x)
    total = _placed(b, kept, value, lines, order, added)
    if reduce == "add":
        return total
    many = b.add(times, 1) if include_self else b.max(times, 1)
    many = b.cast(many, dtype=x.dtype)
    return b.div(total, many) if x.dtype in INEXACT else b.idiv(total, many)


@decomposes("pd_op.scatter", composite=False)
def scatter(
    b: Builder, x: Value, index: Value, updates: Value, *, overwrite: bool
) -> Any:
    """x, its rows that the index names replaced by the updates, or by their sums."""
    need(x.dtype == updates.dtype, f"scatter of {x.dtype} and {updates.dtype}")
    if index.type.rank == 2:
        need(dims.equal(index.shape[1], 1) is True, "scatter by a matrix")
        index = dropped(b, index, (1,))
    if index.type.rank == 0:
        index = b.reshape(index, shape=(1,))
        updates = b.reshape(updates, shape=(1, *updates.shape))
    need(index.type.rank == 1, f"scatter by {index.type}")
    updates = _shaped(b, updates, (index.shape[0], *x.shape[1:]), "scatter")
    place = places(b, index, x.shape[0], "scatter")
    if overwrite:
        line = b.broadcast(place, shape=updates.shape, dims=(0,))
        return b.put(x, updates, line, dims=(-1, *range(1, x.type.rank)))
    need(x.dtype != "bool", "scatter that adds up bool")
    times = _counted(b, place, x.shape[0])
    hit = b.broadcast(b.gt(times, 0), shape=x.shape, dims=(0,))
    return b.add(b.select(hit, 0, x), _summed(b, updates, 0, place, x.shape[0]))


@decomposes("pd_op.unpool", "pd_op.unpool3d", operands="x indices output_size")
def unpool(
    b: Builder,
    x: Value,
    index: Value,
    size: Any = (),
    *,
    data_format: str,
    output_size: Sequence[int] = (),
) -> Any:
    """Zeros with each element of a plane put where the index says, in a larger one."""
    need(data_format.startswith("NC"), "unpool of channels last")
    wanted = ints(b, size, "the plane's size") or list(output_size)
    lead, plane = x.shape[:2], x.shape[2:]
    out = tuple(wanted[-len(plane) :])
    index = sized(b, "unpool", index, x.shape)
    flat = (*lead, product(plane))
    x, index = b.reshape(x, shape=flat), b.reshape(index, shape=flat)
    place = places(b, index, product(out), "unpool", negative=False)
    none = b.const(value=0, shape=(*lead, product(out)), dtype=x.dtype)
    return b.reshape(b.put(none, x, place, dims=(0, 1, -1)), shape=(*lead, *out))


@decomposes("pd_op.fill_diagonal", composite=False)
def fill_diagonal(
    b: Builder, x: Value, *, value: float, offset: int, wrap: bool
) -> Any:
    """x with a number `offset` beside each element of the diagonal, in its own line;
    of a matrix, the elements below the square only to `wrap`."""
    need(x.type.rank >= 2, f"fill_diagonal of {x.type}")
    step, size, width = sum_of(dims.strides(x.shape)), x.type.size, x.shape[1]
    place = b.sub(b.iota(axis=0, shape=(size,), dtype="int64"), offset)
    column = b.add(b.rem(place, b.dim(width)), offset)
    on = b.and_(b.ge(place, 0), b.eq(b.rem(place, b.dim(step)), 0))
    on = b.and_(on, b.and_(b.ge(column, 0), b.lt(column, b.dim(width))))
    if not wrap:
        on = b.and_(on, b.lt(place, b.dim(dims.mul(width, width))))
    number = b.const(value=typed(value, x.dtype), shape=(), dtype=x.dtype)
    return b.select(b.reshape(on, shape=x.shape), number, x)


def sum_of(sizes: Sequence[Any]) -> Any:
    return functools.reduce(dims.add, sizes)


@decomposes("pd_op.fill_diagonal_tensor", composite=False)
def fill_diagonal_tensor(
    b: Builder, x: Value, y: Value, *, offset: int, dim1: int, dim2: int
) -> Any:
    """x with the last dim of y put on a diagonal of two dims."""
    need(x.dtype == y.dtype, f"fill_diagonal_tensor of {x.dtype} and {y.dtype}")
    row, column = (axis_in(k, x.type.rank, "fill_diagonal") for k in (dim1, dim2))
    count = iter(range(x.type.rank))
    order = [-1 if k in (row, column) else next(count) for k in range(x.type.rank)]
    place = b.iota(axis=y.type.rank - 1, shape=y.shape, dtype="int64")
    moved = {row: max(-offset, 0), column: max(offset, 0)}
    lines = [b.add(place, moved[k]) for k in sorted(moved)]
    return b.put(x, b.stop_gradient(y), *lines, dims=tuple(order))  # as Paddle's


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
    sent = _sent(b, x, source, "send_u_recv")
    return _received(b, sent, target, x.shape[0], size, reduce_op)


@decomposes(
    "pd_op.send_ue_recv", composite=False, operands="x y src_index dst_index out_size"
)
def send_ue_recv(
    b: Builder,
    x: Value,
    y: Value,
    source: Value,
    target: Value,
    size: Any = (),
    *,
    message_op: str,
    reduce_op: str,
) -> Any:
    """As send_u_recv, each row that is sent with its own of y added, or by it."""
    sent = _joined(b, _sent(b, x, source, "send_ue_recv"), y, message_op)
    return _received(b, sent, target, x.shape[0], size, reduce_op)


@decomposes("pd_op.send_uv", composite=False, operands="x y src_index dst_index")
def send_uv(
    b: Builder, x: Value, y: Value, source: Value, target: Value, *, message_op: str
) -> Any:
    """Rows of x by an index, and of y by another, added or multiplied."""
    b.require_equal(source.shape[0], target.shape[0], "send_uv")
    sent = _sent(b, x, source, "send_uv")
    return _joined(b, sent, _sent(b, y, target, "send_uv"), message_op)


def _sent(b: Builder, x: Value, source: Value, what: str) -> Value:
    need(x.dtype != "bool" and source.type.rank == 1, f"{what} of {x.type}")
    return looked_up(b, x, 0, source, what, negative=False)


def _joined(b: Builder, x: Value, y: Value, message_op: str) -> Value:
    """What goes along edges, of two rows each, which are broadcast together."""
    b.require_equal(x.shape[0], y.shape[0], "a row for each edge")
    need(message_op in ("ADD", "MUL"), f"a message by {message_op}")
    need(x.type.rank == y.type.rank, f"messages of {x.type} and {y.type}")
    found: Value = (b.add if message_op == "ADD" else b.mul)(x, y)
    return found


def _received(
    b: Builder, sent: Value, target: Value, rows: Any, size: Any, reduce_op: str
) -> Any:
    """What arrives at each row, and, where that is their mean, how many did."""
    need(reduce_op in ("SUM", "MEAN"), f"messages of which the {reduce_op} is taken")
    b.require_equal(sent.shape[0], target.shape[0], "a target for each message")
    given = ints(b, size, "the number of rows")
    need(not given or isinstance(given[0], int), "messages to an unknown size")
    rows = given[0] if given and given[0] > 0 else rows
    place = places(b, target, rows, "a target", negative=False)
    place = b.relabelled(place, sent.shape[:1])
    total = _summed(b, sent, 0, place, rows)
    if reduce_op == "SUM":
        return total, None
    times = _counted(b, place, rows)
    many = b.cast(b.max(times, 1), dtype=sent.dtype)
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


def _placed(
    b: Builder,
    x: Value,
    value: Value,
    lines: Sequence[Value],
    order: Sequence[int],
    added: bool,
) -> Value:
    """x with the value put, or added, where gather by these lines would read."""
    if not added:
        over: Value = b.put(x, value, *lines, dims=tuple(order))
        return over
    need(x.dtype != "bool", "sums of bool")
    sums = b.scatter_add(value, *lines, shape=x.shape, dims=tuple(order))
    total: Value = b.add(x, sums)
    return total


def _at_mask(b: Builder, x: Value, mask: Value, value: Value) -> Value:
    """In the shape of x, where the mask is true: the rows of the value, one each, or
    its only one."""
    rank = mask.type.rank
    rest = x.shape[rank:]
    if value.type.rank <= len(rest) or dims.equal(value.shape[0], 1) is True:
        if value.type.rank > len(rest):
            value = dropped(b, value, (0,))
        found: Value = expanded(b, value, x.shape, "index_put")
        return found
    rows = expanded(b, value, (value.shape[0], *rest), "index_put")
    line = b.cast(b.reshape(mask, shape=(mask.type.size,)), dtype="int64")
    count = b.dim(rows.shape[0])
    total = b.reduce_sum(line, axes=(0,))
    fits = b.or_(b.eq(count, total), b.eq(count, 1))
    b.check(fits, message="index_put: as many rows as the mask has trues")
    number = b.min(b.sub(b.cumsum(line, axis=0), 1), b.sub(count, 1))
    place = b.reshape(b.max(number, 0), shape=mask.shape)
    wide = b.broadcast(place, shape=x.shape, dims=tuple(range(rank)))
    order = (-1, *range(rank, x.type.rank))
    gathered: Value = b.gather(rows, wide, shape=x.shape, dims=order)
    return gathered


def _shaped(b: Builder, x: Value, shape: Shape, what: str) -> Value:
    """x, whose dims must be those of the shape."""
    need(x.type.rank == len(shape), f"{what}: {x.type} at places of another rank")
    return sized(b, what, x, shape)


def _addable(x: Value, value: Value, what: str) -> None:
    need(x.dtype == value.dtype != "bool", f"{what} of {x.dtype} and {value.dtype}")
