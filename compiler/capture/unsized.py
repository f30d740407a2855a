"""Paddle's functions that compute with sizes in Python, where one is not known.

paddle.trapezoid(y): 0.5 * (y[1:] + y[:-1]), where Paddle gathers arange(1, length)

What they compute is the same; it is made of tensors, of whatever sizes, so that one
program serves all. Where all sizes are known, Paddle's own functions are called.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from pirol.compiler.capture.overwritten import capturing

MODULES = (
    "paddle paddle.tensor paddle.tensor.math paddle.tensor.manipulation"
    " paddle.tensor.creation paddle.nn.functional paddle.nn.functional.common"
    " paddle.nn.functional.loss paddle.fft"
)
BRUTE = 64  # numbers that each element is compared with, one by one


class Paddles(Exception):
    """Paddle's own function must do it."""


@functools.cache
def follow() -> None:
    """Put ours where users and Paddle find the functions, once."""
    owners: list[Any] = [importlib.import_module(name) for name in MODULES.split()]
    owners.append(paddle.pir.Value)
    for name, ours in OURS.items():
        known = [getattr(owner, name, None) for owner in owners]
        run = _of_unknown(next(filter(None, known)), ours)
        for owner, function in zip(owners, known):
            if function is not None:
                setattr(owner, name, run)


def _of_unknown(paddles: Callable[..., Any], ours: Callable[..., Any]) -> Any:
    signature = inspect.signature(inspect.unwrap(paddles))

    @functools.wraps(paddles)
    def run(*args: Any, **kwargs: Any) -> Any:
        if capturing.now and any(map(_open, paddle.utils.flatten([args, kwargs]))):
            try:
                given = signature.bind(*args, **kwargs).arguments
                return ours(**{k: v for k, v in given.items() if k != "name"})
            except (Paddles, TypeError):  # an argument by another of Paddle's names
                pass
        return paddles(*args, **kwargs)

    return run


def _open(part: Any) -> bool:
    return isinstance(part, paddle.pir.Value) and -1 in part.shape


def _size(x: Any, axis: int) -> Any:
    return paddle.shape(x)[axis]


def _signbit(x: Any) -> Any:
    return paddle.copysign(paddle.ones_like(x), x) < 0


def _trapezoid(
    y: Any, x: Any = None, dx: Any = None, axis: int = -1, mode: str = "sum"
) -> Any:
    if (x is not None and dx is not None) or y.dtype not in INEXACT:
        raise Paddles
    axis %= y.ndim
    if x is None:
        steps = paddle.to_tensor(1.0 if dx is None else dx)
    elif x.ndim == 1:
        steps = paddle.diff(x).reshape([-1] + [1] * (y.ndim - axis - 1))
    else:
        steps = paddle.diff(x, axis=axis)
    whole = (slice(None),) * axis
    later, sooner = (*whole, slice(1, None)), (*whole, slice(None, -1))
    pairs = y[later] + y[sooner]
    summed = paddle.sum if mode == "sum" else paddle.cumsum
    return 0.5 * summed(pairs * steps, axis=axis)


def _take(x: Any, index: Any, mode: str = "raise") -> Any:
    size = paddle.numel(x).astype(index.dtype)
    at = index.flatten()
    if mode == "clip":
        at = paddle.minimum(at.clip(0), size - 1)
    elif mode in ("raise", "wrap"):
        at = paddle.where(at < 0, at + size if mode == "raise" else at % size, at)
        at = paddle.where(at >= size, at % size, at) if mode == "wrap" else at
    else:
        raise Paddles
    return x.flatten().index_select(at).reshape(paddle.shape(index))


def _isin(
    x: Any, test_x: Any, assume_unique: bool = False, invert: bool = False
) -> Any:
    size = int(np.prod(test_x.shape))
    if -1 in test_x.shape or not 0 < size <= BRUTE:
        raise Paddles
    found = (x.unsqueeze(-1) == test_x.flatten()).any(-1)
    return ~found if invert else found


