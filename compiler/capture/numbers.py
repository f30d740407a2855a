"""Numbers among the arguments of float64 and complex128 ops, as they are.

Paddle's static functions round such a number to float32 (`x * 0.1` is then x times
0.10000000149), and eager ones do not; while Pirol captures, it is a tensor of float64.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle.base.data_feeder import convert_dtype

from pirol.compiler.capture.operators import WIDE
from pirol.compiler.capture.overwritten import capturing

ops: Any = paddle._C_ops
NAMES = tuple(map(convert_dtype, WIDE))


@functools.cache
def follow() -> None:
    """Put ours around the functions that take numbers, once."""
    for name, exact in EXACT.items():
        setattr(ops, name, _while_capturing(getattr(ops, name), exact))
    creation: Any = importlib.import_module("paddle.tensor.creation")
    creation._to_tensor_static = _to_tensor(creation._to_tensor_static)


def _while_capturing(
    plain: Callable[..., Any], exact: Callable[..., Any]
) -> Callable[..., Any]:
    @functools.wraps(plain)
    def run(*args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else None
        mine = capturing.depth and isinstance(x, paddle.pir.Value) and x.dtype in WIDE
        if not mine or any(v is not None for v in kwargs.values()):
            return plain(*args, **kwargs)
        return exact(plain, *args)

    return run


def _to_tensor(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Paddle's for numbers, which makes them of the default dtype first; a complex one
    by itself is of the default's width."""

    @functools.wraps(plain)
    def run(data: Any, dtype: Any = None, *rest: Any, **kwargs: Any) -> Any:
        if not capturing.depth:
            return plain(data, dtype, *rest, **kwargs)
        default = paddle.get_default_dtype()
        if dtype is None and isinstance(data, complex):
            dtype = "complex128" if default == "float64" else "complex64"
        if dtype is None or convert_dtype(dtype) not in NAMES:
            return plain(data, dtype, *rest, **kwargs)
        paddle.set_default_dtype("float64")
        try:
            return plain(data, dtype, *rest, **kwargs)
        finally:
            paddle.set_default_dtype(default)

    return run


def _told(number: Any) -> Any:
    """The number, as a tensor where float32 has it not."""
    with np.errstate(over="ignore"):
        if not isinstance(number, float) or number == float(np.float32(number)):
            return number
    return paddle.full([1], number, "float64")


def _each(plain: Callable[..., Any], x: Any, *numbers: Any) -> Any:
    return plain(x, *map(_told, numbers))


def _scale(plain: Callable[..., Any], x: Any, by: Any, bias: float, after: bool) -> Any:
    """x * by + bias, or (x + bias) * by."""
    if _told(bias) is bias:
        return plain(x, _told(by), bias, after)
    plus = paddle.full([], bias, x.dtype)
    if after:
        return ops.add(plain(x, _told(by), 0.0, True), plus)
    return plain(ops.add(x, plus), _told(by), 0.0, True)


EXACT = {
    "scale": _scale,
    **dict.fromkeys(("clip", "full_like", "pad"), _each),
}
