"""Programs that Paddle captures as something else than what its eager mode does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.static import InputSpec

import pirol

Made = Callable[[], list[Any]]


def floats(*shapes: Any) -> Made:
    """Tensors of floats between 0.2 and 0.9, which have gradients."""

    def made() -> list[Any]:
        rng = np.random.default_rng(0)
        arrays = [rng.uniform(0.2, 0.9, s).astype("float32") for s in shapes]
        return [paddle.to_tensor(a, stop_gradient=False) for a in arrays]

    return made


def ints(*values: Any) -> Made:
    return lambda: [paddle.to_tensor(v) for v in values]


def greatest_divisor(x: Any, y: Any) -> Any:
    z = x * 1
    z.gcd_(y)
    x.gcd_(y)
    return z, x + 1


def bools(x: Any) -> Any:
    return x + True, False + x, x * False, True * x, x + 1, x * 1


def of_ints(x: Any) -> Any:
    return x @ paddle.to_tensor([1, 2, 3]), x @ paddle.arange(6).reshape([3, 2])


def alike(x: Any, y: Any) -> Any:
    return x.expand_as(y) * 2.0


def alike_and_read(x: Any, y: Any) -> Any:
    return x.expand_as(y) * y


def gammas(x: Any, y: Any) -> Any:
    return paddle.gammaincc(x, y)


def views(x: Any, y: Any) -> Any:
    a, b = x.view([3, -1]), x.view(-1)
    return a.view(x.shape[0], -1) * 2.0, b * b, x.view_as(y) * y


def windows(x: Any, y: Any) -> Any:
    return x.unfold(0, 2, 2) * 2.0, paddle.unfold(y, -1, 3, 4), y.unfold(1, 1, 1)


def quotients(x: Any) -> Any:
    return x / 3, x / -7.0, x / 0, x / -1e-38, x / True


def made_sizes(x: Any) -> Any:
    """Sizes that a result has, beside those that are known before it is there."""
    found = paddle.masked_select(x, x > 0.5)
    drawn = paddle.randint(0, 5, x.shape)
    made = [paddle.shape(t) for t in (found, paddle.empty_like(x), drawn)]
    return *made, paddle.to_tensor([*drawn.shape])


def diagonals(x: Any, y: Any) -> Any:
    return paddle.diag(x, 1, 3.0) * 2.0, paddle.diag(x, -2), paddle.diagflat(y, 1)


def angles(x: Any, y: Any) -> Any:
    z = (y.detach() * 9.0).astype("int32")
    return paddle.atan2(x, y), paddle.atan2(z, -z)


def strided(x: Any) -> Any:
    """Convolutions whose padding depends on sizes, and one that goes back."""
    w = paddle.cos(paddle.arange(54.0)).reshape([3, 3, 3, 2])
    same = [F.conv2d(x, w, stride=s, padding="SAME") for s in (2, [3, 1])]
    wider = F.conv2d_transpose(x, w, stride=[2, 3], padding=[1, 0], output_padding=1)
    return *same, wider


def rarer(x: Any, y: Any) -> Any:
    share, label = F.softmax(x), y.argmax(1, keepdim=True)
    return (
        F.rrelu(x - 0.5, 0.2, 0.4, training=False),
        F.log_loss(x[:, :1], y[:, :1]),
        F.cross_entropy(share, label, use_softmax=False, ignore_index=1),
        F.cross_entropy(share, F.softmax(y), use_softmax=False, soft_label=True),
    )


def shuffled(x: Any) -> Any:
    """[2, 4, 6, 8], the channels last."""
    some = F.pixel_shuffle(x, 2, "NHWC"), F.pixel_unshuffle(x, 2, "NHWC")
    return *some, F.channel_shuffle(x, 4, "NHWC")


def counts(x: Any) -> Any:
    """Flat functions, whose gradient is 0."""
    return paddle.norm(x - 0.5, p=0, axis=0), paddle.floor(x).sum()


def signs(x: Any, y: Any) -> Any:
    return paddle.copysign(x, y), paddle.copysign(y, x), paddle.signbit(x)


SEVERAL = [[[6, -4, 0], [9, 12, 35]], [4, 8, 10]]
CASES = {
    "gcd_": (greatest_divisor, ints(*SEVERAL)),
    "bool": (bools, ints([True, False])),
    "matmul": (of_ints, floats([2, 3])),
    "expand_as": (alike, floats([3], [2, 3])),
    "expand_as twice": (alike_and_read, floats([3], [2, 3])),
    "view": (views, floats([2, 6], [4, 3])),
    "unfold": (windows, floats([5, 2], [2, 8])),
    "quotients": (quotients, lambda: [paddle.to_tensor([0.0, -0.0, 2.0, -1e-20])]),
    "quotients of integers": (quotients, ints([0, 3, -5])),
    "quotients of bools": (quotients, ints([True, False])),
    "made sizes": (made_sizes, floats([4, 5])),
    "diag": (diagonals, floats([4], [2, 3])),
    "atan2": (angles, floats([4, 5], [3, 1, 5])),
    "strided conv": (strided, floats([2, 3, 7, 8])),
    "rarer": (rarer, floats([4, 5], [4, 5])),
    "shuffled": (shuffled, floats([2, 4, 6, 8])),
    "counts": (counts, floats([3, 2])),
    "signs": (signs, ints([3, -4, 0, 7], [-1, 2, 0, 5])),
    "gammaincc": (gammas, floats([3], [3])),
}

BY_PADDLE = ("gammaincc", "made sizes", "quotients of bools")


def run(fn: Callable[..., Any], given: list[Any]) -> list[Any]:
    """All that is to be the same: results, what inputs hold then, gradients."""
    results = paddle.utils.flatten(fn(*given))
    floats = [t for t in results if not t.stop_gradient]
    wanted = [t for t in given if not t.stop_gradient]
    grads: list[Any] = []
    if floats and wanted:
        cts = [paddle.cos(paddle.arange(t.size).reshape(t.shape) + 1.0) for t in floats]
        grads = paddle.grad(floats, wanted, cts, allow_unused=True)
    return [*results, *given, *grads]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_program_does_what_eager_does(name: str, dynamic: bool) -> None:
    fn, made = CASES[name]
    spec = [
        InputSpec([None] * t.ndim, t.dtype, stop_gradient=t.stop_gradient)
        for t in made()
    ]
    fast = pirol.to_static(
        fn, input_spec=spec if dynamic else None, strict=name not in BY_PADDLE
    )
    for ours, eagers in zip(run(fast, made()), run(fn, made()), strict=True):
        assert (ours is None) == (eagers is None)
        if eagers is not None:
            assert ours.dtype == eagers.dtype and ours.shape == eagers.shape
            np.testing.assert_allclose(ours.numpy(), eagers.numpy(), 1e-5, 1e-6)
            if name.startswith("quotients"):  # they are its own, and so is -0
                assert ours.numpy().tobytes() == eagers.numpy().tobytes()
    assert all(f.op.startswith("pd_op.") for f in pirol.explain(fast).fallbacks)


def mean(x: Any) -> Any:
    return x * x.numpy().mean()


def halves(x: Any) -> Any:
    return x, x.numpy() / 2


def arrays(x: Any) -> Any:
    return x, np.stack([x, x]), np.asarray(x.sum())


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
@pytest.mark.parametrize("fn", [mean, halves, arrays])
def test_eager_runs_what_asks_for_arrays(fn: Callable[..., Any]) -> None:
    fast, x = pirol.to_static(fn), paddle.to_tensor([1, 2, 4])
    for ours, eagers in zip(*map(paddle.utils.flatten, (fast(x), fn(x))), strict=True):
        assert type(ours) is type(eagers) and ours.dtype == eagers.dtype
        np.testing.assert_array_equal(ours, eagers)
    (said,) = pirol.explain(fast).fallbacks
    assert "could not be captured" in said.why


def norms(x: Any) -> Any:
    return paddle.nn.InstanceNorm1D(3)(x)


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_eager_runs_what_makes_parameters() -> None:
    fast, x = pirol.to_static(norms), paddle.randn([2, 3, 5])
    np.testing.assert_allclose(fast(x).numpy(), norms(x).numpy(), rtol=1e-5)
    (said,) = pirol.explain(fast).fallbacks
    assert said.why == "it makes parameters"
