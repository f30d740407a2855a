"""Gradients in eval mode: as eager's, and made when first asked for."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

import pirol


class Block(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.first = paddle.nn.Linear(4, 8)
        self.norm = paddle.nn.BatchNorm1D(8)
        self.second = paddle.nn.Linear(8, 2)
        self.unused = paddle.nn.Linear(2, 2)

    def forward(self, x: Any) -> Any:
        inner = paddle.tanh(self.norm(self.first(x)))
        return self.second(inner), inner.detach(), (x > 0).astype("int32")


def made(**options: Any) -> tuple[Any, Any]:
    layer = Block()
    layer.norm._mean.set_value(paddle.rand([8]))
    layer.eval()
    fast = pirol.to_static(copy.deepcopy(layer), strict=True, **options)
    return fast, layer


def gradients(layer: Any) -> dict[str, Any]:
    found = {n: p.grad for n, p in layer.named_parameters()}
    layer.clear_gradients(set_to_zero=False)
    return {n: None if g is None else g.numpy() for n, g in found.items()}


def same(fast: Any, eager: Any) -> None:
    found, expected = gradients(fast), gradients(eager)
    for name, want in expected.items():
        assert (found[name] is None) == (want is None), name
        if want is not None:
            np.testing.assert_allclose(found[name], want, 1e-4, 1e-6, err_msg=name)


@pytest.mark.parametrize("spec", [None, [InputSpec([None, 4])]])
def test_parameters_have_gradients(spec: Any) -> None:
    fast, eager = made(input_spec=spec)
    for rows in (3, 5, 3):
        x = paddle.randn([rows, 4])
        outputs = fast(x), eager(x)
        assert [t.stop_gradient for t in outputs[0]] == [False, True, True]
        for got, want in zip(*outputs):
            np.testing.assert_allclose(got.numpy(), want.numpy(), 1e-5, 1e-6)
        for out in outputs:
            (out[0] ** 2).sum().backward()
        same(fast, eager)


def test_the_gradient_is_compiled_when_asked_for() -> None:
    fast, _ = made()
    out = fast(paddle.randn([3, 4]))[0]
    with paddle.no_grad():
        assert fast(paddle.randn([3, 4]))[0].stop_gradient
    report = pirol.explain(fast)
    assert report.compiles == 1
    before = len(report.kernels)
    out.sum().backward()
    assert len(pirol.explain(fast).kernels) > before
    assert report.compiles == 1


def test_several_calls_before_a_walk_and_walks_again() -> None:
    fast, eager = made()
    x, y = paddle.randn([3, 4]), paddle.randn([2, 4])
    for layer in (fast, eager):
        one, two = layer(x)[0], layer(y)[0]
        two.sum().backward(retain_graph=True)
        (one * 2.0).sum().backward()
        (two * two).sum().backward()
    same(fast, eager)
    with pytest.raises(Exception, match="retain_graph"):
        one = fast(x)[0]
        one.sum().backward()
        one.sum().backward()


def test_gradients_of_gradients() -> None:
    """Of a batch norm in eval mode Paddle has none."""
    eager = paddle.nn.Sequential(
        paddle.nn.Linear(4, 8), paddle.nn.Tanh(), paddle.nn.Linear(8, 2)
    )
    eager.eval()
    fast = pirol.to_static(copy.deepcopy(eager), strict=True)
    x, found = paddle.randn([3, 4]), []
    for layer in (fast, eager):
        weight = layer[0].weight
        (first,) = paddle.grad(layer(x).sum(), [weight], create_graph=True)
        (second,) = paddle.grad((first**2).sum(), [weight])
        found.append((first.numpy(), second.numpy()))
    for got, want in zip(*found):
        np.testing.assert_allclose(got, want, 1e-4, 1e-6)


def test_a_parameter_written_since() -> None:
    fast, _ = made()
    out = fast(paddle.randn([3, 4]))[0]
    with paddle.no_grad():
        fast.first.weight.add_(paddle.ones([4, 8]))
    with pytest.raises(RuntimeError, match="written since"):
        out.sum().backward()


def test_training_after_inference() -> None:
    """Steps of an optimizer, the layer in eval mode all along."""
    fast, eager = made()
    for layer in (fast, eager):
        optimizer = paddle.optimizer.Adam(0.01, parameters=layer.parameters())
        x = paddle.linspace(-1.0, 1.0, 12).reshape([3, 4])
        for _ in range(5):
            (layer(x)[0] ** 2).sum().backward()
            optimizer.step()
            optimizer.clear_grad()
    for got, want in zip(fast.parameters(), eager.parameters()):
        np.testing.assert_allclose(got.numpy(), want.numpy(), 1e-4, 1e-6)


class Drawing(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.linear = paddle.nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        return self.linear(x) * paddle.rand([3])


def test_what_is_drawn_is_not_drawn_again() -> None:
    layer = pirol.to_static(Drawing())
    layer.eval()
    x = paddle.ones([1, 3])
    paddle.seed(3)
    out = layer(x)
    factor = out / paddle.nn.functional.linear(
        x, layer.linear.weight, layer.linear.bias
    )
    out.sum().backward()
    np.testing.assert_allclose(layer.linear.bias.grad.numpy(), factor[0].numpy(), 1e-5)


class Elsewhere(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.linear = paddle.nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        return paddle.linalg.slogdet(self.linear(x))[1]


def test_what_paddle_runs_has_gradients_too() -> None:
    layer = pirol.to_static(Elsewhere())
    eager = Elsewhere()
    eager.set_state_dict(layer.state_dict())
    x = paddle.rand([3, 3])
    for one in (layer, eager):
        one.eval()
        one(x).backward()
    same(layer, eager)
