"""Training through `if`: its gradient is an `if` of its branches' gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.static import InputSpec
from vjp_checks import check_both_orders
from vjp_samples import f64

import pirol
from pirol.compiler import pipeline
from pirol.compiler.autodiff import branch_gradient, joint, vjp
from pirol.compiler.errors import PirolError
from pirol.compiler.ir import Graph, Op, TensorType, Value
from pirol.compiler.text import parse_graph, print_graph
from pirol.compiler.verify import verify
from pirol.prim import Builder

Arrays = Sequence[Any]


def plain(x: Any, w: Any) -> Any:
    """Both branches read both inputs."""
    if x.sum() > 0:
        y = paddle.tanh(x) * w
    else:
        y = paddle.exp(x * 0.5)
        y = y + w * w
    return y * x


def by_cond(x: Any, w: Any) -> Any:
    found = paddle.static.nn.cond(
        x.mean() > 0, lambda: (x * w, w.sin()), lambda: (x - w, w * 3.0)
    )
    return found[0] * found[1], found[1]


def nested(x: Any, w: Any) -> Any:
    if x.sum() > 0:
        y = x * w
        if w.sum() > 0:
            y = y.sin()
            y = y + w
        else:
            y = y * y * x
    else:
        y = paddle.exp(x) * w
    return y.sum(-1) * 2.0


def one_sided(x: Any, w: Any) -> Any:
    """The second input has a gradient in one branch only."""
    if x.sum() > 0:
        y = x * w
        y = y * w
    else:
        y = x * x
    return y.sin()


def with_integers(x: Any, w: Any) -> Any:
    """A branch's outputs: floats, whole numbers and what lets no gradient through."""
    if x.sum() > 0:
        y, n, d = x * w, (x > w).astype("int64"), (x * 2.0).detach()
    else:
        y, n, d = x + w, (x < w).astype("int64"), (w * 3.0).detach()
    return y * d, n, d * 1.0


def unused(x: Any, w: Any) -> Any:
    """Nothing that is returned has the branch's result of `w`."""
    z = w
    if x.sum() > 0:
        y, z = x.sin(), w * 2.0
    else:
        y = x.cos()
    return y, z.shape[0] * x


def passed_on(x: Any, w: Any) -> Any:
    """A branch returns its inputs, and one of them twice."""
    if x.sum() > 0:
        a, b = x, x
    else:
        a, b = w, x
    return a * b, b + w


def scalar(x: Any, w: Any) -> Any:
    """Python's own numbers, and one branch that does nothing."""
    k = w.mean()
    if k > 0:
        x = x * k
    return x * x


def writing(x: Any, w: Any) -> Any:
    """One branch writes to a tensor from outside."""
    state = x * 2.0
    if x.sum() > 0:
        state[1:] = w[1:] * x[1:]
    return state * w


def early(x: Any, w: Any) -> Any:
    """Each branch returns."""
    if x.sum() > 0:
        return x * w
    y = x.sin()
    return y - w


def opaque(x: Any, w: Any) -> Any:
    """Paddle runs the op in the branch, of a matrix that large, and its gradient."""
    if x.sum() > 0:
        y = paddle.matmul(x, w) + 9.0 * paddle.eye(6)
        y = paddle.linalg.inv(y).sum(1)
    else:
        y = paddle.matmul(x, w).sum(1)
    return y.tanh()


FUNCTIONS = [plain, by_cond, nested, one_sided, with_integers, unused, passed_on]
FUNCTIONS += [scalar, writing, early]


def some(functions: Sequence[Any]) -> list[Any]:
    """All, the first of them in the quick suite too."""
    full = pytest.mark.full
    return [pytest.param(f, marks=[full] if k else []) for k, f in enumerate(functions)]


def drawn(signs: Sequence[float], shape: tuple[int, ...], seed: int = 0) -> list[Any]:
    """Arrays of these signs."""
    rng = np.random.default_rng(seed)
    return [sign * rng.uniform(0.2, 1.5, shape) for sign in signs]


def listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, (list, tuple)) else [found]


def weighted(outputs: Sequence[Any]) -> Any:
    """The sum of the outputs that have a gradient, each element by its own number."""
    total = paddle.zeros([], outputs[0].dtype)
    for out in outputs:
        if not out.stop_gradient:
            steps = paddle.arange(1, out.size + 1, dtype=out.dtype).reshape(out.shape)
            total = total + (out * steps).sum() / out.size
    return total


