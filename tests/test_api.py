"""The public functions as users call them: arguments, Layers, saving, CINN's place."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.base import core, framework
from paddle.static import InputSpec

import pirol
from pirol.compiler.capture.seam import CompiledLayer
from pirol.compiler.errors import PirolWarning

warnings.simplefilter("ignore", PirolWarning)


def close(ours: Any, theirs: Any) -> None:
    assert ours.dtype == theirs.dtype and list(ours.shape) == list(theirs.shape)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


def whys(compiled: Any) -> list[str]:
    return [f.why for f in pirol.explain(compiled).fallbacks]


class Block(paddle.nn.Layer):
    """A Layer with a sublayer, dropout and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.up = paddle.nn.Linear(4, 4)
        self.drop = paddle.nn.Dropout(0.5)
        self.register_buffer("shift", paddle.ones([4]))

    def forward(self, x: Any) -> Any:
        return self.drop(paddle.nn.functional.gelu(self.up(x)) + self.shift)


def twins() -> tuple[Any, Any]:
    """A compiled Layer and an eager one with the same parameters, for inference."""
    eager = Block()
    eager.eval()
    return pirol.to_static(copy.deepcopy(eager)), eager


def mixed(x: Any, y: Any = None, *, scale: float = 2.0, mode: str = "add") -> Any:
    y = x if y is None else y
    return (x + y if mode == "add" else x - y) * scale


def test_arguments_by_name_and_of_other_kinds() -> None:
    fast = pirol.to_static(mixed, strict=True)
    x, y = paddle.randn([3, 4]), paddle.randn([3, 4])
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((x,), {}),
        ((x, y), {}),
        ((x,), {"y": y, "mode": "sub"}),
        ((), {"y": y, "x": x, "scale": 7.5}),
        ((x,), {"scale": 3}),
    ]
    for args, named in calls * 2:
        close(fast(*args, **named), mixed(*args, **named))
    assert pirol.explain(fast).compiles == len(calls)


@pirol.to_static
def halved(x: Any) -> Any:
    return x * 0.5


@pirol.to_static(input_spec=[InputSpec([None])], strict=True)
def tripled(x: Any) -> Any:
    return x * 3.0


def test_functions_decorated_with_and_without_arguments() -> None:
    for n in (4, 0, 9):
        x = paddle.randn([n])
        close(halved(x), x * 0.5)
        close(tripled(x), x * 3.0)
    assert pirol.explain(tripled).compiles == 1
    assert tripled.__name__ == "tripled"


def flagged(x: Any, flag: bool, n: int) -> Any:
    return x * n if flag else x - n


def test_ints_and_bools_are_part_of_the_program() -> None:
    fast = pirol.to_static(flagged, strict=True)
    x = paddle.randn([3])
    for flag, n in ((True, 2), (False, 2), (True, 1), (True, 0)):
        close(fast(x, flag, n), flagged(x, flag, n))


def nested(given: Any, pair: Any) -> Any:
    first, (second, third) = pair
    inner = {"sum": given["x"] + first, "list": [second * 2.0, {"k": (third, 5)}]}
    return inner | {"none": None, "n": given["n"]}, None, "text"


def test_nested_inputs_and_outputs() -> None:
    x = paddle.randn([3, 4])
    given = {"x": x, "n": 2}, [x, (x + 1.0, x - 1.0)]
    ours, theirs = pirol.to_static(nested, strict=True)(*given), nested(*given)
    assert ours[1:] == theirs[1:] == (None, "text")
    assert list(ours[0]) == list(theirs[0])
    assert ours[0]["none"] is None and ours[0]["n"] == 2
    close(ours[0]["sum"], theirs[0]["sum"])
    close(ours[0]["list"][0], theirs[0]["list"][0])
    k = ours[0]["list"][1]["k"]
    assert isinstance(k, tuple) and k[1] == 5
    close(k[0], theirs[0]["list"][1]["k"][0])


