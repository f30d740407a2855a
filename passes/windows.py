"""windows: the largest of windows in a few short steps, and their places with them.

A wide window is the largest of narrower ones, dim by dim, and along a dim of a few that
lie evenly in it. Values of at most 32 bits and their places are one whole number, which
orders as they do, so that a window's place comes with its value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pirol.compiler.dims import Shape, product
from pirol.compiler.ir import BITS, FLOATS, Graph, Op, Value
from pirol.prim import Builder
from pirol.prim.builder import rewritten
from pirol.prim.reduce import lowest
from pirol.prim.window import PLACES, still

MANY = 12  # taps of a window that are run through at once
LINE = 16  # of a window along one dim
LAST = PLACES - 1
NOTHING = lowest("int64")
NAMES = ("window", "strides", "padding", "dilation")


def windows(graph: Graph) -> Graph:
    """The graph with window_max in steps; where a place is asked for, of whole numbers
    with the place in them."""
    used = {v for op in graph.ops for v in op.operands} | {*graph.results}

    def stepwise(b: Builder, op: Op) -> Sequence[Value] | None:
        if op.name != "window_max":
            return None
        x, (value, place) = op.operands[0], op.results
        if place not in used:
            return [_largest(b, x, op.attrs)]
        if BITS[x.dtype] > 32:
            return None
        found = _largest(b, _packed(b, x, *op.attrs["plane"]), op.attrs)
        asked = value in used
        return (_value(b, found, x.dtype) if asked else value, _place(b, found))

    return rewritten(graph, stepwise)


def _largest(b: Builder, x: Value, attrs: Any) -> Value:
    """The largest of each window, the first dim first, along whose lines are vectors,
    and which leaves fewer for the next; a zero may have the sign of another zero."""
    sizes = [tuple(attrs[name]) for name in NAMES]
    whole = [tuple(zip(*sizes))]
    if math.prod(attrs["window"]) > MANY:
        whole = [
            tuple(step if k == dim else ALONE for k in range(x.type.rank))
            for dim, size in enumerate(whole[0])
            for step in (() if still(attrs, dim) else _steps(*size))
        ]
    for step in whole:
        given = dict(zip(NAMES, zip(*step)))
        x, _ = b.window_max(x, **given, plane=attrs["plane"])
    return x


Size = tuple[int, int, tuple[int, int], int]  # window, stride, padding, dilation
ALONE: Size = (1, 1, (0, 0), 1)


def _steps(window: int, stride: int, padding: Any, dilation: int) -> list[Size]:
    """Windows along a dim one behind the other: `count` of the narrower ones, which lie
    `apart` from each other, cover the whole one."""
    count = min(math.isqrt(window - 1) + 1, LINE)
    apart = window // count
    width = window - (count - 1) * apart
    if window <= LINE or stride * width + count >= window:
        return [(window, stride, padding, dilation)]
    narrow = _steps(width, 1, padding, dilation)
    return [*narrow, (count, stride, (0, 0), apart * dilation)]


def _packed(b: Builder, x: Value, first: int, last: int) -> Value:
    """One int64 for each element: high a number that orders as x does, low the place
    counted from the end, so that the first wins, and the sign, for -0.0."""
    low = b.shift_left(b.sub(LAST, _places(b, x.shape, first, last)), 1)
    low = b.or_(low, b.cast(_negative(b, x), dtype="int64"))
    high = b.cast(_ordered(b, x), dtype="int64")
    result: Value = b.or_(b.shift_left(high, 32), low)
    return result


def _value(b: Builder, found: Value, dtype: str) -> Value:
    """The value in such numbers; the lowest where there is padding alone."""
    value = b.cast(b.shift_right(found, 32), dtype="int32")
    if dtype in FLOATS:
        value = b.select(b.lt(value, 0), b.xor(value, LAST), value)
        sign = b.cast(b.and_(found, 1), dtype="float32")
        value = b.copysign(b.bitcast(value, dtype="float32"), b.sub(0.5, sign))
    value = b.cast(value, dtype=dtype)
    result: Value = b.select(b.eq(found, NOTHING), lowest(dtype), value)
    return result


def _place(b: Builder, found: Value) -> Value:
    """The place in such numbers; -1 where there is padding alone."""
    place = b.sub(LAST, b.and_(b.shift_right(found, 1), LAST))
    place = b.select(b.eq(found, NOTHING), -1, place)
    result: Value = b.cast(place, dtype="int32")
    return result


def _places(b: Builder, shape: Shape, first: int, last: int) -> Value:
    """Each element's place in the dims first..last - 1, row-major."""
    sizes = (shape[:first], shape[first:last], shape[last:])
    number = b.iota(axis=1, shape=tuple(map(product, sizes)), dtype="int64")
    result: Value = b.reshape(number, shape=shape)
    return result


def _negative(b: Builder, x: Value) -> Value:
    """Whether the sign bit is set, of zeros too."""
    bits = b.bitcast(x, dtype="int32") if x.dtype in FLOATS else x
    result: Value = b.lt(bits, 0)
    return result


def _ordered(b: Builder, x: Value) -> Value:
    """An int32 that orders as x does; NaN is the largest, and -0.0 equals 0.0."""
    result: Value
    if x.dtype not in FLOATS:
        result = b.cast(x, dtype="int32")
        return result
    bits = b.bitcast(b.add(x, 0.0), dtype="int32")
    bits = b.select(b.lt(bits, 0), b.xor(bits, LAST), bits)
    result = b.select(b.eq(x, x), bits, LAST)
    return result
