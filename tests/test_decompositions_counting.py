"""Histograms, means of integers and what is put where others are, against eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

import pirol

OPS = frozenset({"histogram"})
DTYPES = ("float32", "float64", "int32", "int64")


def counts(x: Any) -> Any:
    return paddle.histogram(x)


def between(x: Any) -> Any:
    return paddle.histogram(x, bins=7, min=-2, max=3)


def within_one(x: Any) -> Any:
    return paddle.histogram(x, bins=3, min=0.2, max=0.7)


def densities(x: Any) -> Any:
    return paddle.histogram(x, bins=5, density=True)


def weighted(x: Any) -> Any:
    return paddle.histogram(x, bins=5, weight=x, min=-1, max=1)


def weighted_density(x: Any) -> Any:
    return paddle.histogram(x, bins=5, weight=x, min=-1, max=1, density=True)


HISTOGRAMS = (counts, between, within_one, densities, weighted, weighted_density)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", HISTOGRAMS, ids=lambda f: f.__name__)
def test_histograms(function: Callable[..., Any], dtype: str) -> None:
    """Elements outside and not numbers are left out; the last end is within."""
    spec = [InputSpec([None, None], dtype)]
    fast = pirol.to_static(function, input_spec=spec, strict=True)
    rng = np.random.default_rng(0)
    for shape in ((5, 8), (1, 1), (40, 33), (3, 4)):
        x = (rng.normal(size=shape) * 4).astype(dtype)
        if shape == (3, 4):
            x[:] = 3
        elif function is between and dtype[0] == "f" and x.size > 4:
            x[0, :4] = [np.nan, np.inf, -np.inf, 3]
        ours, theirs = (f(paddle.to_tensor(x)) for f in (fast, function))
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), 1e-5, 1e-6)
    assert pirol.explain(fast).compiles == 1


def test_a_histogram_of_what_is_not_finite_is_paddles_to_refuse() -> None:
    fast = pirol.to_static(counts)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="range"):
        fast(paddle.to_tensor([1.0, float("inf")]))


def mean(x: Any) -> Any:
    return paddle.mean(x), paddle.mean(x, axis=1, keepdim=True), x.mean(axis=0)


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool"])
def test_means_of_integers(dtype: str) -> None:
    spec = [InputSpec([None, None], dtype)]
    fast = pirol.to_static(mean, input_spec=spec, strict=True)
    rng = np.random.default_rng(0)
    for shape in ((3, 4), (1, 1), (5, 7), (0, 3), (3, 0)):
        x = paddle.to_tensor(rng.integers(-9, 9, shape)).astype(dtype)
        for ours, theirs in zip(fast(x), mean(x), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def joined(x: Any, i: Any, v: Any) -> Any:
    return (
        paddle.put_along_axis(x, i, v, 0, "mean"),
        paddle.put_along_axis(x, i, v, 0, "mean", include_self=False),
        paddle.put_along_axis(x, i, v, 0, "add"),
        paddle.put_along_axis(x, i, v, 0, "add", include_self=False),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_means_and_sums_at_places(dtype: str) -> None:
    """With x's own elements among them, and without."""
    fast, whole = pirol.to_static(joined, strict=True), dtype.startswith("int")
    rng = np.random.default_rng(0)
    for rows in (4, 9):
        x, v = ((rng.normal(size=(n, 3)) * 5).astype(dtype) for n in (rows, 6))
        i, found = rng.integers(0, rows, (6, 3)), []
        for run in (joined, fast):
            a, b = (paddle.to_tensor(t, stop_gradient=whole) for t in (x, v))
            out = list(run(a, paddle.to_tensor(i), b))
            if not whole:
                sum((t * t).sum() for t in out).backward()
                out += [a.grad, b.grad]
            found.append(out)
        for theirs, ours in zip(*found, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), 1e-5, 1e-5)
