"""Functions that Paddle's front refuses: of any signature, without a source, or no
functions at all.

Paddle captures calls of named positional arguments: it knows no `*args`, leaves tensors
in `**kwargs` and keyword-only arguments out of a program's inputs, converts from the
source or not at all, and takes functions and Layers only.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import paddle
from paddle.jit.dy2static.function_spec import FunctionSpec
from paddle.jit.dy2static.program_translator import FunctionCache, convert_to_static

from pirol.compiler.capture import outer
from pirol.compiler.capture.records import packed
from pirol.compiler.capture.sizes import watched

Function = Callable[..., Any]
YIELDS = (ast.Yield, ast.YieldFrom)


class Keywords(dict[str, Any]):
    """The keyword arguments of a call that no positional ones stand for."""


class AnySpec(FunctionSpec):  # type: ignore[misc]
    """A FunctionSpec of a function of any signature: the arguments that `*args` takes
    follow those that have names, and Keywords those.

    unread: whether the function's source could not be converted.
    """

    unread = False
    _arg_names: list[str]
    _input_spec: Any

    def unified_args_and_kwargs(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """As FunctionSpec: all positional."""
        if args and type(args[-1]) is Keywords:
            return args, kwargs
        named = len(self._arg_names) if self.varargs_name else len(args)
        rest = args[named:]
        args, kwargs = super().unified_args_and_kwargs(args[:named], kwargs)
        last = (Keywords(kwargs),) if kwargs else ()
        return (*args, *rest, *last), {}

    def args_to_input_spec(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """As FunctionSpec: each tensor has a name of its own; of those that the
        input_spec does not name, the call's shape and dtype are taken."""
        names, asked = self._arg_names, self._input_spec
        more = [f"{self.varargs_name}_{k}" for k in range(len(args) - len(names))]
        named = len(args) if asked is None else min(len(asked), len(args))
        try:
            self._arg_names = [*names, *more]
            specs, rest = super().args_to_input_spec(args[:named], kwargs)
            if named < len(args):
                self._arg_names, self._input_spec = self._arg_names[named:], None
                specs = [*specs, *super().args_to_input_spec(args[named:], {})[0]]
        finally:
            self._arg_names, self._input_spec = names, asked
        if args and type(args[-1]) is Keywords:
            specs = [*specs[:-1], Keywords(specs[-1])]
        return specs, rest


def open_to_all(static: Any, of_layer: bool = False) -> None:
    """Have a StaticFunction take calls of any arguments that its function does, and
    trace the function as it is where it cannot be converted."""
    spec, function = static._function_spec, static._dygraph_function
    spec.__class__ = AnySpec
    _convert_rightly()
    outer.follow()
    names = inspect.getfullargspec(function).args
    if names and spec._arg_names == names and (of_layer or spec._class_instance):
        spec._arg_names = names[1:]  # self, by another name
    with contextlib.suppress(ValueError):  # a builtin has none
        # With self, as paddle.Model expects it of a method.
        static.__signature__ = inspect.signature(spec._dygraph_function)
    spec._dygraph_function = _unpacked(spec, spec._dygraph_function)


def _unpacked(spec: AnySpec, function: Function) -> Function:
    """The function, of arguments of which the last may be Keywords."""

    def converted() -> Function:
        # Converting runs a part of the calls, to see what is called.
        try:
            if not spec.unread:
                with paddle.static.program_guard(paddle.static.Program()):
                    return convert_to_static(function)  # type: ignore[no-any-return]
        except (OSError, TypeError, SyntaxError, IndexError):
            spec.unread = True  # there is no source, or it is a part of a line
        outer.note(function)
        return function

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        given = args[-1] if args and type(args[-1]) is Keywords else {}
        own = args[: len(args) - bool(given)]
        if paddle.in_dynamic_mode():
            return function(*own, **given)
        if own and isinstance(own[0], paddle.nn.Layer):
            outer.note(function, own[0])
        return packed(converted()(*own, **given))

    as_it_is: Function = paddle.jit.not_to_static(call)
    return as_it_is


@functools.cache
def _convert_rightly() -> None:
    """Mend what Paddle's conversion gets wrong: of captures, `isinstance` takes what
    stands for a tensor for one, and a function with a loop's `else`, which is lost on
    the way, or with a generator in it, which would be run as a loop's body without end,
    is traced as it is."""
    plain = FunctionCache._convert

    def convert(self: Any, function: Function) -> Function:
        if watched() and _is_left(function):
            return getattr(function, "__func__", function)
        found: Function = plain(self, function)
        found.__globals__.setdefault("isinstance", _is_instance)
        return found

    FunctionCache._convert = convert


def _is_left(function: Function) -> bool:
    """Whether a loop of the function has an `else`, or it has a `yield` in it."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    if "else" not in source and "yield" not in source:
        return False
    return any(
        bool(n.orelse) if isinstance(n, (ast.For, ast.While)) else isinstance(n, YIELDS)
        for n in ast.walk(ast.parse(source))
    )


def _is_instance(value: Any, kinds: Any) -> bool:
    """As isinstance; what is captured of a tensor is one."""
    if isinstance(value, kinds):
        return True
    if not (isinstance(value, paddle.pir.Value) and watched()):
        return False
    some = kinds if isinstance(kinds, tuple) else (kinds,)
    return any(
        k is paddle.Tensor or type(k) is tuple and paddle.Tensor in k for k in some
    )


_is_instance = paddle.jit.not_to_static(_is_instance)


def plain(target: Any) -> Any:
    """A function for a callable that is neither a function nor a Layer nor a Layer's
    method; what is one, as it is."""
    owner = getattr(target, "__self__", None)
    known = isinstance(target, paddle.nn.Layer) or not callable(target)
    if known or inspect.isfunction(target) or isinstance(owner, paddle.nn.Layer):
        return target
    if inspect.isbuiltin(target) or inspect.isclass(target):
        return target

    def call(*args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs)

    call.__doc__ = getattr(target, "__doc__", None)
    return call
