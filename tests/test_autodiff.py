"""Gradients of every primitive, to second order, against differences and Paddle.

SAMPLES holds small graphs by the primitive that they are about; each is run in
float64 by the interpreter. `check` compares <ct, (f(x + hd) - f(x - hd)) / 2h> with
<vjp(f)(x, ct), d> for random d and ct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from pirol.compiler import dims
from pirol.compiler.autodiff import vjp
from pirol.compiler.errors import ShapeError, Unsupported
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import DTYPES, FLOATS, Graph, Guard, TensorType, Value
from pirol.compiler.text import parse_graph, print_graph
from pirol.compiler.verify import verify
from pirol.prim import PRIMS, Builder
from pirol.prim.decomp import nn, pointwise

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """A graph on inputs of these types, and how its numbers are drawn.

    "apart": all distinct and far from 0 and whole numbers, for what has kinks;
    "ties": -1, 0 or 1; there only cotangents are moved for the second order;
    "whole": whole numbers and a step of 1/4, exact in float32 too.
    """

    build: Callable[..., Any]
    kinds: tuple[TensorType, ...]
    draw: str = "normal"

    def graph(self, dtype: str = "float64") -> Graph:
        """The sample's graph, its float inputs of this dtype."""
        b = Builder()
        inputs = [b.input(k) for k in _typed(self.kinds, dtype)]
        outputs = self.build(b, *inputs)
        many = outputs if isinstance(outputs, tuple) else (outputs,)
        return b.graph("f", many)


def _typed(kinds: Sequence[TensorType], dtype: str) -> list[TensorType]:
    return [replace(k, dtype=dtype) if k.dtype in FLOATS else k for k in kinds]


def f64(*shape: Any) -> TensorType:
    return TensorType(shape, "float64")


def samples(build: Callable[..., Any], *rows: Any, draw: str = "normal") -> list[Any]:
    """One sample for each row of shapes."""
    return [Sample(build, tuple(f64(*s) for s in row), draw) for row in rows]


SHAPES: tuple[Shape, ...] = ((), (1,), (7,), (0, 3), (2, 1, 5))


def unary(name: str, draw: str = "normal") -> list[Sample]:
    rows = [(s,) for s in SHAPES]
    return samples(lambda b, x: getattr(b, name)(x), *rows, draw=draw)


def binary(name: str, draw: str = "normal") -> list[Sample]:
    pairs: list[Any] = [(s, s) for s in SHAPES]
    pairs += [((3, 1), (1, 5)), ((5,), (2, 3, 5)), ((1, 1), (7,)), ((0, 3), (1,))]

    def both(b: Builder, x: Value, y: Value) -> Any:
        return getattr(b, name)(x, y)

    return samples(both, *pairs, draw=draw)


def chosen() -> list[Sample]:
    kinds = [(TensorType(s, "bool"), f64(*s), f64(*s)) for s in SHAPES]
    wide = (TensorType((3, 1), "bool"), f64(1, 5), f64(3, 5))

    def pick(b: Builder, c: Value, x: Value, y: Value) -> Any:
        return b.select(c, x, y)

    return [Sample(pick, k) for k in (*kinds, wide)]


def casts() -> list[Sample]:
    def narrow(b: Builder, x: Value, y: Value) -> Any:
        product = b.mul(b.cast(x, dtype="float32"), b.cast(y, dtype="float32"))
        return product, b.cast(product, dtype="float64")

    def through_ints(b: Builder, x: Value) -> Any:
        return b.add(x, b.cast(b.cast(x, dtype="int64"), dtype="float64"))

    def from_bool(b: Builder, x: Value) -> Any:
        return b.mul(x, b.cast(b.gt(x, 0.0), dtype="float64"))

    return [
        *samples(narrow, ((7,), (7,)), ((0, 3), (0, 3)), draw="whole"),
        *samples(through_ints, ((7,),), draw="apart"),
        *samples(from_bool, ((7,),), draw="apart"),
    ]


def reductions(name: str, draw: str = "normal") -> Iterator[Sample]:
    places: list[tuple[Shape, Shape]] = [
        ((5,), (0,)),
        ((1,), (0,)),
        ((2, 3, 5), (1,)),
        ((2, 3, 5), (0, 2)),
        ((2, 3, 5), ()),
        ((3, 1, 7), (1, 2)),
        ((0, 3), (1,)),
        ((), ()),
    ]
    for shape, axes in places:
        yield Sample(
            lambda b, x, axes=axes: getattr(b, name)(x, axes=axes), (f64(*shape),), draw
        )


