"""What a training call does in Python besides the plans, and what it may leave out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.jit.dy2static.program_translator import ASTStaticFunction
from paddle.static import InputSpec

import pirol
from pirol.compiler.capture import training


class Net(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.net = paddle.nn.Sequential(
            paddle.nn.Linear(4, 8), paddle.nn.Tanh(), paddle.nn.Linear(8, 1)
        )

    def forward(self, x: Any) -> Any:
        return (self.net(x) ** 2).mean()


def gradients(layer: Any, x: Any) -> list[Any]:
    layer(x).backward()
    found = [p.grad.numpy() for p in layer.parameters()]
    layer.clear_gradients()
    return found


def test_a_small_models_training_call_leaves_paddles_key_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = Net(), paddle.rand([8, 4])
    wanted = gradients(net, x)
    fast = pirol.to_static(net)
    first = gradients(fast, x)
    monkeypatch.setattr(
        ASTStaticFunction, "_perform_call", lambda *a, **k: pytest.fail("Paddle's way")
    )
    again = gradients(fast, x)
    for got, same, exact in zip(first, again, wanted):
        np.testing.assert_array_equal(got, same)
        np.testing.assert_allclose(got, exact, 1e-5, 1e-6)


def aliased(x: Any, y: Any) -> Any:
    z = x * y
    return x, z, z


def test_outputs_that_are_inputs_or_each_other_are_tensors_of_their_own() -> None:
    fast = pirol.to_static(aliased)
    x, y = (paddle.rand([3]) for _ in range(2))
    x.stop_gradient = False
    for _ in range(3):
        given, z, again = fast(x, y)
        assert given is not x
        (given * 2 + z * 3 + again).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), 2 + 4 * y.numpy(), 1e-6)
        x.clear_grad()


def squared(x: Any) -> Any:
    y = paddle.exp(x)
    return y, y * y


@pytest.mark.parametrize("written", [0, 1])
def test_an_output_that_was_kept_and_written_is_told(written: int) -> None:
    """exp's result is kept for backward; y * y is not."""
    fast = pirol.to_static(squared)
    x = paddle.rand([3])
    x.stop_gradient = False
    for _ in range(3):
        found = fast(x)
        with paddle.no_grad():
            found[written].add_(paddle.ones([3]))
        if written:
            found[0].sum().backward()
            continue
        with pytest.raises(RuntimeError, match="version"):
            found[1].sum().backward()


def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that are taken for nobody else's."""
    monkeypatch.setattr(training.Trained, "keeps_apart", lambda self: True)
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
        test_outputs_that_are_inputs_or_each_other_are_tensors_of_their_own()
        test_an_output_that_was_kept_and_written_is_told(0)


def softmax(x: Any) -> Any:
    return paddle.nn.functional.softmax(x)


def floored(x: Any) -> Any:
    return x // 0.3, paddle.ones_like(x), x * 2


def test_an_output_has_a_gradient_where_eagers_has_one() -> None:
    """Of softmax of no dims zeros; of quotients rounded down none."""
    for fn, shape in ((softmax, []), (floored, [3])):
        fast, found = pirol.to_static(fn, strict=True), []
        for run in (fast, fn):
            x = paddle.ones(shape)
            x.stop_gradient = False
            ends = run(x)
            ends = ends if isinstance(ends, tuple) else (ends,)
            paddle.autograd.backward([e for e in ends if not e.stop_gradient])
            found.append(([e.stop_gradient for e in ends], x.grad.numpy().tolist()))
        assert found[0] == found[1]


def summed(x: Any) -> Any:
    return x.sum() + x.exp().max(axis=1).sum()


def test_a_gradient_of_nothing_has_its_shape() -> None:
    x = paddle.zeros([0, 3])
    x.stop_gradient = False
    pirol.to_static(summed, strict=True)(x).backward()
    assert x.grad.shape == [0, 3]


def test_gradients_of_inputs_in_eval_mode() -> None:
    found = []
    for compiled in (True, False):
        paddle.seed(0)
        layer = Net()
        layer.eval()
        run = pirol.to_static(layer, strict=True) if compiled else layer
        x = paddle.ones([2, 4])
        x.stop_gradient = False
        for _ in range(3):
            grads = gradients(run, x)
        found.append([x.grad.numpy(), *grads])
        run.train()
        found[-1] += gradients(run, x)
    for ours, eager in zip(*found, strict=True):
        np.testing.assert_allclose(ours, eager, 1e-5)


def test_a_grouped_convolution_of_any_batch() -> None:
    """The kernel of its weight's gradient is told the sizes that it goes along."""
    eager = paddle.nn.Conv2D(4, 4, 3, groups=4)
    kind = InputSpec([None, 4, 8, 8], stop_gradient=False)
    fast = pirol.to_static(copy.deepcopy(eager), input_spec=[kind], strict=True)
    for count in (3, 7):
        x = np.random.default_rng(count).normal(size=(count, 4, 8, 8)).astype("float32")
        found = []
        for layer in (fast, eager):
            layer.clear_gradients()
            layer(paddle.to_tensor(x, stop_gradient=False)).square().mean().backward()
            found.append([p.grad.numpy() for p in layer.parameters()])
        for ours, theirs in zip(*found):
            np.testing.assert_allclose(ours, theirs, 1e-4, 1e-5)