def test_hooks_of_layer_and_sublayer() -> None:
    layer, calls = Block(), []
    layer.eval()
    layer.register_forward_pre_hook(
        lambda _, i: (calls.append("pre"), (i[0] * 2.0,))[1]
    )
    layer.register_forward_post_hook(lambda _, i, o: (calls.append("post"), o + 1.0)[1])
    layer.up.register_forward_post_hook(lambda _, i, o: o * 3.0)
    x = paddle.randn([3, 4])
    expected = layer(x)
    fast = pirol.to_static(layer, strict=True)
    calls.clear()
    close(fast(x), expected)
    close(fast(x), expected)
    assert calls == ["pre", "post"] * 2


def test_train_and_eval() -> None:
    fast, eager = twins()
    x = paddle.ones([64, 4])
    close(fast(x), eager(x))
    fast.train()
    with paddle.no_grad():
        zeros = float((fast(x) == 0).astype("float32").mean())
    assert 0.3 < zeros < 0.7
    fast.eval()
    close(fast(x), eager(x))


def test_deepcopy_is_compiled_and_independent() -> None:
    fast, eager = twins()
    x = paddle.randn([3, 4])
    close(fast(x), eager(x))
    other = copy.deepcopy(fast)
    other.up.bias.set_value(other.up.bias + 1.0)
    close(fast(x), eager(x))
    eager.set_state_dict(other.state_dict())
    close(other(x), eager(x))
    assert pirol.explain(other).compiles >= 1 and not whys(other)


def test_parameters_changed_between_calls() -> None:
    fast, eager = twins()
    x = paddle.randn([3, 4])

    def check() -> None:
        eager.set_state_dict(fast.state_dict())
        with paddle.no_grad():
            close(fast(x), eager(x))

    check()
    fast.set_state_dict(Block().state_dict())
    check()
    step = paddle.optimizer.SGD(0.1, parameters=fast.parameters())
    fast.train()
    before = fast.up.weight.numpy()
    fast(x).sum().backward()
    step.step()
    fast.eval()
    assert not np.array_equal(before, fast.up.weight.numpy())
    check()
    with paddle.no_grad():
        fast.up.weight[0] = 1.0
        fast.up.bias.add_(paddle.ones([4]))
        fast.shift.scale_(2.0)
    check()
    for part in (fast, eager):
        part.to(dtype="float64")
    x = x.astype("float64")
    check()


class Methods(paddle.nn.Layer):
    """Methods decorated with and without arguments; one calls the other."""

    def __init__(self) -> None:
        super().__init__()
        self.w = self.create_parameter([4])

    @pirol.to_static
    def forward(self, x: Any) -> Any:
        return self.other(x) * self.w

    @pirol.to_static(input_spec=[InputSpec([None, 4])], strict=True)
    def other(self, x: Any) -> Any:
        return x + 1.0


def test_decorated_methods() -> None:
    first, second, x = Methods(), Methods(), paddle.randn([3, 4])
    with paddle.no_grad():
        for layer in (first, second):
            layer.w.set_value(paddle.randn([4]))
            close(layer(x), (x + 1.0) * layer.w)
            close(layer.other(x), x + 1.0)
    # A method decorated in its class has one report for all instances.
    assert pirol.explain(first.other).compiles == 2
    assert not whys(first)


def test_sot_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIN_GRAPH_SIZE", "0")  # else SOT runs small graphs eagerly
    eager = Block()
    eager.eval()
    fast = pirol.to_static(copy.deepcopy(eager), full_graph=False)
    for n in (3, 3, 5):
        x = paddle.randn([n, 4])
        close(fast(x), eager(x))
    paddle.jit.save(fast, str(tmp_path / "m"), input_spec=[InputSpec([None, 4])])
    close(paddle.jit.load(str(tmp_path / "m"))(x), eager(x))
    fast.up.bias.set_value(fast.up.bias + 1.0)
    eager.set_state_dict(fast.state_dict())
    close(fast(x), eager(x))
    assert pirol.explain(fast).compiles >= 1 and not whys(fast)


