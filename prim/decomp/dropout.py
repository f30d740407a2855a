"""Dropout: in inference, and in training with a mask that is counted, not stored.

`pirol.dropout` is Paddle's op where its mask is to be a function of a key and a place
(passes/counted.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pirol.compiler import dims
from pirol.compiler.dims import Shape
from pirol.compiler.ir import Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import decomposes, ints, need, number

UP = "upscale_in_train"
ALL = 2**32  # numbers that the bits may be
STEP = 0x9E3779B97F4A7C15 - 2**64  # from key to key, those of all turns apart


@decomposes("pd_op.dropout")
def dropout(
    b: Builder, x: Value, seed: Any, p: Value, *, is_test: bool, mode: str
) -> Any:
    """In inference: x, or x * (1 - p) for "downgrade_in_infer"; no mask."""
    need(is_test, "dropout draws random numbers in training")
    if mode == UP:
        return x, None
    return b.mul(x, 1.0 - number(b, p, "p")), None


@decomposes("pirol.dropout", composite=False)
def counted(
    b: Builder,
    x: Value,
    seed_tensor: Value | None,
    p: Value,
    key: Value | None,
    *,
    mode: str,
    seed: int,
) -> tuple[Value, Value]:
    """In training, and the mask: an element is dropped where the bits of the key and of
    its place, in row-major order, are among the last p * 2**32 numbers."""
    if key is None:
        key = b.const(value=seed, shape=(), dtype="int64")
    if seed_tensor is not None:  # where it is 0, Paddle draws
        told = b.cast(b.reshape(seed_tensor, shape=()), dtype="int64")
        key = b.select(b.eq(told, 0), key, told)
    keep = _below(b, _bits(b, key, x.shape), rate(b, p))
    return kept(b, x, keep, rate(b, p), mode == UP), b.cast(keep, dtype="uint8")


@decomposes("pirol.uniform", composite=False)
def uniform(
    b: Builder, shape: Any, low: Value, high: Value, key: Value, *, dtype: str
) -> Any:
    """Numbers from 0 on, below 1: multiples of 2**-24, all as likely."""
    bounds = number(b, low, "min"), number(b, high, "max")
    need(bounds == (0, 1) and dtype == "float32", "uniform numbers of 0 .. 1")
    bits = _bits(b, key, tuple(ints(b, shape, "the shape")))
    high_bits = b.cast(b.shift_right(bits, 8), dtype="float32")
    return b.mul(b.add(high_bits, 2.0**23), 2.0**-24)


def _bits(b: Builder, key: Value, shape: Shape) -> Any:
    """Random bits for each place, in row-major order."""
    places = b.iota(axis=0, shape=(dims.product(shape),), dtype="int64")
    return b.random_bits(key, b.reshape(places, shape=shape))


def rate(b: Builder, p: Value) -> float | Value:
    """p as a number; where only the run tells it, as a scalar of float64."""
    known = b.known(p)
    if known is not None:
        return float(known[0])
    return b.cast(b.reshape(p, shape=()), dtype="float64")  # type: ignore[no-any-return]


def kept(b: Builder, x: Value, keep: Value, p: float | Value, up: bool) -> Value:
    """x where it is kept, divided (up) as Paddle's kernel divides it, else 0."""
    if up and isinstance(p, Value):
        rest = b.select(b.eq(p, 1.0), 1.0, b.sub(1.0, p))
        x = b.div(x, b.cast(rest, dtype=x.dtype))
    elif up and not isinstance(p, Value) and p != 1.0:
        x = b.div(x, float(np.float32(1) - np.float32(p)))
    zero = b.const(value=0.0, shape=x.shape, dtype=x.dtype)
    result: Value = b.select(keep, x, zero)
    return result


def _below(b: Builder, bits: Value, p: float | Value) -> Any:
    """Whether each element is kept: bits, from -2**31 on, below an end. p = 0 and p = 1
    are exact."""
    if isinstance(p, Value):
        end = b.cast(b.round(b.mul(b.sub(0.5, p), float(ALL))), dtype="int64")
        return b.lt(b.cast(bits, dtype="int64"), end)
    end = ALL // 2 - round(p * ALL)
    if abs(end) < ALL // 2:
        return b.lt(bits, end)
    return b.const(value=end > 0, shape=bits.shape, dtype="bool")


@decomposes("pirol.random_key", composite=False)
def random_key(b: Builder) -> Any:
    """A fresh key."""
    return b.random_key(effect=True)


@decomposes("pirol.next_key", composite=False)
def next_key(b: Builder, key: Value) -> Any:
    """The key of a loop's next turn."""
    return b.add(key, STEP)
