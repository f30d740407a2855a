"""Paddle ops that make tensors: constants, ranges, shapes, masks of the diagonal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler import dims
from pirol.compiler.dims import Shape
from pirol.compiler.ir import COMPLEX, DTYPES, FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.contents import LIMIT
from pirol.prim.decomp.bounds import at_least
from pirol.prim.decomp.registry import axis_in, decomposes, ints, need, number

EXACT = 2**53  # PIR has integer values as float64
MAX_TABLE = 512  # elements of a constant tensor; larger ones are Paddle's


def typed(value: Any, dtype: str) -> Any:
    """The value as a const of this dtype has it; a Dim stays one."""
    if isinstance(value, str):
        value = float(value)
    if not isinstance(value, (int, float, bool)) or dtype in COMPLEX:
        return value
    if dtype == "bool":
        return bool(value)
    if dtype in FLOATS:
        return value
    need(math.isfinite(value) and abs(value) < EXACT, f"{value} as {dtype}")
    kind = np.iinfo(DTYPES[dtype][1])
    need(kind.min <= value <= kind.max, f"{value} does not fit {dtype}")
    return int(value)


def filled(b: Builder, value: Value, shape: Shape, dtype: str) -> Value:
    """A tensor of the scalar operand, known or not."""
    found = b.known(value)
    if found is not None:
        need(len(found) == 1, "the value is no scalar")
        item = typed(found[0], dtype)
        constant: Value = b.const(value=item, shape=shape, dtype=dtype)
        return constant
    scalar = b.cast(b.reshape(b.stop_gradient(value), shape=()), dtype=dtype)
    return b.broadcast_to(scalar, shape)


@decomposes("pd_op.full", composite=False)
def full(b: Builder, *, shape: Shape, value: Any, dtype: str) -> Any:
    """A tensor of one number."""
    return b.const(value=typed(value, dtype), shape=shape, dtype=dtype)


@decomposes("pd_op.empty", composite=False)
def empty(b: Builder, shape: Any, *, dtype: str) -> Any:
    """A tensor whose numbers nobody asked for: zeros."""
    return b.const(
        value=typed(0, dtype), shape=tuple(ints(b, shape, "the shape")), dtype=dtype
    )


@decomposes("pd_op.full_like", composite=False)
def full_like(b: Builder, x: Value, value: Value, *, dtype: str) -> Any:
    """A tensor of one number, in the shape of x; dtype "undefined" is x's."""
    return filled(b, value, x.shape, dtype if dtype != "undefined" else x.dtype)


@decomposes("pd_op.full_with_tensor", composite=False)
def full_with_tensor(b: Builder, value: Value, shape: Any, *, dtype: str) -> Any:
    """A tensor of one number, its shape a tensor."""
    return filled(b, value, tuple(ints(b, shape, "the shape")), dtype)


@decomposes("pd_op.fill", composite=False)
def fill(b: Builder, x: Value, value: Value) -> Any:
    """A tensor of one number, in the shape and dtype of x."""
    return filled(b, value, x.shape, x.dtype)


@decomposes("pd_op.full_int_array", composite=False)
def full_int_array(b: Builder, *, value: Sequence[int], dtype: str) -> Any:
    """An integer vector."""
    return b.cast(b.vector(list(value)), dtype=dtype)


@decomposes("pd_op.assign_value", composite=False)
def assign_value(b: Builder, *, shape: Shape, values: Sequence[Any], dtype: str) -> Any:
    """A constant tensor."""
    return table(b, values, shape, dtype)


