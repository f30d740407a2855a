"""Ops that Paddle runs within a plan: directly, or as programs of one op."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.static import InputSpec
from paddle.vision.ops import roi_align

import pirol
from pirol.compiler.capture import direct, ops

pytestmark = pytest.mark.filterwarnings("ignore::pirol.PirolWarning")


def ordering(x: Any) -> Any:
    y = x * 2.0
    return (
        *paddle.topk(y, 2, axis=1), *paddle.topk(y, 3, axis=0, largest=False),
        paddle.argsort(y, axis=-1, descending=True), paddle.argmax(y, axis=1),
        paddle.argmin(y), *paddle.kthvalue(y, 2, axis=1), *paddle.cummax(y, axis=0),
        *paddle.cummin(y, axis=1),
    )  # fmt: skip


def finding(x: Any) -> Any:
    line = paddle.sort(x.flatten())
    found = paddle.nonzero(x > 0.5)
    return (
        found, found.astype("float32") * 0.5, paddle.masked_select(x, x > 0.2),
        paddle.searchsorted(line, x),
        paddle.bincount((x * 5).astype("int64").flatten()),
    )  # fmt: skip


def placing(x: Any) -> Any:
    index = paddle.to_tensor([2, 0])
    places = paddle.to_tensor([[1, 0, 2, 2]])
    return (
        paddle.scatter(x, index, x[:2] * 10.0),
        paddle.scatter_nd_add(x, index.unsqueeze(1), x[:2]),
        paddle.put_along_axis(x, places, 7.0, axis=0) + 1.0,
    )


def images(x: Any, grid: Any) -> Any:
    count = paddle.to_tensor([1, 1], dtype="int32")
    return (
        F.unfold(x, 3, paddings=1), F.grid_sample(x, grid) * 2.0,
        roi_align(x, grid[:, :, 0, :1].tile([1, 1, 4])[:, 0] + 1.0, count, 2),
    )  # fmt: skip


def drawing(x: Any) -> Any:
    """All draws take place, in order, those too that nobody needs."""
    rows = x.shape[0]
    first = paddle.uniform([4, 3], min=0.0, max=2.0)
    paddle.uniform([2])
    second = paddle.normal(shape=[4, 3]) + paddle.rand([rows, 3])
    third = paddle.randint(0, 10, [4, 3]).astype("float32")
    kept = F.dropout(x, 0.4, training=True)
    paddle.bernoulli(x)
    return first * 2.0, second, third, kept + first, paddle.randperm(9)


def sized(x: Any) -> Any:
    """Sizes that only the data tell."""
    count = (x[0, 0] * 0.0).astype("int64") + 2
    return (
        paddle.arange(0, count) * 2, paddle.tile(x, [count, 1]) + 1.0,
        paddle.expand(x.unsqueeze(0), [count, -1, 4]), x.reshape([count, -1]) * 2.0,
    )  # fmt: skip


def both_ways(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "program":
        monkeypatch.setattr(ops, "direct", lambda *given: None)


@pytest.mark.parametrize("way", ["direct", "program"])
@pytest.mark.parametrize("function", [ordering, finding, placing, sized])
def test_as_eager(function: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    both_ways(monkeypatch, way)
    static = function is placing  # Paddle's shape rule refuses others
    fast = pirol.to_static(function, input_spec=[InputSpec([5 if static else None, 4])])
    for rows in (5, 5) if static else (6, 4):
        x = paddle.rand([rows, 4])
        for a, b in zip(fast(x), function(x), strict=True):
            assert a.dtype == b.dtype and list(a.shape) == list(b.shape)
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
    assert pirol.explain(fast).compiles == 1
    assert not any("the call" in f.op for f in pirol.explain(fast).fallbacks)


@pytest.mark.parametrize("way", ["direct", "program"])
def test_images(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    both_ways(monkeypatch, way)
    given = [paddle.rand([2, 3, 6, 5]), paddle.rand([2, 4, 4, 2]) * 2 - 1]
    fast = pirol.to_static(images)
    for a, b in zip(fast(*given), images(*given), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["direct", "program"])
def test_random_numbers(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    both_ways(monkeypatch, way)
    spec = [InputSpec([None, 3])]
    fast = pirol.to_static(drawing, input_spec=spec, random="eager")
    x = paddle.rand([4, 3])
    with paddle.no_grad():
        for seed in (1, 2):
            paddle.seed(seed)
            ours = fast(x)
            paddle.seed(seed)
            for k, (a, b) in enumerate(zip(ours, drawing(x), strict=True)):
                np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=str(k))
    assert not any("the call" in f.op for f in pirol.explain(fast).fallbacks)


def test_each_signature_is_this_paddles() -> None:
    """Else the op runs as a program, silently slower."""
    assert [n for n in direct.SIGNATURES if not direct._as_listed(n)] == []


def test_an_unknown_size_that_must_be_an_inputs() -> None:
    """The first op is Paddle's, and its result of a size that it does not declare."""

    def logs(x: Any, y: Any) -> Any:
        return paddle.logcumsumexp(x, -1) * y

    fast = pirol.to_static(logs, input_spec=[InputSpec([None, 4])] * 2)
    for rows in (5, 3):
        x, y = paddle.rand([rows, 4]), paddle.rand([rows, 4])
        np.testing.assert_allclose(fast(x, y).numpy(), logs(x, y).numpy(), 1e-6)
    report = pirol.explain(fast)
    assert report.compiles == 1
    assert [f.op for f in report.fallbacks] == ["pd_op.logcumsumexp"]
