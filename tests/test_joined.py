"""Outputs that Paddle's nodes join to inputs: whatever asks, the answer is eager's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.compiler.capture import joined


def one(x: Any, w: Any) -> Any:
    """One tensor that needs a gradient, one output."""
    return paddle.tanh(x) * 2.0


def two(x: Any, w: Any) -> Any:
    """Two, and two."""
    return paddle.tanh(x) * w, w.exp()


def to_half(x: Any, w: Any) -> Any:
    """An output of another dtype."""
    return paddle.tanh(x).astype("float64")


def ends(found: Any) -> Any:
    return sum(y.square().sum().astype("float64") for y in paddle.utils.flatten(found))


def by_backward(f: Any, x: Any, w: Any) -> Any:
    ends(f(x, w)).backward()
    return x.grad


def by_grad(f: Any, x: Any, w: Any) -> Any:
    return paddle.grad(ends(f(x, w)), x)


def accumulated(f: Any, x: Any, w: Any) -> Any:
    for _ in range(3):
        ends(f(x, w)).backward()
    return x.grad


def walked_twice(f: Any, x: Any, w: Any) -> Any:
    y = ends(f(x, w))
    y.backward(retain_graph=True)
    y.backward()
    return x.grad


def with_hooks(f: Any, x: Any, w: Any) -> Any:
    """On the input, and two on the output."""
    y, seen = paddle.utils.flatten(f(x, w))[0], []
    y.retain_grads()
    x.register_hook(lambda g: g * 3)
    y.register_hook(lambda g: g + 1)
    y.register_hook(lambda g: seen.append(g * 1))
    y.square().sum().backward()
    return [x.grad, *seen, y.grad]


def of_the_output(f: Any, x: Any, w: Any) -> Any:
    y = paddle.utils.flatten(f(x, w))[0]
    return paddle.grad(y.square().sum(), [y, x])


def twice_differentiated(f: Any, x: Any, w: Any) -> Any:
    (g,) = paddle.grad(ends(f(x, w)), x, create_graph=True)
    g.square().sum().backward()
    return [g, x.grad]


def in_part_without(f: Any, x: Any, w: Any) -> Any:
    with paddle.no_grad():
        y = paddle.utils.flatten(f(x, w))[0]
    assert y.stop_gradient
    (paddle.utils.flatten(f(x, w))[0] * y).sum().backward()
    return [y, x.grad]


def of_a_middle(f: Any, x: Any, w: Any) -> Any:
    """Of a tensor that is no leaf, nor contiguous."""
    middle = (x * 2).t()
    grads = paddle.grad(ends(f(middle, w.t())), [middle, x])
    return [*grads, middle]


def beside_what_has_no_second(f: Any, x: Any, w: Any) -> Any:
    """The weight's own gradient, which has none, is not asked for."""
    weight = w / paddle.norm(w, p=3, axis=1, keepdim=True)
    return paddle.grad(ends(f(x, weight)), x, create_graph=True)


def called_on_itself(f: Any, x: Any, w: Any) -> Any:
    y = paddle.utils.flatten(f(x, w))[0]
    ends(f(y.astype("float32"), w)).backward()
    return x.grad


ASKED = [
    *(by_backward, by_grad, accumulated, walked_twice, with_hooks, of_the_output),
    *(twice_differentiated, in_part_without, of_a_middle, called_on_itself),
    beside_what_has_no_second,
]


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0, 4)], ids=str)
@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("f", [one, two, to_half])
def test_as_eager(f: Any, ask: Callable[..., Any], shape: tuple[int, ...]) -> None:
    if ask is twice_differentiated and 0 in shape:
        pytest.skip("of nothing there is no second derivative yet, but None")
    fast, found = pirol.to_static(f, strict=True), []
    for run in (f, fast, fast):
        rng = np.random.default_rng(0)
        x, w = (paddle.to_tensor(rng.normal(size=shape), "float32") for _ in "xw")
        x.stop_gradient, w.stop_gradient = False, f is not two
        found.append(paddle.utils.flatten(ask(run, x, w)))
    for eager, *ours in zip(*found, strict=True):
        for tensor in ours:
            assert tensor.shape == eager.shape and tensor.dtype == eager.dtype
            assert tensor.stop_gradient == eager.stop_gradient
            np.testing.assert_allclose(tensor.numpy(), eager.numpy(), 1e-5, 1e-6)


@pytest.mark.parametrize("f", [one, two])
def test_a_second_walk_and_a_write_are_refused(f: Any) -> None:
    fast = pirol.to_static(f, strict=True)
    x, w = (paddle.ones([2, 2]) for _ in "xw")
    x.stop_gradient, w.stop_gradient = False, f is not two
    for _ in range(2):
        y = paddle.utils.flatten(fast(x, w))[0]
        y.sum().backward()
        with pytest.raises((RuntimeError, SystemError), match="retain_graph"):
            y.sum().backward()
        y = paddle.utils.flatten(fast(x, w))[0]
        with paddle.no_grad():
            x.add_(paddle.ones([2, 2]))
        with pytest.raises(RuntimeError, match="version"):
            y.sum().backward()


def test_one_tensor_and_one_output_are_two_nodes_and_few_calls() -> None:
    """What a call does in Python: as many functions of ours as here, no more."""
    fast = pirol.to_static(one, strict=True)
    x, w, ct = (paddle.ones([2, 2]) for _ in range(3))
    x.stop_gradient = False
    for _ in range(2):
        fast(x, w).backward(ct)
    calls: list[str] = []

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and "/compiler/" in frame.f_code.co_filename:
            calls.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        fast(x, w).backward(ct)
    finally:
        sys.setprofile(None)
    assert "_view" not in calls and "take" not in calls
    assert len(calls) <= 33, (len(calls), calls)


def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call taken for one of one tensor and one output."""
    made = joined.Pair.join
    monkeypatch.setattr(joined.Call, "join", lambda self, outputs: made(self, outputs))
    with pytest.raises((AssertionError, AttributeError, ValueError)):
        test_as_eager(two, by_backward, (3, 4))