def table(b: Builder, values: Sequence[Any], shape: Shape, dtype: str) -> Any:
    """A constant tensor: one number, numbers at equal steps, or any few."""
    items = [typed(v, dtype) for v in values]
    need(len(items) == dims.product(shape), f"{len(items)} values for another shape")
    if not items or len({repr(v) for v in items}) == 1:
        item = items[0] if items else 0
        return b.const(value=item, shape=shape, dtype=dtype)
    step = _step(items) if len(items) > LIMIT else None
    if step is not None:
        line = progression(b, items[0], step, len(items), "int64")
        return b.reshape(b.cast(line, dtype=dtype), shape=shape)
    need(len(items) <= MAX_TABLE, f"a constant of {len(items)} elements")
    parts = [b.const(value=v, shape=(1,), dtype=dtype) for v in items]
    while len(parts) > 1:
        groups = [parts[k : k + 32] for k in range(0, len(parts), 32)]
        parts = [b.concat(*g, axis=0) if len(g) > 1 else g[0] for g in groups]
    return b.reshape(parts[0], shape=shape)


def _step(items: Sequence[Any]) -> int | None:
    """The step between whole numbers that lie at equal steps."""
    whole = all(
        not isinstance(v, (bool, complex)) and float(v).is_integer() for v in items
    )
    if not whole or any(repr(v) == "-0.0" or abs(v) >= 2**24 for v in items):
        return None
    steps = {b - a for a, b in zip(items, items[1:])}
    return int(steps.pop()) if len(steps) == 1 else None


def progression(b: Builder, start: Any, step: Any, size: Any, dtype: str) -> Value:
    """start, start + step, .. as a vector."""
    place = b.iota(axis=0, shape=(size,), dtype=dtype)
    line: Value = place if step == 1 else b.mul(place, typed(step, dtype))
    return line if start == 0 else b.add(line, typed(start, dtype))


@decomposes("pd_op.arange", composite=False)
def arange(b: Builder, start: Value, end: Value, step: Value, *, dtype: str) -> Any:
    """start, start + step, .. before end."""
    need(dtype in (*FLOATS, "int32", "int64"), f"arange of {dtype}")
    ends = [number(b, v, "an end of the range") for v in (start, end, step)]
    first, last, by = (_whole(v) for v in ends)
    size = _range_size(first, last, by)
    if dtype not in FLOATS and any(isinstance(v, float) for v in (first, by)):
        first, by = (typed(v, dtype) for v in (first, by))
    return progression(b, first, by, size, dtype)


def _whole(value: Any) -> Any:
    """A float without a fraction as an int."""
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    return value


def _range_size(start: Any, end: Any, step: Any) -> Any:
    need(isinstance(step, (int, float)) and step != 0, "a step that is 0 or unknown")
    if all(isinstance(v, (int, float)) for v in (start, end)):
        need(math.isfinite(start) and math.isfinite(end), "a range without an end")
        return max(math.ceil((end - start) / step), 0)
    whole = not any(isinstance(v, float) for v in (start, end, step))
    need(whole, "a range of a dim and a fraction")
    length = dims.sub(end, start) if step > 0 else dims.sub(start, end)
    count = dims.ceildiv(length, abs(step))
    return at_least(count, 0)


@decomposes("pd_op.linspace", composite=False)
def linspace(b: Builder, start: Value, stop: Value, count: Value, *, dtype: str) -> Any:
    """`count` numbers at equal steps, both ends in; from each end to the middle."""
    return b.cast(_points(b, start, stop, count, dtype), dtype=dtype)


@decomposes("pd_op.logspace", composite=False)
def logspace(
    b: Builder, start: Value, stop: Value, count: Value, base: Value, *, dtype: str
) -> Any:
    """`base` to the power of numbers at equal steps."""
    need(dtype in FLOATS, f"logspace of {dtype}")
    powers = _points(b, start, stop, count, dtype)
    of = b.cast(filled(b, base, (), dtype), dtype="float64")
    return b.cast(b.pow(of, powers), dtype=dtype)


