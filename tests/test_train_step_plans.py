"""Plans of whole training steps: what is in place, what is left, faults, long runs."""

from __future__ import annotations

import gc
import resource
import warnings
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn, optimizer
from paddle.nn import ClipGradByGlobalNorm, ClipGradByValue
from paddle.regularizer import L1Decay
from train_steps import (
    Make,
    Small,
    adam,
    adamw,
    compare,
    data,
    eager,
    momentum,
    pair,
    same,
    sgd,
    states,
)

import pirol
from pirol.bench import coverage, training
from pirol.compiler import donate
from pirol.compiler.capture import optimizers, train_step
from pirol.compiler.errors import PirolWarning
from pirol.passes import update
from pirol.passes.plan import Write


@pytest.fixture(autouse=True)
def _no_plans_from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor any kept there: some are made with faults."""
    monkeypatch.setattr(train_step.StepPlans, "key_of", lambda *given: "")


def written(step: Any) -> list[tuple[Any, Write]]:
    """All writes of a step's plans."""
    plans = [v.plan for s in step._steps.values() for v in s.plans.variants]
    return [(p, s) for p in plans for s in p.steps if isinstance(s, Write)]


RUNNING = 2  # statistics, which are made before the last step that may fail


@pytest.mark.parametrize("clipped", [False, True])
def test_all_is_updated_in_place(
    clipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit as with copies, and at the same addresses."""
    clip = ClipGradByGlobalNorm(0.1) if clipped else None
    found = []
    for copies in (False, True):
        if copies:
            nothing = lambda plan: (plan, donate.Donated({}, {}))  # noqa: E731
            monkeypatch.setattr(train_step, "donate", nothing)
        layer, ours, _, _ = pair(adamw(grad_clip=clip))
        step = pirol.train_step(layer, nn.CrossEntropyLoss(), ours, strict=True)
        step(*data(0))
        places = [t.data_ptr() for t in states(layer, ours)]
        step(*data(1))
        assert places == [t.data_ptr() for t in states(layer, ours)]
        copied = [w for p, w in written(step) if p.buffers[w.source].kind == "arena"]
        assert len(copied) == (len(written(step)) if copies else RUNNING)
        found.append(states(layer, ours))
    for a, b in zip(*found):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


class Turned(nn.Layer):
    """The gradient of each element is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.create_parameter([33, 33])

    def forward(self, x: Any) -> Any:
        return (self.weight * self.weight.T).sum() * x


def turned() -> None:
    layer, ours, plain, theirs = pair(sgd(weight_decay=0.1), Turned)
    step = pirol.train_step(layer, None, ours, strict=True)
    x = paddle.to_tensor(0.3)
    for _ in range(3):
        step(x)
        plain(x).backward()
        theirs.step()
        theirs.clear_grad()
    same([layer.weight], [plain.weight], 1e-5)


def test_a_weight_whose_other_elements_are_read() -> None:
    turned()


def test_no_kernel_of_paddle_computes() -> None:
    layer, ours, _, _ = pair(adamw(grad_clip=ClipGradByGlobalNorm(0.1)))
    step = pirol.train_step(layer, nn.CrossEntropyLoss(), ours, strict=True)
    batch = data(0)
    step(*batch)
    assert set(coverage.launches(lambda: step(*batch))) <= {"full"}


class OwnClip(ClipGradByValue):
    pass


def half(layer: Any) -> Any:
    layer.to(dtype="bfloat16")
    return optimizer.SGD(0.1, parameters=layer.parameters())


def hooked(layer: Any) -> Any:
    layer.last.weight.register_hook(lambda g: g * 2.0)
    return optimizer.SGD(0.1, parameters=layer.parameters())


LEFT: dict[str, tuple[Make, str]] = {
    "RMSProp": (
        lambda layer: optimizer.RMSProp(0.01, parameters=layer.parameters()),
        "RMSProp",
    ),
    "LookAhead": (
        lambda layer: paddle.incubate.LookAhead(sgd()(layer), k=2),
        "LookAhead",
    ),
    "own clip": (sgd(grad_clip=OwnClip(0.01)), "OwnClip"),
    "a hook": (hooked, "a hook was registered"),
    "many at once": (momentum(use_multi_tensor=True), "use_multi_tensor"),
    "twice": (
        lambda layer: optimizer.SGD(0.1, parameters=[*layer.parameters()] * 2),
        "twice",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_paddle_is_said_once(name: str) -> None:
    make, why = LEFT[name]
    paddle.seed(1)
    layer = Small()
    plain = Small()
    plain.set_state_dict(layer.state_dict())
    ours, theirs = make(layer), make(plain)
    loss = nn.CrossEntropyLoss()
    step = pirol.train_step(layer, loss, ours)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(3):
            found, expected = float(step(*data(k))), eager(plain, theirs, data(k), loss)
            np.testing.assert_allclose(found, expected, 1e-5)
    said = [str(w.message) for w in caught if w.category is PirolWarning]
    assert len(said) == 1 and why in said[0]
    same(list(layer.parameters()), list(plain.parameters()), 1e-4)
    with pytest.raises(pirol.StrictError, match=why):
        pirol.train_step(layer, loss, ours, strict=True)(*data(0))


def test_a_hook_between_two_steps() -> None:
    layer, ours, plain, theirs = pair(sgd())
    loss = nn.CrossEntropyLoss()
    step = pirol.train_step(layer, loss, ours)
    step(*data(0)), eager(plain, theirs, data(0), loss)
    for one in (layer, plain):
        one.last.weight.register_hook(lambda g: g * 2.0)
    with pytest.warns(PirolWarning, match="a hook was registered"):
        step(*data(1))
    eager(plain, theirs, data(1), loss)
    same([layer.last.weight], [plain.last.weight], 1e-5)


def test_sparse_gradients_are_paddles() -> None:
    class Words(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(9, 4, sparse=True)

        def forward(self, x: Any) -> Any:
            return self.words(x).square().mean()

    layer, ours, plain, theirs = pair(adam(lazy_mode=True), Words)
    step = pirol.train_step(layer, None, ours)
    x = paddle.to_tensor([1, 3, 3])
    with pytest.warns(PirolWarning, match="sparse gradient"):
        step(x)
    plain(x).backward()
    theirs.step()
    same([layer.words.weight], [plain.words.weight], 1e-5)


def test_other_elements_written_too_early_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(donate, "_one_by_one", lambda *nest: True)
    with pytest.raises(AssertionError, match="Not equal"):
        turned()


def dropped(*args: Any) -> Any:
    return [args[2], *args[5]]


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "an update is dropped": (update.Adam, "updated", dropped),
    "a clip is dropped": (update.ByGlobalNorm, "clipped", lambda self, b, grads: grads),
    "numbers are rounded": (optimizers, "dtype_name", lambda dtype: "float32"),
    "a weight is written while it is still read": (
        donate._Donation,
        "end",
        lambda self, at, root: at,
    ),
    "what is read was written": (donate._Donation, "may_move", lambda *steps: True),
    "an L1 sign is 1": (
        update,
        "_sign",
        lambda b, x: b.const(value=1.0, shape=x.shape, dtype=x.dtype),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(
    name: str, monkeypatch: pytest.MonkeyPatch, float64: None
) -> None:
    monkeypatch.setattr(*FAULTS[name])
    make = adam(grad_clip=ClipGradByGlobalNorm(0.1), weight_decay=L1Decay(0.1))
    with pytest.raises(AssertionError, match="Not equal"):
        compare(make)


def test_bench_refuses_wrong_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update.Adam, "updated", dropped)
    with pytest.raises(SystemExit, match="parameters are"):
        training.whole_row("inside", small=True, rounds=1)


class Residual(nn.Layer):
    """A network's second derivatives are what is minimised."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, points: Any) -> Any:
        u = self.net(points)
        (first,) = paddle.grad(u.sum(), [points], create_graph=True)
        (second,) = paddle.grad(first[:, 0].sum(), [points], create_graph=True)
        return (first[:, 1] - second[:, 0] + u[:, 0]).square().mean(), u.mean()


def residual_steps(count: int, ours: bool) -> tuple[list[float], Any]:
    paddle.seed(2)
    layer = Residual()
    steps = adam()(layer)
    step = pirol.train_step(layer, None, steps, strict=True)
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        points = paddle.to_tensor(rng.random((40, 2)).astype("float32"))
        points.stop_gradient = False
        if ours:
            loss, mean = step(points)
            assert mean.shape == [] and loss.stop_gradient
        else:
            loss, _ = layer(points)
            loss.backward()
            steps.step()
            steps.clear_grad()
        found.append(float(loss))
    return found, step


def test_gradients_within_the_loss() -> None:
    ours, step = residual_steps(6, True)
    theirs, _ = residual_steps(6, False)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert pirol.explain(step).fallbacks == [] and ours[-1] < ours[0]


def peak() -> int:
    gc.collect()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Words(nn.Layer):
    """A small transformer that says which word comes next."""

    def __init__(self) -> None:
        super().__init__()
        one = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, activation="gelu")
        self.words = nn.Embedding(50, 32)
        self.encode = nn.TransformerEncoder(one, 2)
        self.head = nn.Linear(32, 50)

    def forward(self, words: Any) -> Any:
        return self.head(self.encode(self.words(words))).flatten(0, 1)


def words_steps(count: int, ours: bool) -> list[float]:
    paddle.seed(4)
    layer = Words()
    rate = optimizer.lr.LinearWarmup(2e-3, 10, 0.0, 2e-3)
    steps = optimizer.AdamW(
        rate, parameters=layer.parameters(), grad_clip=ClipGradByGlobalNorm(1.0)
    )
    step = pirol.train_step(layer, F.cross_entropy, steps, strict=True)
    rng, found, before = np.random.default_rng(1), [], 0
    for k in range(count):
        start = rng.integers(0, 50, (8, 1))
        words = paddle.to_tensor((start + 7 * np.arange(17)) % 50)
        batch = words[:, :-1], words[:, 1:].flatten()
        if ours:
            found.append(float(step(*batch)))
        else:
            found.append(eager(layer, steps, batch, F.cross_entropy))
        rate.step()
        before = peak() if k == count // 4 else before
    assert not ours or peak() - before < 20_000  # KiB
    return found


def test_a_loss_falls_as_eagers() -> None:
    np.testing.assert_allclose(words_steps(12, True), words_steps(12, False), 1e-3)


def means(losses: list[float]) -> Any:
    return np.array(losses).reshape(20, -1).mean(1)


@pytest.mark.slow
def test_a_thousand_steps_of_a_transformer() -> None:
    ours, theirs = means(words_steps(1000, True)), means(words_steps(1000, False))
    np.testing.assert_allclose(ours, theirs, rtol=0.1, atol=5e-3)
    assert ours[-1] < ours[0] / 50


@pytest.mark.slow
def test_a_thousand_steps_of_second_derivatives() -> None:
    (ours, _), (theirs, _) = residual_steps(1000, True), residual_steps(1000, False)
    np.testing.assert_allclose(means(ours), means(theirs), rtol=0.1)
    assert ours[-1] < ours[0] / 10
