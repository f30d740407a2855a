"""Functions beyond libm's: of the gamma function, the inverse of erf, Bessel functions.

Kernels have them from kernels/headers/pirol_special.h; here they are what mpmath says.
All are computed in float64 and rounded to what the operand is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np

from pirol.compiler.dims import same_shape
from pirol.compiler.ir import FLOATS, TensorType
from pirol.prim.elementwise import zeros_like
from pirol.prim.prim import Attrs, Prim, define, require

DIGITS = 40  # that mpmath computes with
FAR = 1e6  # from here on the first terms of a series for large numbers are all digits
ORDERS = 170  # of which the factorial is a float64
HALF_SQRT_PI = 0.8862269254527580
Slope = Callable[[Any, Any, Any], Any]


def _special(
    name: str, count: int, fn: Callable[..., float], vjp: Callable[..., Sequence[Any]]
) -> None:
    """A primitive of `count` operands; `fn` takes and gives Python's numbers."""

    def infer(types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, ...]:
        require(len(types) == count, name, types, f"{count} operand(s)")
        first = types[0]
        same = all(same_shape(t.shape, first.shape) for t in types)
        dtypes = all(t.dtype == first.dtype for t in types)
        require(same and dtypes, name, types, "one shape and one dtype")
        require(first.dtype in FLOATS, name, types, f"a dtype of {', '.join(FLOATS)}")
        return (first,)

    def numpy(*arrays: Any) -> Any:
        with mpmath.workdps(DIGITS), np.errstate(all="ignore"):
            wide = [np.asarray(a).astype(np.float64) for a in arrays]
            found = np.vectorize(fn, otypes=[np.float64])(*wide)
            return found.astype(np.asarray(arrays[0]).dtype)

    def back(b: Any, op: Any, cts: Any) -> Sequence[Any]:
        return vjp(b, cts[0], *op.operands, op.results[0])

    arguments = ", ".join(f"{{{k}}}" for k in range(count))
    scalar = {"float": f"pr_{name}_{{t}}({arguments})"}
    header = "pirol_special.h"
    define(Prim(name, "elementwise", infer, numpy, back, scalar, 60, header))


def _unary(name: str, fn: Callable[[float], float], slope: Slope) -> None:
    """slope(b, x, y): the derivative at x, where the function is y."""

    def vjp(b: Any, ct: Any, x: Any, y: Any) -> Sequence[Any]:
        return (b.mul(ct, slope(b, x, y)),)

    _special(name, 1, fn, vjp)


def _lgamma(x: float) -> float:
    if math.isnan(x):
        return x
    if math.isinf(x) or (x <= 0 and x == math.floor(x)):
        return math.inf
    return float(mpmath.loggamma(mpmath.mpf(x)).real)


def _polygamma(n: float, x: float) -> float:
    """NaN for n that is no order, for digamma's poles but 0, and for n > 0 at inf."""
    if math.isnan(x) or not 0 <= n <= ORDERS or n != math.floor(n):
        return math.nan
    if x <= 0 and (math.isinf(x) or x == math.floor(x)):
        if n == 0:
            return math.nan if x else -math.copysign(math.inf, x)
        return math.inf if n % 2 else -math.inf
    if math.isinf(x):
        return math.nan if n else x
    return float(mpmath.psi(int(n), mpmath.mpf(x)))


def _erfinv(x: float) -> float:
    if not abs(x) < 1:
        return x if math.isnan(x) else math.copysign(math.inf, x)
    return float(mpmath.erfinv(mpmath.mpf(x))) if x else 0.0


def _bessel(n: int, scaled: bool, x: float) -> float:
    """I_n(x), times exp(-|x|) if scaled; not scaled it is NaN at inf."""
    if math.isnan(x):
        return x
    a, sign = abs(x), -1 if n and x < 0 else 1
    if math.isinf(x):
        return 0.0 * sign if scaled else math.nan
    size = mpmath.mpf(a)
    if a < FAR:
        found = mpmath.besseli(n, size) * (mpmath.exp(-size) if scaled else 1)
        return sign * float(found)
    if not scaled:
        return sign * math.inf
    return sign * float((1 + (1 - 4 * n) / (8 * size)) / mpmath.sqrt(2 * mpmath.pi * a))


def _over(b: Any, y: Any, x: Any) -> Any:
    """y / x of a function y that is 0 where x is."""
    return b.div(y, b.select(b.eq(x, 0.0), 1.0, x))


def _polygamma_vjp(b: Any, ct: Any, n: Any, x: Any, y: Any) -> Sequence[Any]:
    """The next order's; n has no gradient."""
    return zeros_like(b, ct), b.mul(ct, b.polygamma(b.add(n, 1.0), x))


def _erfinv_slope(b: Any, x: Any, y: Any) -> Any:
    return b.mul(HALF_SQRT_PI, b.exp(b.mul(y, y)))


def _i0e_slope(b: Any, x: Any, y: Any) -> Any:
    return b.sub(b.i1e(x), b.mul(b.copysign(1.0, x), y))


def _i1_slope(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.eq(x, 0.0), 0.5, b.sub(b.i0(x), _over(b, y, x)))


def _i1e_slope(b: Any, x: Any, y: Any) -> Any:
    rest = b.add(b.mul(b.copysign(1.0, x), y), _over(b, y, x))
    return b.select(b.eq(x, 0.0), 0.5, b.sub(b.i0e(x), rest))


_special("polygamma", 2, _polygamma, _polygamma_vjp)
_unary("lgamma", _lgamma, lambda b, x, y: b.polygamma(0.0, x))
_unary("erfinv", _erfinv, _erfinv_slope)
_unary("i0", lambda x: _bessel(0, False, x), lambda b, x, y: b.i1(x))
_unary("i0e", lambda x: _bessel(0, True, x), _i0e_slope)
_unary("i1", lambda x: _bessel(1, False, x), _i1_slope)
_unary("i1e", lambda x: _bessel(1, True, x), _i1e_slope)
