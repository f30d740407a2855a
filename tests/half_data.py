"""Halves, and floats that are hard to round to halves, or to divide; and graphs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from pirol.compiler.ir import DTYPES, Graph, TensorType
from pirol.prim import Builder


def cast(of: str, to: str, count: int) -> Graph:
    """A graph that casts so many elements."""
    b = Builder()
    x = b.input(TensorType((count,), of))
    return b.graph("f", [b.cast(x, dtype=to)])


def every_half(dtype: str) -> Any:
    """All 65,536 of them."""
    return np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype][1])


def near_every_half(dtype: str) -> Any:
    """Each half, the middle between it and the next, and what is beside the middle;
    and floats of random bits."""
    wide = every_half(dtype).astype(np.float32)
    finite = np.sort(wide[np.isfinite(wide)])
    with np.errstate(over="ignore"):
        middle = (finite[:-1].astype(np.float64) + finite[1:]) / 2
        found = [middle.astype(np.float32)]
        found += [np.nextafter(found[0], np.float32(end)) for end in (-np.inf, np.inf)]
    bits = (
        np.random.default_rng(5)
        .integers(0, 1 << 32, 20_000, np.uint32)
        .view(np.float32)
    )
    top = np.float32(DTYPES[dtype][1](finite[-1])) * np.float32([1, 1.001, 1.01, 1.9])
    return np.concatenate([wide, *found, bits, top, -top])


def turned_sum(shape: tuple[int, ...], dtype: str, twice: bool = False) -> Graph:
    """The last two axes change places, and something is added; `twice`: also to what
    another one's have."""
    b = Builder()
    *_, m, n = rest = list(range(len(shape)))
    perm = (*rest[:-2], n, m)
    back = tuple(shape[k] for k in perm)
    x, y = b.input(TensorType(shape, dtype)), b.input(TensorType(back, dtype))
    found = b.add(b.transpose(x, perm=perm), y)
    if twice:
        z = b.input(TensorType(shape, dtype))
        found = b.mul(found, b.transpose(z, perm=perm))
    return b.graph("f", [found])


def drawn(graph: Graph) -> list[Any]:
    rng = np.random.default_rng(1)
    return [
        (rng.normal(size=v.shape) * 8).astype(DTYPES[v.dtype][1]) for v in graph.inputs
    ]


TURNS = {
    "whole tiles": turned_sum((128, 64), "bfloat16"),
    "parts of tiles": turned_sum((68, 132), "float16"),
    "batches": turned_sum((3, 12, 40), "bfloat16"),
    "integers": turned_sum((72, 20), "int16"),
    "bytes": turned_sum((64, 72), "uint8"),
    "two": turned_sum((20, 72), "bfloat16", twice=True),
}


ROWS, WIDTH = 96, 128


def shares(dtype: str) -> Graph:
    """Rows over their largest number."""
    b = Builder()
    x = b.input(TensorType((ROWS, WIDTH), dtype))
    top = b.broadcast(b.reduce_max(x, axes=(1,)), shape=(ROWS, WIDTH), dims=(0,))
    return b.graph("f", [b.div(x, top)])


def counted_shares() -> Graph:
    """The same less how many of the row are half of its largest or more, which is added
    up exactly."""
    b, shape = Builder(), (ROWS, WIDTH)
    x = b.input(TensorType(shape, "float32"))
    share = b.div(x, b.broadcast(b.reduce_max(x, axes=(1,)), shape=shape, dims=(0,)))
    large = b.cast(b.ge(share, 0.5), dtype="float32")
    count = b.reduce_sum(large, axes=(1,))
    return b.graph("f", [b.sub(share, b.broadcast(count, shape=shape, dims=(0,)))])


def hard(by: int) -> list[int]:
    """Numerators of 24 bits, below `by`, whose quotients by it come nearest to the
    middle of two floats."""
    ends = [(1 << 25) * k for k in (1, 2)]
    found = [pow(e, -1, by) * s % by for e in ends for s in (-2, -1, 1, 2)]
    return [a for a in found if a >= 1 << 23]


TINY = (0.0, -0.0, 1e-45, -1e-45, 3e-39, 1e-30, -2e-25, -np.inf, np.nan)
DIVISORS = (1.5, 1e15, 3e38, np.inf, 1e-20)


def rows_over_their_largest() -> Any:
    """In each row its divisor, and numerators; then rows of what a reciprocal does not
    do for, in the divisor or the numerators."""
    rng = np.random.default_rng(3)
    found = np.empty((ROWS, WIDTH), np.float32)
    for row in found:
        by = int(rng.integers(1 << 23, 1 << 24)) | 1
        row[:] = rng.integers(1 << 22, by, WIDTH)
        row[:8] = np.resize([*hard(by), by], 8)
        row[8] = by
        row *= np.float32(2.0) ** rng.integers(-60, 30)
    special = list(itertools.product(DIVISORS, TINY))
    for row, (by, of) in zip(found, special):
        row[:], row[0] = of, by
    found[len(special)] = -np.abs(found[-1])
    found[len(special) + 1] = 0.0
    return found
