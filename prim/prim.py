"""Prim: one record per primitive; PRIMS is the whole set, by name.

A record holds all that is known of a primitive: kind, shape and dtype rule, NumPy
meaning, vector-Jacobian product, scalar expression (C and CUDA share it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pirol.compiler.errors import ShapeError, message
from pirol.compiler.ir import TensorType

Attrs = Mapping[str, Any]
Infer = Callable[[Sequence[TensorType], Attrs], tuple[TensorType, ...]]


@dataclass(frozen=True)
class Prim:
    """`scalar` maps a dtype class ("float", "int", "bool", "any") to an expression.

    In it {0} {1} are operands, {c} the C type, {u} the unsigned type that integers wrap
    in (signed overflow is undefined), {t} its short name, {f} the libm suffix.
    Complex numbers have none: they are split into their parts before there are kernels.
    `cost` is its weight in the cost model: 1 an add, 8 and up a library function;
    `header` the file of kernels/headers that its scalar expression needs, if any.
    """

    name: str
    kind: str
    infer: Infer
    numpy: Callable[..., Any]
    vjp: Callable[..., Sequence[Any]] | None = None
    scalar: Mapping[str, str] | None = None
    cost: int = 1
    header: str = ""

    @property
    def costly(self) -> bool:
        """Whether computing it again is worth avoiding: a library function."""
        return self.cost >= 8


PRIMS: dict[str, Prim] = {}

STEPS = ("effect", "library", "sort")  # kinds that are steps of their own
ELEMENTWISE = ("elementwise", "compare", "select", "cast", "complex")
WIDE = "float32"  # what halves are computed in
PAIRED = "bfloat16"  # the half that products take as it is, in pairs of terms
# Kinds that only move elements.
UNCHANGED = ("movement", "put", "select", "stop", *STEPS)


def define(prim: Prim) -> Prim:
    """Add a primitive to the set; a second one of the same name is an error."""
    if prim.name in PRIMS:
        raise ValueError(f"primitive {prim.name} is defined twice")
    PRIMS[prim.name] = prim
    return prim


def widened(name: str) -> bool:
    """Whether a primitive's halves are computed in float32 and rounded."""
    return name in PRIMS and PRIMS[name].kind not in UNCHANGED


def require(ok: bool | None, op: str, got: object, expected: str) -> None:
    """Raise ShapeError unless `ok` is True (an unknown is not enough)."""
    if ok is not True:
        raise ShapeError(message(op, got=_listed(got), expected=expected))


def _listed(got: object) -> str:
    return ", ".join(map(str, got)) if isinstance(got, (tuple, list)) else str(got)
