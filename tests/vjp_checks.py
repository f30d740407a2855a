"""Checks of gradients against differences, and the numbers for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from vjp_samples import Sample, _typed

from pirol.compiler.autodiff import vjp
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import DTYPES, FLOATS, Graph, TensorType, Value
from pirol.compiler.verify import verify
from pirol.prim import Builder


def numbers(kinds: Sequence[Any], draw: str, seed: int = 0) -> list[Any]:
    """An array for each (shape, dtype)."""
    rng = np.random.default_rng(seed)
    count = sum(int(np.prod(shape)) for shape, _ in kinds)
    spread = rng.permutation((np.arange(count) - count // 2 + 0.3) * 0.37)
    found, at = [], 0
    for shape, dtype in kinds:
        size = int(np.prod(shape))
        match draw if dtype in FLOATS else dtype:
            case "bool":
                array = rng.integers(0, 2, shape)
            case "int64":
                array = rng.integers(0, 3, shape)
            case "apart":
                array = spread[at : at + size].reshape(shape)
            case "ties":
                array = rng.integers(-1, 2, shape)
            case "whole":
                array = rng.integers(-5, 6, shape)
            case "small":
                array = rng.uniform(-0.8, 0.8, shape)
            case "above one":
                array = rng.uniform(1.3, 3.0, shape)
            case "positive":
                array = rng.uniform(0.5, 2.0, shape)
            case _:
                array = rng.normal(size=shape)
        at += size
        found.append(np.asarray(array).astype(DTYPES[dtype][1]))
    return found


def kinds_of(arrays: Sequence[Any]) -> list[Any]:
    return [(np.shape(a), str(a.dtype)) for a in arrays]


def check(graph: Graph, arrays: Sequence[Any], draw: str, still: int = 0) -> Graph:
    """Assert the gradients of a graph at a point, and return the graph of them.

    The first `still` inputs stay where they are.
    """
    back = vjp(graph)
    verify(back, "flat")
    outs = interpret(graph, arrays)
    whole = "whole" if draw == "whole" else "normal"
    cts = numbers([k for k in kinds_of(outs) if k[1] in FLOATS], whole, seed=1)
    moves = numbers(kinds_of(arrays), whole, seed=2)
    for k, (array, move) in enumerate(zip(arrays, moves)):
        if k < still or str(array.dtype) not in FLOATS:
            moves[k] = np.zeros_like(move)
    step = 0.25 if draw == "whole" else 1e-5
    grads = interpret(back, [*arrays, *cts])
    floats = [k for k, a in enumerate(arrays) if str(a.dtype) in FLOATS]
    assert len(grads) == len(floats)
    for k, grad in zip(floats, grads):
        assert grad.shape == arrays[k].shape and grad.dtype == arrays[k].dtype
    parts = [g * moves[k] for k, g in zip(floats, grads)]
    got = sum(float(np.sum(p)) for p in parts)
    size = sum(float(np.sum(np.abs(p))) for p in parts)
    expected = difference(graph, arrays, moves, cts, step)
    assert abs(got - expected) <= 1e-6 * (1 + size), (got, expected)
    return back


def difference(
    graph: Graph, arrays: Sequence[Any], moves: Any, cts: Any, step: float
) -> float:
    """<cts, (f(arrays + step moves) - f(arrays - step moves)) / 2 step>."""
    sides = []
    for sign in (step, -step):
        moved = [
            np.asarray(a + sign * m, a.dtype) if str(a.dtype) in FLOATS else a
            for a, m in zip(arrays, moves)
        ]
        outs = interpret(graph, moved)
        floats = [o for o in outs if str(o.dtype) in FLOATS]
        sides.append(sum(float(np.sum(o * c)) for o, c in zip(floats, cts)))
    return (sides[0] - sides[1]) / (2 * step)


def check_both_orders(graph: Graph, arrays: list[Any], draw: str) -> Graph:
    """First order, then the gradient's own; returns the graph of the second."""
    back = check(graph, arrays, draw)
    cts = numbers(
        [(np.shape(o), str(o.dtype)) for o in interpret(graph, arrays)
         if str(o.dtype) in FLOATS],
        "whole" if draw == "whole" else "normal", seed=3,
    )  # fmt: skip
    still = len(arrays) if draw == "ties" else 0
    return check(back, [*arrays, *cts], draw, still)


def drawn(sample: Sample, dtype: str = "float64") -> list[Any]:
    kinds = _typed(sample.kinds, dtype)
    return numbers([(k.shape, k.dtype) for k in kinds], sample.draw)


def graph_of(kinds: Sequence[TensorType], build: Callable[..., Any]) -> Graph:
    return Sample(build, tuple(kinds)).graph()


def products_of(b: Builder, x: Value, y: Value) -> Any:
    return b.dot_general(x, y, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(0,))


def assert_dtype(graph: Graph, dtype: str) -> None:
    values = [*graph.inputs, *(r for op in graph.walk() for r in op.results)]
    kinds = {v.dtype for v in values if v.dtype in FLOATS}
    assert kinds == {dtype}
