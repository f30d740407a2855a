"""Products and extremes along an axis: against NumPy and eager Paddle, products of
complex numbers too, and their gradients, with zeros in the line."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from decomposition_runs import SEEN, check, data
from paddle.static import InputSpec

import pirol

OPS = frozenset({"cumprod", "cummax", "cummin"})


def products(x: Any) -> Any:
    return (
        paddle.cumprod(x, 0), paddle.cumprod(x, 1), paddle.cumprod(x, -1) * 2 + x,
        paddle.cumprod(x),
    )  # fmt: skip


def others(x: Any) -> Any:
    ways = ((0, True, False), (1, False, True), (1, True, True))
    return tuple(paddle._C_ops.cumprod(x, dim, e, r) for dim, e, r in ways)


def along(x: Any) -> Any:
    return paddle.cumprod(x, 1)


@pytest.mark.parametrize("function", [products, others])
def test_sizes_at_run_time(function: Any) -> None:
    spec = [InputSpec([None, None], "float32")]
    fast = pirol.to_static(function, input_spec=spec, strict=True)
    for shape in ((5, 7), (1, 1), (13, 2), (4, 33)):
        check(fast, function, [data(shape, "float32")])
    assert pirol.explain(fast).compiles == 1


@pytest.mark.parametrize("dtype", ["int32", "int64", "float64"])
def test_dtypes(dtype: str) -> None:
    x = data((3, 7), dtype)
    ours = pirol.to_static(along, strict=True)(paddle.to_tensor(x))
    np.testing.assert_allclose(ours.numpy(), np.cumprod(x, 1, dtype=x.dtype), 1e-12)
    assert str(ours.dtype).endswith(dtype)


def slopes(x: Any, ct: Any) -> Any:
    """The gradient, each product over all but one element formed anew."""
    found = np.zeros_like(x)
    for i in range(x.shape[1]):
        for j in range(i, x.shape[1]):
            others = np.delete(x[:, : j + 1], i, 1).prod(1)
            found[:, i] += ct[:, j] * np.conj(others)
    return found


@pytest.mark.parametrize("length", [1, 2, 5, 33])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_gradients_with_zeros(dtype: str, length: int) -> None:
    rng = np.random.default_rng(length)
    parts = rng.uniform(0.5, 1.5, (2, 8, length)) * rng.choice([-1, 1], (2, 8, length))
    x = parts[0] + 1j * parts[1] if dtype[0] == "c" else parts[0]
    for row in range(1, 8):  # up to three zeros a line, at its ends too
        x[row, rng.choice(length, min(row % 4, length), replace=False)] = 0
    x = (x / np.maximum(np.abs(x), 0.5) * 1.05).astype(dtype)
    fast = pirol.to_static(along, strict=True)
    given = paddle.to_tensor(x, stop_gradient=False)
    out = fast(given)
    ct = (rng.normal(size=x.shape) + (1j * x.imag if dtype[0] == "c" else 0)).astype(
        dtype
    )
    out.backward(paddle.to_tensor(ct))
    wide = "complex128" if dtype[0] == "c" else "float64"
    wanted = slopes(x.astype(wide), ct.astype(wide))
    room = 1e-10 if dtype in ("float64", "complex128") else 2e-5
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(given.grad.numpy(), wanted, room, room * scale)
    exact = np.cumprod(x.astype(wide), 1)
    np.testing.assert_allclose(out.numpy(), exact, room, room * np.abs(exact).max())
    assert not pirol.explain(fast).fallbacks


def test_complex_infinities_stay_where_they_are() -> None:
    """No product with 1 + 0j, which would make NaN of an infinite part."""
    x = np.array([[complex(np.inf, 1), 2 + 1j, 1], [1j, complex(1, -np.inf), 3]])
    found = pirol.to_static(along, strict=True)(paddle.to_tensor(x)).numpy()
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(found[:, :2], np.cumprod(x, 1)[:, :2])


def largest(x: Any) -> Any:
    return paddle.cummax(x, 1)


def smallest(x: Any) -> Any:
    return paddle.cummin(x, 0, dtype="int32")


def largest_of_all(x: Any) -> Any:
    return paddle.cummax(x)


ENDS = [largest, smallest, largest_of_all]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("function", ENDS)
def test_extremes_and_their_places(function: Any, dtype: str) -> None:
    """Of ties, zeros of both signs, NaN and infinities; gradients go to the places."""
    whole = dtype.startswith("int")
    spec = [InputSpec([None, None], dtype, stop_gradient=whole)]
    fast = pirol.to_static(function, input_spec=spec, strict=True)
    for shape in ((3, 5), (1, 1), (2, 130), (64, 33), (0, 4), (4, 0)):
        values = np.random.default_rng(1).integers(-4, 5, shape).astype(dtype)
        if not whole and shape[1] > 2 and shape[0]:
            values[0, 1], values[-1, 2], values[0, 0] = np.nan, np.inf, -0.0
            values[-1, 3:5] = [0.0, -0.0]
        found = []
        for run in (function, fast):
            x = paddle.to_tensor(values, stop_gradient=whole)
            reached, place = run(x)
            found.append([reached, place])
            if not whole and x.size:
                weight = paddle.linspace(0.5, 1.5, reached.size).astype(dtype)
                (reached * weight.reshape(reached.shape)).sum().backward()
                found[-1].append(x.grad)
        for expected, got in zip(*found, strict=True):
            assert got.dtype == expected.dtype and got.shape == expected.shape
            np.testing.assert_allclose(got.numpy(), expected.numpy(), 1e-5)
        ours, theirs = (pair[0].numpy() for pair in found)
        assert (np.signbit(ours) == np.signbit(theirs))[theirs == 0].all()
    assert pirol.explain(fast).compiles <= 2
    ops = pirol.explain(fast).stages["capture"].ops
    SEEN.update(op.name.removeprefix("pd_op.") for op in ops)


def after_two_reductions(x: Any) -> Any:
    parts = x / x.min()
    return paddle.cumsum(paddle.tan(parts / parts.min()), 0)


def test_a_line_whose_elements_take_reductions() -> None:
    """Of one row: its lanes are no columns."""
    spec = [InputSpec([None], "float64")]
    fast = pirol.to_static(after_two_reductions, input_spec=spec, strict=True)
    x = paddle.to_tensor(np.random.default_rng(0).uniform(1, 2, 17))
    expected = after_two_reductions(x).numpy()
    np.testing.assert_allclose(fast(x).numpy(), expected, 1e-12)


def curved(x: Any) -> Any:
    return paddle.cummax(x * x * x, 1)[0].sum()


def test_extremes_have_second_derivatives() -> None:
    x = paddle.to_tensor([[1.0, 0.5, 2.0], [3.0, 1.0, 2.0]], stop_gradient=False)
    fast = pirol.to_static(curved, strict=True)
    (first,) = paddle.grad(fast(x), [x], create_graph=True)
    (second,) = paddle.grad(first.sum(), [x])
    times = np.array([[2, 0, 1], [3, 0, 0]])
    np.testing.assert_allclose(first.numpy(), times * 3 * x.numpy() ** 2, 1e-6)
    np.testing.assert_allclose(second.numpy(), times * 6 * x.numpy(), 1e-6)


def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN
