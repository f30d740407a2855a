"""Analytic functions of complex numbers, by their real and imaginary parts.

Branch cuts and signs of zeros are those of C99 (Annex G); the inverse functions are
Kahan's ("Branch cuts for complex elementary functions", 1987).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from pirol.compiler.ir import Value
from pirol.prim import Builder

Parts: TypeAlias = "tuple[Value, Value | None]"  # None: 0 everywhere


def whole(b: Builder, x: Parts) -> tuple[Value, Value]:
    """Both parts, zeros for one that is not there."""
    real, imag = x
    if imag is None:
        imag = b.const(value=0.0, shape=real.shape, dtype=real.dtype)
    return real, imag


def divided(b: Builder, x: Parts, y: Parts) -> Parts:
    """x / y, divided through by y's larger part, so that nothing overflows (Smith)."""
    (c, d), imag = y, x[1]
    if d is None:
        return b.div(x[0], c), None if imag is None else b.div(imag, c)
    turn = b.lt(b.abs(c), b.abs(d))
    large, less = b.select(turn, d, c), b.select(turn, b.neg(c), d)
    zero = b.eq(large, 0.0)
    ratio = b.select(zero, 0.0, b.div(less, large))
    by = b.select(zero, b.abs(large), b.add(large, b.mul(less, ratio)))
    re, im = whole(b, x)
    # Where both are turned by -j: im - re j over d - cj.
    first, second = b.select(turn, im, re), b.select(turn, b.neg(re), im)
    real = b.add(first, b.mul(second, ratio))
    rest = b.sub(second, b.mul(first, ratio))
    return b.div(real, by), b.div(rest, by)


def power(b: Builder, x: Parts, y: Parts) -> Parts:
    """exp(y log x); of 0: 1 for an exponent of 0, else 0 if its real part is over 0."""
    (re, im), (c, d) = whole(b, x), y
    size, angle = b.hypot(re, im), b.atan2(im, re)
    zero = b.eq(size, 0.0)
    radius, turn = b.pow(size, c), b.mul(angle, c)
    if d is not None:
        radius = b.mul(radius, b.exp(b.neg(b.mul(d, angle))))
        turn = b.add(turn, b.mul(d, b.log_hypot(re, im)))
        unit = b.and_(b.eq(c, 0.0), b.eq(d, 0.0))
        none = b.const(value=0.0, shape=c.shape, dtype=c.dtype)
        at_zero = b.select(b.gt(c, 0.0), none, math.nan)
        at_zero = b.select(unit, 1.0, at_zero)
        turn, radius = b.select(zero, 0.0, turn), b.select(zero, at_zero, radius)
    return _polar(b, radius, turn)


def _polar(b: Builder, radius: Value, angle: Value) -> Parts:
    return b.mul(radius, b.cos(angle)), _scaled(b, radius, b.sin(angle))


def _scaled(b: Builder, size: Value, factor: Value) -> Value:
    """size * factor, but 0 for a factor of 0 even where the size is infinite."""
    plain = b.mul(size, factor)
    zero = b.mul(b.copysign(1.0, size), factor)
    found: Value = b.select(b.eq(factor, 0.0), zero, plain)
    return found


def _entire(name: str) -> Callable[..., Any]:
    """A function that is real where its argument is."""

    def register(run: Callable[[Builder, Value, Value], Parts]) -> Any:
        def of(b: Builder, x: Parts) -> Parts:
            re, im = x
            if im is not None:
                return run(b, re, im)
            value: Value = getattr(b, name)(re)
            return value, None

        ANALYTIC[name] = of
        return run

    return register


def _analytic(name: str) -> Callable[..., Any]:
    """A function that may leave the real line."""

    def register(run: Callable[[Builder, Value, Value], Parts]) -> Any:
        ANALYTIC[name] = lambda b, x: run(b, *whole(b, x))
        return run

    return register


ANALYTIC: dict[str, Callable[..., Parts]] = {}


@_entire("exp")
def exp(b: Builder, re: Value, im: Value) -> Parts:
    """e^re (cos im + j sin im); 0 for a real part of -inf, whatever the angle."""
    none = b.and_(b.eq(re, -math.inf), b.not_(_finite(b, im)))
    angle = b.select(none, 0.0, im)
    return _polar(b, b.exp(re), angle)


def _finite(b: Builder, x: Value) -> Value:
    found: Value = b.lt(b.abs(x), math.inf)
    return found


