"""What tests of whole training steps share: a small layer, batches, comparisons."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn, optimizer

import pirol

Make = Callable[[Any], Any]  # a Layer -> an optimizer


class Small(nn.Layer):
    """Odd sizes, a weight read transposed, one read twice, one not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7, bias_attr=False)
        self.norm = nn.BatchNorm1D(7)
        self.last = nn.Linear(7, 3)
        self.unused = nn.Linear(2, 2)
        self.scale = self.create_parameter([])

    def forward(self, x: Any) -> Any:
        inner = F.tanh(self.norm(self.first(x))) * (1.0 + self.scale)
        return self.last(
            inner + F.tanh(inner @ self.first.weight.T @ self.first.weight)
        )


def data(step: int, rows: int = 6) -> tuple[Any, Any]:
    rng = np.random.default_rng(step)
    x = paddle.to_tensor(rng.normal(size=(rows, 5)).astype(paddle.get_default_dtype()))
    return x, paddle.to_tensor(rng.integers(0, 3, rows))


def pair(make: Make, build: Callable[[], Any] = Small) -> tuple[Any, ...]:
    """A layer and its optimizer, and the same again."""
    paddle.seed(1)
    layer = build()
    plain = copy.deepcopy(layer)
    return layer, make(layer), plain, make(plain)


def eager(layer: Any, steps: Any, batch: tuple[Any, ...], loss: Any) -> float:
    *inputs, labels = batch
    found = loss(layer(*inputs), labels)
    found.backward()
    steps.step()
    steps.clear_grad()
    return float(found)


def states(layer: Any, steps: Any) -> list[Any]:
    """Parameters, buffers and accumulators, in order."""
    found = [*layer.state_dict().values()]
    return found + [v for v in steps.state_dict().values() if hasattr(v, "numpy")]


def same(ours: list[Any], theirs: list[Any], rtol: float) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        scale = float(abs(b).max()) if b.size else 0.0
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol, rtol * scale)


def compare(
    make: Make, count: int = 4, rtol: float = 1e-12, between: Any = None
) -> Any:
    """Some steps of ours and of eager; what compiles ours."""
    layer, ours, plain, theirs = pair(make)
    loss = nn.CrossEntropyLoss()
    step = pirol.train_step(layer, loss, ours, strict=True)
    for k in range(count):
        batch = data(k)
        found, expected = float(step(*batch)), eager(plain, theirs, batch, loss)
        np.testing.assert_allclose(found, expected, rtol)
        if between is not None:
            between(k, layer, ours), between(k, plain, theirs)
    same(states(layer, ours), states(plain, theirs), rtol)
    assert all(p.grad is None for p in layer.parameters())
    return step


def adam(**options: Any) -> Make:
    return lambda layer: optimizer.Adam(0.01, parameters=layer.parameters(), **options)


def adamw(**options: Any) -> Make:
    return lambda layer: optimizer.AdamW(0.01, parameters=layer.parameters(), **options)


def sgd(**options: Any) -> Make:
    return lambda layer: optimizer.SGD(0.1, parameters=layer.parameters(), **options)


def momentum(**options: Any) -> Make:
    return lambda layer: optimizer.Momentum(
        0.1, parameters=layer.parameters(), **options
    )
