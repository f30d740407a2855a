"""Which results are in memory of their own: x.clone() is not x, `y + 0` is not y.

In a plan a copy is no step, and equal values are one: the result of `x.clone()` is then
x's own memory, and what is written to it would be written to x. Here a result is copied
where eager would not share: it shares with an input, or with another result, whose view
it is in the captured program (`return x`, `x.reshape`, `x.detach()`), and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle.autograd.backward_utils import ValueDict

from pirol.compiler.capture.reader import Program
from pirol.compiler.capture.views import VIEWS
from pirol.passes.plan import Opaque, Plan, root_of


def memories(inputs: Sequence[Any], outputs: Sequence[Any]) -> tuple[int, ...]:
    """A number of each result's memory as eager has it; -1 - k is input k's."""
    numbers = ValueDict()
    for k, value in enumerate(inputs):
        numbers[value] = -1 - k
    found = []
    for value in outputs:
        base = _base(value)
        if base not in numbers:
            numbers[base] = len(numbers)
        found.append(numbers[base])
    return tuple(found)


def _base(value: Any) -> Any:
    """What a value is a view of."""
    maker = value.get_defining_op()
    while maker is not None and maker.name() in VIEWS:
        value = maker.operand_source(0)
        maker = value.get_defining_op()
    return value


@dataclass(frozen=True)
class Owned:
    """Which of a plan's results are copied, and which an `if` or `while` made: these
    may be its operands."""

    copied: tuple[int, ...] = ()
    loose: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.copied or self.loose)

    def __call__(self, found: list[Any], given: Sequence[Any]) -> list[Any]:
        """The results of a run on these tensors, each in a memory that it may have."""
        copied = self.copied
        if self.loose:
            others = [t for k, t in enumerate(found) if k not in self.loose]
            taken = {t.data_ptr() for t in (*given, *others) if t.size}
            for k in self.loose:
                if found[k].size and found[k].data_ptr() in taken:
                    copied = (*copied, k)
                taken.add(found[k].data_ptr())
        for k in copied:
            found[k] = paddle.assign(found[k].detach())
        return found


def owned(plan: Plan, program: Program) -> Owned:
    """What is to be done to the results of a program's plan."""
    made = {n for s in plan.steps if isinstance(s, Opaque) for n in _of_control(s)}
    copied, loose, first = [], [], dict[int, int]()
    for k, (number, memory) in enumerate(zip(plan.outputs, program.memories)):
        root = root_of(plan.buffers, number)
        if root in made:
            loose.append(k)
        if first.setdefault(root, _of_input(plan, root, program, memory)) != memory:
            copied.append(k)
    return Owned(tuple(copied), tuple(loose))


def _of_control(step: Opaque) -> tuple[int, ...]:
    return step.outputs if step.op.branches else ()


def _of_input(plan: Plan, root: int, program: Program, memory: int) -> int:
    """The memory of the tensor that a buffer is; else `memory`."""
    buffer = plan.buffers[root]
    if buffer.kind != "input" or buffer.of >= len(program.inputs) - program.copies:
        return memory
    return -1 - program.inputs[buffer.of]
