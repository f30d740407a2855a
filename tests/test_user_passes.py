"""The user's own passes: run, verified, and no harm where they are wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.compiler.ir import Graph, Op

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def program(x: Any) -> Any:
    return paddle.nn.functional.softmax(paddle.tanh(x) + 1.0)


def negate_tanh(graph: Graph) -> Graph:
    """tanh -> neg: to see that it was run."""
    return graph.with_ops(
        replace(op, name="neg") if op.name == "tanh" else op for op in graph.ops
    )


def note_calls(graph: Graph) -> Graph:
    """Only looks; asks to be run while there are calls."""
    SEEN.extend(op.title for op in graph.ops)
    return graph


note_calls.level = "calls"  # type: ignore[attr-defined]
SEEN: list[str] = []


def gives_none(graph: Graph) -> Any:
    return None


def raises(graph: Graph) -> Graph:
    raise KeyError("a fault of mine")


def invalid(graph: Graph) -> Graph:
    return graph.with_ops(graph.ops[1:])


def other_type(graph: Graph) -> Graph:
    """Another shape of the result."""
    value = graph.inputs[0]
    flat = Op(
        "reshape",
        (value,),
        {"shape": (6,)},
        (replace(value, type=replace(value.type, shape=(6,))),),
    )
    return replace(graph, ops=(*graph.ops, flat), outputs=flat.results)


def test_they_are_run_at_their_level() -> None:
    fast = pirol.to_static(program, passes=(note_calls, negate_tanh, negate_tanh))
    x = paddle.rand([2, 3])
    expected = paddle.nn.functional.softmax(-x + 1.0)
    np.testing.assert_allclose(fast(x).numpy(), expected.numpy(), rtol=1e-5)
    assert "pd_op.softmax" in SEEN
    stages = list(pirol.explain(fast).stages)
    assert stages.index("note_calls") < stages.index("claim")
    assert stages.index("inline") < stages.index("negate_tanh") < stages.index("fuse")
    assert "negate_tanh-1" in stages


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (gives_none, "expected a Graph"),
        (raises, "a fault of mine"),
        (invalid, "invalid graph"),
        (other_type, "results of other types"),
    ],
)
def test_a_wrong_pass_leaves_the_program_to_paddle(wrong: Any, word: str) -> None:
    x = paddle.rand([2, 3])
    fast = pirol.to_static(program, passes=(wrong,))
    np.testing.assert_allclose(fast(x).numpy(), program(x).numpy(), rtol=1e-6)
    (why,) = pirol.explain(fast).fallbacks
    assert word in why.why and (wrong.__name__ in why.why or wrong is raises)
    strict = pirol.to_static(program, passes=(wrong,), strict=True)
    with pytest.raises(pirol.StrictError, match=word):
        strict(x)
