"""`break` and `continue`, in the functions that Paddle transforms, and `a, b = b, b`.

for i in range(n): .. break .. continue ..    for i in x: for k in range(n): break

Paddle makes a `while` of a `for` at its first `break`, whose last statement counts the
turns; a later `continue` then leaps over that too, and the loop never ends; a second
`break` finds the `for` no more. And that a loop was left is noted for good: the next
time that an outer loop comes to it, it has no turn. Here a `for` becomes a `while` when
all are rewritten, and each loop begins anew.

A variable that a turn gives another one's value, while that keeps its own, ends the
process: Paddle takes what stays the same out of the loop, also from under the other.
There a copy goes on.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import paddle
from paddle.jit.dy2static.transformers import break_continue_transformer as paddles
from paddle.jit.dy2static.transformers import transform
from paddle.jit.dy2static.transformers.utils import create_bool_node
from paddle.utils import gast

from pirol.compiler.capture.overwritten import capturing

_WHILE = paddles.ForToWhileTransformer
_VALUE: Any = paddle.pir.Value


@functools.cache
def follow() -> None:
    """Put ours in the place of Paddle's, once."""
    own: Any = transform
    own.BreakContinueTransformer = Together
    loops: Any = importlib.import_module("paddle.static.nn.control_flow")
    ours = _while_loop(loops.while_loop)
    loops.while_loop = paddle.static.nn.while_loop = ours


def _while_loop(paddles_own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(paddles_own)
    def run(cond: Any, body: Any, *args: Any, **kwargs: Any) -> Any:
        def turn(*given: Any) -> Any:
            found = body(*given)
            return _with_copies([*given], found) if capturing.depth else found

        return paddles_own(cond, turn, *args, **kwargs)

    return run


def _with_copies(given: Any, found: Any) -> Any:
    """What a turn gives, copies where it is another variable as it was."""
    olds, news = paddle.utils.flatten(given), paddle.utils.flatten(found)
    own = [isinstance(old, _VALUE) for old in olds]
    if len(olds) != len(news) or not any(own):
        return found
    made = [
        paddle.assign(new)
        if isinstance(new, _VALUE)
        and any(new.is_same(old) for j, old in enumerate(olds) if own[j] and j != k)
        and not (own[k] and new.is_same(olds[k]))
        else new
        for k, new in enumerate(news)
    ]
    return paddle.utils.pack_sequence_as(found, made)


class Together(paddles.BreakContinueTransformer):  # type: ignore[misc]
    """Paddle's, while Pirol captures with the loops made at the end."""

    def transform(self) -> None:
        self.left: list[tuple[Any, str]] = []  # loops, and the names that say so
        if not capturing.depth:
            super().transform()
            return
        module: Any = paddles
        module.ForToWhileTransformer = _Later
        try:
            super().transform()
        finally:
            module.ForToWhileTransformer = _WHILE
        ends: dict[Any, list[Any]] = {}
        for loop, name in self.left:
            self._begin(loop, name)
            ends.setdefault(loop, []).append(_is_not(name))
        for loop, conditions in ends.items():
            if isinstance(loop, gast.For):
                parent = _parent(self.root, loop)
                _WHILE(parent, loop, _all(conditions)).transform()

    def visit_Break(self, node: Any) -> None:
        """As Paddle's, which first sets a name to False at the function's begin."""
        nodes = self.ancestor_nodes
        loop = nodes[paddles._find_ancestor_loop_index(node, nodes)]
        function = nodes[paddles._find_ancestor_function_def_index(nodes)]
        super().visit_Break(node)
        self.left.append((loop, function.body[0].targets[0].id))

    def _begin(self, loop: Any, name: str) -> None:
        """Set the name to False ahead of the loop too."""
        parent = _parent(self.root, loop)
        for statements in (parent.body, getattr(parent, "orelse", [])):
            at = next((k for k, s in enumerate(statements) if s is loop), None)
            if at is not None:
                statements.insert(at, create_bool_node(name, False))


class _Later:
    """A `for` stays one, for now."""

    def __init__(self, parent: Any, loop: Any, condition: Any) -> None:
        pass

    def transform(self) -> None:
        pass


def _parent(root: Any, loop: Any) -> Any:
    """The node among whose statements a loop is."""
    for node in gast.walk(root):
        for name in ("body", "orelse"):
            statements = getattr(node, name, None)
            if isinstance(statements, list) and any(s is loop for s in statements):
                return node
    raise ValueError("a loop is in no statement")


def _is_not(name: str) -> Any:
    return gast.parse(f"not {name}").body[0].value


def _all(conditions: list[Any]) -> Any:
    if len(conditions) == 1:
        return conditions[0]
    return gast.BoolOp(op=gast.And(), values=conditions)
