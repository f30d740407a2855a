"""Ops that training programs hold, run without gradients: batch_norm's statistics."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

import pirol

OPS = frozenset({"batch_norm", "batch_norm_"})


def functional(x: Any, mean: Any, variance: Any, scale: Any, bias: Any) -> Any:
    """All results, the running statistics as new tensors."""
    y, *rest = paddle._C_ops.batch_norm(
        x, mean * 1.0, variance * 1.0, scale, bias, False, 0.7, 1e-5, "NCHW", False,
        False,
    )  # fmt: skip
    return y, *rest[:4]


def tensors(*shape: int) -> list[Any]:
    channels = shape[1]
    return [
        paddle.randn(shape),
        paddle.randn([channels]),
        paddle.rand([channels]) + 0.5,
    ] + [paddle.randn([channels]) for _ in range(2)]


@pytest.mark.parametrize(
    "shape", [(4, 3, 5, 7), (2, 3, 1, 1), (1, 3, 1, 1), (9, 3, 2, 2)]
)
def test_batch_statistics(shape: tuple[int, ...]) -> None:
    specs = [InputSpec([None, 3, None, None]), *(InputSpec([3]) for _ in range(4))]
    fast = pirol.to_static(functional, input_spec=specs, strict=True)
    given = tensors(*shape)
    ours, theirs = fast(*given), functional(*given)
    lone = shape[0] * shape[2] * shape[3] == 1  # Paddle leaves the saved ones alone
    for k, (a, b) in enumerate(zip(ours[: 3 if lone else 5], theirs)):
        np.testing.assert_allclose(
            a.numpy(), b.numpy(), rtol=2e-4, atol=2e-6, err_msg=f"result {k}"
        )
    groups = pirol.explain(fast).groups
    assert sum("reduce_sum" in g.ops for g in groups) == 1


def normed(x: Any, mean: Any, variance: Any, scale: Any, bias: Any) -> Any:
    return paddle.nn.functional.batch_norm(x, mean, variance, scale, bias)


@pytest.mark.parametrize("channels", [3, None])
def test_any_number_of_channels(channels: int | None) -> None:
    specs = [InputSpec([None] * 4), *(InputSpec([channels]) for _ in range(4))]
    fast = pirol.to_static(normed, input_spec=specs, strict=True)
    for shape in ((4, 3, 5, 7), (2, 3, 2, 1), *(() if channels else ((2, 5, 3, 3),))):
        given = tensors(*shape)
        np.testing.assert_allclose(fast(*given), normed(*given), rtol=1e-4, atol=1e-5)
    assert pirol.explain(fast).compiles == 1


def test_running_statistics_are_updated_once_a_call() -> None:
    layer = paddle.nn.Sequential(paddle.nn.BatchNorm2D(3), paddle.nn.ReLU())
    eager = copy.deepcopy(layer)
    fast = pirol.to_static(
        layer, input_spec=[InputSpec([None, 3, None, None])], strict=True
    )
    for _ in range(3):
        x = paddle.randn([4, 3, 6, 5]) * 2 + 1
        with paddle.no_grad():
            np.testing.assert_allclose(fast(x), eager(x), rtol=1e-4, atol=1e-5)
        for name, value in eager.state_dict().items():
            np.testing.assert_allclose(
                layer.state_dict()[name], value, rtol=1e-5, err_msg=name
            )
    layer.eval(), eager.eval()
    np.testing.assert_allclose(fast(x), eager(x), rtol=1e-4, atol=1e-5)
