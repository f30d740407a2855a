"""Lanes that are rows, where results lie along the columns: in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import c_text, run_c, steps_of

from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels import tile
from pirol.prim import Builder

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
DATA = np.random.default_rng(2)
SHAPES = ((1, 9, 5), (2, 40, 17), (3, 16, 300), (1, 700, 33), (2, 33, 0))


def normed(dtype: str, shape: tuple[int, ...], beside: bool) -> tuple[Graph, list[Any]]:
    """Shares of the sum over channels, these last; `beside`: and a tensor that lies as
    the result does, to be added."""
    b = Builder()
    n, c, m = shape
    x = b.input(TensorType(shape, dtype))
    turned = b.transpose(x, perm=(0, 2, 1))
    total = b.reduce_sum(turned, axes=(2,))
    found = b.sub(turned, b.broadcast(total, shape=(n, m, c), dims=(0, 1)))
    arrays = [DATA.integers(-9, 9, shape).astype(dtype)]
    if beside:
        found = b.mul(found, b.input(TensorType((n, m, c), dtype)))
        arrays.append(DATA.integers(-3, 3, (n, m, c)).astype(dtype))
    return b.graph("f", [found, total]), arrays


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32"])
def test_as_the_interpreter(dtype: str) -> None:
    for shape in SHAPES:
        for beside in (False, True):
            graph, arrays = normed(dtype, shape, beside)
            for got, want in zip(run_c(graph, arrays), interpret(graph, arrays)):
                assert got.dtype == want.dtype and got.shape == want.shape
                np.testing.assert_array_equal(got, want)


def test_results_and_what_lies_so_go_through_blocks() -> None:
    text = c_text([s.cpu for s in steps_of(normed("float32", (2, 40, 300), True)[0])])
    assert text.count("pr_turn_4(") == 2
    plain = c_text([s.cpu for s in steps_of(normed("float32", (2, 40, 300), False)[0])])
    assert plain.count("pr_turn_4(") == 1


def test_a_second_pass_finds_what_the_first_read() -> None:
    """Tiles are the smaller, the longer a column is."""
    for channels, size in ((40, 256), (1024, 128), (100000, tile.LEAST)):
        graph, _ = normed("float32", (1, channels, 300), False)
        assert f"tile += {size})" in c_text([s.cpu for s in steps_of(graph)])
