"""donate: a plan -> one whose kernels update inputs that are written in place.

A write is a copy, at the call's end, of what a kernel made. Where the kernel reads each
element of the input only for the element that it makes of it, it can store to the
input's own memory; it then runs after all else that reads the input, and where nothing
may fail any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pirol.kernels.lower import Refusal, build_nest
from pirol.kernels.nest import Load, Nest
from pirol.passes.plan import (
    Bind,
    Check,
    Launch,
    Opaque,
    Plan,
    Step,
    Write,
    lifetimes,
    touched,
)

SHARED = "shared"  # a launch's attribute: the kernel's buffers that may be one memory
MAY_FAIL = (Opaque, Bind, Check)


def donate(plan: Plan) -> Plan:
    """The plan, with the inputs' own memory in place of what is copied there."""
    for step in plan.steps:
        if isinstance(step, Write):
            plan = _donated(plan, step)
    spans = tuple(lifetimes(plan.buffers, plan.steps))
    return replace(plan, lifetimes=spans)


def _donated(plan: Plan, write: Write) -> Plan:
    """The plan without the write's copy, if that may be."""
    at = _maker(plan, write)
    if at is None:
        return plan
    launch = plan.steps[at]
    assert isinstance(launch, Launch) and launch.op.body is not None
    output = launch.outputs.index(write.source)
    inputs = [k for k, n in enumerate(launch.inputs) if _root(plan, n) == write.input]
    nest = build_nest(launch.op.body)
    if isinstance(nest, Refusal) or not _one_by_one(nest, inputs, output):
        return plan
    last = _last(plan, at, write.input)
    if not _may_move(plan, at, last):
        return plan
    names = {f"out{output}", *(f"in{k}" for k in inputs)}
    names |= {*launch.op.attrs.get(SHARED, ())}
    op = replace(launch.op, attrs={**launch.op.attrs, SHARED: tuple(sorted(names))})
    new = replace(launch, op=op)
    steps = [*plan.steps[:at], *plan.steps[at + 1 : last + 1], new]
    steps += plan.steps[last + 1 :]
    renamed = (_renamed(s, write.source, write.input) for s in steps)
    return replace(plan, steps=tuple(renamed))


def _maker(plan: Plan, write: Write) -> int | None:
    """The launch that makes what is written, if that has no other name or memory."""
    source, given = plan.buffers[write.source], plan.buffers[write.input]
    if source.kind != "arena" or source.type != given.type:
        return None
    views = [n for n, b in enumerate(plan.buffers) if b.kind == "alias"]
    if any(_root(plan, n) == write.source for n in views):
        return None
    if any(_root(plan, n) == write.input for n in plan.outputs):
        return None
    for at, step in enumerate(plan.steps):
        if isinstance(step, Launch) and write.source in step.outputs:
            return at
    return None


def _last(plan: Plan, at: int, given: int) -> int:
    """The last step that reads an input, or that may fail; not before `at`."""
    last = at
    for k, step in enumerate(plan.steps):
        reads = any(_root(plan, n) == given for n in touched(step))
        if reads or isinstance(step, MAY_FAIL):
            last = max(last, k)
    return last


def _may_move(plan: Plan, at: int, last: int) -> bool:
    """Whether a launch may as well run after step `last`."""
    launch, between = plan.steps[at], plan.steps[at + 1 : last + 1]
    assert isinstance(launch, Launch)
    made = {_root(plan, n) for n in launch.outputs}
    read = {_root(plan, n) for n in launch.inputs}
    for step in between:
        if isinstance(step, Write):
            return False
        if not made.isdisjoint(_root(plan, n) for n in touched(step)):
            return False
        if isinstance(step, Launch) and not read.isdisjoint(
            _root(plan, n) for n in step.outputs
        ):
            return False
    return True


def _root(plan: Plan, number: int) -> int:
    """The buffer whose memory it is."""
    while plan.buffers[number].kind == "alias":
        number = plan.buffers[number].of
    return number


def _one_by_one(nest: Nest, inputs: Sequence[int], output: int) -> bool:
    """Whether a row reads of these inputs only the element that it stores."""
    (store, *others) = [s for s in nest.stores if s.output == output]
    loads = [
        (n, element)
        for n, element in zip(nest.nodes, nest.per_element)
        if isinstance(n, Load) and n.buffer in inputs
    ]
    rows = {a.name for a in nest.rows if a.extent != 1}
    whole = not others and store.added is None and store.index.axes() == rows
    same = all(n.index == store.index and not each for n, each in loads)
    return whole and same and not nest.per_element[store.node] and not nest.in_order


def _renamed(step: Step, old: int, new: int) -> Step:
    """The step with another buffer in the place of one."""

    def put(numbers: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(new if n == old else n for n in numbers)

    match step:
        case Launch(_, inputs, outputs):
            return replace(step, inputs=put(inputs), outputs=put(outputs))
        case Write(source, _) if source == old:
            return replace(step, source=new)
    return step