def windows() -> Iterator[Sample]:
    places: list[Any] = [
        # shape, window, strides, padding, dilation
        ((7,), (2,), (2,), ((0, 0),), (1,)),
        ((7,), (3,), (1,), ((1, 1),), (1,)),
        ((7,), (3,), (2,), ((0, 2),), (2,)),
        ((11,), (2,), (3,), ((1, 0),), (3,)),
        ((11,), (1,), (4,), ((0, 0),), (1,)),
        ((1,), (3,), (1,), ((1, 1),), (1,)),
        ((5, 7), (2, 3), (1, 2), ((1, 0), (1, 1)), (2, 1)),
        ((0, 5), (1, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)),
        ((2, 1, 5, 4), (1, 1, 2, 2), (1, 1, 2, 1), ((0, 0),) * 2 + ((1, 1),) * 2,
         (1, 1, 1, 2)),
    ]  # fmt: skip
    for shape, window, strides, padding, dilation in places:
        at = dict(window=window, strides=strides, padding=padding, dilation=dilation)
        yield Sample(lambda b, x, at=at: b.window_max(x, **at), (f64(*shape),), "apart")


def products() -> Iterator[Sample]:
    places: list[Any] = [
        # shapes, then batch and summed dims of x and of y
        ((3, 5), (5, 7), (), (), (1,), (0,)),
        ((3, 5), (7, 5), (), (), (1,), (1,)),
        ((5, 3), (5, 7), (), (), (0,), (0,)),
        ((5,), (5,), (), (), (0,), (0,)),
        ((3,), (5,), (), (), (), ()),
        ((2, 3, 5), (2, 5, 1), (0,), (0,), (2,), (1,)),
        ((3, 2, 5, 4), (5, 4, 7, 2), (1, 3), (3, 1), (2,), (0,)),
        ((2, 3, 5, 7), (7, 2, 11, 5), (0,), (1,), (2, 3), (3, 0)),
        ((2, 3), (2, 3), (0, 1), (0, 1), (), ()),
        ((0, 5), (5, 3), (), (), (1,), (0,)),
        ((3, 0), (0, 5), (), (), (1,), (0,)),
    ]
    for x, y, xb, yb, xc, yc in places:
        at = dict(x_batch=xb, y_batch=yb, x_sum=xc, y_sum=yc)
        yield Sample(
            lambda b, x, y, at=at: b.dot_general(x, y, **at), (f64(*x), f64(*y))
        )


# x, w, y, strides, padding, dilation, groups
CONVS: list[Any] = [
    ((2, 3, 7), (5, 3, 3), (2, 5, 5), (1,), ((0, 0),), (1,), 1),
    ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1,), ((0, 0),), (1,), 1),
    ((2, 4, 5, 6), (6, 2, 2, 3), (2, 6, 3, 3), (2, 2), ((1, 0), (2, 0)), (1, 1), 2),
    ((1, 3, 7, 5), (3, 1, 3, 2), (1, 3, 5, 3), (1, 2), ((1, 1), (1, 1)), (2, 1), 3),
    ((2, 2, 11), (3, 2, 2), (2, 3, 3), (3,), ((0, 1),), (3,), 1),
    ((0, 2, 5), (3, 2, 2), (0, 3, 4), (1,), ((0, 0),), (1,), 1),
    ((1, 1, 3, 4, 3), (2, 1, 2, 2, 2), (1, 2, 2, 3, 2), (1,) * 3, ((0, 0),) * 3,
     (1,) * 3, 1),
]  # fmt: skip


def convolutions(name: str) -> Iterator[Sample]:
    for x, w, y, strides, padding, dilation, groups in CONVS:
        at = dict(strides=strides, padding=padding, dilation=dilation, groups=groups)
        operands, shape = {
            "conv": ((x, w), None),
            "conv_input_grad": ((y, w), x),
            "conv_weight_grad": ((x, y), w),
        }[name]
        if shape is not None:
            at["shape"] = shape
        yield Sample(
            lambda b, *xs, at=at: getattr(b, name)(*xs, **at),
            tuple(f64(*s) for s in operands),
        )


