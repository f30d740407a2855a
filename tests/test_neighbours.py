"""Groups that read one large tensor: joined where one loop is right for both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pirol.compiler.dims import symbol
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.compiler.pipeline import fusible
from pirol.compiler.verify import verify
from pirol.passes import neighbours as module
from pirol.passes.fuse import fuse
from pirol.passes.neighbours import neighbours
from pirol.prim import Builder


def graph_of(make: Callable[..., list[Any]], *shape: Any, inputs: int = 2) -> Graph:
    b = Builder()
    given = [b.input(TensorType(shape, "float32")) for _ in range(inputs)]
    return b.graph("f", make(b, *given))


def sums(b: Any, x: Any, y: Any) -> list[Any]:
    return [b.reduce_sum(x, axes=(0,)), b.reduce_sum(b.mul(x, x), axes=(0,))]


def plain(b: Any, x: Any, y: Any) -> list[Any]:
    return [b.tanh(x), b.add(x, y), b.exp(y)]


def row_and_plain(b: Any, x: Any, y: Any) -> list[Any]:
    return [b.reduce_max(x, axes=(1,)), b.mul(x, 3.0)]


def column_and_plain(b: Any, x: Any, y: Any) -> list[Any]:
    return [b.reduce_sum(x, axes=(0,)), b.mul(x, 3.0)]


def two_ways(b: Any, x: Any, y: Any) -> list[Any]:
    return [b.reduce_sum(x, axes=(0,)), b.reduce_sum(x, axes=(1,))]


def needed(b: Any, x: Any, y: Any) -> list[Any]:
    """The second needs the first, which is of all elements."""
    total = b.reduce_sum(x, axes=(0, 1))
    return [total, b.mul(x, b.broadcast(total, shape=x.shape, dims=()))]


def turned(b: Any, x: Any, y: Any) -> list[Any]:
    return [b.mul(x, 2.0), b.add(b.transpose(x, perm=(1, 0)), 1.0)]


# name: (what makes the graph, its shape, groups before and after)
CASES: dict[str, tuple[Any, tuple[Any, ...], int, int]] = {
    "sums": (sums, (128, 64), 2, 1),
    "elementwise": (plain, (128, 64), 3, 1),
    "of any size": (plain, (symbol("n"), 64), 3, 1),
    "a row and elementwise": (row_and_plain, (64, 128), 2, 1),
    "short rows": (row_and_plain, (4096, 8), 2, 2),
    "columns and elementwise": (column_and_plain, (128, 64), 2, 2),
    "rows and columns": (two_ways, (128, 64), 2, 2),
    "one needs the other": (needed, (512, 128), 2, 2),
    "a transpose": (turned, (128, 64), 2, 2),
    "small": (plain, (8, 8), 3, 3),
}


@pytest.mark.parametrize("name", CASES)
def test_groups(name: str) -> None:
    make, shape, before, after = CASES[name]
    graph = graph_of(make, *shape)
    fused, _ = fuse(graph, fusible)
    joined = neighbours(fused, fusible)
    verify(joined, "fused")
    assert [len(g.ops) for g in (fused, joined)] == [before, after]
    assert same(fused, joined)


def same(one: Graph, other: Graph) -> bool:
    """Equal to the last bit, on random numbers."""
    rng = np.random.default_rng(0)
    given = [
        rng.normal(size=[5 if not isinstance(d, int) else d for d in v.shape])
        for v in one.inputs
    ]
    arrays = [a.astype("float32") for a in given]
    pairs = zip(interpret(one, arrays), interpret(other, arrays), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def drawn(seed: int) -> Graph:
    """Sums, extremes and elementwise ops of whatever came before."""
    rng, b = np.random.default_rng(seed), Builder()
    made = [b.input(TensorType((64, 64), "float32")) for _ in range(3)]
    small = []
    for _ in range(20):
        x, y = (made[k] for k in rng.integers(0, len(made), 2))
        axis = int(rng.integers(0, 2))
        match rng.integers(0, 6):
            case 0 | 1:
                small.append(b.reduce_sum(b.tanh(x), axes=(axis,)))
            case 2 if small:
                row = small[int(rng.integers(0, len(small)))]
                made.append(b.add(x, b.broadcast(row, shape=(64, 64), dims=(axis,))))
            case 3:
                made.append(b.transpose(b.mul(x, 0.5), perm=(1, 0)))
            case _:
                made.append(b.sub(x, b.mul(y, 0.5)))
    return b.graph("drawn", [*made[-2:], *small])


@pytest.mark.parametrize("seed", range(30))
def test_graphs_keep_their_meaning(seed: int) -> None:
    fused, _ = fuse(drawn(seed), fusible)
    joined = neighbours(fused, fusible)
    verify(joined, "fused")
    assert same(fused, joined)
    assert all(fusible(op.body) is None for op in joined.ops if op.body)


def test_groups_that_wait_for_each_other_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were it not looked for a way between them, some graph would have no order."""
    monkeypatch.setattr(module, "_reaches", lambda first, then: False)
    with pytest.raises(AssertionError, match="wait for each other"):
        for seed in range(30):
            test_graphs_keep_their_meaning(seed)
