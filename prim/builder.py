"""Builder: makes ops one after another, with types inferred, into a Graph.

b = Builder(); x = b.input(TensorType((4,), "float32"))
graph = b.graph("f", [b.exp(b.mul(x, 2.0))])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pirol.compiler import dims
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import INTS, Graph, Guard, Op, TensorType, Value, rename
from pirol.prim.contents import Part, contents
from pirol.prim.prim import ELEMENTWISE, PRIMS

READABLE = 8  # elements of a tensor whose contents may be read while a program runs


def readable(value: Value) -> bool:
    """Whether a tensor's elements may be read while the program runs."""
    size = value.type.size
    small = isinstance(size, int) and 0 < size <= READABLE
    return small and value.dtype in INTS


def item_name(number: int, place: int) -> str:
    """The symbol for an element of an input."""
    return f"i{number}_{place}"


class Unify(Exception):
    """Two dims must be taken as equal, or one as 1: start again with this fact."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(str(guard))
        self.guard = guard


@dataclass
class Facts:
    """What is assumed of dims: sizes seen in the first call, and facts so far.

    `hints` are the symbols' values as far as they are known; a broadcast between dims
    that could not be proved equal is decided by them and becomes a guard. Dims of no
    known values are taken as equal: a call that shows them otherwise gives hints.
    """

    hints: Mapping[str, int] = field(default_factory=dict)
    guards: list[Guard] = field(default_factory=list)
    order: dict[str, int] = field(default_factory=dict)  # symbol -> where it is set

    def define(self, shapes: Iterable[dims.Shape], at: int) -> None:
        """Note that the symbols of the shapes are set at this place, if not before."""
        for name in dims.symbols_of(*(d for shape in shapes for d in shape)):
            self.order.setdefault(name, at)

    def substitution(self) -> dict[str, Any]:
        """Symbol -> Dim, for the facts that fix a symbol."""
        found: dict[str, Any] = {}
        for guard in self.guards:
            if guard.kind != "eq":
                continue
            a, b = (dims.substitute(d, found) for d in (guard.a, guard.b))
            pair = self._solved(a, b)
            if pair is not None:
                found = {k: dims.substitute(v, dict([pair])) for k, v in found.items()}
                found[pair[0]] = pair[1]
        return found

    def _solved(self, a: Any, b: Any) -> tuple[str, Any] | None:
        """a == b as symbol = Dim, of which nothing is set later than the symbol."""
        for one, other in ((b, a), (a, b)):
            plain = not isinstance(one, int) and one.is_Symbol
            if not plain or one.name in dims.symbols_of(other):
                continue
            places = [self.order.get(s, 0) for s in dims.symbols_of(other)]
            if max(places, default=0) <= self.order.get(one.name, 0):
                return str(one.name), other
        return None

    def value(self, dim: Any) -> int | None:
        """The dim's value by the hints, or None."""
        try:
            return dims.evaluate(dim, self.hints)
        except KeyError:
            return None

    def decide(self, a: Any, b: Any) -> Guard | None:
        """How dims that broadcast together relate, from the hints: a fact to assume."""
        x, y = self.value(a), self.value(b)
        if x is None or y is None:
            return None if dims.equal(a, b) is False else Guard("eq", a, b)
        if x == y:
            return Guard("eq", a, b)
        if 1 in (x, y):
            return Guard("eq", a if x == 1 else b, 1)
        return None


