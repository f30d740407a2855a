"""Dropouts of whole channels, to a saturation value, with a seed of their own, and
between recurrent layers: counted as all others are.

Paddle makes the first two of `paddle.uniform`: `uniform` says which numbers they must
be, apart from Pirol, and eager Paddle computes with those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from dropout_masks import SEED, is_kept, mask_of, masks, numbers
from graph_meaning import random_word
from paddle.base import core
from paddle.static import InputSpec

import pirol

# name -> what drops, and the shape of its operand
KINDS: dict[str, tuple[Callable[..., Any], list[int]]] = {
    "axes": (lambda x, p: F.dropout(x, p, axis=[0, 1]), [3, 5, 4]),
    "not upscaled": (
        lambda x, p: F.dropout(x, p, axis=1, mode="downscale_in_infer"),
        [3, 50],
    ),
    "1d": (lambda x, p: F.dropout1d(x, p), [3, 8, 5]),
    "2d": (lambda x, p: F.dropout2d(x, p), [3, 8, 2, 3]),
    "2d, channels last": (lambda x, p: F.dropout2d(x, p, True, "NHWC"), [3, 2, 3, 8]),
    "3d": (lambda x, p: F.dropout3d(x, p), [3, 8, 2, 3, 2]),
    "alpha": (lambda x, p: F.alpha_dropout(x, p), [30, 17]),
    "alpha of features": (lambda x, p: F.feature_alpha_dropout(x, p), [5, 8, 3]),
}


def uniform(shape: Any, *args: Any, **kwargs: Any) -> Any:
    """What takes the place of `paddle.uniform`: of the next key, by places."""
    key = core.default_cpu_generator().random()
    places = np.arange(int(np.prod(shape)), dtype=np.int64)
    keys = np.full(places.shape, key % 2**64, np.uint64).view(np.int64)
    words = random_word(keys, places).value.astype(np.int64) + 2**31
    found = (words // 256).astype("float32") * np.float32(2**-24)
    return paddle.to_tensor(found.reshape(shape))


def of(kind: str, p: float) -> Callable[[Any], Any]:
    drop, _ = KINDS[kind]

    def f(x: Any) -> Any:
        return drop(x * x, p)

    return f


@pytest.mark.parametrize("p", [0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_derivatives(
    kind: str, p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager, x, found = of(kind, p), numbers(*KINDS[kind][1]), []
    fast = pirol.to_static(eager, strict=True)
    for run in (fast, eager):
        paddle.seed(SEED)
        y = run(x)
        (g,) = paddle.grad((y * y).sum(), [x], create_graph=True)
        (h,) = paddle.grad(g.sum(), [x])
        found.append([v.numpy() for v in (y, g, h, paddle.rand([3]))])
        monkeypatch.setattr(paddle, "uniform", uniform)
    for got, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert p == 1.0 or 0.02 < (found[0][1] == 0).mean() < 0.7


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_as_eager_draws_them(kind: str) -> None:
    eager, x = of(kind, 0.5), numbers(*KINDS[kind][1])
    fast, found = pirol.to_static(eager, random="eager"), []
    for run in (fast, eager):
        paddle.seed(SEED)
        found.append([run(x).numpy() for _ in range(2)])
    np.testing.assert_allclose(*found, rtol=1e-6)
    assert {f.op for f in pirol.explain(fast).fallbacks} == {"pd_op.uniform"}


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_what_a_user_draws_is_eagers() -> None:
    def f(x: Any) -> Any:
        keep = paddle.uniform([64], min=0.0, max=1.0) >= 0.5
        return x * keep.astype(x.dtype)

    fast, found = pirol.to_static(f), []
    for run in (fast, f):
        paddle.seed(SEED)
        found.append(run(numbers(64)).numpy())
    np.testing.assert_array_equal(*found)
    assert {f.op for f in pirol.explain(fast).fallbacks} == {"pd_op.uniform"}


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.25, 0.9])
def test_rates_of_channels(p: float) -> None:
    count = 1 << 16
    fast = pirol.to_static(lambda x: F.dropout(x, p, axis=0), strict=True)
    x = paddle.ones([count, 2])
    paddle.seed(SEED)
    for _ in range(3):
        y = fast(x).numpy()
        np.testing.assert_array_equal(y[:, 0], y[:, 1])
        lost = (y[:, 0] == 0).mean()
        assert abs(lost - p) <= 5 * np.sqrt(p * (1 - p) / count)


def test_alpha_keeps_mean_and_variance() -> None:
    fast = pirol.to_static(lambda x: F.alpha_dropout(x, 0.3), strict=True)
    paddle.seed(SEED)
    x = paddle.randn([1000, 1000])
    y = fast(x).numpy().astype("float64")
    assert abs(y.mean()) < 0.01 and abs(y.var() - 1) < 0.01


def test_every_size_has_one_plan() -> None:
    spec = [InputSpec([None, None, 3, None])]
    fast = pirol.to_static(of("2d", 0.5), input_spec=spec, strict=True)
    for shape in ([2, 9, 3, 4], [1, 1, 3, 1], [0, 4, 3, 2], [7, 30, 3, 5]):
        paddle.seed(SEED)
        y = fast(paddle.ones(shape))
        paddle.seed(SEED)
        is_kept(y, np.broadcast_to(uniform([*shape[:2], 1, 1]).numpy() >= 0.5, shape))
    assert pirol.explain(fast).compiles == 1


def test_each_turn_of_a_loop_has_a_key() -> None:
    def f(x: Any, times: Any) -> Any:
        k, total = paddle.zeros([], "int64"), paddle.zeros_like(x)
        while k < times:
            total = total + F.dropout2d(x, 0.5)
            k = k + 1
        return total

    fast, x = pirol.to_static(f, strict=True), numbers(4, 200, 2, 2)
    y = fast(x, paddle.to_tensor(3))
    y.sum().backward()
    found = (y / x).numpy()
    np.testing.assert_allclose(x.grad.numpy(), found, rtol=1e-5)
    counts = [(found.round(3) == 2 * k).mean() for k in range(4)]
    np.testing.assert_allclose(counts, [0.125, 0.375, 0.375, 0.125], atol=0.07)


def test_sot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIN_GRAPH_SIZE", "0")
    fast = pirol.to_static(of("2d", 0.5), full_graph=False, strict=True)
    paddle.seed(SEED)
    y = fast(paddle.ones([4, 50, 2, 3]))
    paddle.seed(SEED)
    keep = uniform([4, 50, 1, 1]).numpy() >= 0.5
    is_kept(y, np.broadcast_to(keep, y.shape))


# Seeds --------------------------------------------------------------------------------


def seeded(seed: Any, fixed: bool) -> Callable[[Any], Any]:
    tensor, number = (None, seed) if isinstance(seed, int) else (seed, 0)

    def f(x: Any) -> Any:
        mode = "upscale_in_train"
        drop, more = paddle._C_ops.dropout, (False, mode, number, fixed)
        return drop(x, tensor, 0.5, *more), drop(x * 2.0, tensor, 0.5, *more)

    return f


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_seed_of_its_own(as_tensor: bool) -> None:
    """The same mask at each place and in each call, and nothing drawn for others."""
    seed = paddle.to_tensor([5], "int32") if as_tensor else 5
    fast, x = pirol.to_static(seeded(seed, True), strict=True), numbers(30, 40)
    paddle.seed(SEED)
    for _ in range(2):
        for y in fast(x):
            is_kept(y, mask_of(5, 0.5, x.shape))
    y = fast(x)[0]
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2.0 * mask_of(5, 0.5, x.shape))
    if not as_tensor:
        last = paddle.rand([3]).numpy()
        paddle.seed(SEED)
        np.testing.assert_array_equal(last, paddle.rand([3]).numpy())


@pytest.mark.parametrize("seed", [0, paddle.zeros([1], "int32")])
def test_a_seed_of_zero_is_none(seed: Any) -> None:
    fast, x = pirol.to_static(seeded(seed, True), strict=True), numbers(30, 40)
    paddle.seed(SEED)
    found = fast(x)
    paddle.seed(SEED)
    for y, mask in zip(found, masks([0.5] * 2, *[x.shape] * 2)):
        is_kept(y, mask)


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
@pytest.mark.parametrize("seed", [0, 5])
def test_a_seed_as_eager_has_it(seed: int) -> None:
    f, x, found = seeded(seed, True), numbers(30, 40), []
    for run in (pirol.to_static(f, random="eager"), f):
        paddle.seed(SEED)
        found.append([y.numpy() for _ in range(2) for y in run(x)])
    np.testing.assert_array_equal(*found)


# Recurrent layers ---------------------------------------------------------------------

STACKS = {
    "LSTM": lambda p: paddle.nn.LSTM(5, 6, num_layers=3, dropout=p),
    "GRU, both ways": lambda p: paddle.nn.GRU(5, 6, 2, "bidirect", dropout=p),
    "time first": lambda p: paddle.nn.SimpleRNN(5, 6, 2, time_major=True, dropout=p),
}


def given_masks(stack: Any, x: Any, lengths: Any) -> Any:
    """The stack in eager mode, cell by cell, with the masks of the keys to come."""
    ways, found = stack.num_directions, []
    turn = [0, 1, 2] if stack.time_major else [1, 0, 2]  # the op's order: time first
    shape = [*(x.shape[k] for k in turn[:2]), ways * stack.hidden_size]
    keep = masks([stack.dropout] * (len(stack) - 1), *[shape] * (len(stack) - 1))
    for k, layer in enumerate(stack):
        if k:
            mask = paddle.to_tensor(keep[k - 1].transpose(turn).astype("float32"))
            x = x * mask / (1 - stack.dropout)
        x, last = layer(x, None, lengths)
        found += paddle.utils.flatten(last)
    if lengths is not None:  # behind them, the op gives zeros
        steps = paddle.arange(shape[0]).unsqueeze(1) < lengths
        x = x * steps.astype(x.dtype).unsqueeze(2).transpose(turn)
    parts = stack.state_components
    return [x, *(paddle.stack(found[k::parts]) for k in range(parts))]


@pytest.mark.parametrize("shorter", [False, True])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_between_recurrent_layers(
    kind: str, full: bool, shorter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIN_GRAPH_SIZE", "0")
    paddle.seed(1)
    stack, x, found = STACKS[kind](0.4), numbers(4, 3, 5), []
    given = [4, 2, 3] if stack.time_major else [3, 2, 3, 1]
    lengths = paddle.to_tensor(given) if shorter else None

    def f(x: Any) -> Any:
        y, last = stack(x, None, lengths)
        return [y, *paddle.utils.flatten(last)]

    fast = pirol.to_static(f, full_graph=full)
    for run in (fast, lambda x: given_masks(stack, x, lengths)):
        paddle.seed(SEED)
        ys = run(x)
        paddle.add_n([(y * y).sum() for y in ys]).backward()
        grads = [v.grad.numpy() for v in (x, *stack.parameters())]
        found.append([*(y.numpy() for y in ys), *grads])
        x.clear_gradient()
        stack.clear_gradients()
    for got, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)
    fallbacks = {f.op for f in pirol.explain(fast).fallbacks}
    assert fallbacks == {"pd_op.rnn", "pd_op.rnn_grad"}


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
@pytest.mark.parametrize("kind", STACKS)
def test_recurrent_layers_as_eager(kind: str) -> None:
    """With eager's masks, without dropout, and with nothing else."""
    for p, random in ((0.5, "eager"), (1.0, "counter"), (1.0, "eager")):
        stack, x, found = STACKS[kind](p), numbers(4, 3, 5), []
        eager = stack.forward
        for run in (pirol.to_static(stack, random=random), eager):
            paddle.seed(SEED)
            y = run(x)[0]
            y.sum().backward()
            found.append([y.numpy(), *(v.grad.numpy() for v in stack.parameters())])
            stack.clear_gradients()
        for got, wanted in zip(*found, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
