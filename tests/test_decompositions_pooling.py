"""Pooling and cumsum against eager Paddle; where that drops NaN, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from decomposition_runs import SEEN, check
from paddle.static import InputSpec

import pirol

OPS = frozenset({"pool2d", "pool3d", "cumsum"})
OPS |= {"max_pool2d_with_index", "max_pool3d_with_index", "lp_pool2d"}


def windows(x: Any) -> Any:
    return (
        F.max_pool2d(x, 3, stride=2, padding=1), F.max_pool2d(x, [2, 3]),
        F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True),
        F.max_pool2d(x, 2, stride=2, padding=[0, 1, 1, 0]),
        F.avg_pool2d(x, 3, stride=2, padding=1), F.avg_pool2d(x, [3, 2], stride=1),
        F.avg_pool2d(x, 3, stride=2, padding=1, exclusive=False),
        F.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True),
        F.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True, exclusive=False),
        F.max_pool2d(x, 3, stride=2, padding="SAME"),
        F.avg_pool2d(x, 4, stride=3, padding="SAME"),
        F.avg_pool2d(x, 2, stride=2, padding="VALID"),
        F.avg_pool1d(x[:, :, 0], 3, stride=2, padding=1),
        F.max_pool1d(x[:, :, 1], 3, stride=1),
    )  # fmt: skip


def bins(x: Any) -> Any:
    return (
        F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1),
        F.adaptive_avg_pool2d(x, 3), F.adaptive_avg_pool2d(x, [2, 5]),
        F.adaptive_max_pool2d(x, [5, 2]), F.adaptive_avg_pool2d(x, [7, 1]),
        F.adaptive_avg_pool2d(x, 13),
    )  # fmt: skip


def channels_last(x: Any) -> Any:
    return (
        F.max_pool2d(x, 3, stride=2, padding=1, data_format="NHWC"),
        F.avg_pool2d(x, 3, stride=2, padding=1, data_format="NHWC"),
        F.adaptive_avg_pool2d(x, 2, data_format="NHWC"),
    )


def places(x: Any) -> Any:
    return (
        *F.max_pool2d(x, 3, stride=2, padding=1, return_mask=True),
        *F.max_pool2d(x, 2, ceil_mode=True, return_mask=True),
        *F.max_pool1d(x[:, :, 0], 3, stride=2, return_mask=True),
        *F.adaptive_max_pool2d(x, [5, 2], return_mask=True),
        *F.adaptive_max_pool2d(x, 1, return_mask=True),
        *F.adaptive_max_pool2d(x, [9, 41], return_mask=True),  # bins that overlap
        *F.adaptive_max_pool1d(x[:, :, 0], 3, return_mask=True),
    )


def norms(x: Any) -> Any:
    """Of numbers that are not below 0; p may be no whole number, or infinity."""
    x = paddle.abs(x)
    return (
        F.lp_pool2d(x, 2.0, 2), F.lp_pool2d(x, 3.0, 3, 2, 1, True),
        F.lp_pool2d(x, 1.0, [2, 3], 1), F.lp_pool2d(x, 2.5, 3, 1, "SAME"),
        F.lp_pool2d(x, float("inf"), 3, 2, 1), F.lp_pool1d(x[0], 4.0, 2),
        F.lp_pool2d(x, 2.0, 2, data_format="NHWC"),
    )  # fmt: skip


def volumes(x: Any) -> Any:
    return (
        F.max_pool3d(x, 2, stride=1, padding=1),
        *F.max_pool3d(x, 2, return_mask=True), F.avg_pool3d(x, 3, stride=2, padding=1),
        F.avg_pool3d(x, 2, ceil_mode=True), F.adaptive_avg_pool3d(x, [1, 2, 3]),
        F.max_pool3d(x, 2, data_format="NDHWC"),
        *F.adaptive_max_pool3d(x, [2, 3, 7], return_mask=True),
        *F.adaptive_max_pool3d(x, [4, 4, 4], return_mask=True),
    )  # fmt: skip


def sums(x: Any) -> Any:
    return (
        paddle.cumsum(x), paddle.cumsum(x, axis=0), paddle.cumsum(x, axis=-1),
        paddle.cumsum(x, axis=1) * 2 + x, paddle.cumsum(x, axis=1, dtype="float64"),
    )  # fmt: skip


def whole_sums(x: Any) -> Any:
    return paddle.cumsum(x, axis=0), paddle.cumsum(x, axis=1), paddle.cumsum(x)


def other_sums(x: Any) -> Any:
    ways = [(False, True), (True, False), (True, True)]
    axis = paddle.full([1], -1, "int32")
    return tuple(paddle._C_ops.cumsum(x, axis, False, e, r) for e, r in ways)


def normal(*shape: int, dtype: str = "float32") -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


def compiled(function: Any, shape: list[Any], dtype: str = "float32") -> Any:
    return pirol.to_static(function, input_spec=[InputSpec(shape, dtype)], strict=True)


WIDE = pytest.param("float64", marks=pytest.mark.full)


@pytest.mark.parametrize("dtype", ["float32", WIDE])
@pytest.mark.parametrize("function", [windows, bins, places])
def test_planes(function: Any, dtype: str) -> None:
    fast = compiled(function, [None, 3, None, None], dtype)
    for size in ((2, 13, 8), (1, 7, 5), (3, 26, 39)):
        batch, height, width = size
        check(fast, function, [normal(batch, 3, height, width, dtype=dtype)])
    assert pirol.explain(fast).compiles == 1


def test_norms() -> None:
    """In float64 against the definition: Paddle takes powers in float32."""
    fast = compiled(norms, [None, 3, None, None])
    for size in ((2, 3, 13, 8), (1, 3, 7, 5)):
        check(fast, norms, [normal(*size)])

    def cubes(x: Any) -> Any:
        return F.lp_pool2d(x, 3.0, 2)

    x = np.abs(normal(2, 3, 6, 8, dtype="float64"))
    parts = x.reshape(2, 3, 3, 2, 4, 2)
    found = compiled(cubes, [2, 3, 6, 8], "float64")(paddle.to_tensor(x)).numpy()
    expected = (parts**3).sum((3, 5)) ** (1 / 3)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("function", [windows, bins])
def test_static_planes(function: Any) -> None:
    check(compiled(function, [2, 3, 12, 14]), function, [normal(2, 3, 12, 14)])


def test_channels_last() -> None:
    fast = compiled(channels_last, [None, 9, None, 4])
    check(fast, channels_last, [normal(2, 9, 7, 4)])


def test_volumes() -> None:
    check(compiled(volumes, [1, 4, 5, 6, 7]), volumes, [normal(1, 4, 5, 6, 7)])


def test_sums() -> None:
    fast = compiled(sums, [None, 37])
    for rows in (1, 5, 300):
        check(fast, sums, [normal(rows, 37)])
    fast = compiled(whole_sums, [None, None], "int64")
    check(fast, whole_sums, [np.arange(-20, 22).reshape(6, 7)])


def test_exclusive_and_reversed_sums() -> None:
    check(compiled(other_sums, [3, None]), other_sums, [normal(3, 11)])


TIED = {
    "even": lambda x: F.adaptive_max_pool2d(x, [3, 4]),
    "uneven": lambda x: F.adaptive_max_pool2d(x, [5, 7]),
    "whole planes": lambda x: F.adaptive_max_pool2d(x, 1),
    "apart": lambda x: F.max_pool2d(x, 4, stride=5),
    "wide": lambda x: F.max_pool2d(x, [12, 1], stride=12),
    "fractional": lambda x: F.fractional_max_pool2d(x, [4, 5], random_u=0.4),
}


@pytest.mark.parametrize("shape", [[2, 3, 12, 16], [2, 3, None, None]])
@pytest.mark.parametrize("name", TIED)
def test_the_first_of_equal_ones_has_the_gradient(name: str, shape: list[Any]) -> None:
    """As after a relu: whole windows of zeros."""
    run = TIED[name]

    def pooled(x: Any) -> Any:
        return run(x)

    fast = compiled(pooled, shape)
    numbers = np.random.default_rng(1).integers(0, 3, (2, 3, 12, 16))
    x = paddle.to_tensor(np.maximum(numbers - 1, 0).astype("float32"))
    x.stop_gradient = False
    found, expected = fast(x), pooled(x)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    weights = paddle.to_tensor(normal(*found.shape))
    grads = [paddle.grad((y * weights).sum(), x)[0] for y in (found, expected)]
    np.testing.assert_allclose(*(g.numpy() for g in grads), rtol=1e-6)


MEANS = {
    "side by side": lambda x: F.avg_pool2d(x, 2, 2),
    "apart": lambda x: F.avg_pool2d(x, 2, 3),
    "overlapping": lambda x: F.avg_pool2d(x, 5, 2, 2),
    "at a step of 1": lambda x: F.avg_pool2d(x, 7, 1, 3),
    "rounded up": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "padding too": lambda x: F.avg_pool2d(x, [3, 2], [2, 3], 1, exclusive=False),
    "uneven bins": lambda x: F.adaptive_avg_pool2d(x, [5, 7]),
}


@pytest.mark.parametrize("size", [[13, 16], [None, None]])
@pytest.mark.parametrize("name", MEANS)
def test_gradients_of_means(name: str, size: list[Any]) -> None:
    """To second order; Paddle's own divide by a count in float32."""
    run = MEANS[name]

    def pooled(x: Any) -> Any:
        return run(x) ** 3

    fast = compiled(pooled, [2, 3, *size], "float64")
    x = paddle.to_tensor(normal(2, 3, 13, 16, dtype="float64"))
    x.stop_gradient = False
    found = []
    for function in (fast, pooled):
        first = paddle.grad(function(x).sum(), x, create_graph=True)[0]
        found.append((first, paddle.grad((first**2).sum(), x)[0]))
    for ours, theirs in zip(*found):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6, atol=1e-8)


