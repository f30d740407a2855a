"""Gradients of every primitive, to second order, against differences and Paddle.

SAMPLES holds small graphs by the primitive that they are about; each is run in
float64 by the interpreter. `check` compares <ct, (f(x + hd) - f(x - hd)) / 2h> with
<vjp(f)(x, ct), d> for random d and ct.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from vjp_checks import (
    assert_dtype,
    check,
    check_both_orders,
    drawn,
    graph_of,
    numbers,
    products_of,
)
from vjp_samples import SAMPLES, casts, f64, samples

from pirol.compiler.autodiff import vjp
from pirol.compiler.errors import ShapeError, Unsupported
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import FLOATS, Graph, TensorType, Value
from pirol.compiler.text import parse_graph, print_graph
from pirol.compiler.verify import verify
from pirol.prim import PRIMS, Builder

Shape = tuple[int, ...]

# Primitives ---------------------------------------------------------------------


def differentiable() -> set[str]:
    return {name for name, prim in PRIMS.items() if prim.vjp is not None}


def test_every_differentiable_primitive_has_samples() -> None:
    assert differentiable() == set(SAMPLES)
    for name, table in SAMPLES.items():
        assert table
        for sample in table:
            assert name in {op.name for op in sample.graph().ops}


@pytest.mark.parametrize("name", SAMPLES)
def test_first_and_second_order(name: str) -> None:
    for sample in SAMPLES[name]:
        check_both_orders(sample.graph(), drawn(sample), sample.draw)


@pytest.mark.parametrize("name", ["tanh", "erf", "div", "rsqrt", "dot_general", "conv"])
def test_third_order(name: str) -> None:
    for sample in SAMPLES[name][:3]:
        graph = sample.graph()
        twice = vjp(vjp(graph))
        kinds = [(v.shape, v.dtype) for v in twice.inputs]
        draw = "positive" if sample.draw == "positive" else "normal"
        check(twice, numbers(kinds, draw), draw)


def float_ops(graph: Graph) -> set[str]:
    """The primitives that make floats from floats."""
    return {
        op.name
        for op in graph.walk()
        if any(r.dtype in FLOATS for r in op.results)
        and any(v.dtype in FLOATS for v in op.operands)
    }


def test_the_set_is_closed() -> None:
    found: set[str] = set()
    through: set[str] = set()
    for table in SAMPLES.values():
        for sample in table:
            back = vjp(sample.graph())
            for graph in (back, vjp(back)):
                found |= {op.name for op in graph.walk()}
                through |= float_ops(graph)
    assert found <= PRIMS.keys()
    assert len(through) > 15
    assert through <= differentiable()


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - {"cast"}))
def test_float32_stays_float32(name: str) -> None:
    for sample in SAMPLES[name]:
        back = vjp(sample.graph("float32"))
        for graph in (back, vjp(back)):
            assert_dtype(graph, "float32")
            verify(graph, "flat")


def test_cast_gives_each_operand_its_dtype() -> None:
    graph = casts()[0].graph()
    back = vjp(graph)
    assert [v.dtype for v in back.outputs] == ["float64", "float64"]
    assert [v.dtype for v in back.inputs[2:]] == ["float32", "float64"]


def planted(name: str) -> Any:
    """The primitive with a rule that is off by a tenth (of a rounding, by all)."""
    prim = PRIMS[name]
    assert prim.vjp is not None
    right = prim.vjp

    def wrong(b: Builder, op: Any, cts: Any) -> Any:
        if name in ("floor", "ceil", "round", "trunc"):
            return cts
        grads = list(right(b, op, cts))
        last = max(k for k, g in enumerate(grads) if g is not None)
        at = 0 if name == "copysign" else last  # its sign's gradient is 0
        grads[at] = b.mul(grads[at], 1.1)
        return grads

    return replace(prim, vjp=wrong)


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - {"const", "iota"}))
def test_a_wrong_rule_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRIMS, name, planted(name))
    with pytest.raises(AssertionError):
        for sample in SAMPLES[name]:
            check(sample.graph(), drawn(sample), sample.draw)


# Kinks, ties, infinities --------------------------------------------------------


def gradient(build: Callable[..., Any], x: Any, ct: Any) -> Any:
    """The gradient of a function of one array."""
    graph = samples(build, (np.shape(x),))[0].graph()
    (found,) = interpret(vjp(graph), [np.array(x, float), np.array(ct, float)])
    return found


@pytest.mark.parametrize("name", ["reduce_max", "reduce_min"])
def test_tied_extremes_share_evenly(name: str) -> None:
    x = [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.0, 5.0, 1.0]]
    share = [[0, 3, 3], [2, 2, 2], [0, 6, 0]]
    x = x if name == "reduce_max" else np.negative(x)
    found = gradient(lambda b, v: getattr(b, name)(v, axes=(1,)), x, [6, 6, 6])
    np.testing.assert_array_equal(found, share)


def test_tied_window_goes_to_the_first() -> None:
    at = dict(window=(3,), strides=(1,), padding=((1, 1),), dilation=(1,), plane=(0, 1))
    found = gradient(
        lambda b, v: b.window_max(v, **at)[0], [2, 2, 1, 2], [1, 10, 100, 1000]
    )
    np.testing.assert_array_equal(found, [11, 100, 0, 1000])


def test_window_in_the_padding_gives_nothing() -> None:
    at = dict(window=(2,), strides=(2,), padding=((2, 0),), dilation=(1,), plane=(0, 1))
    found = gradient(lambda b, v: b.window_max(v, **at)[0], [1, 2], [5, 7])
    np.testing.assert_array_equal(found, [0, 7])


def test_reduced_over_nothing() -> None:
    for name in ("reduce_sum", "reduce_max", "reduce_min"):
        found = gradient(
            lambda b, v, name=name: getattr(b, name)(v, axes=(1,)),
            np.zeros((3, 0)),
            np.ones(3),
        )
        assert found.shape == (3, 0)


def test_infinite_cotangent_does_not_leak() -> None:
    """Zero, not NaN and not -0, where select or a window did not take the value."""

    def pick(b: Builder, x: Value) -> Any:
        return b.select(b.gt(x, 0.0), x, b.const(value=1.0, shape=(2,), dtype=x.dtype))

    def window(b: Builder, x: Value) -> Any:
        at = dict(
            window=(2,), strides=(1,), padding=((0, 0),), dilation=(1,), plane=(0, 1)
        )
        return b.window_max(x, **at)[0]

    for ct in (-np.inf, -5.0):
        found = gradient(pick, [-1, 2], [ct, 3])
        np.testing.assert_array_equal(found, [0, 3])
        assert not np.signbit(found[0])
    np.testing.assert_array_equal(gradient(window, [1, 2], [-np.inf]), [0, -np.inf])


def test_abs_has_no_slope_at_zero_and_one_at_infinity() -> None:
    found = gradient(lambda b, x: b.abs(x), [0, -np.inf, np.inf, -3], [2, 2, 2, 2])
    np.testing.assert_array_equal(found, [0, -2, 2, -2])


# Graphs -------------------------------------------------------------------------


def test_form_of_the_result() -> None:
    kinds = [f64(3), TensorType((3,), "int64"), f64(2), f64(3)]
    graph = graph_of(kinds, lambda b, x, n, u, y: (b.mul(x, y), b.add(n, 1), b.exp(x)))
    back = vjp(graph)
    assert back.name == "f_vjp"
    assert [v.type for v in back.inputs] == [*kinds, f64(3), f64(3)]
    assert [v.type for v in back.outputs] == [f64(3), f64(2), f64(3)]
    x, n, u, y = np.ones(3), np.arange(3), np.ones(2), np.full(3, 2.0)
    dx, du, dy = interpret(back, [x, n, u, y, np.ones(3), np.zeros(3)])
    np.testing.assert_array_equal(du, np.zeros(2))
    np.testing.assert_array_equal(dx, y)
    np.testing.assert_array_equal(dy, x)
    assert parse_graph(print_graph(back)).outputs[0].type == f64(3)


def test_wrt_picks_and_orders() -> None:
    graph = graph_of([f64(2), f64(3), f64(3)], lambda b, x, y, z: (x, b.mul(y, z)))
    back = vjp(graph, wrt=(2, 0))
    cts = [np.array([5.0, 7.0]), np.ones(3)]
    dz, dx = interpret(back, [np.zeros(2), np.full(3, 2.0), np.zeros(3), *cts])
    np.testing.assert_array_equal(dz, [2, 2, 2])
    np.testing.assert_array_equal(dx, [5, 7])
    assert vjp(graph, wrt=()).outputs == () and vjp(graph, wrt=()).ops == ()


def test_only_what_is_wanted_is_computed() -> None:
    graph = graph_of([f64(3, 5), f64(5, 7)], lambda b, x, y: products_of(b, x, y))
    assert [op.name for op in vjp(graph, wrt=(0,)).ops] == ["dot_general", "transpose"]


def test_an_output_may_be_an_input_or_come_twice() -> None:
    graph = graph_of([f64(2)], lambda b, x: (x, twice := b.mul(x, 2.0), twice, x))
    cts = [np.array([c, 0.0]) for c in (1.0, 10.0, 100.0, 1000.0)]
    (dx,) = interpret(vjp(graph), [np.zeros(2), *cts])
    np.testing.assert_array_equal(dx, [1221, 0])


def test_shares_add_up_last_user_first() -> None:
    def build(b: Builder, *xs: Value) -> Any:
        x, *rest = xs
        terms = [b.mul(x, r) for r in rest]
        return b.add(b.add(terms[0], terms[1]), terms[2])

    graph = graph_of([f64(1)] * 4, build)
    values = [np.array([v]) for v in (1.0, 0.5, 1e16, -1e16)]
    (dx,) = interpret(vjp(graph, wrt=(0,)), [*values, np.ones(1)])
    assert dx[0] == (-1e16 + 1e16) + 0.5 != -1e16 + (1e16 + 0.5)
    assert print_graph(vjp(graph)) == print_graph(vjp(graph))


def test_integers_carry_nothing() -> None:
    """A float made of an integer is a constant to what made the integer."""

    def build(b: Builder, x: Value, n: Value) -> Any:
        return b.mul(b.cast(b.add(b.cast(x, dtype="int64"), n), dtype="float64"), 2.0)

    graph = graph_of([f64(3), TensorType((3,), "int64")], build)
    back = vjp(graph)
    assert [op.name for op in back.ops] == ["const"]
    with pytest.raises(Unsupported, match=r"gradient of input 1: got i64\[3\]"):
        vjp(graph, wrt=(1,))


def called() -> Graph:
    """x -> square(square(x)) with one body behind both calls, in a third's body."""
    inner = Builder()
    x = inner.input(f64(3))
    body = inner.graph("body", [inner.mul(x, x)])
    middle = Builder()
    x = middle.input(f64(3))
    once = middle.op("call", [x], [f64(3)], {"callee": "pd_op.square"}, body).result
    again = middle.op("call", [once], [f64(3)], {"callee": "pd_op.square"}, body)
    fourth = middle.graph("body", [again.result, x])
    outer = Builder(line="user.py:7")
    x = outer.input(f64(3))
    call = outer.op("call", [x], [f64(3)] * 2, {"callee": "pd_op.fourth"}, fourth)
    return outer.graph("f", list(call.results))


