"""Training through compiled functions, as a user's loop does it, against eager."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.static import InputSpec

import pirol
from pirol.bench import coverage
from pirol.compiler.capture import joined


def close(a: Any, b: Any, rtol: float = 2e-5) -> None:
    assert (a is None) == (b is None)
    if a is not None:
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol, 2e-6)


def leaf(*shape: int, seed: int = 0) -> Any:
    data = np.random.default_rng(seed).normal(size=shape).astype("float32")
    return paddle.to_tensor(data, stop_gradient=False)


def served(fast: Any) -> bool:
    """Whether all calls were ours."""
    report = pirol.explain(fast)
    return report.compiles > 0 and not report.fallbacks


def curve(x: Any, w: Any) -> Any:
    return paddle.tanh(paddle.matmul(x, w)) * x.sum()


def pair(x: Any, w: Any) -> Any:
    return paddle.exp(x * 0.1) + w, (x * w).sin(), (x > 0).astype("int64")


class Classifier(nn.Layer):
    """Convolution, norms, pooling, an embedding, dropout and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2D(8)
        self.pool = nn.MaxPool2D(2)
        self.words = nn.Embedding(11, 8)
        self.attend = nn.MultiHeadAttention(8, 2)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 5)
        self.ends = nn.LayerNorm(8)

    def forward(self, image: Any, words: Any) -> Any:
        seen = self.pool(F.relu(self.norm(self.conv(image)))).flatten(2)
        seen = self.ends(seen.transpose([0, 2, 1]) + self.words(words))
        return self.head(self.drop(self.attend(seen)).mean(1))


def batch(step: int, size: int = 4) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(step)
    image = rng.normal(size=(size, 3, 16, 16)).astype("float32")
    words = rng.integers(0, 11, (size, 16))
    return tuple(map(paddle.to_tensor, (image, words, rng.integers(0, 5, (size,)))))


def trained(compiled: bool, optimizer: Callable[..., Any]) -> tuple[list[float], Any]:
    """The losses of some steps, and the layer."""
    paddle.seed(7)
    layer = Classifier()
    run = pirol.to_static(layer, random="eager") if compiled else layer
    step = optimizer(parameters=layer.parameters())
    losses = []
    for k in range(6):
        image, words, labels = batch(k)
        loss = F.cross_entropy(run(image, words), labels)
        loss.backward()
        step.step()
        step.clear_grad()
        losses.append(float(loss))
    assert not compiled or not [f for f in pirol.explain(run).fallbacks if not f.line]
    return losses, layer


OPTIMIZERS = {
    "SGD": lambda **k: paddle.optimizer.SGD(0.1, **k),
    "Momentum": lambda **k: paddle.optimizer.Momentum(0.05, **k),
    "AdamW": lambda **k: paddle.optimizer.AdamW(
        1e-3, grad_clip=nn.ClipGradByGlobalNorm(1.0), **k
    ),
}


@pytest.mark.parametrize(
    "name",
    ["SGD", *(pytest.param(n, marks=pytest.mark.full) for n in [*OPTIMIZERS][1:])],
)
def test_a_loop_has_eagers_losses(name: str) -> None:
    """Dropout's masks, running statistics and updates too are eager's."""
    ours, layer = trained(True, OPTIMIZERS[name])
    theirs, plain = trained(False, OPTIMIZERS[name])
    np.testing.assert_allclose(ours, theirs, rtol=2e-4)
    close(layer.norm._variance, plain.norm._variance, 1e-3)


def test_no_gradient_kernel_of_paddle_runs() -> None:
    layer = pirol.to_static(Classifier())
    given = batch(0)[:2]

    def step() -> None:
        layer(*given).sum().backward()

    step()
    launched = [name for name in coverage.launches(step) if "grad" in name]
    # What the test itself takes the gradient of, and what joins Paddle's nodes.
    assert set(launched) <= {"sum_grad", "transpose_grad", "stack_grad"}


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("create_graph", [False, True])
def test_only_what_is_asked_for(which: tuple[int, ...], create_graph: bool) -> None:
    fast = pirol.to_static(curve)
    found = []
    for f in (fast, curve):
        given = leaf(4, 3), leaf(3, 3, seed=1)
        wanted = [given[k] for k in which]
        found.append(paddle.grad(f(*given).sum(), wanted, create_graph=create_graph))
    for a, b in zip(*found):
        close(a, b)
    assert served(fast)


