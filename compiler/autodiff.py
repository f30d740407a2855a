"""Reverse-mode differentiation: a graph -> the graph of its vector-Jacobian product.

`vjp(f)` of `f: x, n -> y` is `f_vjp: x, n, dy -> dx`: the inputs of f, then one
cotangent for each float output; the gradient of each float input. Values that the
gradient needs are computed anew, so the result is again differentiable to any order.
"""

from __future__ import annotations

from collections.abc import Sequence

from pirol.compiler.dims import same_shape
from pirol.compiler.errors import ShapeError, Unsupported, message
from pirol.compiler.ir import FLOATS, Graph, Op, TensorType, Value, prune
from pirol.prim import PRIMS, Builder, Facts

EXPANDED = ("call", "group")  # their bodies stand for them


def vjp(graph: Graph, *, wrt: Sequence[int] | None = None) -> Graph:
    """The graph of gradients with respect to the float inputs in `wrt` (None: all).

    An input on which no output depends has a gradient of zeros. Raises Unsupported
    where a cotangent reaches an op that has no gradient rule.
    """
    b = Builder(Facts(guards=list(graph.guards)))
    inputs = [b.input(v.type) for v in graph.inputs]
    wanted = [inputs[k] for k in _chosen(graph, wrt)]
    outputs = _emit(b, graph, inputs)
    forward = tuple(b.ops)
    active = _active(forward, wanted)
    cts = _Cotangents(b)
    for kind, output in zip(graph.outputs, outputs):
        if kind.dtype in FLOATS:
            ct = b.input(kind.type)
            if output in active:
                cts.add(output, ct)
    for op in reversed(forward):
        _pull(b, op, cts, active)
    b.line = ""
    found = b.graph(
        f"{graph.name}_vjp", [cts.of(v) for v in wanted], guards=graph.guards
    )
    return prune(found)


def _chosen(graph: Graph, wrt: Sequence[int] | None) -> list[int]:
    if wrt is None:
        return [k for k, v in enumerate(graph.inputs) if v.dtype in FLOATS]
    for k in wrt:
        if graph.inputs[k].dtype not in FLOATS:
            kind = graph.inputs[k].type
            raise Unsupported(
                message(f"gradient of input {k}", got=str(kind), expected="a float")
            )
    return list(wrt)


def _emit(b: Builder, graph: Graph, inputs: Sequence[Value]) -> list[Value]:
    """The graph's ops made again in `b`, bodies in place of calls; its outputs."""
    env = dict(zip(graph.inputs, inputs))
    line = b.line  # a call's own line is the user's; its body has none or ours
    for op in graph.ops:
        b.line = line or op.line
        operands = [env[v] for v in op.operands]
        env.update(zip(op.results, _again(b, op, operands)))
    b.line = line
    return [env[v] for v in graph.outputs]


def _again(b: Builder, op: Op, operands: Sequence[Value]) -> Sequence[Value]:
    if op.name in EXPANDED and op.body is not None:
        return _emit(b, op.body, operands)
    if op.attrs.get("effect"):
        raise _unsupported(op, b.line, "has an effect, which a gradient would repeat")
    types = [r.type for r in op.results]
    return b.op(op.name, operands, types, op.attrs, op.body).results


def _active(ops: Sequence[Op], wanted: Sequence[Value]) -> set[Value]:
    """The values that a wanted input reaches through floats alone."""
    found = set(wanted)
    for op in ops:
        if found.isdisjoint(op.operands):
            continue
        if any(r.dtype.startswith("complex") for r in op.results):
            raise _unsupported(op, op.line, "is complex and has no gradient yet")
        found.update(r for r in op.results if r.dtype in FLOATS)
    return found


def _pull(b: Builder, op: Op, cts: _Cotangents, active: set[Value]) -> None:
    """Pass the cotangents of an op's results on to its active operands."""
    if not any(r in cts for r in op.results):
        return
    rule = PRIMS[op.name].vjp if op.name in PRIMS else None
    if rule is None:
        raise _unsupported(op, op.line, "has no gradient rule")
    b.line = op.line
    given = [cts.of(r) if r.dtype in FLOATS else None for r in op.results]
    grads = rule(b, op, given)
    if len(grads) != len(op.operands):
        got, wanted = f"{len(grads)} gradients", f"{len(op.operands)}, one an operand"
        raise ShapeError(message(f"gradient of {op.name}", got=got, expected=wanted))
    for operand, grad in zip(op.operands, grads):
        if grad is not None and operand in active:
            _fits(op, grad.type, operand.type)
            cts.add(operand, grad)


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
