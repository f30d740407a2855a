"""compile="async": Paddle runs the calls until a plan is there; then the plan does."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.compiler.capture import plans, training
from pirol.compiler.capture.ahead import Ahead
from pirol.compiler.errors import PirolError, PirolWarning, StrictError

WAIT = 300  # seconds, on a busy machine


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIROL_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Kernels' texts are made only once it is set."""
    opened = threading.Event()
    for module in (plans, training):
        before = module.generate

        def generate(plan: Any, before: Any = before) -> Any:
            assert threading.current_thread().name == "pirol-compile"
            assert opened.wait(WAIT)
            return before(plan)

        monkeypatch.setattr(module, "generate", generate)
    yield opened
    opened.set()


def until_compiled(function: Any, call: Callable[[], Any], plans: int = 1) -> Any:
    """What the first call gives that so many plans are there for."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        found = call()
        if pirol.explain(function).compiles == plans:
            return found
        time.sleep(0.02)
    raise AssertionError("no plan came")


def curve(x: Any) -> Any:
    """Something to compile."""
    return paddle.tanh(x * 2.0 + 1.0).sum(-1)


def test_paddle_runs_until_the_plan_is_there(gate: threading.Event) -> None:
    fast = pirol.to_static(curve, compile="async")
    x = paddle.rand([5, 7])
    with warnings.catch_warnings():
        warnings.simplefilter("error", PirolWarning)
        for _ in range(3):
            np.testing.assert_allclose(fast(x), curve(x), rtol=1e-6)
        report = pirol.explain(fast)
        assert (report.compiles, report.ahead, report.fallbacks) == (0, 1, [])
        assert "in the background: 1 plan(s)" in str(report)
        gate.set()
        found = until_compiled(fast, lambda: fast(x))
    np.testing.assert_allclose(found, curve(x), rtol=1e-6)
    assert (report.ahead, report.coverage[0]) == (0, report.coverage[1])
    assert "in the background" not in str(report)


def test_a_plan_on_disk_serves_the_first_call() -> None:
    x = paddle.rand([5, 7])
    pirol.to_static(curve)(x)
    fast = pirol.to_static(curve, compile="async")
    fast(x)
    assert pirol.explain(fast).compiles == 1


def test_sizes_that_no_plan_is_for_begin_another(gate: threading.Event) -> None:
    """Sizes that a None dim broadcasts by are a class of their own."""

    def add(x: Any, y: Any) -> Any:
        return x + y

    spec = [paddle.static.InputSpec([None], "float32")] * 2
    fast = pirol.to_static(add, input_spec=spec, compile="async")
    gate.set()
    many, one = paddle.rand([4]), paddle.rand([1])
    until_compiled(fast, lambda: fast(many, many))
    found = until_compiled(fast, lambda: fast(many, one), plans=2)
    np.testing.assert_array_equal(found, many + one)


def test_gradients_come_from_both(gate: threading.Event) -> None:
    layer = paddle.nn.Sequential(paddle.nn.Linear(4, 8), paddle.nn.Tanh())
    fast = pirol.to_static(layer, compile="async")
    x = paddle.rand([3, 4])

    def step() -> Any:
        layer.clear_gradients()
        fast(x).square().sum().backward()
        return [p.grad.numpy() for p in layer.parameters()]

    theirs = step()
    assert pirol.explain(fast).compiles == 0
    gate.set()
    ours = until_compiled(fast, step)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_failure_in_the_background_is_told() -> None:
    def fails(graph: Any) -> Any:
        raise ValueError("no such thing")

    x = paddle.rand([5, 7])
    fast = pirol.to_static(curve, compile="async", passes=[fails])
    with pytest.warns(PirolWarning, match="no such thing"):
        end = time.monotonic() + WAIT
        while not pirol.explain(fast).fallbacks and time.monotonic() < end:
            np.testing.assert_allclose(fast(x), curve(x), rtol=1e-6)
    strict = pirol.to_static(curve, compile="async", passes=[fails], strict=True)
    with pytest.raises(StrictError, match="no such thing"):
        until_compiled(strict, lambda: strict(x))


def test_another_word_is_refused() -> None:
    with pytest.raises(PirolError, match="expected sync or async"):
        pirol.to_static(curve, compile="later")


def test_a_child_makes_what_its_parent_was_making() -> None:
    held = threading.Event()
    parent = os.getpid()

    def make() -> int:
        if os.getpid() == parent:
            held.wait(WAIT)
        return 7

    ahead = Ahead(make, {})
    child = os.fork()
    if not child:
        os._exit(ahead.result() if ahead.done else 1)
    assert not ahead.done
    held.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    ahead.thread.join()
    assert ahead.done and ahead.result() == 7
