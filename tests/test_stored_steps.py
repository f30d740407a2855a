"""Whole training steps from disk: no pass is run, and they train as new ones do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.compiler import stored
from pirol.compiler.capture import train_step
from pirol.compiler.donate import Donated


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setenv("PIROL_CACHE_DIR", str(place))
    return place


@pytest.fixture
def newly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each step that the passes were run for."""
    seen: list[int] = []
    before = train_step.StepPlans.newly

    def made(*given: Any) -> Any:
        seen.append(1)
        return before(*given)

    monkeypatch.setattr(train_step.StepPlans, "newly", made)
    return seen


def adam(net: Any, **options: Any) -> Any:
    clip = paddle.nn.ClipGradByGlobalNorm(0.5)
    parameters = net.parameters()
    return paddle.optimizer.AdamW(
        1e-2, parameters=parameters, grad_clip=clip, **options
    )


def trained(
    optimizer: Callable[[Any], Any] = adam,
    dropout: float = 0.0,
    random: str = "counter",
) -> tuple[list[Any], Any]:
    """Losses and parameters after some steps of the same beginning."""
    paddle.seed(3)
    net = paddle.nn.Sequential(
        paddle.nn.Linear(6, 16),
        paddle.nn.BatchNorm1D(16),
        paddle.nn.Tanh(),
        paddle.nn.Dropout(dropout),
        paddle.nn.Linear(16, 2),
    )
    step = pirol.train_step(net, paddle.nn.MSELoss(), optimizer(net), random=random)
    x, y = paddle.rand([8, 6]), paddle.rand([8, 2])
    losses = [step(x, y).numpy() for _ in range(4)]
    return [*losses, *(v.numpy() for v in net.state_dict().values())], step


@pytest.mark.parametrize(
    ("dropout", "random"), [(0.0, "counter"), (0.5, "counter"), (0.5, "eager")]
)
def test_a_second_process_runs_no_pass(
    newly: list[int], dropout: float, random: str
) -> None:
    """As far as that can be told in one: a step of its own. (A step that Paddle has a
    part in, as the drawing of a mask as by eager, is made anew.)"""
    first, one = trained(dropout=dropout, random=random)
    again, other = trained(dropout=dropout, random=random)
    paddles = random == "eager"
    assert newly == [1] * (1 + paddles)
    assert bool(pirol.explain(other).fallbacks) == paddles
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert pirol.explain(one).groups == pirol.explain(other).groups


def momentum(net: Any, **options: Any) -> Any:
    return paddle.optimizer.Momentum(1e-2, parameters=net.parameters(), **options)


def test_other_options_are_another_plan(newly: list[int]) -> None:
    others = [
        lambda net: adam(net, beta1=0.8),
        lambda net: adam(net, weight_decay=0.2),
        momentum,
        lambda net: momentum(net, use_nesterov=True),
        lambda net: paddle.optimizer.SGD(1e-2, parameters=net.parameters()),
    ]
    found = [trained(make)[0] for make in (adam, *others)]
    assert len(newly) == 4  # other numbers are no other plan
    again = [trained(make)[0] for make in (adam, *others)]
    assert len(newly) == 4
    for a, b in zip(found, again):
        np.testing.assert_array_equal(a[-1], b[-1])
    assert all(not np.array_equal(found[0][-1], f[-1]) for f in found[1:])


def test_planted_faults_are_found(
    newly: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that has the moments in each other's place."""
    before = stored.donated

    def turned(plan: Any, decided: Donated) -> Any:
        memory = dict(decided.memory)
        one, other = [k for k in memory if plan.buffers[k].type.shape == (6, 16)][-2:]
        memory[one], memory[other] = memory[other], memory[one]
        return before(plan, Donated(memory, decided.places))

    monkeypatch.setattr(stored, "donated", turned)
    with pytest.raises(AssertionError):
        test_a_second_process_runs_no_pass(newly, 0.0, "counter")


def test_a_key_without_the_options_is_found(
    newly: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    key_of = stored.key_of
    monkeypatch.setattr(stored, "key_of", lambda g, s, also="": key_of(g, s))
    with pytest.raises(AssertionError):
        test_other_options_are_another_plan(newly)
