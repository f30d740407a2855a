"""Sizes that are unknown to the program, and that Paddle's own Python computes with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.static import InputSpec

import pirol

pytestmark = pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
SPEC = [InputSpec([None, 3], "float32", stop_gradient=False)]


def integral(x: Any) -> Any:
    return paddle.trapezoid(x, dx=2.0, axis=0)


def integrals(x: Any) -> Any:
    return paddle.cumulative_trapezoid(x, axis=0)


def covariance(x: Any) -> Any:
    return paddle.linalg.cov(x, rowvar=False, ddof=False)


def correlation(x: Any) -> Any:
    return paddle.linalg.corrcoef(x)


def wrapped(x: Any) -> Any:
    return paddle.take(x, paddle.to_tensor([0, 30, -31]), mode="wrap")


def clipped(x: Any) -> Any:
    return paddle.take(x, paddle.to_tensor([0, 30]), mode="clip")


def thirds(x: Any) -> Any:
    return paddle.tensor_split(x, 3)


def cut(x: Any) -> Any:
    return paddle.vsplit(x, [2])


def spectrum(x: Any) -> Any:
    return paddle.fft.fft(x, n=9, axis=0).abs()


def quantile(x: Any) -> Any:
    return paddle.quantile(paddle.where(x > 2, float("nan"), x), 0.4, axis=0)


def signs(x: Any) -> Any:
    return paddle.signbit(x), paddle.isin(x, x[0])


def blocks(x: Any) -> Any:
    return paddle.block_diag([x, x]), paddle.tensordot(x, x, axes=2)


def embedded(x: Any) -> Any:
    return F.embedding(paddle.to_tensor([0]), x, padding_idx=-1)


def unbound(x: Any) -> Any:
    return x.unbind(0)[0]


def unstacked(x: Any) -> Any:
    return sum(paddle.unstack(x))


def numbered(x: Any) -> Any:
    return [row * k for k, row in enumerate(x)], dict(enumerate(x, 2))[2]


def unpacked(x: Any) -> Any:
    first, *rest = x
    return first * 2, rest


def spread(x: Any) -> Any:
    return plainly_spread(x)


@paddle.jit.not_to_static
def plainly_spread(x: Any) -> Any:
    """x[:1] for each of the others; the sum of all but the last."""
    return paddle.expand(x[:1], x.shape) + 1, x[: x.shape[0] - 1].sum()


@paddle.jit.not_to_static
def plainly_filled(x: Any) -> Any:
    return x * x.shape[0] + paddle.full([1], x.shape[0], x.dtype)


def filled(x: Any) -> Any:
    return plainly_filled(x)


SIZED = (
    *(covariance, correlation, thirds, cut, quantile, embedded, unbound, unpacked),
    *(spread, filled, unstacked, numbered),
)


def turned(x: Any) -> Any:
    return paddle.diag(x[:, 0], 1, 2.0), paddle.diag(x[:, 1], -2), paddle.diagflat(x, 1)


def divided(x: Any) -> Any:
    logits = F.log_softmax(x, 1)
    return F.kl_div(logits, F.softmax(x * 2, 1), "batchmean"), F.fold(
        paddle.tile(x.unsqueeze(-1), [1, 4, 1]).expand([-1, 12, 9]), [4, 4], 2
    )


def powers(x: Any) -> Any:
    return paddle.vander(x[:, 0], 3), paddle.unflatten(x, 1, [-1, 1])


def scattered(x: Any) -> Any:
    return paddle.masked_scatter(x, x > 0, paddle.arange(30.0))


def divisors(x: Any) -> Any:
    whole = (x.detach() * 8).astype("int64")
    return paddle.gcd(whole, whole[:1]), paddle.lcm(whole, whole[:1])


def along(x: Any) -> Any:
    first = paddle.take_along_axis(x, paddle.argmax(x[:1], 1, keepdim=True), 1)
    return first, paddle.take_along_axis(x, paddle.argsort(x, 1, stable=True), 1)


def together(x: Any) -> Any:
    return paddle.atan2(x, x[0]), paddle.inner(x, x), paddle.equal_all(x, x * 1)


OPEN = (
    *(integral, integrals, wrapped, clipped, spectrum, signs, blocks, turned, divided),
    *(powers, scattered, divisors, along, together),
)


def outputs(found: Any) -> list[Any]:
    return [t for t in paddle.utils.flatten(found) if isinstance(t, paddle.Tensor)]


def check_as_eager(function: Callable[..., Any], fast: Callable[..., Any]) -> None:
    """Outputs and gradients are eager's, for several numbers of rows."""
    for rows in (7, 2, 5, 7, 1):
        numbers = np.random.default_rng(rows).standard_normal((rows, 3), np.float32)
        found = []
        for run in (function, fast):
            x = paddle.to_tensor(numbers, stop_gradient=False)
            made = outputs(run(x))
            total = sum((t * t).sum() for t in made if not t.stop_gradient)
            if isinstance(total, paddle.Tensor):
                total.backward()
            found.append([*made, x.grad])
        for expected, got in zip(*found, strict=True):
            assert (expected is None) == (got is None)
            if got is not None:
                assert expected.shape == got.shape and expected.dtype == got.dtype
                np.testing.assert_allclose(got, expected, 1e-4, 1e-4)


