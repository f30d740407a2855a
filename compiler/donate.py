"""donate: a plan -> one whose kernels update inputs that are written in place.

A write is a copy, at the call's end, of what a kernel made. Where the kernel reads each
element of the input only for the element that it makes of it, it can store to the
input's own memory; it then runs after all else that reads the input, and where nothing
may fail any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pirol.kernels.lower import Refusal, build_nest
from pirol.kernels.nest import Load, Nest
from pirol.passes.plan import (
    NEVER_ALIAS,
    Bind,
    Check,
    Launch,
    Opaque,
    Plan,
    Step,
    Write,
    lifetimes,
    root_of,
    touched,
)

SHARED = "shared"  # a launch's attribute: the kernel's buffers that may be one memory
STRIP = ("strip", "items")  # its others may read the input for other items later
MAY_FAIL = (Opaque, Bind, Check)


def donate(plan: Plan) -> Plan:
    """The plan, with the inputs' own memory in place of what is copied there."""
    found = _Donation(plan)
    for at, writes in found.by_launch().items():
        found.take(at, writes)
    steps = found.steps()
    spans = tuple(lifetimes(plan.buffers, steps))
    return replace(plan, steps=steps, lifetimes=spans)


@dataclass
class _Donation:
    """What is known of a plan, by its steps' numbers, and what was decided so far."""

    plan: Plan
    memory: dict[int, int] = field(default_factory=dict)  # a made buffer -> the input
    shared: dict[int, set[str]] = field(default_factory=dict)  # by launch
    places: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # if moved

    def __post_init__(self) -> None:
        buffers, steps = self.plan.buffers, self.plan.steps
        self.roots = [root_of(buffers, n) for n in range(len(buffers))]
        self.users: dict[int, list[int]] = {}
        for k, step in enumerate(steps):
            for root in {self.roots[n] for n in touched(step)}:
                self.users.setdefault(root, []).append(k)
        ends = [k for k, step in enumerate(steps) if isinstance(step, MAY_FAIL)]
        self.safe = max(ends, default=-1)

    def by_launch(self) -> dict[int, list[Write]]:
        """The writes that may do without a copy, by the launch that makes their source:
        which has no other name, nor the input one that the call returns or that an
        opaque result may be."""
        buffers, found = self.plan.buffers, dict[int, list[Write]]()
        named = {self.roots[n] for n, b in enumerate(buffers) if b.kind == "alias"}
        kept = {self.roots[n] for n in self.plan.outputs}
        for step in self.plan.steps:
            if isinstance(step, Opaque) and step.op.title not in NEVER_ALIAS:
                kept.update(self.roots[n] for n in step.inputs)
        makers = {
            n: k
            for k, step in enumerate(self.plan.steps)
            if isinstance(step, Launch)
            for n in step.outputs
        }
        for step in self.plan.steps:
            if isinstance(step, Write) and step.source in makers:
                source, given = buffers[step.source], buffers[step.input]
                fits = source.kind == "arena" and source.type == given.type
                if fits and step.source not in named and step.input not in kept:
                    found.setdefault(makers[step.source], []).append(step)
        return found

    def take(self, at: int, writes: Sequence[Write]) -> None:
        """Let a launch store to inputs, all that may be."""
        launch = self.plan.steps[at]
        assert isinstance(launch, Launch) and launch.op.body is not None
        nest = build_nest(launch.op.body)
        if isinstance(nest, Refusal):
            return
        ends = {w: self.end(at, w.input) for w in writes if self.fits(launch, nest, w)}
        end = max(ends.values(), default=at)
        if end > at and not self.may_move(at, end):
            ends, end = {w: k for w, k in ends.items() if k == at}, at
        if end > at:
            self.places[at] = (end, 1, len(self.places))
        for write in ends:
            self.memory[write.source] = write.input
            names = (f"in{k}" for k in self.reads(launch, write.input))
            output = launch.outputs.index(write.source)
            self.shared.setdefault(at, set()).update((f"out{output}", *names))

    def reads(self, launch: Launch, root: int) -> list[int]:
        """Which of a launch's inputs are of this memory."""
        return [k for k, n in enumerate(launch.inputs) if self.roots[n] == root]

    def fits(self, launch: Launch, nest: Nest, write: Write) -> bool:
        output = launch.outputs.index(write.source)
        return _one_by_one(nest, self.reads(launch, write.input), output)

    def end(self, at: int, root: int) -> int:
        """The last step that reads an input, or that may fail; `at` if it is before."""
        users = (k for k in self.users.get(root, ()) if k != at)
        return max(at, self.safe, *(self.places.get(k, (k,))[0] for k in users))

    def may_move(self, at: int, end: int) -> bool:
        """Whether a launch may as well run after a later step: nobody has used what it
        makes by then, or has overwritten what it reads."""
        launch = self.plan.steps[at]
        assert isinstance(launch, Launch)
        users = (k for n in launch.outputs for k in self.users[n] if k != at)
        given = set(self.memory.values())
        kept = all(self.roots[n] not in given for n in launch.inputs)
        return kept and all(k > end for k in users)

    def steps(self) -> tuple[Step, ...]:
        """The plan's steps, as decided."""
        steps = self.plan.steps
        order = sorted(range(len(steps)), key=lambda k: self.places.get(k, (k, 0, 0)))
        return tuple(self.step(k) for k in order)

    def step(self, k: int) -> Step:
        step = self.plan.steps[k]
        match step:
            case Launch(op, inputs, outputs):
                if k in self.shared:
                    names = tuple(sorted(self.shared[k]))
                    kept = {n: a for n, a in op.attrs.items() if n not in STRIP}
                    op = replace(op, attrs={**kept, SHARED: names})
                return Launch(op, _put(inputs, self.memory), _put(outputs, self.memory))
            case Write(source, index) if source in self.memory:
                return Write(self.memory[source], index)
        return step


def _put(numbers: Sequence[int], others: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(others.get(n, n) for n in numbers)


def _one_by_one(nest: Nest, inputs: Sequence[int], output: int) -> bool:
    """Whether a row reads of these inputs only the element that it stores."""
    (store, *others) = [s for s in nest.stores if s.output == output]
    loads = [
        (n, element)
        for n, element in zip(nest.nodes, nest.per_element)
        if isinstance(n, Load) and n.buffer in inputs
    ]
    rows = {a.name for a in nest.rows if a.extent != 1}
    whole = not others and store.among is None and store.index.axes() == rows
    same = all(n.index == store.index and not each for n, each in loads)
    return whole and same and not nest.per_element[store.node] and not nest.in_order
