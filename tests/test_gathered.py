"""Lanes whose loads lie apart: brought together first, with the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_meaning import dtype_of
from graph_runs import c_text, run_c, steps_of

from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels import affine, gathered
from pirol.kernels.affine import Affine, Quotient, Remainder
from pirol.prim import Builder

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
RTOL = {"float32": 2e-6, "float64": 1e-14}
LENGTHS = (1, 7, 16, 23, 128, 129, 300)
DATA = np.random.default_rng(5)


def numbers(dtype: str, *shape: int) -> Any:
    if dtype.startswith("int"):
        return DATA.integers(-9, 9, shape).astype(dtype)
    found = DATA.standard_normal(shape)
    found[DATA.random(shape) < 0.1] = np.nan
    return found.astype(dtype_of(dtype))


def places(rows: int, n: int) -> Any:
    return DATA.integers(-2, 40, (rows, n))


def curved(b: Builder, x: Any) -> Any:
    return b.add(b.mul(b.tanh(x), b.max(x, 0.5)), b.mul(x, x))


def one(b: Builder, x: Any, at: Any, _: Any) -> list[Any]:
    """Much is done with each element."""
    found = b.gather(x, at, shape=at.shape, dims=(0, -1))
    return [curved(b, found)]


def nested(b: Builder, x: Any, at: Any, more: Any) -> list[Any]:
    """What is found names the next places; both are stored."""
    first = b.gather(x, at, shape=at.shape, dims=(0, -1))
    larger = b.select(b.lt(first, 0.25), at, b.sub(more, at))
    second = b.gather(x, larger, shape=at.shape, dims=(0, -1))
    return [curved(b, b.mul(second, first)), larger]


def guarded(b: Builder, x: Any, at: Any, more: Any) -> list[Any]:
    """In a padded result, and in a part of a concat."""
    found = b.gather(x, at, shape=at.shape, dims=(0, -1))
    wide = b.pad(found, low=(0, 1), high=(0, 2), interior=(0, 0), value=-1.0)
    other = b.pad(
        b.cast(more, dtype=x.dtype), low=(0, 3), high=(0, 0), interior=(0, 0), value=2
    )
    return [curved(b, b.add(wide, other))]


CASES = {"one": one, "nested": nested, "guarded": guarded}


def graph_of(case: Any, dtype: str, rows: int, n: int) -> tuple[Graph, list[Any]]:
    b = Builder()
    x = b.input(TensorType((rows, 37), dtype))
    at, more = (b.input(TensorType((rows, n), "int64")) for _ in range(2))
    arrays = [numbers(dtype, rows, 37), places(rows, n), places(rows, n)]
    return b.graph("f", case(b, x, at, more)), arrays


def text(graph: Graph) -> str:
    return c_text([s.cpu for s in steps_of(graph)])


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("name", CASES)
def test_rows_of_any_length(name: str, dtype: str, monkeypatch: Any) -> None:
    for n in LENGTHS:
        graph, arrays = graph_of(CASES[name], dtype, 3, n)
        assert n == 1 or "near" in text(graph)
        near = run_c(graph, arrays)
        monkeypatch.setattr(gathered, "WORTH", 10**6)
        assert n == 1 or "near" not in text(graph)
        for got, plain, want in zip(
            near, run_c(graph, arrays), interpret(graph, arrays)
        ):
            assert got.dtype == want.dtype and got.shape == want.shape
            for other in (plain, want):
                exact = RTOL[dtype]
                np.testing.assert_allclose(got, other, rtol=exact, atol=exact / 20)
        monkeypatch.undo()


def test_whole_numbers_divided() -> None:
    """What lies behind a row's last lane may be any divisor, 0 too."""
    b = Builder()
    x, y = (b.input(TensorType((5, 37), "int64")) for _ in range(2))
    at = b.input(TensorType((5, 23), "int64"))
    first, second = (b.gather(v, at, shape=(5, 23), dims=(0, -1)) for v in (x, y))
    next_at = b.rem(b.idiv(first, second), 37)
    third = b.gather(x, next_at, shape=(5, 23), dims=(0, -1))
    graph = b.graph("f", [b.rem(b.idiv(third, second), b.add(first, 3))])
    arrays = [numbers("int64", 5, 37), numbers("int64", 5, 37), places(5, 23)]
    for got, want in zip(run_c(graph, arrays), interpret(graph, arrays)):
        np.testing.assert_array_equal(got, want)


def test_a_quotient_and_its_remainder_are_one_number() -> None:
    data = Affine(((affine.Data(7, 60), 1),))
    high, low = affine.divide(data, 8, {})
    assert affine.linear([high, low], (9, 8)) == data
    twice = affine.add(affine.scale(high, 16), affine.scale(low, 2))
    assert twice == affine.scale(data, 2)
    apart = affine.add(affine.scale(high, 7), low)
    assert {type(a) for a, _ in apart.terms} == {Quotient, Remainder}
