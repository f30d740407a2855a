"""Products of few columns with a function behind: the last vector begins earlier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import c_text, run_c, steps_of

from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.prim import Builder

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
DATA = np.random.default_rng(4)
WIDTHS = (1, 3, 7, 8, 9, 20, 50, 64, 65, 71, 130)


def layer(
    width: int, dtype: str, function: str, beside: bool
) -> tuple[Graph, list[Any]]:
    """A layer; `beside`: and a tensor to be added, whose memory the result may take."""
    shapes = [(37, 5), (5, width), (width,), (37, width)]
    arrays = [DATA.normal(size=s).astype(dtype) for s in shapes]
    b = Builder()
    x, w, row, more = (b.input(TensorType(s, dtype)) for s in shapes)
    y = b.dot_general(x, w, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(0,))
    y = b.add(y, b.broadcast(row, shape=y.shape, dims=(1,)))
    y = getattr(b, function)(y)
    if beside:
        y = b.add(y, more)
    used = arrays if beside else arrays[:3]
    if not beside:
        b.inputs.pop()
    return b.graph("f", [y]), used


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_the_interpreter(dtype: str, beside: bool) -> None:
    near = 1e-5 if dtype == "float32" else 1e-13
    for width in WIDTHS:
        graph, arrays = layer(width, dtype, "tanh", beside)
        for got, want in zip(run_c(graph, arrays), interpret(graph, arrays)):
            assert got.dtype == want.dtype and got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=near, atol=near)


@pytest.mark.parametrize(
    ("function", "beside", "twice"),
    [("tanh", False, True), ("tanh", True, False), ("abs", False, False)],
)
def test_where_an_element_may_be_computed_twice(
    function: str, beside: bool, twice: bool
) -> None:
    graph, _ = layer(20, "float32", function, beside)
    assert ("last" in c_text([s.cpu for s in steps_of(graph)])) == twice