def test_sot_knows_ours_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache has one entry for each code object, whoever compiled it."""
    monkeypatch.setenv("MIN_GRAPH_SIZE", "0")
    x = paddle.randn([3])
    close(paddle.jit.to_static(doubled, backend=None, full_graph=False)(x), doubled(x))
    for _ in range(2):
        fast = pirol.to_static(doubled, full_graph=False)
        close(fast(x), doubled(x))
        assert pirol.explain(fast).compiles == 1
    for layer in (Block(), Block()):
        layer.eval()
        expected = layer(paddle.ones([2, 4]))
        fast = pirol.to_static(layer, full_graph=False)
        close(fast(paddle.ones([2, 4])), expected)
        assert pirol.explain(fast).compiles == 1
    saved = pirol.to_static(keyed, full_graph=False)
    close(saved(x, scale=3.0), x * 3.0 + 1.0)
    close(saved(x), x * 2.0 + 1.0)


def keyed(x: Any, *, scale: float = 2.0, shift: float = 1.0) -> Any:
    return x * scale + shift


def test_a_call_under_an_auto_cast_not_known_is_paddles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast, eager = twins()
    x = paddle.randn([3, 4])
    expected = eager(x)
    close(fast(x), expected)
    tracer = framework._dygraph_tracer()
    before = tracer._amp_level  # auto_cast itself declines on most CPUs
    state = {"pirol_followed": True}
    try:
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["paddle.amp.auto_cast"], "_g_amp_state_", state)
            tracer._amp_level = core.AmpLevel.O1
            close(fast(x), expected)
    finally:
        tracer._amp_level = before
    assert whys(fast) == ["auto_cast is on at level O1"]
    close(fast(x), expected)
    with paddle.no_grad(), paddle.amp.auto_cast(dtype="bfloat16"):
        assert fast(x).shape == [3, 4]


# Saved models


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A compiled Layer saved by jit.save: its path, and the eager Layer."""
    fast, eager = twins()
    fast(paddle.ones([2, 4]))
    path = str(tmp_path_factory.mktemp("saved") / "block")
    spec = [InputSpec([None, 4], "float32", "image")]
    paddle.jit.save(fast, path, input_spec=spec)
    return path, eager


def test_a_saved_layer_is_loaded_and_compiled(saved: tuple[str, Any]) -> None:
    path, eager = saved
    fast = pirol.load_inference_model(path, strict=True)
    assert isinstance(fast, paddle.nn.Layer) and len(fast.parameters()) == 3
    for n in (3, 1, 0):
        x = paddle.randn([n, 4])
        close(fast(x), eager(x))
        close(fast(image=x), eager(x))
        close(fast(x.numpy()), eager(x))
    report = pirol.explain(fast)
    assert report.compiles == 1 and report.coverage[0] == report.coverage[1] > 0


def test_what_jit_load_gives_is_compiled(saved: tuple[str, Any]) -> None:
    path, eager = saved
    loaded = paddle.jit.load(path)
    fast = pirol.to_static(loaded)
    x = paddle.randn([3, 4])
    assert fast is loaded
    close(fast(x), eager(x))
    assert pirol.explain(fast).compiles == 1
    for p in fast.parameters():
        p.set_value(p * 2.0)
    theirs = paddle.jit.load(path)
    for p in theirs.parameters():
        p.set_value(p * 2.0)
    close(fast(x), theirs(x))
    fast.train()
    theirs.train()
    for one in (fast, theirs):
        x.stop_gradient = False
        one(x).sum().backward()
    assert whys(fast) == [] and pirol.explain(fast).compiles == 2
    pairs = [(p.grad, q.grad) for p, q in zip(fast.parameters(), theirs.parameters())]
    assert [p is None for p, _ in pairs] == [q is None for _, q in pairs]
    for p, q in pairs:
        if p is not None:
            close(p, q)


def test_each_saved_method_is_compiled(tmp_path: Path) -> None:
    layer, x, path = Methods(), paddle.randn([3, 4]), str(tmp_path / "m")
    layer.eval()
    layer(x)
    paddle.jit.save(layer, path)
    fast = pirol.load_inference_model(path, strict=True)
    with paddle.no_grad():
        close(fast(x=x), layer(x))
        close(fast.other(x), paddle.jit.load(path).other(x))
    assert pirol.explain(fast).compiles == 2


