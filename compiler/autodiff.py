"""Reverse-mode differentiation: a graph -> the graph of its vector-Jacobian product.

`vjp(f)` of `f: x, n -> y` is `f_vjp: x, n, dy -> dx`: the inputs of f, then one
cotangent for each float output; the gradient of each float input, "float" being
complex numbers too, whose gradient is dL/dx + j dL/dy of x + jy. Values that the
gradient needs are computed anew, so the result is again differentiable to any order.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pirol.compiler.dims import same_shape
from pirol.compiler.errors import ShapeError, Unsupported, message
from pirol.compiler.ir import (
    CONTROL,
    INEXACT,
    Graph,
    Op,
    TensorType,
    Value,
    prune,
    rename,
)
from pirol.prim import PRIMS, Builder, Facts
from pirol.prim.decomp.dropout import kept
from pirol.prim.decomp.gradients import GRADIENTS

EXPANDED = ("call", "group")  # their bodies stand for them
STOP = "stop_gradient"
Level = tuple[tuple[int, ...], tuple[int, ...]]


def vjp(
    graph: Graph,
    *,
    wrt: Sequence[int] | None = None,
    given: Sequence[int] | None = None,
) -> Graph:
    """The graph of gradients with respect to the float inputs in `wrt` (None: all).

    given: the float outputs that have a cotangent (None: all). An input on which none
    of them depends has a gradient of zeros. Raises Unsupported where a cotangent
    reaches an op that has no gradient rule.
    """
    chosen = _chosen(graph, wrt)
    found = _differentiated(graph, chosen, effects=False, unused=True, given=given)
    made = replace(found.graph, name=f"{graph.name}_vjp", writes=())
    return prune(replace(made, outputs=found.graph.outputs[len(graph.outputs) :]))


@dataclass(frozen=True)
class Joint:
    """A graph and its gradient in one: inputs, then cotangents of the float outputs;
    outputs, then gradients. `active` are the outputs that have a gradient, `wrt` the
    inputs, of those asked for, on which they depend."""

    graph: Graph
    active: tuple[int, ...]
    wrt: tuple[int, ...]


def joint(
    graph: Graph,
    wrt: Sequence[int],
    *,
    given: Sequence[int] | None = None,
    unused: bool = False,
) -> Joint:
    """The graph with its gradient with respect to the float inputs in `wrt`.

    Nothing is computed twice, so its ops may draw random numbers. given: as for vjp.
    Inputs that no output depends on are left out, or (unused) have zeros. Raises
    Unsupported as vjp does, and where a wanted input is also written.
    """
    for index, _ in graph.writes:
        if index in wrt:
            kind = str(graph.inputs[index].type)
            expected = "an input that is not written, or that stops gradients"
            what = f"gradient of input {index}"
            raise Unsupported(message(what, got=kind, expected=expected))
    chosen = _chosen(graph, wrt)
    found = _differentiated(graph, chosen, effects=True, unused=unused, given=given)
    return replace(found, graph=prune(found.graph))


def branch_gradient(branch: Graph, levels: Sequence[Level]) -> Graph:
    """What a control op's branch becomes in the gradient of these levels: its inputs
    are the branch's, then cotangents. Operands count from the op's condition."""
    for wanted, given in levels:
        branch = vjp(branch, wrt=[k - 1 for k in wanted], given=given)
    return branch


def _differentiated(
    graph: Graph,
    wrt: Sequence[int],
    effects: bool,
    unused: bool,
    given: Sequence[int] | None = None,
) -> Joint:
    """With zeros for inputs on which no output depends, or (not unused) without."""
    b = Builder(Facts(guards=list(graph.guards)))
    inputs = [b.input(v.type) for v in graph.inputs]
    wanted = [inputs[k] for k in wrt]
    results = _emit(b, graph, inputs, effects)
    outputs = results[: len(graph.outputs)]
    places = [k for k, _ in graph.writes]
    writes = tuple(zip(places, results[len(outputs) :]))
    ends = [
        (output, b.input(kind.type))
        for k, (kind, output) in enumerate(zip(graph.outputs, outputs))
        if kind.dtype in INEXACT and (given is None or k in given)
    ]
    cts, reached = _pulled(b, tuple(b.ops), ends, wanted)
    b.line = ""
    used = [k for k, v in zip(wrt, wanted) if unused or v in cts]
    found = [*outputs, *(cts.of(inputs[k]) for k in used)]
    made = b.graph(graph.name, found, writes=writes, guards=graph.guards)
    active = tuple(k for k, v in enumerate(outputs) if v in reached)
    return Joint(made, active, tuple(used))


def pullback(
    b: Builder,
    ops: Sequence[Op],
    ends: Sequence[tuple[Value, Value]],
    wanted: Sequence[Value],
) -> list[Value]:
    """The gradients of some values on which `ops`, which `b` has made, depend.

    ends: results of the ops with their cotangents.
    """
    cts, _ = _pulled(b, ops, ends, wanted)
    return [cts.of(v) for v in wanted]


def _pulled(
    b: Builder,
    ops: Sequence[Op],
    ends: Sequence[tuple[Value, Value]],
    wanted: Sequence[Value],
) -> tuple[_Cotangents, set[Value]]:
    """All cotangents, and the values that depend on those wanted."""
    reached = _active(ops, wanted)
    cts = _Cotangents(b)
    for output, ct in ends:
        if output in reached:
            cts.add(output, ct)
    for op in reversed(ops):
        _pull(b, op, cts, reached)
    return cts, reached


def without_stops(graph: Graph) -> Graph:
    """The graph after differentiation: a `stop_gradient` is its operand."""
    stops = {op.result: op.operands[0] for op in graph.ops if op.name == STOP}
    return rename(graph.with_ops(op for op in graph.ops if op.name != STOP), stops)


def drawn_apart(graph: Graph) -> Graph:
    """The graph with what dropout draws, its mask, apart from what it does with it."""
    b = Builder(Facts(guards=list(graph.guards)))
    replaced: dict[Value, Value] = {}
    for op in graph.ops:
        b.add_op(op)
        constants = op.attrs.get("constants", ())
        if op.title == "pd_op.dropout" and len(constants) == 1:
            b.line = op.line
            replaced[op.results[0]] = _dropped(b, op, constants[0])
    return rename(graph.with_ops(b.ops), replaced)


def _dropped(b: Builder, op: Op, p: float) -> Value:
    x, mask = op.operands[0], op.results[1]
    return kept(b, x, b.ne(mask, 0), p, op.attrs["mode"] == "upscale_in_train")


def lifted(graph: Graph) -> tuple[Graph, list[int]]:
    """The graph with what its ops draw at random as further inputs, and the places of
    those values in `drawn(graph)`."""
    read = {v for op in graph.ops for v in op.operands} | {*graph.results}
    values = drawn(graph)
    places = [k for k, v in enumerate(values) if v in read]
    rest = graph.with_ops(op for op in graph.ops if not op.attrs.get("effect"))
    inputs = (*graph.inputs, *(values[k] for k in places))
    return replace(rest, inputs=inputs, writes=()), places


def drawn(graph: Graph) -> list[Value]:
    """The results of ops that draw random numbers."""
    return [v for op in graph.ops if op.attrs.get("effect") for v in op.results]


def _chosen(graph: Graph, wrt: Sequence[int] | None) -> list[int]:
    if wrt is None:
        return [k for k, v in enumerate(graph.inputs) if v.dtype in INEXACT]
    for k in wrt:
        if graph.inputs[k].dtype not in INEXACT:
            kind = graph.inputs[k].type
            raise Unsupported(
                message(f"gradient of input {k}", got=str(kind), expected="a float")
            )
    return list(wrt)


def _emit(
    b: Builder, graph: Graph, inputs: Sequence[Value], effects: bool
) -> list[Value]:
    """The graph's ops made again in `b`, bodies in place of calls; its results."""
    env = dict(zip(graph.inputs, inputs))
    line = b.line  # a call's own line is the user's; its body has none or ours
    for op in graph.ops:
        b.line = line or op.line
        operands = [env[v] for v in op.operands]
        env.update(zip(op.results, _again(b, op, operands, effects)))
    b.line = line
    return [env[v] for v in graph.results]


