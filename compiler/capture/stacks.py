"""paddle.grad past a branch: what it pushes for its gradient, and that pops.

Paddle's gradient of an `if` is an `if` of the same condition, whose branches pop what
those of the first have pushed. Here a branch of the second reads the ops of the first
once more, and takes their values.
"""

from __future__ import annotations

from typing import Any

from pirol.compiler.capture.lines import line_of
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import Op, Value

STACKS = ("cf.stack_create", "cf.tuple_push", "cf.tuple_pop", "cf.has_elements")


def stacked(reader: Any, op: Any) -> None:
    """Read one of Paddle's ops on stacks."""
    match op.name():
        case "cf.tuple_push":
            reader.shared.pushed[_stack(op)] = (reader, op)
        case "cf.tuple_pop":
            _popped(reader, op)
        case "cf.has_elements":
            pushes = [push for _, push in reader.shared.pushed.values()]
            blocks = [push.get_parent_block() for push in pushes]
            loops = [b for b in blocks if b.parent_op.name() == "pd_op.while"]
            at = _place(loops[-1]) if loops else ""
            raise Unsupported(f"paddle.grad past a while loop{at} is not compiled")


def nested(block: Any, depth: int = 0) -> str:
    """Why Paddle's run of a program is not what eager gives: its gradients past a
    branch in another, or in a loop, are wrong."""
    for op in block.ops:
        if op.name() == "cf.tuple_push" and depth > 1:
            return f"paddle.grad past a branch or loop in another{_place(block)}"
        for inner in op.blocks():
            if why := nested(inner, depth + 1):
                return why
    return ""


def ends(reader: Any, control: Any, values: list[Any]) -> list[Any]:
    """What a block gives for the results of the op that has it; where it gives none,
    as a gradient by one branch alone, zeros."""
    if all(v.initialized() for v in values):
        return [reader.of(v) for v in values]
    pairs = zip(values, control.results(), strict=True)
    return [reader.of(v) if v.initialized() else _zeros(reader, r) for v, r in pairs]


def _zeros(reader: Any, like: Any) -> Value:
    kind = reader.type(like, "u")
    if not all(isinstance(d, int) for d in kind.shape):
        raise Unsupported("a gradient of unknown size by one branch alone")
    attrs = {"shape": kind.shape, "value": 0.0, "dtype": kind.dtype, "layout": ()}
    zeros = Value(kind)
    reader.ops.append(Op("pd_op.full", (), attrs, (zeros,)))
    return zeros


def _popped(reader: Any, op: Any) -> None:
    """Define the results of a pop by the values that were pushed, computed anew."""
    first, push = reader.shared.pushed[_stack(op)]
    if first is not reader:
        _again(reader, first, push)
    pushed = [operand.source() for operand in push.operands()][1:]
    for result, value in zip(op.results(), pushed, strict=True):
        reader.env[result] = reader.of(value)


def _again(reader: Any, first: Any, push: Any) -> None:
    """Read the ops of another reader's block up to its push."""
    block = push.get_parent_block()
    at = _place(block)
    if block.parent_op.name() != "pd_op.if" or reader.parent is not first.parent:
        raise Unsupported(
            f"paddle.grad past a branch in another, or in a loop{at}, is not compiled"
        )
    if any(o.attrs.get("effect") for made in first.ops for o in _all(made)):
        raise Unsupported(f"paddle.grad past a branch that draws{at} is not compiled")
    if first.written():
        raise Unsupported(
            f"paddle.grad past a branch that writes in place{at} is not compiled"
        )
    outer = {inner: value for value, inner in first.taken.items()}
    for value, ours in first.names.items():
        if not isinstance(ours, list) and ours in outer:
            reader.env[value] = reader.names[value] = reader.take(outer[ours])
    for each in block.ops:
        if each.id() == push.id():
            return
        if each.name() != "cf.tuple_push":
            reader.op(each)


def _place(block: Any) -> str:
    """Where in the user's file a block begins."""
    lines = [text for text in map(line_of, block.ops) if text]
    return f" (at {lines[0]})" if lines else ""


def _all(op: Any) -> list[Any]:
    return [op, *(inner for branch in op.branches for inner in branch.walk())]


def _stack(op: Any) -> int:
    """The op that made the stack of an op on it."""
    return int(op.operand_source(0).get_defining_op().id())