def test_orders_up_to_the_third() -> None:
    fast = pirol.to_static(curve)
    found = []
    for f in (fast, curve):
        x, w = leaf(4, 3), leaf(3, 3, seed=1)
        (g,) = paddle.grad((f(x, w) * f(x, w)).mean(), [x], create_graph=True)
        (h,) = paddle.grad((g * g).sum(), [w], create_graph=True)
        (h * h).sum().backward()
        found.append((g, h, x.grad, w.grad))
    for a, b in zip(*found):
        close(a, b, 1e-3)
    assert served(fast)


def test_order_that_eager_lacks() -> None:
    """softmax has no third derivative in eager; differences tell."""

    def f(x: Any) -> Any:
        return F.softmax(x)[:, 0].sum()

    fast = pirol.to_static(f)
    x = leaf(1, 4).astype("float64").detach()
    x.stop_gradient = False
    (g,) = paddle.grad(fast(x), [x], create_graph=True)
    (h,) = paddle.grad(g[0, 0], [x], create_graph=True)
    (t,) = paddle.grad(h[0, 1], [x])
    step, seconds = 1e-5, list[Any]()
    for sign in (1, -1):
        moved = x.detach() + paddle.to_tensor([[0, 0, sign * step, 0]], "float64")
        p = F.softmax(moved).numpy()[0]
        seconds.append(-p[0] * p[1] * (1 - 2 * p[0]))
    assert abs(float(t[0, 2]) - (seconds[0] - seconds[1]) / (2 * step)) < 1e-8


def test_dropout_is_differentiated_as_it_was_drawn() -> None:
    """By eager, too, and to the second order, which eager lacks."""

    def f(x: Any) -> Any:
        return F.dropout(x * x * x, 0.5)

    fast, x = pirol.to_static(f, random="eager"), leaf(5, 6)
    paddle.seed(3)
    expected = f(x)
    paddle.seed(3)
    y = fast(x)
    close(y, expected)
    (g,) = paddle.grad(y.sum(), [x], create_graph=True)
    (h,) = paddle.grad(g.sum(), [x])
    mask = (y != 0).astype("float32")
    assert 0.2 < float(mask.mean()) < 0.8
    close(g, 6.0 * x * x * mask)
    close(h, 12.0 * x * mask)
    assert not [e for e in pirol.explain(fast).fallbacks if "dropout" not in e.op]


def test_gradients_add_up_and_are_kept_for_more() -> None:
    fast = pirol.to_static(curve)
    found = []
    for f in (fast, curve):
        x, w = leaf(4, 3), leaf(3, 3, seed=1)
        y = f(x, w)
        y.sum().backward(retain_graph=True)
        (y * y).sum().backward()
        f(x, w).mean().backward()
        found.append((x.grad, w.grad))
    for a, b in zip(*found):
        close(a, b)


def test_hooks_and_tensors_on_the_way() -> None:
    fast = pirol.to_static(curve)
    found = []
    for f in (fast, curve):
        x, w = leaf(4, 3), leaf(3, 3, seed=1)
        seen = []
        inner = x * 2.0
        inner.register_hook(lambda g, seen=seen: seen.append(g.numpy()) or g * 3.0)
        out = f(inner, w)
        out.register_hook(lambda g: g * 0.5)
        out.sum().backward()
        found.append((x.grad, w.grad, paddle.to_tensor(seen[0])))
    for a, b in zip(*found):
        close(a, b)


def test_outputs_and_inputs_without_a_gradient() -> None:
    fast = pirol.to_static(pair)
    found = []
    for f in (fast, pair):
        x, w = leaf(3, 4), leaf(3, 4, seed=1)
        w.stop_gradient = True
        a, b, c = f(x, w)
        assert [t.stop_gradient for t in (a, b, c)] == [False, False, True]
        b.sum().backward()  # a is not used
        assert w.grad is None
        found.append((x.grad, c))
    for p, q in zip(*found):
        close(p, q)
    with paddle.no_grad():
        assert all(t.stop_gradient for t in fast(leaf(3, 4), leaf(3, 4)))
    assert served(fast)


