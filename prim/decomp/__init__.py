"""Paddle's composite ops as primitives; importing this package registers them all."""

from pirol.prim.decomp import (
    activations,
    bounds,
    creation,
    indexing,
    losses,
    nn,
    norms,
    padding,
    pointwise,
    pooling,
    putting,
    rarer,
    reductions,
    resize,
    shape,
    slicing,
)
from pirol.prim.decomp.registry import (
    DECOMPOSITIONS,
    Decomposition,
    decomposes,
    widened,
)

__all__ = [
    "DECOMPOSITIONS",
    "Decomposition",
    "activations",
    "bounds",
    "creation",
    "decomposes",
    "indexing",
    "losses",
    "nn",
    "norms",
    "padding",
    "pointwise",
    "pooling",
    "putting",
    "rarer",
    "reductions",
    "resize",
    "shape",
    "slicing",
    "widened",
]
