"""The short way into a compiled function gives what Paddle's way gives."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.base import core, framework
from paddle.static import InputSpec

import pirol
from pirol.compiler.capture import seam

pytestmark = pytest.mark.filterwarnings("ignore::pirol.PirolWarning")


def single(x: Any, y: Any) -> Any:
    return paddle.abs(x + y)


def several(x: Any, y: Any) -> Any:
    return x + y, [x * 2, {"a": y}], x


def plain_list(x: Any, y: Any) -> Any:
    return [x - y, x]


def scalars(x: Any, y: Any) -> Any:
    return x.sum().reshape([1]), y


def with_library(x: Any, y: Any) -> Any:
    return paddle.matmul(x, y, transpose_y=True) + 1.0


def optional(x: Any, y: Any = None, twice: bool = False) -> Any:
    x = x if y is None else x + y
    return x * 2 if twice else x


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of the short way was served."""
    found: list[bool] = []
    quick = seam.CompiledLayer.quick

    def noted(self: Any, *given: Any) -> Any:
        result = quick(self, *given)
        found.append(result is not None)
        return result

    monkeypatch.setattr(seam.CompiledLayer, "quick", noted)
    return found


def flat(value: Any) -> list[Any]:
    return [t.numpy() for t in paddle.utils.flatten(value)]


def same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function", [single, several, plain_list, scalars, with_library]
)
def test_all_sizes(function: Any, taken: list[bool]) -> None:
    specs = [InputSpec([None, 4]), InputSpec([None, 4])]
    fast = pirol.to_static(function, input_spec=specs)
    for rows in (3, 3, 1, 0, 7):
        x, y = paddle.rand([rows, 4]), paddle.rand([rows, 4])
        same(fast(x, y), function(x, y))
    assert taken == [True] * 4


def test_other_dtypes_and_shapes_go_paddles_way_first(taken: list[bool]) -> None:
    fast = pirol.to_static(single)
    for kind in ("float32", "float64", "int64"):
        for shape in ([2, 3], [5]):
            x = paddle.ones(shape, kind)
            for _ in range(2):
                same(fast(x, x), single(x, x))
    assert taken.count(True) >= 4


def test_other_arguments(taken: list[bool]) -> None:
    fast = pirol.to_static(optional)
    x, y = paddle.rand([3]), paddle.rand([3])
    for _ in range(3):
        same(fast(x), optional(x))
        same(fast(x, y), optional(x, y))
        same(fast(x, twice=True), optional(x, twice=True))
        same(fast(x, None, True), optional(x, None, True))
        same(fast(x.numpy()), optional(x))
    assert sum(taken) == 4


def test_gradients_training_and_amp(taken: list[bool]) -> None:
    layer = paddle.nn.Sequential(paddle.nn.Linear(4, 4), paddle.nn.Dropout(0.5))
    fast = pirol.to_static(layer, input_spec=[InputSpec([None, 4])])
    x = paddle.rand([64, 4])
    layer.eval()
    first = fast(x)
    same(fast(x), first)
    assert taken == [True]
    layer.train()
    assert float((fast(x) == 0).astype("float32").mean()) > 0.3
    fast(x).sum().backward()
    assert layer[0].weight.grad is not None
    with paddle.no_grad():
        assert float((fast(x) == 0).astype("float32").mean()) > 0.3
    layer.eval()
    same(fast(x), first)
    count = len(taken)
    tracer = framework._dygraph_tracer()
    state = {"pirol_followed": True}
    tracer._amp_level = core.AmpLevel.O1  # auto_cast itself declines on most CPUs
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["paddle.amp.auto_cast"], "_g_amp_state_", state)
            fast(x)
    finally:
        tracer._amp_level = core.AmpLevel.O0
    assert taken[count:] == [False]
    with paddle.no_grad():
        layer[0].weight.set_value(paddle.zeros([4, 4]))
        layer[0].bias.set_value(paddle.ones([4]))
    same(fast(x), paddle.ones([64, 4]))


