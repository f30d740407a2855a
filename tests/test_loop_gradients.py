"""Training through `while`, which Paddle's own to_static cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec
from test_branch_gradients import branch, drawn, results, served, some
from vjp_checks import check_both_orders
from vjp_samples import f64

import pirol
from pirol.compiler import loops
from pirol.compiler.autodiff import vjp
from pirol.compiler.ir import Graph, Op, TensorType, Value
from pirol.compiler.text import parse_graph, print_graph
from pirol.compiler.verify import verify
from pirol.prim import Builder


def powers(x: Any, w: Any, n: Any) -> Any:
    """One tensor goes through the loop, another is read in each turn."""
    i = paddle.zeros([], "int64")
    y = x
    while i < n:
        y = paddle.tanh(y * w) + x
        i = i + 1
    return y * w


def growing(x: Any, w: Any, n: Any) -> Any:
    """A loop variable whose shape changes."""
    i = paddle.zeros([], "int64")
    while i < n:
        x = paddle.concat([x * w[:1].mean(), x[:1]])
        i = i + 1
    return x.sin()


def exchanged(x: Any, w: Any, n: Any) -> Any:
    """Variables that take each other's place, and one that begins as a constant."""
    i, total = paddle.zeros([], "int64"), paddle.zeros([1])
    total = total.astype(x.dtype)
    while i < n:
        x, w = w * 1.5, x.sin()
        total = total + x.mean()
        i = i + 1
    return x, w * total, i


def branching(x: Any, w: Any, n: Any) -> Any:
    """An `if` in a loop, and a loop in an `if`."""
    i = paddle.zeros([], "int64")
    while i < n:
        if x.sum() > w.sum():
            x = x * 0.5
            x = x + w
        else:
            x = x * x
        i = i + 1
    if x.mean() > 0.5:
        k = paddle.zeros([], "int64")
        while k < 2:
            x = x.sin() * w
            k = k + 1
    return x


def until(x: Any, w: Any, n: Any) -> Any:
    """Data tell how many turns there are."""
    while (x * x).sum() < 20.0:
        x = x * 1.5 + w * 0.1
    return x * n.astype(x.dtype)


def broken(x: Any, w: Any, n: Any) -> Any:
    """A loop over a range that may end before its end."""
    for k in range(n):
        x = x * (w + k)
        if x.abs().max() > 3.0:
            break
    return x


def within(x: Any, w: Any, n: Any) -> Any:
    """The loop lies in a branch."""
    if x.sum() > 0:
        x = powers(x, w, n)
    return x


FUNCTIONS = [powers, growing, exchanged, branching, until, broken, within]


def agree(function: Any, fast: Any, arrays: Any, turns: int, order: int = 1) -> None:
    """Compiled in float32 as eager in float64."""
    count = paddle.to_tensor(turns)

    def bound(run: Any) -> Any:
        return lambda x, w: run(x, w, count)

    ours = results(bound(fast), arrays, "float32", order)
    exact = results(bound(function), arrays, "float64", order)
    for k, (a, b) in enumerate(zip(ours, exact, strict=True)):
        a, b = a.numpy(), b.numpy()
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, 3e-5, 3e-5, err_msg=f"{k}")


def compiled(function: Any) -> Any:
    dims = [[None, 4], [None, 4]]
    specs = [InputSpec(d, "float32", stop_gradient=False) for d in dims]
    return pirol.to_static(function, input_spec=[*specs, InputSpec([], "int64")])


@pytest.mark.parametrize("function", some(FUNCTIONS))
def test_values_and_gradients(function: Any) -> None:
    """At sizes, and for numbers of turns, that are unknown beforehand; none too."""
    fast = compiled(function)
    for rows, turns, sign in ((3, 2, 1), (2, 0, 1), (5, 4, -1), (1, 3, 1)):
        agree(function, fast, drawn((sign, 0.8), (rows, 4), rows), turns)
    assert served(fast), pirol.explain(fast)
    assert pirol.explain(fast).compiles == 1


@pytest.mark.full
@pytest.mark.parametrize("function", FUNCTIONS)
def test_second_order(function: Any) -> None:
    fast = compiled(function)
    for rows, turns, sign in ((3, 2, 1), (2, 0, 1), (2, 3, -1)):
        agree(function, fast, drawn((sign, 0.8), (rows, 4), rows), turns, order=2)
    assert served(fast), pirol.explain(fast)


def test_third_order() -> None:
    agree(powers, compiled(powers), drawn((0.5, 0.5), (2, 3)), 2, order=3)


class Recurrent(nn.Layer):
    """Steps through the rows of its input with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        paddle.seed(3)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        state = paddle.zeros([x.shape[1], 8])
        k, rows = paddle.zeros([], "int64"), paddle.shape(x)[0]
        while k < rows:
            state = paddle.tanh(self.mix(state) + paddle.gather(x, k, axis=0))
            k = k + 1
        return self.head(state)


@pytest.mark.full
def test_a_layer_learns() -> None:
    found = []
    for fast in (True, False):
        layer = Recurrent()
        spec = [InputSpec([None, None, 8])]
        run = pirol.to_static(layer, input_spec=spec) if fast else layer
        step = paddle.optimizer.SGD(0.2, parameters=layer.parameters())
        losses = []
        for k in range(4):
            x = np.random.default_rng(k).normal(size=(2 + k, 3, 8)).astype("float32")
            loss = ((run(paddle.to_tensor(x)) - 1.0) ** 2).mean()
            loss.backward()
            step.step()
            step.clear_grad()
            losses.append(float(loss))
        found.append([losses, *(p.numpy() for p in layer.parameters())])
        assert not fast or served(run), pirol.explain(run)
    assert found[0][0][-1] < found[0][0][0]
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, 1e-4, 1e-6)


@pytest.mark.full
@pytest.mark.parametrize("fault", ["forwards", "the last turn twice"])
def test_a_planted_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the way back through the turns."""

    def wrong(found: Any) -> Any:
        if fault == "forwards":
            return iter(list(found))
        return reversed([*found, found[-1]])

    monkeypatch.setattr(loops, "reversed", wrong, raising=False)
    with pytest.raises(AssertionError):
        agree(powers, compiled(powers), drawn((1, 1), (3, 4)), 3)


def turned(count: int) -> Graph:
    """(x, w) -> x * y, where y is e to the x, times sin(w) in so many turns."""
    b = Builder()
    x, w = b.input(f64(3)), b.input(f64(3))
    whole = TensorType((), "int64")
    kinds = [f64(3), whole, f64(3), whole]

    def body(b: Builder, x: Value, k: Value, w: Value, end: Value) -> list[Value]:
        k = b.add(k, b.const(value=1, shape=(), dtype="int64"))
        return [b.lt(k, end), b.mul(x, b.sin(w)), k]

    first = b.const(value=0, shape=(), dtype="int64")
    end = b.const(value=count, shape=(), dtype="int64")
    results = (Value(kinds[0]), Value(whole))
    operands = (b.lt(first, end), b.exp(x), first, w, end)
    inner = (branch(body, kinds),)
    op = b.add_op(
        Op("pd_op.while", operands, {"site": 0}, results, None, "", inner),
    )
    return b.graph("f", [b.mul(op.results[0], x)])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_against_differences(count: int) -> None:
    graph = turned(count)
    rng = np.random.default_rng(0)
    check_both_orders(graph, [rng.normal(size=3) for _ in range(2)], "normal")
    back = vjp(graph)
    verify(vjp(back), "flat")
    assert print_graph(parse_graph(print_graph(back))) == print_graph(back)
