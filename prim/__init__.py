"""The primitive set: `PRIMS` by name; importing this package defines them all."""

from pirol.prim import (
    complexes,
    contract,
    elementwise,
    fourier,
    indexing,
    matrices,
    movement,
    random,
    reduce,
    sorting,
    special,
    window,
)
from pirol.prim.builder import Builder, Facts, Unify
from pirol.prim.prim import PRIMS, Prim

__all__ = [
    "PRIMS",
    "Builder",
    "Facts",
    "Prim",
    "Unify",
    "complexes",
    "contract",
    "elementwise",
    "fourier",
    "indexing",
    "matrices",
    "movement",
    "random",
    "reduce",
    "sorting",
    "special",
    "window",
]
