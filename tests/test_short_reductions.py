"""Reductions of short rows: blocks of rows are turned, so that lanes lie in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import c_text, run_c, steps_of

from pirol.compiler.dims import symbol
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.prim import Builder

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
ROWS: Any = symbol("n")


def wide(b: Builder, value: Any, x: Any) -> Any:
    return b.broadcast(value, shape=x.shape, dims=(0,))


def softmax(b: Builder, x: Any) -> list[Any]:
    e = b.exp(b.sub(x, wide(b, b.reduce_max(x, axes=(1,)), x)))
    return [b.div(e, wide(b, b.reduce_sum(e, axes=(1,)), x))]


def entropy(b: Builder, x: Any) -> list[Any]:
    """Of two inputs of different dtypes, and the largest."""
    kind = "float64" if x.dtype == "float32" else "float32"
    y = b.cast(b.input(TensorType(x.shape, kind)), dtype=x.dtype)
    terms = b.mul(b.log(b.add(b.mul(x, x), 1.0)), y)
    return [b.reduce_sum(terms, axes=(1,)), b.reduce_max(x, axes=(1,))]


def deviation(b: Builder, x: Any) -> list[Any]:
    """No costly function, but two passes."""
    count = float(x.shape[1])
    mean = b.div(b.reduce_sum(x, axes=(1,)), count)
    apart = b.sub(x, wide(b, mean, x))
    return [apart, b.reduce_sum(b.mul(apart, apart), axes=(1,))]


def reversed_sums(b: Builder, x: Any) -> list[Any]:
    """Rows that are read from their ends."""
    return [b.reduce_sum(b.exp(b.reverse(x, axes=(1,))), axes=(1,))]


CASES: dict[str, Callable[..., list[Any]]] = {
    "softmax": softmax,
    "entropy": entropy,
    "deviation": deviation,
    "reversed": reversed_sums,
}


def graph_of(name: str, rows: Any, width: int, dtype: str = "float32") -> Graph:
    b = Builder()
    return b.graph("f", CASES[name](b, b.input(TensorType((rows, width), dtype))))


def text_of(graph: Graph) -> str:
    return c_text([s.cpu for s in steps_of(graph)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_results(name: str, dtype: str) -> None:
    """Of whole tiles and parts of one, all read at the end of memory."""
    tolerance = {"float32": 2e-6, "float64": 1e-13}[dtype]
    data = np.random.default_rng(0)
    for rows, width in ((1, 2), (300, 3), (ROWS, 10), (257, 15), (31, 31)):
        graph = graph_of(name, rows, width, dtype)
        count = 521 if rows is ROWS else rows
        given = [
            data.standard_normal((count, width)).astype(v.dtype) for v in graph.inputs
        ]
        for found, expected in zip(run_c(graph, given), interpret(graph, given)):
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_what_is_turned() -> None:
    """Each input once for all passes, where much is done with short rows."""
    for name, turned in (("softmax", 1), ("entropy", 2), ("deviation", 1)):
        for width in (2, 10):
            text = text_of(graph_of(name, 300, width))
            assert sum(f"rows{k}[" in text for k in range(30)) == turned
    assert "rows0" in text_of(graph_of("entropy", 300, 31))
    assert "rows0" not in text_of(graph_of("entropy", 300, 32))
    assert "rows0" not in text_of(graph_of("softmax", 300, 16))
    assert "rows0" not in text_of(graph_of("deviation", 300, 16))


@pytest.mark.parametrize("name", ["softmax", "entropy"])
def test_masked_and_special(name: str) -> None:
    """NaN, infinities, what exp makes 0."""
    graph = graph_of(name, 64, 11)
    data = np.random.default_rng(1)
    x = data.standard_normal((64, 11)).astype("f4")
    marks = np.float32([np.nan, np.inf, -np.inf, -1e4, 3e38])
    x[data.random(x.shape) < 0.2] = data.choice(marks)
    x[3], x[4, 2] = -np.inf, np.nan
    given = [x, np.ones((64, 11))][: len(graph.inputs)]
    with np.errstate(all="ignore"):
        expected = interpret(graph, given)
    for found, exact in zip(run_c(graph, given), expected):
        np.testing.assert_allclose(found, exact, rtol=2e-6, atol=2e-6)
