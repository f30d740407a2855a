"""Numbers in programs of integers, float64, complex128 are not rounded to float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

import pirol
import pirol.complex as pc

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "times": lambda x: x * 0.1,
    "over": lambda x: x / 3,
    "plus": lambda x: 1 / 3 + x,
    "less": lambda x: 0.1 - x,
    "scale": lambda x: paddle.scale(x, 0.1, 0.3),
    "scale of a sum": lambda x: paddle.scale(x, 0.1, 0.3, bias_after_scale=False),
    "full_like": lambda x: paddle.full_like(x, 0.1) * x,
    "to_tensor": lambda x: paddle.to_tensor(0.1, dtype=x.dtype) * x,
    "to_tensor of some": lambda x: paddle.to_tensor([0.1, 1e300], dtype=x.dtype)[0] * x,
    "large": lambda x: x * 1e300,
    "a chain": lambda x: ((x * math.pi + 0.7) / 0.3 - 1e-3) * (0.01 / math.pi),
}
REAL: dict[str, Callable[[Any], Any]] = {
    "clip": lambda x: paddle.clip(x, -0.1, 0.1),
    "clip from above": lambda x: x.clip(max=1e-9),
    "pad": lambda x: paddle.nn.functional.pad(x, [1, 2], value=0.1),
}


@pytest.mark.parametrize("rows", [7, None])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", [*FUNCTIONS, *REAL])
def test_as_eager_has_them(name: str, dtype: str, rows: int | None) -> None:
    """Values and gradients; those that float32 has too stay what they were."""
    if name in REAL and dtype == "complex128":
        return
    function = (FUNCTIONS | REAL)[name]

    def run(x: Any) -> Any:
        return function(x)

    fast = pirol.to_static(run, input_spec=[InputSpec([rows], dtype)], strict=True)
    numbers = np.random.default_rng(0).normal(size=(2, 7))
    x = (numbers[0] + 1j * numbers[1]).astype(dtype) if "c" in dtype else numbers[0]
    x = paddle.to_tensor(x)
    x.stop_gradient = False
    found = []
    for f in (fast, run):
        y = f(x)
        loss = (y * y.conj()).sum().real() if "c" in dtype else y.sum()
        found.append((y.numpy(), paddle.grad(loss, x)[0].numpy()))
    for ours, theirs in zip(*found):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=4e-16, atol=0)


def of_large(x: Any, large: int) -> Any:
    """Whole numbers that float32 has not."""
    sums = x + large, large - x, paddle.scale(x, 1.0, large, bias_after_scale=False)
    few = paddle.clip(x, large - 2, large), paddle.full_like(x, large)
    wide = paddle.nn.functional.pad(x, [1, 1], value=large)
    return *sums, x * large, x * -large, *few, wide, x == large, x // large


@pytest.mark.parametrize(
    ("dtype", "large"),
    [("int32", 2**24 + 1), ("int64", 2**40 + 1), ("float64", 2**40 + 1)],
)
def test_large_whole_numbers(dtype: str, large: int) -> None:
    x, fast = paddle.to_tensor([1, 0, -3, large], dtype), pirol.to_static(of_large)
    for ours, eagers in zip(fast(x, large), of_large(x, large), strict=True):
        assert ours.dtype == eagers.dtype
        np.testing.assert_array_equal(ours.numpy(), eagers.numpy())


def of_largest(x: Any) -> Any:
    """Whole numbers that float64 has not."""
    odd, most = 2**53 + 1, 2**63 - 1
    made = paddle.full([2], odd, "int64"), paddle.to_tensor([most, odd, -most])
    listed = paddle.to_tensor(np.array([[odd], [most]]))
    asked = x == odd, x < most, x // odd, odd // x, x % most
    return *made, listed, *asked, paddle.clip(x, 0, odd), paddle.full_like(x, most)


def test_largest_whole_numbers() -> None:
    x, fast = (
        paddle.to_tensor([1, 2**63 - 1, 2**53 + 1, -5]),
        pirol.to_static(of_largest),
    )
    for ours, eagers in zip(fast(x), of_largest(x), strict=True):
        assert ours.dtype == eagers.dtype
        np.testing.assert_array_equal(ours.numpy(), eagers.numpy())


def tenth(x: Any) -> Any:
    return x * 0.1 + 1 / 3


def test_outside_a_capture_nothing_changes() -> None:
    """Paddle's own programs and float32 are as they were."""
    x, narrow = paddle.to_tensor([0.7], "float64"), float(np.float32(0.1))
    theirs = paddle.jit.to_static(tenth, full_graph=True, backend=None)
    assert theirs(x).item() == 0.7 * narrow + float(np.float32(1 / 3))
    assert paddle.scale(x, 0.1).item() == 0.7 * 0.1
    ours = pirol.to_static(tenth, strict=True)
    assert ours(x.astype("float32")).dtype == paddle.float32
    assert "f64" not in str(pirol.explain(ours).stages["capture"])


