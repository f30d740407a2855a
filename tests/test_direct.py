"""Contractions whose columns' operand is read as it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import c_text, run_c, steps_of

from pirol.compiler import dims
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels.contract import ROWS
from pirol.kernels.contract_direct import SHORT
from pirol.prim import Builder

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


OF_ROWS: Any = {"x_batch": (), "y_batch": (), "x_sum": (1,), "y_sum": (0,)}


def product(rows: Any, terms: Any, columns: Any, dtype: str) -> Graph:
    b = Builder()
    x = b.input(TensorType((rows, terms), dtype))
    y = b.input(TensorType((terms, columns), dtype))
    made = b.dot_general(x, y, **OF_ROWS)
    return b.graph("f", [b.add(made, 1.0)])


def text_of(graph: Graph) -> str:
    return c_text([s.cpu for s in steps_of(graph)])


def check(graph: Graph, rows: int, terms: int, columns: int, dtype: str) -> None:
    data = np.random.default_rng(rows + terms)
    x, y = (
        data.integers(-9, 9, s).astype(dtype) for s in ((rows, terms), (terms, columns))
    )
    (found,) = run_c(graph, [x, y])
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, x @ y + 1)


SHAPES = [
    (rows, terms, columns)
    for rows in (5, 25, 300)
    for terms, columns in ((130, 16), (65, 50), (130, 70), (200, 10), (129, 300))
]


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_and_columns(dtype: str) -> None:
    """Few rows and many, terms that lie near and far from each other, columns that end
    within a vector, all read at the end of memory."""
    for rows, terms, columns in SHAPES:
        graph = product(rows, terms, columns, dtype)
        short = terms <= SHORT and rows > ROWS
        assert ("panel" in text_of(graph)) == short
        assert ("pr_dot_read" in text_of(graph)) != short
        check(graph, rows, terms, columns, dtype)


@needs_compiler
@pytest.mark.parametrize("columns", [1, 3, 16])
def test_columns_narrower_than_a_vector(columns: int) -> None:
    """Of two terms the second's vector would lie beyond both."""
    b = Builder()
    x, y = (b.input(TensorType(s, "float32")) for s in ((5, 2), (2, columns)))
    graph = b.graph("f", [b.dot_general(x, y, **OF_ROWS)])
    data = np.random.default_rng(0)
    given = [data.integers(-9, 9, v.type.shape).astype("float32") for v in graph.inputs]
    (found,) = run_c(graph, given)
    np.testing.assert_array_equal(found, given[0] @ given[1])


@needs_compiler
def test_sizes_that_are_not_known() -> None:
    """One kernel, without a panel, for any number of rows, of terms, and of columns."""
    n, m, k = (dims.symbol(name) for name in "nmk")
    for sizes in ((n, 170, 96), (90, m, 70), (n, m, k)):
        graph = product(*sizes, "float32")
        assert "panel" not in text_of(graph)
        for rows in (1, 24, 66, 257, 300):
            known = [
                s if isinstance(s, int) else t for s, t in zip(sizes, (rows, 150, 50))
            ]
            check(graph, known[0], known[1], known[2], "float32")


def test_what_is_packed() -> None:
    """Few terms of more rows than a tile's; columns that lie apart."""
    assert "panel" in text_of(product(67, 70, 64, "float32"))
    assert "panel" not in text_of(product(66, 70, 64, "float32"))
    b = Builder()
    x, y = (b.input(TensorType(s, "float32")) for s in ((8, 70), (64, 70)))
    made = b.dot_general(x, y, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(1,))
    assert "panel" in text_of(b.graph("f", [made]))


def test_rows_of_a_tile() -> None:
    """Up to MANY, unless that leaves fewer tiles than TASKS."""
    n = dims.symbol("n")
    shapes = (4096, 768, 3072), (128, 768, 768), (300, 768, 64), (n, 768, 64)
    for shape, rows in zip(shapes, (258, 132, 60, 66)):
        assert f"high_block * {rows})" in text_of(product(*shape, "float32"))


@needs_compiler
def test_batches_begin_where_they_lie() -> None:
    b = Builder()
    x, y = (b.input(TensorType(s, "float32")) for s in ((3, 5, 20), (3, 20, 32)))
    made = b.dot_general(x, y, x_batch=(0,), y_batch=(0,), x_sum=(2,), y_sum=(1,))
    graph = b.graph("f", [made])
    assert "panel" not in text_of(graph)
    data = np.random.default_rng(0)
    given = [data.integers(-9, 9, v.type.shape).astype("float32") for v in graph.inputs]
    (found,) = run_c(graph, given)
    np.testing.assert_array_equal(found, given[0] @ given[1])
