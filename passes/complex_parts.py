"""complex_parts: primitives on complex numbers as primitives on their two parts.

Behind it only `real` and `imag` (of what is given) and `complex` (for what is returned,
or read by Paddle) know of complex numbers; kernels load and store the parts in place.
A part that is known to be 0 everywhere is None, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pirol.compiler.dims import Dim, product
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import COMPLEX, PART, Graph, Op, Value
from pirol.passes.complex_functions import ANALYTIC, Parts, divided, power, whole
from pirol.prim import PRIMS, Builder, Facts
from pirol.prim.decomp.bounds import cut
from pirol.prim.prim import STEPS

Rule = Callable[..., Any]


def complex_parts(graph: Graph) -> Graph:
    """The graph with no primitive on complex numbers but real, imag and complex."""
    values = (*graph.inputs, *(r for op in graph.ops for r in op.results))
    return _Splitter(graph).run() if any(v.is_complex for v in values) else graph


class _Splitter:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.b = Builder(Facts(guards=list(graph.guards)))
        self.parts: dict[Value, Parts] = {}
        self.new: dict[Value, Value] = {v: v for v in graph.inputs}

    def run(self) -> Graph:
        for op in self.graph.ops:
            self.b.line = op.line
            self.op(op)
        outputs = tuple(map(self.joined, self.graph.outputs))
        writes = tuple((k, self.joined(v)) for k, v in self.graph.writes)
        return replace(
            self.graph, ops=tuple(self.b.ops), outputs=outputs, writes=writes
        )

    def op(self, op: Op) -> None:
        ends = (*op.operands, *op.results)
        if not _split(op) or not any(v.is_complex for v in ends):
            operands = tuple(map(self.joined, op.operands))
            self.b.add_op(replace(op, operands=operands))
            self.new.update(zip(op.results, op.results))
            return
        if op.name not in RULES:
            raise Unsupported(f"{op.name} of complex numbers")
        given = [self.split(v) if v.is_complex else self.new[v] for v in op.operands]
        found = RULES[op.name](self.b, op, *given)
        (self.parts if op.result.is_complex else self.new)[op.result] = found

    def split(self, value: Value) -> Parts:
        if value not in self.parts:
            self.parts[value] = self.b.real(value), self.b.imag(value)
        return self.parts[value]

    def joined(self, value: Value) -> Value:
        if value not in self.new:
            self.new[value] = self.b.complex(*whole(self.b, self.parts[value]))
        return self.new[value]


def _split(op: Op) -> bool:
    """Whether an op is a primitive that has rules here, or should."""
    prim = PRIMS.get(op.name)
    return prim is not None and prim.kind not in STEPS


def _each(b: Builder, op: Op, *given: Any) -> Parts:
    """What is linear, and real: of each part for itself."""
    pairs = [g for g in given if isinstance(g, tuple)]
    none = all(imag is None for _, imag in pairs)

    def of(k: int) -> Value:
        parts = [whole(b, g)[k] if isinstance(g, tuple) else g for g in given]
        return b.one(op.name, *parts, **op.attrs)

    return of(0), None if none else of(1)


def _const(b: Builder, op: Op) -> Parts:
    value = op.attrs["value"]
    attrs = {"shape": op.attrs["shape"], "dtype": PART[op.attrs["dtype"]]}
    if not isinstance(value, complex):
        return b.const(value=value, **attrs), None
    imag = b.const(value=value.imag, **attrs) if value.imag != 0 else None
    return b.const(value=value.real, **attrs), imag


def _pad(b: Builder, op: Op, x: Parts) -> Parts:
    number = complex(op.attrs["value"])
    pair = whole(b, x) if number.imag != 0 else x
    values = zip(pair, (number.real, number.imag))
    found = [
        None if v is None else b.one("pad", v, **{**op.attrs, "value": n})
        for v, n in values
    ]
    assert found[0] is not None
    return found[0], found[1]


def _cast(b: Builder, op: Op, x: Any) -> Any:
    """The real part where the other dtype has no other, but a truth: anything but 0."""
    dtype = op.attrs["dtype"]
    if not isinstance(x, tuple):
        return b.cast(x, dtype=PART[dtype]), None
    if dtype == "bool":
        zero = b.const(value=0.0, shape=(), dtype=x[0].dtype)
        return _unequal(b, op, x, (zero, None))
    kind = PART.get(dtype, dtype)
    real, imag = (v if v is None else b.cast(v, dtype=kind) for v in x)
    return (real, imag) if dtype in COMPLEX else real


def _add(b: Builder, op: Op, x: Parts, y: Parts) -> Parts:
    if x[1] is None or y[1] is None:
        return b.add(x[0], y[0]), x[1] or y[1]
    return b.add(x[0], y[0]), b.add(x[1], y[1])


def _sub(b: Builder, op: Op, x: Parts, y: Parts) -> Parts:
    real, imag = b.sub(x[0], y[0]), x[1]
    if y[1] is not None:
        imag = b.neg(y[1]) if imag is None else b.sub(imag, y[1])
    return real, imag


def _bilinear(b: Builder, op: Op, x: Parts, y: Parts) -> Parts:
    """(a + bj)(c + dj) = (ac - bd) + (ad + bc)j, for any kind of product."""

    def times(left: Value | None, right: Value | None) -> Value | None:
        if left is None or right is None:
            return None
        return b.one(op.name, left, right, **op.attrs)

    real, minus = times(x[0], y[0]), times(x[1], y[1])
    imag, plus = times(x[0], y[1]), times(x[1], y[0])
    assert real is not None
    if minus is not None:
        real = b.sub(real, minus)
    if imag is not None and plus is not None:
        return real, b.add(imag, plus)
    return real, imag or plus


def _equal(b: Builder, op: Op, x: Parts, y: Parts) -> Value:
    pairs = zip(whole(b, x), whole(b, y))
    found: Value = b.and_(*(b.eq(left, right) for left, right in pairs))
    return found


def _unequal(b: Builder, op: Op, x: Parts, y: Parts) -> Value:
    found: Value = b.not_(_equal(b, op, x, y))
    return found


def _conj(b: Builder, op: Op, x: Parts) -> Parts:
    return x[0], None if x[1] is None else b.neg(x[1])


def _prod(b: Builder, op: Op, x: Parts) -> Parts:
    """Half of the factors times the other half, until one is left."""
    axes, shape = op.attrs["axes"], x[0].shape
    kept = tuple(k for k in range(len(shape)) if k not in axes)
    count, rest = product(shape[a] for a in axes), tuple(shape[k] for k in kept)
    if not isinstance(count, int):
        raise Unsupported(
            "a product of complex numbers of which the count is not known"
        )
    if count == 0:
        return b.const(value=1.0, shape=rest, dtype=x[0].dtype), None
    x = _moved(b, x, "transpose", perm=(*axes, *kept))
    x = _moved(b, x, "reshape", shape=(count, *rest))
    while count > 1:
        half = count // 2
        first, second = (_rows(b, x, k * half, half) for k in (0, 1))
        made = _bilinear(b, MUL, first, second)
        if count % 2:
            last = _rows(b, x, count - 1, 1)
            join = [whole(b, made), whole(b, last)]
            made = tuple(b.concat(*parts, axis=0) for parts in zip(*join))
        x, count = made, half + count % 2
    return _moved(b, x, "reshape", shape=rest)


def _cumprod(b: Builder, op: Op, x: Parts) -> Parts:
    """The products of the last 2, 4, 8 .. elements, until those are all."""
    axis, shape = op.attrs["axis"], x[0].shape
    if x[1] is None:
        return b.cumprod(x[0], axis=axis), None
    if not isinstance(shape[axis], int):
        raise Unsupported("products along a line of complex numbers, of unknown length")
    low = [0] * len(shape)
    none, steps = tuple(low), (1,) * len(shape)
    place, reach = b.iota(axis=axis, shape=shape, dtype="int64"), 1
    while reach < shape[axis]:
        low[axis] = reach
        padded = _moved(b, x, "pad", low=tuple(low), high=none, interior=none, value=0)
        before = _moved(b, padded, "slice", starts=none, sizes=shape, steps=steps)
        made = _bilinear(b, MUL, before, x)
        there = b.ge(place, reach)
        x = _each(b, SELECT, there, made, x)
        reach *= 2
    return x


def _moved(b: Builder, x: Parts, name: str, **attrs: Any) -> Parts:
    real, imag = x
    moved = None if imag is None else b.one(name, imag, **attrs)
    return b.one(name, real, **attrs), moved


def _rows(b: Builder, x: Parts, start: int, size: Dim) -> Parts:
    real, imag = x
    rest = None if imag is None else cut(b, imag, 0, start, size)
    return cut(b, real, 0, start, size), rest


def _function(b: Builder, op: Op, *given: Parts) -> Parts:
    return ANALYTIC[op.name](b, *given)


MUL, SELECT = (Op(name, (), {}, ()) for name in ("mul", "select"))
LINEAR = (
    *("neg", "broadcast", "reshape", "transpose", "slice", "reverse", "concat"),
    *("gather", "scatter_add", "put", "select", "reduce_sum", "cumsum"),
    "stop_gradient",
)
PRODUCTS = ("mul", "dot_general", "conv", "conv_input_grad", "conv_weight_grad")
RULES: dict[str, Rule] = {
    **dict.fromkeys(LINEAR, _each),
    **dict.fromkeys(PRODUCTS, _bilinear),
    **dict.fromkeys(ANALYTIC, _function),
    "real": lambda b, op, x: x[0],
    "imag": lambda b, op, x: whole(b, x)[1],
    "complex": lambda b, op, real, imag: (real, imag),
    "conj": _conj,
    "const": _const,
    "cast": _cast,
    "pad": _pad,
    "add": _add,
    "sub": _sub,
    "div": lambda b, op, x, y: divided(b, x, y),
    "pow": lambda b, op, x, y: power(b, x, y),
    "eq": _equal,
    "ne": _unequal,
    "reduce_prod": _prod,
    "cumprod": _cumprod,
}
