"""Dropouts of a training program that was saved: drawn as those of a captured one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from dropout_masks import SEED
from paddle.static import InputSpec
from test_dropout_kinds import KINDS

import pirol
from pirol.compiler.capture import lines


class Dropped(paddle.nn.Layer):
    def __init__(self, drop: Callable[..., Any], p: float) -> None:
        super().__init__()
        self.drop, self.p = drop, p

    def forward(self, x: Any) -> Any:
        return self.drop(x * x, self.p)


def drawn_by_hand(x: Any, p: float) -> Any:
    keep = paddle.uniform(x.shape, min=0.0, max=1.0) >= p
    return paddle.scale(x, 2.0) * keep.astype(x.dtype)


def saved(drop: Callable[..., Any], shape: list[int], folder: Path) -> tuple[Any, Any]:
    """A captured layer, and the same saved and loaded, both in training."""
    layer = Dropped(drop, 0.4)
    spec = [InputSpec(shape, "float32", "x")]
    paddle.jit.save(
        paddle.jit.to_static(layer, spec, full_graph=True), str(folder / "model")
    )
    loaded = paddle.jit.load(str(folder / "model"))
    loaded.train()
    return pirol.to_static(Dropped(drop, 0.4)), pirol.to_static(loaded)


def run(fast: Any, shape: list[int]) -> list[Any]:
    rng = np.random.default_rng(1)
    x = paddle.to_tensor(rng.normal(size=shape).astype("float32"))
    x.stop_gradient = False
    paddle.seed(SEED)
    y = fast(x)
    (g,) = paddle.grad((y * y).sum(), [x], create_graph=True)
    (h,) = paddle.grad(g.sum(), [x])
    return [v.numpy() for v in (y, g, h, paddle.rand([3]))]


@pytest.mark.parametrize("kind", KINDS)
def test_as_captured(kind: str, tmp_path: Path) -> None:
    drop, shape = KINDS[kind]
    captured, loaded = saved(drop, shape, tmp_path)
    for got, wanted in zip(run(loaded, shape), run(captured, shape), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert not pirol.explain(loaded).fallbacks


@pytest.mark.parametrize("kind", ["axes", "2d"])
def test_sizes_that_are_not_known(kind: str, tmp_path: Path) -> None:
    drop, shape = KINDS[kind]
    captured, loaded = saved(drop, [None, *shape[1:]], tmp_path)
    for rows in (3, 1, 7):
        given = [rows, *shape[1:]]
        for got, wanted in zip(run(loaded, given), run(captured, given), strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert not pirol.explain(loaded).fallbacks


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_what_a_user_draws_is_eagers(tmp_path: Path) -> None:
    _, loaded = saved(drawn_by_hand, [30, 17], tmp_path)
    x, found = paddle.rand([30, 17]), []
    for f in (loaded, Dropped(drawn_by_hand, 0.4)):
        paddle.seed(SEED)
        found.append(f(x).numpy())
    np.testing.assert_allclose(*found, rtol=1e-6)
    assert [f.op for f in pirol.explain(loaded).fallbacks] == ["pd_op.uniform"]


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_a_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "makes_mask", lambda op: False)
    with pytest.raises((AssertionError, RuntimeError)):
        test_as_captured("alpha", tmp_path)
