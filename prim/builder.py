"""Builder: makes ops one after another, with types inferred, into a Graph.

b = Builder(); x = b.input(TensorType((4,), "float32"))
graph = b.graph("f", [b.exp(b.mul(x, 2.0))])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pirol.compiler import dims
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import DTYPES, INTS, Graph, Guard, Op, TensorType, Value
from pirol.prim.prim import ELEMENTWISE, PRIMS

KNOWN_LIMIT = 64  # contents of shape tensors are tracked up to this many elements


class Unify(Exception):
    """Two dims must be taken as equal, or one as 1: start again with this fact."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(str(guard))
        self.guard = guard


@dataclass
class Facts:
    """What is assumed of dims: sizes seen in the first call, and facts so far.

    `hints` are the symbols' values in the first call; a broadcast between dims that
    could not be proved equal is decided by them and becomes a guard.
    """

    hints: Mapping[str, int] = field(default_factory=dict)
    guards: list[Guard] = field(default_factory=list)

    def substitution(self) -> dict[str, Any]:
        """Symbol -> Dim, for the facts that fix a symbol."""
        found: dict[str, Any] = {}
        for guard in self.guards:
            a, b = (dims.substitute(d, found) for d in (guard.a, guard.b))
            pair = _solved(a, b)
            if pair is not None:
                found = {k: dims.substitute(v, dict([pair])) for k, v in found.items()}
                found[pair[0]] = pair[1]
        return found

    def decide(self, a: Any, b: Any) -> Guard | None:
        """How dims that broadcast together relate, from the hints: a fact to assume."""
        try:
            x, y = (dims.evaluate(d, self.hints) for d in (a, b))
        except KeyError:
            return None
        if x == y:
            return Guard("eq", a, b)
        if 1 in (x, y):
            return Guard("eq", a if x == 1 else b, 1)
        return None


def _solved(a: Any, b: Any) -> tuple[str, Any] | None:
    for one, other in ((b, a), (a, b)):
        plain = not isinstance(one, int) and one.is_Symbol
        if plain and one.name not in dims.symbols_of(other):
            return str(one.name), other
    return None


