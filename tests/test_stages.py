"""Stages: long lanes taken apart give what they gave whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import c_text, run_c, steps_of

from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels import stages
from pirol.kernels.kernel import Array, Kernel, Loop, Put, statements_of
from pirol.prim import Builder

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
DATA = np.random.default_rng(5)
SHAPES = ((1, 7), (3, 255), (2, 257), (1, 1030), (300, 3), (0, 5))


def chain(b: Builder, x: Any, y: Any) -> Any:
    for name in ("tanh", "exp", "abs", "sigmoid", "erf"):
        x = b.add(b.mul(getattr(b, name)(x), y), x)
    return x


def cheap(b: Builder, x: Any, y: Any) -> Any:
    for _ in range(30):
        x = b.add(b.mul(x, 0.5), y)
    return x


def several(b: Builder, x: Any, y: Any) -> list[Any]:
    """What early stages compute is stored too, and needed by the last one."""
    first = b.exp(b.neg(x))
    second = b.log1p(b.tanh(first))
    third = b.cast(b.lt(second, y), dtype="int32")
    return [first, chain(b, second, y), third, b.mul(first, b.sigmoid(second))]


def sums(axis: int) -> Callable[..., list[Any]]:
    def make(b: Builder, x: Any, y: Any) -> list[Any]:
        return [b.reduce_max(chain(b, x, y), axes=(axis,))]

    return make


def shares(b: Builder, x: Any, y: Any) -> list[Any]:
    """Two passes over a row, both long."""
    deep = chain(b, x, y)
    top = b.reduce_max(deep, axes=(1,))
    top = b.broadcast(top, shape=x.shape, dims=(0,))
    return [chain(b, b.sub(deep, top), y)]


def taken(b: Builder, x: Any, y: Any) -> list[Any]:
    """Places that a stage computes."""
    wide = b.cast(b.mul(chain(b, x, y), 3.0), dtype="int64")
    row = b.iota(axis=0, shape=x.shape, dtype="int64")
    return [chain(b, b.gather(x, row, wide, shape=x.shape, dims=(-1, -1)), y)]


def running(b: Builder, x: Any, y: Any) -> list[Any]:
    """What each step stores the next one reads."""
    return [chain(b, b.cumsum(x, axis=1), y)]


CASES: dict[str, Callable[..., Any]] = {
    "chain": lambda *args: [chain(*args)],
    "cheap": lambda *args: [cheap(*args)],
    "several": several,
    "rows": sums(1),
    "columns": sums(0),
    "shares": shares,
    "taken": taken,
    "running": running,
}


def graph_of(name: str, shape: tuple[int, ...], dtype: str) -> tuple[Graph, list[Any]]:
    b = Builder()
    inputs = [b.input(TensorType(shape, dtype)) for _ in range(2)]
    graph = b.graph("f", CASES[name](b, *inputs))
    arrays = [DATA.uniform(-2, 2, shape).astype(dtype) for _ in inputs]
    for array in arrays:
        array[DATA.random(shape) < 0.03] = DATA.choice([np.nan, np.inf, -0.0])
    return graph, arrays


def in_stages(kernel: Kernel) -> bool:
    names = (s.name for s in statements_of(kernel) if isinstance(s, Array))
    return any(name.startswith("v") for name in names)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_as_if_whole(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in SHAPES:
        if 0 in shape and name in ("rows", "columns", "shares", "taken"):
            continue
        graph, arrays = graph_of(name, shape, dtype)
        apart = [in_stages(s.cpu) for s in steps_of(graph)]
        assert any(apart) or name == "running"
        found = run_c(graph, arrays)
        with monkeypatch.context() as m:
            m.setattr(stages, "PAYS", 10**9)
            assert not any(in_stages(s.cpu) for s in steps_of(graph))
            whole = run_c(graph, arrays)
        wanted = interpret(graph, arrays)
        for got, same, want in zip(found, whole, wanted):
            # The rest of a loop may take other functions than its vectors.
            few = 2000 * np.finfo(dtype).eps
            np.testing.assert_allclose(got, same, rtol=few, atol=few)
            assert got.dtype == want.dtype and got.shape == want.shape
            if name != "taken":  # a place is cut off from what may be a little less
                near = 1e-4 if dtype == "float32" else 1e-11
                np.testing.assert_allclose(got, want, rtol=near, atol=near)


def test_results_are_stored_last() -> None:
    """An input that is loaded again may lie in a result's memory."""
    graph, _ = graph_of("several", (3, 255), "float32")
    (step,) = steps_of(graph)
    lanes = [s for s in statements_of(step.cpu) if isinstance(s, Loop)]
    lanes = [s for s in lanes if s.kind == "lanes"]
    assert len(lanes) > 3
    for k, loop in enumerate(lanes):
        puts = [s.buffer for s in loop.body if isinstance(s, Put)]
        assert puts and all(n.startswith("out") == (loop is lanes[-1]) for n in puts), k


def test_short_iterations_stay_whole() -> None:
    b = Builder()
    x = b.input(TensorType((4096,), "float32"))
    graph = b.graph("f", [b.mul(b.tanh(x), x)])
    assert "_from" not in c_text([s.cpu for s in steps_of(graph)])
