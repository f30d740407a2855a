"""Decompose: Graph@PIR -> primitives, calls with bodies, and opaque ops.

A composite becomes `call {callee, site}`; what no decomposition takes stays
`opaque {callee, site, why}`. Dims are inferred anew, so that they are symbolic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Shape, symbols_of
from pirol.compiler.errors import ShapeError, Unsupported
from pirol.compiler.ir import (
    HALVES,
    Graph,
    Guard,
    Op,
    TensorType,
    Value,
    prune,
    symbols_in,
)
from pirol.passes.amp import KEPT, MIXED
from pirol.passes.derive import derived
from pirol.passes.ordered import ORDERED, WHY, adds_up
from pirol.prim import Builder, Facts, Unify
from pirol.prim.decomp import ALONE, DECOMPOSITIONS, Decomposition
from pirol.prim.decomp.shape import sized
from pirol.prim.prim import WIDE, Attrs

OURS = "pirol."  # how ops that Paddle has not begin
# Attributes that say how the op stood in Paddle's program.
CAPTURED = ("layout", "fixed", "names", "results", MIXED, KEPT, ORDERED)
# Ops whose first operand is the shape of their only result.
SHAPED = ("pd_op.uniform", "pd_op.gaussian", "pd_op.truncated_gaussian_random")
# Ops whose results all have the shape of the first operand.
LIKE_FIRST = tuple(
    f"pd_op.{name}"
    for name in ("dropout", "bernoulli", "argsort", "cummax", "cummin", "scatter")
)


def _singular(x: Shape, attrs: Attrs) -> list[Shape]:
    *lead, rows, columns = x
    least = dims.minimum(rows, columns)
    if attrs["full_matrices"]:
        return [(*lead, rows, rows), (*lead, least), (*lead, columns, columns)]
    return [(*lead, rows, least), (*lead, least), (*lead, least, columns)]


# The shapes of the results, of that of the first operand, which is matrices.
MATRICES: dict[str, Callable[[Shape, Attrs], Sequence[Shape]]] = {
    "pd_op.cholesky": lambda x, _: [x],
    "pd_op.eigh": lambda x, _: [x[:-1], x],
    "pd_op.inverse": lambda x, _: [x],
    "pd_op.lu": lambda x, _: [x, (*x[:-2], dims.minimum(*x[-2:])), x[:-2]],
    "pd_op.slogdet": lambda x, _: [(2, *x[:-2])],
    "pd_op.svd": _singular,
}


def decompose(graph: Graph, facts: Facts, alone: bool = False) -> Graph:
    """The graph in primitives; `facts` gains what had to be assumed of dims; `alone`:
    it is to run without Paddle."""
    while True:
        try:
            return _Decomposer(graph, facts, alone).run()
        except Unify as wish:
            facts.guards.append(wish.guard)


class _Decomposer:
    def __init__(self, graph: Graph, facts: Facts, alone: bool) -> None:
        self.graph = graph
        self.rules = DECOMPOSITIONS | ALONE if alone else DECOMPOSITIONS
        self.b = Builder(facts)
        self.known = facts.substitution()
        self.env: dict[Value, Value] = {}
        self.seen: dict[Any, Sequence[Value]] = {}  # opaque ops by what they compute
        self.needed = set(graph.results)
        for op in reversed(graph.ops):
            if op.name != "stop_gradient" or op.result in self.needed:
                self.needed.update(op.operands)

    def run(self) -> Graph:
        self.b.facts.define([v.shape for v in self.graph.inputs], 0)
        for value in self.graph.inputs:
            self.env[value] = self.b.input(value.type.with_symbols(self.known))
        for op in self.graph.ops:
            self.op(op)
        outputs = [self.env[v] for v in self.graph.outputs]
        writes = tuple((i, self.written(i, v)) for i, v in self.graph.writes)
        guards = tuple(self.guards())
        return self.b.graph(self.graph.name, outputs, writes=writes, guards=guards)

    def written(self, index: int, value: Value) -> Value:
        """What an input becomes; its dims are the input's, though Paddle may have told
        them of another's."""
        found, shape = self.env[value], self.env[self.graph.inputs[index]].shape
        if found.type.rank != len(shape):
            return found
        return sized(self.b, "what is written to an input", found, shape)

    def guards(self) -> Iterator[Guard]:
        """The facts; a symbol that nothing sets any more is what stands for it, and
        its own fact holds by the shape that Paddle's result must have."""
        kept = symbols_of(*(d for v in self.graph.inputs for d in v.shape))
        kept |= symbols_in([op.attrs["items"] for op in self.b.binds.values()])
        gone = {k: v for k, v in self.known.items() if k not in kept}
        for guard in self.b.facts.guards:
            a, b = (dims.substitute(d, gone) for d in (guard.a, guard.b))
            if guard.kind != "eq" or dims.equal(a, b) is not True:
                yield replace(guard, a=a, b=b)

    def op(self, op: Op) -> None:
        self.b.line = op.line
        rule = self.rules.get(op.name) or derived(op)
        mark = len(self.b.ops)
        if op.branches:
            self.env.update(zip(op.results, self.control(op)))
            return
        if op.name == "stop_gradient":
            if op.result in self.needed:
                self.env[op.result] = self.b.stop_gradient(self.env[op.operands[0]])
            return
        try:
            if rule is None:
                raise Unsupported("Pirol has no decomposition of it")
            results = (
                self.composite(op, rule) if rule.composite else self.plain(op, rule)
            )
            if ORDERED in op.attrs and adds_up(self.b.ops[mark:]):
                raise Unsupported(WHY)
        except (Unsupported, ShapeError) as error:
            for extra in self.b.ops[mark:]:
                for result in extra.results:
                    self.b.producers.pop(result)
            del self.b.ops[mark:]
            results = self.opaque(op, str(error))
        for old, new in zip(op.results, results):
            if new is not None:
                self.env[old] = new

    def operands(self, op: Op) -> list[Value]:
        return [self.env[v] for v in op.operands]

    def plain(self, op: Op, rule: Decomposition) -> Sequence[Value | None]:
        found = rule(self.b, nested(op, self.operands(op)), op.attrs, _dtypes(op))
        return self.checked(op, found)

    def checked(self, op: Op, found: Sequence[Value | None]) -> Sequence[Value | None]:
        """The results, all that are needed being there and of Paddle's dtype."""
        if len(found) != len(op.results):
            raise Unsupported(f"it has {len(op.results)} results, not {len(found)}")
        for old, new in zip(op.results, found):
            if new is None and old in self.needed:
                raise Unsupported("a result is used that Pirol does not compute")
            if new is not None and not _fits(old.type, new.type):
                raise Unsupported(f"Paddle says {old.type}, the rule {new.type}")
        return found

    def composite(self, op: Op, rule: Decomposition) -> Sequence[Value | None]:
        outer = self.operands(op)
        env: dict[Value, Value] = {}

        def known(value: Value, read: bool) -> list[Any] | None:
            tell = self.b.read if read else self.b.known
            return tell(env[value]) if value in env else None

        inner = Builder(self.b.facts, op.line, known)
        inside = [inner.input(v.type) for v in outer]
        env.update(zip(inside, outer))
        results = rule(inner, nested(op, inside), op.attrs, _dtypes(op))
        found = self.checked(op, results)
        kept = [v for v in found if v is not None]
        body = prune(inner.graph("body", kept))
        attrs = {"callee": op.name, **_plain_attrs(op)}
        attrs.pop("effect", None)
        call = self.b.op("call", outer, [v.type for v in kept], attrs, body)
        rest = iter(call.results)
        return [None if v is None else next(rest) for v in found]

    def control(self, op: Op) -> Sequence[Value]:
        """The op as it is: its branches are programs of their own."""
        results = tuple(Value(r.type.with_symbols(self.known)) for r in op.results)
        self.b.facts.define([r.shape for r in results], len(self.b.ops) + 1)
        new = replace(op, operands=tuple(self.operands(op)), results=results)
        return self.b.add_op(new).results

    def opaque(self, op: Op, why: str) -> Sequence[Value]:
        if "site" not in op.attrs or op.name.startswith(OURS):
            raise Unsupported(f"{op.name}: {why}")
        if MIXED in op.attrs:
            return self.as_captured(op, why)
        attrs = {"callee": op.name, "why": why, **_plain_attrs(op)}
        fixed = op.attrs.get("fixed", ())
        operands = [v for k, v in enumerate(self.operands(op)) if k not in fixed]
        if op.name == "pd_op.dropout":  # its gradient needs p
            known = [self.b.known(self.env[op.operands[k]]) or [] for k in fixed]
            attrs["constants"] = tuple(n for numbers in known for n in numbers)
        types = self.declared(op)
        self.b.facts.define([t.shape for t in types], len(self.b.ops) + 1)
        if "effect" in attrs:
            return self.b.op("opaque", operands, types, attrs).results
        facts = sorted((k, repr(v)) for k, v in attrs.items() if k != "site")
        constants = [repr(self.b.known(self.env[op.operands[k]])) for k in fixed]
        key = (tuple(operands), tuple(constants), tuple(facts))
        if key not in self.seen:  # one result, and one size that depends on data
            self.seen[key] = self.b.op("opaque", operands, types, attrs).results
        return self.seen[key]

    def as_captured(self, op: Op, why: str) -> Sequence[Value]:
        """What Paddle runs of an op that was to be of halves: in float32."""
        operands, results = (
            [Value(replace(v.type, dtype=WIDE)) if v.dtype in HALVES else v for v in vs]
            for vs in (op.operands, op.results)
        )
        for old, new in zip(op.operands, operands):
            given = self.env[old]
            self.env[new] = given if new is old else self.b.cast(given, dtype=WIDE)
        attrs = {k: v for k, v in op.attrs.items() if k != MIXED}
        wide = replace(
            op, operands=tuple(operands), results=tuple(results), attrs=attrs
        )
        found = self.opaque(wide, why)
        return [
            self.b.cast(v, dtype=r.dtype) if r.dtype in HALVES else v
            for v, r in zip(found, op.results)
        ]

    def declared(self, op: Op) -> list[TensorType]:
        """The results' types as Paddle says, or of the shape that an operand gives."""
        types = [r.type.with_symbols(self.known) for r in op.results]
        if op.name in LIKE_FIRST:
            shape = self.operands(op)[0].shape
            return [TensorType(shape, t.dtype) for t in types]
        if op.name in MATRICES and set(op.attrs["layout"]) == {-1}:
            shapes = MATRICES[op.name](self.operands(op)[0].shape, op.attrs)
            return [TensorType(s, t.dtype) for s, t in zip(shapes, types, strict=True)]
        if op.name not in SHAPED:
            return types
        first = nested(op, self.operands(op))[0]
        parts = first if isinstance(first, list) else [first]
        found = [self.b.known(v) for v in parts]
        sizes = [size for part in found for size in part or ()]
        if None in found or len(sizes) != types[0].rank:
            return types
        return [TensorType(tuple(sizes), types[0].dtype)]


def _dtypes(op: Op) -> list[str]:
    return [r.dtype for r in op.results]


def _plain_attrs(op: Op) -> Mapping[str, Any]:
    return {k: v for k, v in op.attrs.items() if k not in CAPTURED}


def _fits(declared: TensorType, found: TensorType) -> bool:
    if declared.dtype != found.dtype or declared.rank != found.rank:
        return False
    pairs = zip(declared.shape, found.shape)
    return all(_open(a) or dims.equal(a, b) is not False for a, b in pairs)


def _open(dim: Any) -> bool:
    """Whether Paddle declares nothing of a dim."""
    return not isinstance(dim, int) and bool(dim.is_Symbol)


def nested(op: Op, operands: Sequence[Any]) -> list[Any]:
    """The operands as Paddle lists them: `layout` has -1 for one, -2 for null, n >= 0
    for a vector of n."""
    rest: list[Any] = list(operands)
    found: list[Any] = []
    for size in op.attrs["layout"]:
        if size == -2:
            found.append(None)
        elif size == -1:
            found.append(rest.pop(0))
        else:
            found.append([rest.pop(0) for _ in range(size)])
    return found
