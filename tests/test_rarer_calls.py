"""Calls of functions that programs seldom have: compiled as a whole, and eager's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import pirol

ODD = np.float32([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, -2.5, 1e-3])
WHOLE = np.arange(-9, 10)
SHIFTS = np.arange(-3, 16) * 5


def numbers(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "nextafter": (paddle.nextafter, (ODD, ODD[::-1].copy())),
    "nextafter f64": (paddle.nextafter, (np.float64(ODD), np.float64(ODD[1]))),
    "left": (paddle.bitwise_left_shift, (WHOLE, SHIFTS)),
    "right": (paddle.bitwise_right_shift, (WHOLE, SHIFTS)),
    "right, zeros": (
        lambda x, y: paddle.bitwise_right_shift(x, y, is_arithmetic=False),
        (WHOLE.astype("int16"), (SHIFTS // 5).astype("int16")),
    ),
    "power": (paddle.pow, (WHOLE, np.abs(WHOLE))),
    "power int32": (lambda x, y: x**y, (np.int32([3, -2, 2, 0]), np.int32([3]))),
    "power below 0": (paddle.pow, (np.int64([1, 2, -1]), np.int64([-1, -1, -3]))),
    "allclose": (paddle.allclose, (WHOLE, WHOLE + 1)),
    "logspace": (lambda x: paddle.logspace(0, 2, 7, 3) + x, (numbers(7),)),
    "narrow": (lambda x: paddle.narrow(x, 0, -3, 2), (numbers(5, 2),)),
    "narrow by a tensor": (lambda x, k: paddle.narrow(x, 1, k, 2), (numbers(2, 5), 1)),
    "edges": (lambda x: paddle.histogram_bin_edges(x, 5), (numbers(9),)),
    "edges of one": (lambda x: paddle.histogram_bin_edges(x, 4), (ODD[5:6],)),
    "edges given": (lambda x: paddle.histogram_bin_edges(x, 4, -1, 2), (ODD,)),
    "by a tensor, then all": (lambda x, k: x[k, ...], (numbers(3, 2, 2), [2, 0])),
    "signs of none": (paddle.signbit, (numbers(2, 0, 3),)),
    "none, reshaped": (lambda x: x.reshape([0, 2, -1]), (numbers(0, 6),)),
    "none, turned": (lambda x: x.reshape([-1, 0]), (numbers(0, 6),)),
    "none of none": (lambda x: x.reshape([2, -1]), (numbers(3, 0),)),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    function, arrays = CALLS[name]
    given = [paddle.to_tensor(array) for array in arrays]
    found = pirol.to_static(lambda *args: function(*args), strict=True)(*given)
    expected = function(*given)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, 2e-6)


class Averaged(paddle.nn.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", paddle.zeros([3]))

    def forward(self, x: Any) -> Any:
        self.kept.set_value(self.kept * 0.9 + x.mean(0) * 0.1)
        return x + self.kept


def test_the_value_of_a_buffer_is_set() -> None:
    layer, fast = Averaged(), pirol.to_static(Averaged(), strict=True)
    for x in paddle.rand([3, 4, 3]):
        np.testing.assert_allclose(fast(x), layer(x), 1e-6)
        np.testing.assert_allclose(fast.kept, layer.kept, 1e-6)


def test_a_value_of_another_dtype_is_an_error() -> None:
    fast = pirol.to_static(lambda x: (x * 1).set_value(paddle.ones([3], "int32")))
    with pytest.raises((AssertionError, ValueError)):
        fast(paddle.ones([3]))


def test_turned_in_place_by_unknown_sizes() -> None:
    """Both shapes are [-1, -1]: it is no write into the same memory."""
    spec = [paddle.static.InputSpec([None, None])]

    def turned(x: Any) -> Any:
        y, z = x * 2, x * 1
        y.t_()
        z.transpose_([1, 0])
        return y + z

    fast = pirol.to_static(turned, input_spec=spec, strict=True)
    for shape in ([2, 3], [4, 1]):
        x = paddle.rand(shape)
        np.testing.assert_array_equal(fast(x), (x * 2).T + x.T)


PLACES = paddle.to_tensor([2, 0])


@paddle.jit.not_to_static
def picked(x: Any) -> Any:
    return x[..., PLACES][:2] + x[PLACES, :, :2] + x[[0, 1], :, PLACES].sum()


def test_places_in_code_that_is_left_as_it_is() -> None:
    """An eager tensor there, which ended the process."""
    fast = pirol.to_static(lambda x: picked(x) * 2, strict=True)
    x = paddle.rand([3, 2, 3])
    np.testing.assert_allclose(fast(x), picked(x) * 2, 1e-6)


@pytest.mark.parametrize("open_batch", [False, True])
def test_an_empty_batch_leaves_the_running_statistics(open_batch: bool) -> None:
    spec = [paddle.static.InputSpec([None, 3])] if open_batch else None
    fast = pirol.to_static(paddle.nn.BatchNorm1D(3), input_spec=spec, strict=True)
    layer = paddle.nn.BatchNorm1D(3)
    for rows in (4, 0, 1, 5):
        x = paddle.rand([rows, 3])
        np.testing.assert_allclose(fast(x), layer(x), 1e-4, 1e-5)
        np.testing.assert_allclose(fast._mean, layer._mean, 1e-5, 1e-6)
        np.testing.assert_allclose(fast._variance, layer._variance, 1e-5)
