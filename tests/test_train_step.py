"""Whole training steps against eager: losses, parameters, the optimizer's own state."""

from __future__ import annotations

import copy
import gc
import resource
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn, optimizer
from paddle.nn import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from paddle.regularizer import L1Decay, L2Decay
from paddle.static import InputSpec

import pirol
from pirol.bench import coverage, training
from pirol.compiler import donate
from pirol.compiler.capture import train_step
from pirol.compiler.capture.options import PirolWarning
from pirol.passes import update
from pirol.passes.plan import Write

Make = Callable[[Any], Any]  # a Layer -> an optimizer


@pytest.fixture
def float64() -> Iterator[None]:
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


class Small(nn.Layer):
    """Odd sizes, a weight read transposed, one read twice, one not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7, bias_attr=False)
        self.norm = nn.BatchNorm1D(7)
        self.last = nn.Linear(7, 3)
        self.unused = nn.Linear(2, 2)
        self.scale = self.create_parameter([])

    def forward(self, x: Any) -> Any:
        inner = F.tanh(self.norm(self.first(x))) * (1.0 + self.scale)
        return self.last(
            inner + F.tanh(inner @ self.first.weight.T @ self.first.weight)
        )


def data(step: int, rows: int = 6) -> tuple[Any, Any]:
    rng = np.random.default_rng(step)
    x = paddle.to_tensor(rng.normal(size=(rows, 5)).astype(paddle.get_default_dtype()))
    return x, paddle.to_tensor(rng.integers(0, 3, rows))


def pair(make: Make, build: Callable[[], Any] = Small) -> tuple[Any, ...]:
    """A layer and its optimizer, and the same again."""
    paddle.seed(1)
    layer = build()
    plain = copy.deepcopy(layer)
    return layer, make(layer), plain, make(plain)


def eager(layer: Any, steps: Any, batch: tuple[Any, ...], loss: Any) -> float:
    *inputs, labels = batch
    found = loss(layer(*inputs), labels)
    found.backward()
    steps.step()
    steps.clear_grad()
    return float(found)


def states(layer: Any, steps: Any) -> list[Any]:
    """Parameters, buffers and accumulators, in order."""
    found = [*layer.state_dict().values()]
    return found + [v for v in steps.state_dict().values() if hasattr(v, "numpy")]


def same(ours: list[Any], theirs: list[Any], rtol: float) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        scale = float(abs(b).max()) if b.size else 0.0
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol, rtol * scale)


def compare(
    make: Make, count: int = 4, rtol: float = 1e-12, between: Any = None
) -> Any:
    """Some steps of ours and of eager; what compiles ours."""
    layer, ours, plain, theirs = pair(make)
    loss = nn.CrossEntropyLoss()
    step = pirol.train_step(layer, loss, ours, strict=True)
    for k in range(count):
        batch = data(k)
        found, expected = float(step(*batch)), eager(plain, theirs, batch, loss)
        np.testing.assert_allclose(found, expected, rtol)
        if between is not None:
            between(k, layer, ours), between(k, plain, theirs)
    same(states(layer, ours), states(plain, theirs), rtol)
    assert all(p.grad is None for p in layer.parameters())
    return step


def adam(**options: Any) -> Make:
    return lambda layer: optimizer.Adam(0.01, parameters=layer.parameters(), **options)


def adamw(**options: Any) -> Make:
    return lambda layer: optimizer.AdamW(0.01, parameters=layer.parameters(), **options)


def sgd(**options: Any) -> Make:
    return lambda layer: optimizer.SGD(0.1, parameters=layer.parameters(), **options)


def momentum(**options: Any) -> Make:
    return lambda layer: optimizer.Momentum(
        0.1, parameters=layer.parameters(), **options
    )


def grouped(kind: Any, **options: Any) -> Make:
    """Two groups, the second with options of its own."""

    def make(layer: Any) -> Any:
        first = {"params": layer.first.parameters() + layer.norm.parameters()}
        second = {"params": [*layer.last.parameters(), layer.scale], **options}
        return kind(0.05, parameters=[first, second], weight_decay=0.02)

    return make


def particular(kind: Any) -> Make:
    """What a parameter says for itself."""

    def make(layer: Any) -> Any:
        layer.first.weight.optimize_attr["learning_rate"] = 0.3
        layer.first.weight.regularizer = L1Decay(0.05)
        layer.last.weight.regularizer = L2Decay(0.2)
        layer.last.bias.need_clip = False
        layer.scale.stop_gradient = True
        clip = ClipGradByGlobalNorm(0.2)
        return kind(
            0.05, parameters=layer.parameters(), weight_decay=0.01, grad_clip=clip
        )

    return make


MADE: dict[str, Make] = {
    "SGD": sgd(),
    "SGD, L2": sgd(weight_decay=0.1),
    "SGD, L1, by value": sgd(
        weight_decay=L1Decay(0.03), grad_clip=ClipGradByValue(0.02)
    ),
    "Momentum": momentum(weight_decay=0.1),
    "Momentum, Nesterov": momentum(use_nesterov=True, weight_decay=L1Decay(0.03)),
    "Adam": adam(beta1=0.8, epsilon=1e-3, name="own"),
    "Adam, L2, global norm": adam(
        weight_decay=0.1, grad_clip=ClipGradByGlobalNorm(0.1)
    ),
    "Adam, norm not reached": adam(grad_clip=ClipGradByGlobalNorm(99.0)),
    "Adam, norm looked at": adam(
        grad_clip=ClipGradByGlobalNorm(0.1, auto_skip_clip=True)
    ),
    "Adam, amsgrad": adam(amsgrad=True),
    "AdamW": adamw(weight_decay=0.3),
    "AdamW, some": adamw(
        weight_decay=0.3, amsgrad=True, apply_decay_param_fun=lambda n: "w_0" in n
    ),
    "groups, SGD": grouped(optimizer.SGD, learning_rate=0.5, weight_decay=0.1),
    "groups, Momentum": grouped(optimizer.Momentum, momentum=0.5, use_nesterov=True),
    "groups, Adam": grouped(
        optimizer.Adam, beta1=0.5, grad_clip=ClipGradByGlobalNorm(0.01)
    ),
    "groups, AdamW": grouped(optimizer.AdamW, beta2=0.9, weight_decay=0.2),
    **{
        f"particular, {k.__name__}": particular(k)
        for k in (optimizer.SGD, optimizer.Momentum, optimizer.Adam, optimizer.AdamW)
    },
}


@pytest.mark.parametrize("name", MADE)
def test_equals_eager(name: str, float64: None) -> None:
    step = compare(MADE[name])
    assert pirol.explain(step).compiles == 1


class Rich(nn.Layer):
    """Convolution, norms, an embedding that is also the head, dropout, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2D(8)
        self.words = nn.Embedding(11, 8)
        self.attend = nn.MultiHeadAttention(8, 2)
        self.drop = nn.Dropout(0.3)
        self.ends = nn.LayerNorm(8)

    def forward(self, image: Any, words: Any) -> Any:
        seen = F.relu(self.norm(self.conv(image))).flatten(2)
        seen = self.ends(seen.transpose([0, 2, 1]) + self.words(words))
        return self.drop(self.attend(seen)).mean(1) @ self.words.weight.T


