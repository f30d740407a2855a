"""SOT, where it works for Pirol.

Its cache knows a function by its code object alone: ours get code of their own, else a
function that someone compiled before, by Paddle or with other options, would be served
by what was made then; one for calls under no_grad, whose results have no gradient, and
one for the others. What computes with a size that is unknown (sizes.py) breaks the
graph, and so runs as eager.
"""

from __future__ import annotations

import functools
import itertools
from types import FunctionType
from typing import Any

import paddle
from paddle.jit.dy2static.program_translator import SymbolicStaticFunction

from pirol.compiler.capture.options import Options
from pirol.compiler.capture.overwritten import capturing, dropouts
from pirol.compiler.capture.sizes import noted, told
from pirol.compiler.capture.undone import kept
from pirol.compiler.capture.views import stale

_numbers = itertools.count()


def own_code(static: Any) -> None:
    """Give an SOT static function copies of its function; no other changes."""
    if type(static) is not SymbolicStaticFunction:
        return
    static.__class__ = Watched
    _watch()
    function = static._dygraph_function
    if isinstance(function, FunctionType):
        static._pirol_copies = {grad: _copied(function) for grad in (False, True)}


class Watched(SymbolicStaticFunction):  # type: ignore[misc]
    """An SOT static function of Pirol's."""

    def _perform_call(self, *args: Any, **kwargs: Any) -> Any:
        copies = self.__dict__.get("_pirol_copies")
        if copies is not None:
            self._dygraph_function = copies[paddle.is_grad_enabled()]
        capturing.by_sot += 1
        try:
            with dropouts(self._kwargs["build_strategy"].counted):
                return super()._perform_call(*args, **kwargs)
        finally:
            capturing.by_sot -= 1


@functools.cache
def _watch() -> None:
    """Put ours around SOT's questions for a call's results, and whether eager is to
    run what it recorded, once."""
    from paddle.jit.sot.infer_meta import VariableCreator
    from paddle.jit.sot.utils.exceptions import BreakGraphError, InferMetaBreak

    infer = VariableCreator.infer_meta

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        noted.where, capturing.inferring = "", True
        try:
            found = infer(self, *args, **kwargs)
        finally:
            capturing.inferring = False
        if capturing.by_sot and noted.where:
            raise BreakGraphError(InferMetaBreak(noted.where))
        return found

    from paddle.jit.sot.opcode_translator.executor import opcode_executor

    small = opcode_executor.need_fallback
    VariableCreator.infer_meta = run
    opcode_executor.need_fallback = functools.partial(_for_eager, small)


def _for_eager(small: Any, made: Any) -> bool:
    """Whether eager is to run what SOT recorded: it is small, or no program does what
    eager does, which is said."""
    static = getattr(made[0], "compiled_fn", None)  # None: it recorded nothing
    options = static and static._kwargs.get("build_strategy")
    if not isinstance(options, Options):
        return bool(small(made))
    try:
        with kept():
            few = bool(small(made))
    except Exception as error:
        why = f"it could not be captured: {told(error)}"
    else:
        runnable = made[0].partial_program.origin_runnable_program
        why = "" if few else stale(runnable.program, runnable.out_values)
    if why:
        options.fall_back("the call", why)
        return True
    return few


def known_to_sot(*functions: Any) -> None:
    """Have SOT record calls of the functions as they are, as it does Paddle's own."""
    from paddle.jit.sot.utils.paddle_api_config import paddle_api_list

    paddle_api_list.extend(f for f in functions if f not in paddle_api_list)


def _copied(function: FunctionType) -> FunctionType:
    """The same function; a constant that nothing reads makes its code differ."""
    code = function.__code__
    mark = ("pirol", next(_numbers))
    made = FunctionType(
        code.replace(co_consts=(*code.co_consts, mark)),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    made.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(made, function)
    del made.__wrapped__  # type: ignore[attr-defined]
    return made
