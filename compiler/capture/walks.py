"""What a walk of Paddle's autograd engine was asked for, told to those it calls.

A hook on a tensor is not told whether its gradient must be differentiable, nor whether
the graph will be walked again; nor can it say that there is no gradient. The two
functions that every walk begins with are followed: `current` says it of this thread's
innermost walk. What no output of the walk depends on gets numbers -0.0, which change no
gradient that they are added to; where they are all that it got, it has none.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import paddle
from paddle.base import core

from pirol.compiler.errors import message


class Walk:
    """A walk; `after` is done at its end, and `failed` is what a hook raised: Paddle
    raises an error of its own then, which does not tell of it."""

    differentiable: Any = False
    targets: frozenset[int] = frozenset()  # ids of the tensors to reach, if not all
    failed: Exception | None = None

    def __init__(self, retained: Any = False) -> None:
        self.retained = retained
        self.after: list[Callable[[], None]] = []
        self.nothings: dict[int, Any] = {}  # by their addresses
        self.unreached: dict[int, Any] = {}  # tensors without a gradient so far, by id

    def nothing(self, tensor: Any) -> Any:
        """What a tensor gets that no output of this walk depends on."""
        found = _nothing(tensor)
        self.nothings[found.data_ptr()] = found
        if id(tensor) in self.targets or (tensor.is_leaf and tensor.grad is None):
            self.unreached[id(tensor)] = tensor
        return found

    def is_nothing(self, gradient: Any) -> bool:
        """Whether a gradient is what `nothing` gave, and nothing else."""
        return gradient.data_ptr() in self.nothings

    def cleared(self) -> None:
        """Take the gradients from those that have none."""
        for tensor in self.unreached.values():
            if tensor.grad is not None and _is_nothing(tensor.grad):
                tensor.clear_gradient(False)

    def without(self, found: list[Any], inputs: Any, unused: bool) -> list[Any]:
        """A walk's gradients of the inputs, None for those that have none."""
        for k, tensor in enumerate(inputs):
            if id(tensor) in self.unreached and _is_nothing(found[k]):
                if not unused:
                    got = f"input {k}, which no output depends on"
                    raise ValueError(message("grad", got=got, expected="allow_unused"))
                found[k] = None
        return found


def _nothing(tensor: Any) -> Any:
    return paddle.full(tensor.shape, -0.0, tensor.dtype)


def _is_nothing(gradient: Any) -> bool:
    if gradient is None or not gradient.size:
        return False
    same: bool = gradient.numpy().tobytes() == _nothing(gradient).numpy().tobytes()
    return same


class _Current(threading.local):
    walk = Walk()


current = _Current()


def _followed(
    run: Callable[..., Any],
    walk_of: Callable[..., Walk],
    seen: Callable[..., Any],
) -> Any:
    """One of the engine's functions, and what a call of it asks for; `seen` is what the
    user sees of what it gave."""

    def walk(*args: Any) -> Any:
        before = current.walk
        current.walk = now = walk_of(*args)
        try:
            found = run(*args)
            return seen(now, found, *args) if now.unreached else found
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


def _accumulated(walk: Walk, found: Any, *args: Any) -> None:
    walk.cleared()


def _found(walk: Walk, found: list[Any], outputs: Any, inputs: Any, *more: Any) -> Any:
    return walk.without(found, inputs, more[4])  # allow_unused


@functools.cache
def follow() -> None:
    """Put ours before the engine's functions, once."""
    eager: Any = core.eager
    eager.run_backward = _followed(eager.run_backward, _whole, _accumulated)
    eager.run_partial_grad = _followed(eager.run_partial_grad, _partial, _found)
