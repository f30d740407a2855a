"""Derivatives within a program, beyond those that Paddle has ops for.

`paddle.grad` in a program makes foo_grad, foo_double_grad, foo_triple_grad, and then
fails. Where it does, the program is captured once more, and gradients are made of ops
that have gradients themselves: by Paddle's own decompositions, and here for matmul,
which these lack.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import paddle
from paddle.base import core

from pirol.compiler.capture.plans import LOCK
from pirol.compiler.errors import Unsupported

Lists = list[list[Any]]
paddles: Any = core
COMPLEX = (paddle.complex64, paddle.complex128)


def captured(call: Callable[[], Any]) -> Any:
    """What a call returns that may capture a program: captured once more, where that
    failed for want of a gradient's gradient."""
    try:
        return call()
    except ValueError as error:
        if "has no grad op" not in str(error):
            raise
        with _any_order():
            return call()


@contextlib.contextmanager
def _any_order() -> Iterator[None]:
    """What is captured meanwhile has gradients that have gradients."""
    with LOCK:
        enabled, call = paddles._is_bwd_prim_enabled(), paddles.call_vjp
        paddles._set_prim_backward_enabled(True)
        paddles.call_vjp = _gradients(call)
        try:
            yield
        finally:
            paddles.call_vjp = call
            paddles._set_prim_backward_enabled(enabled)


def _gradients(call: Callable[..., Lists]) -> Callable[..., Lists]:
    def run(op: Any, inputs: Lists, outputs: Lists, cts: Lists, stops: Lists) -> Lists:
        given = [v for values in inputs for v in values if v.initialized()]
        if any(v.dtype in COMPLEX for v in given):  # Paddle's forget the conjugates
            raise Unsupported(f"{op.name()} of complex numbers: no gradient's gradient")
        found = _matmul(op, inputs, cts[0][0]) if op.name() == "pd_op.matmul" else None
        if found is None:
            return call(op, inputs, outputs, cts, stops)
        fake = paddle.pir.fake_value
        return [[fake() if s else v] for v, (s, *_) in zip(found, stops)]

    return run


def _matmul(op: Any, inputs: Lists, ct: Any) -> tuple[Any, Any] | None:
    """The cotangents of both operands; None where one is a vector, or is repeated."""
    (x, *_), (y, *_) = inputs
    attrs, product = op.attrs(), paddle.matmul
    turn_x, turn_y = attrs["transpose_x"], attrs["transpose_y"]
    if len(y.shape) == 2 and len(x.shape) > 2 and not turn_x:
        rows, cts = (v.reshape([-1, v.shape[-1]]) for v in (x, ct))
        of_y = product(cts, rows, True) if turn_y else product(rows, cts, True)
        return product(ct, y, False, not turn_y), of_y
    if len(x.shape) < 2 or x.shape[:-2] != y.shape[:-2]:
        return None
    of_x = product(y, ct, turn_y, True) if turn_x else product(ct, y, False, not turn_y)
    of_y = product(ct, x, True, turn_x) if turn_y else product(x, ct, not turn_x, False)
    return of_x, of_y
