"""Paddle ops that take, turn or shift parts of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import (
    Interval,
    cut,
    dropped,
    interval,
    place_in,
    taken,
)
from pirol.prim.decomp.indexing import picked
from pirol.prim.decomp.registry import axis_in, decomposes, ints, need


@decomposes("pd_op.slice", composite=False, operands="input starts ends")
def slice_(
    b: Builder,
    x: Value,
    starts: Any,
    ends: Any,
    *,
    axes: Sequence[int],
    decrease_axis: Sequence[int],
) -> Any:
    """x[start:end] on the named axes, clamped as Python does; then dims dropped."""
    if picks(b, starts, axes, decrease_axis):
        at = [axis_in(a, x.type.rank, "slice") for a in axes]
        return picked(b, x, starts, at, "slice")
    low, high = ints(b, starts, "starts"), ints(b, ends, "ends")
    bounds = bounds_of(b, x, axes, zip(low, high, [1] * len(low)), decrease_axis)
    for axis, part in bounds.items():
        x = taken(b, x, axis, part)
    return dropped(b, x, [axis_in(a, x.type.rank, "slice") for a in decrease_axis])


def picks(b: Builder, starts: Any, axes: Sequence[int], gone: Sequence[int]) -> bool:
    """Whether the slice is of single places that only the running program knows."""
    unknown = isinstance(starts, Value) and b.known(starts) is None
    return unknown and set(axes) == set(gone)


def bounds_of(
    b: Builder, x: Value, axes: Sequence[int], ends: Any, decreased: Sequence[int]
) -> dict[int, Interval]:
    """The interval of each named axis; of a decreased one, the place named."""
    gone = {axis_in(a, x.type.rank, "slice") for a in decreased}
    found: dict[int, Interval] = {}
    for axis, (start, end, step) in zip(axes, ends):
        at = axis_in(axis, x.type.rank, "slice")
        if at in gone:
            place = place_in(b, start, x.shape[at], "slice")
            found[at] = Interval(False, place, 1, 1)
        else:
            need(isinstance(step, int), "a step known only when the program runs")
            found[at] = interval(start, end, step, x.shape[at])
    return found


@decomposes("pd_op.strided_slice", composite=False)
def strided_slice(
    b: Builder,
    x: Value,
    starts: Any,
    ends: Any,
    strides: Any,
    *,
    axes: Sequence[int],
) -> Any:
    """x[start:end:stride] on the named axes; a negative stride runs backwards."""
    named = (("starts", starts), ("ends", ends), ("strides", strides))
    parts = zip(*(ints(b, value, name) for name, value in named))
    for axis, part in bounds_of(b, x, axes, parts, ()).items():
        x = taken(b, x, axis, part)
    return x


@decomposes("pd_op.crop", composite=False)
def crop(b: Builder, x: Value, shape: Any, offsets: Any) -> Any:
    """A block of the given shape at the offsets; -1 is all up to the end."""
    sizes, starts = ints(b, shape, "the shape"), ints(b, offsets, "the offsets")
    for axis, (size, start) in enumerate(zip(sizes, starts)):
        if isinstance(size, int) and size == -1:
            size = dims.sub(x.shape[axis], start)
        b.require_at_least(start, 0, "crop")
        b.require_at_least(x.shape[axis], dims.add(start, size), "crop")
        x = cut(b, x, axis, start, size)
    return x


@decomposes("pd_op.flip", composite=False)
def flip(b: Builder, x: Value, *, axis: Sequence[int]) -> Any:
    """x turned round on the named axes."""
    axes = {axis_in(a, x.type.rank, "flip") for a in axis}
    return b.reverse(x, axes=tuple(sorted(axes))) if axes else x


@decomposes("pd_op.roll", composite=False)
def roll(b: Builder, x: Value, shifts: Any, *, axis: Sequence[int]) -> Any:
    """x shifted, what leaves one end coming in at the other; no axis: as one vector."""
    amounts = ints(b, shifts, "the shifts")
    if not axis:
        need(len(amounts) == 1, "several shifts of no axis")
        flat = b.reshape(x, shape=(x.type.size,))
        return b.reshape(_rolled(b, flat, 0, amounts[0]), shape=x.shape)
    need(len(amounts) == len(axis), "as many shifts as axes")
    for at, amount in zip(axis, amounts):
        x = _rolled(b, x, axis_in(at, x.type.rank, "roll"), amount)
    return x


def _rolled(b: Builder, x: Value, axis: int, amount: Any) -> Value:
    size = x.shape[axis]
    back = dims.mod(amount, size)
    if dims.equal(back, 0) is True:
        return x
    front = dims.sub(size, back)
    parts = cut(b, x, axis, front, back), cut(b, x, axis, 0, front)
    result: Value = b.concat(*parts, axis=axis)
    return result
