"""Calls under paddle.amp.auto_cast: plans in mixed precision, one for each state."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

import pirol

ULP = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # half of it, of 1
auto_cast = paddle.amp.auto_cast


def chain(x: Any, w: Any) -> Any:
    y = paddle.matmul(x, w)
    z = F.gelu(y * 2.0 + 1.0).transpose([1, 0])
    chances = F.softmax(y) + paddle.exp(y).mean()
    return z, y + x, y * y, chances.sum(), paddle.matmul(chances, w)


def inside(x: Any, w: Any, half: str, level: str, white: str, black: str) -> Any:
    """chain, its casts made by Paddle while it is captured."""
    lists = {"custom_white_list": white.split(), "custom_black_list": black.split()}
    with paddle.amp.auto_cast(dtype=half, level=level, **lists):
        return chain(x, w)


def kept(x: Any, w: Any) -> Any:
    y = paddle.matmul(x, w)
    with paddle.amp.auto_cast(enable=False):
        z = paddle.matmul(y, w)
    return paddle.matmul(z, w)


def pair() -> tuple[Any, Any]:
    paddle.seed(1)
    x, w = paddle.randn([6, 8]), 0.3 * paddle.randn([8, 8])
    w.stop_gradient = False
    return x, w


def ran(function: Any) -> list[tuple[str, str]]:
    """The ops of the last program and the dtypes of what they make, but for casts."""
    graph = pirol.explain(function).stages["capture"]
    return [
        (op.name, op.results[0].dtype)
        for op in graph.ops
        if op.operands and op.name != "pd_op.cast"
    ]


def distance(found: Any, exact: Any) -> float:
    """Relative, by 2-norms."""
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    "level, white, black",
    [
        ("O1", "", ""),
        ("o1", "softmax reduce_sum", "matmul_v2"),
        ("O1", "sum exp", "matmul elementwise_mul"),  # sum, matmul: no names of ops
        ("O2", "reduce_mean", "softmax elementwise_add transpose2"),
        ("OD", "exp", ""),
    ],
)
def test_ops_are_of_the_dtypes_that_paddles_own_casts_give(
    level: str, white: str, black: str
) -> None:
    """Paddle puts casts into programs of bfloat16 on a CPU too, which it cannot run."""
    x, w = pair()
    theirs = pirol.to_static(inside)
    theirs(x, w, "bfloat16", level, white, black)
    ours = pirol.to_static(chain, strict=True)
    lists = {"custom_white_list": white.split(), "custom_black_list": black.split()}
    with auto_cast(dtype="bfloat16", level=level, **lists):
        found, exact = ours(x, w), chain(x, w)
    assert ran(ours) == ran(theirs)
    for one, other in zip(found, exact):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert distance(one, other) < 8 * ULP["bfloat16"]


@pytest.mark.parametrize("gradients", [False, True])
def test_each_state_has_a_plan_of_its_own(gradients: bool) -> None:
    fast = pirol.to_static(chain, strict=True)
    x, w = pair()
    w.stop_gradient = not gradients

    def call() -> Any:
        return fast(x, w)[4].numpy()

    def same(a: Any, b: Any) -> bool:
        return bool((a == b).all())

    plain = call()
    with auto_cast(dtype="bfloat16"):
        first = call()
        assert not same(first, plain)
        with auto_cast(enable=False):
            assert same(call(), plain)
        with auto_cast(level="O0"):
            assert same(call(), plain)
        with auto_cast(dtype="float16"):
            finer = call()
        with auto_cast(dtype="bfloat16", custom_black_list={"matmul_v2"}):
            assert same(call(), plain)
        assert same(call(), first)
    assert same(call(), plain)
    assert abs(finer - plain).max() < abs(first - plain).max() / 2
    assert pirol.explain(fast).compiles == 4


def test_an_inner_auto_cast_holds() -> None:
    x, w = pair()
    fast = pirol.to_static(kept, strict=True)
    with auto_cast(dtype="bfloat16"):
        fast(x, w)
    assert [dtype for _, dtype in ran(fast)] == ["bfloat16", "float32", "bfloat16"]
    option = pirol.to_static(kept, strict=True, amp="bfloat16")
    option(x, w)
    assert ran(option) == ran(fast)


def net() -> Any:
    paddle.seed(2)
    inner = nn.Linear(8, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 1)
    return nn.Sequential(*inner)


@pytest.mark.parametrize("half, level", [("bfloat16", "O1"), ("float16", "O2")])
def test_gradients(half: str, level: str) -> None:
    layer = net()
    eager, fast = copy.deepcopy(layer), pirol.to_static(layer, strict=True)
    x = paddle.randn([64, 8])
    with auto_cast(dtype=half, level=level):
        for part in (fast, eager):
            part(x).square().mean().backward()
    pairs = [(p.grad, q.grad) for p, q in zip(fast.parameters(), eager.parameters())]
    assert all(mine.dtype == other.dtype for mine, other in pairs)
    found, exact = (paddle.concat([g.flatten() for g in gs]) for gs in zip(*pairs))
    assert ULP[half] / 8 < distance(found, exact) < 8 * ULP[half]


def test_a_scaler_around_it() -> None:
    losses = []
    for compiled in (False, True):
        layer = net()
        run = pirol.to_static(layer, strict=True) if compiled else layer
        adam = paddle.optimizer.AdamW(1e-2, parameters=layer.parameters())
        scaler = paddle.amp.GradScaler(init_loss_scaling=1024.0)
        x = paddle.to_tensor(np.random.default_rng(0).normal(size=(64, 8)), "float32")
        for _ in range(40):
            with auto_cast(dtype="float16"):
                loss = (run(x) - x.square().sum(1, keepdim=True)).square().mean()
            scaler.scale(loss).backward()
            scaler.step(adam)
            scaler.update()
            adam.clear_grad()
        losses.append(float(loss))
    assert abs(losses[1] / losses[0] - 1) < 0.05 and losses[0] < 30


def test_other_threads_are_not_under_it() -> None:
    fast = pirol.to_static(kept, strict=True)
    x, w = pair()
    plain, found = fast(x, w), list[Any]()
    with auto_cast(dtype="bfloat16"):
        thread = threading.Thread(target=lambda: found.append(fast(x, w)))
        thread.start()
        thread.join()
        assert distance(fast(x, w), plain) > 0
    assert distance(found[0], plain) == 0


def test_one_that_was_entered_before_pirol_came() -> None:
    fast = pirol.to_static(kept, strict=True)
    x, w = pair()
    plain = fast(x, w)
    with paddle.amp.amp_guard.__wrapped__(dtype="bfloat16"):
        assert distance(fast(x, w), plain) > 0
    assert distance(fast(x, w), plain) == 0


def test_whole_steps() -> None:
    """A step under auto_cast is in mixed precision, one that is not is not."""
    after = []
    for mixed in (False, True):
        layer = net()
        sgd = paddle.optimizer.SGD(0.1, parameters=layer.parameters())
        step = pirol.train_step(layer, F.mse_loss, sgd, strict=True)
        x, y = paddle.randn([16, 8]), paddle.ones([16, 1])
        step(x, y)
        first = [p.numpy() for p in layer.parameters()]
        with auto_cast(enable=mixed, dtype="bfloat16"):
            step(x, y)
        after.append([p.numpy() - q for p, q in zip(layer.parameters(), first)])
    flat = [np.concatenate([a.ravel() for a in found]) for found in after]
    far = np.linalg.norm(flat[1] - flat[0]) / np.linalg.norm(flat[0])
    assert ULP["bfloat16"] / 8 < far < 8 * ULP["bfloat16"]
