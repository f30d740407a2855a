"""Kernels as CUDA: NVRTC takes them for sm_90, the simulator runs them as C does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graph_runs import run_c, run_cuda

from pirol.compiler.ir import Graph, TensorType
from pirol.kernels import cuda
from pirol.kernels.lower import build_nest
from pirol.kernels.nest import Nest
from pirol.kernels.nvrtc import available, compile_cubin
from pirol.kernels.render import CUDA, render
from pirol.prim import Builder
from pirol.prim.decomp import activations, norms

ROWS, WIDTH = 5, 131


def make(run: Callable[..., Any], *shapes: tuple[int, ...]) -> Graph:
    b = Builder()
    inputs = [b.input(TensorType(s, "float32")) for s in shapes]
    found = run(b, *inputs)
    return b.graph("kernel", found if isinstance(found, (list, tuple)) else [found])


def bias_gelu(b: Builder, x: Any, bias: Any) -> Any:
    return activations.gelu(b, b.add(x, bias), approximate=False)


def layer_norm(b: Builder, x: Any, scale: Any, bias: Any) -> Any:
    return norms.layer_norm(b, x, scale, bias, epsilon=1e-5, begin_norm_axis=1)


def column_squares(b: Builder, x: Any) -> Any:
    return b.reduce_sum(b.mul(x, x), axes=(0,))


def pool(b: Builder, x: Any) -> Any:
    pads = ((0, 0), (1, 1), (1, 1))
    return b.window_max(
        x, window=(1, 3, 3), strides=(1, 2, 2), padding=pads, dilation=(1, 1, 2)
    )


CASES: dict[str, Graph] = {
    "bias_gelu": make(bias_gelu, (ROWS, WIDTH), (WIDTH,)),
    "softmax": make(lambda b, x: norms.softmax(b, x, axis=-1), (ROWS, WIDTH)),
    "layer_norm": make(layer_norm, (ROWS, WIDTH), (WIDTH,), (WIDTH,)),
    "column_squares": make(column_squares, (WIDTH, ROWS)),
    "pool": make(pool, (2, 9, 17)),
}


def nest_of(graph: Graph) -> Nest:
    nest = build_nest(graph)
    assert isinstance(nest, Nest)
    return nest


@pytest.mark.parametrize("name", CASES)
def test_nvrtc_compiles_for_sm_90(name: str) -> None:
    if not available():
        pytest.skip("cuda-bindings or NVRTC is not installed")
    cubin = compile_cubin(render(cuda.schedule(nest_of(CASES[name])), CUDA))
    assert cubin.image[:4] == b"\x7fELF" and cubin.arch == "sm_90"
    assert "spill" not in cubin.log or "0 bytes spill stores" in cubin.log


@pytest.mark.parametrize("name", CASES)
def test_simulator_equals_c(name: str) -> None:
    graph = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=v.shape).astype("f") for v in graph.inputs]
    for ours, theirs in zip(run_cuda(graph, arrays), run_c(graph, arrays)):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-6)


def test_schedules_differ_where_they_should() -> None:
    """A block takes a long row; a thread takes a point, or a row that is short."""
    taken = {name: cuda.schedule(nest_of(g)).block_rows for name, g in CASES.items()}
    assert taken == {
        "bias_gelu": False,
        "softmax": True,
        "layer_norm": True,
        "column_squares": True,
        "pool": False,
    }
