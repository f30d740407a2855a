"""Discrete Fourier transforms over axes, which a library runs.

`forward` turns by exp(-2 pi j k m / n), else by its conjugate; `scale` is "none", "n"
(divided by the number of terms) or "sqrt" (by its root). rfft gives, of real numbers,
the first n // 2 + 1 along the last of the axes; irfft is given those, and makes `size`
real numbers along that axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import add, equal, floordiv
from pirol.compiler.ir import COMPLEX, PART, TensorType
from pirol.prim.complexes import WHOLE
from pirol.prim.prim import Attrs, Prim, define, require

Types = Sequence[TensorType]
NORMS = {"none": "backward", "sqrt": "ortho", "n": "forward"}  # NumPy's, forward
SCALES = {norm: scale for scale, norm in NORMS.items()}
OTHER = {"none": "n", "n": "none", "sqrt": "sqrt"}  # by a norm, the other way round


def half(size: Any) -> Any:
    """How many of the transform of real numbers are not conjugates of others."""
    return add(floordiv(size, 2), 1)


def _axes(x: TensorType, attrs: Attrs) -> bool:
    axes = list(attrs["axes"])
    inside = all(0 <= a < x.rank for a in axes)
    scaled = attrs["scale"] in NORMS
    return bool(axes) and len(set(axes)) == len(axes) and inside and scaled


def _with_last(x: TensorType, attrs: Attrs, size: Any, dtype: str) -> TensorType:
    last = attrs["axes"][-1]
    shape = tuple(size if k == last else d for k, d in enumerate(x.shape))
    return TensorType(shape, dtype)


def _infer_fft(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = types[0]
    ok = x.dtype in COMPLEX and _axes(x, attrs)
    require(ok, "fft", (x, attrs["axes"]), "complex numbers, and axes within the rank")
    return (x,)


def _infer_rfft(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = types[0]
    ok = x.dtype in WHOLE and _axes(x, attrs)
    require(ok, "rfft", (x, attrs["axes"]), "f32 or f64, and axes within the rank")
    size = half(x.shape[attrs["axes"][-1]])
    return (_with_last(x, attrs, size, WHOLE[x.dtype]),)


def _infer_irfft(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, size = types[0], attrs["size"]
    ok = x.dtype in COMPLEX and _axes(x, attrs)
    ok = ok and equal(half(size), x.shape[attrs["axes"][-1]]) is True
    require(ok, "irfft", (x, attrs["axes"], size), "complex numbers, size // 2 + 1")
    return (_with_last(x, attrs, size, PART[x.dtype]),)


def normalized(forward: bool, scale: str) -> Any:
    """NumPy's and Paddle's name of a scale, which there depends on the direction."""
    return NORMS[scale if forward else OTHER[scale]]


def scale_of(forward: bool, norm: str) -> str:
    """The scale that `normalized` names so."""
    return SCALES[norm] if forward else OTHER[SCALES[norm]]


def _fft(x: Any, *, axes: Any, forward: bool, scale: str) -> Any:
    run = np.fft.fftn if forward else np.fft.ifftn
    return run(x, axes=axes, norm=normalized(forward, scale))


def _rfft(x: Any, *, axes: Any, forward: bool, scale: str) -> Any:
    found = np.fft.rfftn(x, axes=axes, norm=normalized(True, scale))
    return found if forward else np.conj(found)


def _irfft(x: Any, *, axes: Any, forward: bool, scale: str, size: int) -> Any:
    sizes = [*(x.shape[a] for a in axes[:-1]), size]
    given = np.conj(x) if forward else x
    return np.fft.irfftn(given, sizes, axes, norm=normalized(False, scale))


def _fft_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """Its matrix is symmetric."""
    return (b.fft(cts[0], **op.attrs),)


def _weighted(b: Any, x: Any, axis: int, size: Any, weight: float) -> Any:
    """x, along an axis, times a weight wherever a conjugate was left out."""
    place = b.iota(axis=axis, shape=x.shape, dtype="int64")
    alone = b.or_(b.eq(place, 0), b.eq(b.mul(place, 2), b.dim(size)))
    real = b.const(value=1.0, shape=x.shape, dtype=PART[x.dtype])
    return b.mul(x, b.cast(b.select(alone, real, weight), dtype=x.dtype))


def _back(op: Any) -> dict[str, Any]:
    at = op.attrs
    return {"axes": at["axes"], "forward": not at["forward"], "scale": at["scale"]}


def _rfft_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    last = op.attrs["axes"][-1]
    size = op.operands[0].shape[last]
    ct = _weighted(b, cts[0], last, size, 0.5)
    return (b.irfft(ct, size=size, **_back(op)),)


def _irfft_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    ct = b.rfft(cts[0], **_back(op))
    return (_weighted(b, ct, op.attrs["axes"][-1], op.attrs["size"], 2.0),)


def _infer_transform(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, kind = types[0], attrs["kind"]
    ok = x.rank > 0 and x.dtype in (WHOLE if kind == "r2c" else COMPLEX)
    require(ok, "transform", (x, kind), "numbers of the kind, along at least one dim")
    last = {"axes": (x.rank - 1,)}
    if kind == "c2r":
        return (_with_last(x, last, attrs["size"], PART[x.dtype]),)
    size = half(x.shape[-1]) if kind == "r2c" else x.shape[-1]
    return (_with_last(x, last, size, WHOLE.get(x.dtype, x.dtype)),)


def _transform(x: Any, *, kind: str, forward: bool, size: int = 0) -> Any:
    at: dict[str, Any] = {"axes": (x.ndim - 1,), "forward": forward, "scale": "none"}
    if kind == "c2r":
        return _irfft(x, size=size, **at)
    return (_rfft if kind == "r2c" else _fft)(x, **at)


# Of lines, unscaled, for cuFFT. "r2c" is forward alone; "c2r" is backward alone, and of
# numbers such as real ones have.
define(Prim("transform", "library", _infer_transform, _transform))
define(Prim("fft", "library", _infer_fft, _fft, _fft_vjp))
define(Prim("rfft", "library", _infer_rfft, _rfft, _rfft_vjp))
define(Prim("irfft", "library", _infer_irfft, _irfft, _irfft_vjp))
