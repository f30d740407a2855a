"""Operators between a static value and what is no value, as eager has them.

x + array: Paddle ends the process. array + x: NumPy makes an array of values.
x * 2j of a float32 x: complex128, where eager has complex64.
x / 3: x * (1 / 3) + 0, which is another number, and 0 for -0.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle.jit.dy2static.parameter_recorder import _global_parameter_recorder

from pirol.compiler.capture.overwritten import capturing
from pirol.compiler.capture.scalars import stands_for_one, together
from pirol.compiler.capture.sizes import Unknown, note

_SIDED = "add sub mul truediv div floordiv mod pow matmul and or xor"
NAMES = [f"__{side}{name}__" for name in _SIDED.split() for side in ("", "r")]
NAMES += [f"__{name}__" for name in ("eq", "ne", "lt", "le", "gt", "ge")]
# Of a bool tensor and a bool; other operators take the bool as an integer.
OF_BOOLS = ("__add__", "__radd__", "__mul__", "__rmul__", "__truediv__")
QUOTIENTS = ("__div__", "__truediv__")
# Of integers and a number; eager computes these in float64 too.
SCALED = ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__")
WIDE = (paddle.float64, paddle.complex128)
INEXACT = (*WIDE, paddle.float32, paddle.complex64, paddle.float16, paddle.bfloat16)


def is_beyond(number: Any) -> bool:
    """Whether it is an integer of 64 bits that float64 has not."""
    fits = type(number) is int and -(2**63) <= number < 2**63
    return fits and float(number) != number


def _whole(name: str, value: Any) -> bool:
    return name not in SCALED and bool(value.dtype == paddle.int64)


def _of_bools(name: str, value: Any) -> bool:
    return name in OF_BOOLS and bool(value.dtype == paddle.bool)


@functools.cache
def follow() -> None:
    """Put ours around the operators of Paddle's static values, once."""
    value: Any = paddle.pir.Value
    for name in NAMES:
        if hasattr(value, name):
            setattr(value, name, _with_values(name, getattr(value, name)))
    value.__getitem__ = _by_values(value.__getitem__)
    value.__array_ufunc__ = None  # NumPy leaves its operators to ours


def _by_values(getitem: Callable[..., Any]) -> Callable[..., Any]:
    """x[places] by an eager tensor too, as code has it that Paddle does not transform;
    Paddle ends the process."""

    @functools.wraps(getitem)
    def run(self: Any, places: Any) -> Any:
        return getitem(self, _as_value(places) if capturing.now else places)

    return run


def _as_value(place: Any) -> Any:
    if isinstance(place, (tuple, list)):
        return type(place)(map(_as_value, place))
    if not isinstance(place, paddle.Tensor):
        return place
    program = paddle.static.default_main_program()
    return _global_parameter_recorder.get(program, place)


def _with_values(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: Any, other: Any) -> Any:
        if other is Ellipsis:  # Paddle looks for it among places: x[i, ...]
            return NotImplemented
        if isinstance(other, np.ndarray):
            other = paddle.to_tensor(other)
        elif isinstance(other, complex) and capturing.now:
            kind = "complex128" if self.dtype in WIDE else "complex64"
            self, other = self.astype(kind), paddle.full([], other, kind)
        elif isinstance(other, bool) and capturing.now and _of_bools(name, self):
            other = paddle.full([], other, "bool")
        elif isinstance(other, Unknown):
            note(sys._getframe(1))
        elif capturing.depth and (stands_for_one(self) or stands_for_one(other)):
            return together(method, name, self, other)
        elif name in QUOTIENTS and isinstance(other, (int, float)) and capturing.now:
            self = self if self.dtype in INEXACT else self.astype("float32")
            other = paddle.full([], float(other), self.dtype)
        elif is_beyond(other) and capturing.now and _whole(name, self):
            other = paddle.full([], other, "int64")
        return method(self, other)

    return run