def _again(
    b: Builder, op: Op, operands: Sequence[Value], effects: bool
) -> Sequence[Value]:
    if op.name in EXPANDED and op.body is not None:
        return _emit(b, op.body, operands, effects)
    if op.attrs.get("effect") and not effects:
        raise _unsupported(op, b.line, "has an effect, which a gradient would repeat")
    results = tuple(Value(r.type) for r in op.results)
    again = replace(op, operands=tuple(operands), results=results, line=b.line)
    return b.add_op(again).results


def _active(ops: Sequence[Op], wanted: Sequence[Value]) -> set[Value]:
    """The values that a wanted input reaches through floats and complex alone."""
    found = set(wanted)
    for op in ops:
        if found.isdisjoint(op.operands) or op.name == STOP:
            continue
        found.update(r for r in _reached(op, found) if r.dtype in INEXACT)
    return found


def _reached(op: Op, active: Container[Value]) -> Sequence[Value]:
    """The results that depend on active operands; those of an `if`, in a branch."""
    if op.name not in CONTROL or "gradient" in op.attrs:
        return op.results
    if op.name == "pd_op.while":
        places = [k for k, v in enumerate(op.operands) if v in active]
        return [op.results[k - 1] for k in _carried(op.branches[0], places)]
    found = []
    for branch in op.branches:
        pairs = zip(branch.inputs, op.operands[1:])
        inner = _active(branch.ops, [v for v, operand in pairs if operand in active])
        found += [r for r, v in zip(op.results, branch.outputs) if v in inner]
    return found


