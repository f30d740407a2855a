"""What `while` and its gradients do, whatever runs their body: compiled code on
tensors, or the interpreter on arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pirol.compiler.autodiff import Level, dependent
from pirol.compiler.ir import INEXACT, Graph, Op

Body = Callable[[Sequence[Any]], Sequence[Any]]
Bodies = Callable[[Sequence[Level]], Body]  # the body, or its gradient of these levels


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
    op: Op, bodies: Bodies, zeros: Callable[[Any], Any]
) -> Callable[..., list[Any]]:
    """The operands, then each level's cotangents -> the last level's gradients.

    The loop runs once more, and its turns are kept; a level goes through all that was
    kept from the end, by gradients of the body, which are kept for the next level.
    """
    (body,) = op.branches
    count, levels = len(body.outputs) - 1, op.attrs["gradient"]

    def run(goes: Any, *operands: Any) -> list[Any]:
        trail = _Trail(body, bodies, zeros)
        kinds = [v.dtype in INEXACT for v in op.operands[1:]]
        parts = [_Part(v, k) for v, k in zip(operands, kinds)]
        given = parts[: len(body.inputs)]  # by a level, its operands but the condition
        ends, fixed = given[:count], given[count:]
        while goes:
            condition, *ends = trail.turn([*ends, *fixed])
            goes = condition.data
        for left, (wanted, reached) in zip(range(len(levels))[::-1], levels):
            trail.keeps = left > 0
            cts = parts[len(given) : len(given) + len(reached)]
            pairs = zip([ends[k] for k in reached], cts)
            ends = trail.pull(pairs, [given[k - 1] for k in wanted])
            given = [*given, *cts]
        return [part.data for part in ends]

    return run


@dataclass(frozen=True, eq=False)
class _Part:
    """One tensor of a run."""

    data: Any
    inexact: bool = True


@dataclass(frozen=True)
class _Turn:
    """A run of the body, or of its gradient of these levels; None: a sum."""

    levels: tuple[Level, ...] | None
    inputs: Sequence[_Part]
    outputs: Sequence[_Part]


@dataclass
class _Trail:
    """The turns so far, if it keeps more of them."""

    body: Graph
    bodies: Bodies
    zeros: Callable[[Any], Any]
    turns: list[_Turn] = field(default_factory=list)
    keeps: bool = True

    def turn(
        self, inputs: Sequence[_Part], levels: tuple[Level, ...] = ()
    ) -> Sequence[_Part]:
        """The outputs of one more turn."""
        found = self.bodies(levels)([part.data for part in inputs])
        outputs = [*map(_Part, found)]
        if not levels:
            kinds = [v.dtype in INEXACT for v in self.body.outputs]
            outputs = [_Part(v, k) for v, k in zip(found, kinds)]
        self.keep(_Turn(levels, inputs, outputs))
        return outputs

    def keep(self, turn: _Turn) -> None:
        """For the levels to come, if there are any."""
        if self.keeps:
            self.turns.append(turn)

    def sum(self, a: _Part, b: _Part) -> _Part:
        """Of two gradients."""
        total = _Part(a.data + b.data)
        self.keep(_Turn(None, [a, b], [total]))
        return total

    def pull(
        self, ends: Iterable[tuple[_Part, _Part]], wanted: Sequence[_Part]
    ) -> list[_Part]:
        """The gradients of what is wanted, by cotangents of some ends."""
        active, cts = self.active(wanted), dict[_Part, _Part]()

        def add(part: _Part, ct: _Part) -> None:
            cts[part] = self.sum(cts[part], ct) if part in cts else ct

        def of(part: _Part) -> _Part:
            return cts[part] if part in cts else _Part(self.zeros(part.data))

        for part, ct in ends:
            add(part, ct)
        for turn in reversed(tuple(self.turns)):
            asked = [k for k, part in enumerate(turn.inputs) if part in active]
            given = [k for k, part in enumerate(turn.outputs) if part in active]
            if not asked or cts.keys().isdisjoint(turn.outputs):
                continue
            grads = [of(turn.outputs[k]) for k in given]
            if turn.levels is None:
                grads = grads * len(asked)
            else:
                level = (tuple(k + 1 for k in asked), tuple(given))
                grads = [*self.turn([*turn.inputs, *grads], (*turn.levels, level))]
            for k, grad in zip(asked, grads):
                add(turn.inputs[k], grad)
        return [of(part) for part in wanted]

    def active(self, wanted: Sequence[_Part]) -> set[_Part]:
        """What depends on the parts wanted."""
        found = set(wanted)
        for turn in self.turns:
            at = [k for k, part in enumerate(turn.inputs) if part in found]
            all_of = range(len(turn.outputs) if at else 0)
            places = dependent(self.body, at) if turn.levels == () else all_of
            found.update(turn.outputs[k] for k in places if turn.outputs[k].inexact)
        return found
