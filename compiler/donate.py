"""donate: a plan -> one whose kernels update inputs that are written in place.

A write is a copy, at the call's end, of what a kernel made. Where that kernel is the
last to read the input, and reads each element only for the element that it makes of it,
it can store to the input's own memory; nothing may fail from there on.
"""

from __future__ import annotations

from dataclasses import replace

from pirol.kernels.lower import Refusal, build_nest
from pirol.kernels.nest import Load, Nest
from pirol.passes.plan import Bind, Check, Launch, Opaque, Plan, Step, Write, touched

SHARED = "shared"  # a launch's attribute: the kernel's buffers that may be one memory


def donate(plan: Plan) -> Plan:
    """The plan, with the inputs' own memory in place of what is copied there."""
    for step in plan.steps:
        if isinstance(step, Write):
            plan = _donated(plan, step)
    return plan


def _donated(plan: Plan, write: Write) -> Plan:
    """The plan without the write's copy, if that may be."""
    found = _maker(plan, write)
    if found is None:
        return plan
    at, launch = found
    output = launch.outputs.index(write.source)
    inputs = [k for k, n in enumerate(launch.inputs) if _root(plan, n) == write.input]
    assert launch.op.body is not None
    nest = build_nest(launch.op.body)
    if isinstance(nest, Refusal) or not _one_by_one(nest, inputs, output):
        return plan
    names = (f"out{output}", *(f"in{k}" for k in inputs))
    shared = {*launch.op.attrs.get(SHARED, ()), *names}
    op = replace(
        launch.op, attrs={**launch.op.attrs, SHARED: tuple(sorted(shared))}
    )
    steps = [_renamed(s, write.source, write.input) for s in plan.steps]
    new = steps[at]
    assert isinstance(new, Launch)
    steps[at] = replace(new, op=op)
    return replace(plan, steps=tuple(steps))


def _maker(plan: Plan, write: Write) -> tuple[int, Launch] | None:
    """The launch that makes what is written, where it is the last use of the input,
    and the last step that may fail is before it."""
    source, given = plan.buffers[write.source], plan.buffers[write.input]
    views = [n for n, b in enumerate(plan.buffers) if b.kind == "alias"]
    if source.kind != "arena" or source.type != given.type:
        return None
    if any(_root(plan, n) == write.source for n in views):
        return None
    if any(_root(plan, n) in (write.input, write.source) for n in plan.outputs):
        return None
    for at, step in enumerate(plan.steps):
        if isinstance(step, Launch) and write.source in step.outputs:
            break
    else:
        return None
    for later in plan.steps[at + 1 :]:
        if isinstance(later, (Opaque, Bind, Check)):
            return None
        if any(_root(plan, n) == write.input for n in touched(later)):
            return None
    return at, step


def _root(plan: Plan, number: int) -> int:
    """The buffer whose memory it is."""
    while plan.buffers[number].kind == "alias":
        number = plan.buffers[number].of
    return number


def _one_by_one(nest: Nest, inputs: list[int], output: int) -> bool:
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
