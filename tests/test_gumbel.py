"""gumbel_softmax within programs: eager's noise, and the gradient of what is soft."""

from __future__ import annotations

from typing import Any

import paddle
import paddle.nn.functional as F
import pytest
from test_training import close, leaf

import pirol


@pytest.mark.parametrize("rows", [3, None])
@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax(hard: bool, rows: int | None) -> None:
    """With eager's noise, and the gradient of what is soft."""

    def f(x: Any) -> Any:
        return F.gumbel_softmax(x, 0.5, hard, 0) * paddle.arange(4.0)

    spec = paddle.static.InputSpec([rows, 4])
    fast, x = pirol.to_static(f, input_spec=[spec]), leaf(3, 4)
    for seed in (7, 8):
        paddle.seed(seed)
        found = fast(x)
        paddle.seed(seed)
        close(found, f(x))
        (grad,) = paddle.grad(found.sum(), [x])
        paddle.seed(seed)
        noise = -paddle.log(-paddle.log(paddle.uniform([3, 4], min=1e-5, max=1.0)))
        soft = F.softmax((x + noise) / 0.5, 0) * paddle.arange(4.0)
        close(grad, paddle.grad(soft.sum(), [x])[0])
    fallbacks = [f.op for f in pirol.explain(fast).fallbacks]
    assert fallbacks == ["pd_op.uniform"] and pirol.explain(fast).compiles == 1
