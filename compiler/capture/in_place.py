"""Functions in place, while Pirol captures: y.exp_(), F.relu_(y), y.fill_(0).

In a static program Paddle computes exp(y), and leaves y as it was. Here y is written,
as by `y[...] = exp(y)`. What gets another shape or dtype (y.reshape_, y.cast_) is
another value by the name of y; an input stays as it was then, and a warning says so.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import types
import warnings
from collections.abc import Callable
from typing import Any

import paddle
from paddle.base.variable_index import _setitem_static
from paddle.jit.dy2static import parameter_recorder as recorder

from pirol.compiler.capture.overwritten import capturing

INPUTS = ("builtin.parameter", "pd_op.data")
# Functions whose result has the elements in other places of a shape.
RESHAPED = (".reshape", "squeeze", ".flatten")
VIEWS = (*RESHAPED, ".transpose", ".t")
VIEWED = (
    "{title}_ of a view, or of what has one (reshape, x[0], transpose): eager Paddle"
    " would write both; write a copy instead: y = x[0].clone()"
)


@functools.cache
def follow() -> None:
    """Put ours where Paddle looks for the function that is not in place, once."""
    module: Any = importlib.import_module("paddle.utils.inplace_utils")
    module.eval = functools.partial(_function, vars(module), module.check_view_value)
    module.check_view_value = _refused(module.check_view_value)
    module.warnings = types.SimpleNamespace(warn=_warn)
    value: Any = paddle.pir.Value
    for name, function in MISSING.items():
        if not hasattr(value, name):
            setattr(value, name, paddle.jit.not_to_static(function))


def _warn(text: str) -> None:
    if not capturing.now:
        warnings.warn(text, stacklevel=3)


def _refused(shares: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Paddle's check of memory that other values have, which ours makes itself."""
    return lambda value: not capturing.now and shares(value)


def _function(
    names: dict[str, Any], shares: Callable[[Any], bool], title: str
) -> Callable[..., Any]:
    """Paddle's function of that name; while Pirol captures, one that writes too."""
    function: Callable[..., Any] = builtins.eval(title, names)
    if not capturing.now or capturing.inferring:
        return function
    number = int(title.endswith(".where"))  # of condition, x and y, x is written

    def run(*args: Any, **kwargs: Any) -> Any:
        by_name = kwargs.get("x", kwargs.get("input"))
        old = args[number] if len(args) > number else by_name
        writes = isinstance(old, paddle.pir.Value) and not title.endswith(VIEWS)
        if writes and shares(old):
            raise ValueError(VIEWED.format(title=title))
        return written(old, function(*args, **kwargs), title)

    return run


def written(old: Any, new: Any, title: str) -> Any:
    """The value of `old`'s memory from here on."""
    if capturing.inferring:
        return new
    program = paddle.static.default_main_program()
    if isinstance(old, paddle.Tensor):
        old = recorder._global_parameter_recorder.get(program, old)
    same = new.dtype == old.dtype and [*new.shape] == [*old.shape]
    if -1 in old.shape and title.endswith(VIEWS):  # of any two sizes
        same = False
    if same and not title.endswith(RESHAPED):
        return _setitem_static(old, (Ellipsis,), new)
    maker = old.get_defining_op()
    if maker is None or maker.name() in INPUTS:
        warnings.warn(
            f"{title}_ of an input, {old.dtype} {old.shape}: it stays as it was, since"
            f" the result is {new.dtype} {new.shape}",
            stacklevel=5,
        )
    recorder._global_inplace_map.add(program, old, new)
    return new


def _fill(x: Any, value: float) -> Any:
    return written(x, paddle.full_like(x, value), "fill")


def _zero(x: Any) -> Any:
    return _fill(x, 0.0)


def _copy(x: Any, other: Any, blocking: bool = True) -> Any:
    return written(x, paddle.cast(other, x.dtype), "copy")


def _set_value(x: Any, value: Any) -> Any:
    if not isinstance(value, paddle.pir.Value):
        value = paddle.to_tensor(value)
    if value.dtype != x.dtype or len(value.shape) != len(x.shape):
        raise ValueError(f"set_value: {value.dtype} {value.shape} into {x.dtype}")
    return written(x, value, "set_value")


def _fill_diagonal(
    x: Any, value: float, offset: int = 0, wrap: bool = False, name: Any = None
) -> Any:
    wraps = wrap or len(x.shape) != 2
    new = paddle._C_ops.fill_diagonal(x, value, offset, wraps)
    return written(x, new, "fill_diagonal")


def _diagonal_of(
    x: Any, y: Any, offset: int = 0, dim1: int = 0, dim2: int = 1, name: Any = None
) -> Any:
    return paddle._C_ops.fill_diagonal_tensor(x, y, offset, dim1, dim2)


def _fill_diagonal_of(x: Any, *args: Any, **kwargs: Any) -> Any:
    return written(x, _diagonal_of(x, *args, **kwargs), "fill_diagonal_tensor")


# Methods that Paddle's static values lack.
MISSING: dict[str, Callable[..., Any]] = {
    "fill_": _fill,
    "zero_": _zero,
    "copy_": _copy,
    "set_value": _set_value,
    "fill_diagonal_": _fill_diagonal,
    "fill_diagonal_tensor": _diagonal_of,
    "fill_diagonal_tensor_": _fill_diagonal_of,
}
