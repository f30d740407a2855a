"""Numbers among the arguments of ops of integers, float64 and complex128, as they are.

Paddle's static functions round such a number to float32 (`x * 0.1` is then x times
0.10000000149, and x + 16777217 of integers 1 less), and eager ones do not; while Pirol
captures, it is a tensor of float64. -0.0 stays that (attributes.py).
And what paddle.to_tensor makes of numbers and of tensors, as eager has it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
from paddle.base.data_feeder import convert_dtype

from pirol.compiler.capture.attributes import signed
from pirol.compiler.capture.operators import WIDE, is_beyond
from pirol.compiler.capture.overwritten import capturing
from pirol.compiler.capture.scalars import stands_for_one
from pirol.compiler.capture.sizes import Unknown

ops: Any = paddle._C_ops
_VALUE: Any = paddle.pir.Value
NAMES = tuple(map(convert_dtype, WIDE))
HALF = 2**32
EXACTLY = (*WIDE, paddle.int64, paddle.int32)


@functools.cache
def follow() -> None:
    """Put ours around the functions that take numbers, once."""
    ops.scale = _signed(ops.scale, 2)
    ops.overlap_add = _typed(ops.overlap_add)
    for name, exact in EXACT.items():
        setattr(ops, name, _while_capturing(getattr(ops, name), exact))
    ops.full = _full(ops.full)
    creation: Any = importlib.import_module("paddle.tensor.creation")
    creation._to_tensor_static = _to_tensor(creation._to_tensor_static)


def _while_capturing(
    plain: Callable[..., Any], exact: Callable[..., Any]
) -> Callable[..., Any]:
    @functools.wraps(plain)
    def run(*args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else None
        mine = capturing.now and isinstance(x, _VALUE) and x.dtype in EXACTLY
        if not mine or any(v is not None for v in kwargs.values()):
            return plain(*args, **kwargs)
        return exact(plain, *args)

    return run


def _to_tensor(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Paddle's for numbers, which makes them of the default dtype first; what it makes
    of tensors is theirs in eager no more, but a copy without gradient."""

    @functools.wraps(plain)
    def run(data: Any, dtype: Any = None, stop_gradient: bool = True) -> Any:
        if not capturing.now:
            return plain(data, dtype, stop_gradient)
        leaves = paddle.utils.flatten(data) if _listed(data) else [data]
        if any(isinstance(v, _VALUE) for v in leaves):
            found = _copied(data, dtype or _common(data, leaves))
            found.stop_gradient = stop_gradient
            return found
        if dtype is None or convert_dtype(dtype) == "int64":
            parts = _halved(data, leaves)
            if parts is not None:
                found = _joined(*(plain(part, "int64", True) for part in parts))
                found.stop_gradient = stop_gradient
                return found
        default = paddle.get_default_dtype()
        numbers = not isinstance(data, np.generic)
        if dtype is None and numbers and any(isinstance(v, complex) for v in leaves):
            dtype = _default("complex128")
        if dtype is None or convert_dtype(dtype) not in NAMES:
            return plain(data, dtype, stop_gradient)
        paddle.set_default_dtype("float64")
        try:
            return plain(data, dtype, stop_gradient)
        finally:
            paddle.set_default_dtype(default)

    return run


def _signed(plain: Callable[..., Any], place: int) -> Callable[..., Any]:
    """A function with a number at this place of its arguments, which may be -0.0."""

    @functools.wraps(plain)
    def run(*args: Any, **kwargs: Any) -> Any:
        found = plain(*args, **kwargs)
        known = capturing.now and isinstance(found, _VALUE) and len(args) > place
        return signed(found, args[place]) if known else found

    return run


def _typed(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose result Paddle's program takes for one of the default dtype."""

    @functools.wraps(plain)
    def run(x: Any, *args: Any) -> Any:
        found = plain(x, *args)
        mistaken = capturing.now and isinstance(x, _VALUE) and found.dtype != x.dtype
        return paddle.cast(found, x.dtype) if mistaken else found

    return run


def _full(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Paddle's, whose programs hold numbers as float64."""

    @functools.wraps(plain)
    def run(shape: Any, value: Any, dtype: Any, *rest: Any) -> Any:
        if not (capturing.now and is_beyond(value) and dtype == paddle.int64):
            found = plain(shape, value, dtype, *rest)
            return signed(found, value) if isinstance(found, _VALUE) else found
        high, low = divmod(value, HALF)  # (SOT takes no arguments that are in cells)
        first = plain(shape, high, dtype, *rest)
        return _joined(first, plain(shape, low, dtype, *rest))

    return run


def _halved(data: Any, leaves: Sequence[Any]) -> tuple[Any, Any] | None:
    """The high and low halves of integers of which float64 has not all."""
    if not all(isinstance(v, (int, np.integer, np.ndarray)) for v in leaves):
        return None
    array = np.asarray(data)
    if array.dtype != np.int64 or not any(map(is_beyond, array.reshape(-1).tolist())):
        return None
    return array // HALF, array % HALF


def _joined(high: Any, low: Any) -> Any:
    return ops.add(ops.multiply(high, paddle.full([], HALF, "int64")), low)


def _listed(data: Any) -> bool:
    return isinstance(data, (list, tuple))


def _copied(data: Any, dtype: Any) -> Any:
    """A tensor, or lists of tensors and numbers, as a new tensor; no gradient goes
    there."""
    if _listed(data):
        return paddle.stack([_copied(part, dtype) for part in data])
    if isinstance(data, _VALUE):
        return paddle.assign(data.detach().astype(dtype))
    return paddle.to_tensor(data, dtype)


def _common(data: Any, leaves: Sequence[Any]) -> str:
    """The dtype of what has tensors; NumPy's in a list of them, the default in lists of
    lists or of what is a number in eager."""
    known = [v for v in leaves if isinstance(v, _VALUE)]
    names = {convert_dtype(v.dtype) for v in known}
    others = [np.asarray(v).dtype for v in leaves if not isinstance(v, _VALUE)]
    alone = len(names) == 1 and not others
    name = names.pop() if alone else np.result_type(*names, *others).name
    parts = [v for v in known if not stands_for_one(v)]
    direct = any(
        v is part for v in (data if _listed(data) else [data]) for part in parts
    )
    return name if direct else _default(name)


def _default(name: str) -> str:
    """The dtype that Paddle gives to lists of numbers that are NumPy's `name`."""
    real: str = paddle.get_default_dtype()
    if name.startswith("complex"):
        return "complex128" if real == "float64" else "complex64"
    if name.startswith("float"):
        return real
    return "int64" if name == "int32" else name


def _told(number: Any) -> Any:
    """The number, as a tensor where float32 has it not."""
    if not isinstance(number, (int, float)) or isinstance(number, Unknown):
        return number
    with np.errstate(over="ignore"):
        same = number == float(np.float32(number)) or number != number
    kind = "int64" if is_beyond(number) else "float64"
    return number if same else paddle.full([1], number, kind)


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
