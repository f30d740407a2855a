"""The text form round-trips, and the verifier refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pytest
from graph_case import Case
from graphs import cases, symbol_sizes
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_dims import M, N, pairs

from pirol.compiler.errors import TextError, VerifyError
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import (
    DTYPES,
    Graph,
    Guard,
    Op,
    TensorType,
    Value,
)
from pirol.compiler.pipeline import fusible
from pirol.compiler.text import parse_graph
from pirol.compiler.verify import verify
from pirol.passes.fuse import fuse
from pirol.prim import Builder

OPTIONS: dict[str, Any] = {"deadline": None, "print_blob": True}
Sizes: TypeAlias = Mapping[str, int]

# Graphs as text -----------------------------------------------------------------------


def same_arrays(a: list[Any], b: list[Any]) -> bool:
    return all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        for x, y in zip(a, b)
    )


@settings(max_examples=60, **OPTIONS)
@given(cases(), symbol_sizes(), st.integers(0, 99))
def test_random_graphs_round_trip(case: Case, sizes: Sizes, seed: int) -> None:
    text = str(case.graph)
    again = parse_graph(text)
    assert str(again) == text
    verify(again, "flat")
    arrays = case.arrays(sizes, seed)
    assert same_arrays(interpret(case.graph, arrays), interpret(again, arrays))


@settings(max_examples=15, **OPTIONS)
@given(cases(), symbol_sizes(), st.integers(0, 99))
def test_fused_graphs_round_trip(case: Case, sizes: Sizes, seed: int) -> None:
    fused = fuse(case.graph, fusible)[0]
    again = parse_graph(str(fused))
    assert str(again) == str(fused)
    verify(again, "fused")
    arrays = case.arrays(sizes, seed)
    assert same_arrays(interpret(fused, arrays), interpret(again, arrays))


def attributes() -> st.SearchStrategy[Any]:
    plain = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.complex_numbers(),
        st.text(),
        st.sampled_from(("a  = b", '"', "#", "}", "->", "<n>", "\\", "\n", "  = ")),
        pairs().map(lambda p: p[0]),
    )
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5
    )


NAMES = st.from_regex(r"[A-Za-z_][\w.]{0,8}", fullmatch=True).filter(str.isascii)


def types() -> st.SearchStrategy[TensorType]:
    shape = st.lists(st.one_of(st.integers(0, 9), pairs().map(lambda p: p[0])))
    return st.builds(
        TensorType, shape.map(lambda s: tuple(s[:3])), st.sampled_from(list(DTYPES))
    )


@st.composite
def loose_graphs(draw: Any, depth: int = 1, name: str = "f") -> Graph:
    """Graphs of any ops at all: attributes, bodies, guards, writes, source lines."""
    made = [Value(t) for t in draw(st.lists(types(), max_size=3))]
    inputs, ops = tuple(made), []
    for _ in range(draw(st.integers(0, 3))):
        operands = draw(st.lists(st.sampled_from(made), max_size=2)) if made else []
        results = tuple(Value(t) for t in draw(st.lists(types(), max_size=2)))
        body = None
        if depth and draw(st.booleans()):
            body = draw(loose_graphs(depth - 1, "body"))
        attrs = draw(st.dictionaries(NAMES, attributes(), max_size=3))
        line = draw(st.one_of(st.just(""), st.just("a b.py:3"), st.text()))
        ops.append(Op(draw(NAMES), tuple(operands), attrs, results, body, line))
        made += results
    outputs = draw(st.lists(st.sampled_from(made), max_size=2)) if made else []
    writes = [(k, draw(st.sampled_from(made))) for k in range(len(inputs))]
    kinds, sides = st.sampled_from(("eq", "ne", "ge", "lt")), pairs()
    guards = draw(st.lists(st.tuples(kinds, sides, sides), max_size=2))
    return Graph(
        name,
        inputs,
        tuple(ops),
        tuple(outputs),
        tuple(writes[: draw(st.integers(0, 2))]),
        tuple(Guard(k, a[0], b[0]) for k, a, b in guards),
    )


RESERVED = ("write", "return", "guard")


@settings(max_examples=50, **OPTIONS)
@given(loose_graphs())
def test_any_graph_round_trips(graph: Graph) -> None:
    assume(all(op.name not in RESERVED for op in graph.walk()))
    text = str(graph)
    again = parse_graph(text)
    assert str(again) == text
    for old, new in zip(graph.walk(), again.walk()):
        assert old.line == new.line
        assert repr(sorted(old.attrs.items())) == repr(sorted(new.attrs.items()))


def test_special_numbers_keep_their_bits() -> None:
    given = (math.inf, -math.inf, math.nan, -0.0, 0.0, 5e-324, 1e22, 0.1, -3, True)
    op = Op("opaque", (), {"x": given, "c": complex(-0.0, math.inf)}, ())
    (again,) = parse_graph(str(Graph("f", (), (op,), ()))).ops
    assert repr(again.attrs["x"]) == repr(given)
    assert [type(v) for v in again.attrs["x"]] == [type(v) for v in given]
    assert repr(again.attrs["c"]) == repr(complex(-0.0, math.inf))


GOOD = """graph @f(%0: f32[n, 4], %1: i64[n]) {
  guard ge(n, 2*(m+1))
  %2 = exp(%0) : f32[n, 4]  # "model.py:3"
  %3 = reduce_sum(%2) {axes = [1]} : f32[n]
  %4, %5 = opaque(%3) {c = complex[1.0, nan], s = "a", d = <n+1>} : f32[n], b1[]
  body(%6: f32[n]) {
    return %6
  }
  write 0 = %2
  return %4, %5
}
"""


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("%2 = exp(%0)", "%2 = exp(%9)", 3),
        ("%2 = exp(%0)", "%1 = exp(%0)", 3),
        (": f32[n, 4]  #", ": f33[n, 4]  #", 3),
        (": f32[n, 4]  #", ": f32[n, 4 +]  #", 3),
        ('"model.py:3"', "model", 3),
        ('"model.py:3"', '"\\q"', 3),
        ("axes = [1]", "axes = 1.2.3", 4),
        ("axes = [1]", "axes [1]", 4),
        ("complex[1.0, nan]", "complex[1.0]", 5),
        ("complex[1.0, nan]", 'complex[1.0, "a"]', 5),
        ("<n+1>", "<n+>", 5),
        ("ge(n, 2*(m+1))", "ge(n, 2*(m+1)", 2),
        ("ge(n, 2*(m+1))", "ge(n)", 2),
        ("ge(n, 2*(m+1))", "about(n, m)", 2),
        ("write 0", "write x", 9),
        ("write 0", "write 7", 9),
        ("return %4, %5", "return %4 %5", 10),
        ("graph @f", "grap @f", 1),
    ],
)
def test_text_errors_name_the_line(old: str, new: str, line: int) -> None:
    assert str(parse_graph(GOOD)) == str(parse_graph(str(parse_graph(GOOD))))
    assert old in GOOD
    with pytest.raises(TextError, match=r"line \d+") as caught:
        parse_graph(GOOD.replace(old, new))
    number = int(str(caught.value).split("line ")[1].split(":")[0])
    assert line <= number <= line + 1


@settings(max_examples=300, **OPTIONS)
@given(st.integers(0, len(GOOD)), st.integers(0, 6), st.text(max_size=3))
def test_damaged_text_is_a_text_error(at: int, gone: int, put: str) -> None:
    """Nothing but a TextError that names a line, or another graph."""
    try:
        parse_graph(GOOD[:at] + put + GOOD[at + gone :])
    except TextError as error:
        assert "line " in str(error)


# The verifier -------------------------------------------------------------------------

F32 = TensorType((N, 4), "float32")


def exp_graph() -> tuple[Graph, Value]:
    b = Builder()
    x = b.input(F32)
    return b.graph("f", [b.exp(b.exp(x))]), x


def test_use_before_definition() -> None:
    graph, _ = exp_graph()
    verify(graph, "flat")
    with pytest.raises(VerifyError, match="not defined before"):
        verify(graph.with_ops(reversed(graph.ops)), "flat")


def test_two_definitions_and_foreign_results() -> None:
    graph, _ = exp_graph()
    with pytest.raises(VerifyError, match="twice"):
        verify(graph.with_ops([*graph.ops, graph.ops[-1]]), "flat")
    with pytest.raises(VerifyError, match="nobody defines"):
        verify(graph.with_ops(graph.ops[:1]), "flat")


@pytest.mark.parametrize(
    "wrong",
    [
        TensorType((N, 4), "float64"),
        TensorType((N, 5), "float32"),
        TensorType((M, 4), "float32"),
        TensorType((N,), "float32"),
    ],
)
def test_wrong_type(wrong: TensorType) -> None:
    b = Builder()
    op = b.op("exp", [b.input(F32)], [wrong], {})
    with pytest.raises(VerifyError, match="its rule says"):
        verify(b.graph("f", [op.result]), "flat")


def test_operands_that_do_not_fit() -> None:
    b = Builder()
    x, y = b.input(F32), b.input(TensorType((4, N), "float32"))
    op = b.op("add", [x, y], [F32], {})
    with pytest.raises(VerifyError, match="one shape"):
        verify(b.graph("f", [op.result]), "flat")


def body() -> Graph:
    b = Builder()
    return b.graph("body", [b.exp(b.input(F32))])


@pytest.mark.parametrize(
    ("name", "has_body", "attrs", "levels"),
    [
        ("exp", False, {}, ("pir", "calls", "flat")),
        ("pd_op.softmax", False, {}, ("pir",)),
        ("call", True, {"callee": "pd_op.gelu"}, ("pir", "calls")),
        ("call", True, {"claimed": "gelu"}, ("pir", "calls", "flat", "fused")),
        ("call", False, {}, ("pir",)),
        ("group", True, {}, ("pir", "fused")),
        ("group", False, {}, ("pir",)),
        ("opaque", False, {}, ("pir", "calls", "flat", "fused")),
        ("opaque", True, {}, ("pir",)),
    ],
)
def test_ops_allowed_at_each_level(
    name: str, has_body: bool, attrs: dict[str, Any], levels: tuple[str, ...]
) -> None:
    b = Builder()
    op = b.op(name, [b.input(F32)], [F32], attrs, body() if has_body else None)
    graph = b.graph("f", [op.result])
    for level in ("pir", "calls", "flat", "fused"):
        if level in levels:
            verify(graph, level)
        else:
            with pytest.raises(VerifyError, match="not allowed"):
                verify(graph, level)


def test_a_body_must_fit_its_op() -> None:
    b = Builder()
    op = b.op("group", [b.input(F32)], [TensorType((N, 4), "float64")], {}, body())
    with pytest.raises(VerifyError, match="do not fit the body"):
        verify(b.graph("f", [op.result]), "fused")


def test_a_body_is_checked_inside() -> None:
    b = Builder()
    inner = body()
    faulty = inner.with_ops([*inner.ops, inner.ops[0]])
    op = b.op("group", [b.input(F32)], [F32], {}, faulty)
    with pytest.raises(VerifyError, match="twice"):
        verify(b.graph("f", [op.result]), "fused")


def test_a_write_keeps_the_type() -> None:
    b = Builder()
    x = b.input(F32)
    y = b.cast(x, dtype="float64")
    with pytest.raises(VerifyError, match="write 0"):
        verify(b.graph("f", [y], writes=((0, y),)), "flat")


def test_an_unknown_level() -> None:
    with pytest.raises(ValueError, match="level"):
        verify(exp_graph()[0], "deep")


def test_the_interpreter_reads_symbols_off_shapes() -> None:
    graph, _ = exp_graph()
    (found,) = interpret(graph, [np.zeros((3, 4), np.float32)])
    assert found.shape == (3, 4) and found.dtype == np.float32
