"""Gradients of compiled functions against eager Paddle's, held to float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import paddle
import pytest
from decomposition_runs import compare, of_tensors
from gradient_cases import IMAGES, PAIRS, UNARY

import pirol


def numbers(shape: Sequence[int], seed: int, between: bool = False) -> Any:
    """Numbers at which nothing jumps: no two alike, none near an integer or a half."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    values = 0.1 + 0.3 * rng.permutation(size) / size + 0.02 * rng.random(size)
    if not between:
        values = (values + rng.integers(-2, 2, size)) * 1.01
    return values.reshape(shape).astype("float32")


def gradients(
    function: Callable[..., Any], arrays: Sequence[Any], dtype: str
) -> list[Any]:
    """Of a weighting of the float outputs; and the outputs."""
    tensors = [paddle.to_tensor(a.astype(dtype), stop_gradient=False) for a in arrays]
    found = function(*tensors)
    outputs = list(found) if isinstance(found, (list, tuple)) else [found]
    rng, total = np.random.default_rng(2), paddle.zeros([], dtype)
    for out in outputs:
        weights = rng.uniform(0.5, 1.5, out.shape).astype(dtype)
        total = total + (out * paddle.to_tensor(weights)).sum()
    if total.stop_gradient:
        return [None for _ in tensors] + outputs
    return paddle.grad(total, tensors, allow_unused=True) + outputs


def check(function: Callable[..., Any], arrays: Sequence[Any], name: str) -> None:
    inner = paddle.jit.not_to_static(function)  # traced as it is: it may be a lambda
    fast = pirol.to_static(of_tensors(inner, len(arrays)))
    ours = gradients(fast, arrays, "float32")
    report = pirol.explain(fast)
    assert not report.fallbacks and report.compiles, (name, report.fallbacks)
    theirs = gradients(function, arrays, "float32")
    exact = gradients(function, arrays, "float64")
    for k, (a, b, c) in enumerate(zip(ours, theirs, exact)):
        what = f"{name}: gradient {k}"
        assert (a is None) == (b is None), (what, a, b)
        if a is not None:
            assert a.stop_gradient == b.stop_gradient, what
            compare(a + 0.0, b + 0.0, c + 0.0, what)  # -0.0 is 0.0 here


def some(names: Iterable[str]) -> list[Any]:
    """All, every fourth of them in the quick suite too."""
    full = pytest.mark.full
    return [pytest.param(n, marks=[full] if k % 4 else []) for k, n in enumerate(names)]


@pytest.mark.parametrize("name", some(UNARY))
def test_unary(name: str) -> None:
    check(UNARY[name], [numbers((3, 5), 0, name.endswith("+"))], name)


@pytest.mark.parametrize("name", some(PAIRS))
def test_pairs(name: str) -> None:
    check(PAIRS[name], [numbers((3, 5), 0), numbers((3, 5), 1)], name)


@pytest.mark.parametrize("name", some(IMAGES))
def test_images(name: str) -> None:
    shapes = (2, 4, 7, 6), (6, 4, 3, 3)
    check(IMAGES[name], [numbers(s, k) for k, s in enumerate(shapes)], name)


def scaled(x: Any, y: Any) -> Any:
    return paddle._C_ops.scale(x, y[0, 0], 0.5, True)


# Operands that to Paddle have no gradient, whatever the mathematics say.
STILL: dict[str, Callable[..., Any]] = {
    "clip": lambda x, y: paddle.clip(x, min=y[0, 0] - 2, max=y[0, 1] + 2),
    "scale": scaled,
    "lerp": lambda x, y: paddle.lerp(x, x * x, y),
    "full": lambda x, y: x * paddle.full([2, 1, 1], y[0, 0]),
    "linspace": lambda x, y: x * paddle.linspace(y[0, 0], y[0, 1], 5),
    "label_smooth": lambda x, y: paddle.nn.functional.label_smooth(x, y[:1]),
    "pos_weight": lambda x, y: paddle.nn.functional.binary_cross_entropy_with_logits(
        x, (x.detach() > 0).astype(x.dtype), pos_weight=y[0], reduction="none"
    ),
}


@pytest.mark.parametrize("name", STILL)
def test_operands_without_a_gradient(name: str) -> None:
    check(STILL[name], [numbers((3, 5), 0), numbers((3, 5), 1)], name)
