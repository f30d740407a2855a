"""Random numbers that are functions of a key and a place, whoever computes them when.

The bits of a place are the first word of Threefry2x32 (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", 2011), whose counter is the place and whose key the key,
after 13 rounds, the fewest that pass BigCrush. So they are the same in any kernel,
order, thread or lane, and a gradient computes them again. It only adds, turns and xors:
for single places, a CPU's vectors take half as long as for Philox4x32 of 7 rounds. A
key is drawn from Paddle's generator, once in a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import same_shape
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import TensorType
from pirol.prim.prim import Attrs, Prim, define, require

ROUNDS = 13  # kernels/headers/pirol_random.h has as many
TURNS = (13, 15, 26, 6, 17, 29, 16, 24)  # bits to the left, in turn
EXTRA = 0x1BD11BDA
Words = tuple[Any, Any]


def threefry(counter: Words, key: Words, rounds: int = ROUNDS) -> Words:
    """Two words of two, by a key of two: uint32 arrays."""
    (a, b), keys = map(_word, counter), [*map(_word, key)]
    keys.append(keys[0] ^ keys[1] ^ _word(EXTRA))
    with np.errstate(over="ignore"):
        a, b = a + keys[0], b + keys[1]
        for k in range(rounds):
            by = np.uint32(TURNS[k % 8])
            a = a + b
            b = (b << by | b >> (np.uint32(32) - by)) ^ a
            if k % 4 == 3:
                n = k // 4 + 1
                a, b = a + keys[n % 3], b + keys[(n + 1) % 3] + _word(n)
    return a, b


def _word(value: Any) -> Any:
    return np.asarray(value).astype(np.uint32)


def _halves(value: Any) -> Words:
    """The words of int64, the lower one first."""
    whole = np.asarray(value, np.int64).view(np.uint64)
    return _word(whole & np.uint64(0xFFFFFFFF)), _word(whole >> np.uint64(32))


def _bits(key: Any, place: Any) -> Any:
    return np.asarray(threefry(_halves(place), _halves(key))[0]).view(np.int32)


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
        cost=10,
        header="pirol_random.h",
    )
)
# A fresh key, drawn when it is its turn: a step of its own, never repeated.
define(Prim("random_key", "effect", _infer_key, _key))
