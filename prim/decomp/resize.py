"""Paddle's resizing ops: nearest, linear (of one to three dims) and bicubic.

Coordinates are computed in the precision of Paddle's own CPU kernels, since a place
rounded the other way is another pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from pirol.compiler import dims
from pirol.compiler.dims import Dim, Shape
from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import decomposes, ints, need
from pirol.prim.decomp.shape import repeated

# The attributes that tell the new sizes; the operands `sizes` are the size as a tensor,
# as a list of scalars, and the scale as a tensor.
SIZED = ("data_format", "out_d", "out_h", "out_w", "scale")
OPERANDS = "x out_size size_tensor scale_tensor"
CUBIC = -0.75  # the free parameter of bicubic interpolation


@dataclass(frozen=True)
class Axis:
    """A spatial dim: where it stands, its old and new extent, the scale if given.

    `number`: it is the how-many-th of `count` spatial dims.
    """

    at: int
    old: Dim
    new: Dim
    scale: float | None
    number: int
    count: int


def _axes(b: Builder, x: Value, sizes: Any, how: Mapping[str, Any]) -> list[Axis]:
    """The spatial dims and their new extents, from a tensor, a scale or attributes."""
    count = x.type.rank - 2
    first = 2 if how["data_format"].startswith("NC") else 1
    scale = [] if sizes[1] else [float(s) for s in how["scale"]]
    if len(scale) == 1:
        scale *= count
    given = _given(b, sizes, () if scale else [how[f"out_{k}"] for k in "dhw"[-count:]])
    found = []
    for k in range(count):
        old = x.shape[first + k]
        factor = scale[k] if scale else None
        new = given[k] if given is not None else None
        if new is None:
            need(factor is not None, "neither a size nor a scale")
            assert factor is not None
            new = _scaled(old, factor)
        b.require_at_least(old, 1, "interpolate")
        b.require_at_least(new, 1, "interpolate")
        found.append(Axis(first + k, old, new, factor, k, count))
    return found


def _given(b: Builder, operands: Any, attrs: Sequence[int]) -> list[Any] | None:
    out_size, size_tensor, scale_tensor = operands
    need(scale_tensor is None, "a scale that is a tensor")
    if size_tensor:
        return ints(b, size_tensor, "the size")
    if out_size is not None:
        return ints(b, out_size, "the size")
    return list(attrs) if attrs and all(size > 0 for size in attrs) else None


def _scaled(size: Dim, factor: float) -> Dim:
    """int(size * factor)"""
    if isinstance(size, int):
        return int(size * factor)
    exact = Fraction(factor)
    near = exact.denominator <= 2**10 and exact.numerator < 2**20
    need(near, f"an unknown size scaled by {factor}")
    return dims.floordiv(dims.mul(size, exact.numerator), exact.denominator)


def _ratio(b: Builder, axis: Axis, corners: bool) -> Value:
    """Old places a new place, as a float32 scalar."""
    old, new = axis.old, axis.new
    if corners:
        found = _quotient(b, dims.sub(old, 1), dims.sub(new, 1))
    elif axis.scale is not None:
        found = b.const(
            value=float(np.float32(1.0 / axis.scale)), shape=(), dtype="float32"
        )
    else:
        found = _quotient(b, old, new)
    if not corners and axis.count != 2:
        return found
    zero = b.const(value=0.0, shape=(), dtype="float32")
    if isinstance(new, int):
        return found if new > 1 else zero
    chosen: Value = b.select(b.gt(b.dim(new), 1), found, zero)
    return chosen


def _quotient(b: Builder, a: Dim, c: Dim) -> Value:
    parts = (b.const(value=v, shape=(), dtype="float32") for v in (a, c))
    quotient: Value = b.div(*parts)
    return quotient


def _line(b: Builder, axis: Axis, dtype: str) -> Value:
    line: Value = b.iota(axis=0, shape=(axis.new,), dtype=dtype)
    return line


def _centred(b: Builder, axis: Axis, ratio: Value) -> Value:
    """ratio * (place + 0.5) - 0.5 in float64."""
    place = b.add(_line(b, axis, "float64"), 0.5)
    moved: Value = b.sub(b.mul(b.cast(ratio, dtype="float64"), place), 0.5)
    return moved


def _wide(b: Builder, line: Value, axis: Axis, shape: Shape) -> Value:
    result: Value = b.broadcast(line, shape=shape, dims=(axis.at,))
    return result


def _at(b: Builder, x: Value, axes: Sequence[Axis], lines: Sequence[Value]) -> Value:
    """x read at the places that the lines give for each axis."""
    new = {a.at: a.new for a in axes}
    shape = tuple(new.get(k, d) for k, d in enumerate(x.shape))
    order = tuple(-1 if k in new else k for k in range(x.type.rank))
    indices = (_wide(b, line, axis, shape) for line, axis in zip(lines, axes))
    result: Value = b.gather(x, *indices, shape=shape, dims=order)
    return result


def _unchanged(axes: Sequence[Axis]) -> bool:
    return all(dims.equal(a.old, a.new) is True for a in axes)


@decomposes("pd_op.nearest_interp", keywords=SIZED, operands=OPERANDS)
def nearest_interp(
    b: Builder,
    x: Value,
    *sizes: Any,
    align_corners: bool,
    **how: Any,
) -> Any:
    """Each new place reads the old one below it (or nearest, for aligned corners)."""
    axes = _axes(b, x, sizes, how)
    if _unchanged(axes):
        return x
    factors = [None if align_corners else _factor(a) for a in axes]
    rest, lines = [], []
    for axis, factor in zip(axes, factors):
        if factor is not None:
            x = repeated(b, x, axis.at, factor)
            continue
        rest.append(axis)
        lines.append(_nearest(b, axis, align_corners))
    return _at(b, x, rest, lines) if rest else x


def _nearest(b: Builder, axis: Axis, corners: bool) -> Value:
    place = b.mul(_ratio(b, axis, corners), _line(b, axis, "float32"))
    if corners:
        place = b.add(b.cast(place, dtype="float64"), 0.5)
    index: Value = b.cast(place, dtype="int64")
    return index


def _factor(axis: Axis) -> int | None:
    """The whole number of times each place is repeated, where it is one.

    int(float32(1/k) * place) must be place // k: sure where float32(1/k) >= 1/k.
    """
    factor = dims.floordiv(axis.new, axis.old)
    if not isinstance(factor, int) or factor < 1:
        return None
    exact = dims.equal(dims.mul(axis.old, factor), axis.new) is True
    if axis.scale is not None and axis.scale != factor:
        return None
    sure = Fraction(float(np.float32(1.0 / factor))) >= Fraction(1, factor)
    return factor if exact and sure else None


def _linear(*names: str) -> None:
    ops = [f"pd_op.{name}_interp" for name in names]

    @decomposes(*ops, compute_in="float32", keywords=SIZED, operands=OPERANDS)
    def run(
        b: Builder,
        x: Value,
        *sizes: Any,
        align_corners: bool,
        align_mode: int,
        **how: Any,
    ) -> Any:
        need(x.dtype in FLOATS, f"interpolation of {x.dtype}")
        axes = _axes(b, x, sizes, how)
        if _unchanged(axes):
            return x
        centred = align_mode == 0 and not align_corners
        ends = [_ends(b, a, _ratio(b, a, align_corners), centred) for a in axes]
        return _weighted(b, x, axes, ends)


_linear("linear", "bilinear", "trilinear")

End = tuple[Value, Value]  # a place and its weight, along one axis


def _ends(b: Builder, axis: Axis, ratio: Value, centred: bool) -> tuple[End, End]:
    """The two old places beside each new one, and their weights."""
    if centred:
        exact = _centred(b, axis, ratio)
        low = b.max(b.cast(exact, dtype="int64"), 0)
        source = b.max(_centred_for_weights(b, axis, ratio, exact), 0.0)
    else:
        source = b.mul(ratio, _line(b, axis, "float32"))
        low = b.cast(source, dtype="int64")
    high = b.min(b.add(low, 1), b.dim(dims.sub(axis.old, 1)))
    part = b.sub(source, b.cast(low, dtype=source.dtype))
    return (low, b.sub(1.0, part)), (high, part)


def _centred_for_weights(b: Builder, axis: Axis, ratio: Value, exact: Value) -> Value:
    """As Paddle has it: float64 for lines, rounded from it for rows, else float32."""
    if axis.count == 1:
        return exact
    if axis.count == 2 and axis.number == 0:
        rounded: Value = b.cast(exact, dtype="float32")
        return rounded
    place = b.add(_line(b, axis, "float32"), 0.5)
    result: Value = b.sub(b.mul(ratio, place), 0.5)
    return result


def _weighted(
    b: Builder, x: Value, axes: Sequence[Axis], ends: Sequence[Sequence[End]]
) -> Value:
    """The sum over all combinations of one end an axis."""
    total: Value | None = None
    for corner in itertools.product(*ends):
        term = _at(b, x, axes, [place for place, _ in corner])
        for axis, (_, weight) in zip(axes, corner):
            line = b.cast(weight, dtype=x.dtype)
            term = b.mul(term, _wide(b, line, axis, term.shape))
        total = term if total is None else b.add(total, term)
    assert total is not None
    return total


@decomposes(
    "pd_op.bicubic_interp", compute_in="float32", keywords=SIZED, operands=OPERANDS
)
def bicubic_interp(
    b: Builder,
    x: Value,
    *sizes: Any,
    align_corners: bool,
    **how: Any,
) -> Any:
    """Cubic convolution of four places, along the width and then the height."""
    need(x.dtype in FLOATS, f"interpolation of {x.dtype}")
    axes = _axes(b, x, sizes, how)
    if _unchanged(axes):
        return x
    for axis in reversed(axes):
        taps = _taps(b, axis, _ratio(b, axis, align_corners), align_corners, x.dtype)
        x = _weighted(b, x, [axis], [taps])
    return x


def _taps(b: Builder, axis: Axis, ratio: Value, corners: bool, dtype: str) -> list[End]:
    """The four old places around each new one, and their weights."""
    plain = b.mul(ratio, _line(b, axis, "float32")) if corners else None
    source = b.cast(_centred(b, axis, ratio) if plain is None else plain, dtype=dtype)
    floor = b.cast(b.floor(b.cast(source, dtype="float32")), dtype=dtype)  # floorf
    t, low = b.sub(source, floor), b.cast(floor, dtype="int64")
    s = b.sub(1.0, t)
    weights = [_far(b, b.add(t, 1.0)), _near(b, t), _near(b, s), _far(b, b.add(s, 1.0))]
    last = b.dim(dims.sub(axis.old, 1))
    at = [b.max(b.min(b.add(low, k), last), 0) for k in (-1, 0, 1, 2)]
    return list(zip(at, weights))


def _near(b: Builder, t: Value) -> Value:
    """((A + 2) t - (A + 3)) t t + 1"""
    slope = b.sub(b.mul(t, CUBIC + 2), CUBIC + 3)
    result: Value = b.add(b.mul(b.mul(slope, t), t), 1.0)
    return result


def _far(b: Builder, t: Value) -> Value:
    """((A t - 5 A) t + 8 A) t - 4 A"""
    inner = b.add(b.mul(b.sub(b.mul(t, CUBIC), 5 * CUBIC), t), 8 * CUBIC)
    result: Value = b.sub(b.mul(inner, t), 4 * CUBIC)
    return result
