"""Paddle's ops that make complex numbers, and what they are made of."""

from __future__ import annotations

import math
from typing import Any

from pirol.compiler.ir import COMPLEX, FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import cut, dropped
from pirol.prim.decomp.registry import decomposes, need


@decomposes("pd_op.real")
def real(b: Builder, x: Value) -> Any:
    """The real part; x itself where it has no other."""
    return b.real(x) if x.dtype in COMPLEX else x


@decomposes("pd_op.imag")
def imag(b: Builder, x: Value) -> Any:
    """The imaginary part."""
    if x.dtype in COMPLEX:
        return b.imag(x)
    return b.const(value=0, shape=x.shape, dtype=x.dtype)


@decomposes("pd_op.conj")
def conj(b: Builder, x: Value) -> Any:
    """The complex conjugate; x itself where it has no imaginary part."""
    return b.conj(x) if x.dtype in COMPLEX else x


@decomposes("pd_op.complex", operands="real imag")
def complex_(b: Builder, re: Value, im: Value) -> Any:
    """re + j im"""
    return b.complex(re, im)


@decomposes("pd_op.angle")
def angle(b: Builder, x: Value) -> Any:
    """From the positive real numbers on, in radians; 0 of -0.0, NaN of NaN."""
    if x.dtype in COMPLEX:
        return b.atan2(b.imag(x), b.real(x))
    need(x.dtype in FLOATS, f"angle of {x.dtype}")
    zero = b.const(value=0.0, shape=x.shape, dtype=x.dtype)
    turned = b.select(b.lt(x, 0.0), math.pi, zero)
    return b.select(b.eq(x, x), turned, x)


@decomposes("pd_op.as_complex")
def as_complex(b: Builder, x: Value) -> Any:
    """Pairs along the last dim as numbers."""
    last = x.type.rank - 1
    parts = (dropped(b, cut(b, x, last, k, 1), (last,)) for k in (0, 1))
    return b.complex(*parts)


@decomposes("pd_op.as_real")
def as_real(b: Builder, x: Value) -> Any:
    """Numbers as pairs along a new last dim."""
    parts = (b.real(x), b.imag(x))
    wide = [b.reshape(part, shape=(*x.shape, 1)) for part in parts]
    return b.concat(*wide, axis=x.type.rank)