@_entire("expm1")
def expm1(b: Builder, re: Value, im: Value) -> Parts:
    """expm1(re) cos im + (cos im - 1), which is -2 sin(im / 2) ** 2."""
    half = b.sin(b.mul(im, 0.5))
    less = b.mul(b.mul(half, half), 2.0)
    real = b.sub(b.mul(b.expm1(re), b.cos(im)), less)
    return real, _scaled(b, b.exp(re), b.sin(im))


@_entire("sinh")
def sinh(b: Builder, re: Value, im: Value) -> Parts:
    """sinh re cos im + j cosh re sin im"""
    return _scaled(b, b.cos(im), b.sinh(re)), _scaled(b, b.cosh(re), b.sin(im))


@_entire("cosh")
def cosh(b: Builder, re: Value, im: Value) -> Parts:
    """cosh re cos im + j sinh re sin im"""
    return b.mul(b.cosh(re), b.cos(im)), _scaled(b, b.sinh(re), b.sin(im))


@_entire("tanh")
def tanh(b: Builder, re: Value, im: Value) -> Parts:
    """By tanh re and 1 - (tanh re) ** 2, without the cancellation of the latter."""
    t, s, c = b.tanh(re), b.sin(im), b.cos(im)
    e = b.exp(b.mul(b.abs(re), -2.0))
    rest = b.add(e, 1.0)
    slope = b.div(b.mul(e, 4.0), b.mul(rest, rest))
    by = b.add(b.mul(t, t), b.mul(slope, b.mul(c, c)))
    far = b.eq(b.abs(t), 1.0)  # also where the angle has none
    real = b.select(far, t, b.div(t, by))
    imag = b.div(b.mul(slope, b.mul(s, c)), by)
    lost = b.and_(b.eq(b.abs(re), math.inf), b.not_(_finite(b, im)))
    return real, b.select(lost, 0.0, imag)


@_entire("sin")
def sin(b: Builder, re: Value, im: Value) -> Parts:
    """-j sinh(jz)"""
    return _turned(b, sinh, re, im)


@_entire("tan")
def tan(b: Builder, re: Value, im: Value) -> Parts:
    """-j tanh(jz)"""
    return _turned(b, tanh, re, im)


@_entire("cos")
def cos(b: Builder, re: Value, im: Value) -> Parts:
    """cosh(jz)"""
    found: Parts = cosh(b, b.neg(im), re)
    return found


def _turned(b: Builder, function: Any, re: Value, im: Value) -> Parts:
    """-j f(jz)"""
    real, imag = function(b, b.neg(im), re)
    found: Parts = (imag, b.neg(real))
    return found


@_entire("sigmoid")
def sigmoid(b: Builder, re: Value, im: Value) -> Parts:
    """1 / (1 + q), or q / (1 + q), with a q = exp(-+z) that is within 1."""
    right = b.ge(re, 0.0)
    e = b.exp(b.neg(b.abs(re)))
    real = b.mul(e, b.cos(im))
    imag = b.mul(e, b.sin(b.select(right, b.neg(im), im)))
    above = b.select(right, 1.0, real), b.select(right, 0.0, imag)
    return divided(b, above, (b.add(real, 1.0), imag))


@_analytic("log")
def log(b: Builder, re: Value, im: Value) -> Parts:
    """log |z| + j arg z"""
    return b.log_hypot(re, im), b.atan2(im, re)


def _log_of(name: str, base: float) -> None:
    @_analytic(name)
    def run(b: Builder, re: Value, im: Value) -> Parts:
        real, angle = log(b, re, im)
        return b.mul(real, 1 / math.log(base)), b.mul(angle, 1 / math.log(base))


_log_of("log2", 2.0)
_log_of("log10", 10.0)


@_analytic("log1p")
def log1p(b: Builder, re: Value, im: Value) -> Parts:
    """log(1 + z); near 0 by what |1 + z| ** 2 is beyond 1."""
    near = b.and_(b.lt(b.abs(re), 0.5), b.lt(b.abs(im), 0.5))
    beyond = b.add(b.mul(re, b.add(re, 2.0)), b.mul(im, im))
    more = b.add(re, 1.0)
    far = b.log_hypot(more, im)
    return b.select(near, b.mul(b.log1p(beyond), 0.5), far), b.atan2(im, more)


