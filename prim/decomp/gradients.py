"""Gradient ops of Paddle's that are functions of what the forward op gave.

All others follow from the forward op's decomposition (passes/derive.py). Here is
what cannot: `tanh_grad` knows tanh's result, not its operand, and what is derived of
tanh_grad in turn is with respect to that result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.dropout import UP, kept, rate
from pirol.prim.decomp.reductions import spread
from pirol.prim.decomp.registry import (
    Decomposition,
    axis_in,
    described,
    need,
    number,
)


@dataclass(frozen=True)
class Gradient:
    """A rule, and the names by Paddle of its results; `operands` and `made` are those
    of what the forward op takes and gives, where the rule may stand for Paddle's."""

    rule: Decomposition
    results: tuple[str, ...]
    operands: tuple[str, ...] = ()
    made: tuple[str, ...] = ()


GRADIENTS: dict[tuple[str, int], Gradient] = {}  # by forward op and order


def gradient(
    *names: str, results: str = "x_grad", order: int = 1, of: str = "->"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the gradient of forward ops; of: what these take -> give."""
    taken, made = (part.split() for part in of.split("->"))

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            rule = described(f"pd_op.{name}_grad", run)
            own = Gradient(rule, tuple(results.split()), tuple(taken), tuple(made))
            GRADIENTS[f"pd_op.{name}", order] = own
        return run

    return register


@gradient("exp")
def exp(b: Builder, out: Value, out_grad: Value) -> Any:
    """exp' is exp."""
    return b.mul(out_grad, out)


@gradient("expm1")
def expm1(b: Builder, out: Value, out_grad: Value) -> Any:
    """exp(x) is out + 1."""
    return b.mul(out_grad, b.add(out, 1.0))


@gradient("relu")
def relu(b: Builder, out: Value, out_grad: Value) -> Any:
    """Through what is over 0."""
    return b.select(b.gt(out, 0.0), out_grad, 0.0)


@gradient("relu6")
def relu6(b: Builder, out: Value, out_grad: Value) -> Any:
    """Through what is between 0 and 6."""
    inside = b.and_(b.gt(out, 0.0), b.lt(out, 6.0))
    return b.select(inside, out_grad, 0.0)


@gradient("hardsigmoid")
def hardsigmoid(b: Builder, out: Value, out_grad: Value, *, slope: float) -> Any:
    """The slope, between the ends."""
    inside = b.and_(b.gt(out, 0.0), b.lt(out, 1.0))
    return b.select(inside, b.mul(out_grad, slope), 0.0)


@gradient("selu")
def selu(b: Builder, out: Value, out_grad: Value, *, scale: float, alpha: float) -> Any:
    """scale alpha exp(x) is out + scale alpha, below 0."""
    factor = b.select(b.gt(out, 0.0), scale, b.add(out, scale * alpha))
    return b.mul(out_grad, factor)


@gradient("sigmoid")
def sigmoid(b: Builder, out: Value, out_grad: Value) -> Any:
    """out (1 - out)"""
    return b.mul(b.mul(out_grad, out), b.sub(1.0, out))


@gradient("tanh")
def tanh(b: Builder, out: Value, out_grad: Value) -> Any:
    """1 - out^2"""
    return b.mul(out_grad, b.sub(1.0, b.mul(out, out)))


@gradient("reciprocal")
def reciprocal(b: Builder, out: Value, out_grad: Value) -> Any:
    """-out^2"""
    return b.neg(b.mul(out_grad, b.mul(out, out)))


@gradient("sqrt")
def sqrt(b: Builder, out: Value, out_grad: Value) -> Any:
    """1 / (2 out)"""
    return b.div(b.mul(out_grad, 0.5), out)


@gradient("sqrt", results="out_grad grad_out_grad", order=2)
def sqrt_again(b: Builder, out: Value, grad_x: Value, grad_x_grad: Value) -> Any:
    """Of sqrt_grad, whose own result `grad_x` is known."""
    of_out = b.neg(b.div(b.mul(grad_x, grad_x_grad), out))
    return of_out, b.div(b.mul(grad_x_grad, 0.5), out)


@gradient("rsqrt")
def rsqrt(b: Builder, out: Value, out_grad: Value) -> Any:
    """-out^3 / 2"""
    return b.mul(b.mul(out_grad, -0.5), b.mul(b.mul(out, out), out))


@gradient("rsqrt", results="out_grad grad_out_grad", order=2)
def rsqrt_again(b: Builder, out: Value, grad_x: Value, grad_x_grad: Value) -> Any:
    """Of rsqrt_grad, whose own result `grad_x` is known."""
    of_out = b.div(b.mul(b.mul(grad_x, grad_x_grad), 3.0), out)
    return of_out, rsqrt(b, out, grad_x_grad)


@gradient("softmax")
def softmax(b: Builder, out: Value, out_grad: Value, *, axis: int) -> Any:
    """out (ct - the sum of ct out)"""
    axes = (axis_in(axis, out.type.rank, "softmax"),)
    total = b.reduce_sum(b.mul(out_grad, out), axes=axes)
    return b.mul(out, b.sub(out_grad, spread(b, total, out, axes)))


@gradient("log_softmax")
def log_softmax(b: Builder, out: Value, out_grad: Value, *, axis: int) -> Any:
    """ct - exp(out) times the sum of ct"""
    axes = (axis_in(axis, out.type.rank, "log_softmax"),)
    total = b.reduce_sum(out_grad, axes=axes)
    return b.sub(out_grad, b.mul(b.exp(out), spread(b, total, out, axes)))


@gradient("divide", results="x_grad y_grad")
def divide(b: Builder, x: Value | None, y: Value, out: Value, out_grad: Value) -> Any:
    """ct / y and -ct out / y"""
    of_x = b.div(out_grad, y)
    of_y = b.neg(b.mul(of_x, out))
    return x and collapsed(b, of_x, x), collapsed(b, of_y, y)


@gradient("reshape", "flatten")
def reshape(b: Builder, x: Value, out_grad: Value) -> Any:
    """The elements in their order."""
    return b.reshape(out_grad, shape=x.shape)


@gradient("unstack")
def unstack(b: Builder, out_grad: list[Value], *, axis: int) -> Any:
    """One behind the other along the axis."""
    at = axis_in(axis, out_grad[0].type.rank + 1, "unstack")
    rows = [b.reshape(v, shape=(*v.shape[:at], 1, *v.shape[at:])) for v in out_grad]
    return b.concat(*rows, axis=at)


@gradient("masked_select", of="x mask -> out")
def masked_select(b: Builder, x: Value, mask: Value, out_grad: Value) -> Any:
    """Each of the cts where it was taken from, zeros between them."""
    need(dims.same_shape(x.shape, mask.shape), "masked_select of what is broadcast")
    size = x.type.size
    taken = b.reshape(mask, shape=(size,))
    place = b.sub(b.cumsum(b.cast(taken, dtype="int64"), axis=0), 1)
    none = b.const(value=0.0, shape=(1,), dtype=out_grad.dtype)  # there may be no ct
    rows = b.concat(out_grad, none, axis=0)
    found = b.gather(rows, b.max(place, 0), shape=(size,), dims=(-1,))
    return b.reshape(b.select(taken, found, 0.0), shape=x.shape)


@gradient("dropout")
def dropout(
    b: Builder, mask: Value, out_grad: Value, p: Value, *, is_test: bool, mode: str
) -> Any:
    """Through what the mask keeps, scaled as the forward op did."""
    if is_test:
        return out_grad if mode == UP else b.mul(out_grad, 1.0 - number(b, p, "p"))
    return kept(b, out_grad, b.ne(mask, 0), rate(b, p), mode == UP)


@gradient("huber_loss", results="input_grad label_grad")
def huber_loss(b: Builder, residual: Value, out_grad: Value, *, delta: float) -> Any:
    """The residual, label - input, brought into -delta .. delta."""
    of_label = b.mul(out_grad, b.max(b.min(residual, delta), -delta))
    return b.neg(of_label), of_label


@gradient("cross_entropy_with_softmax", results="input_grad")
def cross_entropy(
    b: Builder,
    label: Value,
    softmax: Value,
    loss_grad: Value,
    *,
    soft_label: bool,
    use_softmax: bool,
    ignore_index: int,
    axis: int,
) -> Any:
    """softmax less 1 at the label, or less soft labels; 0 for what is ignored.

    As to the forward op, labels have no gradient.
    """
    need(use_softmax, "cross_entropy of what softmax gave")
    label = b.stop_gradient(label)
    at = axis_in(axis, softmax.type.rank, "cross_entropy")
    axes, lines = (at,), tuple(d for k, d in enumerate(softmax.shape) if k != at)
    ct = spread(b, b.reshape(loss_grad, shape=lines), softmax, axes)
    if soft_label:
        weight = spread(b, b.reduce_sum(label, axes=axes), softmax, axes)
        return b.mul(ct, b.sub(b.mul(softmax, weight), label))
    number = spread(b, b.reshape(label, shape=lines), softmax, axes)
    classes = b.iota(shape=softmax.shape, axis=at, dtype=label.dtype)
    hit = b.cast(b.eq(classes, number), dtype=softmax.dtype)
    return b.select(b.eq(number, ignore_index), 0.0, b.mul(ct, b.sub(softmax, hit)))


def collapsed(b: Builder, ct: Value, operand: Value) -> Value:
    """The cotangent of an operand that was broadcast to the shape of `ct`."""
    lead = ct.type.rank - operand.type.rank
    ones = [
        lead + k
        for k, size in enumerate(operand.shape)
        if dims.equal(size, ct.shape[lead + k]) is not True
    ]
    summed = b.reduce_sum(ct, axes=(*range(lead), *ones)) if lead or ones else ct
    result: Value = b.reshape(summed, shape=operand.shape)
    return result
