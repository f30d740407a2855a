"""Calls with which Paddle's static mode ends the process, or goes on for ever.

paddle.flip(x, axis=t); x.unbind() and `a, b = x` of a size that is not known

Here they raise, so that the function cannot be captured, and eager runs it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import paddle

# Ops of which all but the first argument must be numbers, those of roll but two; and
# such arguments given by name.
NUMBERED = "all amax amin any flip logsumexp nanmedian roll transpose"
NAMED = {"axis", "dim", "dims", "perm"}


@functools.cache
def follow() -> None:
    """Put ours around such functions, once."""
    value, ops = paddle.pir.Value, paddle._C_ops
    value.__iter__ = _parts
    converted: Any = importlib.import_module("paddle.jit.dy2static.convert_operators")
    converted.VariableTuple.__iter__ = _numbered
    for name in ("unbind", "unstack"):
        setattr(ops, name, _unbind(name, getattr(ops, name)))
    for name in NUMBERED.split():
        setattr(ops, name, _of_numbers(name, getattr(ops, name)))


def _parts(self: Any) -> Iterator[Any]:
    """`a, b = x`; Paddle goes on for ever where it does not know how many there are."""
    if not self.shape or self.shape[0] == -1:
        raise TypeError(f"of {self.shape} the parts cannot be told one by one")
    return (self[k] for k in range(self.shape[0]))


def _numbered(self: Any) -> Iterator[Any]:
    """`enumerate(x)` outside a `for`; to Paddle it ends no more than its parts do."""
    if not isinstance(self.len, int):
        raise TypeError("enumerate: how many parts there are cannot be told")
    return (self[k] for k in range(self.len))


def _unbind(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Of how many it does not know, Paddle ends the process."""

    @functools.wraps(function)
    def run(x: Any, axis: int = 0, *count: int) -> Any:
        unknown = isinstance(x, paddle.pir.Value) and x.shape[axis] == -1
        if unknown and (not count or count[0] < 0):
            raise ValueError(f"{name}: the size of axis {axis} is unknown")
        return function(x, axis, *count)

    return run


def _of_numbers(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A tensor as an axis, which eager reads; Paddle counts the parts that it has."""
    first = 2 if name == "roll" else 1

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        given = [*args[first:], *(v for k, v in kwargs.items() if k in NAMED)]
        if any(isinstance(v, paddle.pir.Value) for v in given):
            raise TypeError(f"{name}: only the run tells the number in a tensor")
        return function(*args, **kwargs)

    return run
