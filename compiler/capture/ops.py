"""Letting Paddle run one op: directly where its signature is known, else as a program.

`caller(program)(op)` is a callable of the op's operand tensors (vectors flattened)
that returns its results as a list.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle.autograd.backward_utils import ValueDict, ValueSet
from paddle.base.dygraph.base import switch_to_static_graph
from paddle.base.libpaddle import pir
from paddle.jit.dy2static.pir_partial_program import PartialProgramLayer

from pirol.compiler.autodiff import Level
from pirol.compiler.capture.attributes import attributes
from pirol.compiler.capture.direct import direct
from pirol.compiler.capture.library import library
from pirol.compiler.capture.reader import Program, flat_operands, is_fixed
from pirol.compiler.errors import Unsupported, message
from pirol.compiler.ir import FLOATS, Graph, Op
from pirol.compiler.loops import loop, loop_gradient
from pirol.prim import PRIMS

_names = itertools.count()


Branch = Callable[[Sequence[Any]], list[Any]]
Compile = Callable[[Graph, Sequence[Level]], Branch]


def caller(program: Program, branch: Compile) -> Callable[[Op], Callable[..., Any]]:
    """How an opaque op, claimed call or control op of the program is run.

    All are Paddle's but the branches of control ops, which `branch` compiles, or
    gradients of them.
    """

    users, returned = program.graph.users(), set(program.graph.results)
    needed = {
        op.attrs["site"]: any(users[r] or r in returned for r in op.results[1:])
        for op in program.graph.ops
        if "site" in op.attrs
    }

    def of(op: Op) -> Callable[..., Any]:
        if op.branches:
            return _control(op, branch)
        if op.name in PRIMS:
            return library(op)
        number = op.attrs["site"]
        site, opaque = program.sites[number], op.name == "opaque"
        if site.name() == "pd_op.assign_value_":
            return _constant(site)
        if "gradient" in op.attrs:
            return _gradient(op, site)
        quick = direct(site, opaque, not needed[number])
        made: Callable[..., Any] = quick or _as_program(site, opaque)
        return made

    return of


def _gradient(op: Op, site: Any) -> Callable[..., Any]:
    try:
        made: Callable[..., Any] = _as_program(site, True, op.attrs["gradient"])
    except Exception as error:
        expected, got = "an op that Paddle has a gradient of", str(error)
        raise Unsupported(
            message(
                f"gradient of {site.name()}", got=got, expected=expected, line=op.line
            )
        ) from error
    real = [r.dtype in FLOATS for r in op.results]
    if not any(real):
        return made

    def run(*tensors: Any) -> list[Any]:
        """Real gradients of real operands: eig's are complex, by Paddle's program."""
        pairs = zip(made(*tensors), real, strict=True)
        return [g.real() if part and g.is_complex() else g for g, part in pairs]

    return run


def _control(op: Op, branch: Compile) -> Callable[..., Any]:
    levels = op.attrs.get("gradient", ())
    if op.name == "pd_op.if":
        branches = [branch(g, levels) for g in op.branches]
        return lambda goes, *tensors: branches[0 if goes else 1](tensors)
    (body,) = op.branches
    if not levels:
        return loop(op, branch(body, ()))
    bodies = functools.cache(functools.partial(branch, body))
    return loop_gradient(op, bodies, paddle.zeros_like)


def _constant(site: Any) -> Callable[..., Any]:
    attrs = attributes(site)
    value = paddle.to_tensor(attrs["values"], dtype=attrs["dtype"])
    value = value.reshape(attrs["shape"])
    return lambda: value.clone()


@switch_to_static_graph  # type: ignore[untyped-decorator]
def _as_program(
    site: Any, fixed: bool, levels: Sequence[Level] = ()
) -> Callable[..., Any]:
    """A one-op Program, run as to_static runs its own: about 50 us a call.

    fixed: whether constant operands are made in it, else they are among the tensors;
    levels: the op's gradient, that one's gradient, .. instead: of which of the operands
    so far, and of which of its results the cotangents are further operands.
    """
    flat = [v for v in _whole_vectors(site) if not (fixed and is_fixed(v))]
    data, mapping, places = ValueDict(), pir.IrMapping(), []
    program, inputs, tensors = paddle.static.Program(), [], []
    with paddle.static.program_guard(program):
        for k, value in enumerate(flat):
            if value not in data:  # else it has its place
                data[value] = _input(value, bool(levels))
                mapping.add(value, data[value])
                inputs.append(data[value])
                places.append(k)
            tensors.append(data[value])
        for op in [*_makers(site, fixed), site]:
            op.clone(mapping, pir.CloneOptions(True, True, True))
        outputs: list[Any] = []
        for result in site.results():
            if result.initialized():
                made = mapping.look_up(result)
                vector = made.type().as_vec_type() is not None
                outputs += list(paddle._C_ops.builtin_split(made)) if vector else [made]
        for wanted, given in levels:
            ends = [outputs[k] for k in given]
            cts = [_input(v, True) for v in ends]
            outputs = _gradients(ends, cts, [tensors[k] for k in wanted])
            places += range(len(tensors), len(tensors) + len(cts))
            inputs, tensors = [*inputs, *cts], [*tensors, *cts]
    layer = PartialProgramLayer(program, inputs, [outputs], ([], []))
    layer.training = False
    # Paddle's executor runs a program for one thread at a time.
    lock = threading.RLock()

    def run(*tensors: Any) -> Any:
        with lock:
            return layer.sot_call([tensors[k] for k in places])

    return run


def _input(like: Any, differentiable: bool) -> Any:
    """A further input of the program that is being built."""
    made = paddle.static.data(f"pirol_operand_{next(_names)}", like.shape, like.dtype)
    made.stop_gradient = not differentiable
    return made


def _gradients(ends: list[Any], cts: list[Any], wanted: list[Any]) -> list[Any]:
    """The gradients of values; an operand that occurs again has none the next time."""
    for end in ends:
        end.stop_gradient = False
    seen, found = ValueSet(), iter(paddle.static.gradients(ends, wanted, cts))
    grads = []
    for value, grad in zip(wanted, found):
        lone = value not in seen and grad is not None
        grads.append(grad if lone else paddle.zeros_like(value))
        seen.add(value)
    return grads


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