def results(function: Any, arrays: Arrays, dtype: str, order: int = 1) -> list[Any]:
    """The outputs, and the gradients up to an order."""
    tensors = [paddle.to_tensor(a.astype(dtype), stop_gradient=False) for a in arrays]
    outputs = listed(function(*tensors))
    found, ends = list(outputs), outputs
    for k in range(order):
        more = k + 1 < order
        total = weighted(ends)
        ends = paddle.grad(total, tensors, create_graph=more, allow_unused=True)
        zeros = [paddle.zeros_like(t) for t in tensors]
        found += [z if g is None else g for g, z in zip(ends, zeros)]
        ends = [(g * g).sum() for g in ends if g is not None]
    return found


def agree(function: Any, fast: Any, arrays: Arrays, order: int = 1) -> None:
    """Compiled in float32 as eager in float64."""
    ours = results(fast, arrays, "float32", order)
    exact = results(function, arrays, "float64", order)
    assert len(ours) == len(exact)
    for k, (a, b) in enumerate(zip(ours, exact)):
        assert list(a.shape) == list(b.shape)
        a, b = a.numpy(), b.numpy()
        np.testing.assert_allclose(a, b, 3e-5, 3e-5, err_msg=f"{k}")


def served(fast: Any) -> bool:
    report = pirol.explain(fast)
    return report.compiles > 0 and not report.fallbacks


def compiled(function: Callable[..., Any], *dims: Any) -> Any:
    specs = [InputSpec([*dims], "float32", stop_gradient=False) for _ in range(2)]
    return pirol.to_static(function, input_spec=specs)


@pytest.mark.parametrize("function", some(FUNCTIONS))
def test_values_and_gradients(function: Any) -> None:
    """In each branch, at sizes that are unknown beforehand, to the second order."""
    fast = compiled(function, None, None)
    for k, signs in enumerate([(1, 1), (-1, 1), (1, -1), (-1, -1)]):
        agree(function, fast, drawn(signs, (3 + k, 4), k), order=1 + k % 2)
    assert served(fast), pirol.explain(fast)
    assert pirol.explain(fast).compiles == 1


def test_outputs_without_a_gradient_are_told_from_others() -> None:
    fast = compiled(with_integers, 3, 4)
    for sign in (1, -1):
        x, w = (paddle.to_tensor(a.astype("float32")) for a in drawn((sign, 1), (3, 4)))
        x.stop_gradient = False
        for run in (fast, with_integers):
            assert [out.stop_gradient for out in run(x, w)] == [False, True, True]


@pytest.mark.full
@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f is not writing])
def test_second_order_in_each_branch(function: Any) -> None:
    fast = compiled(function, 2, None)
    for signs in [(1, 1), (-1, 1), (1, -1)]:
        agree(function, fast, drawn(signs, (2, 3)), order=2)
    agree(function, fast, drawn((1, 1), (2, 5)), order=3)
    assert served(fast), pirol.explain(fast)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_an_op_of_paddles_in_a_branch() -> None:
    fast = compiled(opaque, 6, 6)
    for signs in [(1, 1), (-1, 1)]:
        agree(opaque, fast, drawn(signs, (6, 6)), order=1)
    assert {f.line != "" for f in pirol.explain(fast).fallbacks} == {True}


class Experts(nn.Layer):
    """Each branch has parameters of its own, and shares one."""

    def __init__(self) -> None:
        super().__init__()
        paddle.seed(5)
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)
        self.shared = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        y = self.shared(x)
        if x.mean() > 0:
            y = F.relu(self.left(y))
        else:
            y = F.softmax(self.right(y)) * self.shared.weight.sum()
        return self.shared(y)


def steps(layer: Any, run: Any) -> list[Any]:
    """Losses and parameters of some steps, the branches by turns."""
    step = paddle.optimizer.SGD(0.1, parameters=layer.parameters())
    found = []
    for k in range(4):
        (x,) = drawn((-1 if k % 2 else 1,), (3 + k, 4), k)
        loss = (run(paddle.to_tensor(x.astype("float32"))) ** 2).mean()
        loss.backward()
        grads = [p.grad for p in layer.parameters()]
        found += [paddle.zeros([]) if g is None else g.clone() for g in grads]
        step.step()
        step.clear_grad()
        found.append(loss)
    return [*found, *layer.parameters()]


