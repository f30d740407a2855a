"""Kernels as CUDA: the simulator runs them as C does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graph_runs import run_c, run_cuda

from pirol.compiler.autodiff import without_stops
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels import cuda
from pirol.kernels.lower import build_nest
from pirol.kernels.nest import Nest
from pirol.kernels.nvrtc import available, compile_cubin
from pirol.kernels.render import CUDA, render
from pirol.passes.canonicalize import canonicalize
from pirol.passes.complex_parts import complex_parts
from pirol.prim import Builder
from pirol.prim.decomp import activations, norms

ROWS, WIDTH = 5, 131


def make(run: Callable[..., Any], *shapes: tuple[int, ...]) -> Graph:
    b = Builder()
    inputs = [b.input(TensorType(s, "float32")) for s in shapes]
    found = run(b, *inputs)
    results = found if isinstance(found, (list, tuple)) else [found]
    return without_stops(b.graph("kernel", results))


def bias_gelu(b: Builder, x: Any, bias: Any) -> Any:
    return activations.gelu(b, b.add(x, bias), approximate=False)


def layer_norm(b: Builder, x: Any, scale: Any, bias: Any) -> Any:
    return norms.layer_norm(b, x, scale, bias, epsilon=1e-5, begin_norm_axis=1)


def column_squares(b: Builder, x: Any) -> Any:
    return b.reduce_sum(b.mul(x, x), axes=(0,))


def many_sums(b: Builder, x: Any, count: int) -> Any:
    """Of one result, so that nothing else bounds their number."""
    found = [b.reduce_sum(b.mul(x, float(k)), axes=(0,)) for k in range(count)]
    return functools.reduce(b.add, found)


def pool(b: Builder, x: Any) -> Any:
    pads = ((0, 0), (1, 1), (1, 1))
    return b.window_max(
        x,
        window=(1, 3, 3),
        strides=(1, 2, 2),
        padding=pads,
        dilation=(1, 1, 2),
        plane=(1, 3),
    )


def dense(b: Builder, x: Any, w: Any, bias: Any) -> Any:
    product = b.dot_general(x, w, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(0,))
    return b.max(b.add(product, b.broadcast(bias, shape=(70, 90), dims=(1,))), 0.0)


def batches(b: Builder, x: Any, y: Any) -> Any:
    at = {"x_batch": (0,), "y_batch": (1,), "x_sum": (2,), "y_sum": (2,)}
    return b.transpose(b.dot_general(x, y, **at), perm=(0, 2, 1))


def conv(b: Builder, x: Any, w: Any) -> Any:
    pads = ((1, 2), (1, 1))
    return b.tanh(b.conv(x, w, strides=(2, 1), padding=pads, dilation=(1, 2), groups=2))


def complex_functions() -> Graph:
    """Of complex64, split into parts as kernels have it."""
    b = Builder()
    x, y = (b.input(TensorType((ROWS, WIDTH), "complex64")) for _ in range(2))
    found = [b.add(b.tanh(b.mul(x, y)), b.div(b.log(x), y)), b.reduce_sum(x, axes=(1,))]
    return canonicalize(complex_parts(b.graph("kernel", found)))


CASES: dict[str, Graph] = {
    "complex": complex_functions(),
    "bias_gelu": make(bias_gelu, (ROWS, WIDTH), (WIDTH,)),
    "softmax": make(lambda b, x: norms.softmax(b, x, axis=-1), (ROWS, WIDTH)),
    "layer_norm": make(layer_norm, (ROWS, WIDTH), (WIDTH,), (WIDTH,)),
    "column_squares": make(column_squares, (WIDTH, ROWS)),
    "column_softmax": make(lambda b, x: norms.softmax(b, x, axis=0), (WIDTH, 70)),
    "long_columns": make(column_squares, (WIDTH, 45)),
    "across": make(column_squares, (WIDTH, 256)),
    "long_softmax": make(lambda b, x: norms.softmax(b, x, axis=-1), (3, 2100)),
    "long_rows": make(lambda b, x: b.reduce_sum(b.exp(x), axes=(1,)), (2, 70000)),
    "transpose": make(lambda b, x: b.tanh(b.transpose(x, perm=(1, 0))), (70, 131)),
    "line": make(lambda b, x: b.mul(b.tanh(x), x), (1003,)),
    "pool": make(pool, (2, 9, 17)),
    "dense": make(dense, (70, 37), (37, 90), (90,)),
    "batches": make(batches, (3, 65, 130), (20, 3, 130)),
    "conv": make(conv, (2, 4, 11, 13), (6, 2, 3, 3)),
}


def nest_of(graph: Graph) -> Nest:
    nest = build_nest(graph)
    assert isinstance(nest, Nest)
    return nest


@pytest.mark.parametrize("name", CASES)
def test_simulator_equals_c(name: str) -> None:
    graph = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=v.shape).astype("f") for v in graph.inputs]
    if name == "complex":
        arrays = [(a + 1j * rng.normal(size=a.shape)).astype("F") for a in arrays]
    for ours, theirs in zip(run_cuda(graph, arrays), run_c(graph, arrays)):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("count", [13, 60])
def test_many_sums_fit_into_shared_memory(count: int) -> None:
    graph = make(lambda b, x: many_sums(b, x, count), (WIDTH, 256))
    if available():
        text = render(cuda.schedule(nest_of(graph)), CUDA)
        assert compile_cubin(text, arch="sm_90").image
    arrays = [np.random.default_rng(0).normal(size=(WIDTH, 256)).astype("f")]
    for ours, theirs in zip(run_cuda(graph, arrays), run_c(graph, arrays)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-2)


def test_schedules_differ_where_they_should() -> None:
    """A block or a warp takes a long row; a thread takes points, or a short row."""
    taken = {name: cuda.schedule(nest_of(g)).team for name, g in CASES.items()}
    assert taken == {
        "bias_gelu": 1,
        "softmax": 256,
        "layer_norm": 256,
        "column_squares": 256,
        "column_softmax": 256,
        "long_columns": 256,
        "across": 256,
        "long_softmax": 256,
        "long_rows": 512,
        "transpose": 256,
        "line": 1,
        "pool": 1,
        "dense": 256,
        "batches": 256,
        "conv": 256,
        "complex": 256,
    }
