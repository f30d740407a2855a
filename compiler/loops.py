"""What `while` and its gradient do, whatever runs their body: compiled code on tensors,
or the interpreter on arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pirol.compiler.autodiff import loop_level
from pirol.compiler.ir import Op

Body = Callable[[Sequence[Any]], Sequence[Any]]


def loop(op: Op, body: Body) -> Callable[..., list[Any]]:
    """The condition and other operands -> the loop's variables in the end."""
    count = len(op.results)

    def run(goes: Any, *given: Any) -> list[Any]:
        values, fixed = list(given[:count]), given[count:]
        while goes:
            goes, *values = body([*values, *fixed])
        return values

    return run


def loop_gradient(
    op: Op, body: Body, back: Body, zeros: Callable[[Any], Any]
) -> Callable[..., list[Any]]:
    """The operands, then cotangents -> the gradients that the op's level names.

    The loop runs once more, and what its variables were is kept; `back`, the body's
    gradient of `loop_level`, then goes through it from the end.
    """
    ((wanted, given),) = op.attrs["gradient"]
    count = len(op.branches[0].outputs) - 1
    asked, carried = loop_level(op)

    def run(goes: Any, *operands: Any) -> list[Any]:
        values, fixed = list(operands[:count]), operands[count:]
        fixed, cts = fixed[: len(fixed) - len(given)], fixed[len(fixed) - len(given) :]
        trail = []
        while goes:
            trail.append(values)
            goes, *values = body([*values, *fixed])
        found = {k + 1: ct for k, ct in zip(given, cts)}  # by the operand's number
        for k in carried:
            found.setdefault(k, zeros(values[k - 1]))
        for before in reversed(trail):
            grads = back([*before, *fixed, *(found[k] for k in carried)])
            for k, grad in zip(asked, grads):
                summed = k > count and k in found
                found[k] = found[k] + grad if summed else grad
        return [found[k] if k in found else zeros(operands[k - 1]) for k in wanted]

    return run