def test_parameters_in_a_branch() -> None:
    fast = pirol.to_static(Experts(), input_spec=[InputSpec([None, 4])])
    ours, plain_one = steps(fast, fast), Experts()
    for a, b in zip(ours, steps(plain_one, plain_one)):
        np.testing.assert_allclose(a.numpy() + 0 * b.numpy(), b.numpy(), 1e-4, 1e-6)
    assert served(fast), pirol.explain(fast)


@pytest.mark.full
@pytest.mark.parametrize("fault", ["the other branch", "too much"])
def test_a_planted_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the gradient in the branches: one for another, or a wrong number."""

    def wrong(branch: Graph, levels: Any) -> Graph:
        right = branch_gradient(branch, levels)
        b = Builder()
        b.inputs, b.ops = list(right.inputs), list(right.ops)
        number = 1.5 if fault == "too much" else 0.0
        return b.graph("wrong", [b.mul(v, number) for v in right.outputs])

    monkeypatch.setattr(pipeline, "branch_gradient", wrong)
    fast = compiled(plain, 3, 4)
    with pytest.raises(AssertionError):
        agree(plain, fast, drawn((1, 1), (3, 4)))


def drops(x: Any) -> Any:
    if x.sum() > 0:
        x = F.dropout(x, 0.5) * x
    return x


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_a_branch_that_draws_is_paddles() -> None:
    """Its gradient would draw again."""
    fast = pirol.to_static(drops, random="eager")
    x = paddle.ones([8])
    x.stop_gradient = False
    y = fast(x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * y.numpy())
    (only,) = pirol.explain(fast).fallbacks
    assert "if" in only.why and "draws" in only.why


# Hand-made graphs ----------------------------------------------------------------


def branch(make: Callable[..., Any], kinds: Sequence[TensorType]) -> Graph:
    b = Builder()
    inputs = [b.input(k) for k in kinds]
    return b.graph("branch", make(b, *inputs))


def choice(on: bool) -> Graph:
    """(x, y) -> one of two branches' (float, whole number), and a sum after it."""
    b = Builder()
    x, y = b.input(f64(3)), b.input(f64(3))
    kinds = [f64(3), f64(3)]

    def numbered(b: Builder, v: Value) -> Value:
        found: Value = b.cast(v, dtype="int64")
        return found

    branches = (
        branch(lambda b, p, q: [b.mul(p, b.sin(q)), numbered(b, p)], kinds),
        branch(lambda b, p, q: [b.mul(p, p), numbered(b, q)], kinds),
    )
    size = b.const(value=float(on), shape=(), dtype="float64")
    results = (Value(f64(3)), Value(TensorType((3,), "int64")))
    operands = (b.gt(size, 0.5), b.exp(x), y)
    attrs = {"site": 0}
    op = b.add_op(Op("pd_op.if", operands, attrs, results, None, "", branches))
    return b.graph("f", [b.mul(op.results[0], y)])


@pytest.mark.parametrize("on", [True, False])
def test_against_differences(on: bool) -> None:
    graph = choice(on)
    rng = np.random.default_rng(0)
    check_both_orders(graph, [rng.normal(size=3) for _ in range(2)], "normal")
    text = print_graph(vjp(graph))
    assert print_graph(parse_graph(text)) == text
    verify(vjp(vjp(graph)), "flat")


def test_only_what_a_branch_reaches_is_asked_for() -> None:
    """The levels name the operands that matter, and the results with a cotangent."""
    graph = joint(choice(True), [0]).graph
    (found,) = (op for op in graph.ops if "gradient" in op.attrs)
    assert found.attrs["gradient"] == (((1,), (0,)),)


def test_the_verifier_counts_cotangents() -> None:
    graph = vjp(choice(True))
    ops = [
        Op(op.name, op.operands[:-1], op.attrs, op.results, None, "", op.branches)
        if op.branches
        else op
        for op in graph.ops
    ]
    with pytest.raises(PirolError, match="do not fit a branch"):
        verify(graph.with_ops(ops), "flat")
