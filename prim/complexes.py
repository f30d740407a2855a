"""Complex numbers: their parts, and from parts a number.

Their gradients are dL/dx + j dL/dy for x + jy, as in Paddle and PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import same_shape
from pirol.compiler.ir import COMPLEX, PART, TensorType
from pirol.prim.prim import Attrs, Prim, define, require

Types = Sequence[TensorType]
WHOLE = {part: whole for whole, part in PART.items()}


def _infer_part(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    require(types[0].dtype in COMPLEX, "real or imag", types, "complex numbers")
    return (TensorType(types[0].shape, PART[types[0].dtype]),)


def _infer_complex(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    real, imag = types
    ok = real.dtype == imag.dtype and same_shape(real.shape, imag.shape)
    require(ok and real.dtype in WHOLE, "complex", types, "two alike, f32 or f64")
    return (TensorType(real.shape, WHOLE[real.dtype]),)


def _infer_conj(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    require(types[0].dtype in COMPLEX, "conj", types, "complex numbers")
    return (types[0],)


def _complex(real: Any, imag: Any) -> Any:
    """real + 1j * imag, but that infinities and NaNs stay in their part."""
    found = np.empty(np.shape(real), WHOLE[str(np.asarray(real).dtype)])
    found.real, found.imag = real, imag
    return found


def _complex_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    return b.real(cts[0]), b.imag(cts[0])


def _real_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    return (b.complex(cts[0], b.const(value=0.0, shape=(), dtype=cts[0].dtype)),)


def _imag_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    return (b.complex(b.const(value=0.0, shape=(), dtype=cts[0].dtype), cts[0]),)


def _conj_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    return (b.conj(cts[0]),)


KIND = "complex"
define(Prim("real", KIND, _infer_part, lambda x: np.real(x).copy(), _real_vjp))
define(Prim("imag", KIND, _infer_part, lambda x: np.imag(x).copy(), _imag_vjp))
define(Prim("complex", KIND, _infer_complex, _complex, _complex_vjp))
define(Prim("conj", KIND, _infer_conj, np.conj, _conj_vjp))
