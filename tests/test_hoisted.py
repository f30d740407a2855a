"""Hoisting: lanes give what they gave, and compute no more what they share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import c_text, run_c, steps_of

from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels import cpu
from pirol.kernels.affine import ZERO, axis, constant
from pirol.kernels.hoisted import hoisted
from pirol.kernels.kernel import (
    Apply,
    At,
    Expr,
    Kernel,
    Let,
    Loop,
    Num,
    Put,
    Ref,
    Set,
    Stmt,
    Var,
    statements_of,
)
from pirol.prim import Builder

DATA = np.random.default_rng(7)
TYPE = TensorType((4, 64), "float32")
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


def normalised(b: Builder, x: Any, by: Any, axis: int) -> Any:
    wide = b.broadcast(b.rsqrt(b.add(by, 1e-5)), shape=x.shape, dims=(axis,))
    return b.mul(x, wide)


def channels(b: Builder) -> list[Any]:
    x = b.input(TensorType((3, 5, 70), "float32"))
    by = b.input(TensorType((5,), "float32"))
    return [normalised(b, x, by, 1)]


def conv(b: Builder) -> list[Any]:
    x = b.input(TensorType((2, 6, 9, 11), "float32"))
    w = b.input(TensorType((7, 6, 1, 1), "float32"))
    by = b.input(TensorType((7,), "float32"))
    pads, ones = ((0, 0), (0, 0)), (1, 1)
    given = dict(strides=ones, padding=pads, dilation=ones, groups=1)
    return [normalised(b, b.conv(x, w, **given), by, 1)]


def sums(b: Builder) -> list[Any]:
    """Row by row, and what a row's sum is multiplied by."""
    x = b.input(TensorType((5, 300), "float32"))
    by = b.input(TensorType((5,), "float32"))
    each = normalised(b, x, by, 0)
    total = b.broadcast(b.reduce_sum(each, axes=(1,)), shape=x.shape, dims=(0,))
    return [b.add(each, total)]


CASES: dict[str, Callable[[Builder], list[Any]]] = {
    "channels": channels,
    "conv": conv,
    "sums": sums,
}


def graph_of(name: str) -> tuple[Graph, list[Any]]:
    b = Builder()
    graph = b.graph("f", CASES[name](b))
    return graph, [
        DATA.uniform(0.1, 2, v.type.shape).astype("float32") for v in graph.inputs
    ]


def roots_in_lanes(graph: Graph) -> int:
    return sum(
        isinstance(s, Let) and isinstance(s.value, Apply) and s.value.prim == "rsqrt"
        for step in steps_of(graph)
        for loop in lanes_of(step.cpu)
        for s in statements_of(loop)
    )


def lanes_of(kernel: Kernel) -> Iterator[Loop]:
    for s in statements_of(kernel):
        if isinstance(s, Loop) and s.kind == "lanes":
            yield s


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, arrays = graph_of(name)
    assert roots_in_lanes(graph) == 0
    assert re.search("sqrt", c_text([s.cpu for s in steps_of(graph)]))
    found = run_c(graph, arrays)
    with monkeypatch.context() as m:
        m.setattr(cpu, "hoisted", lambda kernel: kernel)
        assert roots_in_lanes(graph) or name == "sums"  # its rows have theirs already
        whole = run_c(graph, arrays)
    for got, same, want in zip(found, whole, interpret(graph, arrays)):
        np.testing.assert_array_equal(got, same)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def of(*body: Stmt, around: tuple[Stmt, ...] = ()) -> list[Stmt]:
    """What becomes of lanes i with this body, and what is around them."""
    loop = Loop("i", ZERO, constant(8), body, "lanes")
    rows = Loop("r", axis("begin"), axis("end"), (*around, loop), "rows")
    kernel = hoisted(Kernel("k", (TYPE, TYPE), (TYPE,), (rows,), 4))
    (found,) = kernel.body
    assert isinstance(found, Loop)
    return list(found.body)


def let(name: str, value: Expr) -> Let:
    return Let(name, "float32", value)


def double(name: str) -> Apply:
    return Apply("add", (Ref(name), Ref(name)), "float32", "float32")


HERE, ROW = At("in0", axis("i")), At("in1", axis("r"))


def test_chains_move_whole_and_numbers_with_them() -> None:
    body = (
        let("v0", HERE),
        let("v1", ROW),
        let("v2", Num(2.0, "float32")),
        let("v3", Apply("mul", (Ref("v1"), Ref("v2")), "float32", "float32")),
        let("v4", Num(3.0, "float32")),
        let("v5", Apply("mul", (Ref("v0"), Ref("v3")), "float32", "float32")),
        Put("out0", axis("i"), Ref("v5")),
    )
    *before, loop = of(*body)
    assert before == [body[1], body[2], body[3]]
    assert isinstance(loop, Loop) and list(loop.body) == [body[0], *body[4:]]


@pytest.mark.parametrize(
    "value",
    [
        HERE,  # each lane's own
        double("v0"),
        double("sum"),  # a variable that lanes change
        At("out0", axis("r")),  # what is stored to
        At("keep", axis("r")),
    ],
)
def test_stays(value: Expr) -> None:
    around = (Var("sum", "float32", Num(0.0, "float32")),)
    body = (let("v0", HERE), let("v1", value), let("v2", double("v1")))
    ends = (Put("out0", axis("i"), Ref("v2")), Set("sum", Ref("v2")))
    *before, loop = of(*body, *ends, around=around)
    assert before == list(around)
    assert isinstance(loop, Loop) and loop.body == (*body, *ends)


def test_a_name_keeps_its_meaning() -> None:
    """The same name around the lanes for something else; for the same, it serves."""
    mine, other = let("v1", ROW), let("v1", At("in1", ZERO))
    uses = let("v2", double("v1")), Put("out0", axis("i"), Ref("v2"))
    *before, loop = of(mine, *uses, around=(other,))
    assert before == [other]
    assert isinstance(loop, Loop) and loop.body == (mine, *uses)
    *before, loop = of(mine, *uses, around=(mine,))
    assert before == [mine, uses[0]]
    assert isinstance(loop, Loop) and loop.body == uses[1:]


def test_loops_in_turn_share() -> None:
    uses = let("v1", ROW), let("v2", double("v1"))
    loop = Loop("i", ZERO, constant(8), (*uses, Put("out0", axis("i"), Ref("v2"))))
    loop = Loop("i", loop.start, loop.stop, loop.body, "lanes")
    found = hoisted(Kernel("k", (TYPE, TYPE), (TYPE,), (loop, loop), 4)).body
    assert found[:2] == uses and len(found) == 4