class Builder:
    """Emits ops. Every primitive is a method: `b.exp(x)`, `b.reduce_sum(x, axes=..)`.

    Elementwise methods take Python numbers and broadcast like NumPy.
    """

    def __init__(
        self,
        facts: Facts | None = None,
        line: str = "",
        known: Callable[[Value, bool], list[Any] | None] | None = None,
    ) -> None:
        self.facts = facts or Facts()
        self.line = line
        self.outer = known  # tells of an input; with True it may have it read
        self.inputs: list[Value] = []
        self.ops: list[Op] = []
        self.producers: dict[Value, Op] = {}
        self.contents: dict[Value, list[Any] | None] = {}
        self.asked: dict[Value, list[Any] | None] = {}  # contents from what is read
        self.binds: dict[Value, Op] = {}  # where it is read, by what

    def input(self, kind: TensorType) -> Value:
        """A new input of the graph."""
        value = Value(kind)
        self.inputs.append(value)
        return value

    def graph(self, name: str, outputs: Sequence[Value], **rest: Any) -> Graph:
        """What was built so far, as a Graph."""
        ops = [self.binds[v] for v in self.inputs if v in self.binds]
        for op in self.ops:
            ops += [op, *(self.binds[v] for v in op.results if v in self.binds)]
        return Graph(name, tuple(self.inputs), tuple(ops), tuple(outputs), **rest)

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
        return b if guard == Guard("eq", a, 1) else a

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

    def require_at_least(self, a: Any, b: Any, what: str) -> None:
        """Dims of which a must be >= b; assumes it where the first call's sizes do."""
        gap = dims.sub(a, b)
        if gap >= 0 if isinstance(gap, int) else gap.is_nonnegative:
            return
        value = self.facts.value(gap)
        if value is not None and value < 0:
            got = f"{dims.to_text(a)} is below {dims.to_text(b)}"
            raise Unsupported(f"{what}: {got}, or may be")
        self.assume(Guard("ge", a, b))

    def broadcast_to(self, value: Value, shape: dims.Shape) -> Value:
        """The value in a shape that its own, aligned at the end, broadcasts to."""
        if dims.same_shape(value.shape, shape):
            return value
        source = self.producers.get(value)
        if source is not None and source.name == "const":
            return self.one("const", **{**source.attrs, "shape": shape})
        lead = len(shape) - len(value.shape)
        value = self.relabelled(value, shape[lead:])
        at = tuple(range(lead, len(shape)))
        return self.one("broadcast", value, shape=shape, dims=at)

    def relabelled(self, value: Value, shape: dims.Shape) -> Value:
        """The value with dims that a guard holds equal to those wanted (or to 1) so
        written: a guard on min(n, 1) says nothing of n that could be put in for it."""
        pairs = zip(value.shape, shape)
        sizes = tuple(self._label(have, size) for have, size in pairs)
        if dims.same_shape(sizes, value.shape):
            return value
        rank = len(sizes)
        attrs = {"starts": (0,) * rank, "sizes": sizes, "steps": (1,) * rank}
        return self.one("slice", value, **attrs)

    def _label(self, have: Any, wanted: Any) -> Any:
        if dims.equal(have, wanted) is True or dims.equal(have, 1) is True:
            return have
        for size in (wanted, 1):
            pair = {Guard("eq", have, size), Guard("eq", size, have)}
            if not pair.isdisjoint(self.facts.guards):
                return size
        return have

    def dim(self, size: Any, shape: dims.Shape = ()) -> Value:
        """A dim's value as an int64 constant."""
        return self.one("const", value=size, shape=shape, dtype="int64")

    def vector(self, sizes: Sequence[Any]) -> Value:
        """Dims as an int64 vector."""
        if not sizes:
            return self.dim(0, (0,))
        items = [self.dim(s, (1,)) for s in sizes]
        return items[0] if len(items) == 1 else self.one("concat", *items, axis=0)

    def check(self, ok: Value, message: str) -> None:
        """Leave the call to Paddle where an element of a bool tensor is false."""
        if ok.type.rank:
            ok = self.one("reduce_min", ok, axes=tuple(range(ok.type.rank)))
        where = f" ({self.line})" if self.line else ""
        self.emit("check", [ok], {"message": message + where})

    def known(self, value: Value) -> list[Any] | None:
        """The contents (Dims or numbers, row-major) where they are known, else None."""
        found = self._contents(value)
        parts = found is not None and any(isinstance(item, Part) for item in found)
        return None if parts else found

    def read(self, value: Value) -> list[Any] | None:
        """As `known`; where only the run tells an integer, a symbol, which a `bind` op
        sets in the run."""
        self._read(value)
        return self.known(value)

    def _contents(self, value: Value) -> list[Any] | None:
        if value in self.asked:
            return self.asked[value]
        if value not in self.contents:
            op = self.producers.get(value)
            if op is not None:
                self.contents[value] = contents(op, value, self._contents)
            else:
                self.contents[value] = self.outer(value, False) if self.outer else None
        return self.contents[value]

    def _read(self, value: Value) -> list[Any] | None:
        found = self._contents(value)
        if found is not None:
            return found
        op, mark = self.producers.get(value), (len(self.asked), len(self.binds))
        if op is not None:
            found = contents(op, value, self._read)
        elif self.outer is not None:
            found = self.outer(value, True)
        if found is None:  # then what was read for it is of no use
            _shorten(self.asked, mark[0])
            _shorten(self.binds, mark[1])
            found = self._bound(value)
        self.asked[value] = found
        return found

    def _bound(self, value: Value) -> list[Any] | None:
        """A small integer tensor's elements as symbols; one that the hints say to be 0
        or below as that number, which it must then be in each call."""
        if not readable(value) or self.outer is not None:
            return None
        given = self.inputs.index(value) if value in self.inputs else None
        items: list[Any] = []
        for k in range(int(value.type.size)):
            late = f"v{len(self.binds)}_{k}"
            name = late if given is None else item_name(given, k)
            hint = self.facts.hints.get(name, 1)
            items.append(dims.symbol(name) if hint > 0 else hint)
        self.binds[value] = Op("bind", (value,), {"items": tuple(items)}, (), None, "")
        self.facts.define([tuple(items)], 0 if given is not None else len(self.ops))
        known = self.facts.substitution()
        return [dims.substitute(item, known) for item in items]


def _shorten(made: dict[Value, Any], count: int) -> None:
    """Keep the first entries."""
    for late in [*made][count:]:
        del made[late]


def rewritten(
    graph: Graph, rule: Callable[[Builder, Op], Value | Sequence[Value] | None]
) -> Graph:
    """The graph with some ops in another form: `rule` emits that, its source line the
    op's, and gives the results (or the first), or None for an op that stays."""
    b = Builder()
    replaced: dict[Value, Value] = {}
    for op in graph.ops:
        operands = tuple(replaced.get(v, v) for v in op.operands)
        op = replace(op, operands=operands)
        b.line = op.line
        value = rule(b, op)
        if value is None:
            b.add_op(op)
        else:
            found = [value] if isinstance(value, Value) else value
            replaced |= zip(op.results, found)
    return rename(graph.with_ops(b.ops), replaced)
