"""Letting Paddle run one op: directly where its signature is known, else as a program.

`caller(program)(op)` is a callable of the op's operand tensors (vectors flattened)
that returns its results as a list.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle.autograd.backward_utils import ValueDict, ValueSet
from paddle.base.dygraph.base import switch_to_static_graph
from paddle.base.libpaddle import pir
from paddle.jit.dy2static.pir_partial_program import PartialProgramLayer

from pirol.compiler.capture.attributes import attributes
from pirol.compiler.capture.direct import direct
from pirol.compiler.capture.library import library
from pirol.compiler.capture.reader import Program, flat_operands, is_fixed
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import Graph, Op
from pirol.prim import PRIMS

_names = itertools.count()


Branch = Callable[[Sequence[Any]], list[Any]]


def caller(
    program: Program, branch: Callable[[Graph], Branch]
) -> Callable[[Op], Callable[..., Any]]:
    """How an opaque op, claimed call or control op of the program is run.

    All are Paddle's but the branches of control ops, which `branch` compiles.
    """

    users, returned = program.graph.users(), set(program.graph.results)
    needed = {
        op.attrs["site"]: any(users[r] or r in returned for r in op.results[1:])
        for op in program.graph.ops
        if "site" in op.attrs
    }

    def of(op: Op) -> Callable[..., Any]:
        if op.branches:
            return _control(op, [branch(g) for g in op.branches])
        if op.name in PRIMS:
            return library(op)
        number = op.attrs["site"]
        site, opaque = program.sites[number], op.name == "opaque"
        if site.name() == "pd_op.assign_value_":
            return _constant(site)
        quick = direct(site, opaque, not needed[number])
        made: Callable[..., Any] = quick or _as_program(site, opaque)
        return made

    return of


def _control(op: Op, branches: Sequence[Branch]) -> Callable[..., Any]:
    if op.name == "pd_op.if":
        return lambda goes, *tensors: branches[0 if goes else 1](tensors)
    count = len(op.results)

    def loop(goes: Any, *tensors: Any) -> list[Any]:
        values, fixed = list(tensors[:count]), tensors[count:]
        while goes:
            goes, *values = branches[0]([*values, *fixed])
        return values

    return loop


def _constant(site: Any) -> Callable[..., Any]:
    attrs = attributes(site)
    value = paddle.to_tensor(attrs["values"], dtype=attrs["dtype"])
    value = value.reshape(attrs["shape"])
    return lambda: value.clone()


@switch_to_static_graph  # type: ignore[untyped-decorator]
def _as_program(site: Any, fixed: bool) -> Callable[..., Any]:
    """A one-op Program, run as to_static runs its own: about 50 us a call.

    fixed: whether constant operands are made in it, else they are among the tensors.
    """
    flat = [v for v in _whole_vectors(site) if not (fixed and is_fixed(v))]
    seen, places = ValueSet(), []  # where each distinct operand first stands
    for k, value in enumerate(flat):
        if value not in seen:
            seen.add(value)
            places.append(k)
    program, mapping, inputs = paddle.static.Program(), pir.IrMapping(), []
    with paddle.static.program_guard(program):
        for value in (flat[k] for k in places):
            name = f"pirol_operand_{next(_names)}"
            data = paddle.static.data(name, value.shape, value.dtype)
            data.stop_gradient = True
            mapping.add(value, data)
            inputs.append(data)
        for op in [*_makers(site, fixed), site]:
            op.clone(mapping, pir.CloneOptions(True, True, True))
        outputs: list[Any] = []
        for result in site.results():
            if result.initialized():
                made = mapping.look_up(result)
                vector = made.type().as_vec_type() is not None
                outputs += list(paddle._C_ops.builtin_split(made)) if vector else [made]
    layer = PartialProgramLayer(program, inputs, [outputs], ([], []))
    layer.training = False
    # Paddle's executor runs a program for one thread at a time.
    lock = threading.RLock()

    def run(*tensors: Any) -> Any:
        with lock:
            return layer.sot_call([tensors[k] for k in places])

    return run


def _whole_vectors(site: Any) -> list[Any]:
    """All operand values, vectors flattened."""
    found = flat_operands(site)
    for value in found:
        if value.type().as_vec_type() is not None:
            maker = value.get_defining_op().name()
            raise Unsupported(f"{site.name()} takes a vector that {maker} made")
    return found


def _makers(site: Any, fixed: bool) -> list[Any]:
    """The ops that make the operands' vectors and (fixed) constants, each once."""
    values = [v for v in flat_operands(site) if fixed and is_fixed(v)]
    sources = [o.source() for o in site.operands()]
    values += [
        v for v in sources if v.initialized() and v.type().as_vec_type() is not None
    ]
    found = ValueDict()
    for value in values:
        found[value] = value.get_defining_op()
    return [op for _, op in found.items()]
