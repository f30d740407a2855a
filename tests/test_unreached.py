"""Tensors that nothing of a walk depends on: no gradient, as in eager, not zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import pirol


def heads(x: Any, w: Any, v: Any) -> Any:
    """Two outputs, of a tensor each, and of one."""
    h = paddle.tanh(x)
    return h * w, h * v


def alone(v: Any) -> Any:
    return v.exp()


class Heads(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.body = paddle.nn.Linear(4, 4)
        self.left, self.right = paddle.nn.Linear(4, 2), paddle.nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        h = self.body(x).tanh()
        return self.left(h), self.right(h)


def of_one(f: Any, g: Any, x: Any, w: Any, v: Any) -> Any:
    f(x, w, v)[0].sum().backward()


def of_the_other_then_both(f: Any, g: Any, x: Any, w: Any, v: Any) -> Any:
    left, right = f(x, w, v)
    right.sum().backward(retain_graph=True)
    seen = w.grad
    (left * right).sum().backward()
    return [seen]


def of_two_calls(f: Any, g: Any, x: Any, w: Any, v: Any) -> Any:
    (f(x, w, v)[0] + f(x * 2.0, w, v)[0]).sum().backward()


def beside_others(f: Any, g: Any, x: Any, w: Any, v: Any) -> Any:
    (f(x, w, v)[0] + v.sin()).sum().backward()


def accumulated(f: Any, g: Any, x: Any, w: Any, v: Any) -> Any:
    for k in (0, 1, 0):
        f(x, w, v)[k].sum().backward()


def behind_a_call(f: Any, g: Any, x: Any, w: Any, v: Any) -> Any:
    f(x, w, g(v))[0].sum().backward()


def asked_for(f: Any, g: Any, x: Any, w: Any, v: Any) -> Any:
    left, right = f(x, w, v)
    some = dict(retain_graph=True, allow_unused=True)
    found = paddle.grad(left.sum(), [v, x], **some)
    found += paddle.grad(left.sum(), [v], **some)
    found += paddle.grad(left.sum(), [x, v], create_graph=True, allow_unused=True)
    (right.sum() + found[1].sum()).backward()
    return found


def of_a_middle(f: Any, g: Any, x: Any, w: Any, v: Any) -> Any:
    middle = v * 2.0
    left, _ = f(x, w, middle)
    return paddle.grad(left.sum(), [middle, x], allow_unused=True)


ASKED = [
    *(of_one, of_the_other_then_both, of_two_calls, beside_others, accumulated),
    *(behind_a_call, asked_for, of_a_middle),
]


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("ask", ASKED)
def test_as_eager(ask: Callable[..., Any], dtype: str) -> None:
    fast = [pirol.to_static(f, strict=True) for f in (heads, alone)]
    found = []
    for f, g in ((heads, alone), fast, fast):
        rng = np.random.default_rng(0)
        given = [paddle.to_tensor(rng.normal(size=[2, 3]).astype(dtype)) for _ in "xwv"]
        for t in given:
            t.stop_gradient = False
        asked = ask(f, g, *given)
        found.append([*(t.grad for t in given), *(asked or ())])
    for eager, *ours in zip(*found, strict=True):
        for tensor in ours:
            assert (tensor is None) == (eager is None)
            if eager is not None:
                np.testing.assert_allclose(tensor.numpy(), eager.numpy(), 1e-5, 1e-6)


def test_what_is_not_allowed_to_be_unused_raises() -> None:
    x, w, v = (paddle.ones([2]) for _ in range(3))
    x.stop_gradient = v.stop_gradient = False
    left, _ = pirol.to_static(heads, strict=True)(x, w, v)
    with pytest.raises(ValueError, match="allow_unused"):
        paddle.grad(left.sum(), [v])


def test_an_optimizer_leaves_the_head_that_had_no_loss() -> None:
    found = []
    for compiled in (False, True):
        paddle.seed(0)
        layer = Heads()
        model = pirol.to_static(layer, strict=True) if compiled else layer
        adam = paddle.optimizer.AdamW(
            0.1, parameters=layer.parameters(), weight_decay=0.5
        )
        for k in (0, 0, 1, 0):
            model(paddle.ones([2, 4]))[k].square().mean().backward()
            adam.step()
            adam.clear_grad(set_to_zero=False)
        found.append([p.numpy() for p in layer.parameters()])
    for eager, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, eager, 1e-4, 1e-5)
