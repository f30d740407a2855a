"""What a program has of Layers in Python, changed after the first call."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.compiler.capture import quick, state

X = paddle.to_tensor(np.linspace(-1.0, 1.0, 12).reshape(3, 4).astype("float32"))


class Inner(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.table = [1, 2], {"shift": 0.5}
        self.norm = paddle.nn.BatchNorm1D(4)

    def forward(self, x: Any) -> Any:
        x = self.norm(x) + self.table["shift"]
        return x * 2.0 if self.training else x * float(self.sizes[0])


class Net(paddle.nn.Layer):
    """`me` is no usual name for it."""

    def __init__(me) -> None:
        super().__init__()
        me.scale, me.mode, me.extra = 2.0, "plain", None
        me.inner = Inner()
        me.list = paddle.nn.LayerList([paddle.nn.Linear(4, 4) for _ in range(2)])
        me.named = paddle.nn.LayerDict({"a": paddle.nn.ReLU()})
        me.steps = paddle.nn.Sequential(paddle.nn.Linear(4, 4), paddle.nn.Tanh())

    def forward(me, x: Any) -> Any:
        x = me.inner(x) * me.scale
        for layer in me.list:
            x = layer(x)
        for layer in me.named.values():
            x = layer(x)
        x = me.steps(x)
        return -x if me.mode == "turned" else x


def constant(layer: Any, value: float) -> None:
    with paddle.no_grad():
        for p in layer.parameters():
            p.set_value(paddle.full(p.shape, value))


def new(value: float, *sizes: int) -> Any:
    layer = paddle.nn.Linear(*sizes)
    constant(layer, value)
    return layer


def doubled(layer: Any, inputs: Any, output: Any) -> Any:
    return output * 2.0


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a number": lambda m: setattr(m, "scale", 3.0),
    "a string": lambda m: setattr(m, "mode", "turned"),
    "the mode of a part": lambda m: m.inner.norm.eval(),
    "the mode of another part": lambda m: m.inner.eval(),
    "a list's element": lambda m: (m.inner.eval(), m.inner.sizes.__setitem__(0, 5)),
    "a dict's entry": lambda m: setattr(m.inner, "table", {"shift": 4.0}),
    "a layer": lambda m: setattr(m.steps, "1", paddle.nn.Sigmoid()),
    "a layer of a sequence": lambda m: m.steps.__setitem__(0, new(0.25, 4, 4)),
    "a layer of a list": lambda m: m.list.__setitem__(1, new(0.5, 4, 4)),
    "a longer list": lambda m: m.list.append(new(0.5, 4, 4)),
    "a shorter list": lambda m: m.list.__delitem__(1),
    "a layer of a dict": lambda m: m.named.update({"a": paddle.nn.Sigmoid()}),
    "a parameter": lambda m: setattr(
        m.steps[0], "weight", paddle.create_parameter([4, 4], "float32")
    ),
    "a hook": lambda m: m.list[0].register_forward_post_hook(doubled),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_after_the_first_call(name: str) -> None:
    paddle.seed(0)
    eager, fast = Net(), Net()
    fast.set_state_dict(eager.state_dict())
    fast = pirol.to_static(fast, strict=True)
    both = (eager, fast)

    def same() -> Any:
        found, expected = fast(X), eager(X)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), 1e-5, 1e-6)
        for y in (found, expected):
            y.sum().backward()
        for got, want in zip(fast.parameters(), eager.parameters()):
            assert (got.grad is None) == (want.grad is None)
            if want.grad is not None:
                np.testing.assert_allclose(got.grad, want.grad, 1e-4, 1e-5)
        for m in both:
            m.clear_gradients()
        return expected

    before = same()
    for m in both:
        paddle.seed(1)
        CHANGES[name](m)
    assert not np.allclose(before.numpy(), same().numpy())
    same()


def test_a_hook_taken_away() -> None:
    net = pirol.to_static(paddle.nn.Sequential(paddle.nn.ReLU(), paddle.nn.ReLU()))
    hook = net[0].register_forward_post_hook(doubled)
    first = net(X)
    hook.remove()
    np.testing.assert_array_equal(net(X) * 2.0, first)


def test_back_to_what_was() -> None:
    """Two states, two captures, however often they take turns; and a write to what no
    program reads is none."""
    net = pirol.to_static(Net(), strict=True)
    for k in range(6):
        net.inner.train(k % 2 == 0)
        net(X)
    report = pirol.explain(net)
    assert report.compiles == 2
    before = state.Changes.count
    net.inner.train(net.inner.training)
    assert state.Changes.count == before
    for k in range(5):
        net.extra = k
        net(X)
    assert pirol.explain(net).compiles == 2


def test_another_number_in_each_call() -> None:
    net = pirol.to_static(Net())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", pirol.PirolWarning)
        for k in range(quick.MOST_STATES + 3):
            net.scale = float(k)
            found = net(X)
            np.testing.assert_allclose(found.numpy(), Net.forward(net, X).numpy(), 1e-5)
    assert any("scale is another number" in str(w.message) for w in told)


class Counting(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last = 0, None

    def forward(self, x: Any) -> Any:
        self.calls += 1
        self.last = x
        return x * self.calls


def test_a_whole_training_step() -> None:
    weights = []
    for compiled in (True, False):
        paddle.seed(0)
        net = Net()
        optimizer = paddle.optimizer.SGD(0.1, parameters=net.parameters())
        step = pirol.train_step(net, paddle.nn.functional.mse_loss, optimizer)
        for scale in (2.0, 3.0, 2.0, 5.0):
            net.scale = scale
            if compiled:
                step(X, X)
                continue
            paddle.nn.functional.mse_loss(net(X), X).backward()
            optimizer.step()
            optimizer.clear_grad()
        weights.append([p.numpy() for p in net.parameters()])
    for got, want in zip(*weights):
        np.testing.assert_allclose(got, want, 1e-4, 1e-6)


def test_a_number_that_the_function_counts_is_told() -> None:
    net = pirol.to_static(Counting())
    with pytest.warns(pirol.PirolWarning, match="Counting.calls is set"):
        net(X)


class Carrying(paddle.nn.Layer):
    """What one call leaves in an attribute, the next one reads."""

    def __init__(self) -> None:
        super().__init__()
        self.last = None

    def forward(self, x: Any) -> Any:
        y = x * 2.0 if self.last is None else x * 2.0 + self.last
        self.last = y.detach()
        return y


class Watched(paddle.nn.Layer):
    """An attribute that is there to be looked at, and one that is used in the call."""

    def forward(self, x: Any) -> Any:
        self.seen = paddle.tanh(x)
        self.used = x * 2.0
        return self.seen.detach() * 0.0 + self.used if x.ndim > 9 else self.used


def test_a_tensor_for_the_next_call_is_as_eager() -> None:
    eager, net = Carrying(), pirol.to_static(Carrying())
    with pytest.warns(pirol.PirolWarning, match="Carrying.last is read, and then set"):
        for _ in range(3):
            assert (net(X) == eager(X)).all() and (net.last == eager.last).all()
    with pytest.raises(pirol.PirolError, match="Carrying.last"):
        pirol.to_static(Carrying(), strict=True)(X)


def test_no_attribute_holds_a_value_of_a_program() -> None:
    net = pirol.to_static(Watched(), strict=True)
    with pytest.warns(pirol.PirolWarning, match="Watched.seen is set") as told:
        assert (net(X) == X * 2.0).all()
    assert not any("Watched.used" in str(w.message) for w in told)
    assert not hasattr(net, "seen") and not hasattr(net, "used")


def test_eager_layers_read_as_before() -> None:
    """Beside a capture in another thread."""
    net, plain = pirol.to_static(Net()), Net()
    worker = threading.Thread(target=lambda: [plain(X) for _ in range(20)])
    worker.start()
    net(X)
    worker.join()
    assert "__getattribute__" not in vars(paddle.nn.Layer)


def test_high_level_api() -> None:
    model = paddle.Model(pirol.to_static(paddle.nn.Linear(4, 2)))
    optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
    model.prepare(optimizer, paddle.nn.MSELoss())
    data = paddle.io.TensorDataset([paddle.rand([8, 4]), paddle.rand([8, 2])])
    model.fit(data, epochs=1, batch_size=4, verbose=0)
    assert model.evaluate(data, batch_size=4, verbose=0)["loss"]
    assert inspect.getfullargspec(model.network.forward).args == ["self", "input"]


def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state.State, "note", lambda *a: None)
    with pytest.raises(AssertionError):
        test_changes_after_the_first_call("a number")
