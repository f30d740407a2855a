"""`if` and `while`: their branches are compiled, as programs of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle.base.libpaddle.pir import Program, build_while_op
from paddle.static import InputSpec

import pirol
from pirol.compiler.text import parse_graph, print_graph


def both(x: Any, n: Any) -> Any:
    """A branch that reads a shape, and a loop that counts to a tensor."""
    rows = x.shape[0]
    if x.sum() > 0:
        y = x * 2
        k = n + 1
    else:
        y = paddle.exp(x).reshape([rows, -1])
        k = n
    i = paddle.zeros([], "int64")
    while i < k:
        y = y + x
        i = i + 1
    return y


def nested(x: Any) -> Any:
    total = paddle.zeros([])
    for k in range(paddle.to_tensor(3)):
        if k > 0:
            while total < 5.0:
                total = total + x.mean() + 1.0
        else:
            total = total + k * 0.5
    return total, x + total


def growing(x: Any, n: Any) -> Any:
    """A loop variable whose shape changes."""
    i = paddle.zeros([], "int64")
    while i < n:
        x = paddle.concat([x, x[:1]])
        i = i + 1
    return x * 1.5


def writing(x: Any) -> Any:
    """One branch writes to a tensor from outside, which is read afterwards."""
    state = paddle.zeros([3])
    first = state[0]
    if x.sum() > 0:
        state[1:] = x[1:]
    return state + 1.0, first


def drawing(x: Any) -> Any:
    if x.sum() > 0:
        x = x + paddle.uniform([3])
    paddle.uniform([2])
    return x + paddle.uniform([3])


def compiled(function: Any, *specs: InputSpec, strict: bool = True) -> Any:
    return pirol.to_static(function, input_spec=list(specs), strict=strict)


def same(ours: Any, theirs: Any) -> None:
    assert ours.dtype == theirs.dtype
    assert list(ours.shape) == list(theirs.shape)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)


def test_if_and_while() -> None:
    fast = compiled(both, InputSpec([None, 4]), InputSpec([], "int64"))
    for rows, sign, count in ((3, 1, 2), (5, -1, 3), (1, 1, 0), (7, -1, 0)):
        x = paddle.to_tensor(np.full((rows, 4), sign, "float32"))
        n = paddle.to_tensor(count)
        same(fast(x, n), both(x, n))
    report = pirol.explain(fast)
    assert report.compiles == 1
    assert any("exp" in g.ops for g in report.groups)
    assert not report.fallbacks


def test_nested() -> None:
    """Loops and branches within each other."""
    fast = compiled(nested, InputSpec([None]))
    for x in (paddle.ones([3]), paddle.zeros([2])):
        for a, b in zip(fast(x), nested(x)):
            same(a, b)


def test_block_arguments_are_no_references() -> None:
    """The same object twice would be one that refers into the block's vector."""
    program = Program()
    with paddle.pir_utils.IrGuard(), paddle.static.program_guard(program):
        first = paddle.zeros([2])
        loop = build_while_op(paddle.full([], True, "bool"), [first, first])
    held, again = loop.body().args(), loop.body().args()
    assert all(a is not b and a.is_same(b) for a, b in zip(held, again))


def test_a_loop_whose_shapes_change() -> None:
    fast = compiled(growing, InputSpec([None, 2]), InputSpec([], "int64"))
    for count in (0, 1, 4):
        x = paddle.rand([2, 2])
        same(fast(x, paddle.to_tensor(count)), growing(x, paddle.to_tensor(count)))


def test_a_branch_that_writes() -> None:
    fast = compiled(writing, InputSpec([3]))
    for x in (paddle.ones([3]), -paddle.ones([3])):
        for a, b in zip(fast(x), writing(x)):
            same(a, b)


@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_random_numbers_keep_their_order() -> None:
    """Draws whose results nobody needs happen too."""
    fast = compiled(drawing, InputSpec([3]), strict=False)
    for x in (paddle.ones([3]), -paddle.ones([3])):
        paddle.seed(3)
        ours = fast(x)
        paddle.seed(3)
        same(ours, drawing(x))


def test_the_text_round_trips_and_the_interpreter_runs_it() -> None:
    fast = compiled(both, InputSpec([None, 4]), InputSpec([], "int64"))
    x, n = paddle.ones([2, 4]), paddle.to_tensor(3)
    expected = fast(x, n).numpy()
    graph = pirol.explain(fast).stages["decompose"]
    text = print_graph(graph)
    assert print_graph(parse_graph(text)) == text
    branches = [op for op in graph.ops if op.branches]
    assert [len(op.branches) for op in branches] == [2, 1]
    assert expected.shape == (2, 4)
