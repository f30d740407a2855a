"""Frames of a signal, and their sum, as paddle.signal has them."""

from __future__ import annotations

from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import axis_in, decomposes, need


def _places(
    b: Builder, shape: Any, axis: int, hop: int
) -> tuple[Value, tuple[int, ...]]:
    """Where in the signal the elements of frames of this shape lie, and how the
    signal's dims are theirs (gather's dims). The frames are along the last dim, or
    where the axis is 0 along the first one; beside it are a frame's own elements."""
    rank = len(shape)
    own, frame = (1, 0) if axis == 0 else (rank - 2, rank - 1)
    at, number = (b.iota(axis=k, shape=shape, dtype="int64") for k in (own, frame))
    rest = tuple(range(2, rank)) if axis == 0 else tuple(range(rank - 2))
    order = (-1, *rest) if axis == 0 else (*rest, -1)
    return b.add(at, b.mul(number, hop)), order


@decomposes("pd_op.frame")
def frame(
    b: Builder, x: Value, *, frame_length: int, hop_length: int, axis: int
) -> Any:
    """The frames of a length that begin every hop_length elements."""
    rank = x.type.rank
    need(rank > 0 and hop_length > 0, f"frames of {x.type} every {hop_length}")
    size = x.shape[0 if axis == 0 else -1]
    b.require_at_least(size, frame_length, "frame")
    count = dims.add(dims.floordiv(dims.sub(size, frame_length), hop_length), 1)
    shape: Any = (*x.shape[:-1], frame_length, count)
    if axis == 0:
        shape = (count, frame_length, *x.shape[1:])
    places, order = _places(b, shape, axis, hop_length)
    return b.gather(x, places, shape=shape, dims=order)


@decomposes("pd_op.overlap_add", compute_in="float32")
def overlap_add(b: Builder, x: Value, *, hop_length: int, axis: int) -> Any:
    """The signal of which each element is the sum of the frames that it lies in."""
    rank = x.type.rank
    need(rank > 1 and hop_length > 0, f"frames of {x.type} every {hop_length}")
    at = axis_in(axis, rank, "overlap_add")
    need(at in (0, rank - 1), f"frames along axis {axis} of {x.type}")
    own, count = (1, 0) if axis == 0 else (rank - 2, rank - 1)
    b.require_at_least(x.shape[count], 1, "overlap_add")
    b.require_at_least(x.shape[own], hop_length, "overlap_add")
    gaps = dims.mul(dims.sub(x.shape[count], 1), hop_length)
    size = dims.add(gaps, x.shape[own])
    places, order = _places(b, x.shape, axis, hop_length)
    shape = (size, *x.shape[2:]) if axis == 0 else (*x.shape[:-2], size)
    return b.scatter_add(x, places, shape=shape, dims=order)