def _carried(body: Graph, operands: Sequence[int]) -> list[int]:
    """The operands of a `while` that are loop variables and come to depend on these."""
    while True:
        late = dependent(body, [k - 1 for k in operands]) - {0}
        if late <= set(operands):
            return [k for k in operands if k < len(body.outputs)]
        operands = sorted(late.union(operands))


def dependent(graph: Graph, inputs: Iterable[int]) -> set[int]:
    """The float outputs that depend on some of the inputs, by their places."""
    found = _active(graph.ops, [graph.inputs[k] for k in inputs])
    return {k for k, v in enumerate(graph.outputs) if v in found}


def reaching(graph: Graph, outputs: Iterable[int]) -> set[Value]:
    """The values that outputs depend on through floats and complex alone."""
    found = {v for k in outputs if (v := graph.outputs[k]).dtype in INEXACT}
    for op in reversed(graph.ops):
        if op.name != STOP and not found.isdisjoint(op.results):
            found.update(v for v in op.operands if v.dtype in INEXACT)
    return found


def loop_level(op: Op) -> Level:
    """The gradient of a loop's body that the gradient of the loop goes through: of the
    variables that depend on what is wanted, and of what is wanted besides."""
    body, (wanted, _) = op.branches[0], op.attrs["gradient"][0]
    carried = tuple(_carried(body, wanted))
    rest = tuple(k for k in wanted if k >= len(body.outputs))
    return (*carried, *rest), carried


def _pull(b: Builder, op: Op, cts: _Cotangents, active: set[Value]) -> None:
    """Pass the cotangents of an op's results on to its active operands."""
    if not any(r in cts for r in op.results):
        return
    if _is_whole(op):
        if not _pull_by_rule(b, op, cts, active):
            _pull_whole(b, op, cts, active)
        return
    rule = PRIMS[op.name].vjp if op.name in PRIMS else None
    if rule is None:
        why = op.attrs.get("why", "")
        if op.branches:
            why = "it draws random numbers, or acts"
        raise _unsupported(
            op, op.line, "has no gradient rule" + (f": {why}" if why else "")
        )
    b.line = op.line
    given = [cts.of(r) if r.dtype in INEXACT else None for r in op.results]
    ends = (op.operands, op.results)
    if op.name != "conj" and all(any(v.is_complex for v in e) for e in ends):
        # Analytic: by Cauchy and Riemann the rule for floats holds between conjugates.
        grads = [conjugate(b, g) for g in rule(b, op, conjugate(b, given))]
    else:
        grads = list(rule(b, op, given))
    if len(grads) != len(op.operands):
        got, wanted = f"{len(grads)} gradients", f"{len(op.operands)}, one an operand"
        raise ShapeError(message(f"gradient of {op.name}", got=got, expected=wanted))
    for operand, grad in zip(op.operands, grads):
        if grad is not None and operand in active:
            _fits(op, grad.type, operand.type)
            cts.add(operand, grad)