def test_a_complex_number_alone() -> None:
    def run(x: Any) -> Any:
        return paddle.to_tensor(0.1 + 2j) * x

    x = paddle.to_tensor([2.0])
    found, wanted = pirol.to_static(run, strict=True)(x), run(x)
    assert found.dtype == wanted.dtype == paddle.complex64
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())


def of_a_number(x: Any) -> Any:
    return paddle.to_tensor(float(x.sum()))


def of_numbers(x: Any) -> Any:
    return paddle.to_tensor([float(x[0]), 0.5])


def of_integers(x: Any) -> Any:
    return paddle.to_tensor([int(x[0]), 2])


MADE: dict[str, Callable[[Any], Any]] = {
    "a tensor": lambda x: paddle.to_tensor(x),
    "of another dtype": lambda x: paddle.to_tensor(x, dtype="float64"),
    "tensors in a list": lambda x: paddle.to_tensor([x.sum(), x[0]]),
    "with a number": lambda x: paddle.to_tensor([x.sum(), 1]),
    "of integers and a number": lambda x: paddle.to_tensor([(x > 0).sum(), 1.5]),
    "lists in a list": lambda x: paddle.to_tensor([[x.sum(), x[0]], [1, 2.0]]),
    "a number of Python's": of_a_number,
    "such numbers": of_numbers,
    "such integers": of_integers,
    "complex ones": lambda x: paddle.to_tensor([[1 + 2j, 3.0]]),
    "a complex one of NumPy's": lambda x: paddle.to_tensor(np.complex128(1j)),
}


@pytest.mark.parametrize("name", MADE)
def test_what_to_tensor_makes(name: str) -> None:
    """Dtype and values are eager's; to what it is made of, no gradient goes."""
    make = MADE[name]

    def run(x: Any) -> Any:
        made = make(x)
        return made, made.sum() * x

    found = []
    for f in (pirol.to_static(run, strict=True), run):
        x = paddle.to_tensor([1.25, -0.5], stop_gradient=False)
        made, product = f(x)
        product.abs().sum().backward()
        found.append((made, product, x.grad))
    for ours, theirs in zip(*found):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)
    assert found[0][0].stop_gradient == found[1][0].stop_gradient


@pytest.mark.parametrize("columns", [5, None])
def test_statistics_of_complex_numbers(columns: int | None) -> None:
    def run(x: Any) -> Any:
        return pc.var(x), pc.std(x, 0), pc.cov(x)

    numbers = np.random.default_rng(1).normal(size=(2, 4, 5))
    x = numbers[0] + 1j * numbers[1]
    fast = pirol.to_static(run, input_spec=[InputSpec([4, columns], "complex128")])
    wanted = x.var(ddof=1), x.std(0, ddof=1), np.cov(x)
    for ours, theirs in zip(fast(paddle.to_tensor(x)), wanted):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-14, atol=1e-15)


ZEROS: dict[str, Callable[[Any], Any]] = {
    "plus": lambda x: x + 0.0,
    "less": lambda x: x - 0.0,
    "both": lambda x: (x - 0.0, x + 0.0, x * 2.0),
    "turned": lambda x: (-x, x * -1.0, 0.0 - x, x * -0.0),
    "full": lambda x: (paddle.full([4], -0.0) + x, paddle.full([4], 0.0) + x),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ZEROS)
def test_zeros_keep_their_signs(name: str, dtype: str) -> None:
    """To Paddle's programs 0.0 and -0.0 are one, whichever came first."""
    x = paddle.to_tensor([-0.0, 0.0, 1.0, -2.0], dtype)
    for first in (0.0, -0.0):
        pirol.to_static(lambda x, first=first: x + first)(x)
        found, expected = pirol.to_static(ZEROS[name])(x), ZEROS[name](x)
        pairs = zip(*(paddle.utils.flatten(v) for v in (found, expected)))
        for ours, eagers in pairs:
            assert repr(ours.tolist()) == repr(eagers.tolist())
