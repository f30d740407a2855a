"""Random numbers that are functions of a key and a place, whoever computes them when.

The bits of a place are the first word of Philox4x32 (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", 2011), whose counter is the place and whose key the key,
after 7 rounds, the fewest that pass BigCrush. So they are the same in whatever kernel,
order, thread or lane, and a gradient computes them again. A key is drawn from Paddle's
generator, once in a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import same_shape
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import TensorType
from pirol.prim.prim import Attrs, Prim, define, require

ROUNDS = 7  # kernels/headers/pirol_random.h has as many
FACTORS = (0xD2511F53, 0xCD9E8D57)
STEPS = (0x9E3779B9, 0xBB67AE85)  # from a round's key to the next one's
WORD = 0xFFFFFFFF


def philox(counter: Sequence[Any], key: Sequence[Any], rounds: int = ROUNDS) -> Any:
    """Four words of four, by a key of two: uint64 arrays of numbers below 2**32."""
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    keys = [np.asarray(word, np.uint64) for word in key]
    for _ in range(rounds):
        one, two = a * np.uint64(FACTORS[0]), c * np.uint64(FACTORS[1])
        a, b = _high(two) ^ b ^ keys[0], _low(two)
        c, d = _high(one) ^ d ^ keys[1], _low(one)
        keys = [_low(k + np.uint64(step)) for k, step in zip(keys, STEPS)]
    return a, b, c, d


def _low(product: Any) -> Any:
    return product & np.uint64(WORD)


def _high(product: Any) -> Any:
    return product >> np.uint64(32)


def _bits(key: Any, place: Any) -> Any:
    """int32 for a key and a place, both int64: lower words first."""
    with np.errstate(over="ignore"):
        words = [np.asarray(v, np.int64).view(np.uint64) for v in (place, key)]
        counter, keys = ((_low(w), _high(w)) for w in words)
        first = philox((*counter, 0, 0), keys)[0]
    return np.asarray(first, np.uint32).view(np.int32)


def _infer_bits(types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    key, place = types
    ok = key.dtype == place.dtype == "int64" and same_shape(key.shape, place.shape)
    require(ok, "random_bits", types, "a key and a place, int64 of one shape")
    return (TensorType(place.shape, "int32"),)


def _infer_key(types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    require(not types, "random_key", types, "no operands")
    require(attrs.get("effect"), "random_key", attrs, "the attribute effect")
    return (TensorType((), "int64"),)


def _key(**_: Any) -> Any:
    raise Unsupported("random_key draws from Paddle's generator")


# (key, place): all 32 bits of an int32 are random.
define(
    Prim(
        "random_bits",
        "elementwise",
        _infer_bits,
        _bits,
        None,
        {"int": "pr_random_bits({0}, {1})"},
        cost=12,
        header="pirol_random.h",
    )
)
# A fresh key, drawn when it is its turn: a step of its own, never repeated.
define(Prim("random_key", "effect", _infer_key, _key))
