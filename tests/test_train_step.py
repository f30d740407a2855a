"""Whole training steps against eager: losses, parameters, the optimizer's own state."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn, optimizer
from paddle.nn import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from paddle.regularizer import L1Decay, L2Decay
from paddle.static import InputSpec
from train_steps import (
    Make,
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


def slower(layer: Any) -> Any:
    """Decay at a part of the rate, which AdamW takes for other devices only."""
    found = adamw(weight_decay=0.3)(layer)
    found._lr_ratio = lambda p: 0.1 if "w_0" in p.name else 1.0
    return found


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
    "AdamW, lr_ratio": slower,
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
    step = pirol.train_step(layer, F.cross_entropy, ours, random="eager")
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


def test_learning_rates_need_no_compile(float64: None) -> None:
    def make(layer: Any) -> Any:
        rate = optimizer.lr.CosineAnnealingDecay(0.1, 5)
        return optimizer.Adam(rate, parameters=layer.parameters())

    step = compare(make, 5, between=lambda k, layer, steps: steps._learning_rate.step())
    assert pirol.explain(step).compiles == 1
    step = compare(adam(), between=lambda k, layer, steps: steps.set_lr(0.1 / (k + 1)))
    assert pirol.explain(step).compiles == 1


def scheduled(k: int, layer: Any, steps: Any) -> None:
    """Other numbers after each step, of whatever options there are."""
    for name in ("_beta1", "_beta2", "_momentum", "_weight_decay"):
        if isinstance(getattr(steps, name, None), float):
            setattr(steps, name, 0.9 / (k + 2))
    if hasattr(steps, "_epsilon"):
        steps._epsilon = 1e-3 * (k + 1)
    if steps.regularization is not None:
        steps.regularization._coeff = 0.02 * (k + 1)
    if getattr(steps, "_regularization_method", ""):
        steps._regularization_coeff = 0.02 * (k + 1)
    if steps._grad_clip is not None:
        for name in vars(steps._grad_clip).keys() & {"clip_norm", "max", "min"}:
            low = name == "min"
            setattr(steps._grad_clip, name, -0.02 if low else 0.01 * (k + 1))
    layer.first.weight.optimize_attr["learning_rate"] = 0.5 / (k + 2)


@pytest.mark.parametrize(
    "make",
    [
        adam(weight_decay=L1Decay(0.1), grad_clip=ClipGradByGlobalNorm(0.1)),
        adamw(weight_decay=0.3),
        momentum(weight_decay=0.1),
        momentum(weight_decay=L1Decay(0.1), use_nesterov=True),
        sgd(weight_decay=0.1, grad_clip=ClipGradByValue(0.02)),
    ],
    ids=["adam", "adamw", "momentum", "nesterov", "sgd"],
)
def test_numbers_of_optimizers_need_no_compile(make: Make, float64: None) -> None:
    def begun(layer: Any) -> Any:
        made = make(layer)
        layer.first.weight.optimize_attr["learning_rate"] = 0.7
        return made

    step = compare(begun, 6, between=scheduled)
    assert pirol.explain(step).compiles == 1


def test_a_groups_numbers_are_its_own(float64: None) -> None:
    """Also where two groups begin with the same ones."""

    def between(k: int, layer: Any, steps: Any) -> None:
        steps._param_groups[1]["beta1"] = 0.9 / (k + 2)

    make = grouped(optimizer.Adam, beta1=0.9)
    assert pirol.explain(compare(make, 4, between=between)).compiles == 1


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


def test_labels_are_counted() -> None:
    layer, ours, _, _ = pair(sgd())
    step = pirol.train_step(layer, F.cross_entropy, ours, labels=3)
    with pytest.raises(TypeError, match=r"got 2 tensors, expected 3 label"):
        step(*data(0))


def test_mixed_precision_and_no_grad() -> None:
    """Parameters and states stay float32, near those of the plain step."""
    layer, ours, plain, theirs = pair(adam())
    loss = nn.CrossEntropyLoss()
    step = pirol.train_step(layer, loss, ours, amp="bfloat16", strict=True)
    for k in range(4):
        with paddle.no_grad():
            found = float(step(*data(k)))
        np.testing.assert_allclose(found, eager(plain, theirs, data(k), loss), 0.03)
    assert all(v.dtype == paddle.float32 for v in states(layer, ours))