@pytest.mark.parametrize("function", OPEN, ids=lambda f: f.__name__)
def test_functions_of_sizes_serve_all_of_them(function: Callable[..., Any]) -> None:
    fast = pirol.to_static(function, input_spec=SPEC)
    check_as_eager(function, fast)
    report = pirol.explain(fast)
    assert not report.sized and report.compiles <= 3 and not report.fallbacks


@pytest.mark.parametrize("function", SIZED, ids=lambda f: f.__name__)
def test_a_size_that_is_computed_with_is_known(function: Callable[..., Any]) -> None:
    fast = pirol.to_static(function, input_spec=SPEC)
    check_as_eager(function, fast)
    report = pirol.explain(fast)
    assert len(report.sized) == 1
    assert report.compiles == 2 if function is thirds else 4
    assert "captured for each size: 1" in str(report)


def test_explain_tells_what_computed_with_it() -> None:
    fast = pirol.to_static(covariance, input_spec=SPEC, strict=True)
    fast(paddle.ones([4, 3]))
    (why,) = pirol.explain(fast).sized
    assert "computes with a size (creation.py:" in why


def asked(x: Any) -> Any:
    outer = paddle.outer(x, x)
    return outer, paddle.reshape(x, [0, 3]), paddle.quantile(x, 0.5, axis=1)


def test_questions_leave_sizes_open() -> None:
    fast = pirol.to_static(asked, input_spec=SPEC)
    for rows in (5, 3):
        fast(paddle.ones([rows, 3]))
    report = pirol.explain(fast)
    assert not report.sized and report.compiles == 1


def found_by_data(x: Any) -> Any:
    return paddle.linalg.cov(paddle.masked_select(x, x > -2.5))


@pytest.mark.parametrize("full_graph", [True, False])
def test_a_size_that_data_tell_is_not_captured(full_graph: bool) -> None:
    fast = pirol.to_static(found_by_data, full_graph=full_graph)
    check_as_eager(found_by_data, fast)


def test_that_is_told() -> None:
    fast = pirol.to_static(found_by_data, strict=True)
    with pytest.raises(pirol.StrictError, match="computes with a size"):
        fast(paddle.ones([2, 3]))
    fast = pirol.to_static(found_by_data)
    fast(paddle.ones([2, 3]))
    (fallback,) = pirol.explain(fast).fallbacks
    assert "computes with a size" in str(fallback)


@pytest.mark.parametrize("function", [integral, covariance, quantile, cut])
def test_sot_breaks_the_graph_there(function: Callable[..., Any]) -> None:
    check_as_eager(function, pirol.to_static(function, full_graph=False))


def mistaken(x: Any) -> Any:
    return x @ paddle.ones([4, 5])


def test_an_error_of_the_users_stays() -> None:
    fast = pirol.to_static(mistaken, input_spec=SPEC, strict=True)
    for _ in range(2):
        with pytest.raises(ValueError, match="(?i)matmul"):
            fast(paddle.ones([2, 3]))
    assert fast._function_spec.input_spec is not None