@_analytic("sqrt")
def sqrt(b: Builder, re: Value, im: Value) -> Parts:
    """The larger part as sqrt((|re| + |z|) / 2), the other as im / 2 of it."""
    left, size = b.copysign(1.0, re), b.abs(re)
    # Halves under the root: their sum does not overflow.
    half = b.add(b.mul(size, 0.5), b.mul(b.hypot(re, im), 0.5))
    large = b.sqrt(half)
    less = b.div(b.mul(im, 0.5), large)
    less = b.select(b.eq(large, 0.0), im, less)
    right = b.gt(left, 0.0)
    real = b.select(right, large, b.abs(less))
    imag = b.select(right, less, b.copysign(large, im))
    endless = b.eq(b.abs(im), math.inf)
    return b.select(endless, math.inf, real), b.select(endless, im, imag)


@_analytic("rsqrt")
def rsqrt(b: Builder, re: Value, im: Value) -> Parts:
    """1 / sqrt z"""
    one = b.const(value=1.0, shape=re.shape, dtype=re.dtype)
    return divided(b, (one, None), sqrt(b, re, im))


def _bounded(b: Builder, *parts: Value) -> list[Value]:
    """Large numbers in place of infinite ones, of which angles can be told."""
    most = float(np.finfo(parts[0].dtype).max) / 4
    endless = [b.eq(b.abs(x), math.inf) for x in parts]
    return [b.select(e, b.copysign(most, x), x) for e, x in zip(endless, parts)]


def _asinh(b: Builder, x: Value, *parts: Value) -> Value:
    """asinh x, infinite where a part of the argument is."""
    endless = b.or_(*(b.eq(b.abs(v), math.inf) for v in parts))
    found: Value = b.asinh(b.select(endless, b.copysign(math.inf, x), x))
    return found


def _roots(b: Builder, re: Value, im: Value) -> tuple[Parts, Parts]:
    """sqrt(1 - z), sqrt(1 + z)"""
    minus, plus = (b.sub(1.0, re), b.neg(im)), (b.add(re, 1.0), im)
    return sqrt(b, *minus), sqrt(b, *plus)


def _dot(b: Builder, x: Any, y: Any) -> Value:
    """The real part of conj(x) * y."""
    found: Value = b.add(b.mul(x[0], y[0]), b.mul(x[1], y[1]))
    return found


def _cross(b: Builder, x: Any, y: Any) -> Value:
    """The imaginary part of conj(x) * y."""
    found: Value = b.sub(b.mul(x[0], y[1]), b.mul(x[1], y[0]))
    return found


@_analytic("asin")
def asin(b: Builder, re: Value, im: Value) -> Parts:
    """Kahan's, by sqrt(1 - z) and sqrt(1 + z)."""
    x, y = _bounded(b, re, im)
    minus, plus = _roots(b, x, y)
    real = b.atan2(x, b.sub(b.mul(minus[0], plus[0]), b.mul(minus[1], plus[1])))
    return real, _asinh(b, _cross(b, minus, plus), re, im)


@_analytic("acos")
def acos(b: Builder, re: Value, im: Value) -> Parts:
    """Kahan's, by sqrt(1 - z) and sqrt(1 + z)."""
    minus, plus = _roots(b, *_bounded(b, re, im))
    real = b.mul(b.atan2(minus[0], plus[0]), 2.0)
    return real, _asinh(b, _cross(b, plus, minus), re, im)


@_analytic("acosh")
def acosh(b: Builder, re: Value, im: Value) -> Parts:
    """Kahan's, by sqrt(z - 1) and sqrt(z + 1)."""
    x, y = _bounded(b, re, im)
    minus, plus = sqrt(b, b.sub(x, 1.0), y), sqrt(b, b.add(x, 1.0), y)
    real = _asinh(b, _dot(b, minus, plus), re, im)
    return real, b.mul(b.atan2(minus[1], plus[0]), 2.0)


@_analytic("asinh")
def asinh(b: Builder, re: Value, im: Value) -> Parts:
    """-j asin(jz)"""
    return _turned(b, asin, re, im)


@_analytic("atanh")
def atanh(b: Builder, re: Value, im: Value) -> Parts:
    """Kahan's: of |re|, with its sign again."""
    x, y = _bounded(b, b.abs(re), im)
    less, square = b.sub(1.0, x), b.mul(y, y)
    by = b.add(b.mul(less, less), square)
    real = b.mul(b.log1p(b.div(b.mul(x, 4.0), by)), 0.25)
    over = b.sub(b.mul(less, b.add(x, 1.0)), square)
    angle = b.mul(b.atan2(b.mul(y, 2.0), over), 0.5)
    return b.copysign(real, re), angle


@_analytic("atan")
def atan(b: Builder, re: Value, im: Value) -> Parts:
    """-j atanh(jz)"""
    return _turned(b, atanh, re, im)