def test_calls_are_differentiated_by_their_bodies() -> None:
    graph = called()
    verify(graph, "calls")
    back = check_both_orders(graph, [np.array([1.5, -2.0, 0.0])], "normal")
    assert all(op.body is None for op in back.ops)
    assert {op.line for op in vjp(graph).ops} == {"user.py:7"}


def opaque(b: Builder, x: Value, **attrs: Any) -> Value:
    b.line = "user.py:3"
    attrs = {"callee": "pd_op.cumsum", **attrs}
    found = b.op("opaque", [x], [x.type], attrs).result
    b.line = ""
    return found


def test_an_op_without_a_rule_is_named() -> None:
    graph = graph_of([f64(3)], lambda b, x: b.exp(opaque(b, x)))
    with pytest.raises(
        Unsupported, match=r"pd_op.cumsum \(at user.py:3\): has no grad"
    ):
        vjp(graph)


def test_an_op_without_a_rule_may_stand_aside() -> None:
    graph = graph_of([f64(3), f64(3)], lambda b, x, y: (b.mul(x, opaque(b, y)), y))
    back = vjp(graph, wrt=(0,))
    arrays = [np.ones(3), np.full(3, 2.0), np.full(3, 5.0), np.ones(3)]
    (dx,) = interpret(back, arrays, opaque=lambda op, xs: [xs[0] + 1])
    np.testing.assert_array_equal(dx, [15, 15, 15])
    unused = graph_of([f64(3)], lambda b, x: (b.exp(x), b.gt(opaque(b, x), 0.0)))
    assert "opaque" not in {op.name for op in vjp(unused).ops}


def test_an_effect_is_not_repeated() -> None:
    graph = graph_of([f64(3)], lambda b, x: b.exp(opaque(b, x, effect="rng")))
    with pytest.raises(Unsupported, match="pd_op.cumsum .*user.py:3.* effect"):
        vjp(graph)


def test_a_rule_of_the_wrong_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of([f64(3)], lambda b, x: b.reduce_sum(x, axes=(0,)))
    summed = PRIMS["reduce_sum"]
    wrong = replace(summed, vjp=lambda b, op, cts: (cts[0],))
    monkeypatch.setitem(PRIMS, "reduce_sum", wrong)
    with pytest.raises(ShapeError, match=r"got f64\[\], expected f64\[3\]"):
        vjp(graph)
    monkeypatch.setitem(PRIMS, "reduce_sum", replace(summed, vjp=lambda b, op, cts: ()))
    with pytest.raises(ShapeError, match="got 0 gradients, expected 1"):
        vjp(graph)
