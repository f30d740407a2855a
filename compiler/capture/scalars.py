"""Numbers that a program makes of tensors while Pirol captures: float(t), t.item().

x * float(y.sum()): to Paddle a float32 tensor, and an int32 one of int(t); in eager a
number of Python's, of 64 bits, which has no gradient and leaves x the dtype that it
has. Here they are tensors of 64 bits, known by their values, that take the other
operand's dtype.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import paddle
from paddle.autograd.backward_utils import ValueSet
from paddle.jit import dy2static

from pirol.compiler.capture.overwritten import capturing
from pirol.compiler.capture.sizes import LIBRARY

WIDE = {"int": paddle.int64, "float": paddle.float64}
FLOATS = (paddle.float16, paddle.bfloat16, paddle.float32, paddle.float64)
INTS = (paddle.int64, paddle.int32, paddle.int16, paddle.int8, paddle.uint8)
COMPARED = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
DIVIDED = ("__truediv__", "__rtruediv__", "__div__", "__rdiv__")


class Numbers:
    """The values of a capture that stand for numbers."""

    def __init__(self) -> None:
        self.program: Any = None
        self.values: Any = ValueSet()

    def of(self, program: Any) -> Any:
        """Those of a program; what was noted of another is forgotten."""
        if program is not self.program:
            self.program, self.values = program, ValueSet()
        return self.values


numbers = Numbers()


def _known() -> Any:
    return numbers.of(paddle.static.default_main_program())


def stands_for_one(value: Any) -> bool:
    """Whether a value is a number of Python's to the user."""
    return isinstance(value, paddle.pir.Value) and value in _known()


@functools.cache
def follow() -> None:
    """Put ours in the place of what stands for float and int in a transformed
    function, once."""
    module: Any = dy2static
    convert = module.AsDtype

    def number(value: Any, kind: str) -> Any:
        wide = WIDE.get(kind)
        if not capturing.depth or not isinstance(value, paddle.pir.Value) or not wide:
            return convert(value, kind)
        return _number(value, wide)

    def item(self: Any, *args: Any) -> Any:
        found = taken(self, *args)
        users = not sys._getframe(1).f_code.co_filename.startswith(LIBRARY)
        if not capturing.depth or not users:
            return found
        kind = paddle.float64 if found.dtype in FLOATS else paddle.int64
        return _number(found, kind) if found.dtype in FLOATS + INTS else found.detach()

    value: Any = paddle.pir.Value
    module.AsDtype, taken, value.item = number, value.item, item


def _number(value: Any, wide: Any) -> Any:
    found = value.detach().astype(wide)
    found.stop_gradient = True
    _known().add(found)
    return found


def together(method: Any, name: str, x: Any, y: Any) -> Any:
    """An operator of operands of which at least one stands for a number."""
    alone = [stands_for_one(v) or isinstance(v, (int, float)) for v in (x, y)]
    if not all(alone):
        number, like = (x, y.dtype) if alone[0] else (y, x.dtype)
        if like in INTS and (number.dtype in FLOATS or name in DIVIDED):
            like = paddle.get_default_dtype()
        known = like != paddle.bool
        return method(*(v.astype(like) for v in (x, y))) if known else method(x, y)
    floats = [isinstance(v, float) or _dtype(v) in FLOATS for v in (x, y)]
    if any(floats) or name in DIVIDED:
        x, y = (v.astype("float64") if stands_for_one(v) else float(v) for v in (x, y))
    found = method(x, y)
    if name not in COMPARED:
        _known().add(found)
    return found


def _dtype(value: Any) -> Any:
    return getattr(value, "dtype", None)
