"""Peeling: lanes in parts give the same bits, and ask nothing that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import run_c, steps_of

from pirol.compiler import dims
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels import cpu
from pirol.kernels.affine import ZERO, add, axis, constant, scale
from pirol.kernels.kernel import (
    Apply,
    At,
    Expr,
    Guarded,
    Kernel,
    Let,
    Loop,
    Num,
    Offset,
    Put,
    Ref,
    Stmt,
    statements_of,
)
from pirol.kernels.peeled import LONG, SHORT, peeled
from pirol.prim import Builder

DATA = np.random.default_rng(3)
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


def padded(b: Builder, x: Any, y: Any) -> Any:
    return b.pad(x, low=(1, 2), high=(0, 3), interior=(0, 0), value=-0.0)


def joined(b: Builder, x: Any, y: Any) -> Any:
    return b.concat(x, y, b.mul(x, y), axis=1)


def rolled(b: Builder, x: Any, y: Any) -> Any:
    extent = x.shape[1]
    parts = [
        b.slice(v, starts=(0, s), sizes=(x.shape[0], n), steps=(1, 1))
        for v, s, n in ((x, 1, dims.sub(extent, 1)), (y, 0, 1))
    ]
    return b.concat(*parts, axis=1)


def lower(b: Builder, x: Any, y: Any) -> Any:
    """What lies below the diagonal: a place for each row."""
    row, column = (b.iota(axis=k, shape=x.shape, dtype="int64") for k in (0, 1))
    return b.select(b.ge(row, column), x, y)


def band(b: Builder, x: Any, y: Any) -> Any:
    row, column = (b.iota(axis=k, shape=x.shape, dtype="int64") for k in (0, 1))
    near = b.le(column, b.add(row, 3))
    near = b.and_(near, b.not_(b.lt(b.add(column, 2), row)))
    return b.select(near, x, y)


def turned(b: Builder, x: Any, y: Any) -> Any:
    """The lane with a minus, and parts that nothing divides evenly."""
    column = b.iota(axis=1, shape=x.shape, dtype="int64")
    return b.select(b.gt(b.sub(7, column), -12), x, y)


CASES: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (padded, joined, rolled, lower, band, turned)
}


def graph_of(name: str, shape: tuple[Any, ...]) -> Graph:
    b = Builder()
    x, y = (b.input(TensorType(shape, "float32")) for _ in range(2))
    return b.graph("f", [CASES[name](b, x, y)])


def asked(graph: Graph) -> int:
    """Conditions on places, loads and choices under them, in loops over lanes."""
    found = 0
    for step in steps_of(graph):
        for loop in statements_of(step.cpu):
            if isinstance(loop, Loop) and loop.kind == "lanes":
                values = [s.value for s in loop.body if isinstance(s, Let)]
                found += sum(isinstance(v, Guarded) for v in values)
                made = [v for v in values if isinstance(v, Apply)]
                found += sum(v.prim == "select" or v.of == "int64" for v in made)
    return found


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in (
        (3, 1),
        (5, 7),
        (4, SHORT),
        (2, 33),
        (40, 100),
        (70, 65),
        (9, LONG + 3),
    ):
        graph = graph_of(name, shape)
        arrays = [DATA.standard_normal(shape).astype("float32") for _ in range(2)]
        (found,) = run_c(graph, arrays)
        with monkeypatch.context() as m:
            m.setattr(cpu, "peeled", lambda kernel: kernel)
            (whole,) = run_c(graph, arrays)
        (wanted,) = interpret(graph, arrays)
        np.testing.assert_array_equal(found.view("int32"), whole.view("int32"))
        np.testing.assert_array_equal(found.view("int32"), wanted.view("int32"))


@pytest.mark.parametrize("name", CASES)
def test_nothing_known_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(name, (5, LONG))
    left = asked(graph)
    monkeypatch.setattr(cpu, "peeled", lambda kernel: kernel)
    assert asked(graph) > left
    # A pad's rows are asked for still: once for all lanes.
    assert left <= (2 if name == "padded" else 0)


@needs_compiler
def test_sizes_that_are_not_known() -> None:
    n = dims.symbol("n")
    for name in ("lower", "band", "turned"):
        graph = graph_of(name, (5, n))
        assert asked(graph) == 0
        for extent in (1, 2, 31, 100):
            arrays = [DATA.standard_normal((5, extent)).astype("f4") for _ in range(2)]
            (found,), (wanted,) = run_c(graph, arrays), interpret(graph, arrays)
            np.testing.assert_array_equal(found, wanted)


def lanes(condition: Expr, extent: int = 64, **given: Any) -> list[Stmt]:
    """What becomes of lanes i that choose by a condition."""
    here = Offset(axis("i"))
    body = (
        Let("at", "int64", here),
        Let("c", "bool", condition),
        Let("a", "float32", Guarded(Ref("c"), At("in0", axis("i")), "float32")),
        Let(
            "b",
            "float32",
            Apply(
                "select",
                (Ref("c"), Ref("a"), Num(1.0, "float32")),
                "float32",
                "float32",
            ),
        ),
        Put("out0", axis("i"), Ref("b")),
    )
    loop = Loop("i", ZERO, constant(extent), body, "lanes", **given)
    kind = TensorType((extent,), "float32")
    return list(peeled(Kernel("k", (kind,), (kind,), (loop,), 1)).body)


def compared(prim: str, each: int, by: int) -> Apply:
    first = Offset(add(scale(axis("i"), each), constant(2)))
    return Apply(prim, (first, Num(by, "int64")), "int64", "bool")


@pytest.mark.parametrize("prim", ["lt", "le", "gt", "ge"])
@pytest.mark.parametrize("each", [1, -1])
def test_where_conditions_change(prim: str, each: int) -> None:
    by = 22 * each
    test = {"lt": int.__lt__, "le": int.__le__, "gt": int.__gt__, "ge": int.__ge__}
    holds = [i for i in range(64) if test[prim](each * i + 2, by)]
    found = lanes(compared(prim, each, by))
    assert len(found) == 2
    for loop in found:
        assert isinstance(loop, Loop)
        covered = list(range(int(str(loop.start.const)), int(str(loop.stop.const))))
        loads = [s for s in loop.body if isinstance(s, Let) and isinstance(s.value, At)]
        assert covered == (holds if loads else [i for i in range(64) if i not in holds])


def test_parts_without_lanes_are_left_out() -> None:
    (loop,) = lanes(compared("lt", 1, 1000))
    assert isinstance(loop, Loop) and loop.stop == constant(64)
    assert any(isinstance(s, Let) and isinstance(s.value, At) for s in loop.body)


def test_left_whole() -> None:
    """A few lanes, sums, functions that vectors compute otherwise, data."""
    at = compared("lt", 1, 20)
    assert len(lanes(at, SHORT)) == 1
    assert len(lanes(at, combine=(("s", "sum", "float32"),))) == 1
    root = Apply("exp", (At("in0", ZERO),), "float32", "float32")
    assert len(lanes(Apply("lt", (root, root), "float32", "bool"))) == 1
    data = Apply("lt", (Offset(axis("i")), At("in0", ZERO)), "int64", "bool")
    assert len(lanes(data)) == 1
    shifted = Offset(add(axis("i"), axis("r")))
    row = Apply("lt", (shifted, Num(9, "int64")), "int64", "bool")
    assert len(lanes(row, LONG - 1)) == 1 < len(lanes(row, LONG))