def broadcasts() -> Iterator[Sample]:
    places: list[Any] = [
        ((), (2, 3), ()),
        ((3,), (2, 3), (1,)),
        ((2,), (2, 3), (0,)),
        ((1, 3), (5, 2, 3), (1, 2)),
        ((2, 1), (2, 1), (0, 1)),
        ((1,), (0, 7), (1,)),
        ((1, 1), (1, 7), (0, 1)),
    ]
    for shape, target, at in places:
        yield Sample(
            lambda b, x, target=target, at=at: b.broadcast(x, shape=target, dims=at),
            (f64(*shape),),
        )


def slices() -> Iterator[Sample]:
    places: list[Any] = [
        ((7,), (1,), (3,), (2,)),
        ((7,), (0,), (7,), (1,)),
        ((7,), (2,), (2,), (3,)),
        ((7,), (7,), (0,), (2,)),
        ((3, 11), (1, 2), (2, 4), (1, 2)),
        ((5, 1, 7), (4, 0, 0), (1, 1, 3), (5, 1, 3)),
        ((0, 3), (0, 1), (0, 2), (1, 1)),
    ]
    for shape, starts, sizes, steps in places:
        at = dict(starts=starts, sizes=sizes, steps=steps)
        yield Sample(lambda b, x, at=at: b.slice(x, **at), (f64(*shape),))


def pads() -> Iterator[Sample]:
    places: list[Any] = [
        ((3,), (1,), (2,), (0,), 0),
        ((5,), (0,), (1,), (2,), 1.5),
        ((1,), (2,), (0,), (3,), 0),
        ((0,), (2,), (1,), (1,), 0),
        ((2, 3), (0, 1), (1, 0), (3, 1), -1.0),
    ]
    for shape, low, high, interior, value in places:
        at = dict(low=low, high=high, interior=interior, value=value)
        yield Sample(lambda b, x, at=at: b.pad(x, **at), (f64(*shape),))


def joined(axis: int) -> Callable[..., Any]:
    return lambda b, *xs: b.concat(*xs, axis=axis)


def reshaped(*shape: int) -> Callable[..., Any]:
    return lambda b, x: b.reshape(x, shape=shape)


def turned(*perm: int) -> Callable[..., Any]:
    return lambda b, x: b.transpose(x, perm=perm)


def by_const(b: Builder, x: Value) -> Any:
    return b.mul(x, b.const(value=2.5, shape=x.shape, dtype=x.dtype))


def by_iota(b: Builder, x: Value) -> Any:
    return b.mul(x, b.iota(axis=0, shape=x.shape, dtype=x.dtype))


SAMPLES: dict[str, list[Sample]] = {
    "neg": unary("neg"),
    "abs": unary("abs", "apart") + unary("abs", "ties"),
    "exp": unary("exp"),
    "log": unary("log", "positive"),
    "sqrt": unary("sqrt", "positive"),
    "rsqrt": unary("rsqrt", "positive"),
    "tanh": unary("tanh"),
    "erf": unary("erf"),
    "floor": unary("floor", "apart"),
    "add": binary("add"),
    "sub": binary("sub"),
    "mul": binary("mul"),
    "div": binary("div", "positive"),
    "max": binary("max", "apart") + binary("max", "ties"),
    "min": binary("min", "apart") + binary("min", "ties"),
    "select": chosen(),
    "cast": casts(),
    "const": samples(by_const, ((3,),), ((0, 1),)),
    "iota": samples(by_iota, ((3, 2),), ((0,),)),
    "reshape": [
        *samples(reshaped(3, 4), ((2, 6),)),
        *samples(reshaped(), ((1, 1),)),
        *samples(reshaped(0, 7), ((3, 0),)),
    ],
    "transpose": [
        *samples(turned(2, 0, 1), ((2, 3, 5),), ((1, 7, 0),)),
        *samples(turned(), ((),)),
    ],
    "broadcast": list(broadcasts()),
    "slice": list(slices()),
    "pad": list(pads()),
    "concat": [
        *samples(joined(0), ((3,),), ((1,), (0,), (5,))),
        *samples(joined(1), ((2, 3), (2, 1), (2, 7)), ((0, 2), (0, 3))),
    ],
    "reduce_sum": list(reductions("reduce_sum")),
    "reduce_max": list(reductions("reduce_max", "apart")),
    "reduce_min": list(reductions("reduce_min", "apart")),
    "window_max": list(windows()),
    "dot_general": list(products()),
    "conv": list(convolutions("conv")),
    "conv_input_grad": list(convolutions("conv_input_grad")),
    "conv_weight_grad": list(convolutions("conv_weight_grad")),
}


