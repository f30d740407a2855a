"""Inverses of square matrices of any size, which a library runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import equal
from pirol.compiler.ir import COMPLEX, TensorType
from pirol.prim.complexes import WHOLE
from pirol.prim.prim import Attrs, Prim, define, require


def _infer_inverse(types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
    x = types[0]
    square = x.rank > 1 and equal(*x.shape[-2:]) is True
    ok = square and x.dtype in (*WHOLE, *COMPLEX)
    require(ok, "inverse", (x,), "square matrices of f32, f64 or complex numbers")
    return (x,)


def _inverse_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """-out' ct out', where ' is transposed."""
    out = turned(b, op.result)
    return (b.neg(product(b, product(b, out, cts[0]), out)),)


def turned(b: Any, x: Any) -> Any:
    """Matrices, transposed."""
    last = x.type.rank - 1
    return b.transpose(x, perm=(*range(last - 1), last, last - 1))


def product(b: Any, x: Any, y: Any) -> Any:
    """Products of matrices of the same leading dims."""
    last = x.type.rank - 1
    batch = tuple(range(last - 1))
    sums = {"x_sum": (last,), "y_sum": (last - 1,)}
    return b.dot_general(x, y, x_batch=batch, y_batch=batch, **sums)


define(Prim("inverse", "library", _infer_inverse, np.linalg.inv, _inverse_vjp))
