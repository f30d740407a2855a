"""Derivatives within a program, beyond those that Paddle has ops for.

`paddle.grad` in a program makes foo_grad, foo_double_grad, foo_triple_grad, and then
fails. Where it does, the program is captured once more, and gradients are made of ops
that have gradients themselves: by Paddle's own decompositions, by ours where it has
none (translated.py), and by rules here.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import paddle
from paddle.base import core

from pirol.compiler.capture.attributes import attributes, fixed_numbers
from pirol.compiler.capture.overwritten import capturing
from pirol.compiler.capture.plans import LOCK
from pirol.compiler.capture.translated import translated
from pirol.compiler.errors import Unsupported

Lists = list[list[Any]]
paddles: Any = core
COMPLEX = (paddle.complex64, paddle.complex128)
# Gradients whose gradient ends the process, where one of their results is not there.
CRASHES = ("pd_op.conv2d_transpose_grad", "pd_op.depthwise_conv2d_transpose_grad")


def captured(call: Callable[[], Any]) -> Any:
    """What a call returns that may capture a program: captured once more, where that
    failed for want of a gradient's gradient."""
    capturing.depth += 1
    try:
        return call()
    except ValueError as error:
        if "has no grad op" not in str(error):
            raise
        with _any_order():
            return call()
    finally:
        capturing.depth -= 1


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
    enabled = paddles._is_bwd_prim_enabled  # not where a size is unknown

    def run(op: Any, inputs: Lists, outputs: Lists, cts: Lists, stops: Lists) -> Lists:
        given = [v for values in inputs for v in values if v.initialized()]
        if any(v.dtype in COMPLEX for v in given):  # Paddle's forget the conjugates
            raise Unsupported(f"{op.name()} of complex numbers: no gradient's gradient")
        rule = RULES.get(op.name())
        found = None if rule is None else rule(op, inputs, cts[0][0])
        # Paddle's of several results, as of a norm's mean, forget what leads to those.
        own = enabled() and paddles.has_custom_vjp(op) and op.num_results() == 1
        if found is None and not own:
            found = translated(op, inputs, outputs, cts)
        if found is None:
            return call(op, inputs, outputs, cts, stops)
        return _given(found, stops)

    return run


@functools.cache
def follow() -> None:
    """Put ours before Paddle's function, once."""
    call = paddles.call_vjp

    def run(op: Any, inputs: Lists, outputs: Lists, cts: Lists, stops: Lists) -> Lists:
        whole = all(ct.initialized() for part in cts for ct in part if ct is not None)
        if capturing.depth and op.name() in CRASHES and not whole:
            raise Unsupported(
                f"{op.name()}: no gradient's gradient by one operand alone"
            )
        found: Lists = call(op, inputs, outputs, cts, stops)
        if not capturing.depth or "_grad" not in op.name():
            return found
        # divide_double_grad has none of the operand grad_out, for one, where nobody
        # asked divide_grad for the numerator's.
        pairs = (p for part, stopped in zip(found, stops) for p in zip(part, stopped))
        if all(s or (v is not None and v.initialized()) for v, s in pairs):
            return found
        ours = translated(op, inputs, outputs, cts)
        return found if ours is None else _given(ours, stops)

    paddles.call_vjp = run


def _given(found: Lists, stops: Lists) -> Lists:
    """Gradients as Paddle takes them."""
    fake = paddle.pir.fake_value
    return [
        [fake() if s else v for v, s in zip(part, stopped)]
        for part, stopped in zip(found, stops)
    ]


def _matmul(op: Any, inputs: Lists, ct: Any) -> Lists | None:
    """The cotangents of both operands; None where one is a vector, or is repeated."""
    (x, *_), (y, *_) = inputs
    attrs, product = op.attrs(), paddle.matmul
    turn_x, turn_y = attrs["transpose_x"], attrs["transpose_y"]
    if len(y.shape) == 2 and len(x.shape) > 2 and not turn_x:
        rows, cts = (v.reshape([-1, v.shape[-1]]) for v in (x, ct))
        of_y = product(cts, rows, True) if turn_y else product(rows, cts, True)
        return [[product(ct, y, False, not turn_y)], [of_y]]
    if len(x.shape) < 2 or x.shape[:-2] != y.shape[:-2]:
        return None
    of_x = product(y, ct, turn_y, True) if turn_x else product(ct, y, False, not turn_y)
    of_y = product(ct, x, True, turn_x) if turn_y else product(x, ct, not turn_x, False)
    return [[of_x], [of_y]]