def rich_data(step: int, rows: int = 4) -> tuple[Any, ...]:
    rng = np.random.default_rng(step)
    image = rng.normal(size=(rows, 3, 8, 8)).astype("float32")
    words = rng.integers(0, 11, (rows, 16))
    return tuple(map(paddle.to_tensor, (image, words, rng.integers(0, 11, (rows,)))))


@pytest.mark.filterwarnings("ignore:Paddle runs pd_op.dropout")
def test_a_rich_layer_in_float32() -> None:
    """Dropout's masks are eager's, running statistics are updated once."""
    layer, ours, plain, theirs = pair(adamw(grad_clip=ClipGradByGlobalNorm(0.5)), Rich)
    step = pirol.train_step(layer, F.cross_entropy, ours)
    losses: list[list[float]] = []
    for run in (
        lambda batch: float(step(*batch)),
        lambda batch: eager(plain, theirs, batch, F.cross_entropy),
    ):
        paddle.seed(3)
        losses.append([run(rich_data(k)) for k in range(5)])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    same([layer.norm._variance], [plain.norm._variance], 1e-4)
    same([layer.words.weight], [plain.words.weight], 2e-3)
    report = pirol.explain(step)
    assert report.compiles == 1 and {f.op for f in report.fallbacks} == {
        "pd_op.dropout"
    }


def test_by_norm() -> None:
    """Which eager has in float32 alone."""
    compare(sgd(grad_clip=ClipGradByNorm(0.1)), rtol=2e-5)


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
            monkeypatch.setattr(train_step, "donate", lambda plan: plan)
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


