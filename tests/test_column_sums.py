"""Sums over rows, as lanes: tiles of any width give NumPy's sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import run_c, steps_of

from pirol.compiler.ir import Graph, TensorType
from pirol.kernels.emit import TILE
from pirol.kernels.kernel import Array, statements_of
from pirol.kernels.tile import WIDE
from pirol.prim import Builder

DATA = np.random.default_rng(11)
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


def sums(shape: tuple[int, ...], dtype: str, count: int = 1) -> Graph:
    """The sums over the second last axis of x, x squared, and so on."""
    b = Builder()
    x = b.input(TensorType(shape, dtype))
    powers, found = x, []
    for _ in range(count):
        found.append(b.reduce_sum(powers, axes=(len(shape) - 2,)))
        powers = b.mul(powers, x)
    return b.graph("f", found)


def lengths(graph: Graph) -> set[Any]:
    """Of the arrays of sums."""
    (step,) = steps_of(graph, whole=True)
    arrays = (s for s in statements_of(step.cpu) if isinstance(s, Array))
    return {s.length for s in arrays if s.name.startswith("acc")}


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("width", [1, 63, 256, 1000, WIDE - 1, WIDE, WIDE + 1, 2500])
def test_widths(width: int, dtype: str) -> None:
    for shape in ((13, width), (100, width), (2, 9, width), (1, width)):
        array = DATA.uniform(-50, 50, shape).astype(dtype)
        found = run_c(sums(shape, dtype, 2), [array])
        wide = array.astype("float64")
        for got, want in zip(found, (wide.sum(-2), (wide * wide).sum(-2))):
            assert got.dtype == array.dtype
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-3)


def test_few_sums_have_wide_tiles() -> None:
    assert lengths(sums((64, 4096), "float32")) == {WIDE}
    assert lengths(sums((64, 4096), "float32", 2)) == {WIDE}
    assert lengths(sums((64, 4096), "float32", 3)) == {TILE}


def test_costly_functions_have_tiles_as_their_chunks() -> None:
    b = Builder()
    x = b.input(TensorType((64, 4096), "float32"))
    graph = b.graph("f", [b.reduce_sum(b.exp(x), axes=(0,))])
    assert lengths(graph) == {TILE}
