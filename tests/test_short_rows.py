"""Short rows: blocks of several whose loads lie apart, and last vectors that begin
earlier, with the same results as the interpreter's."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import c_text, run_c, steps_of

from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels import short_rows
from pirol.prim import Builder

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
DATA = np.random.default_rng(11)
WIDTHS = (2, 7, 14, 56, 128)
ROWS = ((1, 2), (9, 13))


def numbers(*shape: int) -> Any:
    found = DATA.integers(-4, 5, shape).astype("float32")
    found[DATA.random(shape) < 0.1] = np.nan
    return found


def work(b: Builder, x: Any, y: Any) -> Any:
    """Enough to be worth bringing loads together, exact in float32."""
    parts = [b.mul(b.add(x, float(k)), b.sub(y, float(k))) for k in range(4)]
    return b.select(b.lt(x, y), functools.reduce(b.add, parts), b.max(x, y))


def same_places(b: Builder, x: Any, at: Any, shape: Any) -> list[Any]:
    """The places are those of every row."""
    first = b.broadcast(at, shape=shape, dims=(2,))
    next_at = b.add(first, 1)
    found = [b.gather(x, k, shape=shape, dims=(0, 1, -1)) for k in (first, next_at)]
    return [work(b, *found), b.cast(next_at, dtype="int32")]


def own_places(b: Builder, x: Any, at: Any, shape: Any) -> list[Any]:
    """What is found, and the row, say where to look next."""
    row = b.iota(axis=1, shape=shape, dtype="int64")
    first = b.add(b.broadcast(at, shape=shape, dims=(2,)), row)
    one = b.gather(x, first, shape=shape, dims=(0, 1, -1))
    next_at = b.select(b.lt(one, 1.0), first, b.sub(row, first))
    other = b.gather(x, next_at, shape=shape, dims=(0, 1, -1))
    return [work(b, one, other), next_at]


def pairs(b: Builder, x: Any, at: Any, shape: Any) -> list[Any]:
    """What is stored lies two elements apart."""
    found, places = own_places(b, x, at, shape)
    return [b.complex(found, b.cast(places, dtype="float32"))]


def in_lines(b: Builder, x: Any, at: Any, shape: Any) -> list[Any]:
    """Whole lines, at places that data name."""
    number = b.iota(axis=1, shape=shape, dtype="int64")
    first = b.slice(at, starts=(0,), sizes=(1,), steps=(1,))
    rows = b.sub(b.broadcast(first, shape=shape, dims=(1,)), number)
    x = b.slice(x, starts=(0, 0, 1), sizes=shape, steps=(1, 1, 1))
    places = (rows, b.add(rows, 1))
    return [b.max(*(b.gather(x, k, shape=shape, dims=(0, -1, 2)) for k in places))]


Case = Callable[..., list[Any]]
CASES = {"same": same_places, "own": own_places, "pairs": pairs, "lines": in_lines}


def graph_of(case: Case, lead: tuple[int, int], n: int) -> tuple[Graph, list[Any]]:
    b, shape = Builder(), (*lead, n)
    x = b.input(TensorType((*lead, n + 3), "float32"))
    at = b.input(TensorType((n,), "int64"))
    arrays = [numbers(*lead, n + 3), DATA.integers(-2, n + 6, n)]
    return b.graph("f", case(b, x, at, shape)), arrays


def text(graph: Graph) -> str:
    return c_text([s.cpu for s in steps_of(graph)])


@pytest.mark.parametrize("name", CASES)
def test_as_the_interpreter(name: str) -> None:
    for lead in ROWS:
        for n in WIDTHS:
            graph, arrays = graph_of(CASES[name], lead, n)
            for got, want in zip(run_c(graph, arrays), interpret(graph, arrays)):
                assert got.dtype == want.dtype and got.shape == want.shape
                np.testing.assert_array_equal(got, want)


def test_many_rows_are_one_block() -> None:
    block = f"row < (r + {64 // 7} < end"
    for name in ("same", "own"):
        assert block in text(graph_of(CASES[name], (9, 13), 7)[0])
    assert "row" not in text(graph_of(own_places, (9, 13), 129)[0])


def test_what_rows_share_is_computed_before_them() -> None:
    before, after = text(graph_of(same_places, (9, 13), 7)[0]).split("r += 9")
    (places,) = re.findall(r"const int64_t \*restrict (in\d)", before)
    assert f"{places}[" in before and f"{places}[" not in after


def test_places_beyond_32_bits(monkeypatch: Any) -> None:
    graph, arrays = graph_of(same_places, (9, 13), 7)
    assert text(graph).count("int64_t near") == 1  # what is given
    monkeypatch.setattr(short_rows, "NARROW", 4)
    assert text(graph).count("int64_t near") == 3
    for got, want in zip(run_c(graph, arrays), interpret(graph, arrays)):
        np.testing.assert_array_equal(got, want)


def test_no_iteration_runs_twice_where_memory_may_be_one() -> None:
    """An input that is read where the result is stored may be its memory."""
    b, shape = Builder(), (5, 7, 14)
    x = b.input(TensorType(shape, "float32"))
    y = b.input(TensorType((5, 9, 14), "float32"))
    part = b.slice(y, starts=(0, 1, 0), sizes=shape, steps=(1, 1, 1))
    line = b.input(TensorType((14,), "float32"))
    wide = b.broadcast(line, shape=shape, dims=(2,))
    apart = text(b.graph("f", [b.mul(part, wide)]))
    assert apart.count("omp simd") == 2
    alike = text(b.graph("f", [b.add(x, b.mul(part, wide))]))
    assert alike.count("omp simd") == 1