def _points(b: Builder, start: Value, stop: Value, count: Value, dtype: str) -> Value:
    """As linspace has them, in float64."""
    size = number(b, count, "the number of points")
    need(not isinstance(size, float), "a fraction of points")
    low, high = (filled(b, v, (), dtype) for v in (start, stop))
    span = b.cast(b.sub(high, low), dtype="float64")
    gaps = at_least(dims.sub(size, 1), 1)
    step = b.div(span, b.const(value=gaps, shape=(), dtype="float64"))
    place = b.iota(axis=0, shape=(size,), dtype="int64")
    back = b.sub(b.dim(dims.sub(size, 1)), place)
    ends = [b.cast(v, dtype="float64") for v in (low, high, place, back)]
    up = b.add(ends[0], b.mul(step, ends[2]))
    down = b.sub(ends[1], b.mul(step, ends[3]))
    half = at_least(dims.floordiv(size, 2), 1)
    chosen: Value = b.select(b.lt(place, b.dim(half)), up, down)
    return chosen


@decomposes("pd_op.eye", composite=False)
def eye(b: Builder, rows: Value, columns: Value, *, dtype: str) -> Any:
    """1 on the diagonal, else 0; -1 columns are as many as rows."""
    height, width = (ints(b, v, "the size")[0] for v in (rows, columns))
    shape = (height, height if width == -1 else width)
    return b.cast(b.eq(*row_and_column(b, shape)), dtype=dtype)


def row_and_column(b: Builder, shape: Shape) -> tuple[Value, Value]:
    """The last two coordinates of each element."""
    rank = len(shape)
    rows, columns = (
        b.iota(axis=k, shape=shape, dtype="int64") for k in (rank - 2, rank - 1)
    )
    return rows, columns


def _triangle(name: str, compare: str) -> None:
    @decomposes(f"pd_op.{name}", composite=False)
    def run(b: Builder, x: Value, *, diagonal: int) -> Any:
        need(x.type.rank >= 2, f"{name} of a vector")
        rows, columns = row_and_column(b, x.shape)
        kept = getattr(b, compare)(b.sub(columns, rows), diagonal)
        return b.select(kept, x, b.const(value=0, shape=(), dtype=x.dtype))


_triangle("tril", "le")
_triangle("triu", "ge")


@decomposes("pd_op.tril_indices", composite=False)
def tril_indices(b: Builder, *, rows: int, cols: int, offset: int, dtype: str) -> Any:
    """The row and column numbers of the lower triangle."""
    found = np.stack(np.tril_indices(rows, offset, cols))
    return table(b, found.reshape(-1).tolist(), found.shape, dtype)


@decomposes("pd_op.triu_indices", composite=False)
def triu_indices(b: Builder, *, row: int, col: int, offset: int, dtype: str) -> Any:
    """The row and column numbers of the upper triangle."""
    found = np.stack(np.triu_indices(row, offset, col))
    return table(b, found.reshape(-1).tolist(), found.shape, dtype)


@decomposes("pd_op.diag", composite=False)
def diag(b: Builder, x: Value, *, offset: int, padding_value: float) -> Any:
    """A vector on a diagonal of a square of padding; of a matrix, its diagonal."""
    if x.type.rank == 2:
        return diagonal(b, x, offset=offset, axis1=0, axis2=1)
    need(x.type.rank == 1, f"diag of {x.type}")
    return _on_diagonal(b, x, offset, padding_value)


def _on_diagonal(b: Builder, x: Value, offset: int, padding: float) -> Value:
    """The last dim on the diagonal of a square of two new last dims."""
    low, high = max(-offset, 0), max(offset, 0)
    lead = x.type.rank - 1
    none = (0,) * lead
    item = typed(padding, x.dtype)
    rows = b.pad(
        x, low=(*none, low), high=(*none, high), interior=(0,) * (lead + 1), value=item
    )
    size = rows.shape[-1]
    shape = (*x.shape[:-1], size, size)
    wide = b.broadcast(rows, shape=shape, dims=tuple(range(lead + 1)))
    at, columns = row_and_column(b, shape)
    on = b.eq(b.sub(columns, at), offset)
    result: Value = b.select(on, wide, b.const(value=item, shape=(), dtype=x.dtype))
    return result


