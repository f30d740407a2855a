"""Paddle's histogram: how many elements, or what weights, lie in each of equal bins."""

from __future__ import annotations

from typing import Any

from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import decomposes, need

COUNTED = ("float32", "float64", "int32", "int64")


@decomposes("pd_op.histogram", operands="input weight")
def histogram(
    b: Builder,
    x: Value,
    weight: Value | None = None,
    *,
    bins: int,
    min: float,
    max: float,
    density: bool,
) -> Any:
    """Counts, or float32 sums of weights, by density over the width and the total; the
    last bin has its upper end. Ends that are equal stand for the data's own."""
    need(x.dtype in COUNTED, f"histogram of {x.dtype}")
    need(weight is None or weight.dtype == x.dtype, "histogram: another weight's dtype")
    line = (x.type.size,)
    x = b.reshape(b.stop_gradient(x), shape=line)
    low, high = _ends(b, x, min, max)
    inside = b.and_(b.ge(x, low), b.le(x, high))
    place = b.select(inside, _bins(b, x, low, high, bins), 0)
    kind = "float32" if density or weight is not None else "int64"
    if weight is None:
        each: Value = b.const(value=1, shape=line, dtype=kind)
    else:
        each = b.cast(b.reshape(b.stop_gradient(weight), shape=line), dtype=kind)
    each = b.select(inside, each, 0)
    counts = b.scatter_add(each, b.min(place, bins - 1), shape=(bins,), dims=(-1,))
    if not density:
        return counts
    width = b.cast(b.sub(high, low), dtype=kind)
    scale = b.div(b.div(float(bins), width), b.reduce_sum(counts, axes=(0,)))
    return b.mul(counts, scale)


def _ends(b: Builder, x: Value, low: float, high: float) -> tuple[Value, Value]:
    """The ends as scalars of x's dtype; those of data that have none are Paddle's to
    refuse."""
    whole = x.dtype not in FLOATS
    if whole:
        low, high = int(low), int(high)
    if low != high:
        need(low < high, f"histogram from {low} to {high}")
        least, most = (b.const(value=v, shape=(), dtype=x.dtype) for v in (low, high))
        return least, most
    least, most = b.reduce_min(x, axes=(0,)), b.reduce_max(x, axes=(0,))
    range_ = b.sub(most, least)  # of integers it may wrap
    known = b.ge(range_, 0) if whole else b.lt(range_, float("inf"))
    b.check(b.and_(known, b.le(least, most)), message="histogram of no finite range")
    alone = b.eq(least, most)
    return b.select(alone, b.sub(least, 1), least), b.select(
        alone, b.add(most, 1), most
    )


def _bins(b: Builder, x: Value, low: Value, high: Value, bins: int) -> Value:
    """The bin of each element, as its dtype computes it; of others anything."""
    over, width = b.sub(x, low), b.sub(high, low)
    if x.dtype in FLOATS:
        part = b.div(b.mul(over, bins), width)
        part = b.select(b.ge(part, 0), b.min(part, bins), 0)
        found: Value = b.cast(part, dtype="int64")
        return found
    over, width = (b.cast(v, dtype="int64") for v in (over, width))
    found = b.idiv(b.mul(over, bins), width)
    return found
