"""paddle.grad inside the compiled function: Paddle's gradient ops are derived."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from decomposition_runs import compare
from gradient_cases import IMAGES, PAIRS, UNARY
from test_gradients import numbers

import pirol
from pirol.prim.decomp.gradients import GRADIENTS

# What Paddle's capture says where it has no such derivative.
ONCE = (
    "has no grad op, consider enable prim to decompose it",
    "Check data type error for op: conv2d_transpose_double_grad",
)
# What eager says.
NO_SECOND = (
    *("doesn't have any grad op", "grad grad only supports"),
    "The kernel `conv2d_transpose_double_grad` is not registered",
)
# What static programs of Paddle make otherwise than eager: they lose the gradient
# beside a detached operand; and a dtype check fails.
LEFT = {"none": 2, "no_grad": 2, "conv by channel": 2}  # from this order on


def some(names: Iterable[str]) -> list[Any]:
    """All, a few of them in the quick suite too."""
    full = pytest.mark.full
    return [
        pytest.param(n, marks=[full] if k % 30 else []) for k, n in enumerate(names)
    ]


def first(found: Any) -> Any:
    return found[0] if isinstance(found, (list, tuple)) else found


def of_gradients(
    function: Callable[..., Any], count: int, order: int, ends: bool = True
) -> Any:
    """tensors -> the gradients of this order; `ends`: they have none themselves."""
    inner = paddle.jit.not_to_static(function)

    def again(found: Any, tensors: Any, more: bool) -> Any:
        weighted = [(g * g).sum() for g in found if not g.stop_gradient]
        if not weighted:
            return []
        return paddle.grad(weighted, tensors, create_graph=more, allow_unused=True)

    again = paddle.jit.not_to_static(again)

    def run(tensors: Any) -> Any:
        found = [first(inner(*tensors))]
        for k in range(order):
            grads = again(found, tensors, not ends or k + 1 < order)
            found = [g for g in grads if g is not None]
        return found

    run = paddle.jit.not_to_static(run)

    def one(x: Any) -> Any:
        return run([x])

    def two(x: Any, y: Any) -> Any:
        return run([x, y])

    return one if count == 1 else two


def check(
    function: Callable[..., Any], arrays: Sequence[Any], name: str, order: int
) -> None:
    if order >= LEFT.get(name, 9):
        pytest.skip("Paddle's capture is not right")
    plain = of_gradients(function, len(arrays), order)

    def tensors(dtype: str) -> list[Any]:
        return [paddle.to_tensor(a.astype(dtype), stop_gradient=False) for a in arrays]

    def results(run: Callable[..., Any], dtype: str) -> list[Any]:
        return list(run(*tensors(dtype)))

    try:
        static = paddle.jit.to_static(plain, full_graph=True, backend=None)
        static.get_concrete_program(*tensors("float32"))
    except (TypeError, ValueError) as error:
        assert any(text in str(error) for text in ONCE) and order > 1
        pytest.skip(f"{name}: Paddle cannot capture it")
    fast = pirol.to_static(plain)
    ours = results(fast, "float32")
    report = pirol.explain(fast)
    assert not report.fallbacks and report.compiles, (name, report.fallbacks)
    try:
        theirs, exact = (results(plain, dtype) for dtype in ("float32", "float64"))
    except (RuntimeError, ValueError) as error:
        assert any(text in str(error) for text in NO_SECOND)
        pytest.skip(f"{name}: eager has no such derivative")
    assert len(ours) == len(theirs)
    for k, trio in enumerate(zip(ours, theirs, exact)):
        compare(*(t.detach() + 0.0 for t in trio), f"{name}: gradient {k}")


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", some(UNARY))
def test_unary(name: str, order: int) -> None:
    check(UNARY[name], [numbers((3, 5), 0, name.endswith("+"))], name, order)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", some(PAIRS))
def test_pairs(name: str, order: int) -> None:
    check(PAIRS[name], [numbers((3, 5), 0), numbers((3, 5), 1)], name, order)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", some(IMAGES))
def test_images(name: str, order: int) -> None:
    shapes = (2, 4, 7, 6), (6, 4, 3, 3)
    check(IMAGES[name], [numbers(s, k) for k, s in enumerate(shapes)], name, order)


def of_first(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """tensors -> the gradients of the squares of the function's first output."""

    def run(*tensors: Any) -> Any:
        out = first(function(*tensors))
        total = [(out * out).sum()]
        found = paddle.grad(total, tensors, create_graph=True, allow_unused=True)
        return [g for g in found if g is not None]

    return run


