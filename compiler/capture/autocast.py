"""The auto_cast that a call is under, and ops captured under one of their own.

with paddle.amp.auto_cast(dtype="bfloat16"):
    asked()  # Mixed("bfloat16", "O1")

Paddle's own state is the process's, and says O0 on a CPU, where eager has no halves: so
the function that every auto_cast calls is followed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import paddle
from paddle.base import core, framework

from pirol.passes.amp import KEPT, Mixed


class _Around(threading.local):
    """The arguments of this thread's innermost auto_cast, where it was followed."""

    state: Mapping[str, Any] | None = None


_around = _Around()
_PLAIN = core.AmpLevel.O0
_FOLLOWED = "pirol_followed"  # a key of Paddle's state, where it was followed


def asked() -> Mixed | None:
    """The mixed precision that eager code would be told to run in, if any."""
    state = _around.state
    if state is None:  # entered before there was anything to follow it
        state = _module().amp_state()
        if state is None or _FOLLOWED in state:
            return None
    level = str(state["level"]).upper()
    if not state["enable"] or level == "O0":
        return None
    return Mixed(
        getattr(state["dtype"], "name", str(state["dtype"])).lower(),
        level,
        frozenset(state["custom_white_list"] or ()),
        frozenset(state["custom_black_list"] or ()),
        state["use_promote"],
    )


def refused(mixed: Mixed | None) -> str:
    """Why such a call is Paddle's, or ""."""
    if _module().amp_state() is None:  # the process is in no auto_cast
        return ""
    tracer = framework._dygraph_tracer()
    if mixed is not None or tracer is None or tracer._amp_level == _PLAIN:
        return ""
    return f"auto_cast is on at level {tracer._amp_level.name}"


@functools.cache
def follow() -> None:
    """Put ours before the function that every auto_cast calls, once."""
    module = _module()
    module.amp_guard = paddle.amp.amp_guard = _followed(module.amp_guard)


def _module() -> Any:
    return sys.modules["paddle.amp.auto_cast"]  # a function has its name in paddle.amp


def _followed(guard: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(guard)

    @functools.wraps(guard)
    @contextlib.contextmanager
    def entered(*args: Any, **kwargs: Any) -> Iterator[None]:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        with guard(*args, **kwargs):
            if paddle.base.framework.in_pir_mode():
                with _kept():
                    yield
                return
            _module().amp_state()[_FOLLOWED] = True
            before, _around.state = _around.state, given.arguments
            try:
                yield
            finally:
                _around.state = before

    return entered


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Mark the ops that are put into the program meanwhile."""
    block = paddle.pir.get_current_insertion_point().block()
    count = block.num_ops()
    yield
    for op in block.ops[count:]:
        op.set_bool_attr(KEPT, True)