# Numbers ------------------------------------------------------------------------


def numbers(kinds: Sequence[Any], draw: str, seed: int = 0) -> list[Any]:
    """An array for each (shape, dtype)."""
    rng = np.random.default_rng(seed)
    count = sum(int(np.prod(shape)) for shape, _ in kinds)
    spread = rng.permutation((np.arange(count) - count // 2 + 0.3) * 0.37)
    found, at = [], 0
    for shape, dtype in kinds:
        size = int(np.prod(shape))
        match draw if dtype in FLOATS else dtype:
            case "bool":
                array = rng.integers(0, 2, shape)
            case "int64":
                array = rng.integers(0, 3, shape)
            case "apart":
                array = spread[at : at + size].reshape(shape)
            case "ties":
                array = rng.integers(-1, 2, shape)
            case "whole":
                array = rng.integers(-5, 6, shape)
            case "positive":
                array = rng.uniform(0.5, 2.0, shape)
            case _:
                array = rng.normal(size=shape)
        at += size
        found.append(np.asarray(array).astype(DTYPES[dtype][1]))
    return found


def kinds_of(arrays: Sequence[Any]) -> list[Any]:
    return [(np.shape(a), str(a.dtype)) for a in arrays]


def check(graph: Graph, arrays: Sequence[Any], draw: str, still: int = 0) -> Graph:
    """Assert the gradients of a graph at a point, and return the graph of them.

    The first `still` inputs stay where they are.
    """
    back = vjp(graph)
    verify(back, "flat")
    outs = interpret(graph, arrays)
    whole = "whole" if draw == "whole" else "normal"
    cts = numbers([k for k in kinds_of(outs) if k[1] in FLOATS], whole, seed=1)
    moves = numbers(kinds_of(arrays), whole, seed=2)
    for k, (array, move) in enumerate(zip(arrays, moves)):
        if k < still or str(array.dtype) not in FLOATS:
            moves[k] = np.zeros_like(move)
    step = 0.25 if draw == "whole" else 1e-5
    grads = interpret(back, [*arrays, *cts])
    floats = [k for k, a in enumerate(arrays) if str(a.dtype) in FLOATS]
    assert len(grads) == len(floats)
    for k, grad in zip(floats, grads):
        assert grad.shape == arrays[k].shape and grad.dtype == arrays[k].dtype
    parts = [g * moves[k] for k, g in zip(floats, grads)]
    got = sum(float(np.sum(p)) for p in parts)
    size = sum(float(np.sum(np.abs(p))) for p in parts)
    expected = difference(graph, arrays, moves, cts, step)
    assert abs(got - expected) <= 1e-6 * (1 + size), (got, expected)
    return back


def difference(
    graph: Graph, arrays: Sequence[Any], moves: Any, cts: Any, step: float
) -> float:
    """<cts, (f(arrays + step moves) - f(arrays - step moves)) / 2 step>."""
    sides = []
    for sign in (step, -step):
        moved = [
            np.asarray(a + sign * m, a.dtype) if str(a.dtype) in FLOATS else a
            for a, m in zip(arrays, moves)
        ]
        outs = interpret(graph, moved)
        floats = [o for o in outs if str(o.dtype) in FLOATS]
        sides.append(sum(float(np.sum(o * c)) for o, c in zip(floats, cts)))
    return (sides[0] - sides[1]) / (2 * step)


def check_both_orders(graph: Graph, arrays: list[Any], draw: str) -> Graph:
    """First order, then the gradient's own; returns the graph of the second."""
    back = check(graph, arrays, draw)
    cts = numbers(
        [(np.shape(o), str(o.dtype)) for o in interpret(graph, arrays)
         if str(o.dtype) in FLOATS],
        "whole" if draw == "whole" else "normal", seed=3,
    )  # fmt: skip
    still = len(arrays) if draw == "ties" else 0
    return check(back, [*arrays, *cts], draw, still)


def drawn(sample: Sample, dtype: str = "float64") -> list[Any]:
    kinds = _typed(sample.kinds, dtype)
    return numbers([(k.shape, k.dtype) for k in kinds], sample.draw)


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


def assert_dtype(graph: Graph, dtype: str) -> None:
    values = [*graph.inputs, *(r for op in graph.walk() for r in op.results)]
    kinds = {v.dtype for v in values if v.dtype in FLOATS}
    assert kinds == {dtype}


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
    """The primitive with a rule that is off by a tenth (floor's, by all)."""
    prim = PRIMS[name]
    assert prim.vjp is not None
    right = prim.vjp

    def wrong(b: Builder, op: Any, cts: Any) -> Any:
        if name == "floor":
            return cts
        grads = list(right(b, op, cts))
        at = max(k for k, g in enumerate(grads) if g is not None)
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
    at = dict(window=(3,), strides=(1,), padding=((1, 1),), dilation=(1,))
    found = gradient(
        lambda b, v: b.window_max(v, **at)[0], [2, 2, 1, 2], [1, 10, 100, 1000]
    )
    np.testing.assert_array_equal(found, [11, 100, 0, 1000])


def test_window_in_the_padding_gives_nothing() -> None:
    at = dict(window=(2,), strides=(2,), padding=((2, 0),), dilation=(1,))
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
        at = dict(window=(2,), strides=(1,), padding=((0, 0),), dilation=(1,))
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


def graph_of(kinds: Sequence[TensorType], build: Callable[..., Any]) -> Graph:
    return Sample(build, tuple(kinds)).graph()


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


def products_of(b: Builder, x: Value, y: Value) -> Any:
    return b.dot_general(x, y, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(0,))


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


def test_complex_is_refused() -> None:
    def build(b: Builder, x: Value) -> Any:
        return b.cast(b.cast(x, dtype="complex128"), dtype="float64")

    with pytest.raises(Unsupported, match="cast: is complex"):
        vjp(graph_of([f64(3)], build))


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


# Symbolic shapes ----------------------------------------------------------------

N, M = dims.symbol("n"), dims.symbol("m")


def strided(b: Builder, x: Value) -> Any:
    sizes = (dims.floordiv(dims.add(N, 1), 2), dims.sub(M, dims.floordiv(M, 2)))
    return b.slice(x, starts=(0, dims.floordiv(M, 2)), sizes=sizes, steps=(2, 1))


def padded(b: Builder, x: Value, y: Value) -> Any:
    wide = b.pad(x, low=(M,), high=(1,), interior=(2,), value=0)
    return wide, b.pad(y, low=(0,), high=(N,), interior=(0,), value=1.0)


def pooled(b: Builder, x: Value) -> Any:
    at = dict(window=(1, 3), strides=(1, 2), padding=((0, 0), (1, 1)), dilation=(1, 1))
    return b.window_max(x, **at)[0]


def convolved(b: Builder, x: Value, w: Value) -> Any:
    at = dict(strides=(2,), padding=((1, 1),), dilation=(1,), groups=2)
    return b.conv(x, w, **at)


def spread_out(b: Builder, x: Value, y: Value, z: Value) -> Any:
    line = b.broadcast(x, shape=(M, N), dims=(1,))
    return b.mul(line, y), b.broadcast(z, shape=(N,), dims=(0,))


SYMBOLIC: list[tuple[str, Callable[..., Any], list[TensorType]]] = [
    ("broadcast", spread_out, [f64(N), f64(M, N), f64(1)]),
    ("add", lambda b, x, y: b.add(x, y), [f64(M, N), f64(1, N)]),
    ("mean", lambda b, x: nn.mean_of(b, x, (0, 2)), [f64(N, 3, M)]),
    ("reduce_sum", lambda b, x: b.reduce_sum(x, axes=(1,)), [f64(M, N)]),
    ("reduce_max", lambda b, x: b.reduce_max(x, axes=(1,)), [f64(M, N)]),
    ("slice", strided, [f64(N, M)]),
    ("pad", padded, [f64(N), f64(M)]),
    ("concat", lambda b, x, y, z: b.concat(x, y, z, axis=0),
     [f64(N, 2), f64(M, 2), f64(3, 2)]),
    ("reshape", lambda b, x: b.reshape(x, shape=(N * M * 2,)), [f64(N, 2, M)]),
    ("transpose", lambda b, x: b.transpose(x, perm=(1, 0)), [f64(N, M)]),
    ("dot_general", products_of, [f64(N, 3), f64(3, M)]),
    ("window_max", pooled, [f64(M, N)]),
    ("conv", convolved, [f64(M, 4, N), f64(2, 2, 3)]),
    ("softmax", lambda b, x: nn.softmax(b, x, axis=-1), [f64(M, N)]),
    ("unused", lambda b, x, y: b.exp(x), [f64(N), f64(M, N)]),
]  # fmt: skip


@pytest.mark.parametrize("name", [row[0] for row in SYMBOLIC])
def test_symbolic_shapes(name: str) -> None:
    build, kinds = next(row[1:] for row in SYMBOLIC if row[0] == name)
    graph = graph_of(kinds, build)
    for n, m in ((4, 3), (1, 1), (7, 2), (5, 5)):
        sizes = {"n": n, "m": m}
        shapes = [
            (tuple(dims.evaluate(d, sizes) for d in k.shape), k.dtype) for k in kinds
        ]
        check_both_orders(graph, numbers(shapes, "apart"), "apart")


def test_symbolic_sizes_of_zero() -> None:
    names = ("broadcast", "mean", "slice", "pad", "concat", "reduce_sum")
    for _, build, kinds in (row for row in SYMBOLIC if row[0] in names):
        for sizes in ({"n": 0, "m": 2}, {"n": 2, "m": 0}, {"n": 0, "m": 0}):
            shapes = [
                (tuple(dims.evaluate(d, sizes) for d in k.shape), k.dtype)
                for k in kinds
            ]
            graph = graph_of(kinds, build)
            arrays = numbers(shapes, "normal")
            outs = interpret(graph, arrays)
            grads = interpret(vjp(graph), [*arrays, *outs])
            assert [g.shape for g in grads] == [a.shape for a in arrays]


def test_guards_stay_with_the_graph() -> None:
    guards = (Guard("eq", N, M),)
    graph = replace(graph_of([f64(N)], lambda b, x: b.exp(x)), guards=guards)
    assert vjp(graph).guards == guards and vjp(vjp(graph)).guards == guards


# Decompositions -----------------------------------------------------------------


def normed(b: Builder, x: Value, scale: Value, bias: Value) -> Any:
    return nn.layer_norm(b, x, scale, bias, epsilon=1e-5, begin_norm_axis=1)[0]


def batch_normed(b: Builder, *operands: Value) -> Any:
    how = dict(is_test=True, use_global_stats=False, trainable_statistics=False)
    return nn.batch_norm(b, *operands, epsilon=1e-5, data_format="NCHW", **how)[0]


def multiplied(x: bool = False, y: bool = False) -> Callable[..., Any]:
    return lambda b, p, q: nn.matmul(b, p, q, transpose_x=x, transpose_y=y)


def convolution(b: Builder, x: Value, w: Value) -> Any:
    return nn.conv2d(
        b, x, w, strides=(2, 1), paddings=(1, 2), padding_algorithm="EXPLICIT",
        dilations=(1, 2), groups=2, data_format="NCHW",
    )  # fmt: skip


def pool(kind: str, whole: bool) -> Callable[..., Any]:
    return lambda b, x: nn.pool2d(
        b, x, (3, 2), strides=(2, 1), paddings=(1, 1), ceil_mode=False,
        data_format="NCHW", pooling_type=kind, global_pooling=whole, adaptive=False,
        padding_algorithm="EXPLICIT",
    )  # fmt: skip


DECOMPOSED: dict[str, list[Sample]] = {
    "softmax": [
        *samples(lambda b, x: nn.softmax(b, x, axis=-1), ((3, 7),), ((1, 1),)),
        *samples(lambda b, x: nn.softmax(b, x, axis=0), ((5, 1, 2),), ((3, 0),)),
    ],
    "layer_norm": samples(
        normed, ((3, 7), (7,), (7,)), ((2, 3, 5), (15,), (15,)), ((0, 3), (3,), (3,))
    ),
    "gelu": samples(lambda b, x: pointwise.gelu(b, x, approximate=False), ((3, 7),)),
    "gelu_tanh": samples(
        lambda b, x: pointwise.gelu(b, x, approximate=True), ((3, 7),), ((1,),)
    ),
    "sigmoid": samples(pointwise.sigmoid, ((7,),)),
    "silu": samples(pointwise.silu, ((7,),)),
    "relu": samples(pointwise.relu, ((7,),), draw="apart"),
    "batch_norm": samples(
        batch_normed, ((2, 3, 2, 5), (3,), (3,), (3,), (3,)), draw="positive"
    ),
    "matmul": [
        *samples(
            multiplied(),
            ((3, 5), (5, 7)), ((5,), (5,)), ((5,), (5, 7)), ((3, 5), (5,)),
            ((2, 3, 5), (5, 7)), ((4, 1, 3, 5), (2, 5, 1)), ((2, 3, 5), (5,)),
            ((0, 5), (5, 7)),
        ),
        *samples(multiplied(x=True), ((5, 3), (5, 7)), ((2, 5, 3), (1, 5, 7))),
        *samples(multiplied(y=True), ((3, 5), (7, 5)), ((2, 3, 5), (7, 5))),
    ],
    "conv2d": samples(convolution, ((2, 4, 5, 7), (6, 2, 3, 2))),
    "pool2d": [
        *samples(pool("max", False), ((2, 2, 7, 5),), draw="apart"),
        *samples(pool("max", True), ((2, 3, 4, 5),), draw="apart"),
        *samples(pool("avg", True), ((2, 3, 4, 5),)),
    ],
    "mean": [
        *samples(lambda b, x: nn.mean_(b, x, (0,), keepdim=True), ((3, 5),)),
        *samples(lambda b, x: nn.mean_(b, x, (), keepdim=False), ((3, 1, 5),)),
    ],
    "sum": [
        *samples(
            lambda b, x: nn.sum_(b, x, (-1,), keepdim=True, dtype="undefined"),
            ((3, 5),), ((1, 0),),
        ),
        *samples(
            lambda b, x: nn.sum_(b, x, (), keepdim=False, dtype="undefined"), ((2, 5),)
        ),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", DECOMPOSED)
def test_decompositions(name: str) -> None:
    for sample in DECOMPOSED[name]:
        check_both_orders(sample.graph(), drawn(sample), sample.draw)
        assert_dtype(vjp(sample.graph("float32")), "float32")


def pool_eagerly(x: Any) -> Any:
    return F.max_pool2d(x, (3, 2), (2, 1), 1)


def conv_eagerly(x: Any, w: Any) -> Any:
    return F.conv2d(x, w, None, (2, 1), (1, 2), (1, 2), 2)


EAGER: dict[str, Callable[..., Any]] = {
    "softmax": lambda x: F.softmax(x, axis=-1),
    "layer_norm": lambda x, s, c: F.layer_norm(x, x.shape[1:], s, c),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate=True),
    "relu": F.relu,
    "matmul": paddle.matmul,
    "conv2d": conv_eagerly,
    "pool2d": pool_eagerly,
}


@pytest.mark.parametrize("name", EAGER)
def test_as_paddle_eager(name: str) -> None:
    sample = DECOMPOSED[name][0]
    eagerly_equal(sample.graph(), EAGER[name], drawn(sample))


TIES: dict[str, Callable[..., Any]] = {
    "max": paddle.maximum,
    "min": paddle.minimum,
    "abs": paddle.abs,
    "floor": paddle.floor,
    "select": lambda c, x, y: paddle.where(c, x, y),
    "reduce_max": lambda x: paddle.max(x, axis=1),
    "reduce_min": lambda x: paddle.min(x, axis=1),
}


@pytest.mark.parametrize("name", TIES)
def test_ties_as_paddle_eager(name: str) -> None:
    sample = SAMPLES[name][2]
    arrays = numbers([(k.shape, k.dtype) for k in sample.kinds], "ties", seed=4)
    eagerly_equal(sample.graph(), TIES[name], arrays)


def eagerly_equal(graph: Graph, run: Callable[..., Any], arrays: list[Any]) -> None:
    tensors = [paddle.to_tensor(a, stop_gradient=a.dtype == bool) for a in arrays]
    y = run(*tensors)
    (ct,) = numbers([(tuple(y.shape), "float64")], "normal", seed=5)
    floats = [t for t in tensors if not t.stop_gradient]
    expected = paddle.grad(y, floats, paddle.to_tensor(ct))
    found = interpret(vjp(graph), [*arrays, ct])
    for got, wanted in zip(found, expected):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-11, atol=1e-11)
