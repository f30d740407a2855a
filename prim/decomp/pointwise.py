"""Elementwise Paddle ops."""

from __future__ import annotations

from typing import Any

from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import decomposes, need, number

SQRT_HALF = 0.7071067811865476
SQRT_2_OVER_PI = 0.7978845608028654


def _one_dtype(x: Value, y: Value) -> None:
    need(x.dtype == y.dtype, f"operands of two dtypes, {x.dtype} and {y.dtype}")


def _binary(name: str, prim: str, floats_only: bool = False) -> None:
    @decomposes(f"pd_op.{name}", compute_in="float32")
    def run(b: Builder, x: Value, y: Value) -> Any:
        _one_dtype(x, y)
        need(not floats_only or x.dtype in FLOATS, f"{name} of {x.dtype}")
        need(x.dtype != "bool" or prim in BOOL_PRIMS, f"{name} of bool")
        return getattr(b, prim)(x, y)


BOOL_PRIMS = ("eq", "ne", "lt", "le", "gt", "ge", "max", "min")

for _name, _prim in {
    "add": "add",
    "subtract": "sub",
    "multiply": "mul",
    "maximum": "max",
    "minimum": "min",
    "less_than": "lt",
    "less_equal": "le",
    "greater_than": "gt",
    "greater_equal": "ge",
}.items():
    _binary(_name, _prim)
_binary("divide", "div", floats_only=True)


@decomposes("pd_op.equal", compute_in="float32")
def equal(b: Builder, x: Value, y: Value) -> Any:
    """Equal; floats also where they differ by less than 1e-15, as Paddle's do."""
    _one_dtype(x, y)
    same = b.eq(x, y)
    if x.dtype not in FLOATS:
        return same
    return b.or_(same, b.lt(b.abs(b.sub(x, y)), 1e-15))


@decomposes("pd_op.not_equal", compute_in="float32")
def not_equal(b: Builder, x: Value, y: Value) -> Any:
    """Not what `equal` is."""
    return b.not_(equal(b, x, y))


def _unary(name: str) -> None:
    @decomposes(f"pd_op.{name}", compute_in="float32")
    def run(b: Builder, x: Value) -> Any:
        need(x.dtype in FLOATS, f"{name} of {x.dtype}")
        return getattr(b, name)(x)


for _name in ("exp", "log", "sqrt", "rsqrt", "tanh", "erf", "floor"):
    _unary(_name)


@decomposes("pd_op.abs")
def absolute(b: Builder, x: Value) -> Any:
    """|x|"""
    return b.abs(x)


@decomposes("pd_op.square", compute_in="float32")
def square(b: Builder, x: Value) -> Any:
    """x * x"""
    return b.mul(x, x)


@decomposes("pd_op.sigmoid", compute_in="float32")
def sigmoid(b: Builder, x: Value) -> Any:
    """1 / (1 + exp(-x))"""
    return b.div(1.0, b.add(1.0, b.exp(b.neg(x))))


@decomposes("pd_op.silu", compute_in="float32")
def silu(b: Builder, x: Value) -> Any:
    """x * sigmoid(x)"""
    return b.div(x, b.add(1.0, b.exp(b.neg(x))))


@decomposes("pd_op.relu")
def relu(b: Builder, x: Value) -> Any:
    """x where x > 0, else 0; 0 for NaN, as Paddle."""
    return b.select(b.gt(x, 0), x, _zeros(b, x))


def _zeros(b: Builder, x: Value) -> Value:
    result: Value = b.const(value=0, shape=x.shape, dtype=x.dtype)
    return result


@decomposes("pd_op.gelu", compute_in="float32")
def gelu(b: Builder, x: Value, *, approximate: bool) -> Any:
    """x * Phi(x); approximate: Phi by tanh."""
    if approximate:
        cubic = b.add(x, b.mul(0.044715, b.mul(x, b.mul(x, x))))
        phi = b.add(1.0, b.tanh(b.mul(SQRT_2_OVER_PI, cubic)))
    else:
        phi = b.add(1.0, b.erf(b.mul(x, SQRT_HALF)))
    return b.mul(b.mul(x, 0.5), phi)


@decomposes("pd_op.scale", compute_in="float32")
def scale(
    b: Builder, x: Value, factor: Value, *, bias: float, bias_after_scale: bool
) -> Any:
    """x * factor + bias, or (x + bias) * factor; in x's dtype."""
    need(x.dtype != "bool", "scale of bool")
    known = b.known(factor)
    times = (
        known[0]
        if known is not None
        else b.cast(b.reshape(factor, shape=()), dtype=x.dtype)
    )
    if isinstance(times, float) and x.dtype not in FLOATS:
        times = int(times)
    plus = bias if x.dtype in FLOATS else int(bias)
    if not bias_after_scale:
        return b.mul(b.add(x, plus), times)
    return b.add(b.mul(x, times), plus)


@decomposes("pd_op.dropout")
def dropout(
    b: Builder, x: Value, seed: Any, p: Value, *, is_test: bool, mode: str
) -> Any:
    """In inference: x, or x * (1 - p) for "downgrade_in_infer"; no mask."""
    need(is_test, "dropout draws random numbers in training")
    if mode == "upscale_in_train":
        return x, None
    return b.mul(x, 1.0 - number(b, p, "p")), None


@decomposes("pd_op.where")
def where(b: Builder, condition: Value, x: Value, y: Value) -> Any:
    """x where the condition holds, else y."""
    _one_dtype(x, y)
    return b.select(condition, x, y)


@decomposes("pd_op.logical_and", "pd_op.bitwise_and")
def logical_and(b: Builder, x: Value, y: Value) -> Any:
    """x and y, both bool."""
    need(x.dtype == y.dtype == "bool", "logical_and of numbers")
    return b.and_(x, y)


@decomposes("pd_op.logical_or", "pd_op.bitwise_or")
def logical_or(b: Builder, x: Value, y: Value) -> Any:
    """x or y, both bool."""
    need(x.dtype == y.dtype == "bool", "logical_or of numbers")
    return b.or_(x, y)


@decomposes("pd_op.logical_not", "pd_op.bitwise_not")
def logical_not(b: Builder, x: Value) -> Any:
    """not x, of bool."""
    need(x.dtype == "bool", "logical_not of numbers")
    return b.not_(x)


@decomposes("pd_op.cast", composite=False)
def cast(b: Builder, x: Value, *, dtype: str) -> Any:
    """x in another dtype."""
    kinds = {x.dtype, dtype}
    need(not kinds & {"complex64", "complex128"}, f"cast of {x.dtype} to {dtype}")
    return b.cast(x, dtype=dtype)
