"""Dropout in layers, training steps, branches and loops, and what stays Paddle's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from dropout_masks import (
    SEED,
    is_kept,
    mask_of,
    masks,
    numbers,
    twice,
)
from paddle.base import core

import pirol
from pirol.compiler.errors import PirolError, StrictError

# Programs -----------------------------------------------------------------------------


class Net(paddle.nn.Layer):
    """Two layers, each with a dropout."""

    def __init__(self, p: float = 0.2) -> None:
        super().__init__()
        self.first, self.last = paddle.nn.Linear(4, 64), paddle.nn.Linear(64, 1)
        self.drop = paddle.nn.Dropout(p)

    def forward(self, x: Any) -> Any:
        return self.last(self.drop(paddle.tanh(self.first(self.drop(x)))))


@pytest.mark.parametrize("amp", [None, "bfloat16"])
def test_a_whole_step_trains(amp: str | None) -> None:
    paddle.seed(SEED)
    net = Net(0.05)
    adam = paddle.optimizer.Adam(1e-2, parameters=net.parameters())
    step = pirol.train_step(net, paddle.nn.MSELoss(), adam, strict=True, amp=amp)
    x = paddle.rand([256, 4])
    losses = [float(step(x, x.sum(1, keepdim=True))) for _ in range(150)]
    assert losses[-1] < 0.2 * losses[0] and len({*losses}) == 150
    report = pirol.explain(step)
    assert report.compiles == 1 and not report.fallbacks


def test_modes_of_a_layer() -> None:
    net, x = pirol.to_static(Net(0.5)), paddle.rand([8, 4])
    net.eval()
    np.testing.assert_array_equal(net(x).numpy(), net(x).numpy())
    net.train()
    assert (net(x).numpy() != net(x).numpy()).any()


def looped(x: Any, times: Any) -> Any:
    found, row = paddle.zeros([3, 200]), paddle.zeros([1, 200])
    k = paddle.zeros([], "int64")
    while k < times:
        row = F.dropout(x * x, 0.5).unsqueeze(0)
        found = paddle.where((paddle.arange(3) == k).unsqueeze(1), row, found)
        k = k + 1
    return found


def of_turns(p: float, shape: Sequence[int], turns: int) -> list[Any]:
    """The masks of a dropout in a loop, of one key and those that follow it."""
    key = core.default_cpu_generator().random()
    return [mask_of(key + k * 0x9E3779B97F4A7C15, p, shape) for k in range(turns)]


def test_each_turn_of_a_loop_has_a_key() -> None:
    fast, x = pirol.to_static(looped, strict=True), numbers(200)
    paddle.seed(SEED)
    found = fast(x, paddle.to_tensor(3))
    paddle.seed(SEED)
    rows = of_turns(0.5, [200], 3)
    for row, mask in zip(found, rows):
        is_kept(row, mask)
    (g,) = paddle.grad(found.sum(), [x], create_graph=True)
    (h,) = paddle.grad(g.sum(), [x])
    kept = 2.0 * sum(mask.astype("float32") for mask in rows)
    np.testing.assert_allclose(g.numpy(), 2 * x.numpy() * kept, rtol=1e-5)
    np.testing.assert_allclose(h.numpy(), 2 * kept, rtol=1e-5)


def branched(x: Any) -> Any:
    y = F.dropout(x, 0.5)
    if x.sum() > 0:
        y = F.dropout(x * x, 0.5) + y
        if y.sum() > 0:
            y = F.dropout(y, 0.5)
    else:
        y = F.dropout(x * x * x, 0.5)
    return y


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_branches_have_keys_of_their_own(sign: float) -> None:
    fast, x = pirol.to_static(branched, strict=True), numbers(300)
    x = (x * sign).detach()
    x.stop_gradient = False
    paddle.seed(SEED)
    y, later = fast(x), paddle.rand([3])
    y.sum().backward()
    paddle.seed(SEED)
    first, *rest = (2.0 * m for m in masks([0.5] * 4, *[[300]] * 4))
    np.testing.assert_array_equal(later.numpy(), paddle.rand([3]).numpy())
    v, slope = x.numpy(), x.grad.numpy()
    if sign > 0:
        # The key of what lies deepest is drawn with that of what is around it.
        inner, outer = rest[1], rest[0]
        np.testing.assert_allclose(
            y.numpy(), (v * v * outer + v * first) * inner, rtol=1e-5
        )
        np.testing.assert_allclose(slope, (2 * v * outer + first) * inner, rtol=1e-5)
    else:
        np.testing.assert_allclose(y.numpy(), v**3 * rest[2], rtol=1e-5)
        np.testing.assert_allclose(slope, 3 * v**2 * rest[2], rtol=1e-5)


def test_loops_in_branches_and_branches_in_loops() -> None:
    def f(x: Any, times: Any) -> Any:
        k = paddle.zeros([], "int64")
        total = paddle.zeros_like(x)
        if times > 0:
            while k < times:
                if k > 0:
                    total = total + F.dropout(x, 0.5)
                k = k + 1
        return total

    fast, x = pirol.to_static(f, strict=True), numbers(400)
    paddle.seed(SEED)
    y = fast(x, paddle.to_tensor(4))
    y.sum().backward()
    paddle.seed(SEED)
    kept = 2.0 * sum(m.astype("float32") for m in of_turns(0.5, [400], 4)[1:])
    np.testing.assert_allclose(y.numpy(), x.numpy() * kept, rtol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), kept, rtol=1e-5)


CHILD = """
import paddle, pirol
def f(x):
    return paddle.nn.functional.dropout(x * 2.0, 0.3)
