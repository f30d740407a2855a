"""Recurrent layers of any cell: as eager runs them, with gradients."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn as nn
import pytest

import pirol
from pirol.compiler.capture import unrolled
from pirol.compiler.errors import PirolWarning

warnings.simplefilter("ignore", PirolWarning)
DATA = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
LAYERS: dict[str, Callable[[], Any]] = {
    "lstm": lambda: nn.RNN(nn.LSTMCell(4, 6)),
    "reversed": lambda: nn.RNN(nn.GRUCell(4, 6), is_reverse=True),
    "time first": lambda: nn.RNN(nn.SimpleRNNCell(4, 6), time_major=True),
    "both ways": lambda: nn.BiRNN(nn.GRUCell(4, 6), nn.GRUCell(4, 6)),
}


def results(layer: Any, run: Any, lengths: Any) -> list[Any]:
    """The outputs, states and gradients."""
    x = paddle.to_tensor(DATA, stop_gradient=False)
    found = paddle.utils.flatten(run(x, None, lengths))
    paddle.add_n([v.square().sum() for v in found]).backward()
    grads = [x.grad, *(p.grad for p in layer.parameters())]
    return [v.numpy() for v in (*found, *grads)]


@pytest.mark.parametrize("lengths", [None, [5, 2, 3]])
@pytest.mark.parametrize("name", LAYERS)
def test_as_eager(name: str, lengths: Any) -> None:
    if name == "time first" and lengths:
        lengths = [3, 1, 2, 3, 1]
    lengths = None if lengths is None else paddle.to_tensor(lengths)
    eager = LAYERS[name]()
    compiled = copy.deepcopy(eager)
    ours = results(compiled, pirol.to_static(compiled, strict=True), lengths)
    for got, wanted in zip(ours, results(eager, eager, lengths), strict=True):
        np.testing.assert_allclose(got, wanted, 1e-4, 1e-5)


def test_a_long_one_stays_a_loop_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrolled, "FEW", 4)
    layer = LAYERS["lstm"]()
    layer.eval()
    fast, x = pirol.to_static(copy.deepcopy(layer)), paddle.to_tensor(DATA)
    with paddle.no_grad():
        np.testing.assert_allclose(fast(x)[0].numpy(), layer(x)[0].numpy(), 1e-5, 1e-6)
    assert "array_write" in pirol.explain(fast).fallbacks[0].why
