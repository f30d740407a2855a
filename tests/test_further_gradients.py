"""paddle.grad of paddle.grad in a program, of ops whose gradients have none in Paddle.

Eager Paddle raises for most of them too: what is exact, differences of its first
gradients in float64 tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.static import InputSpec

import pirol
from pirol.compiler.capture import translated

SIDE = np.array([[0.3, -1.2, 0.7, 1.1], [0.5, 0.9, -0.4, 0.2], [1.3, -0.6, 0.8, -1.5]])
LABELS = np.array([0, 2, 1])
Function = Callable[[Any, Any], Any]
ALONE = """
silu softsign mish selu swish celu log_sigmoid hardswish softshrink tanhshrink gelu
log_softmax stanh tan sinh asinh i0 i1e logsumexp
"""
BETWEEN_0_AND_1 = "acos atanh erfinv digamma log1p reciprocal"


def named(name: str) -> Callable[[Any], Any]:
    return getattr(F, name, None) or getattr(paddle, name)


def of_one(name: str) -> Function:
    return lambda x, w: named(name)(x)


def of_a_share(name: str) -> Function:
    return lambda x, w: named(name)(F.sigmoid(x))


OPS: dict[str, Function] = {
    **{name: of_one(name) for name in ALONE.split()},
    **{name: of_a_share(name) for name in BETWEEN_0_AND_1.split()},
    "prelu": lambda x, w: F.prelu(x, paddle.full([1], 0.3, x.dtype)) * x,
    "maxout": lambda x, w: F.maxout((x**3).reshape([3, 4, 1, 1]), 2),
    "logaddexp": paddle.logaddexp,
    "atan2": paddle.atan2,
    "by a divisor": lambda x, w: w / (x * x + 1),
    "by a divisor alone": lambda x, w: paddle.ones([3, 4], x.dtype) / (x + 2),
    "mod": lambda x, w: paddle.mod(x, w) * x,
    "pow": lambda x, w: paddle.pow(w * w + 0.5, x),
    "renorm": lambda x, w: paddle.renorm(x, 2.0, 0, 1.0) ** 3,
    "cosine similarity": F.cosine_similarity,
    "smooth l1": lambda x, w: F.smooth_l1_loss(x * x, w),
    "cross entropy": lambda x, w: F.cross_entropy(x, paddle.to_tensor(LABELS)),
    "logits": lambda x, w: F.binary_cross_entropy_with_logits(
        x, (w > 0).astype(x.dtype)
    ),
    "layer norm": lambda x, w: F.layer_norm(x, 4, w[0], w[1]) ** 3,
    "group norm": lambda x, w: F.group_norm(x.reshape([1, 4, 3]), 2, 1e-5, *w[:2]) ** 3,
    "nll": lambda x, w: F.nll_loss(x**3, paddle.to_tensor(LABELS)),
    "embedding": lambda x, w: F.embedding(paddle.to_tensor(LABELS), x**3) * w,
    "bilinear": lambda x, w: F.bilinear(x**3, w, paddle.ones([2, 4, 4], x.dtype)),
}


def normal(x: Any, axis: Any) -> Any:
    """Eager's own first gradients of norms are off where weights need none."""
    less = x - x.mean(axis, keepdim=True)
    return less / paddle.sqrt((less**2).mean(axis, keepdim=True) + 1e-5)


EXACT = OPS | {
    "layer norm": lambda x, w: (normal(x, 1) * w[0] + w[1]) ** 3,
    "group norm": lambda x, w: (
        (
            normal(x.reshape([2, 6]), 1).reshape([4, 3]) * w[0].unsqueeze(1)
            + w[1].unsqueeze(1)
        )
        ** 3
    ),
}


def slope(f: Function, order: int) -> Callable[[Any, Any], Any]:
    """The gradient of the squares of the gradient of the squares .. of f."""

    def run(x: Any, w: Any) -> Any:
        x = x.detach()
        x.stop_gradient = False
        y = f(x, w)
        for k in range(order):
            further = k < order - 1
            (g,) = paddle.grad((y * y).sum(), [x], create_graph=further)
            y = g
        return y

    return run


