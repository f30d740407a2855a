"""Writes in place ahead of `paddle.grad` in a program: each value is its own again.

y = x * 2; s = f(y); y[0] = w; z = g(y); paddle.grad(s + z, [x, w])

In Paddle's program the write makes a new value of y's memory. Gradient ops that are
put behind it name y where they mean what f read, and g, where Paddle does not see that
y is read (in a helper that it does not transform, or in a list), names y where it means
the new value, so that w has no gradient. Before gradients are made, f is given a copy,
and g the new value; only the write itself reads y then.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import paddle
from paddle.base import core
from paddle.jit.dy2static.parameter_recorder import _global_inplace_map

from pirol.compiler.capture.attributes import attributes

WRITES = ("pd_op.set_value_", "pd_op.set_value_with_tensor_")
COPY = "pd_op.assign"
pir: Any = core.pir


class Capturing(threading.local):
    """Whether what this thread captures is Pirol's: as a whole, or by SOT."""

    depth = 0
    by_sot = 0
    counted = False  # whether masks of dropout are counted
    inferring = False  # what SOT's calls give, of values that stand for many
    options: Mapping[str, Any] = MappingProxyType({})  # of the next paddle.grad

    @property
    def now(self) -> bool:
        """By either."""
        return bool(self.depth or self.by_sot)


capturing = Capturing()


@contextlib.contextmanager
def dropouts(counted: bool) -> Iterator[None]:
    """How the masks of dropouts that are captured meanwhile are made."""
    before, capturing.counted = capturing.counted, counted
    try:
        yield
    finally:
        capturing.counted = before


def tell_apart(block: Any) -> None:
    """Give each value of a block that is overwritten one name."""
    writes = [op for op in block.ops if op.name() in WRITES]
    for op in writes:
        if op.name() == "pd_op.set_value_":
            op = _of_tensor(op)
        _tell_apart(block, op)
    if writes:
        pir.set_insertion_point_to_block_end(block)


def _tell_apart(block: Any, write: Any) -> None:
    old, new = write.operand_source(0), write.result(0)
    order = {op.id(): k for k, op in enumerate(block.ops)}
    here = order[write.id()]
    users = [(k, u) for u in old.all_used_ops() if (k := _place(order, u)) is not None]
    for operand in reads(old, [u for k, u in users if k > here]):
        operand.set_source(new)
    earlier = [u for k, u in users if k < here]
    maker = old.get_defining_op()
    if (
        maker is None
        or maker.id() not in order
        or all(u.name() == COPY for u in earlier)
    ):
        return
    pir.set_insertion_point_after(maker)
    copy = paddle.assign(old)
    for operand in reads(old, earlier):
        operand.set_source(copy)


def _place(order: dict[int, int], op: Any) -> int | None:
    """Where an op lies in a block, or the op of that block around it."""
    while op is not None and op.id() not in order:
        op = op.get_parent_block().parent_op
    return None if op is None else order[op.id()]


def reads(value: Any, users: list[Any]) -> Iterator[Any]:
    """The operands of ops that are the value."""
    for op in users:
        yield from (o for o in op.operands() if o.source().is_same(value))


def _of_tensor(op: Any) -> Any:
    """A write of numbers as that of a tensor: Paddle's gradient of the former does not
    tell where they were put."""
    attrs, operands = attributes(op), [o.source() for o in op.operands()]
    pir.set_insertion_point(op)
    old = op.result(0)
    numbers = paddle.zeros(attrs["shape"], old.dtype)
    place = paddle.CPUPlace()
    numbers = paddle._C_ops.assign_value_(
        numbers, attrs["shape"], old.dtype, attrs["values"], place
    )
    names = ("axes", "decrease_axes", "none_axes")
    new = paddle._C_ops.set_value_with_tensor_(
        operands[0], numbers, *operands[1:], *(attrs[n] for n in names)
    )
    old.replace_all_uses_with(new)
    program = paddle.static.default_main_program()
    latest = _global_inplace_map.get(program, old)
    _global_inplace_map.add(program, operands[0], new)
    if latest is not None:
        _global_inplace_map.add(program, new, latest)
    op.get_parent_block().remove_op(op)
    return new.get_defining_op()
