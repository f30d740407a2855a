"""Paddle's Fourier transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import axis_in, decomposes, need
from pirol.prim.fourier import SCALES, scale_of


def _attrs(x: Value, axes: Sequence[int], norm: str, forward: bool) -> dict[str, Any]:
    need(norm in SCALES, f"a transform normalised by {norm}")
    at = tuple(axis_in(int(a), x.type.rank, "fft") for a in axes)
    return {"axes": at, "forward": forward, "scale": scale_of(forward, norm)}


@decomposes("pd_op.fft_c2c", composite=False)
def fft_c2c(
    b: Builder, x: Value, *, axes: Sequence[int], normalization: str, forward: bool
) -> Any:
    """Of complex numbers."""
    return b.fft(x, **_attrs(x, axes, normalization, forward))


@decomposes("pd_op.fft_r2c", composite=False)
def fft_r2c(
    b: Builder, x: Value, *, axes: Sequence[int], normalization: str, forward: bool,
    onesided: bool,
) -> Any:  # fmt: skip
    """Of real numbers; onesided: without what conjugates tell."""
    attrs = _attrs(x, axes, normalization, forward)
    if onesided:
        return b.rfft(x, **attrs)
    none = b.const(value=0.0, shape=x.shape, dtype=x.dtype)
    return b.fft(b.complex(x, none), **attrs)


@decomposes("pd_op.fft_c2r", composite=False)
def fft_c2r(
    b: Builder, x: Value, *, axes: Sequence[int], normalization: str, forward: bool,
    last_dim_size: int,
) -> Any:  # fmt: skip
    """Of complex numbers whose other half is their conjugates, so that it is real."""
    attrs = _attrs(x, axes, normalization, forward)
    given = x.shape[attrs["axes"][-1]]
    size = last_dim_size or dims.mul(dims.sub(given, 1), 2)
    return b.irfft(x, size=size, **attrs)
