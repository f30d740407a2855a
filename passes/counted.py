"""counted: dropout in training -> `pirol.dropout`, whose mask is a function of a key
and of places (prim/random.py), so that it is fused, and computed again for backward.

So are the uniform numbers by which Paddle's functions drop whole channels, or drop to a
value that saturates. A key is drawn by an op of its own. One for a dropout in a branch
or a loop is drawn before that, and a loop goes on to another key with each turn; so
that nothing in them draws, and they have gradients. A dropout that is told its seed has
that for a key, and so the same mask each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pirol.compiler.ir import Graph, Op, TensorType, Value

LOOP, EFFECT = "pd_op.while", "effect"
DRAWN, NEXT = "pirol.random_key", "pirol.next_key"
KEY = TensorType((), "int64")
DRAW = {EFFECT: True, "layout": ()}  # attributes of what draws a key


def counted(graph: Graph) -> Graph:
    """The graph, at level "pir", with dropouts by counting, in branches too."""
    inner, keys = _within(graph)
    draws = {key: Op(DRAWN, (), DRAW, (key,)) for key in keys}
    ops = [o for op in inner.ops for o in (*_needed(op, draws), op)]
    return inner.with_ops(ops)


def from_state(graph: Graph) -> Graph:
    """The graph with a further input, which it writes: each key is the next one of that
    number; the graph itself, if it draws none."""
    last = state = Value(KEY)
    ops = []
    for op in graph.ops:
        if op.name == DRAWN:
            op = replace(op, name=NEXT, operands=(last,), attrs={"layout": (-1,)})
            last = op.result
        ops.append(op)
    if last is state:
        return graph
    writes = (*graph.writes, (len(graph.inputs), last))
    inputs = (*graph.inputs, state)
    return replace(graph, inputs=inputs, ops=tuple(ops), writes=writes)


def _needed(op: Op, draws: dict[Value, Op]) -> list[Op]:
    """The draws of the keys that an op reads."""
    return [replace(draws[v], line=op.line) for v in op.operands if v in draws]


def _within(graph: Graph) -> tuple[Graph, list[Value]]:
    """The graph with dropouts by counting, and the keys, which it lacks."""
    pairs = [_control(op) if op.branches else _plain(op) for op in graph.ops]
    keys = [key for _, part in pairs for key in part]
    return graph.with_ops(op for op, _ in pairs), keys


def _plain(op: Op) -> tuple[Op, list[Value]]:
    name, fixed = _counting(op), bool(op.attrs.get("fix_seed") and op.attrs["seed"])
    if name is None:
        return op, []
    layout, keys = op.attrs["layout"], [] if fixed else [Value(KEY)]
    attrs = _pure(op) | {"layout": (*layout, -2 if fixed else -1)}
    return replace(op, name=name, operands=(*op.operands, *keys), attrs=attrs), keys


def _counting(op: Op) -> str | None:
    """The op that counts what this one draws for a dropout, if it does."""
    if op.name == "pd_op.dropout" and not op.attrs["is_test"]:
        return "pirol.dropout"
    if op.name == "pd_op.uniform" and op.attrs.get("dropout"):
        return "pirol.uniform"
    return None


def _control(op: Op) -> tuple[Op, list[Value]]:
    inner = [_within(branch) for branch in op.branches]
    keys = [key for _, part in inner for key in part]
    if not keys:
        return op, []
    acts = any(o.attrs.get(EFFECT) for branch, _ in inner for o in branch.walk())
    op = replace(op, attrs=op.attrs if acts else _pure(op))
    if op.name == LOOP:
        return _loop(op, inner[0][0], keys)
    given = [Value(KEY) for _ in keys]
    branches = []
    for branch, own in inner:
        more = (key if key in own else Value(KEY) for key in keys)
        branches.append(replace(branch, inputs=(*branch.inputs, *more)))
    operands = (*op.operands, *given)
    return replace(op, operands=operands, branches=tuple(branches)), given


def _loop(op: Op, body: Graph, keys: Sequence[Value]) -> tuple[Op, list[Value]]:
    """The loop with the keys as further variables of it."""
    count, given = len(op.results), [Value(KEY) for _ in keys]
    steps = [Op(NEXT, (key,), {"layout": (-1,)}, (Value(KEY),)) for key in keys]
    body = replace(
        body,
        inputs=(*body.inputs[:count], *keys, *body.inputs[count:]),
        ops=(*body.ops, *steps),
        outputs=(*body.outputs, *(step.result for step in steps)),
    )
    variables, rest = op.operands[: 1 + count], op.operands[1 + count :]
    return (
        replace(
            op,
            operands=(*variables, *given, *rest),
            results=(*op.results, *(Value(KEY) for _ in keys)),
            branches=(body,),
        ),
        given,
    )


def _pure(op: Op) -> dict[str, object]:
    return {k: v for k, v in op.attrs.items() if k != EFFECT}
