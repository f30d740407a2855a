"""Rarer functions, activations, comparisons and places of extremes, against eager."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from decomposition_runs import SEEN, SHAPES, data
from paddle.static import InputSpec
from test_decompositions_pointwise import agree, open_specs, plain

import pirol


def logarithms(x: Any) -> Any:
    return (
        paddle.log2(x), paddle.log10(x), paddle.tan(x), paddle.atan(x),
        paddle.sinh(x), paddle.cosh(x), paddle.asinh(x), paddle.acosh(x),
    )  # fmt: skip


def inverses(x: Any) -> Any:
    small = x * 0.125
    return paddle.asin(small), paddle.acos(small), paddle.atanh(small)


def shrinks(x: Any) -> Any:
    return (
        F.hardshrink(x), F.hardshrink(x, 1.25), F.softshrink(x), F.softshrink(x, 0.0),
        F.tanhshrink(x), F.thresholded_relu(x), F.thresholded_relu(x, -0.5, 2.0),
        paddle.stanh(x), paddle.stanh(x, 1.5, -0.5), x.cpu(),
    )  # fmt: skip


def odds(x: Any) -> Any:
    inside = F.sigmoid(x)
    return paddle.logit(inside), paddle.logit(x, 0.25), paddle.logit(x, 1e-6)


def places(x: Any) -> Any:
    return (
        paddle.argmax(x), paddle.argmin(x), paddle.argmax(x, axis=0),
        paddle.argmin(x, axis=-1), paddle.argmax(x, axis=1, keepdim=True),
        paddle.argmin(x, axis=0, dtype="int32"), paddle.argmax(x, dtype="int32"),
        paddle.argmin(x, keepdim=True),
    )  # fmt: skip


def pairs(x: Any, y: Any) -> Any:
    return (
        paddle.atan2(x, y), paddle.fmax(x, y), paddle.fmin(x, y), paddle.isclose(x, y),
        paddle.heaviside(x, y), paddle.heaviside(paddle.zeros_like(x), y),
        paddle.isclose(x, x + 1e-6), paddle.isclose(x, y, 0.5, 1.0, equal_nan=True),
        paddle.allclose(x, x, equal_nan=True), paddle.allclose(x, y),
    )  # fmt: skip


def mixed(x: Any, y: Any) -> Any:
    powers = paddle.logspace(-1, 2, 9, 3.0, x.dtype)
    return paddle.lerp(x, y, 0.3), paddle.lerp(x, y, x), paddle.dot(x, y), powers


def whole(x: Any, y: Any) -> Any:
    return (
        paddle.fmax(x, y), paddle.fmin(x, y), paddle.heaviside(x, y), paddle.dot(x, y),
        paddle.bitwise_left_shift(x, y), paddle.bitwise_right_shift(x, y),
        paddle.bitwise_right_shift(x, y, is_arithmetic=False), paddle.allclose(x, y),
        *places(x),
    )  # fmt: skip


def of_whole(x: Any) -> Any:
    return (
        paddle.exp(x), paddle.expm1(x), paddle.log(x), paddle.log2(x), paddle.log10(x),
        paddle.log1p(x),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_logarithms_of_integers_are_float32(dtype: str) -> None:
    """Though Paddle's program says that they are integers."""
    x = np.arange(1, 30, dtype=dtype)
    found = pirol.to_static(of_whole, strict=True)(paddle.to_tensor(x))
    names = ("exp", "expm1", "log", "log2", "log10", "log1p")
    for name, got in zip(names, found, strict=True):
        wanted = getattr(np, name)(x.astype("float64"))
        assert got.dtype == paddle.float32
        np.testing.assert_allclose(got.numpy(), wanted, 1e-6)


def test_a_copy_to_the_cpu_has_a_gradient() -> None:
    x = paddle.ones([3])
    x.stop_gradient = False

    def run(x: Any) -> Any:
        return x.cpu() * 2

    pirol.to_static(run, strict=True)(x).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]


FLOATS = ("float32", "float64")
FULL = [s for s in SHAPES if 0 not in s]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("function", [logarithms, inverses, shrinks, odds])
def test_unary(function: Any, dtype: str) -> None:
    draw = plain if function in (inverses, odds) else data
    agree(function, open_specs(2, dtype), [[draw(s, dtype)] for s in SHAPES])


@pytest.mark.parametrize("dtype", FLOATS)
def test_pairs(dtype: str) -> None:
    given = [[data(s, dtype), data(s, dtype, 1)[::-1].copy()] for s in FULL]
    agree(pairs, open_specs(2, dtype, dtype), given)