class Area(paddle.nn.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.linear = paddle.nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        return paddle.trapezoid(self.linear(x), axis=0)


def test_a_layer_and_its_training_step() -> None:
    layers = Area(), Area()
    layers[1].set_state_dict(layers[0].state_dict())
    check_as_eager(layers[0], pirol.to_static(layers[1], input_spec=SPEC))
    layer, losses = Area(), []
    sgd = paddle.optimizer.SGD(0.1, layer.parameters())
    step = pirol.train_step(
        layer, lambda y: (y * y).sum(), sgd, labels=0, input_spec=SPEC
    )
    for rows in (4, 3):
        x = paddle.ones([rows, 3])
        expected = (layer(x) ** 2).sum()
        losses.append(float(step(x)) / float(expected))
    np.testing.assert_allclose(losses, 1, 1e-5)


TENSOR_AXES: dict[str, Callable[..., Any]] = {
    "all": lambda x, k: paddle.all(x > 0, axis=k),
    "any": lambda x, k: (x > 0).any(k),
    "amax": lambda x, k: paddle.amax(x, axis=k),
    "amin": lambda x, k: x.amin(axis=k),
    "flip": lambda x, k: paddle.flip(x, axis=k),
    "logsumexp": lambda x, k: paddle.logsumexp(x, axis=k),
    "nanmedian": lambda x, k: paddle.nanmedian(x, axis=k),
    "roll": lambda x, k: paddle.roll(x, k, axis=k),
}


@pytest.mark.parametrize("name", TENSOR_AXES)
def test_an_axis_that_a_tensor_tells(name: str) -> None:
    """Where Paddle's static mode would end the process, eager runs the call."""
    function = TENSOR_AXES[name]
    x = paddle.to_tensor([[1.0, -2.0, 5.0], [0.5, 4.0, 3.0]])
    fast = pirol.to_static(function)
    with pytest.warns(pirol.PirolWarning, match=f"{name}: only the run tells"):
        first = fast(x, paddle.to_tensor(1))
    for k, found in ((1, first), (0, fast(x, paddle.to_tensor(0)))):
        np.testing.assert_array_equal(found, function(x, paddle.to_tensor(k)))


def test_a_permutation_is_no_tensor() -> None:
    fast = pirol.to_static(lambda x, order: paddle.transpose(x, order))
    with pytest.raises(TypeError, match="transpose"):
        fast(paddle.ones([2, 3]), paddle.to_tensor([1, 0]))


SIZES = [((3, 4), (3, 4)), ((3, 4), (1, 4)), ((3, 1), (1, 4))]


@pytest.mark.parametrize("sizes", SIZES)
def test_second_gradients_of_two_tensors_of_unknown_sizes(sizes: Any) -> None:
    """One input's sizes are bound to the other's by a guard."""

    def f(x: Any, y: Any) -> Any:
        return paddle.tanh(x * y) - y

    spec = [InputSpec([None, None], "float64")] * 2
    fast, found = pirol.to_static(f, input_spec=spec, strict=True), []
    for run in (f, fast, fast):
        rng = np.random.default_rng(0)
        given = [paddle.to_tensor(rng.normal(size=s)) for s in sizes]
        for t in given:
            t.stop_gradient = False
        first = paddle.grad(run(*given).sum(), given, create_graph=True)
        second = paddle.grad(sum(g.sin().sum() for g in first), given)
        found.append([*first, *second])
    for eager, *ours in zip(*found, strict=True):
        for tensor in ours:
            np.testing.assert_allclose(tensor.numpy(), eager.numpy(), 1e-9, 1e-12)


def test_the_largest_of_none_is_an_error() -> None:
    fast = pirol.to_static(lambda x: x.max(0), input_spec=SPEC)
    fast(paddle.ones([2, 3]))
    for function in (fast, lambda x: x.max(0)):
        with pytest.raises(ValueError, match="size of 0"):
            function(paddle.ones([0, 3]))


def test_a_size_beside_one_that_is_0() -> None:
    fast = pirol.to_static(
        lambda x: x.reshape([x.shape[0], -1, 1]), input_spec=SPEC, strict=True
    )
    assert [fast(paddle.ones([n, 3])).shape for n in (2, 0)] == [[2, 3, 1], [0, 3, 1]]


def test_places_beside_what_is_there() -> None:
    """Index of one row for all of x: Paddle's own program gives one row."""
    fast = pirol.to_static(
        lambda x, k: paddle.take_along_axis(x, k, 1),
        input_spec=[InputSpec([None, 3]), InputSpec([None, 2], "int64")],
    )
    x, k = paddle.rand([4, 3]), paddle.to_tensor([[2, 0]])
    for given in (x, x[:1], x[:0]):
        found = fast(given, k)
        assert found.shape == [len(given), 2]
        np.testing.assert_array_equal(found, given.numpy()[:, [2, 0]])