def walked(run: Callable[..., Any], arrays: Sequence[Any], dtype: str) -> list[Any]:
    """The gradients of a weighting of what it returns."""
    tensors = [paddle.to_tensor(a.astype(dtype), stop_gradient=False) for a in arrays]
    rng, total = np.random.default_rng(3), paddle.zeros([], dtype)
    for out in run(*tensors):
        weights = rng.uniform(0.5, 1.5, out.shape).astype(dtype)
        total = total + (out * paddle.to_tensor(weights)).sum()
    if total.stop_gradient:
        return [np.zeros_like(a) for a in arrays]
    found = paddle.grad(total, tensors, allow_unused=True)
    return [np.zeros_like(a) if g is None else g.numpy() for a, g in zip(arrays, found)]


@pytest.mark.parametrize("name", some([*UNARY, *PAIRS, *IMAGES]))
def test_walk_over_captured_gradients(name: str) -> None:
    """Second derivatives: the first by Paddle's ops, the next by ours; held to eager
    where it has them, else to ours of the whole."""
    if name in LEFT:
        pytest.skip("Paddle's capture is not right")
    shapes = ((2, 4, 7, 6), (6, 4, 3, 3)) if name in IMAGES else ((3, 5), (3, 5))
    count = 1 if name in UNARY else 2
    cases = UNARY | PAIRS | IMAGES
    arrays = [numbers(s, k, name.endswith("+")) for k, s in enumerate(shapes[:count])]
    fast = pirol.to_static(of_gradients(cases[name], count, 1, ends=False))
    ours = walked(fast, arrays, "float32")
    assert not pirol.explain(fast).fallbacks
    try:
        exact = walked(of_first(cases[name], count), arrays, "float64")
    except (RuntimeError, ValueError) as error:
        assert any(text in str(error) for text in NO_SECOND)
        whole = pirol.to_static(of_gradients(cases[name], count, 0))
        exact = walked(of_first(whole, count), arrays, "float64")
    for k, (a, b) in enumerate(zip(ours, exact)):
        room = 1e-4 * max(1, np.abs(b).max())
        np.testing.assert_allclose(a, b, 1e-3, room, err_msg=f"{name}: input {k}")


class Residual(paddle.nn.Layer):  # type: ignore[misc]
    """What a network for u(x, t) leaves of u_t + u u_x + u_xxx, squared."""

    def __init__(self) -> None:
        super().__init__()
        inner = [paddle.nn.Linear(2, 8), paddle.nn.Tanh(), paddle.nn.Linear(8, 8)]
        self.net = paddle.nn.Sequential(
            *inner, paddle.nn.Tanh(), paddle.nn.Linear(8, 1)
        )

    def forward(self, points: Any) -> Any:
        points.stop_gradient = False
        u = self.net(points)
        (one,) = paddle.grad(u, [points], create_graph=True)
        u_x, u_t = one[:, 0:1], one[:, 1:2]
        (two,) = paddle.grad(u_x, [points], create_graph=True)
        (three,) = paddle.grad(two[:, 0:1], [points], create_graph=True)
        return (u_t + u * u_x + three[:, 0:1]).square().mean()


def test_a_physics_informed_network_trains() -> None:
    """Third order inside, its gradient outside, any number of points on one plan."""
    paddle.seed(1)
    eager = Residual()
    layer = copy.deepcopy(eager)
    spec = [paddle.static.InputSpec([None, 2], "float32")]
    fast = pirol.to_static(layer, input_spec=spec)
    adams = [
        paddle.optimizer.Adam(1e-2, parameters=part.parameters())
        for part in (eager, layer)
    ]
    rng, losses = np.random.default_rng(0), []
    for step in range(12):
        points = rng.uniform(-1, 1, (17 + step, 2)).astype("float32")
        found = []
        for run, adam in zip((eager, fast), adams):
            loss = run(paddle.to_tensor(points))
            loss.backward()
            adam.step()
            adam.clear_grad()
            found.append(float(loss))
        losses.append(found)
    np.testing.assert_allclose(*np.array(losses).T, rtol=2e-4)
    report = pirol.explain(fast)
    assert not report.fallbacks and report.compiles == 1, report


def test_the_docs_list_the_rules() -> None:
    text = (Path(__file__).parent.parent / "docs" / "users.md").read_text()
    listed = text.split("rules of their own")[1].split("those of")[1].split(".\n")[0]
    names = {name.removeprefix("pd_op.") for name, _ in GRADIENTS}
    assert set(re.findall(r"\w+", listed)) - {"and"} == names
