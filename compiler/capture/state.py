"""What a capture reads in Python: other values are another program.

Layers' attributes that are numbers, strings or objects, sublayers, parameters and hooks
are part of a program as they are when it is captured. Each capture notes those that it
reads; a write to any Layer has the next call look whether they are still the same. So
are globals and variables of outer functions (outer.py), which each call looks at.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import paddle
from paddle.jit.dy2static.program_translator import ProgramCache
from paddle.nn.layer.layers import HookRemoveHelper

from pirol.compiler.errors import PirolWarning, Unsupported

SIMPLE = (bool, int, float, complex, str, bytes, type(None))
NAMED = ("_parameters", "_sub_layers", "_buffers")
CHANGES = [
    *("__delattr__", "__delitem__", "__setitem__", "add_parameter", "add_sublayer"),
    *("append", "clear", "extend", "insert", "pop", "register_buffer"),
    *("register_forward_post_hook", "register_forward_pre_hook", "remove", "update"),
]
HOLDING = (list, tuple, dict)
LIMIT = 1000  # items of a list or dict that are compared
FEW = 32  # items of one that each call compares
MISSING = object()
Key = tuple[int, str]  # of a __dict__, and a name in it


class _Now(threading.local):
    """What this thread's capture notes its reads in."""

    state: State | None = None


now = _Now()


class Changes:
    """How often any Layer was written to."""

    count = 0


