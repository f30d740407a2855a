"""Bounds of slices, counted as Python and Paddle count them, for sizes known or not.

>>> interval(-3, 2**31 - 1, 1, 5)
Interval(reverse=False, start=2, size=3, step=1)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import need

FAR = 2**31 - 1  # what Paddle writes for an end (or start) left out


@dataclass(frozen=True)
class Interval:
    """`size` places of a dim from `start` on, in `step`s; of the dim turned round
    where it runs backwards."""

    reverse: bool
    start: Any
    size: Any
    step: int


def interval(start: Any, end: Any, step: int, extent: Any) -> Interval:
    """start:end:step of a dim of this extent, clamped into it."""
    need(step != 0, "a step of 0")
    if step > 0:
        first = at_least(counted(start, extent), 0)
        last = extent if _beyond(end) else dims.minimum(counted(end, extent), extent)
        size = _count(dims.sub(last, first), step)
        return Interval(False, at_most(first, extent), size, step)
    top = dims.sub(extent, 1)
    first = top if _beyond(start) else dims.minimum(counted(start, extent), top)
    first = at_least(first, -1)
    last = -1 if _before(end) else at_least(counted(end, extent), -1)
    size = _count(dims.sub(first, last), -step)
    return Interval(True, dims.sub(top, first), size, -step)


def _beyond(place: Any) -> bool:
    return isinstance(place, int) and place >= FAR


def _before(place: Any) -> bool:
    return isinstance(place, int) and place <= -FAR


def _count(length: Any, step: int) -> Any:
    if step > 1:
        length = dims.ceildiv(length, step)
    return at_least(length, 0)


def counted(place: Any, extent: Any) -> Any:
    """The place counted from the front, where a negative one counts from the end."""
    if isinstance(place, int):
        return place if place >= 0 else dims.add(place, extent)
    if place.is_nonnegative or dims.equal(dims.sub(place, extent), -1) is True:
        return place
    negative = dims.minimum(dims.maximum(dims.mul(-1, place), 0), 1)
    return dims.add(place, dims.mul(negative, extent))


def at_least(place: Any, low: Any) -> Any:
    """max(place, low), left out where it is sure."""
    gap = dims.sub(place, low)
    sure = gap >= 0 if isinstance(gap, int) else gap.is_nonnegative
    return place if sure else dims.maximum(place, low)


def at_most(place: Any, high: Any) -> Any:
    """min(place, high), left out where it is sure."""
    gap = dims.sub(high, place)
    sure = gap >= 0 if isinstance(gap, int) else gap.is_nonnegative
    return place if sure else dims.minimum(place, high)


def cut(b: Builder, x: Value, axis: int, start: Any, size: Any, step: int = 1) -> Any:
    """`size` elements of one axis from `start` on."""
    rank = x.type.rank
    return b.slice(
        x,
        starts=tuple(start if k == axis else 0 for k in range(rank)),
        sizes=tuple(size if k == axis else d for k, d in enumerate(x.shape)),
        steps=tuple(step if k == axis else 1 for k in range(rank)),
    )


def taken(b: Builder, x: Value, axis: int, part: Interval) -> Any:
    """The interval of one axis."""
    if part.reverse:
        x = b.reverse(x, axes=(axis,))
    return cut(b, x, axis, part.start, part.size, part.step)


def dropped(b: Builder, x: Value, axes: Any) -> Any:
    """x without the named dims, which are 1."""
    kept = tuple(d for k, d in enumerate(x.shape) if k not in axes)
    return b.reshape(x, shape=kept)


def place_in(b: Builder, index: Any, extent: Any, op: str) -> Any:
    """An index counted from the front; it must lie within the dim."""
    place = counted(index, extent)
    b.require_at_least(place, 0, f"{op}: index")
    b.require_at_least(extent, dims.add(place, 1), f"{op}: extent")
    return place
