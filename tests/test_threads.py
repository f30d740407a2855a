"""Compiled functions in several threads at once, and in forked children."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

import pirol
from pirol.compiler.errors import PirolWarning

warnings.simplefilter("ignore", PirolWarning)


def attended(x: Any, w: Any) -> Any:
    return paddle.exp((x @ w) * 0.1).sum(axis=0) * 2.0


def placed(x: Any, w: Any) -> Any:
    """With an op that Paddle runs: its executor is not for two threads at once."""
    return paddle.nonzero(x > w[0, 0]).astype("float32").sum(axis=0) + x.sum()


def at_once(call: Callable[[int], None], count: int = 8) -> None:
    """Let `count` threads begin together; raises what one of them raised."""
    start, errors = threading.Barrier(count), []

    def work(k: int) -> None:
        start.wait()
        try:
            call(k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("function", [attended, placed])
def test_eight_threads_call_one_function(function: Any, gradients: bool) -> None:
    specs = [InputSpec([None, 64], "float32"), InputSpec([64, 96], "float32")]
    fast = pirol.to_static(function, input_spec=specs)
    w = paddle.randn([64, 96])
    w.stop_gradient = not gradients
    inputs = [paddle.randn([64 * k + 1, 64]) for k in range(8)]
    expected = [function(x, w).numpy() for x in inputs]
    fast(inputs[0], w)

    def call(k: int) -> None:
        for _ in range(20):
            found = fast(inputs[k], w).numpy()
            np.testing.assert_allclose(found, expected[k], rtol=1e-4, atol=1e-4)

    at_once(call)
    assert pirol.explain(fast).compiles == 1


def told(x: Any) -> Any:
    return x * 5.0 + 1.0


def test_a_forked_child_calls_and_compiles() -> None:
    x, w = paddle.randn([512, 64]), paddle.randn([64, 96])
    fast, fresh = pirol.to_static(attended), pirol.to_static(told)
    expected = attended(x, w).numpy(), told(x).numpy()
    fast(x, w)
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()

    def child() -> None:
        found = fast(x, w).numpy(), fresh(x).numpy()
        answers.put([np.allclose(a, b, rtol=1e-4) for a, b in zip(found, expected)])

    process = context.Process(target=child)
    process.start()
    process.join(120)
    hangs = process.exitcode is None
    if hangs:
        process.kill()
    assert not hangs and answers.get(timeout=5) == [True, True]
    np.testing.assert_allclose(fast(x, w).numpy(), expected[0], rtol=1e-5)


class Rows(paddle.io.Dataset):  # type: ignore[misc]
    """Items that a compiled function makes, in the loader's workers."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def __len__(self) -> int:
        return 8

    def __getitem__(self, at: int) -> Any:
        return self.make(paddle.full([256], float(at))).numpy()


@pytest.mark.full
def test_a_data_loader_with_workers() -> None:
    fast = pirol.to_static(told)
    fast(paddle.ones([256]))
    loader = paddle.io.DataLoader(Rows(fast), batch_size=2, num_workers=2)
    batches = [b[0] if isinstance(b, list) else b for b in loader]
    found = np.concatenate([b.numpy() for b in batches])
    np.testing.assert_array_equal(found[:, 0], np.arange(8) * 5.0 + 1.0)