@decomposes("pd_op.diag_embed", composite=False)
def diag_embed(b: Builder, x: Value, *, offset: int, dim1: int, dim2: int) -> Any:
    """The last dim on a diagonal of zeros, its two dims put at dim1 and dim2."""
    rank = x.type.rank + 1
    first, second = (axis_in(d, rank, "diag_embed") for d in (dim1, dim2))
    need(first != second, "diag_embed: one dim twice")
    square = _on_diagonal(b, x, offset, 0.0)
    rest = iter(range(rank - 2))
    places = {first: rank - 2, second: rank - 1}
    perm = tuple(places[k] if k in places else next(rest) for k in range(rank))
    return b.transpose(square, perm=perm)


@decomposes("pd_op.diagonal", composite=False)
def diagonal(b: Builder, x: Value, *, offset: int, axis1: int, axis2: int) -> Any:
    """A diagonal of two dims, as the last dim."""
    first, second = (axis_in(a, x.type.rank, "diagonal") for a in (axis1, axis2))
    starts = {first: max(-offset, 0), second: max(offset, 0)}
    lengths = [dims.sub(x.shape[k], at) for k, at in starts.items()]
    size = at_least(dims.minimum(*lengths), 0)
    rest = [k for k in range(x.type.rank) if k not in starts]
    shape = (*(x.shape[k] for k in rest), size)
    place = b.iota(axis=len(rest), shape=shape, dtype="int64")
    at = {k: b.add(place, start) for k, start in starts.items()}
    order = tuple(rest.index(k) if k in rest else -1 for k in range(x.type.rank))
    return b.gather(x, *(at[k] for k in sorted(at)), shape=shape, dims=order)


@decomposes("pd_op.shape64", composite=False)
def shape64(b: Builder, x: Value) -> Any:
    """The dims of x as int64."""
    return b.vector(list(x.shape))


@decomposes("pd_op.shape", composite=False)
def shape_of(b: Builder, x: Value) -> Any:
    """The dims of x as int32."""
    return b.cast(b.vector(list(x.shape)), dtype="int32")


@decomposes("pd_op.numel", composite=False)
def numel(b: Builder, x: Value) -> Any:
    """The number of elements."""
    return b.dim(x.type.size)


@decomposes("pd_op.is_empty", composite=False)
def is_empty(b: Builder, x: Value) -> Any:
    """Whether there are no elements."""
    return b.eq(b.dim(x.type.size), 0)


@decomposes("pd_op.increment", composite=False)
def increment(b: Builder, x: Value, *, value: float) -> Any:
    """x + value; of integers, without the value's fraction."""
    return b.add(x, typed(value, x.dtype))


@decomposes("pd_op.one_hot", composite=False)
def one_hot(b: Builder, x: Value, classes: Value) -> Any:
    """1 at the place that the index names, along a new last dim."""
    size = ints(b, classes, "the number of classes")[0]
    index = b.cast(x, dtype="int64")
    inside = b.and_(b.ge(index, 0), b.lt(index, b.dim(size)))
    b.check(inside, message="one_hot: an index outside the classes")
    shape = (*x.shape, size)
    place = b.iota(axis=x.type.rank, shape=shape, dtype="int64")
    wide = b.broadcast(index, shape=shape, dims=tuple(range(x.type.rank)))
    return b.cast(b.eq(place, wide), dtype="float32")


@decomposes("pd_op.sequence_mask", composite=False)
def sequence_mask(b: Builder, x: Value, longest: Any, *, out_dtype: str) -> Any:
    """Along a new last dim, 1 before the place that the length names, else 0."""
    need(isinstance(longest, Value), "sequence_mask as long as the longest")
    size = ints(b, longest, "the length")[0]
    need(not isinstance(size, int) or size >= 0, "sequence_mask as long as the longest")
    shape = (*x.shape, size)
    place = b.iota(axis=x.type.rank, shape=shape, dtype="int64")
    length = b.cast(x, dtype="int64")
    wide = b.broadcast(length, shape=shape, dims=tuple(range(x.type.rank)))
    return b.cast(b.lt(place, wide), dtype=out_dtype)
