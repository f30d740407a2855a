"""Functions that Paddle has in eager mode alone, while Pirol captures.

x.view([-1, 4]); x.unfold(0, 2, 1); x.gcd_(y), of which Paddle's programs have abs alone
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import paddle

from pirol.compiler.capture.in_place import written
from pirol.compiler.capture.overwritten import capturing

LISTS = (list, tuple)


@functools.cache
def follow() -> None:
    """Put ours where users find the functions, once."""
    tensor: Any = paddle.tensor
    modules = tensor, tensor.math, tensor.manipulation, tensor.linalg
    owners = paddle, *modules, paddle.pir.Value
    for name, ours in OURS.items():
        run = _of_values(getattr(tensor, name), ours)
        for owner in owners:
            if hasattr(owner, name):
                setattr(owner, name, run)


def _of_values(eagers: Callable[..., Any], ours: Callable[..., Any]) -> Any:
    @functools.wraps(eagers)
    def run(x: Any, *args: Any, **kwargs: Any) -> Any:
        static = capturing.now and isinstance(x, paddle.pir.Value)
        return (ours if static else eagers)(x, *args, **kwargs)

    return run


def _gcd(x: Any, y: Any, name: Any = None) -> Any:
    return written(x, paddle.gcd(x, y), "gcd")


def _view(x: Any, *sizes: Any, shape_or_dtype: Any = None, name: Any = None) -> Any:
    """Of memory in a row, which it must be, a view is a reshape."""
    given = sizes or (shape_or_dtype,)
    if isinstance(given[0], (str, paddle.dtype)):
        raise TypeError("view: the bits of one dtype as another are not compiled")
    return paddle.reshape(x, given[0] if isinstance(given[0], LISTS) else given)


def _view_as(x: Any, other: Any, name: Any = None) -> Any:
    return paddle.reshape(x, paddle.shape(other))


def _unfold(x: Any, axis: int, size: int, step: int, name: Any = None) -> Any:
    """The windows of an axis, their elements as a last axis."""
    before = (slice(None),) * (axis % x.ndim)
    ends = ((k, k + 1 - size or None) for k in range(size))
    at = [(*before, slice(first, last, step)) for first, last in ends]
    return paddle.stack([x[places] for places in at], -1)


def _narrow(x: Any, dim: int, start: Any, length: int) -> Any:
    """Places of an axis, which must be there."""
    axis = dim % x.ndim
    size = x.shape[axis]
    if isinstance(start, int) and size != -1:
        first = start + size if start < 0 else start
        if not 0 <= first <= size - length or length < 0:
            raise ValueError(f"narrow: {start} and {length} of {size}")
        part = (*(slice(None),) * axis, slice(first, first + length))
        return x[part]
    first = start if isinstance(start, int) else start.astype("int64")
    places = paddle.arange(length, dtype="int64") + first
    return paddle.index_select(x, places, axis)


def _histogram_bin_edges(
    input: Any, bins: int = 100, min: Any = 0.0, max: Any = 0.0, name: Any = None
) -> Any:
    if min == max == 0.0:
        low, high = paddle.min(input), paddle.max(input)
    elif max < min:
        raise ValueError("max must be larger than min in range parameter")
    else:
        low, high = (paddle.full([], v, "float32") for v in (min, max))
    half = paddle.where(low == high, 0.5, 0.0)
    return paddle.linspace(low - half, high + half, bins + 1)


OURS: dict[str, Callable[..., Any]] = {
    "gcd_": _gcd,
    "view": _view,
    "view_as": _view_as,
    "unfold": _unfold,
    "narrow": _narrow,
    "histogram_bin_edges": _histogram_bin_edges,
}