def _block_diag(inputs: Sequence[Any]) -> Any:
    parts = [x if x.ndim == 2 else x.reshape([1, -1]) for x in inputs]
    if any(x.ndim > 2 for x in inputs):
        raise Paddles
    columns = [
        paddle.concat([x if j == k else _none(y, x) for j, y in enumerate(parts)])
        for k, x in enumerate(parts)
    ]
    return paddle.concat(columns, axis=1)


def _none(rows: Any, columns: Any) -> Any:
    """Zeros of so many rows and columns as two matrices have."""
    return paddle.zeros([_size(rows, 0), _size(columns, 1)], columns.dtype)


def _diag(x: Any, offset: int = 0, padding_value: Any = 0) -> Any:
    """Beside the main diagonal, Paddle adds to -1."""
    if x.ndim != 1 or not offset:
        raise Paddles
    right, below = max(offset, 0), max(-offset, 0)
    whole = paddle.diag(x, 0, padding_value)
    return F.pad(whole, [below, right, right, below], value=padding_value)


def _diagflat(x: Any, offset: int = 0) -> Any:
    return paddle.diag(x.flatten(), offset)


def _kl_div(
    input: Any, label: Any, reduction: str = "mean", log_target: bool = False
) -> Any:
    if reduction != "batchmean" or not input.ndim:
        raise Paddles
    total = F.kl_div(input, label, "sum", log_target)
    return total / _size(input, 0).astype(total.dtype)


def _fold(
    x: Any,
    output_sizes: Any,
    kernel_sizes: Any,
    strides: Any = 1,
    paddings: Any = 0,
    dilations: Any = 1,
) -> Any:
    """Paddle asks for the product of the sizes."""
    if x.ndim != 3:
        raise Paddles
    sizes, kernel, steps, apart = map(
        _pair, (output_sizes, kernel_sizes, strides, dilations)
    )
    around = _pair(paddings)
    around = around * 2 if len(around) == 2 else around
    return paddle._C_ops.fold(x, sizes, kernel, steps, around, apart)


def _pair(sizes: Any) -> list[int]:
    return [sizes, sizes] if isinstance(sizes, int) else [*sizes]


def _tensordot(x: Any, y: Any, axes: Any = 2) -> Any:
    """By einsum; of axes that are not known to be alike Paddle may add one up."""
    if isinstance(axes, int):
        pair = [*range(x.ndim - axes, x.ndim)], [*range(axes)]
    else:
        pair = _axes(axes)
    sizes = [(x.shape[a], y.shape[c]) for a, c in zip(*pair)]
    if any(1 in two and two != (1, 1) for two in sizes) or x.ndim + y.ndim > 26:
        raise Paddles
    letters = [*string.ascii_lowercase[x.ndim : x.ndim + y.ndim]]
    for a, c in zip(*pair):
        letters[c] = string.ascii_lowercase[a % x.ndim]
    mine, its = string.ascii_lowercase[: x.ndim], "".join(letters)
    rest = "".join(s for s in mine + its if (s in mine) != (s in its))
    return paddle.einsum(f"{mine},{its}->{rest}", x, y)


def _axes(axes: Any) -> tuple[list[int], list[int]]:
    """The axes of both; of one that names fewer, the other's."""
    if not isinstance(axes, (list, tuple)):
        raise Paddles
    nested = axes and isinstance(axes[0], (list, tuple))
    one, other = (axes[0], axes[-1]) if nested else (axes, axes)
    if len(one) != len(other) or not all(isinstance(a, int) for a in (*one, *other)):
        raise Paddles
    return [*one], [*other]


def _inner(x: Any, y: Any) -> Any:
    if not x.ndim or not y.ndim:
        raise Paddles
    return _tensordot(x, y, ([x.ndim - 1], [y.ndim - 1]))


def _atan2(x: Any, y: Any) -> Any:
    return paddle._C_ops.atan2(*paddle.broadcast_tensors([x, y]))