def test_nan_and_inf() -> None:
    """A window with a NaN gives NaN, one of -inf alone -inf (eager: -3.4e38)."""
    x = np.full((1, 1, 6, 6), -np.inf, "float32")
    x[0, 0, 4, 4] = np.nan

    def pooled(x: Any) -> Any:
        return F.max_pool2d(x, 2, stride=2)

    found = compiled(pooled, [1, 1, 6, 6])(paddle.to_tensor(x)).numpy()[0, 0]
    expected = np.full((3, 3), -np.inf)
    expected[2, 2] = np.nan
    np.testing.assert_array_equal(found, expected)


def test_bins_with_nan_and_inf() -> None:
    """The first NaN of a bin is its largest; of -inf alone the first place is."""
    x = normal(1, 1, 7, 9)
    x[0, 0, :3, :3] = -np.inf
    x[0, 0, 5, 7:] = np.nan

    def pooled(x: Any) -> Any:
        return F.adaptive_max_pool2d(x, [3, 4], return_mask=True)

    value, place = compiled(pooled, [1, 1, 7, 9])(paddle.to_tensor(x))
    ends = [
        [(i * n // o, -((i + 1) * -n // o)) for i in range(o)]
        for n, o in ((7, 3), (9, 4))
    ]
    for i, (top, bottom) in enumerate(ends[0]):
        for j, (left, right) in enumerate(ends[1]):
            part = x[0, 0, top:bottom, left:right]
            flat = np.isnan(part).argmax() if np.isnan(part).any() else part.argmax()
            row, column = divmod(int(flat), right - left)
            assert place.numpy()[0, 0, i, j] == (top + row) * 9 + left + column
            np.testing.assert_array_equal(value.numpy()[0, 0, i, j], part[row, column])


def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN
