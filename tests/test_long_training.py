"""A thousand steps of training: eager's losses within noise, no growth of memory."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

import pirol
from pirol.bench.derivatives_eager import draw
from pirol.bench.derivatives_paddle import Loss, tensors
from pirol.bench.training import Encoder

STEPS, LOOKED_AT = 1000, 200  # memory is looked at from then on
Losses = Callable[[Any], Any]


def encoder() -> tuple[Any, Losses]:
    paddle.seed(0)
    words = paddle.randint(0, 50, [8, 16])
    labels = (words + 1) % 50

    def loss(model: Any) -> Any:
        return F.cross_entropy(model(words).flatten(0, 1), labels.flatten())

    return Encoder(1, 64, 50), loss


def burgers() -> tuple[Any, Losses]:
    drawn = draw("burgers", small=True)
    inputs = tensors(drawn)
    return Loss("burgers", drawn), lambda model: model(inputs)


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def trained(model: Any, layer: Any, loss: Losses) -> tuple[Any, int]:
    """The losses, and by how much memory grew after the first steps."""
    adam = paddle.optimizer.Adam(1e-3, parameters=layer.parameters())
    losses, before = [], 0
    for k in range(STEPS):
        if k == LOOKED_AT:
            gc.collect()
            before = resident()
        found = loss(model)
        found.backward()
        adam.step()
        adam.clear_grad()
        losses.append(float(found))
    gc.collect()
    return np.array(losses), resident() - before


@pytest.mark.slow
@pytest.mark.parametrize("make", [encoder, burgers])
def test_a_thousand_steps(make: Callable[[], tuple[Any, Losses]]) -> None:
    """Noise is what the same eager run differs by, from weights a rounding away."""
    layer, loss = make()
    eager, near = copy.deepcopy(layer), copy.deepcopy(layer)
    with paddle.no_grad():
        for p in near.parameters():
            p.set_value(p * (1 + 2.0**-23))
    fast = pirol.to_static(layer, strict=True)
    ours, growth = trained(fast, layer, loss)
    theirs, _ = trained(eager, eager, loss)
    others, _ = trained(near, near, loss)
    noise = np.abs(others / theirs - 1).max()
    assert np.abs(ours / theirs - 1).max() < max(1e-3, 4 * noise)
    assert theirs[-1] < 0.5 * theirs[0]
    assert growth < 8 << 20
    assert pirol.explain(fast).compiles == 1
