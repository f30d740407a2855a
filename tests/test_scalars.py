"""Numbers that a function makes of tensors: as eager's, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import pirol


def scaled(x: Any) -> Any:
    return x * float(x.sum())


def added(x: Any) -> Any:
    return int(x.sum()) + x


def halved(x: Any) -> Any:
    n = int(x.sum()) // 2
    return x + n, x + int(x.sum()) / 2


def shortened(x: Any) -> Any:
    return paddle.full([2], float(x.sum()), "float64"), x % int(x.sum() * x.sum() + 1)


def bounded(x: Any) -> Any:
    return paddle.clip(x, max=float(x.mean()))


def decided(x: Any) -> Any:
    n = float(x.sum()) * 2.0 + 1
    if n > 1.5:
        x = x * int(n)
    return x - int(x.max())


def taken(x: Any) -> Any:
    n = x.sum().item()
    return x * n, x / 2 + n * 2


def sliced(x: Any) -> Any:
    n = int(x.sum() * 0) + 1
    return x[:n], x.reshape([n, -1]), paddle.zeros([n, 3])


FUNCTIONS = (scaled, added, halved, shortened, bounded, decided, taken, sliced)
GIVEN = (
    np.array([1 / 3, 2 / 3, 0.1]),
    np.array([2**40 + 1, 3]),
    np.array([-7.7, 2.0], "float32"),
    np.array([-7, 2], "int32"),
)


@pytest.mark.parametrize("given", GIVEN, ids=lambda a: str(a.dtype))
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_numbers_of_64_bits(function: Callable[..., Any], given: Any) -> None:
    if function in (bounded, taken) and given.dtype == np.int64:
        pytest.skip("eager's own are not exact, or clip refuses them")
    x = paddle.to_tensor(given)
    expected = paddle.utils.flatten(function(x))
    found = paddle.utils.flatten(pirol.to_static(function, strict=True)(x))
    for wanted, got in zip(expected, found, strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got.numpy(), wanted.numpy())


@pytest.mark.parametrize("function", [scaled, taken, decided])
def test_numbers_have_no_gradient(function: Callable[..., Any]) -> None:
    found = []
    for run in (function, pirol.to_static(function, strict=True)):
        x = paddle.to_tensor([1.5, 2.0], stop_gradient=False)
        total = sum(t.sum() for t in paddle.utils.flatten(run(x)))
        total.backward()
        found.append(x.grad.numpy())
    np.testing.assert_array_equal(*found)