def test_an_input_that_needs_gradients(taken: list[bool]) -> None:
    fast = pirol.to_static(single)
    x, y = paddle.rand([3]), paddle.rand([3])
    same(fast(x, y), single(x, y))
    for stops in (False, False, True, False):  # each its own program, and way
        x.stop_gradient = stops
        out = fast(x, y)
        assert out.stop_gradient == stops
        if not stops:
            out.sum().backward()
            np.testing.assert_allclose(x.grad.numpy(), np.ones(3))
            x.clear_grad()
    assert taken == [True, True, True]


def test_which_arguments_stop_gradients_is_part_of_the_way(taken: list[bool]) -> None:
    """A program that was captured without a gradient of its input has none of it."""
    fast = pirol.to_static(paddle.nn.Sequential(paddle.nn.Linear(3, 3)))
    found = []
    for stops in (True, True, False, False, True):
        x = paddle.ones([2, 3])
        x.stop_gradient = stops
        fast(x).sum().backward()
        found.append(x.grad is None)
    assert found == [True, True, False, False, True]
    assert taken == [True, True, True]


class Plain:
    """Not a Layer: its methods have no training mode."""

    @pirol.to_static
    def scaled(self, x: Any) -> Any:
        return x * 3.0


def test_a_method_of_any_class_gets_paddles_answer() -> None:
    owner = Plain()  # Paddle holds it weakly
    with pytest.raises(TypeError, match="inherits from nn.Layer"):
        owner.scaled(paddle.rand([4]))


def test_switched_off(taken: list[bool]) -> None:
    fast = pirol.to_static(single)
    x = paddle.rand([3])
    fast(x, x)
    paddle.jit.enable_to_static(False)
    try:
        same(fast(x, x), single(x, x))
    finally:
        paddle.jit.enable_to_static(True)
    assert not taken


def lacking(x: Any) -> Any:
    """The number that to Paddle is a missing return value."""
    return x * 2.0, paddle.full([1], 1.77113e27, "float64")


def test_a_missing_return_value_is_left_out() -> None:
    x = paddle.ones([1])
    theirs = paddle.jit.to_static(lacking, full_graph=True, backend=None)
    ours = pirol.to_static(lacking)
    for _ in range(3):
        assert isinstance(ours(x), type(theirs(x)))
        np.testing.assert_array_equal(ours(x).numpy(), theirs(x).numpy())


@pytest.mark.parametrize("counts", [(1, 2), (2, 1)])
def test_other_counts_of_arguments_with_gradients(counts: tuple[int, ...]) -> None:
    fast = pirol.to_static(optional)
    for stops in (True, False):
        given = [paddle.rand([3]) for _ in range(2)]
        for tensor in given:
            tensor.stop_gradient = stops
        for count in (*counts, *counts):
            same(fast(*given[:count]), optional(*given[:count]))
            with paddle.no_grad():
                same(fast(*given[:count]), optional(*given[:count]))
            same(fast(given[0], None, True), optional(given[0], None, True))


def nested(pair: Any, more: Any) -> Any:
    x, y = pair
    return x - y * (more[0][0] if isinstance(more, (list, tuple)) else more)


def test_lists_of_tensors_go_the_short_way(taken: list[bool]) -> None:
    fast = pirol.to_static(nested)
    x, y, z = (paddle.rand([3]) for _ in range(3))
    x.stop_gradient = False
    calls: list[Any] = [([x, y], z), ((x, y), [[z]]), ([x, y], ([z],)), ([y, x], z)]
    for given in (*calls, *calls, ([x, y], 2.0), ([x, y], 3.0), ([x, y], [[2.0]])):
        found = fast(*given)
        same(found, nested(*given))
        found.sum().backward()
        with paddle.no_grad():
            same(fast(*given), nested(*given))
    assert sum(taken) >= 8 and x.grad is not None
