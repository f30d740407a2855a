"""Edits that put a fault into a kernel, and the check that has to find it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from cuda_simulator import Simulator, SimulatorError
from graph_case import Case
from graph_meaning import Array, Sizes, dtype_of
from graph_runs import built, c_text, cuda_text, launch_c, launch_cuda, steps_of

from pirol.kernels import affine, cpu, cuda
from pirol.kernels.build import build, load
from pirol.kernels.kernel import If, Kernel, Loop, Stmt
from pirol.kernels.nest import Load, Nest

# Edits ------------------------------------------------------------------------------

Edit = Callable[[Any], Any]


def text(old: str, new: str, count: int = 0) -> Edit:
    """Replace what a pattern matches in the source text; it must match."""

    def run(source: str) -> str:
        edited, found = re.subn(old, new, source, count=count)
        assert found, f"{old} does not occur in\n{source}"
        return edited

    return run


def statements(fn: Callable[[Stmt], Sequence[Stmt]]) -> Edit:
    """Replace each statement of a kernel by others, the innermost first."""

    def walk(body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        found: list[Stmt] = []
        for stmt in body:
            if isinstance(stmt, (Loop, If)):
                stmt = replace(stmt, body=walk(stmt.body))
            found += fn(stmt)
        return tuple(found)

    def run(kernel: Kernel) -> Kernel:
        edited = replace(kernel, body=walk(kernel.body))
        assert edited != kernel, "nothing was edited"
        return edited

    return run


def nodes(fn: Callable[[Any], Any]) -> Edit:
    """Replace each node of a nest."""

    def run(nest: Nest) -> Nest:
        edited = replace(nest, nodes=tuple(map(fn, nest.nodes)))
        assert edited != nest, "nothing was edited"
        return edited

    return run


def replaced(value: Any, old: Any, new: Any) -> Any:
    """A statement with an expression replaced wherever it occurs."""
    if value == old and type(value) is type(old):
        return new
    if isinstance(value, tuple):
        return tuple(replaced(v, old, new) for v in value)
    if hasattr(value, "__dataclass_fields__"):
        parts = {f: getattr(value, f) for f in value.__dataclass_fields__}
        return replace(value, **{k: replaced(v, old, new) for k, v in parts.items()})
    return value


def expression(old: Any, new: Any) -> Edit:
    return statements(lambda stmt: [replaced(stmt, old, new)])


def without(kind: type) -> Edit:
    return statements(lambda stmt: [] if isinstance(stmt, kind) else [stmt])


def longer(by: int) -> Edit:
    """Every loop over lanes or threads goes on for `by` more."""

    def run(stmt: Stmt) -> list[Stmt]:
        if not isinstance(stmt, Loop) or stmt.kind not in ("lanes", "threads"):
            return [stmt]
        return [replace(stmt, stop=affine.add(stmt.stop, affine.constant(by)))]

    return statements(run)


def both(*edits: Edit) -> Edit:
    """One edit after the other."""

    def run(value: Any) -> Any:
        for edit in edits:
            value = edit(value)
        return value

    return run


def unguarded(node: Any) -> Any:
    return replace(node, guard=None) if isinstance(node, Load) else node


# Data ------------------------------------------------------------------------------


def special(case: Case, sizes: Sizes) -> list[Array]:
    return case.arrays(sizes, seed=3)


def negative(case: Case, sizes: Sizes) -> list[Array]:
    """So that 0 is larger than all."""
    return [-1 - np.abs(x) for x in case.arrays(sizes, seed=3, special=False)]


def tenths(case: Case, sizes: Sizes) -> list[Array]:
    """Rounding errors of their sum have one sign."""
    shapes = [tuple(s.of(sizes) for s in i.sizes) for i in case.inputs]
    return [np.full(s, 0.1, dtype_of(i.dtype)) for s, i in zip(shapes, case.inputs)]


def large(case: Case, sizes: Sizes) -> list[Array]:
    """Where exp's relative error shows."""
    shapes = [tuple(s.of(sizes) for s in i.sizes) for i in case.inputs]
    return [np.linspace(-80, 80, s[0], dtype=np.float32) for s in shapes]


# Faults -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What is wrong, where, and what the check says of it."""

    what: str
    case: Callable[[], Case]
    edit: Edit
    found: str  # a pattern of the message
    of: str = "text"  # what is edited: nest, kernel, text
    n: int = 9
    data: Callable[[Case, Sizes], list[Array]] = special


WRONG = "are wrong"


def run(fault: Fault, target: str, edit: bool) -> None:
    """The check that the other tests make of a kernel, perhaps of an edited one."""
    case, sizes = fault.case(), {"n": fault.n}
    (step,) = steps_of(case.graph)
    arrays = fault.data(case, sizes)
    given = [arrays[case.graph.inputs.index(v)] for v in step.inputs]

    def edited(what: str, value: Any) -> Any:
        return fault.edit(value) if edit and fault.of == what else value

    nest = edited("nest", step.nest)
    if target == "c":
        kernel = edited("kernel", cpu.schedule(nest))
        (path,) = build([edited("text", c_text([kernel]))])
        address = load(str(path), kernel.name)
        rng = np.random.default_rng(5)
        got = launch_c(address, kernel, given, sizes, rng, place=8)
    else:
        kernel = edited("kernel", cuda.schedule(nest))
        made = built(Simulator, edited("text", cuda_text([kernel])), (kernel.name,))
        got = launch_cuda(made, kernel, given, sizes, blocks=3)
    case.check(sizes, arrays, got, target)


def check_found(fault: Fault, target: str) -> None:
    run(fault, target, edit=False)
    with pytest.raises((AssertionError, SimulatorError), match=fault.found):
        run(fault, target, edit=True)