def _set_value(op: Any, inputs: Lists, ct: Any) -> Lists | None:
    """The cotangents of what is overwritten and of what is put there; None where only
    the program's run tells the place."""
    part, attrs = inputs[1][0], attributes(op)
    bounds = [fixed_numbers(v) for (v, *_) in inputs[2:5]]
    if None in bounds:
        return None
    starts, ends, steps = bounds
    axes, gone, new = (attrs[f"{n}axes"] for n in ("", "decrease_", "none_"))
    zero = paddle.zeros([1], ct.dtype)
    rest = paddle._C_ops.set_value_with_tensor(ct, zero, *bounds, axes, gone, new)
    put = paddle.strided_slice(ct, axes, starts, ends, steps) if axes else ct
    put = paddle.squeeze(put, gone) if gone else put
    put = paddle.unsqueeze(put, new) if new else put
    return [[rest], [_summed(put, part)]]


def _slice(op: Any, inputs: Lists, ct: Any) -> Lists | None:
    """Zeros but for the slice; of what is known only when it runs, as _set_value."""
    (x, *_), attrs = inputs[0], attributes(op)
    bounds = [fixed_numbers(v) for (v, *_) in inputs[1:]]
    if None in bounds:
        return None
    axes, gone = attrs["axes"], attrs.get("decrease_axis", [])
    bounds += [[1] * len(axes)] * (3 - len(bounds))
    put, zeros = paddle._C_ops.set_value_with_tensor, paddle.zeros_like(x)
    return [[put(zeros, ct, *bounds, axes, gone, [])]]


def _index_put(op: Any, inputs: Lists, ct: Any) -> Lists | None:
    """The same, at places that tensors tell; of several at one place, the last has the
    gradient, which stayed."""
    (_,), places, (part,) = inputs
    more, zero = attributes(op)["accumulate"], paddle.zeros([1], ct.dtype)
    rest = paddle.index_put(ct, tuple(places), zero)
    if any(p.dtype == paddle.bool for p in places):
        share = _at_mask(ct - rest, places, part)
        return None if share is None else [[ct if more else rest], [share]]
    if -1 in ct.shape or any(-1 in p.shape for p in places):
        return None
    ends = zip(places, ct.shape)
    at = paddle.broadcast_tensors([paddle.where(p < 0, p + d, p) for p, d in ends])
    where = paddle.stack(at, -1)
    taken = paddle.gather_nd(ct, where)
    if more:
        return [[ct], [_summed(taken, part)]]
    numbers = paddle.arange(math.prod(at[0].shape)).reshape(at[0].shape)
    stayed = paddle.index_put(paddle.zeros(ct.shape[: len(at)], "int64"), at, numbers)
    last = (paddle.gather_nd(stayed, where) == numbers).astype(ct.dtype)
    last = last.reshape([*last.shape, *[1] * (len(taken.shape) - len(last.shape))])
    return [[rest], [_summed(taken * last, part)]]


def _at_mask(ct: Any, places: list[Any], part: Any) -> Any:
    """The cotangent, which is 0 elsewhere, of what was put where a mask says: in order,
    or one everywhere. None of sizes, or by masks and others, that are not handled."""
    (mask, *others), rank = places, len(places[0].shape)
    rest = [*ct.shape[rank:]]
    if others or -1 in (*ct.shape, *mask.shape, *part.shape):
        return None
    if len(part.shape) <= len(rest) or part.shape[0] == 1:
        return _summed(ct.reshape([-1, *rest]), part)
    count, flat = part.shape[0], mask.reshape([-1])
    number = paddle.cumsum(flat.astype("int64")) - 1
    to = paddle.where(flat, number, paddle.full_like(number, count))
    taken = paddle.zeros([count + 1, *rest], ct.dtype)
    taken = paddle.index_put(taken, (to,), ct.reshape([-1, *rest]))
    return _summed(taken[:count], part)


def _summed(value: Any, like: Any) -> Any:
    """A value, summed to what was broadcast to its shape."""
    extra = len(value.shape) - len(like.shape)
    if extra > 0:
        value = value.sum([*range(extra)])
    if extra < 0:
        value = value.reshape([*[1] * -extra, *value.shape])
    pairs = enumerate(zip(value.shape, like.shape))
    ones = [k for k, (got, wanted) in pairs if wanted == 1 != got]
    return value.sum(ones, keepdim=True) if ones else value


RULES: dict[str, Callable[[Any, Lists, Any], Lists | None]] = {
    "pd_op.matmul": _matmul,
    "pd_op.set_value_with_tensor": _set_value,
    "pd_op.set_value_with_tensor_": _set_value,
    "pd_op.index_put": _index_put,
    "pd_op.slice": _slice,
    "pd_op.strided_slice": _slice,
}