def test_an_input_that_is_passed_on() -> None:
    def f(x: Any, w: Any) -> Any:
        return x, x * w, x

    fast = pirol.to_static(f)
    found = []
    for one in (fast, f):
        x, w = leaf(3), leaf(3, seed=1)
        a, b, c = one(x, w)
        (a * 2.0 + b + c * c).sum().backward()
        found.append((x.grad, w.grad))
    for p, q in zip(*found):
        close(p, q)


def test_a_walk_that_comes_after_the_graph_was_given_back() -> None:
    fast = pirol.to_static(curve)
    x, w = leaf(4, 3), leaf(3, 3, seed=1)
    y = fast(x, w)
    y.sum().backward()
    with pytest.raises(SystemError, match="retain_graph=True"):
        y.sum().backward()


def test_gradients_asked_for_one_after_the_other() -> None:
    """Of two inputs on the way to one target, and then of the target itself."""
    fast = pirol.to_static(curve)
    found = []
    for f in (fast, curve):
        base = leaf(4, 3)
        y = f(base * 2.0, base[:3] + 1.0)
        first = paddle.grad(y.sum(), [base], retain_graph=True)
        second = paddle.grad((y * y).sum(), [base])
        found.append(first + second)
    for a, b in zip(*found):
        close(a, b)


def test_gradients_not_asked_for_are_not_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast, asked = pirol.to_static(curve), []
    run = joined.Call.gradients
    monkeypatch.setattr(
        joined.Call,
        "gradients",
        lambda call, some, cts: asked.append(some) or run(call, some, cts),
    )
    x, w = leaf(4, 3), leaf(3, 3, seed=1)
    for more in (False, True):
        y = fast(x, w)
        for wanted in ([x], [w], [w, x]):
            options = {"retain_graph": True, "create_graph": more}
            found = paddle.grad(y.sum(), wanted, **options)
            for a, b in zip(found, paddle.grad(curve(x, w).sum(), wanted)):
                close(a, b)
    y.sum().backward()
    one = [(0,), (1,), (0, 1)]
    assert asked == [*one, *one, (0, 1)]


def test_one_tensor_in_two_places() -> None:
    fast = pirol.to_static(curve)
    for f in (fast, curve):
        x = leaf(3, 3)
        f(x, x).sum().backward()
        if f is fast:
            ours = x.grad
    close(ours, x.grad)


def test_written_between_forward_and_backward() -> None:
    fast = pirol.to_static(curve)
    x, w = leaf(4, 3), leaf(3, 3, seed=1)
    y = fast(x, w)
    with paddle.no_grad():
        w.add_(paddle.ones([3, 3]))
    with pytest.raises(RuntimeError, match=r"version"):
        y.sum().backward()


def test_one_plan_serves_all_batches() -> None:
    layer = Classifier()
    layer.drop.p = 0.0
    plain = Classifier()
    plain.set_state_dict(layer.state_dict())
    plain.drop.p = 0.0
    spec = [
        InputSpec([None, 3, 16, 16], "float32"),
        InputSpec([None, 16], "int64"),
    ]
    fast = pirol.to_static(layer, input_spec=spec, strict=True)
    for size in (4, 2, 7, 3):
        image, words, labels = batch(size, size)
        for one in (fast, plain):
            F.cross_entropy(one(image, words), labels).backward()
    for p, q in zip(layer.parameters(), plain.parameters()):
        close(p.grad, q.grad, 1e-3)
    assert pirol.explain(fast).compiles == 1


def test_sizes_0_and_1_of_a_dynamic_dim() -> None:
    spec = [InputSpec([None, 3]), InputSpec([3, 3])]
    fast = pirol.to_static(curve, input_spec=spec)
    for n in (4, 0, 1):
        found = []
        for f in (fast, curve):
            x, w = leaf(n, 3), leaf(3, 3, seed=1)
            f(x, w).sum().backward()
            found.append((x.grad, w.grad))
        for a, b in zip(*found):
            close(a, b)
    assert served(fast) and pirol.explain(fast).compiles == 1


VIEWS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda y: (y.t() * paddle.arange(12.0).reshape([3, 4])).sum(),
    "every second row": lambda y: y[::2].sum(),
    "expanded": lambda y: paddle.expand(y.unsqueeze(0), [5, 4, 3]).sum(),
    "one element": lambda y: y.mean(0).max(),
}


