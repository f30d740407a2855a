"""Sizes that Python code computes with while Paddle captures, though they are unknown.

paddle.trapezoid(y): arange(1, y.shape[-1] - 1) of a dim that is None in the input_spec

A program's dim that is not known is -1 in `shape`. Code that Paddle transforms reads a
tensor in its place; Paddle's own library, and other code that is left as it is, takes
the number. Here that number notes what is computed with it. Such a program is wrong:
the function is captured anew, for each call's sizes by itself; and where a size is
known only when the program runs, it is not captured at all.
"""

from __future__ import annotations

import functools
import importlib
import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.autograd.backward_utils import ValueSet
from paddle.jit.dy2static.error import ERROR_DATA
from paddle.jit.dy2static.utils import UndefinedVar

from pirol.compiler.capture.overwritten import capturing
from pirol.compiler.capture.stacks import nested
from pirol.compiler.capture.undone import kept
from pirol.compiler.capture.views import ops_of, stale

# Functions that only check what they compute with sizes.
ASKING = {"outer", "fold", "get_attr_shape", "Dirichlet.__init__"}
ASKING |= {f"conv{n}d{kind}" for n in (1, 2, 3) for kind in ("", "_transpose")}
# Functions to which a size that is not above 0 is 0, and not unknown.
DECIDING = {"take"}
# Functions that ask for the length of a tensor.
MEASURING = {"stft"}
# Ops to whose arguments -1 says something else.
TAKING = (
    "affine_grid clip crop empty eye fold frame full full_like gaussian linspace "
    "one_hot pad pad3d pool2d pool3d randint repeat_interleave roll scale slice split "
    "strided_slice tile topk tril_indices triu_indices uniform"
)
LIBRARY = os.path.dirname(paddle.__file__)
ARITHMETIC = "add sub mul truediv floordiv mod pow divmod"


class _Noted(threading.local):
    """Where this thread first computed with a size that is not known, how many calls
    of compiled functions it is in, and how often captures set the seed of Paddle."""

    where = ""
    calls = 0
    seeds = 0


noted = _Noted()


class Unknown(int):
    """-1 as a size. Of other sizes that it is compared with, 1 is the smallest."""

    def __lt__(self, other: Any) -> Any:
        return int.__lt__(self, other) and other != 1

    def __gt__(self, other: Any) -> Any:
        frame = sys._getframe(1)
        if frame.f_code.co_name in DECIDING:
            note(frame)
        return int.__gt__(self, other) or other == 1

    def __ge__(self, other: Any) -> Any:
        return int.__ge__(self, other) or other == 1

    __hash__ = int.__hash__


def _computes(name: str) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(int, name)

    def run(self: Any, *other: Any) -> Any:
        note(sys._getframe(1))
        return method(self, *other)

    return run


for _name in (
    *(f"__{side}{name}__" for name in ARITHMETIC.split() for side in ("", "r")),
    *("__neg__", "__abs__", "__float__"),
):
    setattr(Unknown, _name, _computes(_name))


def watched() -> bool:
    """Whether this thread captures for Pirol."""
    return capturing.now


def note(frame: Any) -> None:
    """Note that a function computes with a size, if none did before."""
    code = frame.f_code
    name = code.co_name
    if name == "__init__":
        name = f"{type(frame.f_locals.get('self')).__name__}.{name}"
    if not noted.where and name not in ASKING:
        file = Path(code.co_filename).name
        noted.where = f"{name} computes with a size ({file}:{frame.f_lineno})"


@functools.cache
def follow() -> None:
    """Put ours where Paddle's static values tell their shape, once."""
    value, ops = paddle.pir.Value, paddle._C_ops
    known: Any = value.shape

    def shape(self: Any) -> Any:
        found = known.fget(self)
        if watched() and -1 in found:
            for axis, size in enumerate(found):
                if size == -1:
                    found[axis] = Unknown(-1)
        return found

    value.shape = property(shape, known.fset)
    value.__getitem__ = _taking(value.__getitem__)
    value.__len__ = _length
    for name in TAKING.split():
        setattr(ops, name, _taking(getattr(ops, name)))
    ops.expand, ops.squeeze = _expand(ops.expand), _squeeze(ops.squeeze)
    ops.diag = _diag(ops.diag)
    paddle.broadcast_shape = _broadcast(paddle.broadcast_shape)
    paddle.seed = paddle.framework.random.seed = _seed(paddle.seed)
    made: Any = importlib.import_module("paddle.tensor.creation")
    made._to_tensor_static = _taking(made._to_tensor_static)


