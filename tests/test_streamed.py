"""Streamed stores: what goes past the caches is what ordinary stores leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import Program, c_text, launch_c, steps_of

from pirol.compiler import dims
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels import cpu, streamed
from pirol.kernels.build import build, load
from pirol.kernels.kernel import Kernel, Stream, statements_of
from pirol.prim import Builder

DATA = np.random.default_rng(27)
SHAPES = ((2, 1024), (1, 7), (3, 517), (65, 130), (70, 67), (1, 5000), (2, 16), (0, 5))
compiled = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


def add(b: Builder, x: Any, y: Any) -> list[Any]:
    return [b.add(x, y)]


def several(b: Builder, x: Any, y: Any) -> list[Any]:
    return [b.add(x, y), b.lt(x, y), b.cast(x, dtype="float64")]


def across(b: Builder, x: Any, y: Any) -> list[Any]:
    """Rows of the transpose, each at another place of a line."""
    return [b.transpose(b.add(x, y), perm=(1, 0))]


def padded(b: Builder, x: Any, y: Any) -> list[Any]:
    return [b.pad(b.mul(x, y), low=(1, 3), high=(0, 2), interior=(0, 0), value=1.0)]


def joined(b: Builder, x: Any, y: Any) -> list[Any]:
    return [b.concat(x, y, b.neg(x), axis=1)]


def pairs(b: Builder, x: Any, y: Any) -> list[Any]:
    """The parts of complex numbers lie in turn: two elements apart."""
    return [b.complex(x, y)]


CASES: dict[str, Callable[..., list[Any]]] = {
    "add": add,
    "several": several,
    "across": across,
    "padded": padded,
    "joined": joined,
    "pairs": pairs,
}


def graph_of(make: Any, shape: tuple[Any, ...], dtype: str = "float32") -> Graph:
    b = Builder()
    return b.graph("f", make(b, *(b.input(TensorType(shape, dtype)) for _ in range(2))))


def streams(kernel: Kernel) -> list[str]:
    """The results that are streamed."""
    return [s.to[0] for s in statements_of(kernel) if isinstance(s, Stream)]


def kernels(graph: Graph) -> list[Kernel]:
    return [step.cpu for step in steps_of(graph)]


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_as_stored(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = [graph_of(CASES[name], shape, dtype) for shape in SHAPES]
    inputs = [
        [DATA.uniform(-2, 2, shape).astype(dtype) for _ in range(2)] for shape in SHAPES
    ]
    stored = Program(graphs)
    monkeypatch.setattr(streamed, "least", lambda: 1)
    past = Program(graphs)
    for k, (graph, arrays) in enumerate(zip(graphs, inputs)):
        there = past.c(k, arrays), stored.c(k, arrays), interpret(graph, arrays)
        for got, same, want in zip(*there):
            assert got.dtype == want.dtype and got.shape == want.shape
            np.testing.assert_array_equal(got, same)
            np.testing.assert_array_equal(got, want)
    found = [name for step in past.kernels for name in streams(step.cpu)]
    assert bool(found) == (name != "pairs")


@compiled
@pytest.mark.parametrize("place", [0, 4, 8, 60])
def test_wherever_a_result_lies(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its own bytes are stored, in any number of chunks."""
    monkeypatch.setattr(streamed, "least", lambda: 1)
    graph = graph_of(add, (1, 4099))
    arrays = [DATA.normal(size=(1, 4099)).astype("float32") for _ in graph.inputs]
    (step,) = steps_of(graph)
    (path,) = build([c_text([step.cpu])])
    address = load(str(path), step.cpu.name)
    rng = np.random.default_rng(place)
    (got,) = launch_c(address, step.cpu, arrays, {}, rng, place=place)
    np.testing.assert_array_equal(got, arrays[0] + arrays[1])


def test_where_it_pays() -> None:
    """Large results, alone, of kernels that move rather than compute."""
    rows = 2 * streamed.least() // 4096
    large, small = (rows, 1024), (rows // 4, 1024)
    assert [streams(k) for k in kernels(graph_of(add, large))] == [["out0"]]
    assert [streams(k) for k in kernels(graph_of(add, small))] == [[]]
    assert [streams(k) for k in kernels(graph_of(several, small))] == [[], [], ["out0"]]

    # What a strip reads on the spot stays in cache.
    (step,) = steps_of(graph_of(add, large))
    assert streams(step.cpu) and not streams(cpu.schedule(step.nest, near=True))

    def costly(b: Builder, x: Any, y: Any) -> list[Any]:
        return [b.exp(x)]

    def sums(b: Builder, x: Any, y: Any) -> list[Any]:
        total = b.broadcast(b.reduce_sum(x, axes=(1,)), shape=x.shape, dims=(0,))
        return [b.add(y, total)]

    for make in (costly, sums):
        assert not any(streams(k) for k in kernels(graph_of(make, large)))


def test_not_where_the_size_is_unknown() -> None:
    graph = graph_of(add, (dims.symbol("n"), 1024))
    assert not any(streams(k) for k in kernels(graph))
