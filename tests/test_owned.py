"""Results share memory with inputs and each other only where they do in eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.compiler.capture.plans import Plans


def copies(x: Any) -> Any:
    return x.clone(), paddle.assign(x), x.T.contiguous().clone().T


def twice(x: Any) -> Any:
    y = x * 2.0
    return y, y.clone(), y + 0.0, y + 0.0


def constants(x: Any) -> Any:
    return paddle.zeros([3]), paddle.zeros([3]), x * 2.0


def branch(x: Any) -> Any:
    y = x.clone()
    if x.sum() < 0:
        y = y * 2.0
    return y, y.clone()


def loop(x: Any) -> Any:
    y = x.clone()
    while y.sum() < 0:
        y = y + 1.0
    return y


def apart(fn: Callable[..., Any], x: Any) -> None:
    """No write to a result shows in the input, or in another result."""
    start, results = x.numpy().copy(), paddle.utils.flatten(fn(x))
    expected = [t.numpy().copy() for t in results]
    for k, result in enumerate(results):
        with paddle.no_grad():
            result.add_(paddle.ones_like(result))
        np.testing.assert_array_equal(x.numpy(), start)
        for j, other in enumerate(results):
            np.testing.assert_array_equal(other.numpy(), expected[j] + (j <= k))


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("fn", [copies, twice, constants, branch, loop])
def test_a_copy_is_in_memory_of_its_own(fn: Callable[..., Any], stops: bool) -> None:
    x = paddle.arange(6, dtype="float32").reshape([2, 3])
    x.stop_gradient = stops
    fast = pirol.to_static(fn, strict=True)
    for _ in range(3):  # the third call takes the short way
        apart(fast, x)


def test_a_copy_has_the_gradient() -> None:
    x = paddle.ones([2, 3])
    x.stop_gradient = False
    a, b, _ = pirol.to_static(copies, strict=True)(x)
    (a * 2.0 + b * 3.0).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full([2, 3], 5.0, "float32"))


def views(x: Any) -> Any:
    y = x * 2.0
    return x, x.detach(), y, y.detach()


def test_what_shares_in_eager_mode_is_no_copy() -> None:
    x = paddle.ones([2, 3])
    a, b, c, d = pirol.to_static(views, strict=True)(x)
    assert a.data_ptr() == b.data_ptr() == x.data_ptr()
    assert c.data_ptr() == d.data_ptr() != x.data_ptr()


def adds(x: Any, y: Any) -> Any:
    a = y * 2.0
    x.add_(paddle.ones([2, 3]))
    return a + y


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_eager_runs_calls_whose_written_input_is_another_one_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Plans, "paddles", None)  # Paddle's run of the program
    fast = pirol.to_static(adds)
    for _ in range(3):
        ours, eagers, x = paddle.ones([2, 3]), paddle.ones([2, 3]), paddle.ones([2, 3])
        np.testing.assert_array_equal(fast(ours, ours), adds(eagers, eagers))
        np.testing.assert_array_equal(ours.numpy(), eagers.numpy())
        np.testing.assert_array_equal(fast(x, ours), 6.0)
    (said,) = pirol.explain(fast).fallbacks
    assert "shares memory" in said.why
