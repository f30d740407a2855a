"""Memory that two values of a program share in eager mode, where one is written.

row = x[0]; row[1] = 3.0; x      y = x.detach(); y[0] = 1.0; x      x[0][1] = 3.0

In Paddle's program each write makes a value of its own, and whatever else lies in the
same memory stays as it was. `stale` finds a read of such a value behind the write, and
a write to a view of an input: eager runs those functions. Where all slices are known
to be apart, nothing is stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paddle.autograd.backward_utils import ValueDict, ValueSet

from pirol.compiler.capture.attributes import attributes, fixed_numbers
from pirol.compiler.capture.facts import INPLACE
from pirol.compiler.capture.in_place import INPUTS

_VIEWS = (
    "as_real diagonal flatten imag real reshape share_data_ slice split "
    "split_with_num squeeze strided_slice transpose unbind unsqueeze"
)
VIEWS = {f"pd_op.{name}" for name in _VIEWS.split()}
VIEWS |= {"builtin.split", "builtin.slice"}
# What is read of a value is its shape alone.
SHAPES = ("pd_op.shape", "pd_op.shape64", "pd_op.numel", "pd_op.full_like")
Box = dict[int, tuple[int, int]]  # axis -> start, end


def stale(program: Any, outputs: Any) -> str:
    """Why a program is not what eager does, or ""."""
    memory = _Memory()
    for op in ops_of(program.global_block()):
        name = op.name()
        if "_grad" not in name and name not in SHAPES and memory.reads_stale(op):
            return f"{name} reads what a write to a view of it, or of its base, changed"
        why = memory.follow(op, name)
        if why:
            return why
    if any(v in memory.stale for v in outputs):
        return "a result is what a write to a view of it, or of its base, changed"
    return ""


def ops_of(block: Any) -> Iterator[Any]:
    """The ops of a block, and of the blocks in it, in order."""
    for op in block.ops:
        yield op
        for inner in op.blocks():
            yield from ops_of(inner)


def may_end(program: Any) -> bool:
    """Whether Paddle's backward of a program may end the process: of a `while`, and of
    the gradient of a concat of which some part has none."""
    names = ("pd_op.while", "pd_op.concat_grad")
    return any(op.name() in names for op in ops_of(program.global_block()))


class _Memory:
    """Which values lie in one memory, up to some op, and which were overwritten."""

    def __init__(self) -> None:
        self.base = ValueDict()  # view -> what it is a view of, at last
        self.parts = ValueDict()  # base -> its views
        self.box = ValueDict()  # a slice of a base, of known ends -> where it is
        self.stale = ValueSet()

    def reads_stale(self, op: Any) -> bool:
        sources = [o.source() for o in op.operands()]
        return any(v.initialized() and v in self.stale for v in sources)

    def follow(self, op: Any, name: str) -> str:
        """Note an op; why it is not what eager does, or ""."""
        if name in VIEWS:
            self.view(op, name)
        elif name.endswith("_") and not name.endswith("__"):
            for new, old in INPLACE.get(name, {0: 0}).items():
                if self.of_input(op.operand_source(old)):
                    return f"{name} writes to a view of an input"
                self.write(op, op.operand_source(old), op.results()[new])
        return ""

    def view(self, op: Any, name: str) -> None:
        value = op.operand_source(0)
        base = self.base.get(value, value)
        for result in op.results():
            self.base[result] = base
            self.parts[base] = [*self.parts.get(base, []), result]
            if value.is_same(base):
                self.box[result] = _box(op, name)

    def of_input(self, value: Any) -> bool:
        """Whether it is a view of what the caller has."""
        base = self.base.get(value, value)
        maker = base.get_defining_op()
        return not base.is_same(value) and (maker is None or maker.name() in INPUTS)

    def write(self, op: Any, target: Any, result: Any) -> None:
        """Note a write to a value's memory, of which `result` is all that is known
        from here on, with the views that lie apart from what is written."""
        base = self.base.get(target, target)
        whole = base.is_same(target)
        box = _box(op, op.name()) if whole else {}
        others = [v for v in [base, *self.parts.get(base, [])] if not v.is_same(target)]
        apart: list[Any] = []
        for value in others:
            if value in self.box and _apart(self.box[value], box):
                self.base[value] = result
                apart.append(value)
            else:
                self.stale.add(value)
        self.parts[result] = apart


def _apart(a: Box, b: Box) -> bool:
    """Whether two slices of one value have no element in common."""
    pairs = [(a[axis], b[axis]) for axis in a if axis in b]
    return any(x[1] <= y[0] or y[1] <= x[0] for x, y in pairs)


def _box(op: Any, name: str) -> Box:
    """The ends along each axis that a slice, or a write to one, names as numbers."""
    first = {"pd_op.slice": 1, "pd_op.set_value_": 1, "pd_op.set_value_with_tensor_": 2}
    if name not in first:
        return {}
    count = 2 if name == "pd_op.slice" else 3
    starts, ends, *steps = (
        fixed_numbers(op.operand_source(first[name] + k)) or [] for k in range(count)
    )
    if any(step < 1 for given in steps for step in given):
        return {}
    shape, axes = op.operand_source(0).shape, attributes(op)["axes"]
    found = {}
    for axis, start, end in zip(axes, starts, ends):
        size = shape[axis]
        if size >= 0:
            found[axis] = _within(start, size), _within(end, size)
    return found


def _within(place: int, size: int) -> int:
    return min(max(place + size if place < 0 else place, 0), size)
