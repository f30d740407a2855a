"""One of two processes that train a Layer by paddle.DataParallel, run as a script.

It prints, as JSON, how far what both found is from one process with the whole batch:
gradients of a step, gradients that no_sync has kept back, weights after some steps.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn

import pirol

SIZE = 8  # of the whole batch


class Net(nn.Layer):
    """With a parameter that nothing reads, and one that stops its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 16), nn.Linear(16, 2)
        self.unused, self.frozen = nn.Linear(3, 3), nn.Linear(2, 2)
        for p in self.frozen.parameters():
            p.stop_gradient = True

    def forward(self, x: Any) -> Any:
        return self.frozen(self.outer(paddle.tanh(self.inner(x))))


def batches(count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        paddle.to_tensor(rng.normal(size=(SIZE, 4)), "float32") for _ in range(count)
    ]


def backward(model: Callable[[Any], Any], x: Any) -> None:
    model(x).square().mean().backward()


def gradients(layer: Any) -> list[Any]:
    """All, then dropped; None where there is none."""
    found = [None if p.grad is None else p.grad.numpy() for p in layer.parameters()]
    layer.clear_gradients(set_to_zero=False)
    return found


def distance(found: Sequence[Any], exact: Sequence[Any]) -> float:
    """The largest, relative; infinite where one has an array and the other none."""
    if [a is None for a in found] != [b is None for b in exact]:
        return float("inf")
    pairs = [(a, b) for a, b in zip(found, exact) if a is not None]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def trained(model: Callable[[Any], Any], layer: Any, parts: Sequence[Any]) -> list[Any]:
    """The weights after a step on each part of the data."""
    adam = paddle.optimizer.AdamW(1e-2, parameters=layer.parameters())
    for part in parts:
        backward(model, part)
        adam.step()
        adam.clear_grad()
    return [p.numpy() for p in layer.parameters()]


def main() -> None:
    paddle.distributed.init_parallel_env()
    rank = paddle.distributed.get_rank()
    paddle.seed(0)
    layer = Net()
    whole, apart = copy.deepcopy(layer), copy.deepcopy(layer)
    fast = pirol.to_static(layer, strict=True)
    model = paddle.DataParallel(fast, find_unused_parameters=True)
    data = batches(5)
    half = SIZE // 2
    mine = [x[rank * half : (rank + 1) * half] for x in data]

    backward(model, mine[0])
    backward(whole, data[0])
    backward(apart, mine[0])
    exact = gradients(whole)
    found = {"step": distance(gradients(layer), exact)}
    found["alone"] = distance(gradients(apart), exact)
    with model.no_sync():
        backward(model, mine[0])
    backward(model, mine[1])
    for x in data[:2]:
        backward(whole, x)
    found["kept back"] = distance(gradients(layer), gradients(whole))
    weights = trained(whole, whole, data)
    found["trained"] = distance(trained(model, layer, mine), weights)
    found["compiles"] = pirol.explain(fast).compiles
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