def differences(f: Function, order: int, x: Any, w: Any) -> Any:
    """The same by differences of the first gradient, of eager Paddle."""
    if order == 1:
        run = slope(f, 1)
        return run(paddle.to_tensor(x), w).numpy()
    found, step = np.zeros(x.shape), 1e-4 if order == 2 else 2e-3
    for at in np.ndindex(*x.shape):
        ends = []
        for sign in (2, 1, -1, -2):
            moved = x.copy()
            moved[at] += sign * step
            ends.append((differences(f, order - 1, moved, w) ** 2).sum())
        found[at] = (-ends[0] + 8 * ends[1] - 8 * ends[2] + ends[3]) / (12 * step)
    return found


@pytest.mark.parametrize("name", OPS)
def test_second_derivatives(name: str) -> None:
    x, w = np.random.default_rng(1).uniform(-1.5, 1.5, (3, 4)), paddle.to_tensor(SIDE)
    fast = pirol.to_static(slope(OPS[name], 2), strict=True)
    wanted = differences(EXACT[name], 2, x, w)
    found = fast(paddle.to_tensor(x), w).numpy()
    np.testing.assert_allclose(found, wanted, 1e-6, 1e-7 * abs(wanted).max())
    assert pirol.explain(fast).compiles == 1


@pytest.mark.parametrize("name", ["silu", "mish", "log_softmax", "i1e", "logaddexp"])
def test_third_derivatives_of_any_size(name: str) -> None:
    x, w = np.random.default_rng(2).uniform(-1, 1, (2, 3)), paddle.to_tensor(SIDE)
    spec = [InputSpec([None, None], "float64", n) for n in "xw"]
    fast = pirol.to_static(slope(OPS[name], 3), input_spec=spec, strict=True)
    w = w[:2, :3]
    wanted = differences(OPS[name], 3, x, w)
    found = fast(paddle.to_tensor(x), w).numpy()
    np.testing.assert_allclose(found, wanted, 1e-3, 1e-5 * abs(wanted).max())
    x = np.random.default_rng(2).uniform(-1, 1, (3, 4))
    found = fast(paddle.to_tensor(x), paddle.to_tensor(SIDE)).numpy()
    same = pirol.to_static(slope(OPS[name], 3), strict=True)
    np.testing.assert_allclose(found, same(*map(paddle.to_tensor, (x, SIDE))).numpy())
    assert pirol.explain(fast).compiles == 1


def test_a_loss_trains_by_it() -> None:
    """A physics-informed network of silu, with parameters' gradients behind."""
    paddle.seed(0)
    net = paddle.nn.Sequential(
        paddle.nn.Linear(2, 8), paddle.nn.Silu(), paddle.nn.Linear(8, 1)
    ).to(dtype="float64")

    class Loss(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            u = self.net(x)
            (g,) = paddle.grad(u.sum(), [x], create_graph=True)
            (h,) = paddle.grad(g[:, 0].sum(), [x], create_graph=True)
            return (h[:, 0] - g[:, 1]).square().mean()

    eager, found = Loss(), []
    rng = np.random.default_rng(0)
    x = paddle.to_tensor(rng.normal(size=(9, 2)), stop_gradient=False)
    fast = pirol.to_static(Loss(), strict=True)
    fast(x).backward()
    found = [p.grad.numpy() for p in net.parameters()[:3]]
    step = 1e-4
    for p, g in zip(net.parameters(), found):
        at = (0,) * len(p.shape)
        ends = []
        for sign in (1, -1):
            moved = p.numpy()
            moved[at] += sign * step
            kept = p.numpy()
            p.set_value(moved)
            ends.append(float(eager(x)))
            p.set_value(kept)
        assert abs((ends[0] - ends[1]) / (2 * step) - g[at]) < 1e-6 * (1 + abs(g[at]))


def test_what_ends_paddles_process_is_an_error() -> None:
    def run(x: Any, kernel: Any) -> Any:
        x = x.detach()
        x.stop_gradient = False
        y = F.conv2d_transpose(x**3, kernel)
        (g,) = paddle.grad(y.sum(), [x], create_graph=True)
        return paddle.grad(g.pow(2).sum(), [x])[0]

    x, kernel = paddle.rand([1, 1, 3, 4]), paddle.rand([1, 1, 2, 2])
    with pytest.raises(Exception, match="by one operand alone"):
        pirol.to_static(run, strict=True)(x, kernel)


def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(translated.POINTWISE, "mul", "add")
    with pytest.raises(AssertionError):
        test_second_derivatives("mish")
