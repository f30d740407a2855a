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
    """A walk; `after` is done at its end, and `failed` is what a hook raised: Paddle
    raises an error of its own then, which does not tell of it."""

    def __init__(self) -> None:
        self.differentiable = False
        self.retained = False
        self.targets: frozenset[int] = frozenset()  # ids of the tensors to reach
        self.after: list[Callable[[], None]] = []
        self.failed: Exception | None = None


current = Walk()


def _followed(run: Callable[..., Any], partial: bool) -> Any:
    """One of the engine's functions; `partial` walks to some tensors alone."""

    def walk(*args: Any) -> Any:
        before = dict(vars(current))
        # run_backward: tensors, gradients, retain_graph; run_partial_grad: outputs,
        # inputs, gradients, retain_graph, create_graph and more.
        asked = (*args, *[None] * 5)
        current.retained = bool(asked[3 if partial else 2])
        current.differentiable = partial and bool(asked[4])
        current.targets = frozenset(map(id, asked[1])) if partial else frozenset()
        current.after, current.failed = [], None
        try:
            return run(*args)
        except Exception:
            if current.failed is None:
                raise
            raise current.failed from None
        finally:
            for end in current.after:
                end()
            vars(current).update(before)

    return walk


@functools.cache
def follow() -> None:
    """Put ours before the engine's functions, once."""
    eager: Any = core.eager
    eager.run_backward = _followed(eager.run_backward, partial=False)
    eager.run_partial_grad = _followed(eager.run_partial_grad, partial=True)
