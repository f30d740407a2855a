"""Paddle's set_value: a tensor with a block of it replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Shape
from pirol.compiler.ir import Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import Interval, cut, dropped
from pirol.prim.decomp.creation import table
from pirol.prim.decomp.indexing import places
from pirol.prim.decomp.registry import axis_in, decomposes, ints, need
from pirol.prim.decomp.shape import expanded
from pirol.prim.decomp.slicing import bounds_of, picks


@decomposes("pd_op.set_value", composite=False)
def set_value(
    b: Builder,
    x: Value,
    starts: Any,
    ends: Any,
    steps: Any,
    *,
    axes: Sequence[int],
    decrease_axes: Sequence[int],
    none_axes: Sequence[int],
    shape: Sequence[int],
    values: Sequence[Any],
) -> Any:
    """x with numbers put at starts:ends:steps of the named axes."""
    part = table(b, values, tuple(shape), x.dtype)
    block = (starts, ends, steps)
    return _put(b, x, part, block, axes, decrease_axes, none_axes)


@decomposes(
    "pd_op.set_value_with_tensor",
    composite=False,
    operands="x values starts ends steps",
)
def set_value_with_tensor(
    b: Builder,
    x: Value,
    part: Value,
    starts: Any,
    ends: Any,
    steps: Any,
    *,
    axes: Sequence[int],
    decrease_axes: Sequence[int],
    none_axes: Sequence[int],
) -> Any:
    """x with a tensor put at starts:ends:steps of the named axes."""
    need(part.dtype == x.dtype, f"{part.dtype} put into {x.dtype}")
    block = (starts, ends, steps)
    return _put(b, x, part, block, axes, decrease_axes, none_axes)


def _put(
    b: Builder,
    x: Value,
    part: Value,
    ends: tuple[Any, Any, Any],
    axes: Sequence[int],
    decreased: Sequence[int],
    none_axes: Sequence[int],
) -> Value:
    """x but for a block of it, where the part is, broadcast to the block."""
    gone = {axis_in(a, x.type.rank, "set_value") for a in decreased}
    if picks(b, ends[0], axes, decreased):
        region = tuple(1 if k in gone else d for k, d in enumerate(x.shape))
        filled = _filled(b, part, region, gone, none_axes)
        mask = _at_places(b, x, ends[0], axes)
        chosen: Value = b.select(mask, b.broadcast_to(filled, x.shape), x)
        return chosen
    parts = zip(*(ints(b, v, "a bound") for v in ends))
    found = bounds_of(b, x, axes, parts, decreased)
    block = [found.get(k, Interval(False, 0, d, 1)) for k, d in enumerate(x.shape)]
    region = tuple(p.size for p in block)
    if any(dims.equal(size, 0) is True for size in region):
        return x
    return _in_block(b, x, _filled(b, part, region, gone, none_axes), block)


def _filled(
    b: Builder, part: Value, region: Shape, gone: set[int], none_axes: Sequence[int]
) -> Value:
    """The part broadcast to the region, in which `gone` dims are 1."""
    wanted = _with_none(region, gone, none_axes)
    while part.type.rank > len(wanted):
        b.require_equal(part.shape[0], 1, "set_value")
        part = dropped(b, b.relabelled(part, (1, *part.shape[1:])), (0,))
    result: Value = b.reshape(expanded(b, part, wanted, "set_value"), shape=region)
    return result


def _at_places(b: Builder, x: Value, starts: Value, axes: Sequence[int]) -> Value:
    """Where each axis has the place that only the running program knows."""
    mask: Value | None = None
    for k, axis in enumerate(axes):
        at = axis_in(axis, x.type.rank, "set_value")
        one = b.reshape(cut(b, starts, 0, k, 1), shape=())
        place = places(b, one, x.shape[at], "set_value")
        here = b.eq(b.iota(axis=at, shape=x.shape, dtype="int64"), place)
        mask = here if mask is None else b.and_(mask, here)
    assert mask is not None
    return mask


def _in_block(b: Builder, x: Value, filled: Value, block: Sequence[Interval]) -> Value:
    """x, the block of intervals filled."""
    placed = _spread(b, filled, x.shape, block, 0)
    inside = b.const(value=True, shape=filled.shape, dtype="bool")
    mask = _spread(b, inside, x.shape, block, False)
    turned = tuple(k for k, p in enumerate(block) if p.reverse)
    if turned:
        placed, mask = (b.reverse(v, axes=turned) for v in (placed, mask))
    result: Value = b.select(mask, placed, x)
    return result


def _with_none(region: Shape, gone: set[int], none_axes: Sequence[int]) -> Shape:
    """The shape that the value broadcasts to: `gone` dims left out, 1 for None."""
    left = list(none_axes)
    shape: list[Any] = []
    for k, size in enumerate(region):
        while left and left[0] <= k:
            shape.append(1)
            left.pop(0)
        if k not in gone:
            shape.append(size)
    return (*shape, *(1 for _ in left))


def _spread(
    b: Builder, part: Value, shape: Shape, block: Sequence[Interval], value: Any
) -> Value:
    """The part at its places in a tensor of this shape, the value elsewhere."""
    low = tuple(p.start for p in block)
    inner = tuple(p.step - 1 for p in block)
    reach = [_reach(p) for p in block]
    high = tuple(
        dims.sub(d, dims.add(p.start, r)) for d, p, r in zip(shape, block, reach)
    )
    result: Value = b.pad(part, low=low, high=high, interior=inner, value=value)
    return result


def _reach(part: Interval) -> Any:
    """The extent from the first place to the last."""
    if part.step == 1:
        return part.size
    wide = dims.sub(dims.mul(part.size, part.step), part.step - 1)
    return dims.maximum(wide, 0)
