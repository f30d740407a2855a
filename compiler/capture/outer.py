"""What a captured function reads of globals and of outer functions' variables.

Paddle's conversion copies both when it first meets a function. Here each capture takes
them as they are then, and notes those that are numbers, text, tensors, arrays, or short
lists and dicts: where one is another in a later call, that is captured anew (state.py).
So are such attributes of objects among them, of modules and classes, and of the object
whose method it is, that are named in the function. A function that sets a variable is
eager mode's.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import paddle
from paddle.jit.dy2static.program_translator import FunctionCache

from pirol.compiler.capture.sizes import noted
from pirol.compiler.capture.state import HOLDING, MISSING, SIMPLE, now, outside

Function = Callable[..., Any]
NOTED = (*SIMPLE, *HOLDING, paddle.Tensor, np.ndarray)
# What is compared as it is, or what no attribute changes.
UNSEEN = (*NOTED, FunctionType, BuiltinFunctionType)
DEPTH = 3  # of objects in objects
_given: WeakKeyDictionary[Function, dict[str, Any]] = WeakKeyDictionary()


@functools.cache
def follow() -> None:
    """See to it in all captures from here on."""
    plain = FunctionCache.convert_with_cache

    def convert(self: Any, function: Function) -> Function:
        found: Function = plain(self, function)
        _renew(inspect.unwrap(function), found)
        note(function)
        return found

    FunctionCache.convert_with_cache = convert


def note(function: Function, owner: Any = None) -> None:
    """Note what a function, a method of `owner` if that is one, reads, that is a part
    of what is captured now; and leave it to eager mode where it sets something outside.
    """
    if now.state is None:
        return
    owner, function = getattr(function, "__self__", owner), inspect.unwrap(function)
    names = _names(function.__code__)
    for place, name in _outside(function):
        value = outside(place, name)
        if isinstance(value, NOTED):
            now.state.note_outside(place, name, value)
        for inner in _held(value, names):
            now.state.note_outside(*inner)
    for inner in _held(owner, names):
        now.state.note_outside(*inner)
    for name in _set_by(function.__code__, frozenset(function.__code__.co_freevars)):
        noted.where = noted.where or f"it sets {name}, a variable outside of it"


def _outside(function: Function) -> Iterator[tuple[Any, str]]:
    """The globals and outer variables that a function names, and where they are."""
    code, given = function.__code__, function.__globals__
    yield from ((given, name) for name in _names(code) if name in given)
    cells = function.__closure__ or ()
    yield from ((cell, name) for name, cell in zip(code.co_freevars, cells))


def _held(
    value: Any, names: frozenset[str], depth: int = DEPTH
) -> Iterator[tuple[Any, str, Any]]:
    """What an object holds by these names, and objects in it: where, name, value. What
    a Layer itself holds, state.py has noted."""
    if isinstance(value, UNSEEN) or not depth:
        return
    place = getattr(value, "__dict__", {})
    for name in names.intersection(place):
        found = place[name]
        if isinstance(found, NOTED) and not isinstance(value, paddle.nn.Layer):
            yield place, name, found
        yield from _held(found, names, depth - 1)


@functools.cache
def _names(code: CodeType) -> frozenset[str]:
    """The names of a function and of those that are defined in it."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    named = (n for n in code.co_names if not n.startswith("__"))
    return frozenset(named).union(*map(_names, inner))


@functools.cache
def _set_by(code: CodeType, free: frozenset[str]) -> tuple[str, ...]:
    """The globals and outer variables that a function sets, or one defined in it."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    own = [
        str(i.argval)
        for i in dis.get_instructions(code)
        if i.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")
        or (i.opname in ("STORE_DEREF", "DELETE_DEREF") and i.argval in free)
    ]
    return (*own, *(name for c in inner for name in _set_by(c, free)))


def _renew(function: Function, converted: Function) -> None:
    """Give a converted function what has changed since it was given its copies; what it
    has set itself stays."""
    before = _given.setdefault(converted, {})
    cells = dict(zip(converted.__code__.co_freevars, converted.__closure__ or ()))
    for place, name in _outside(function):
        value = outside(place, name)
        if value is MISSING or before.get(name, MISSING) is value:
            continue
        before[name] = value
        if isinstance(place, dict):
            converted.__globals__[name] = value
        elif name in cells:
            cells[name].cell_contents = value
