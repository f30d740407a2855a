"""Training through ops that Paddle runs: their gradients are Paddle's, as steps of the
plan; all else is compiled as before."""

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from decomposition_runs import of_tensors
from paddle.static import InputSpec

import pirol
from pirol.compiler.errors import Unsupported

Function = Callable[[Any, Any], Any]


def compiled(function: Function, spec: Any = None) -> Any:
    inner = paddle.jit.not_to_static(function)  # traced as it is: it may be a lambda
    return pirol.to_static(of_tensors(inner, 2), input_spec=spec)


def spread(x: Any) -> Any:
    """A matrix that has an inverse."""
    return x.t() @ x + 2.0 * paddle.eye(4)


def placed(x: Any, y: Any) -> Any:
    return paddle.scatter(x * 2.0, paddle.to_tensor([2, 0]), y[:2] * 3.0) * x


def along(x: Any, y: Any) -> Any:
    places = paddle.to_tensor([[1, 0, 2, 2]])
    return paddle.put_along_axis(x * 2.0, places, y[:1], axis=0).exp()


def sampled(x: Any, y: Any) -> Any:
    image = (x[:4] * 2.0).reshape([1, 1, 4, 4])
    return F.grid_sample(image, paddle.tanh(y[:4].reshape([1, 2, 4, 2])))


def inside(x: Any, y: Any) -> Any:
    """With a gradient of Paddle's in the program itself."""
    x = x.detach()
    x.stop_gradient = False
    return paddle.grad(paddle.logcumsumexp(x, 1), [x])[0] * y


# Of x and y, [rows, 4] with 5 rows or more.
CASES: dict[str, Function] = {
    "cummax": lambda x, y: paddle.cummax(x * y, 1)[0].exp(),
    "topk": lambda x, y: paddle.topk(x * y, 2)[0].exp(),
    "sort": lambda x, y: paddle.sort(x * 1.5, 0) * y,
    "kthvalue": lambda x, y: paddle.kthvalue(x * 1.5, 2)[0] * y[:, 0],
    "median": lambda x, y: paddle.median(x.exp(), -1) * y[:, 0],
    "cholesky": lambda x, y: paddle.linalg.cholesky(spread(x)) @ y.t(),
    "inverse": lambda x, y: y @ paddle.inverse(spread(x)),
    "det": lambda x, y: paddle.linalg.det(spread(x) * 0.125) * y,
    "solve": lambda x, y: paddle.linalg.solve(spread(x), y.t()),
    "solve of one": lambda x, y: paddle.linalg.solve(spread(x), spread(x)[:, :2]),
    "one operand twice": lambda x, y: paddle.dist(spread(x), spread(x) + y.sum(), 2),
    "singular values": lambda x, y: paddle.linalg.svd(spread(x))[1].log() * y,
    "eigenvalues": lambda x, y: paddle.linalg.eig(spread(x))[0].abs().sum() * y,
    "many operands": lambda x, y: paddle.linalg.multi_dot([x, y.t(), x * 1.5]).tanh(),
    "cumprod": lambda x, y: paddle.cumprod(x, -1) * y,
    "logcumsumexp": lambda x, y: paddle.logcumsumexp(x * y, -1),
    "a gradient in the program": inside,
    "scatter": placed,
    "put_along_axis": along,
    "unfold": lambda x, y: F.unfold((x * y)[:4].reshape([1, 1, 4, 4]), 2).tanh(),
    "grid_sample": sampled,
    "sizes that data tell": lambda x, y: paddle.masked_select(x * y, x > 0.0).exp(),
    "sum of what was found": lambda x, y: paddle.masked_select(x * y, x > 0).sum() * y,
}


def leaf(rows: int, seed: int, dtype: str) -> Any:
    rng = np.random.default_rng(seed)
    array = rng.standard_normal((rows, 4)).astype(dtype)
    return paddle.to_tensor(array, stop_gradient=False)