def _is_whole(op: Op) -> bool:
    """Whether its gradient is an op of the same kind."""
    fit = "site" in op.attrs and not op.attrs.get("effect")
    return fit and op.name in ("opaque", *CONTROL)


def _pull_by_rule(b: Builder, op: Op, cts: _Cotangents, active: set[Value]) -> bool:
    """By our rule for an op of Paddle's, of real numbers, which can be differentiated
    again as Paddle's own gradient cannot; whether there is one."""
    own, values = GRADIENTS.get((op.title, 1)), (*op.operands, *op.results)
    if own is None or len(own.operands) != len(op.operands) or "gradient" in op.attrs:
        return False
    if any(v.is_complex for v in values):
        return False
    given = dict(zip((*own.operands, *own.made), values))
    given |= {f"{k}_grad": cts.of(r) for k, r in zip(own.made, op.results) if r in cts}
    b.line = op.line
    try:
        operands = [given.get(name) for name in own.rule.operands]
        found = dict(zip(own.results, own.rule(b, operands, op.attrs)))
    except (Unsupported, ShapeError):
        return False
    for name, operand in zip(own.operands, op.operands):
        grad = found.get(f"{name}_grad")
        if grad is not None and operand in active:
            cts.add(operand, grad)
    return True


def _pull_whole(b: Builder, op: Op, cts: _Cotangents, active: set[Value]) -> None:
    """By an op of the same site, which Paddle differentiates, or the same branches, to
    be differentiated when they are compiled. It has one more level of (the operands
    whose gradients it gives, the results whose cotangents follow its operands)."""
    given = tuple(k for k, r in enumerate(op.results) if r in cts)
    wanted = tuple(k for k, v in enumerate(op.operands) if v in active)
    wanted = tuple(k for k in wanted if _reaches(op, k, given))
    if not wanted:
        return
    attrs = {**op.attrs, "gradient": (*op.attrs.get("gradient", ()), (wanted, given))}
    if not op.branches:
        attrs["callee"] = f"{op.title}_grad"
    operands = (*op.operands, *(cts.of(op.results[k]) for k in given))
    b.line = op.line
    results = tuple(Value(op.operands[k].type) for k in wanted)
    new = replace(op, operands=operands, attrs=attrs, results=results)
    for k, grad in zip(wanted, b.add_op(new).results):
        cts.add(op.operands[k], grad)


def _reaches(op: Op, operand: int, results: Sequence[int]) -> bool:
    """Whether some of the results may depend on an operand."""
    found = _reached(op, {op.operands[operand]})
    return any(op.results[k] in found for k in results)


def conjugate(b: Builder, part: Any) -> Any:
    """The conjugate of a value, or of several, as far as they are there and complex."""
    if isinstance(part, list):
        return [conjugate(b, v) for v in part]
    return b.conj(part) if isinstance(part, Value) and part.is_complex else part


def _fits(op: Op, got: TensorType, expected: TensorType) -> None:
    if got.dtype == expected.dtype and same_shape(got.shape, expected.shape):
        return
    name = f"gradient of {op.name}"
    raise ShapeError(message(name, got=str(got), expected=str(expected), line=op.line))


def _unsupported(op: Op, line: str, why: str) -> Unsupported:
    where = f" (at {line})" if line else ""
    return Unsupported(f"{op.title}{where}: {why}")


class _Cotangents:
    """Each active value's cotangent so far, added up in the order that they come."""

    def __init__(self, b: Builder) -> None:
        self.b = b
        self.found: dict[Value, Value] = {}

    def __contains__(self, value: Value) -> bool:
        return value in self.found

    def add(self, value: Value, ct: Value) -> None:
        """One more share; users come last to first, so the order is fixed."""
        before = self.found.get(value)
        self.found[value] = ct if before is None else self.b.add(before, ct)

    def of(self, value: Value) -> Value:
        """The sum of the shares; zeros where there is none."""
        found = self.found.get(value)
        if found is None:
            kind = value.type
            found = self.b.const(value=0.0, shape=kind.shape, dtype=kind.dtype)
        return found
