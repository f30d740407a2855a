"""numerics="strict": sums in the order of eager mode, bit by bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

import pirol
from pirol.compiler.errors import PirolError
from pirol.passes.ordered import WHY

PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: (x * 3.0).sum(-1) + 1.0,
    "softmax": lambda x: F.softmax(x * 2.0) + 1.0,
    "matmul": lambda x: paddle.matmul(x * 2.0, x, transpose_y=True) - 1.0,
    "layer_norm": lambda x: F.layer_norm(x + 1.0, x.shape[-1:]) * 2.0,
    "cumsum": lambda x: paddle.cumsum(x - 0.5, axis=1) * 2.0,
    "pool": lambda x: F.avg_pool1d(x.unsqueeze(0) * 2.0, 3) + 1.0,
}


def tensor(*shape: int) -> Any:
    return paddle.to_tensor(np.random.default_rng(3).normal(size=shape).astype("f4"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_bits_are_eager_modes(name: str) -> None:
    program, x = PROGRAMS[name], tensor(37, 1001)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pirol.PirolWarning)  # it was asked for
        strict = pirol.to_static(program, numerics="strict")
        found, wanted = strict(x), program(x)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())
    report = pirol.explain(strict)
    left = [f.op for f in report.fallbacks if f.why == WHY]
    assert len(left) == 1 and report.groups
    fast = pirol.to_static(program)
    fast(x)
    report = pirol.explain(fast)
    assert not report.fallbacks and "sums in an order of their own: 1 " in str(report)


def test_whole_numbers_have_no_order() -> None:
    counts = paddle.to_tensor(np.arange(60, dtype="int64").reshape(6, 10))

    @pirol.to_static(numerics="strict")
    def total(n: Any) -> Any:
        return (n * 2).sum(0)

    np.testing.assert_array_equal(total(counts).numpy(), 2 * counts.numpy().sum(0))
    assert not pirol.explain(total).fallbacks


def test_in_branches() -> None:
    def program(x: Any) -> Any:
        if x[0, 0] > -100:
            return x.mean(-1) * 3.0
        return x.sum(-1)

    x = tensor(5, 333)
    strict = pirol.to_static(program, numerics="strict")
    np.testing.assert_array_equal(strict(x).numpy(), program(x).numpy())


def test_gradients_are_paddles() -> None:
    def program(x: Any, w: Any) -> Any:
        return paddle.tanh(paddle.matmul(x, w)).mean()

    grads = []
    strict = pirol.to_static(program, numerics="strict")
    for function in (program, strict):
        x, w = tensor(33, 65), tensor(65, 129)
        x.stop_gradient = w.stop_gradient = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pirol.PirolWarning)
            function(x, w).backward()
        grads.append([x.grad.numpy(), w.grad.numpy()])
    for want, got in zip(*grads):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert any(WHY in f.why for f in pirol.explain(strict).fallbacks)


def test_unknown_numerics() -> None:
    with pytest.raises(PirolError, match="got numerics 'exact', expected fast or stri"):
        pirol.to_static(lambda x: x, numerics="exact")