def test_learning_rates_need_no_compile(float64: None) -> None:
    def make(layer: Any) -> Any:
        rate = optimizer.lr.CosineAnnealingDecay(0.1, 5)
        return optimizer.Adam(rate, parameters=layer.parameters())

    step = compare(make, 5, between=lambda k, layer, steps: steps._learning_rate.step())
    assert pirol.explain(step).compiles == 1
    step = compare(adam(), between=lambda k, layer, steps: steps.set_lr(0.1 / (k + 1)))
    assert pirol.explain(step).compiles == 1


def test_what_is_trained_may_change(float64: None) -> None:
    def between(k: int, layer: Any, steps: Any) -> None:
        layer.first.weight.stop_gradient = k % 2 == 0
        layer.last.weight.optimize_attr["learning_rate"] = 1.0 + k

    compare(momentum(weight_decay=0.1), 5, between=between)


def test_modes_of_layers(float64: None) -> None:
    def between(k: int, layer: Any, steps: Any) -> None:
        layer.train() if k % 2 else layer.norm.eval()

    compare(sgd(), 6, between=between)


def test_by_hand_in_between(float64: None) -> None:
    def by_hand(k: int, layer: Any, steps: Any) -> None:
        x, y = data(50 + k)
        F.cross_entropy(layer(x), y).backward()
        steps.step()
        steps.clear_grad(set_to_zero=False)

    for make in (adam(amsgrad=True), momentum()):
        compare(make, between=by_hand)


@pytest.mark.parametrize("late", [False, True])
def test_checkpoints(late: bool, float64: None) -> None:
    """State that is loaded before the first step, or between two, goes on."""
    layer, ours, plain, theirs = pair(adamw())
    loss = nn.CrossEntropyLoss()
    step = pirol.train_step(layer, loss, ours)
    for k in range(3):
        step(*data(k)), eager(plain, theirs, data(k), loss)
    kept = copy.deepcopy((layer.state_dict(), ours.state_dict()))
    again = adamw()(layer) if not late else ours
    if not late:
        names = (k.rsplit("_", 1)[0] for k in kept[1])
        kept = kept[0], dict(zip((f"{n}_1" for n in names), kept[1].values()))
        step = pirol.train_step(layer, loss, again)
    else:
        step(*data(9))
    layer.set_state_dict(kept[0])
    again.set_state_dict(kept[1])
    for k in range(3, 6):
        step(*data(k)), eager(plain, theirs, data(k), loss)
    same(states(layer, again), states(plain, theirs), 1e-12)


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


def test_one_plan_serves_all_batches(float64: None) -> None:
    layer, ours, plain, theirs = pair(adam())
    loss = nn.CrossEntropyLoss()
    spec = [InputSpec([None, 5]), InputSpec([None], "int64")]
    step = pirol.train_step(layer, loss, ours, input_spec=spec, strict=True)
    for k, rows in enumerate((6, 2, 9, 4)):
        batch = data(k, rows)
        np.testing.assert_allclose(
            float(step(*batch)), eager(plain, theirs, batch, loss), 1e-12
        )
    assert pirol.explain(step).compiles == 1


def test_a_compiled_layer_and_a_plain_function() -> None:
    layer, ours, plain, theirs = pair(sgd())
    fast = pirol.to_static(layer)

    def loss(out: Any, y: Any) -> Any:
        return F.cross_entropy(out, y)

    step = pirol.train_step(fast, loss, ours, strict=True)
    for k in range(3):
        found = float(step(*data(k)))
        np.testing.assert_allclose(found, eager(plain, theirs, data(k), loss), 1e-5)


def test_other_sizes_and_arrays() -> None:
    layer, ours, plain, theirs = pair(sgd())
    loss = nn.CrossEntropyLoss()
    step = pirol.train_step(layer, loss, ours, strict=True)
    for k, rows in enumerate((6, 3, 6)):
        batch = data(k, rows)
        found = float(step(*(t.numpy() for t in batch)))
        np.testing.assert_allclose(found, eager(plain, theirs, batch, loss), 1e-5)


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


def test_labels_are_counted() -> None:
    layer, ours, _, _ = pair(sgd())
    step = pirol.train_step(layer, F.cross_entropy, ours, labels=3)
    with pytest.raises(TypeError, match=r"got 2 tensors, expected 3 label"):
        step(*data(0))


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
    "1 - beta is rounded otherwise": (
        update,
        "_rest",
        lambda beta, like: float(np.float32(1) - np.float32(beta)),
    ),
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