def gradients(run: Function, rows: int, dtype: str) -> list[Any]:
    """Of a weighting of the result, and the result."""
    x, y = leaf(rows, rows, dtype), leaf(rows, rows + 1, dtype)
    out = run(x, y)
    weights = paddle.to_tensor(np.linspace(0.5, 1.5, out.size), out.dtype)
    (out * weights.reshape(out.shape)).sum().backward()
    return [out.detach(), x.grad, y.grad]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_as_eager(name: str, dtype: str) -> None:
    """On one plan for two numbers of rows."""
    static = name == "put_along_axis"  # Paddle's shape rule refuses others
    spec = None if static else [InputSpec([None, 4], dtype)] * 2
    fast = compiled(CASES[name], spec)
    for rows in (5, 5) if static else (5, 7):
        exact = gradients(CASES[name], rows, "float64")
        for k, (a, b) in enumerate(zip(gradients(fast, rows, dtype), exact)):
            assert (a is None) == (b is None), k
            if a is None:
                continue
            rtol = 1e-3 if dtype == "float32" else 1e-8
            room = rtol * max(1.0, float(b.abs().max()))
            assert str(a.dtype).endswith(dtype), k
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol, room, err_msg=str(k))
    report = pirol.explain(fast)
    assert report.compiles == 1, report.fallbacks
    assert not {"the call", "the program"} & {f.op for f in report.fallbacks}


def test_explain_names_the_gradient() -> None:
    fast = compiled(CASES["logcumsumexp"])
    gradients(fast, 5, "float32")
    named = [f.op for f in pirol.explain(fast).fallbacks]
    assert named == ["pd_op.logcumsumexp", "pd_op.logcumsumexp_grad"]


def test_what_paddle_has_no_gradient_of_is_named_when_asked_for() -> None:
    """The first gradient with a graph of its own is there."""
    fast = compiled(CASES["logcumsumexp"])
    x, y = leaf(5, 0, "float32"), leaf(5, 1, "float32")
    (first,) = paddle.grad(fast(x, y).sum(), [x], create_graph=True)
    (expected,) = paddle.grad(CASES["logcumsumexp"](x, y).sum(), [x])
    np.testing.assert_allclose(first.numpy(), expected.numpy(), 1e-5)
    with pytest.raises(
        Unsupported, match=r"gradient of pd_op.logcumsumexp \(at .*\.py:"
    ):
        paddle.grad(first.sum(), [x])


class Recurrent(paddle.nn.Layer):  # type: ignore[misc]
    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.inner = getattr(paddle.nn, kind)(6, 8, **options)
        self.head = paddle.nn.Linear(8 * self.inner.num_directions, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.inner(x)[0]).tanh()


def trained(layer: Any, run: Any) -> list[Any]:
    """Outputs and gradients of two steps."""
    found = []
    for step in range(2):
        paddle.seed(step)
        x = paddle.to_tensor(np.random.default_rng(step).normal(size=(2, 5, 6)))
        out = run(x.astype("float32"))
        (out * out).sum().backward()
        found += [out, *(p.grad for p in layer.parameters())]
        for p in layer.parameters():
            p.clear_gradient(set_to_zero=False)
    return found


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("options", [{}, {"direction": "bidirect", "num_layers": 2}])
def test_recurrent_layers(kind: str, options: dict[str, Any]) -> None:
    """Their buffer has no memory before Paddle's kernel has run."""
    eager, layer = Recurrent(kind, **options), Recurrent(kind, **options)
    layer.set_state_dict(eager.state_dict())
    fast = pirol.to_static(layer)
    for a, b in zip(trained(layer, fast), trained(eager, eager), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), 1e-4, 1e-5)
    report = pirol.explain(fast)
    assert [f.op for f in report.fallbacks] == ["pd_op.rnn", "pd_op.rnn_grad"]


def test_a_recurrent_layer_that_draws_is_paddles() -> None:
    """Its gradient would draw another mask."""
    options = {"dropout": 0.5, "num_layers": 2}
    eager, layer = Recurrent("GRU", **options), Recurrent("GRU", **options)
    layer.set_state_dict(eager.state_dict())
    fast = pirol.to_static(layer, random="eager")
    for a, b in zip(trained(layer, fast), trained(eager, eager), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), 1e-4, 1e-5)
    (why,) = [f.why for f in pirol.explain(fast).fallbacks if f.op == "the program"]
    assert "pd_op.rnn" in why and "no gradient rule" in why
