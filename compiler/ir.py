"""Graph, Op, Value: Pirol's immutable, typed SSA form.

A Graph lists its ops in order; an op names a primitive (`add`), a composite
(`call` with a body), a fused `group` (with a body), an `opaque` Paddle op, or,
at the PIR level, Paddle's own op (`pd_op.softmax`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np

from pirol.compiler.dims import Shape, product, substitute, symbols_of, to_text

DTYPES: dict[str, tuple[str, Any]] = {
    "bool": ("b1", np.bool_),
    "int8": ("i8", np.int8),
    "uint8": ("u8", np.uint8),
    "int16": ("i16", np.int16),
    "int32": ("i32", np.int32),
    "int64": ("i64", np.int64),
    "float16": ("f16", np.float16),
    "bfloat16": ("bf16", ml_dtypes.bfloat16),
    "float32": ("f32", np.float32),
    "float64": ("f64", np.float64),
    "complex64": ("c64", np.complex64),
    "complex128": ("c128", np.complex128),
}
SHORT = {name: short for name, (short, _) in DTYPES.items()}
LONG = {short: name for name, short in SHORT.items()}
BITS = {name: np.dtype(kind).itemsize * 8 for name, (_, kind) in DTYPES.items()}
HALVES = ("float16", "bfloat16")  # kernels load, store and convert them, no more
FLOATS = (*HALVES, "float32", "float64")
PART = {"complex64": "float32", "complex128": "float64"}  # of real and imaginary
COMPLEX = tuple(PART)
INEXACT = (*FLOATS, *COMPLEX)  # what has gradients, and can be divided by
INTS = ("int8", "uint8", "int16", "int32", "int64")
CONTROL = ("pd_op.if", "pd_op.while")


@dataclass(frozen=True)
class TensorType:
    """Shape (Dims, outermost first) and dtype (Paddle's name, e.g. "float32")."""

    shape: Shape
    dtype: str

    def __str__(self) -> str:
        return f"{SHORT[self.dtype]}[{', '.join(map(to_text, self.shape))}]"

    @property
    def rank(self) -> int:
        """The number of dims."""
        return len(self.shape)

    @property
    def size(self) -> Any:
        """The number of elements, a Dim."""
        return product(self.shape)

    def with_symbols(self, values: Mapping[str, Any]) -> TensorType:
        """The type with shape symbols replaced."""
        if all(isinstance(d, int) for d in self.shape):
            return self
        return TensorType(tuple(substitute(d, values) for d in self.shape), self.dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """One result of an op, or an input of a graph; compared by identity."""

    type: TensorType

    @property
    def shape(self) -> Shape:
        """The type's shape."""
        return self.type.shape

    @property
    def dtype(self) -> str:
        """The type's dtype."""
        return self.type.dtype

    @property
    def is_complex(self) -> bool:
        """Whether its elements are complex numbers."""
        return self.type.dtype in COMPLEX


@dataclass(frozen=True, eq=False)
class Op:
    """One operation. `line` is the user's source line, "file.py:12", or "".

    `body` stands for a call or group. `branches` are what a control op may run, on its
    operands but the first, a condition: `pd_op.if` has two of equal inputs (true,
    false), `pd_op.while` one, which gives the next condition and the loop's variables.
    """

    name: str
    operands: tuple[Value, ...]
    attrs: Mapping[str, Any]
    results: tuple[Value, ...]
    body: Graph | None = None
    line: str = ""
    branches: tuple[Graph, ...] = ()

    @property
    def inner(self) -> tuple[Graph, ...]:
        """The graphs within it."""
        return self.branches if self.body is None else (self.body,)

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    @property
    def title(self) -> str:
        """What users know the op by: the Paddle name of calls and opaque ops."""
        return str(self.attrs.get("callee", self.name))


@dataclass(frozen=True)
class Guard:
    """A fact about dims that this graph relies on: `eq`, `ne`, `ge` or `lt`."""

    kind: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.kind}({to_text(self.a)}, {to_text(self.b)})"


@dataclass(frozen=True, eq=False)
class Graph:
    """Inputs, ops in order, outputs, and `writes`: (input index, its new value).

    Writes apply after every read. `guards` must hold for the graph to be valid.
    """

    name: str
    inputs: tuple[Value, ...]
    ops: tuple[Op, ...]
    outputs: tuple[Value, ...]
    writes: tuple[tuple[int, Value], ...] = ()
    guards: tuple[Guard, ...] = field(default=())

    @property
    def results(self) -> tuple[Value, ...]:
        """Outputs and written values: all that must be computed."""
        return self.outputs + tuple(value for _, value in self.writes)

    def producers(self) -> dict[Value, Op]:
        """Each value's defining op; inputs have none."""
        return {result: op for op in self.ops for result in op.results}

    def users(self) -> dict[Value, list[Op]]:
        """The ops that read each value, in order, once per operand."""
        found: dict[Value, list[Op]] = {v: [] for v in self.inputs}
        for op in self.ops:
            for operand in op.operands:
                found.setdefault(operand, []).append(op)
            for result in op.results:
                found.setdefault(result, [])
        return found

    def walk(self) -> Iterator[Op]:
        """Every op, bodies included."""
        for op in self.ops:
            yield op
            for graph in op.inner:
                yield from graph.walk()

    def with_ops(self, ops: Iterable[Op]) -> Graph:
        """The graph with other ops."""
        return replace(self, ops=tuple(ops))

    def __str__(self) -> str:
        from pirol.compiler.text import print_graph

        return print_graph(self)


def rename(graph: Graph, values: Mapping[Value, Value]) -> Graph:
    """The graph with values replaced where they are read; untouched ops are kept."""
    if not values:
        return graph

    def new(value: Value) -> Value:
        while value in values:
            value = values[value]
        return value

    ops = []
    for op in graph.ops:
        operands = tuple(new(v) for v in op.operands)
        same = all(a is b for a, b in zip(operands, op.operands))
        ops.append(op if same else replace(op, operands=operands))
    return replace(
        graph,
        ops=tuple(ops),
        outputs=tuple(new(v) for v in graph.outputs),
        writes=tuple((i, new(v)) for i, v in graph.writes),
    )


def structure(body: Graph, texts: dict[Op, str] | None = None) -> Any:
    """Equal for bodies that differ in nothing but their values' identities.

    texts: the attributes' texts so far, for a caller that asks of the same ops again.
    """
    texts = {} if texts is None else texts
    numbers = {v: k for k, v in enumerate(body.inputs)}
    ops = []
    for op in body.ops:
        operands = tuple(numbers[v] for v in op.operands)
        for result in op.results:
            numbers[result] = len(numbers)
        types = tuple(r.type for r in op.results)
        if op not in texts:
            texts[op] = repr(op.attrs)
        ops.append((op.name, operands, texts[op], types))
    outputs = tuple(numbers[v] for v in body.outputs)
    return tuple(v.type for v in body.inputs), tuple(ops), outputs


def prune(graph: Graph) -> Graph:
    """The graph without ops whose results nobody needs.

    An op of no results, or that draws random numbers, has an effect and stays. An op
    of Paddle's, or a `bind`, is also needed where a dim that it defines is used.
    """
    needed = set(graph.results)
    sizes = symbols_in(tuple(v.shape for v in graph.results))
    sizes |= symbols_of(*(d for g in graph.guards for d in (g.a, g.b)))
    kept: list[Op] = []
    for op in reversed(graph.ops):
        defines = defined_by(op)
        acts = op.attrs.get("effect") or not (op.results or defines)
        if acts or sizes & defines or any(r in needed for r in op.results):
            needed.update(op.operands)
            sizes |= named_by(op)
            kept.append(op)
    if len(kept) == len(graph.ops):
        return graph
    return graph.with_ops(reversed(kept))


def defined_by(op: Op) -> set[str]:
    """The symbols that the op may set: sizes and contents that data tell."""
    if op.name == "bind":
        return symbols_in(op.attrs["items"])
    if op.name in ("opaque", *CONTROL):
        return symbols_in([r.shape for r in op.results])
    return set()


def named_by(op: Op) -> set[str]:
    """The symbols in the op's attributes and results."""
    return symbols_in([tuple(op.attrs.values()), [r.shape for r in op.results]])


def symbols_in(value: Any) -> set[str]:
    """The shape symbols in nested attributes."""
    if isinstance(value, (tuple, list)):
        return set().union(*map(symbols_in, value))
    if value is None or isinstance(value, (int, float, str, bool, complex)):
        return set()
    return symbols_of(value)