@pytest.mark.parametrize("dtype", FLOATS)
def test_next_numbers(dtype: str) -> None:
    """Those of the dtype: of float64 they would be others."""
    fast = pirol.to_static(paddle.nextafter, strict=True)
    given = [paddle.to_tensor(data((3, 5), dtype, k)) for k in (0, 1)]
    found, eager = fast(*given).numpy(), paddle.nextafter(*given).numpy()
    np.testing.assert_array_equal(found, eager)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(eager))
    SEEN.add("nextafter")


@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_of_pairs(dtype: str) -> None:
    given = [[plain(s, dtype), plain(s, dtype, 1)] for s in FULL]
    agree(mixed, open_specs(2, dtype, dtype), given)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integers(dtype: str) -> None:
    given = [[data(s, dtype), data(s, dtype, 1)] for s in FULL]
    agree(whole, open_specs(2, dtype, dtype), given)


@pytest.mark.parametrize("dtype", [*FLOATS, "int32", "int64", "uint8"])
def test_places_of_ties_and_special_values(dtype: str) -> None:
    if dtype not in FLOATS:
        rng = np.random.default_rng(0)
        rows = [rng.integers(0, 3, s).astype(dtype) for s in FULL]
    else:
        nan, inf = np.nan, np.inf
        rows = [
            np.array(r, dtype)
            for r in (
                [[nan, nan, nan], [1.0, nan, 3.0], [nan, 3.0, 3.0]],
                [[-inf, -inf, -inf], [inf, inf, nan], [-0.0, 0.0, -0.0]],
                [[nan, -inf, 2.0], [inf, inf, inf], [nan, nan, -1.0]],
            )
        ]
    agree(places, open_specs(2, dtype), [[r] for r in rows])


def test_places_of_other_ranks() -> None:
    def cube(x: Any) -> Any:
        return paddle.argmax(x, axis=1), paddle.argmin(x, axis=-1, keepdim=True)

    def line(x: Any) -> Any:
        return paddle.argmax(x), paddle.argmin(x, axis=0, keepdim=True)

    cubes = [np.random.default_rng(0).normal(size=s) for s in ((2, 5, 3), (1, 1, 7))]
    agree(cube, open_specs(3, "float64"), [[c] for c in cubes])
    agree(line, open_specs(1, "float64"), [[c.reshape(-1)] for c in cubes])


def products(start: Any, x: Any, y: Any) -> Any:
    return (
        paddle.addmm(start, x, y), paddle.addmm(start, x, y, beta=0.5, alpha=-2.0),
    )  # fmt: skip


def batched(start: Any, x: Any, y: Any) -> Any:
    return (paddle.baddbmm(start, x, y, beta=0.5, alpha=-2.0),)


@pytest.mark.parametrize("dtype", FLOATS)
def test_products_and_sums(dtype: str) -> None:
    def specs(*shapes: Any) -> list[Any]:
        return [InputSpec(s, dtype) for s in shapes]

    shapes = ((5, 7), (5, 3), (3, 7))
    given = [plain(s, dtype, k) for k, s in enumerate(shapes)]
    agree(products, specs([None, 7], [None, 3], [3, 7]), [given])
    given = [plain((2, *s), dtype, k) for k, s in enumerate(shapes)]
    agree(batched, specs([2, None, 7], [2, None, 3], [2, 3, 7]), [given])


LISTED = (
    "acos acosh addmm allclose argmax argmin asin asinh atan atan2 atanh baddbmm "
    "bitwise_left_shift bitwise_right_shift cosh dot fmax fmin hardshrink heaviside "
    "isclose lerp log10 log2 logit logspace memcpy nextafter sinh softshrink "
    "stanh tan tanh_shrink thresholded_relu"
)
OPS = frozenset(LISTED.split())


def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN


def at_kinks(x: Any) -> Any:
    """Of -1, -0.5, -0.0, 0.5, 1: at a threshold, and at zeros."""
    return (
        F.hardshrink(x), F.hardshrink(x, 1.0), F.softshrink(x), F.softplus(x, 2, 1),
        F.softplus(x, 1, -0.5), paddle.angle(x),
    )  # fmt: skip


def test_at_kinks() -> None:
    found = []
    for function in (pirol.to_static(at_kinks), at_kinks):
        x = paddle.to_tensor([-1.0, -0.5, -0.0, 0.5, 1.0], stop_gradient=False)
        for out in function(x):
            (grad,) = paddle.grad(out, [x], retain_graph=True)
            found.append(np.stack([out.numpy(), grad.numpy()]))
    for ours, eagers in zip(found[:6], found[6:]):
        np.testing.assert_allclose(ours, eagers, 1e-6)
