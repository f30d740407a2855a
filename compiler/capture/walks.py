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


class Walk:
    """A walk; `after` is done at its end, and `failed` is what a hook raised: Paddle
    raises an error of its own then, which does not tell of it."""

    differentiable: Any = False
    targets: frozenset[int] = frozenset()  # ids of the tensors to reach, if not all
    failed: Exception | None = None

    def __init__(self, retained: Any = False) -> None:
        self.retained = retained
        self.after: list[Callable[[], None]] = []


class _Current(threading.local):
    walk = Walk()


current = _Current()


def _followed(run: Callable[..., Any], walk_of: Callable[..., Walk]) -> Any:
    """One of the engine's functions, and what a call of it asks for."""

    def walk(*args: Any) -> Any:
        before = current.walk
        current.walk = now = walk_of(*args)
        try:
            return run(*args)
        except Exception:
            if now.failed is None:
                raise
            raise now.failed from None
        finally:
            for end in now.after:
                end()
            current.walk = before

    return walk


def _whole(tensors: Any, gradients: Any, retain: Any = False, *more: Any) -> Walk:
    return Walk(retain)


def _partial(
    outputs: Any,
    inputs: Any,
    gradients: Any,
    retain: Any = False,
    create: Any = False,
    *more: Any,
) -> Walk:
    """A walk to some tensors alone."""
    walk = Walk(retain)
    walk.targets, walk.differentiable = frozenset(map(id, inputs)), create
    return walk


@functools.cache
def follow() -> None:
    """Put ours before the engine's functions, once."""
    eager: Any = core.eager
    eager.run_backward = _followed(eager.run_backward, _whole)
    eager.run_partial_grad = _followed(eager.run_partial_grad, _partial)