def _length(self: Any) -> int:
    """len(window), of some functions of Paddle's own, which eager mode alone has; code
    that Paddle transforms has a function of its own for len."""
    asking = sys._getframe(1).f_code.co_name in MEASURING
    size = self.shape[0] if asking and watched() and self.shape else -1
    if size < 0:
        raise TypeError(f"object of type {type(self).__name__!r} has no len()")
    return int(size)


def _taking(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers that must not be sizes that are unknown."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if watched() and any(map(_unknown, (*args, *kwargs.values()))):
            note(sys._getframe(1))
        return function(*args, **kwargs)

    return run


def _expand(expand: Callable[..., Any]) -> Callable[..., Any]:
    """To -1, a size stays as it is; there is none of a dim that is new."""

    @functools.wraps(expand)
    def run(x: Any, shape: Any) -> Any:
        if watched() and isinstance(shape, (list, tuple)) and _unknown(shape):
            sizes = [1] * (len(shape) - len(x.shape)) + [*x.shape]
            if any(_unknown(d) and size == 1 for d, size in zip(shape, sizes)):
                note(sys._getframe(1))
        return expand(x, shape)

    return run


def _squeeze(squeeze: Callable[..., Any]) -> Callable[..., Any]:
    """Of a size that may be 1, the result's rank is unknown. For a user's own call
    Paddle's is taken (prim/decomp/shape.py); its library goes on by the rank."""

    @functools.wraps(squeeze)
    def run(x: Any, axis: Any = ()) -> Any:
        values = isinstance(x, paddle.pir.Value)
        if watched() and values and [*axis] == [] and -1 in x.shape:
            frame: Any = sys._getframe(1)
            while frame.f_code.co_name in ("squeeze", "wrapper"):
                frame = frame.f_back
            if frame.f_code.co_filename.startswith(LIBRARY):
                note(frame)
        return squeeze(x, axis)

    return run


def _broadcast(broadcast: Callable[..., Any]) -> Callable[..., Any]:
    """The shape of two together: a size is unknown if one is."""

    @functools.wraps(broadcast)
    def run(x: Any, y: Any) -> Any:
        found = broadcast(x, y)
        return [Unknown(d) if watched() and d == -1 else d for d in found]

    return run


def _diag(diag: Callable[..., Any]) -> Callable[..., Any]:
    """Beside the main diagonal, Paddle adds to -1."""

    @functools.wraps(diag)
    def run(x: Any, offset: Any = 0, padding: Any = 0.0) -> Any:
        if watched() and offset != 0 and [*x.shape] == [-1]:
            note(sys._getframe(1))
        return diag(x, offset, padding)

    return run


def _seed(seed: Callable[..., Any]) -> Callable[..., Any]:
    """Paddle's, counted: a program does not set it."""

    @functools.wraps(seed)
    def run(*args: Any, **kwargs: Any) -> Any:
        noted.seeds += watched()
        return seed(*args, **kwargs)

    return run


def _unknown(part: Any) -> bool:
    """Whether a number, or one of a list or slice, is the size of a dim, unknown."""
    if isinstance(part, slice):
        return _unknown((part.start, part.stop, part.step))
    if isinstance(part, (list, tuple)):
        return any(map(_unknown, part))
    return isinstance(part, Unknown)


class Eagerly:
    """Stands for the program of a function that cannot, or must not, be captured.

    error: why the capture failed, which is raised if the function fails as well; else
    `told` is called.
    """

    training = False

    def __init__(
        self,
        function: Callable[..., Any],
        given: dict[str, Any],
        error: Exception | None = None,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self.function, self.given = function, given
        self.error, self.told = error, told

    def __call__(self, args: Sequence[Any]) -> Any:
        try:
            found = self.function(*args, **self.given)
        except Exception as error:
            raise _formatted(self.error or error) from None
        self.told()
        return found


def _formatted(error: Exception) -> Exception:
    """The error as Paddle's front would tell it; marked as told by it, it would be lost
    on its way through there."""
    data = getattr(error, ERROR_DATA, None)
    try:
        if data is not None:
            data.raise_new_exception()
    except Exception as told:
        error = told
    vars(error).pop(ERROR_DATA, None)
    return error


def captured(static: Any, capture: Callable[[], Any], given: dict[str, Any]) -> Any:
    """What `capture` makes for a call of a StaticFunction, `given` its own keyword
    arguments: anew with all sizes known, where an unknown one was computed with.

    What fails in a call is not captured if the function itself does not fail.
    """
    spec, options = static._function_spec, static._kwargs["build_strategy"]
    state = _state(static)
    eagerly = None, Eagerly(static.dygraph_function, given)
    if state.eager:
        return eagerly
    found, why = _attempt(capture)
    if not why and _loose(spec):
        why = _looped(found)
    if not why:
        return found
    if _loose(spec):
        first, asked, spec._input_spec = found, spec._input_spec, None
        found, again = _attempt(capture)
        if not again:
            state.sized = True
            options.report.sized.append(why)
            return found
        spec._input_spec = asked
        found = first if isinstance(first, Exception) and not noted.where else found
        why = again

    def note_it() -> None:
        options.fall_back("the call", why)
        state.eager = not state.sized or not isinstance(found, Exception)

    if not isinstance(found, Exception):
        note_it()
        return eagerly
    if options.strict or not noted.calls:
        raise found
    return None, Eagerly(static.dygraph_function, given, found, note_it)


def _attempt(capture: Callable[[], Any]) -> tuple[Any, str]:
    """What is captured, or the error; and why that does not do."""
    noted.where, generators = "", Generators()
    try:
        with kept():
            found = capture()
        return found, noted.where or generators.moved() or _unlike_eager(found)
    except Exception as error:
        return error, noted.where or f"it could not be captured: {told(error)}"


class Generators:
    """Python's and NumPy's own random generators, and how often Paddle's was set."""

    def __init__(self) -> None:
        self.pythons, self.numpys = random.getstate(), np.random.get_state()
        self.seeds = noted.seeds

    def moved(self) -> str:
        """What a capture did to them, which no call of its program does, or ""; eager
        goes on from where they were."""
        if noted.seeds != self.seeds:
            return "it sets the seed of random numbers"
        now, before = np.random.get_state(), self.numpys
        numpys = all(map(np.array_equal, now, before))
        if numpys and random.getstate() == self.pythons:
            return ""
        random.setstate(self.pythons)
        np.random.set_state(before)
        return "it draws random numbers of Python's or NumPy's"


def _unlike_eager(found: Any) -> str:
    """Why a captured program does not do what eager does, though Paddle takes it."""
    runnable = getattr(found[1], "origin_runnable_program", None)
    if runnable is None:
        return ""
    if any(isinstance(v, UndefinedVar) for v in paddle.utils.flatten(found[0].outputs)):
        return "it returns what a branch does not set"
    if _makes_parameters(runnable):
        return "it makes parameters"
    why = stale(runnable.program, runnable.out_values)
    return why or nested(runnable.program.global_block())


def _makes_parameters(runnable: Any) -> bool:
    """Whether parameters are of the function's own making (a Layer made in it): eager
    sets them anew in each call."""
    known = ValueSet(
        v for v in runnable.param_values if not paddle.pir.is_fake_value(v)
    )
    ops = runnable.program.global_block().ops
    made = (op.result(0) for op in ops if op.name() == "builtin.parameter")
    return any(value not in known for value in made)


def _looped(found: Any) -> str:
    """Why a loop over a size, as Paddle has it, has no gradient; of a known size it is
    no loop."""
    runnable = getattr(found[1], "origin_runnable_program", None)
    for op in [] if runnable is None else ops_of(runnable.program.global_block()):
        if op.name() == "pd_op.array_write_":
            return "a loop over a size puts tensors into a list"
        if op.name() == "pd_op.full" and _undefined(op):
            return "a loop over a size is the first to set a tensor"
    return ""


def _undefined(op: Any) -> bool:
    """Whether a number stands for what only a loop's body sets: Paddle gives it the
    shape of that, and makes it of none."""
    return len(op.attrs()["shape"]) != len(op.result(0).shape)


def told(error: Exception) -> str:
    """The last line of an error that says what it is."""
    lines = [line.strip() for line in str(error).splitlines()]
    words = [line for line in lines if line and not line.startswith("[operator ")]
    return words[-1] if words else type(error).__name__


@dataclass
class State:
    """How a StaticFunction is captured: for each call's sizes, or not at all."""

    sized: bool = False
    eager: bool = False


def _state(static: Any) -> State:
    found: State = static.__dict__.setdefault("_pirol_sizes", State())
    return found


def leave(static: Any, why: str) -> None:
    """Let eager run all further calls of a StaticFunction."""
    _state(static).eager = True
    static._kwargs["build_strategy"].fall_back("the call", why)


def _loose(spec: Any) -> bool:
    """Whether an input_spec leaves a size open."""
    parts = paddle.utils.flatten(spec._input_spec or [])
    return any({None, -1} & {*getattr(part, "shape", ())} for part in parts)
