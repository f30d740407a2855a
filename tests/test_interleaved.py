"""Views that take axes apart: rows with few elements each, and sums of what lies so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import c_text, run_c, run_cuda, steps_of

from pirol.compiler.dims import symbol
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.prim import Builder

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
BATCH: Any = symbol("n")


def enlarged(b: Builder, x: Any, times: int) -> Any:
    """Each pixel `times` by `times` times."""
    n, c, h, w = x.shape
    x = b.reshape(x, shape=(n, c, h, 1, w, 1))
    wide = (n, c, h, times, w, times)
    x = b.broadcast(b.reshape(x, shape=(n, c, h, w)), shape=wide, dims=(0, 1, 2, 4))
    return b.reshape(x, shape=(n, c, h * times, w * times))


def image(b: Builder, n: Any = 2, c: int = 6, h: int = 5, w: int = 20) -> Any:
    return b.input(TensorType((n, c, h, w), "float32"))


def shuffled(b: Builder, x: Any, times: int) -> Any:
    """Channels as pixels."""
    n, c, h, w = x.shape
    c //= times * times
    x = b.reshape(x, shape=(n, c, times, times, h, w))
    x = b.transpose(x, perm=(0, 1, 4, 2, 5, 3))
    return b.reshape(x, shape=(n, c, h * times, w * times))


def bins(b: Builder, x: Any, count: int) -> Any:
    """Channels last, `count` of them a row."""
    n, c, h, w = x.shape
    x = b.reshape(b.transpose(x, perm=(0, 2, 3, 1)), shape=(n, h * w * c))
    return b.reshape(x, shape=(n * h * w * c // count, count))


def softmax(b: Builder, x: Any) -> Any:
    rows = x.shape[0]
    most = b.broadcast(b.reduce_max(x, axes=(1,)), shape=x.shape, dims=(0,))
    e = b.exp(b.sub(x, most))
    total = b.reduce_sum(e, axes=(1,))
    assert total.shape == (rows,)
    return b.div(e, b.broadcast(total, shape=x.shape, dims=(0,)))


def joined(b: Builder, times: int) -> Any:
    x, y = image(b), image(b, c=3, h=5 * times, w=20 * times)
    return b.concat(b.tanh(y), enlarged(b, x, times), b.neg(y), axis=1)


def rotated(b: Builder) -> Any:
    """Pairs of neighbours, turned."""
    x, c = image(b, w=40), b.input(TensorType((5, 20), "float32"))
    pairs = b.reshape(x, shape=(2, 6, 5, 20, 2))
    wide = b.broadcast(c, shape=(2, 6, 5, 20, 1), dims=(2, 3))
    one, two = (
        b.slice(pairs, starts=(0, 0, 0, 0, k), sizes=(2, 6, 5, 20, 1), steps=(1,) * 5)
        for k in (0, 1)
    )
    found = b.concat(b.mul(one, wide), b.add(b.mul(two, wide), one), axis=4)
    return b.reshape(found, shape=(2, 6, 5, 40))


CASES: dict[str, Callable[[Builder], Any]] = {
    "enlarged, 2": lambda b: enlarged(b, image(b), 2),
    "enlarged, 3, any number": lambda b: enlarged(b, image(b, BATCH), 3),
    "shuffled, 2": lambda b: shuffled(b, image(b, c=8), 2),
    "shuffled, 3": lambda b: b.exp(shuffled(b, image(b, c=9), 3)),
    "joined, 2": lambda b: joined(b, 2),
    "joined, 4": lambda b: joined(b, 4),
    "rotated": rotated,
    "softmax of bins": lambda b: softmax(b, bins(b, image(b, c=16), 4)),
    "softmax of any number": lambda b: softmax(b, bins(b, image(b, BATCH, 16), 4)),
    "sums of bins": lambda b: b.reduce_sum(bins(b, image(b, c=64), 16), axes=(1,)),
    "sums of narrow bins": lambda b: b.reduce_sum(bins(b, image(b), 3), axes=(1,)),
    "most of two pixels": lambda b: b.reduce_max(bins(b, image(b), 12), axes=(1,)),
}


def graph_of(name: str) -> Graph:
    b = Builder()
    return b.graph("f", [CASES[name](b)])


def inputs_of(graph: Graph) -> list[Any]:
    data = np.random.default_rng(0)
    shapes = [[4 if d == BATCH else d for d in v.shape] for v in graph.inputs]
    return [data.standard_normal(s).astype("float32") for s in shapes]


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_results(name: str) -> None:
    graph = graph_of(name)
    given = inputs_of(graph)
    for found, expected in zip(run_c(graph, given), interpret(graph, given)):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("name", ["shuffled, 2", "joined, 2", "softmax of bins"])
def test_results_on_cuda(name: str) -> None:
    graph = graph_of(name)
    given = inputs_of(graph)
    for found, expected in zip(run_cuda(graph, given), interpret(graph, given)):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in CASES if "narrow" not in n])
def test_no_lane_is_divided(name: str) -> None:
    """Lanes run along memory, or have a few elements of it each; none of them is a
    quotient, and none alone is a row of few."""
    (step,) = steps_of(graph_of(name))
    lines = c_text([step.cpu]).splitlines()
    at = [k for k, line in enumerate(lines) if "omp simd" in line]
    assert at
    for k in at:
        lane = lines[k + 1].split()[2]
        read = [t for t in lines if "= in0[" in t and lane in t]
        assert not any("/" in t or "%" in t for t in read)
        assert not any(f"{lane}_stop = {n};" in t for n in (2, 3, 4) for t in lines)


def test_what_all_lanes_ask_alike_is_asked_before() -> None:
    """Each part of what is joined along channels has a loop of its own, without a
    condition in it; the function is computed of its part alone."""
    (step,) = steps_of(graph_of("joined, 2"))
    text = c_text([step.cpu])
    assert text.count("omp simd") == 3 and text.count("if (") == 3
    assert "pr_zero" not in text and text.count("tanh") == 1