fast = pirol.to_static(f, strict=True)
paddle.seed(7)
y = fast(paddle.ones([40, 1000]))
print((y.numpy() != 0).astype("uint8").tobytes().hex())
"""


def test_a_later_process_and_any_threads_have_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIROL_CACHE_DIR", str(tmp_path / "cache"))
    script, found = tmp_path / "child.py", []
    script.write_text(CHILD)
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("PIROL_THREADS", threads)
        run = [sys.executable, str(script)]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(done.stdout.splitlines()[-1])
    assert found[0] == found[1] == found[2]
    paddle.seed(7)
    assert found[0] == masks([0.3], [40, 1000])[0].astype("uint8").tobytes().hex()


# What stays Paddle's ------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_as_eager_draws_it() -> None:
    fast, x = pirol.to_static(twice, random="eager"), paddle.ones([30, 40])
    for _ in range(2):
        found = []
        for f in (fast, twice):
            paddle.seed(SEED)
            found.append([*f(x), *f(x), paddle.rand([3])])
        for one, other in zip(*found):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert {f.op for f in pirol.explain(fast).fallbacks} == {"pd_op.dropout"}
    with pytest.raises(StrictError, match="random numbers"):
        pirol.to_static(twice, random="eager", strict=True)(x)


def test_the_option_is_checked() -> None:
    with pytest.raises(PirolError, match="got random 'philox', expected counter or"):
        pirol.to_static(twice, random="philox")
    with pytest.raises(PirolError, match="train_step: got random 'no'"):
        pirol.train_step(Net(), None, None, random="no")


def test_an_exported_program_goes_on_by_itself(tmp_path: Path) -> None:
    """Each call from the key at which the last one ended."""
    fast, x = pirol.to_static(twice), np.ones((30, 40), "float32")
    with paddle.no_grad():
        fast(paddle.to_tensor(x))
    paddle.seed(SEED)
    pirol.export(fast, tmp_path / "f.pirol")
    paddle.seed(SEED)
    first = core.default_cpu_generator().random()
    run = pirol.load(tmp_path / "f.pirol")
    assert run.input_names == ("x",)
    for begin in (first, 5):
        found = [y for _ in range(3) for y in run(x)]
        for k, y in enumerate(found):
            key = begin + (k + 1) * 0x9E3779B97F4A7C15
            is_kept(paddle.to_tensor(y), mask_of(key, 0.5, x.shape))
        run.seed(5)
    again = pirol.load(tmp_path / "f.pirol")
    assert (again(x)[0] != 0).tolist() == mask_of(
        first + 0x9E3779B97F4A7C15, 0.5, x.shape
    ).tolist()


def test_an_export_of_other_draws(tmp_path: Path) -> None:
    def f(x: Any) -> Any:
        return F.dropout(x, 0.5) * paddle.rand([3])

    fast = pirol.to_static(f)
    with paddle.no_grad():
        fast(paddle.ones([3]))
        with pytest.raises(PirolError, match=r"only Paddle runs: pd_op.uniform \(test"):
            pirol.export(fast, tmp_path / "f.pirol")
        layer = pirol.to_static(paddle.nn.Linear(3, 3))
        layer(paddle.ones([2, 3]))
        pirol.export(layer, tmp_path / "g.pirol")
    with pytest.raises(PirolError, match="draws nothing"):
        pirol.load(tmp_path / "g.pirol").seed(1)


def test_an_encoder_layer() -> None:
    """Attention's dropout among them."""
    layer = paddle.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2)
    fast, x, found = pirol.to_static(layer, strict=True), numbers(2, 8, 16), []
    for seed in (SEED, SEED, SEED + 1):
        paddle.seed(seed)
        y = fast(x)
        y.square().mean().backward()
        found.append([y.numpy(), fast.linear1.weight.grad.numpy()])
        layer.clear_gradients()
    for one, same, other in zip(*found):
        np.testing.assert_array_equal(one, same)
        assert not np.allclose(one, other)


def test_sot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIN_GRAPH_SIZE", "0")
    fast, x = pirol.to_static(twice, full_graph=False, strict=True), paddle.ones([50])
    paddle.seed(SEED)
    found = fast(x)
    assert pirol.explain(fast).compiles == 1
    paddle.seed(SEED)
    for y, mask in zip(found, masks([0.5] * 2, *[[50]] * 2)):
        is_kept(y, mask)
