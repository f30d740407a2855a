"""What SOT captures (full_graph=False) does what eager does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import pirol

pytestmark = pytest.mark.filterwarnings("ignore::pirol.PirolWarning")


def row(x: Any) -> Any:
    y = x * 2.0
    z = y[0]
    z[0] = 5.0
    return y


def detached(x: Any) -> Any:
    y = x.detach()
    y[0] = 1.0
    return x * y


def flat(x: Any) -> Any:
    y = x * 1.0
    a = y.reshape([-1])
    a[0] = 9.0
    return y, a


def in_place(x: Any) -> Any:
    y = x * 2.0
    y[0] = 3.0
    y += 1.0
    y.add_(paddle.ones([1]))
    z = y + x
    y.clip_(0.0, 1.0)
    return y, z


def copied(x: Any) -> Any:
    return x.clone(), x * 1.0


def exact(x: Any) -> Any:
    return x.astype("float64") * 0.1 + 1e-12


def bools(x: Any) -> Any:
    return (x > 0.0) + True, x * 1.0


EAGERS = (row, detached, flat)


@pytest.mark.parametrize("fn", [*EAGERS, in_place, copied, exact, bools])
def test_as_eager(fn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIN_GRAPH_SIZE", "0")
    fast = pirol.to_static(fn, full_graph=False)
    for seed in range(3):
        given = np.random.default_rng(seed).normal(size=(3, 3)).astype("float32")
        found = []
        for run in (fast, fn):
            x = paddle.to_tensor(given, stop_gradient=False)
            results = paddle.utils.flatten(run(x))
            floats = [t for t in results if t.dtype != paddle.bool]
            sum(t.sum().astype("float64") for t in floats).backward()
            floats[0].add_(paddle.ones_like(floats[0]).detach())
            found.append([*results, x, x.grad])
        for ours, eagers in zip(*found, strict=True):
            assert ours.dtype == eagers.dtype
            close = 1e-14 if ours.dtype == paddle.float64 else 1e-6
            np.testing.assert_allclose(ours.numpy(), eagers.numpy(), rtol=close)
    report = pirol.explain(fast)
    assert bool(report.fallbacks) == (fn in EAGERS)
    assert bool(report.compiles) == (fn not in EAGERS)