class Same:
    """An object that is the same as itself alone."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    __hash__ = object.__hash__


class State:
    """What captures have read, and the programs that they made."""

    def __init__(self) -> None:
        self.cache, self.layers = ProgramCache(), dict[Any, Any]()
        self.reads: dict[Key, tuple[dict[str, Any], Any]] = {}
        self.written: set[Key] = set()
        self.outside: dict[Key, tuple[Any, Any, Any]] = {}
        # Attributes that hold a value of the program, not to be left there: the Layer,
        # what it was, and whether the function read it afterwards.
        self.lent: dict[Key, tuple[Any, Any, bool]] = {}

    def holds(self) -> bool:
        """Whether all is as it was."""
        return self.changed() is None

    def stands(self) -> bool:
        """Whether globals and outer variables are the objects that they were, and
        lists and dicts hold what they held."""
        for (_, name), (place, was, seen) in self.outside.items():
            value = outside(place, name)
            if value is not was:
                return False
            if type(value) in HOLDING and _seen(value) != seen:
                return False
        return True

    def changed(self) -> Key | None:
        """An attribute or variable that is not as it was."""
        for key, (place, _, seen) in self.outside.items():
            if _seen(outside(place, key[1])) != seen:
                return key
        for key, (attributes, was) in self.reads.items():
            if _seen(attributes.get(key[1], MISSING)) != was:
                return key
        return None

    def note(self, attributes: dict[str, Any], name: str) -> None:
        """Note what is read, at its first time."""
        key = id(attributes), name
        if key in self.lent:
            self.lent[key] = *self.lent[key][:2], True
        if key not in self.reads and key not in self.written:
            self.reads[key] = attributes, _seen(attributes.get(name, MISSING))

    def note_outside(self, place: Any, name: str, value: Any) -> None:
        """Note a global or outer variable, at its first time."""
        if type(value) not in HOLDING or len(value) <= FEW:
            known = place, value, _seen(value)
            self.outside.setdefault((id(place), name), known)

    def wrote(self, layer: Any, name: str, value: Any) -> None:
        """Forget what the function itself sets; tell of numbers that it counts. What it
        reads of one call and sets to a value of the program for the next one makes no
        program."""
        attributes = layer.__dict__
        key = id(attributes), name
        self.written.add(key)
        read = self.reads.pop(key, None) is not None
        kind = type(layer).__name__
        if isinstance(value, paddle.pir.Value) and name not in layer._buffers:
            if read:
                why = f"{kind}.{name} is read, and then set to a tensor"
                raise Unsupported(f"{why}: make it one before, or a buffer")
            was = attributes.get(name, MISSING)
            self.lent.setdefault(key, (layer, was, False))
        elif read and type(value) in (int, float) and attributes.get(name) != value:
            warnings.warn(
                f"{kind}.{name} is set by the compiled function, which reads it too: "
                "it is set when a program is captured, not at each call; make it a "
                "buffer (register_buffer), or set it outside",
                PirolWarning,
                stacklevel=3,
            )

    def give_back(self) -> None:
        """Leave no value of the program in an attribute; tell of those that nothing but
        the caller could want."""
        for (_, name), (layer, was, used) in self.lent.items():
            if not isinstance(layer.__dict__.get(name), paddle.pir.Value):
                continue
            if was is MISSING:
                del layer.__dict__[name]
            else:
                layer.__dict__[name] = was
            if not used:
                warnings.warn(
                    f"{type(layer).__name__}.{name} is set by the compiled function to "
                    "a tensor of its program: it stays what it was; return the tensor, "
                    "or make it a buffer (register_buffer)",
                    PirolWarning,
                    stacklevel=3,
                )
        self.lent.clear()

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """What this thread reads meanwhile is noted."""
        follow()
        before, now.state = now.state, self
        _reading(1)
        try:
            yield
        finally:
            _reading(-1)
            now.state = before
            self.give_back()
            while key := self.changed():  # Paddle's own code writes too
                self.reads.pop(key, None)
                self.outside.pop(key, None)


def outside(place: Any, name: str) -> Any:
    """A global of a dict, an attribute of what holds it, or what a cell holds."""
    if isinstance(place, (dict, MappingProxyType)):
        return place.get(name, MISSING)
    try:
        return place.cell_contents
    except ValueError:  # nothing yet
        return MISSING


def _seen(value: Any) -> Any:
    """What is compared of a value: numbers and text, also in small lists and dicts; of
    others which object it is."""
    if isinstance(value, SIMPLE):
        return type(value), value if value == value else None
    small = isinstance(value, (list, tuple, dict)) and len(value) <= LIMIT
    if small and type(value) in (list, tuple):
        return type(value), [_seen(v) for v in value]
    if small and isinstance(value, dict):
        return [(k, _seen(v)) for k, v in value.items()]
    return Same(value)


_lock, _captures = threading.Lock(), [0]


def _reading(more: int) -> None:
    """Layers tell what is read of them while something is captured."""
    with _lock:
        _captures[0] += more
        if _captures[0] == 1 and more > 0:
            paddle.nn.Layer.__getattribute__ = _read
        elif not _captures[0]:
            del paddle.nn.Layer.__getattribute__


def _read(self: Any, name: str) -> Any:
    state = now.state
    if state is None or name.startswith("__"):
        return object.__getattribute__(self, name)
    attributes = object.__getattribute__(self, "__dict__")
    if name in attributes:
        state.note(attributes, name)
    else:
        for kind in NAMED:
            if name in attributes.get(kind, ()):
                state.note(attributes[kind], name)
    return object.__getattribute__(self, name)


@functools.cache
def follow() -> None:
    """Count the writes to Layers, from here on."""
    layer = paddle.nn.Layer
    plain = layer.__setattr__

    def write(self: Any, name: str, value: Any) -> None:
        # Not the mode that a Layer is in already, which loops set at each step.
        same = isinstance(value, SIMPLE) and self.__dict__.get(name, MISSING) is value
        Changes.count += not same
        if now.state is not None:
            now.state.wrote(self, name, value)
        plain(self, name, value)

    layer.__setattr__ = write
    kinds = (layer, HookRemoveHelper, *_containers())
    for kind in kinds:
        for name in CHANGES:
            if name in vars(kind):
                setattr(kind, name, _counted(vars(kind)[name]))


def _containers() -> list[Any]:
    nn = paddle.nn
    return [nn.Sequential, nn.LayerList, nn.LayerDict, nn.ParameterList]


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        Changes.count += 1
        return function(*args, **kwargs)

    return run
