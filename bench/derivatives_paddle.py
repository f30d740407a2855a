"""The losses of derivatives_eager.py in Paddle: a Layer of each, eager or compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from pirol.bench.derivatives_eager import LOSSES, Drawn


class Paddle:
    """What the losses call of Paddle."""

    swap = ([0, 2, 1],)
    matmul, sum, mean = paddle.matmul, paddle.sum, paddle.mean
    tanh, exp, cos, sqrt = paddle.tanh, paddle.exp, paddle.cos, paddle.sqrt
    softplus, silu = F.softplus, F.silu

    @staticmethod
    def grad(y: Any, x: Any) -> Any:
        return paddle.grad(y, [x], create_graph=True)[0]

    @staticmethod
    def concat(parts: Sequence[Any]) -> Any:
        return paddle.concat(parts, axis=-1)

    @staticmethod
    def rows(table: Any, places: Any) -> Any:
        found = paddle.gather(table, places.flatten())
        return found.reshape([*places.shape, *table.shape[1:]])


class Loss(paddle.nn.Layer):  # type: ignore[misc]
    """A loss, with its parameters."""

    def __init__(self, name: str, drawn: Drawn) -> None:
        super().__init__()
        self.loss = LOSSES[name]
        for k, array in enumerate(drawn.parameters):
            value = paddle.to_tensor(array)
            made = self.create_parameter(value.shape, dtype=value.dtype)
            made.set_value(value)
            self.add_parameter(f"p{k}", made)

    def forward(self, inputs: Sequence[Any]) -> Any:
        """The loss of the inputs."""
        return self.loss(Paddle, list(self.parameters()), inputs)


def tensors(drawn: Drawn) -> list[Any]:
    """The inputs; those that derivatives are taken by need gradients."""
    found = [paddle.to_tensor(array) for array in drawn.inputs]
    for k in drawn.moving:
        found[k].stop_gradient = False
    return found


def step(layer: Any, inputs: Sequence[Any]) -> Any:
    """The loss; the gradients of its parameters are left in them."""
    layer.clear_gradients(set_to_zero=False)
    for x in inputs:
        x.clear_gradient(set_to_zero=False)
    loss = layer(inputs)
    loss.backward()
    return loss


def results(layer: Any, inputs: Sequence[Any]) -> list[Any]:
    """The loss and the gradients of a step, as arrays; zeros where there is none."""
    loss = step(layer, inputs)
    grads = [
        np.zeros(p.shape) if p.grad is None else p.grad.numpy()
        for p in layer.parameters()
    ]
    return [loss.numpy(), *grads]
