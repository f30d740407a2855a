"""Loops over numbers in tensors, and what Paddle loses of functions on the way."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle
import pytest

import pirol

pytestmark = pytest.mark.filterwarnings("ignore::pirol.PirolWarning")


def counted(x: Any, n: Any) -> Any:
    for i in range(n):
        x = x * 0.5 + i
    return x


def leaps(x: Any, n: Any) -> Any:
    total, last = x * 0.0, 0
    for i in range(1, n, 2):
        if i > 8:
            break
        if i == 3:
            continue
        total, last = total + x * i, i
    return total, last


def two_ends(x: Any, n: Any) -> Any:
    for i in range(n):
        if x.sum() > 40.0:
            break
        x = x + i
        if i == 6:
            break
        if i == 2:
            continue
        x = x * 1.5
    return x


def nested(x: Any, n: Any) -> Any:
    for i in range(n):
        if i == 1:
            continue
        for k in range(n):
            if k == 2:
                continue
            if k > i:
                break
            x = x * 0.5 + k
        if i == 3:
            break
    return x


def known(x: Any, n: Any) -> Any:
    for i in range(6):
        if i == 4:
            break
        if i == 1:
            continue
        x = x + i
    return x * n.astype("float32")


@pytest.mark.parametrize("fn", [counted, leaps, two_ends, nested, known])
def test_loops_with_ends_and_leaps(fn: Callable[..., Any]) -> None:
    fast = pirol.to_static(fn, strict=True)
    for n in (0, 1, 3, 9):
        found = []
        for run in (fast, fn):
            x = paddle.to_tensor([0.5, 1.0, 1.5], stop_gradient=False)
            results = paddle.utils.flatten(run(x, paddle.to_tensor(n)))
            results[0].sum().backward()
            found.append([*map(np.asarray, results), x.grad.numpy()])
        for ours, eagers in zip(*found, strict=True):
            np.testing.assert_allclose(ours, eagers, rtol=1e-6)


def generated(x: Any) -> Any:
    def parts() -> Iterator[Any]:
        for k in range(3):
            yield x * k

    return sum(parts())


def test_a_generator_within_a_function() -> None:
    x = paddle.to_tensor([1.0, 2.0])
    assert pirol.to_static(generated, strict=True)(x).tolist() == [3.0, 6.0]


def half_set(x: Any) -> Any:
    if x.sum() > 0:
        y = x * 2.0
    return y if x.sum() > 0 else x


def seeds(x: Any) -> Any:
    paddle.seed(4)
    return x + paddle.rand([3])


def chance(x: Any) -> Any:
    return x * random.random()


def numpys_chance(x: Any) -> Any:
    return x * 2.0 if np.random.rand() < 0.5 else x


@pytest.mark.parametrize("fn", [half_set, seeds, chance, numpys_chance])
def test_eager_runs_what_no_program_does(fn: Callable[..., Any]) -> None:
    fast, found = pirol.to_static(fn), []
    for run in (fast, fn):
        random.seed(1)
        np.random.seed(1)
        calls = [run(paddle.full([3], k - 1.5)) for k in range(4)]
        found.append([c.numpy() for c in calls])
    np.testing.assert_array_equal(*found)
    (said,) = pirol.explain(fast).fallbacks
    assert said.op == "the call"


def inner_ends(x: Any, n: Any) -> Any:
    for i in range(3):
        for k in range(3):
            if k > i:
                break
            x = x + 1.0
    j = 0
    while j < 2:
        while True:
            if x.shape[0] > j:
                break
        j += 1
    return x


def test_a_loop_that_was_left_begins_anew() -> None:
    x, n = paddle.zeros([3]), paddle.to_tensor(3)
    assert pirol.to_static(inner_ends, strict=True)(x, n).tolist() == [6.0, 6.0, 6.0]


def same_for_both(x: Any, n: Any) -> Any:
    a, b, i = x, x * 2.0, 0
    while i < n:
        i += 1
        a, b = b, a
        b = a
    return a, b


def test_a_variable_becomes_another_that_stays() -> None:
    x, n = paddle.ones([2]), paddle.to_tensor(3)
    found = pirol.to_static(same_for_both, strict=True)(x, n)
    assert [t.tolist() for t in found] == [[2.0, 2.0], [2.0, 2.0]]


def listed(x: Any, n: Any) -> Any:
    every = []
    while x.sum() < 10.0:
        if n > 1:
            x = x * 1.5
            every.append(x)
    return x, sum(every)


def test_eager_runs_loops_that_are_not_compiled() -> None:
    """Paddle's program of such a loop has no gradient."""
    fast, grads = pirol.to_static(listed), []
    for run in (fast, fast, listed):
        x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        sum(run(x, paddle.to_tensor(2))).sum().backward()
        grads.append(x.grad.tolist())
    assert grads[0] == grads[1] == grads[2]
    assert pirol.explain(fast).fallbacks


PARTIAL = """
import gc, paddle, pirol
def f(x, n):
    every = []
    if x.sum() > 0:
        x = x * 2.0
        if n > 3:
            every.append(x)
    return x, sum(every) if every else x
print(pirol.to_static(f)(paddle.ones([3]), paddle.to_tensor(5))[1].tolist())
gc.collect()
print("alive", flush=True)
"""


def test_what_is_left_of_a_capture_does_no_harm(tmp_path: Any) -> None:
    """In a process of its own: Paddle ends it when it frees half a program."""
    path = tmp_path / "partial.py"
    path.write_text(PARTIAL)
    run = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert run.stdout == "[2.0, 2.0, 2.0]\nalive\n" and run.returncode == 0, run.stderr