@pytest.mark.parametrize("name", VIEWS)
def test_cotangents_and_inputs_as_they_lie(name: str) -> None:
    fast = pirol.to_static(curve)
    found = []
    for f in (fast, curve):
        x, w = leaf(3, 4), leaf(3, 3, seed=1)
        VIEWS[name](f(x.t(), w.t())).backward()
        found.append((x.grad, w.grad))
    for a, b in zip(*found):
        close(a, b)
    assert served(fast)


def test_as_sot_captures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIN_GRAPH_SIZE", "0")
    fast = pirol.to_static(curve, full_graph=False)
    found = []
    for f in (fast, curve):
        x, w = leaf(4, 3), leaf(3, 3, seed=1)
        f(x, w).sum().backward()
        found.append((x.grad, w.grad))
    for a, b in zip(*found):
        close(a, b)
    assert served(fast)


class Normed(paddle.nn.Layer):
    """With hooks that set a buffer, a function of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = paddle.nn.utils.weight_norm(paddle.nn.Linear(3, 4))
        self.second = paddle.nn.utils.spectral_norm(paddle.nn.Linear(4, 2))

    def forward(self, x: Any) -> Any:
        return self.second(paddle.tanh(self.first(x)))


def test_a_buffer_that_is_set_has_its_gradient() -> None:
    found = []
    for compiles in (True, False):
        paddle.seed(3)
        layer = Normed()
        one = pirol.to_static(layer) if compiles else layer
        x = leaf(5, 3)
        one(x).square().sum().backward()
        grads = {name: p.grad for name, p in layer.named_parameters()}
        assert all(g is not None for g in grads.values())
        found.append([x.grad, *(grads[name] for name in sorted(grads))])
    for a, b in zip(*found):
        close(a, b)


def test_what_has_no_rule_is_paddles_and_said() -> None:
    """Paddle's gradient of it would draw again."""

    def f(x: Any) -> Any:
        return F.rrelu(x, 0.1, 0.4).square()

    fast = pirol.to_static(f)
    for one in (fast, f):
        x = leaf(2, 3)
        paddle.seed(7)
        one(x).sum().backward()
        if one is fast:
            ours = x.grad
    close(ours, x.grad)
    (why,) = [e.why for e in pirol.explain(fast).fallbacks if e.op == "the program"]
    assert "pd_op.rrelu" in why and "no gradient rule" in why


def test_sizes_read_from_a_shape_are_known() -> None:
    """Of an x that has a gradient, too."""

    def f(x: Any) -> Any:
        turned = paddle.reshape(x, [paddle.shape(x)[1], -1])
        return turned.square().sum() + (x.detach() * x).sum()

    fast = pirol.to_static(f, input_spec=[InputSpec([None, 3])])
    for size in (4, 7):
        ours, theirs = leaf(size, 3), leaf(size, 3)
        fast(ours).backward()
        f(theirs).backward()
        close(ours.grad, theirs.grad)
    assert not pirol.explain(fast).fallbacks and pirol.explain(fast).compiles == 1


@pytest.mark.full
def test_memory_is_given_back() -> None:
    fast = pirol.to_static(curve)
    x, w = leaf(300, 300), leaf(300, 300, seed=1)

    def peak(steps: int) -> int:
        for _ in range(steps):
            fast(x, w).sum().backward()
            fast(x, w)  # a graph that is never walked
            x.clear_grad(), w.clear_grad()
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = peak(20)
    assert peak(200) - before < 20_000  # KiB; one step keeps 1,000


@pytest.mark.parametrize("largest", ["max", "amax", "amin", "pool"])
def test_the_largest_of_what_is_computed_again(largest: str) -> None:
    """The backward kernel's own elements may differ from them in the last bit."""

    def f(x: Any, w: Any) -> Any:
        y = F.silu(F.conv2d(x, w))
        if largest == "pool":
            return F.adaptive_max_pool2d(y, 2)
        return getattr(paddle, largest)(y, axis=[2, 3])

    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(2, 3, 8, 8)), rng.normal(size=(8, 3, 3, 3)) * 0.3
    found = []
    for run, dtype in ((pirol.to_static(f), "float32"), (f, "float64")):
        x, w = (paddle.to_tensor(a.astype(dtype), stop_gradient=False) for a in arrays)
        run(x, w).square().sum().backward()
        found.append((x.grad, w.grad))
    for a, b in zip(*found):
        np.testing.assert_allclose(a.numpy(), b.numpy(), 1e-3, 1e-4)
