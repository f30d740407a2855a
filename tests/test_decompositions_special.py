"""Functions of the gamma function, the inverse of erf and Bessel functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import paddle
import pytest
from decomposition_runs import SHAPES, data
from test_decompositions_pointwise import agree, open_specs

import pirol
from pirol.kernels import nvrtc
from pirol.kernels.cuda_build import together
from pirol.kernels.render import CUDA
from pirol.prim import PRIMS


def lgamma(x: Any) -> Any:
    return paddle.lgamma(x)


def gammaln(x: Any) -> Any:
    return paddle.gammaln(x)


def digamma(x: Any) -> Any:
    return paddle.digamma(x)


def trigamma(x: Any) -> Any:
    return paddle.polygamma(x, 1)


def pentagamma(x: Any) -> Any:
    return paddle.polygamma(x, 3)


def erfinv(x: Any) -> Any:
    return paddle.erfinv(x)


def i0(x: Any) -> Any:
    return paddle.i0(x)


def i0e(x: Any) -> Any:
    return paddle.i0e(x)


def i1(x: Any) -> Any:
    return paddle.i1(x)


def i1e(x: Any) -> Any:
    return paddle.i1e(x)


LISTED = "lgamma gammaln digamma polygamma erfinv i0 i0e i1 i1e"
OPS = frozenset(LISTED.split())
FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    lgamma: lambda x: mpmath.log(abs(mpmath.gamma(x))),
    gammaln: lambda x: mpmath.loggamma(x).real,
    digamma: lambda x: mpmath.psi(0, x),
    trigamma: lambda x: mpmath.psi(1, x),
    pentagamma: lambda x: mpmath.psi(3, x),
    erfinv: mpmath.erfinv,
    i0: lambda x: mpmath.besseli(0, x),
    i0e: lambda x: mpmath.besseli(0, x) * mpmath.exp(-abs(x)),
    i1: lambda x: mpmath.besseli(1, x),
    i1e: lambda x: mpmath.besseli(1, x) * mpmath.exp(-abs(x)),
}
NAMES = [f.__name__ for f in FUNCTIONS]
functions = pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)


def points(function: Callable[..., Any]) -> Any:
    """Small and large numbers of both signs, if not 1 and above for erfinv."""
    rng = np.random.default_rng(1)
    if function is erfinv:
        found = [10.0 ** rng.uniform(-9, 0, 40), 1 - 10.0 ** rng.uniform(-7, 0, 40)]
    else:
        found = [10.0 ** rng.uniform(-4, 1.8, 40), rng.uniform(0, 6, 40)]
    both = np.concatenate(found)
    return np.concatenate([both, -both])


def wanted(function: Callable[..., Any], x: Any, order: int) -> Any:
    """The derivative of an order."""
    with mpmath.workdps(60):
        at = [mpmath.mpf(float(v)) for v in x]
        f = FUNCTIONS[function]
        values = [mpmath.diff(f, v, order) if order else f(v) for v in at]
    return np.array([float(v) for v in values])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@functions
def test_digits_of_values(function: Callable[..., Any], dtype: str) -> None:
    x = points(function).astype(dtype)
    got = pirol.to_static(function, strict=True)(paddle.to_tensor(x)).numpy()
    exact = wanted(function, x, 0)
    with np.errstate(over="ignore"):
        rounded = exact.astype(dtype)
    scale = np.maximum(np.abs(exact), 1.0 if function is digamma else 0)
    off = np.abs(got - exact) / scale
    assert got.dtype == dtype
    assert (off <= 8 * np.finfo(dtype).eps)[np.isfinite(rounded)].all()
    np.testing.assert_array_equal(np.isinf(got), np.isinf(rounded))


@functions
def test_derivatives(function: Callable[..., Any]) -> None:
    """To the second order, which eager Paddle lacks."""
    apart = {lgamma: 0.5, gammaln: 0.5, digamma: 0.5, trigamma: 0.5, pentagamma: 0.5}
    x = points(function)[::4]
    x = x[np.abs(x) < (0.9 if function is erfinv else 8)]
    near = np.abs(x - np.rint(x)) < 0.05
    x = x[~near] if function in apart else x[np.abs(x) > 1e-3]
    fast = pirol.to_static(function, strict=True)
    t = paddle.to_tensor(x, stop_gradient=False)
    (first,) = paddle.grad(fast(t).sum(), [t], create_graph=True)
    (second,) = paddle.grad(first.sum(), [t])
    for order, got in ((1, first), (2, second)):
        exact = wanted(function, x, order)
        size = np.abs(exact) + np.abs(wanted(function, x, 0)) + 1
        assert (np.abs(got.numpy() - exact) <= 1e-12 * size).all()


SPECIAL = [0.0, -0.0, 1.0, -1.0, -2.0, 2.0, np.inf, -np.inf, np.nan, 0.5, -0.5, 1e30]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@functions
def test_special_values_and_gradients(function: Callable[..., Any], dtype: str) -> None:
    found = []
    for run in (function, pirol.to_static(function, strict=True)):
        x = paddle.to_tensor(np.array(SPECIAL, dtype), stop_gradient=False)
        y = run(x)
        y.backward(paddle.ones_like(y))
        found.append([y.numpy(), x.grad.numpy()])
    for expected, got in zip(*found):
        np.testing.assert_allclose(got, expected, 1e-5, 1e-6)
        zero = (got == 0) & (expected == 0)
        assert (np.signbit(got) == np.signbit(expected))[zero].all()


def many(x: Any) -> Any:
    within = paddle.tanh(x) * 0.75
    return (
        paddle.lgamma(x), paddle.digamma(x), paddle.polygamma(x, 2), paddle.i0(x),
        paddle.i0e(x), paddle.i1(x), paddle.i1e(x), paddle.erfinv(within),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_in_kernels_with_others(dtype: str) -> None:
    agree(many, open_specs(2, dtype), [[data(s, dtype)] for s in SHAPES])


def test_orders() -> None:
    """A primitive of two operands: what is no order is not a number."""
    n, x = np.array([0.0, 1.0, 0.5, -1.0, 171.0, np.inf]), np.full(6, 2.0)
    found = PRIMS["polygamma"].numpy(n, x)
    np.testing.assert_allclose(found[:2], [0.42278433509846713, 0.6449340668482264])
    assert np.isnan(found[2:]).all()


@pytest.mark.skipif(not nvrtc.available(), reason="no NVRTC")
def test_nvrtc_takes_them() -> None:
    text = (
        'extern "C" __global__ void k(double *x, float *y) {'
        " *x = pr_polygamma_f64(1, *x) + pr_lgamma_f64(*x) + pr_erfinv_f64(*x);"
        " *y = pr_i0_f32(*y) + pr_i0e_f32(*y) + pr_i1_f32(*y) + pr_i1e_f32(*y); }"
    )
    header = (nvrtc.__file__.rsplit("/", 1)[0]) + "/headers/pirol_special.h"
    with open(header) as file:
        once = file.read()
    nvrtc.compile_cubin(together({"k": CUDA.head + once + once + text}))