def _unflatten(x: Any, axis: int, shape: Any) -> Any:
    if not isinstance(shape, (list, tuple)) or not isinstance(axis, int):
        raise Paddles
    axis %= x.ndim
    sizes = [_size(x, k) if d == -1 else d for k, d in enumerate(x.shape)]
    return x.reshape([*sizes[:axis], *shape, *sizes[axis + 1 :]])


def _vander(x: Any, n: Any = None, increasing: bool = False) -> Any:
    if n is None or n < 2 or x.ndim != 1:
        raise Paddles
    powers = paddle.cumprod(x.unsqueeze(1).expand([-1, n - 1]), dim=1)
    found = paddle.concat([paddle.ones_like(x).unsqueeze(1), powers], axis=1)
    return found if increasing else found.flip([1])


def _masked_scatter(x: Any, mask: Any, value: Any) -> Any:
    if x.dtype != value.dtype or mask.dtype != paddle.bool:
        raise Paddles
    counted = mask.astype("int64") + paddle.zeros_like(x, "int64")
    at = (counted.flatten().cumsum() - 1).clip(0)
    given = value.flatten().index_select(at).reshape(paddle.shape(counted))
    return paddle.where(counted > 0, given, x)


def _take_along_axis(
    arr: Any, indices: Any, axis: int, broadcast: bool = True, *, out: Any = None
) -> Any:
    """Beside the axis, both are broadcast together, which Paddle leaves out for sizes
    that it does not know."""
    if not broadcast or out is not None or arr.ndim != indices.ndim:
        raise Paddles
    indices, _ = _alike(indices, arr, axis)
    arr, _ = _alike(arr, indices, axis)
    return paddle._C_ops.take_along_axis(arr, indices, axis % arr.ndim)


def _alike(x: Any, other: Any, axis: int) -> Any:
    """x broadcast to the other's sizes beside an axis."""
    pattern = paddle.zeros_like(other, "int32").sum(axis, keepdim=True)
    return paddle.broadcast_tensors([x, pattern.astype(x.dtype)])


def _gcd(x: Any, y: Any) -> Any:
    """Euclid's, on all elements until the last is through."""
    x, y = paddle.broadcast_tensors([x.abs(), y.abs()])

    def turn(x: Any, y: Any) -> Any:
        ended = y == 0
        rest = x % paddle.where(ended, paddle.ones_like(y), y)
        return paddle.where(ended, x, y), paddle.where(ended, y, rest)

    found = paddle.static.nn.while_loop(lambda x, y: (y != 0).any(), turn, [x, y])
    return found[0]


def _lcm(x: Any, y: Any) -> Any:
    common = paddle.gcd(x, y)
    divisor = paddle.where(common == 0, paddle.ones_like(common), common)
    return paddle.abs(x * y) // divisor


def _resized(x: Any, s: Sequence[int], axes: Sequence[int]) -> Any:
    """x cut, or filled with zeros, to sizes along axes, for a Fourier transform."""
    for size, axis in zip(s, axes):
        if x.shape[axis] != size:
            sizes = [_size(x, k) if d == -1 else d for k, d in enumerate(x.shape)]
            sizes[axis] = size
            filled = paddle.concat([x, paddle.zeros(sizes, x.dtype)], axis=axis)
            x = paddle.slice(filled, [axis], [0], [size]).reshape(sizes)
    return x


INEXACT = (paddle.float16, paddle.float32, paddle.float64)
OURS: dict[str, Callable[..., Any]] = {
    "signbit": _signbit,
    "_trapezoid": _trapezoid,
    "take": _take,
    "isin": _isin,
    "block_diag": _block_diag,
    "diag": _diag,
    "diagflat": _diagflat,
    "kl_div": _kl_div,
    "fold": _fold,
    "tensordot": _tensordot,
    "inner": _inner,
    "atan2": _atan2,
    "unflatten": _unflatten,
    "vander": _vander,
    "masked_scatter": _masked_scatter,
    "take_along_axis": _take_along_axis,
    "gcd": _gcd,
    "lcm": _lcm,
    "_resize_fft_input": _resized,
}
