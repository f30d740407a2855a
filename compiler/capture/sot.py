"""SOT's cache knows a function by its code object alone: ours get code of their own.

Else a function that someone compiled before, by Paddle or with other options, would be
served by what was made then.
"""

from __future__ import annotations

import functools
import itertools
from types import FunctionType
from typing import Any

from paddle.jit.dy2static.program_translator import SymbolicStaticFunction

_numbers = itertools.count()


def own_code(static: Any) -> None:
    """Give an SOT static function a copy of its function; no other changes."""
    function = getattr(static, "_dygraph_function", None)
    if isinstance(static, SymbolicStaticFunction) and isinstance(
        function, FunctionType
    ):
        static._dygraph_function = _copied(function)


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
