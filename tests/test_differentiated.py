"""paddle.grad in a program, by values whose makers have no gradient of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.compiler.capture import differentiated

F = paddle.nn.functional
MAKERS: dict[str, Callable[[Any], Any]] = {
    "detach": lambda x: x.detach(),
    "detached of what is made": lambda x: (x * 2).detach(),
    "one of a split": lambda x: paddle.split(x, 2)[1].tile([2, 1]).split(2)[0],
    "one of unbind": lambda x: paddle.stack([x, x * 2]).unbind(0)[1],
    "one hot": lambda x: F.one_hot(paddle.argmax(x, 1), 4),
    "what has a gradient": lambda x: paddle.floor(x * 3) / 2,
    "ones": lambda x: paddle.ones([4, 4]),
}
USES: dict[str, Callable[..., Any]] = {
    "a product with itself": lambda z, w: z * z.sum() * w[: z.shape[0]],
    "residual": lambda z, w: paddle.matmul(z, w) + z,
    "once": lambda z, w: z * 3,
}


def compare(run: Callable[..., Any], *given: Any) -> None:
    """Against eager Paddle."""
    fast = pirol.to_static(run, strict=True)
    for found, wanted in zip(fast(*given), run(*given), strict=True):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-5)


def gradient(make: Callable[[Any], Any], use: Callable[..., Any]) -> Any:
    def run(x: Any, w: Any) -> Any:
        z = make(x)
        z.stop_gradient = False
        y = use(z, w)
        return paddle.grad(y.square().sum(), [z])[0], z

    return run


def given() -> list[Any]:
    rng = np.random.default_rng(0)
    return [paddle.to_tensor(rng.normal(size=(4, 4)).astype("float32")) for _ in "xw"]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("make", MAKERS)
def test_readers_are_added_up(make: str, use: str) -> None:
    compare(gradient(MAKERS[make], USES[use]), *given())


def descent(x: Any, w: Any) -> Any:
    for _ in range(3):
        x = x.detach()
        x.stop_gradient = False
        loss = (paddle.tanh(x) * w + x**3).sum()
        x = x - 0.1 * paddle.grad(loss, [x])[0]
    return (x,)


def test_descent() -> None:
    compare(descent, *given())


def higher(x: Any, w: Any) -> Any:
    x = x.detach()
    x.stop_gradient = False
    y = (paddle.tanh(x) * x * w).sum()
    a = paddle.grad(y, [x], create_graph=True)[0]
    b = paddle.grad((a * x).sum() + (x**3).sum(), [x], create_graph=True)[0]
    return a, b, paddle.grad((b * x).sum(), [x])[0]


def test_higher_orders() -> None:
    compare(higher, *given())


def test_a_result_that_is_the_value_itself() -> None:
    def run(x: Any, w: Any) -> Any:
        x = x.detach()
        x.stop_gradient = False
        return tuple(paddle.grad([x, x * w], [x]))

    compare(run, *given())


def test_batch_norm_in_use() -> None:
    """Its gradient takes what the forward pass saved of the batch, in training."""

    def run(x: Any, scale: Any, bias: Any) -> Any:
        ends = [v.detach() for v in (x, scale, bias)]
        for v in ends:
            v.stop_gradient = False
        mean, variance = paddle.full([4], 0.5), paddle.full([4], 2.0)
        y = F.batch_norm(ends[0], mean, variance, *ends[1:])
        return tuple(paddle.grad((y * y).sum(), ends))

    x, *_ = given()
    compare(run, x.reshape([2, 4, 2, 1]), x[0] + 0.0, x[1] + 0.0)


def test_parameters_are_inputs() -> None:
    """As in eager; Paddle's own takes values of the program only."""
    paddle.seed(1)
    net = paddle.nn.Sequential(
        paddle.nn.Linear(4, 8), paddle.nn.Tanh(), paddle.nn.Linear(8, 1)
    )

    def run(x: Any, w: Any) -> Any:
        x = x.detach()
        x.stop_gradient = False
        slope = paddle.grad(net(x).sum(), [x], create_graph=True)[0]
        weights = [p for p in net.parameters() if p.shape != [1]]
        return paddle.grad((slope * slope * w).sum(), weights, allow_unused=True)[:2]

    compare(run, *given())


def test_an_input_that_does_not_count() -> None:
    def run(x: Any, w: Any, allowed: bool) -> Any:
        ends = x.detach(), w.detach()
        for v in ends:
            v.stop_gradient = False
        found = paddle.grad((ends[0] * 2).sum(), ends, allow_unused=allowed)
        return found[0], found[1] is None

    fast = pirol.to_static(run)
    assert fast(*given(), True)[1] is True
    for each in (fast, run):
        with pytest.raises((ValueError, RuntimeError), match="allow_unused"):
            each(*given(), False)


@pytest.mark.parametrize("on", [False, True])
def test_gradients_go_on_with_create_graph_alone(on: bool) -> None:
    def run(x: Any, w: Any) -> Any:
        slope = paddle.grad((paddle.tanh(x) * w).sum(), [x], create_graph=on)[0]
        return (slope * slope).sum() + (w * 0.0).sum(), slope

    found = []
    for each in (pirol.to_static(run, strict=True), run):
        x, w = given()
        x.stop_gradient = w.stop_gradient = False
        loss, slope = each(x, w)
        assert slope.stop_gradient is not on
        loss.backward()
        found.append([None if v.grad is None else v.grad.numpy() for v in (x, w)])
    (ours, of_w), (theirs, exact_w) = found
    assert (ours is None) == (theirs is None) == (not on)
    np.testing.assert_allclose(of_w, exact_w, rtol=1e-4, atol=1e-6)
    if on:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differentiated, "_copied", lambda value: value)
    with pytest.raises(AssertionError):
        compare(gradient(MAKERS["detach"], USES["residual"]), *given())