class Builder:
    """Emits ops. Every primitive is a method: `b.exp(x)`, `b.reduce_sum(x, axes=..)`.

    Elementwise methods take Python numbers and broadcast like NumPy.
    """

    def __init__(
        self,
        facts: Facts | None = None,
        line: str = "",
        known: Callable[[Value], list[Any] | None] | None = None,
    ) -> None:
        self.facts = facts or Facts()
        self.line = line
        self.known_input = known or (lambda value: None)
        self.inputs: list[Value] = []
        self.ops: list[Op] = []
        self.producers: dict[Value, Op] = {}

    def input(self, kind: TensorType) -> Value:
        """A new input of the graph."""
        value = Value(kind)
        self.inputs.append(value)
        return value

    def graph(self, name: str, outputs: Sequence[Value], **rest: Any) -> Graph:
        """What was built so far, as a Graph."""
        ops, inputs = tuple(self.ops), tuple(self.inputs)
        return Graph(name, inputs, ops, tuple(outputs), **rest)

    def add_op(self, op: Op) -> Op:
        """Append an op as it is."""
        self.ops.append(op)
        for result in op.results:
            self.producers[result] = op
        return op

    def op(
        self,
        name: str,
        operands: Sequence[Value],
        types: Sequence[TensorType],
        attrs: Mapping[str, Any],
        body: Graph | None = None,
    ) -> Op:
        """Append an op of the given result types."""
        results = tuple(map(Value, types))
        return self.add_op(
            Op(name, tuple(operands), dict(attrs), results, body, self.line)
        )

    def emit(
        self, name: str, operands: Sequence[Value], attrs: Mapping[str, Any]
    ) -> Op:
        """Append a primitive, its result types inferred; raises ShapeError."""
        types = PRIMS[name].infer([v.type for v in operands], attrs)
        return self.op(name, operands, types, attrs)

    def one(self, name: str, *operands: Value, **attrs: Any) -> Value:
        """A primitive of one result, its operands as they are."""
        return self.emit(name, operands, attrs).result

    def __getattr__(self, name: str) -> Callable[..., Any]:
        prim = PRIMS.get(name.removesuffix("_"))
        if prim is None:
            raise AttributeError(f"no primitive is named {name!r}")

        def call(*operands: Any, **attrs: Any) -> Any:
            values = self._operands(prim.name, operands)
            results = self.emit(prim.name, values, attrs).results
            return results[0] if len(results) == 1 else results

        return call

    def _operands(self, name: str, operands: Sequence[Any]) -> Sequence[Value]:
        if PRIMS[name].kind not in ELEMENTWISE or PRIMS[name].kind == "cast":
            return operands
        given = [v for v in operands if isinstance(v, Value)]
        dtype = given[-1].dtype
        values = [
            v if isinstance(v, Value) else self.const(value=v, shape=(), dtype=dtype)
            for v in operands
        ]
        return self.broadcast_together(values)

    def broadcast_together(self, values: Sequence[Value]) -> list[Value]:
        """All values in their common shape (NumPy's rule, symbolic dims included)."""
        shape: dims.Shape = ()
        for value in values:
            shape = self.broadcast_shape(shape, value.shape)
        return [self.broadcast_to(v, shape) for v in values]

    def broadcast_shape(self, a: dims.Shape, b: dims.Shape) -> dims.Shape:
        """The common shape; raises Unify where a fact must be assumed first."""
        if len(a) < len(b):
            a, b = b, a
        lead = len(a) - len(b)
        tail = tuple(map(self._broadcast_dim, a[lead:], b))
        return (*a[:lead], *tail)

    def _broadcast_dim(self, a: Any, b: Any) -> Any:
        if dims.equal(a, b) is True or dims.equal(b, 1) is True:
            return a
        if dims.equal(a, 1) is True:
            return b
        guard = self.facts.decide(a, b)
        if guard is None:
            both = f"{dims.to_text(a)} and {dims.to_text(b)}"
            raise Unsupported(f"cannot broadcast dims {both}: neither equal nor 1")
        self.assume(guard)
        return a

    def assume(self, guard: Guard) -> None:
        """Rely on a fact; raises Unify the first time, so that all types know it."""
        if guard not in self.facts.guards:
            raise Unify(guard)

    def require_equal(self, a: Any, b: Any, what: str) -> None:
        """Dims that must be equal; assumes it where the first call's sizes agree."""
        if dims.equal(a, b) is True:
            return
        guard = self.facts.decide(a, b)
        if guard is None or (guard.a, guard.b) != (a, b):
            got = f"{dims.to_text(a)} and {dims.to_text(b)}"
            raise Unsupported(f"{what}: dims {got} are not equal")
        self.assume(guard)

    def broadcast_to(self, value: Value, shape: dims.Shape) -> Value:
        """The value in a shape that its own, aligned at the end, broadcasts to."""
        if dims.same_shape(value.shape, shape):
            return value
        source = self.producers.get(value)
        if source is not None and source.name == "const":
            return self.one("const", **{**source.attrs, "shape": shape})
        lead = len(shape) - len(value.shape)
        at = tuple(range(lead, len(shape)))
        return self.one("broadcast", value, shape=shape, dims=at)

    def dim(self, size: Any, shape: dims.Shape = ()) -> Value:
        """A dim's value as an int64 constant."""
        return self.one("const", value=size, shape=shape, dtype="int64")

    def vector(self, sizes: Sequence[Any]) -> Value:
        """Dims as an int64 vector."""
        if not sizes:
            return self.dim(0, (0,))
        items = [self.dim(s, (1,)) for s in sizes]
        return items[0] if len(items) == 1 else self.one("concat", *items, axis=0)

    def known(self, value: Value) -> list[Any] | None:
        """The contents (Dims or numbers, row-major) where they are known, else None."""
        size = value.type.size
        if not isinstance(size, int) or size > KNOWN_LIMIT:
            return None
        op = self.producers.get(value)
        if op is None:
            return self.known_input(value)
        return _contents(op, size, self.known)


def _contents(
    op: Op, size: int, known: Callable[[Value], list[Any] | None]
) -> list[Any] | None:
    if op.name == "const":
        return [op.attrs["value"]] * size
    parts = [known(v) for v in op.operands]
    given = [p for p in parts if p is not None]
    if len(given) < len(parts):
        return None
    if op.body is not None:
        return _body_contents(op.body, given)
    match op.name:
        case "reshape":
            return given[0]
        case "concat" if op.result.type.rank == 1:
            return [item for part in given for item in part]
        case "slice" if op.result.type.rank == 1:
            (start,), (step,) = op.attrs["starts"], op.attrs["steps"]
            return given[0][start : start + size * step : step]
        case "broadcast" if len(given[0]) == 1:
            return given[0] * size
        case "cast":
            return _cast_contents(given[0], op.result.dtype)
        case "add" | "sub" | "mul" | "max" | "min" if op.result.dtype in INTS:
            return [_arithmetic(op.name, x, y) for x, y in zip(*given)]
    return None


def _body_contents(body: Graph, given: list[list[Any]]) -> list[Any] | None:
    env: dict[Value, list[Any] | None] = dict(zip(body.inputs, given))
    for op in body.ops:
        size = op.results[0].type.size
        small = len(op.results) == 1 and isinstance(size, int) and size <= KNOWN_LIMIT
        found = _contents(op, size, env.get) if small else None
        env.update(dict.fromkeys(op.results, found))
    return env[body.outputs[0]] if len(body.outputs) == 1 else None


def _arithmetic(name: str, x: Any, y: Any) -> Any:
    rule = {"max": dims.maximum, "min": dims.minimum}
    return (rule.get(name) or getattr(dims, name))(x, y)


def _cast_contents(items: list[Any], dtype: str) -> list[Any] | None:
    symbolic = any(not isinstance(i, (int, float, bool)) for i in items)
    if symbolic:
        return items if dtype in ("int32", "int64") else None
    return list(np.array(items).astype(DTYPES[dtype][1]).tolist())
