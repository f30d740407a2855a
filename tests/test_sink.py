"""What a group stores for groups far behind is computed there, where that is less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pirol.compiler.dims import symbol
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.compiler.pipeline import fusible
from pirol.compiler.text import parse_graph
from pirol.compiler.verify import verify
from pirol.passes import sink as module
from pirol.passes.fuse import fuse
from pirol.passes.sink import sink
from pirol.prim import Builder


def dot(b: Builder, x: Any, y: Any) -> Any:
    axes = {"x_batch": (), "y_batch": (), "x_sum": (1,), "y_sum": (0,)}
    return b.dot_general(x, y, **axes)


def chain(rows: Any = 64) -> Graph:
    """Factors of given tensors, two of them for each product further behind."""
    b = Builder()
    t, *given = (b.input(TensorType((rows, 8), "float32")) for _ in range(5))
    weight = b.input(TensorType((8, 8), "float32"))
    slope = b.sub(1.0, b.mul(t, t))
    x = b.mul(slope, given[0])
    factors = [b.mul(v, slope) for v in given]
    for one, other in zip(factors[::2], factors[1::2]):
        x = b.add(b.mul(dot(b, x, weight), one), other)
    return b.graph("chain", [x, b.reduce_sum(x, axes=(0,))])


def drawn(seed: int) -> Graph:
    """Products, sums and elementwise ops of whatever came before."""
    rng, b = np.random.default_rng(seed), Builder()
    made = [b.input(TensorType((16, 8), "float32")) for _ in range(3)]
    weight = b.input(TensorType((8, 8), "float32"))
    for _ in range(30):
        x, y = (made[k] for k in rng.integers(0, len(made), 2))
        match rng.integers(0, 8):
            case 0:
                made.append(dot(b, x, weight))
            case 1:
                made.append(b.tanh(x))
            case 2:
                row = b.reduce_sum(x, axes=(1,))
                made.append(b.broadcast(row, shape=(16, 8), dims=(0,)))
            case 3:
                made.append(b.select(b.gt(x, 0.0), x, y))
            case 4 | 5:
                made.append(b.mul(x, y))
            case _:
                made.append(b.sub(x, b.mul(y, 0.5)))
    return b.graph("drawn", [made[-1], made[-4]])


def stored(graph: Graph) -> int:
    """Values that groups store."""
    return sum(len(op.results) for op in graph.ops)


def pair(graph: Graph, kind: str = "cpu") -> tuple[Graph, Graph]:
    """Fused, and sunk as well: of one meaning, to the last bit."""
    fused, _ = fuse(graph, fusible)
    sunk = sink(fused, fusible, kind)
    verify(sunk, "fused")
    rng = np.random.default_rng(0)
    given = [
        rng.normal(size=[64 if not isinstance(d, int) else d for d in v.shape])
        for v in graph.inputs
    ]
    arrays = [a.astype("float32") for a in given]
    for before, after in zip(*(interpret(g, arrays) for g in (fused, sunk))):
        np.testing.assert_array_equal(before, after)
    assert all(fusible(op.body) is None for op in sunk.ops if op.body)
    return fused, sunk


@pytest.mark.parametrize("rows", [64, symbol("n")])
def test_factors_are_computed_where_they_are_read(rows: Any) -> None:
    fused, sunk = pair(chain(rows))
    assert stored(sunk) <= stored(fused) - 3
    assert len(sunk.ops) == len(fused.ops)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("seed", range(40))
def test_graphs_keep_their_meaning(seed: int, kind: str) -> None:
    fused, sunk = pair(drawn(seed), kind)
    if kind == "cpu":
        assert stored(sunk) <= stored(fused)


def test_a_gpu_computes_again_what_a_cpu_stores() -> None:
    b = Builder()
    x, w = (b.input(TensorType((64, 64), "float32")) for _ in range(2))
    y = b.tanh(x)
    graph = b.graph("again", [b.mul(dot(b, b.mul(y, 2.0), w), y)])
    counts = [
        sum(o.name == "tanh" for op in pair(graph, kind)[1].ops for o in op.body.ops)
        for kind in ("cpu", "cuda")
    ]
    assert counts == [1, 2]


def test_numbers_of_rows_are_stored_where_that_spares_a_tensor() -> None:
    """As in the gradient of a norm, whose products are added up both ways."""
    shape, b = (512, 64), Builder()
    x, ct = (b.input(TensorType(shape, "float32")) for _ in range(2))

    def wide(row: Any) -> Any:
        return b.broadcast(row, shape=shape, dims=(0,))

    inner = b.sub(x, wide(b.reduce_sum(x, axes=(1,))))
    y = b.mul(ct, inner)
    of_x = b.sub(y, wide(b.reduce_sum(y, axes=(1,))))
    graph = b.graph("norm", [of_x, b.reduce_sum(y, axes=(0,))])
    sizes = [
        sorted(v.type.size for op in pair(graph, kind)[1].ops for v in op.results)
        for kind in ("cpu", "cuda")
    ]
    assert sizes == [[64, 512 * 64, 512 * 64], [64, 512, 512 * 64]]


def test_the_same_text_each_time() -> None:
    """Else kernels would be compiled anew."""
    graph = chain()
    again = parse_graph(str(graph))
    found = [str(sink(fuse(g, fusible)[0], fusible)) for g in (graph, again)]
    assert found[0] == found[1]


def test_what_is_costly_returned_or_an_operand_stays() -> None:
    b = Builder()
    x = b.input(TensorType((64, 8), "float32"))
    weight = b.input(TensorType((8, 8), "float32"))
    costly, returned, operand = b.tanh(x), b.mul(x, 3.0), b.sub(x, 2.0)
    product = dot(b, operand, weight)
    again = dot(b, b.mul(product, costly), weight)
    graph = b.graph("stays", [returned, b.mul(again, b.add(costly, returned))])
    fused, sunk = pair(graph)
    assert sum(o.name == "tanh" for op in sunk.ops for o in op.body.ops) == 1
    assert returned in sunk.results


def test_a_small_value_that_a_large_one_is_made_of_stays() -> None:
    """Each element of it would be computed for each of a row."""
    b = Builder()
    row = b.input(TensorType((8,), "float32"))
    x, weight = (b.input(TensorType(s, "float32")) for s in ((64, 8), (8, 8)))
    small = b.mul(row, row)
    wide = b.broadcast(b.add(small, 1.0), shape=(64, 8), dims=(1,))
    y = b.mul(dot(b, x, weight), wide)
    graph = b.graph("small", [y, dot(b, b.reshape(small, shape=(1, 8)), weight)])
    fused, sunk = pair(graph)
    assert stored(fused) == stored(sunk)


def test_planted_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STORE", -9.0)
    with pytest.raises(AssertionError):
        test_factors_are_computed_where_they_are_read(64)
    monkeypatch.undo()
    made = module._Sinking.with_

    def wrong(self: Any, reader: Any, chosen: Any) -> Any:
        """One leaf is taken for another."""
        found = made(self, reader, chosen)
        outer = [v for v in found.reads if v not in reader.reads]
        if len(outer) > 1:
            one, other = outer[:2]
            reads = found.reads
            reads[one], reads[other] = reads[other], reads[one]
        return found

    monkeypatch.setattr(module._Sinking, "with_", wrong)
    with pytest.raises(AssertionError):
        pair(chain())
