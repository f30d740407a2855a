"""What a walk of Paddle's autograd engine was asked for, told to those it calls.

A hook on a tensor is not told whether its gradient must be differentiable, nor whether
the graph will be walked again. The two functions that every walk begins with are
followed: `current` says it of this thread's innermost walk.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from paddle.base import core


class Walk(threading.local):
    """A walk; `after` is done at its end."""

    def __init__(self) -> None:
        self.differentiable = False
        self.retained = False
        self.after: list[Callable[[], None]] = []


current = Walk()


def _followed(run: Callable[..., Any], retains: int, differentiates: int) -> Any:
    """The engine's function; which of its arguments say what it is asked for."""

    def walk(*args: Any) -> Any:
        before = current.differentiable, current.retained, current.after
        current.differentiable = len(args) > differentiates and args[differentiates]
        current.retained = len(args) > retains and args[retains]
        current.after = []
        try:
            return run(*args)
        finally:
            for end in current.after:
                end()
            current.differentiable, current.retained, current.after = before

    return walk


@functools.cache
def follow() -> None:
    """Put ours before the engine's functions, once."""
    eager: Any = core.eager
    eager.run_backward = _followed(eager.run_backward, 2, 99)
    eager.run_partial_grad = _followed(eager.run_partial_grad, 3, 4)
