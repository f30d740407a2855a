"""Gradients, of any order, of what a mask takes out of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

import pirol
from pirol.prim.decomp import gradients

CASES: dict[str, Callable[[Any], Any]] = {
    "masked_select": lambda x: paddle.masked_select(x, x > 0.2).sin(),
    "by a mask": lambda x: x[x > 0.2].exp(),
    "rows": lambda x: x[x[:, 0] > 0.2].sin(),
    "nothing": lambda x: paddle.masked_select(x, x > 9.0).sin(),
    "all": lambda x: paddle.masked_select(x, x > -9.0).sin(),
    "broadcast": lambda x: paddle.masked_select(x, x[:1] > 0.2).sin(),
}


def walked(f: Any, given: Any, again: bool) -> list[Any]:
    x = paddle.to_tensor(given)
    x.stop_gradient = False
    y = f(x)
    (g,) = paddle.grad(y.sum(), [x], create_graph=again)
    found = [y, g]
    if again:
        found += paddle.grad((g.tanh() * x).sum(), [x])
    return [v.numpy() for v in found]


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
@pytest.mark.parametrize("name", CASES)
def test_as_eager(name: str) -> None:
    f, again = CASES[name], name != "broadcast"  # (which Paddle differentiates once)
    spec = [InputSpec([None, 4], "float64")]
    fast, rng = (
        pirol.to_static(lambda x: f(x), input_spec=spec),
        np.random.default_rng(4),
    )
    for rows in (5, 3, 8):
        given = rng.normal(size=(rows, 4))
        for got, wanted in zip(walked(fast, given, again), walked(f, given, again)):
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    own = gradients.GRADIENTS["pd_op.masked_select", 1]
    monkeypatch.delitem(gradients.GRADIENTS, ("pd_op.masked_select", 1))
    assert own.operands == ("x", "mask")
    with pytest.raises(Exception, match="gradient"):
        test_as_eager("masked_select")
