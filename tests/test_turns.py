"""turns: products that are only read transposed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.compiler.verify import verify
from pirol.passes.turns import turns
from pirol.prim import Builder


def product(perm: tuple[int, ...], batch: bool, twice: bool = False) -> Graph:
    """A product of [2,] 3 x 5 and [2,] 4 x 5, read transposed."""
    b = Builder()
    lead = (2,) if batch else ()
    x, y = (b.input(TensorType((*lead, n, 5), "float64")) for n in (3, 4))
    first, last = (tuple(range(len(lead))), (len(lead) + 1,))
    dot = b.dot_general(x, y, x_batch=first, y_batch=first, x_sum=last, y_sum=last)
    turned = b.transpose(dot, perm=perm)
    return b.graph("f", [turned, b.neg(dot)] if twice else [turned])


def names(graph: Graph) -> list[str]:
    return [op.name for op in graph.ops]


@pytest.mark.parametrize("perm, batch", [((1, 0), False), ((0, 2, 1), True)])
def test_the_operands_change_places(perm: tuple[int, ...], batch: bool) -> None:
    graph = product(perm, batch)
    found = turns(graph)
    verify(found, "flat")
    assert names(found) == ["dot_general"]
    rng = np.random.default_rng(0)
    given: list[Any] = [rng.normal(size=v.shape) for v in graph.inputs]
    for a, b in zip(interpret(found, given), interpret(graph, given)):
        np.testing.assert_allclose(a, b, 1e-12)


@pytest.mark.parametrize(
    "graph",
    [product((1, 0), False, twice=True), product((2, 0, 1), True)],
    ids=["read as it is, too", "another order"],
)
def test_what_stays(graph: Graph) -> None:
    assert turns(graph) is graph
