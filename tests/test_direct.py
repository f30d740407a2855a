"""Contractions of few rows, whose columns' operand is not packed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import c_text, run_c, steps_of

from pirol.compiler import dims
from pirol.compiler.ir import Graph, TensorType
from pirol.prim import Builder

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


def product(rows: Any, terms: int, columns: int, dtype: str) -> Graph:
    b = Builder()
    x = b.input(TensorType((rows, terms), dtype))
    y = b.input(TensorType((terms, columns), dtype))
    made = b.dot_general(x, y, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(0,))
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


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [16, 80])
def test_any_number_of_rows(columns: int, dtype: str) -> None:
    for rows, terms in ((5, 64), (7, 130), (66, 65)):
        graph = product(rows, terms, columns, dtype)
        assert "pr_dot" in text_of(graph) and "panel" not in text_of(graph)
        check(graph, rows, terms, columns, dtype)


@needs_compiler
def test_rows_that_are_not_known() -> None:
    """One tile's are read as they lie, more are multiplied by a panel: one kernel."""
    graph = product(dims.symbol("n"), 70, 96, "float32")
    text = text_of(graph)
    assert text.count("pr_dot_f32(tile") == 2 and "panel" in text
    for rows in (1, 2, 65, 66, 67, 132, 150):
        check(graph, rows, 70, 96, "float32")


def test_what_is_packed() -> None:
    """More rows than a tile's; columns that end within a vector, or lie apart."""
    for rows, columns in ((67, 64), (8, 70), (8, 1)):
        assert "in1 + wide_first" not in text_of(product(rows, 70, columns, "float32"))
    b = Builder()
    x, y = (b.input(TensorType(s, "float32")) for s in ((8, 70), (64, 70)))
    made = b.dot_general(x, y, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(1,))
    assert "panel" in text_of(b.graph("f", [made]))
    assert "in1 + wide_first" in text_of(product(8, 70, 64, "float32"))


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