def test_wrong_inputs_of_a_loaded_model(saved: tuple[str, Any]) -> None:
    fast, x = pirol.load_inference_model(saved[0]), paddle.ones([2, 4])
    for args, named in (((), {}), ((x, x), {}), ((), {"picture": x})):
        with pytest.raises(pirol.PirolError, match="a loaded model: .* image"):
            fast(*args, **named)
    with pytest.raises(pirol.PirolError, match="image"):
        fast(x, image=x)
    with pytest.raises(ValueError, match="no directory|not exist"):
        pirol.load_inference_model(f"{saved[0]}-not-there/x")


def test_a_static_program_with_two_outputs(tmp_path: Path) -> None:
    path = str(tmp_path / "model")
    a, b = np.ones([2, 4], "float32"), np.arange(8, dtype="float32").reshape([2, 4])
    paddle.enable_static()
    try:
        program, start = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(program, start):
            x = paddle.static.data("x", [None, 4])
            y = paddle.static.data("y", [None, 4])
            hidden = paddle.static.nn.fc(x, 3, activation="relu")
            outputs = [paddle.exp(hidden) * y.sum(), hidden]
            run = paddle.static.Executor()
            run.run(start)
            paddle.static.save_inference_model(
                path, [x, y], outputs, run, program=program
            )
            expected = run.run(program, feed={"x": a, "y": b}, fetch_list=outputs)
    finally:
        paddle.disable_static()
    fast = pirol.load_inference_model(path, strict=True)
    found = fast(a, y=b)
    assert len(found) == 2
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)


# CINN's place


@pytest.fixture
def installed() -> Iterator[None]:
    pirol.install()
    yield
    pirol.uninstall()


def doubled(x: Any) -> Any:
    return paddle.exp(x) * 2.0


def is_ours(static: Any) -> bool:
    x = paddle.randn([3])
    close(static(x), doubled(x))
    _, layer = static.program_cache.last()[-1]
    return isinstance(layer, CompiledLayer)


def cinn_strategy() -> Any:
    strategy = paddle.static.BuildStrategy()
    strategy.build_cinn_pass = True
    return strategy


@pytest.mark.usefixtures("installed")
def test_cinn_means_pirol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIN_GRAPH_SIZE", "0")
    pirol.install()  # once more changes nothing
    strategy = cinn_strategy()
    for options in (
        {"backend": "CINN"},
        {},  # CINN is the default
        {"backend": None, "build_strategy": strategy},
    ):
        static = paddle.jit.to_static(doubled, full_graph=True, **options)
        assert is_ours(static) and pirol.explain(static).compiles == 1
    assert type(strategy) is paddle.static.BuildStrategy
    assert not is_ours(paddle.jit.to_static(doubled, backend=None, full_graph=True))
    for whole in (True, False):
        static = paddle.jit.to_static(doubled, full_graph=whole)
        close(static(paddle.ones([3])), doubled(paddle.ones([3])))
        assert pirol.explain(static).compiles == 1
    layer = paddle.jit.to_static(Block(), backend="CINN", full_graph=True)
    layer.eval()
    layer(paddle.ones([2, 4]))
    assert pirol.explain(layer).compiles == 1


def test_uninstall_puts_everything_back() -> None:
    api, made = paddle.jit.api, paddle.jit.dy2static.program_translator
    before = api.infer_use_cinn_backend, made.StaticFunction.__init__
    pirol.install()
    kept = paddle.jit.to_static(doubled, full_graph=True)
    assert (api.infer_use_cinn_backend, made.StaticFunction.__init__) != before
    for _ in range(2):
        pirol.uninstall()
        assert (api.infer_use_cinn_backend, made.StaticFunction.__init__) == before
    assert not is_ours(paddle.jit.to_static(doubled, full_graph=True))
    assert is_ours(kept)
