"""Halves, and floats that are hard to round to halves."""

from __future__ import annotations

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
