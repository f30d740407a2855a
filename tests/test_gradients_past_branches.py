"""paddle.grad in a program past an `if` of a tensor, against eager."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

import pirol


def chosen(x: Any, w: Any, s: Any) -> Any:
    scale = w * 2
    if s > 0:
        z = F.tanh(x) * x
        y = z * scale + z
    else:
        y = x * x * x
    return y


def once(x: Any, w: Any, s: Any) -> Any:
    x = x.detach()
    x.stop_gradient = False
    return paddle.grad(chosen(x, w, s).sum(), [x], create_graph=True)[0]


def twice(x: Any, w: Any, s: Any) -> Any:
    x = x.detach()
    x.stop_gradient = False
    g = paddle.grad(chosen(x, w, s).sum(), [x], create_graph=True)[0]
    return paddle.grad((g * g).sum(), [x], create_graph=True)[0]


def overwritten(x: Any, w: Any, s: Any, apart: bool = False) -> Any:
    """What the branch read is another value by then; eager refuses, if not apart."""
    x = x.detach()
    x.stop_gradient = False
    mean, variance = w[0].detach() * 2, paddle.ones([3], w.dtype)
    if s > 0:
        z = F.tanh(x * mean)
        y = z * x
    else:
        y = x * x * x
    mean = mean.clone() if apart else mean
    F.batch_norm(x.detach(), mean, variance, training=True)
    return paddle.grad(y.sum(), [x], create_graph=True)[0] * (mean + w)


def run(f: Any, sign: float, *more: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    x, w = (
        paddle.to_tensor(rng.normal(size=(2, 3)), stop_gradient=False) for _ in "xw"
    )
    found = f(x, w, paddle.to_tensor(sign), *more)
    found.square().sum().backward()
    grad = np.zeros((2, 3)) if w.grad is None else w.grad.numpy()
    return [found.numpy(), grad]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("f", [once, twice, overwritten])
def test_as_eager(f: Any, sign: float) -> None:
    fast = pirol.to_static(f, strict=True)
    more = (True,) if f is overwritten else ()
    for got, wanted in zip(run(fast, sign), run(f, sign, *more), strict=True):
        np.testing.assert_allclose(got, wanted, 1e-9, 1e-12)


def nested(x: Any, w: Any, s: Any) -> Any:
    x = x.detach()
    x.stop_gradient = False
    y = x * x
    if s > 0:
        y = x * w
        if s > 1:
            y = F.tanh(y) * w
    return paddle.grad((y * y).sum(), [x])[0]


def looped(x: Any, w: Any, s: Any) -> Any:
    x = x.detach()
    x.stop_gradient = False
    y, k = x * w, paddle.zeros([], "int64")
    while k < s:
        y = F.tanh(y) * x
        k = k + 1
    return paddle.grad(y.sum(), [x])[0]


def drawn(x: Any, w: Any, s: Any) -> Any:
    x = x.detach()
    x.stop_gradient = False
    y = x * x
    if s > 0:
        y = y * paddle.rand([2, 3], "float64") * w
    return paddle.grad(y.sum(), [x])[0]


@pytest.mark.parametrize(
    "f, why",
    [
        (nested, "paddle.grad past a branch or loop in another (at test_gradients_"),
        (looped, "paddle.grad past a while loop (at test_gradients_past_branches.py:"),
        (drawn, "paddle.grad past a branch that draws (at test_gradients_past_"),
    ],
)
@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_what_is_not_compiled(f: Any, why: str) -> None:
    fast = pirol.to_static(f)
    found = []
    for each in (fast, f):
        paddle.seed(1)
        x, w = paddle.full([2, 3], 0.5, "float64"), paddle.full([2, 3], 2.0, "float64")
        found.append(each(x, w, paddle.to_tensor(2.0)).numpy())
    np.testing.assert_allclose(*found)
    assert pirol.explain(fast).fallbacks[0].why.startswith(why)
