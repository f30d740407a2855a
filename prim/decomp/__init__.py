"""Paddle's composite ops as primitives; importing this package registers them all."""

from pirol.prim.decomp import nn, pointwise, shape
from pirol.prim.decomp.registry import (
    DECOMPOSITIONS,
    Decomposition,
    decomposes,
    widened,
)

__all__ = [
    "DECOMPOSITIONS",
    "Decomposition",
    "decomposes",
    "nn",
    "pointwise",
    "shape",
    "widened",
]
