"""Sizes and places that only data tell: contents of integer tensors, found sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.static import InputSpec

import pirol
from pirol.compiler import dims
from pirol.compiler.capture import plans
from pirol.compiler.errors import PirolError
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.compiler.text import parse_graph
from pirol.compiler.verify import verify
from pirol.prim import Builder

pytestmark = pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
RNG = np.random.default_rng(3)
X = RNG.random((4, 6), dtype=np.float32)


def shaped(x: Any, n: Any) -> Any:
    return paddle.reshape(x, n) * 2.0


def widened(x: Any, n: Any) -> Any:
    return paddle.expand(x, [n[0], 4, 6]) + 1.0, paddle.tile(x, [n[1], 2])


def counted(x: Any, n: Any) -> Any:
    steps = paddle.arange(n[0], n[1] * 3, 2)
    return steps * 2, paddle.full([n[0], n[1]], 1.5) + x[0, 0], paddle.eye(n[0])


def cut(x: Any, n: Any) -> Any:
    return x[:, n[0] : n[1]] * 2.0, x[n[0]] + 1.0, paddle.roll(x, n[1], axis=1) + 1.0


def parts(x: Any, n: Any) -> Any:
    a, b = paddle.split(x, [n[0], n[1]], axis=1)
    return a * 2.0, b + 1.0


def classes(x: Any, n: Any) -> Any:
    return F.one_hot((x * 2).astype("int64"), n[0]) * x.unsqueeze(-1)


def resized(x: Any, n: Any) -> Any:
    image = x.reshape([1, 1, 4, 6])
    return F.interpolate(image, size=[n[0], n[1]], mode="nearest") * 2.0


def computed(x: Any, n: Any) -> Any:
    """The number that is read is made from the input by a kernel."""
    k = ((x > 0.5).astype("int64").sum() + n[0]).astype("int32")
    grid = paddle.arange(k).astype("float32") / 2.0
    return grid, paddle.zeros([k, 2]) + x[0, :2], paddle.reshape(x, [n[1], -1]) + 1.0


def looped(x: Any, n: Any) -> Any:
    i = paddle.zeros([], "int64")
    total = paddle.zeros([])
    while i < n[1]:
        total = total + paddle.arange(i + n[0]).astype("float32").sum()
        i = i + 1
    return x + total


def along(x: Any, n: Any) -> Any:
    x = x.reshape([2, 4, 3])
    sums = paddle.sum(x, axis=n[0]), paddle.max(x, axis=n[0]), x.mean(n[0], True)
    halves = paddle.split(x[:, :, :2], 2, axis=n[0])
    joined = paddle.concat([x, x + 1.0], axis=n[0])
    return *sums, *halves, joined, paddle.unsqueeze(x, n), x.cumsum(n[0])


CASES: dict[Callable[..., Any], tuple[int, list[list[int]]]] = {
    # function: plans, contents of n
    shaped: (3, [[8, 3], [2, 12], [24, 1], [-1, 12], [-1, 3], [0, 6], [3, 8]]),
    widened: (3, [[2, 3], [1, 1], [5, 2], [0, 2], [3, 0]]),
    counted: (3, [[2, 3], [7, 5], [1, 1], [0, 4], [9, 0], [8, 2]]),
    cut: (3, [[1, 4], [2, 6], [0, 9], [3, 3], [-2, 5], [-2, 2]]),
    parts: (1, [[2, 4], [5, 1], [3, 3]]),
    classes: (1, [[2], [5], [3]]),
    resized: (1, [[2, 3], [8, 12], [1, 1], [5, 7]]),
    computed: (2, [[2, 3], [5, 2], [0, 4], [1, 1]]),
    along: (4, [[0], [1], [-1], [2], [1], [0]]),
    looped: (3, [[2, 3], [1, 0], [5, 7], [0, 2]]),
}


def same(found: Any, expected: Any) -> None:
    pairs = zip(paddle.utils.flatten(found), paddle.utils.flatten(expected))
    for a, b in pairs:
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("f", CASES)
def test_contents_of_an_input(f: Callable[..., Any], dtype: str) -> None:
    """One plan serves all numbers above 0 (a bound on classes), all ops compiled."""
    most, contents = CASES[f]
    compiled = pirol.to_static(f, strict=True)
    for numbers in contents:
        args = paddle.to_tensor(X), paddle.to_tensor(numbers, dtype=dtype)
        same(compiled(*args), f(*args))
    assert pirol.explain(compiled).compiles <= most


def test_contents_may_lie_anyhow() -> None:
    """A view that is no row of memory; the shape given by a list of tensors."""

    def f(x: Any, n: Any) -> Any:
        return paddle.reshape(x, [n, -1]) + 1.0

    compiled = pirol.to_static(f, strict=True)
    for k in (1, 2, 3):
        pair = paddle.to_tensor([[9, 9], [9, k], [9, 9]])[:, 1][1]
        same(compiled(paddle.to_tensor(X), pair), f(paddle.to_tensor(X), pair))
    assert pirol.explain(compiled).compiles == 1


def met(x: Any, y: Any) -> Any:
    """Sizes that data tell are broadcast together, and with a fixed one."""
    a, b = paddle.masked_select(x, x > 0.5), paddle.masked_select(y, y > 0.5)
    return a + b, a * paddle.arange(3).astype("float32")


def some(count: int) -> Any:
    return paddle.to_tensor([0.75 + k for k in range(count)] + [0.0] * (5 - count))


def test_found_sizes_that_meet() -> None:
    """Taken as equal at first; where a run finds them otherwise, one more plan."""
    compiled = pirol.to_static(met)
    calls = [(3, 3), (1, 3), (3, 1), (1, 1), (3, 3), (1, 3), (3, 1), (1, 1)]
    for k, (a, b) in enumerate(calls):
        same(compiled(some(a), some(b)), met(some(a), some(b)))
        if k == 3:
            made = pirol.explain(compiled).compiles
    found = pirol.explain(compiled)
    assert found.compiles == made <= 5
    assert {r.op for r in found.fallbacks} == {"pd_op.masked_select"}


def test_found_sizes_that_do_not_fit_are_the_users_error() -> None:
    compiled = pirol.to_static(met)
    for _ in range(2):
        with pytest.raises(ValueError, match="(?i)broadcast"):
            compiled(some(3), some(2))
    same(compiled(some(3), some(3)), met(some(3), some(3)))


def test_a_plan_that_could_not_be_built_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = pirol.to_static(met)
    same(compiled(some(3), some(3)), met(some(3), some(3)))
    with monkeypatch.context() as broken:
        broken.setattr(plans, "assemble", failing)
        same(compiled(some(1), some(3)), met(some(1), some(3)))
    assert pirol.explain(compiled).compiles == 1
    same(compiled(some(1), some(3)), met(some(1), some(3)))
    assert pirol.explain(compiled).compiles > 1


def failing(*_: Any) -> Any:
    raise OSError("no room")


def drawn(x: Any) -> Any:
    noise = paddle.rand([3])
    return paddle.masked_select(x, x > 0.5) + noise


def test_draws_of_a_run_that_ends_are_undone() -> None:
    """A size is another than expected, and other plans are tried: draws as in eager."""
    compiled = pirol.to_static(drawn)
    found: list[list[Any]] = []
    for f in (compiled, drawn):
        paddle.seed(11)
        results = [f(some(count)) for count in (1, 3, 1, 3, 3, 1)]
        found.append([*results, paddle.rand([2])])
    same(*found)
    assert pirol.explain(compiled).compiles == 2


def bound() -> Graph:
    """x[:n[0]], where n[1] must be 3."""
    b = Builder()
    x, n = b.input(TensorType((4,), "float32")), b.input(TensorType((2,), "int64"))
    size = dims.symbol("i1_0")
    b.bind(n, items=(size, 3))
    return b.graph("f", [b.slice(x, starts=(0,), sizes=(size,), steps=(1,))])


def test_bind_in_a_graph() -> None:
    """Text, verifier, interpreter."""
    graph = bound()
    assert str(parse_graph(str(graph))) == str(graph)
    verify(graph, "flat")
    x = np.arange(4, dtype=np.float32)
    (y,) = interpret(graph, [x, np.array([2, 3])])
    assert y.tolist() == [0, 1]
    with pytest.raises(PirolError, match="is not"):
        interpret(graph, [x, np.array([2, 4])])


def test_dynamic_dims_and_contents_together() -> None:
    def f(x: Any, n: Any) -> Any:
        return paddle.reshape(x, [n[0], x.shape[0], -1]).sum(axis=0)

    spec = [InputSpec([None, 6]), InputSpec([2], "int64")]
    compiled = pirol.to_static(f, input_spec=spec, strict=True)
    for rows, k in [(4, 2), (5, 3), (1, 6), (7, 1)]:
        x = paddle.to_tensor(RNG.random((rows, 6), dtype=np.float32))
        n = paddle.to_tensor([k, 0])
        same(compiled(x, n), f(x, n))
    assert pirol.explain(compiled).compiles == 1
