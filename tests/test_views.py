"""Views that are written, and what else lies in their memory, are as in eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

import pirol

pytestmark = pytest.mark.filterwarnings("ignore::pirol.PirolWarning")


def element(x: Any) -> Any:
    x = x * 1.0
    x[0][1] = 3.0
    return x


def detached(x: Any) -> Any:
    y = x.detach()
    y[0] = 1.0
    return x * y


def transposed(x: Any) -> Any:
    y = x.T
    y[0] = 1.0
    return y


def flattened(x: Any) -> Any:
    x = x * 1.0
    y = x.reshape([-1])
    y[y > 0] = 0.0
    return x + 1.0


def overwritten(x: Any) -> Any:
    x = x * 1.0
    row = x[0]
    x[0] = 2.0
    return row + x


def halves(x: Any) -> Any:
    """What is read of x lies in what was written before."""
    x = x * 1.0
    a, b = x[:, :2], x[:, 2:]
    x[:, :2] = a - b
    x[:, 2:] = a + b
    return x


def later(x: Any) -> Any:
    """The first write lies apart from the row, the second does not."""
    x = x * 1.0
    row = x[0]
    x[1] = 2.0
    x[0] = 3.0
    return row + x


def backwards(x: Any) -> Any:
    x = x * 1.0
    two = x[0:2]
    x[::-1] = x[2] * 1.0
    return two + 1.0


def split(x: Any) -> Any:
    x = x * 1.0
    a, _ = x.split(2, 1)
    a[0] = 5.0
    return x


def in_branch(x: Any) -> Any:
    x = x * 1.0
    row = x[0]
    if (x * x).sum() > 0:
        x[0] = 7.0
    return row + x


def statistics(x: Any) -> Any:
    """batch_norm writes the running mean, a row of x."""
    one, norm = paddle.ones([4]), paddle.nn.functional.batch_norm
    return norm(x, x[0].detach(), one, training=True) + x


EAGER = (
    *(element, detached, transposed, flattened, overwritten, halves, later, backwards),
    *(split, in_branch, statistics),
)


def apart(x: Any) -> Any:
    x = x * 1.0
    row = x[0]
    x[1] = 2.0
    x[2] = row * 3.0
    return row + x


def copied(x: Any) -> Any:
    x = x * 1.0
    a, b = x[:, :2] * 1.0, x[:, 2:].clone()
    x[:, :2] = a - b
    x[:, 2:] = a + b
    return x


def renamed(x: Any) -> Any:
    x = (x * 1.0).transpose([1, 0])
    x[0] = 1.0
    x = x.reshape([-1])
    x[x > 1] = 0.5
    return x


def by_turns(x: Any) -> Any:
    x = x * 1.0
    for k in range(1, 3):
        x[k] = x[k - 1] + x[k] * k
    return x


def squeezed(x: Any) -> Any:
    y = x[:, :1] * 2.0
    y.squeeze_()
    return y + 1.0


COMPILED = (apart, copied, renamed, by_turns, squeezed)
SPECS = (None, [InputSpec([None, None], stop_gradient=False)])


@pytest.mark.parametrize("spec", SPECS, ids=["known", "dynamic"])
@pytest.mark.parametrize("function", EAGER + COMPILED, ids=lambda f: f.__name__)
def test_a_write_is_seen_as_in_eager(function: Callable[..., Any], spec: Any) -> None:
    """By the result, by the caller, and by gradients where eager has them."""
    fast, found = pirol.to_static(function, input_spec=spec), []
    numbers = np.random.default_rng(2).standard_normal((3, 4), np.float32)
    for run in (fast, function):
        x = paddle.to_tensor(numbers)
        found += [run(x), x]
    for ours, theirs in zip(found[:2], found[2:]):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    whole = not pirol.explain(fast).fallbacks
    unknown = spec is not None and function is squeezed  # of how many dims
    assert whole == (function in COMPILED and not unknown)


@pytest.mark.parametrize("function", COMPILED, ids=lambda f: f.__name__)
def test_gradients_of_what_is_compiled(function: Callable[..., Any]) -> None:
    found = []
    for run in (pirol.to_static(function, strict=True), function):
        x = paddle.linspace(-1.0, 2.0, 12).reshape([3, 4])
        x.stop_gradient = False
        found += paddle.grad((run(x) ** 2).sum(), x)
    np.testing.assert_allclose(*found, rtol=1e-6)


def listed(x: Any) -> Any:
    rows = []
    for k in range(x.shape[0]):
        rows.append(x[k] * k)
    return paddle.stack(rows)


def rows_of(x: Any) -> Any:
    total, weight = x[0] * 0.0, 0.0
    for row in x:
        total = total + row * weight
        weight = weight + 1.0
    return total


@pytest.mark.parametrize("function", [listed, rows_of], ids=lambda f: f.__name__)
def test_loops_over_an_unknown_size(function: Callable[..., Any]) -> None:
    """Tensors in a list, rows one by one: there are gradients."""
    spec = [InputSpec([None, 4], stop_gradient=False)]
    fast = pirol.to_static(function, input_spec=spec)
    for rows in (3, 5):
        x = paddle.ones([rows, 4])
        x.stop_gradient = False
        found = fast(x)
        np.testing.assert_array_equal(found, function(x))
        (gradient,) = paddle.grad(found.sum(), x)
        np.testing.assert_array_equal(gradient[:, 0], np.arange(rows))
    assert not pirol.explain(fast).fallbacks and len(pirol.explain(fast).sized) == 1


def counted(x: Any, n: Any) -> Any:
    n.add_(paddle.ones_like(n))
    return x * n.astype("float32").exp()


def read_before(x: Any, n: Any) -> Any:
    m = n.astype("float32") * 2.0
    n[0] = n[0] + 3
    return x * m.exp() + n.astype("float32")


@pytest.mark.parametrize("recompute", ["auto", "none"])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("function", [counted, read_before], ids=lambda f: f.__name__)
def test_gradients_by_inputs_that_are_written(
    function: Callable[..., Any], dtype: str, recompute: str
) -> None:
    """A program's backward reads what it was given, and not what it wrote there."""
    fast, found = pirol.to_static(function, strict=True, recompute=recompute), []
    for run in (fast, function):
        x, n = paddle.to_tensor([1.0, 2.0]), paddle.zeros([1], dtype)
        x.stop_gradient = False
        for _ in range(2):
            y = run(x, n)
            (first,) = paddle.grad((y * y).sum(), x, create_graph=True)
            found += [y, first, *paddle.grad(first.sum(), x), n]
    half = len(found) // 2
    for ours, theirs in zip(found[:half], found[half:]):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def before(x: Any, y: Any) -> Any:
    old = x.clone()
    x.add_(y)
    return old, old + x


def exchanged(x: Any, y: Any) -> Any:
    old = x * 1.0
    x[:] = y
    y[:] = old
    return x - y


def moved(x: Any, y: Any) -> Any:
    y[:] = x
    x[:] = x + 1.0


def shaped(x: Any, y: Any) -> Any:
    old = x.clone().reshape([2, 1])
    x.fill_(7.0)
    return old * 1.0, y + x


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "function", [before, exchanged, moved, shaped], ids=lambda f: f.__name__
)
def test_what_an_input_was_before(function: Callable[..., Any], strict: bool) -> None:
    """An input that is written, and handed on as it was, in results and in others."""
    fast, found = pirol.to_static(function, strict=strict), []
    for run in (fast, function):
        x, y = paddle.to_tensor([1.0, 2.0]), paddle.to_tensor([3.0, 5.0])
        for _ in range(3):
            made = run(x, y)
            made = made if isinstance(made, tuple) else (made,)
            found += [t.numpy() for t in (*made, x, y) if t is not None]
    half = len(found) // 2
    for ours, theirs in zip(found[:half], found[half:]):
        np.testing.assert_array_equal(ours, theirs)
