"""Nest: one fused loop nest, free of target: axes, scalar nodes, stores.

Row axes are the points that run independently; column axes are reduced over. Nodes
are in order and refer to earlier ones by number; a node that depends on a column
axis has a value per element, any other one per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from pirol.compiler import dims
from pirol.compiler.dims import Dim
from pirol.compiler.ir import DTYPES, TensorType
from pirol.kernels.affine import ZERO, Affine, evaluate
from pirol.prim import PRIMS
from pirol.prim.reduce import highest, lowest

PLACE = "place"  # an axis: all places of an output


@dataclass(frozen=True)
class Axis:
    """A loop axis; `column` axes are reduced over."""

    name: str
    extent: Dim
    column: bool


@dataclass(frozen=True)
class Load:
    """Element `index` (row-major offset) of an input; 0 where `guard` is false.

    Of complex inputs, as of complex outputs, the elements are the parts, in turn.
    """

    buffer: int
    index: Affine
    guard: int | None
    dtype: str


@dataclass(frozen=True)
class Const:
    """A number, or a Dim as an integer."""

    value: Any
    dtype: str


@dataclass(frozen=True)
class Index:
    """An index expression as an int64 number."""

    value: Affine
    dtype: str = "int64"


@dataclass(frozen=True)
class Scalar:
    """An elementwise primitive on nodes."""

    prim: str
    args: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Reduce:
    """Over all column axes. kind: sum, dot, prod, max, min, or argmax.

    dot is the sum of a contraction's products. argmax takes (value, position, valid)
    and gives the position of the first largest value (the first NaN wins), -1 where
    none is valid.
    """

    kind: str
    args: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Scan:
    """At each element, the reduction of the columns up to and with it: sum or prod."""

    kind: str
    args: tuple[int, ...]
    dtype: str


JOINS: dict[str, Any] = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}  # what a scan does with two elements
Node: TypeAlias = Load | Const | Index | Scalar | Reduce | Scan


@dataclass(frozen=True)
class Store:
    """Write a node to element `index` of an output.

    among: at places that data name, in the columns' order; the index has a Data for
    each of these (extent, step) of the output's dims, which no axis walks. The nodes
    are added up, from 0 on, or put over `base`: a number, or an input at an index that
    is made of PLACE, the place in the output.
    """

    output: int
    index: Affine
    node: int
    among: tuple[tuple[Dim, Dim], ...] | None = None
    base: Load | Const | None = None


@dataclass(frozen=True)
class Nest:
    """One loop nest; see the module's text."""

    name: str
    axes: tuple[Axis, ...]
    nodes: tuple[Node, ...]
    stores: tuple[Store, ...]
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]

    @property
    def rows(self) -> tuple[Axis, ...]:
        """The independent axes, outermost first."""
        return tuple(a for a in self.axes if not a.column)

    @property
    def columns(self) -> tuple[Axis, ...]:
        """The reduced axes, outermost first."""
        return tuple(a for a in self.axes if a.column)

    @property
    def numbers(self) -> range:
        """The nodes' numbers."""
        return range(len(self.nodes))

    @property
    def scattered(self) -> Store | None:
        """The store at places that data name; then there is no other."""
        return next((s for s in self.stores if s.among is not None), None)

    @property
    def in_order(self) -> bool:
        """Whether the columns are walked one by one: for an argmax or a scan."""
        return any(isinstance(n, Scan) or _is_argmax(n) for n in self.nodes)

    @property
    def reduces(self) -> bool:
        """Whether there is a reduction or scan, of no column axes even."""
        return any(isinstance(n, (Reduce, Scan)) for n in self.nodes)

    @cached_property
    def per_element(self) -> tuple[bool, ...]:
        """For each node, whether it depends on a column axis."""
        columns = {a.name for a in self.columns}
        found: list[bool] = []
        for node in self.nodes:
            match node:
                case Const() | Reduce():
                    found.append(False)
                case Scan():
                    found.append(True)
                case _:
                    own = bool(index_of(node).axes() & columns)
                    found.append(own or any(found[a] for a in self.arguments(node)))
        return tuple(found)

    def reads(self, load: Load) -> int:
        """About how many elements a load reads, in the loops over all axes."""
        own = load.index.axes()
        return dims.about(dims.product(a.extent for a in self.axes if a.name in own))

    def arguments(self, node: Node) -> tuple[int, ...]:
        """The nodes that a node reads."""
        match node:
            case Load(_, _, guard, _):
                guards = () if guard is None else (guard,)
                return (*sorted(node.index.data()), *guards)
            case Index():
                return tuple(sorted(node.value.data()))
            case Scalar(_, args, _) | Reduce(_, args, _) | Scan(_, args, _):
                return args
        return ()


def plain_sums(nest: Nest) -> Nest:
    """The nest with the contraction, if any, as a sum like others."""

    def plain(node: Node) -> Node:
        if isinstance(node, Reduce) and node.kind == "dot":
            return replace(node, kind="sum")
        return node

    return replace(nest, nodes=tuple(map(plain, nest.nodes)))


def _is_argmax(node: Node) -> bool:
    return isinstance(node, Reduce) and node.kind == "argmax"


def index_of(node: Node) -> Affine:
    """A node's own index; that of a node without one depends on nothing."""
    match node:
        case Load(_, index, _, _) | Index(index, _):
            return index
    return ZERO


def with_index(node: Node, index: Affine) -> Node:
    """A node with another index, if it has one."""
    match node:
        case Load():
            return replace(node, index=index)
        case Index():
            return replace(node, value=index)
    return node


def interpret_nest(
    nest: Nest, inputs: Sequence[Any], symbols: Mapping[str, int]
) -> list[Any]:
    """Run a nest on NumPy arrays; every access is checked to be within bounds."""
    sizes = [dims.evaluate(a.extent, symbols) for a in nest.axes]
    grid = dict(zip((a.name for a in nest.axes), np.indices(sizes, sparse=True)))
    run = _Run(nest, [_elements(np.asarray(x)) for x in inputs], grid, symbols, sizes)
    with np.errstate(all="ignore"):
        for node in nest.nodes:
            run.values.append(run.node(node))
            run.places[f"v{len(run.values) - 1}"] = run.values[-1]
    return [run.stored(k) for k in range(len(nest.outputs))]


@dataclass
class _Run:
    nest: Nest
    inputs: list[Any]
    grid: dict[str, Any]
    symbols: Mapping[str, int]
    sizes: list[int]

    def __post_init__(self) -> None:
        self.values: list[Any] = []
        self.places = dict(self.grid)
        self.columns = tuple(k for k, a in enumerate(self.nest.axes) if a.column)
        rows = [n for k, n in enumerate(self.sizes) if k not in self.columns]
        self.empty = 0 in rows  # nothing is read or written then

    def spread(self, value: Any) -> Any:
        return np.broadcast_to(value, self.sizes)

    def node(self, node: Node) -> Any:
        match node:
            case Load(buffer, index, guard, _):
                return self.load(buffer, index, guard)
            case Const(value, dtype):
                number = value
                if not isinstance(value, (int, float, bool, complex)):
                    number = dims.evaluate(value, self.symbols)
                return np.asarray(number).astype(DTYPES[dtype][1])
            case Index(value):
                return np.asarray(evaluate(value, self.places, self.symbols), np.int64)
            case Scalar(prim, args, dtype):
                given = [self.values[a] for a in args]
                attrs = {"dtype": dtype} if PRIMS[prim].kind == "cast" else {}
                return np.asarray(PRIMS[prim].numpy(*given, **attrs))
            case Scan(kind, args, dtype):
                return self.scan(kind, self.spread(self.values[args[0]]), dtype)
            case Reduce(kind, args, dtype):
                return self.reduce(
                    kind, [self.spread(self.values[a]) for a in args], dtype
                )

    def terms(self) -> int:
        """How many elements a row has."""
        return int(np.prod([self.sizes[k] for k in self.columns]))

    def scan(self, kind: str, value: Any, dtype: str) -> Any:
        order = [k for k in range(len(self.sizes)) if k not in self.columns]
        moved = np.transpose(value, [*order, *self.columns])
        flat = moved.reshape(*moved.shape[: len(order)], self.terms())
        total = JOINS[kind].accumulate(flat, -1, dtype=value.dtype)
        back = np.argsort([*order, *self.columns])
        placed = np.transpose(total.reshape(moved.shape), back)
        return np.asarray(placed, DTYPES[dtype][1])

    def load(self, buffer: int, index: Affine, guard: int | None) -> Any:
        source = self.inputs[buffer]
        place = evaluate(index, self.places, self.symbols)
        at, use = np.broadcast_arrays(
            place, True if guard is None else self.values[guard]
        )
        outside = use & ((at < 0) | (at >= source.size))
        if outside.any() and not self.empty:
            raise IndexError(f"{self.nest.name}: reads input {buffer} out of bounds")
        if not source.size:
            return np.zeros(at.shape, source.dtype)
        return np.where(use, source[np.where(use, at, 0)], source.dtype.type(0))

    def scatter(self, out: Any, store: Store, at: Any, value: Any) -> None:
        if not out.size:
            return
        match store.base:
            case None:
                out[:] = 0
                np.add.at(out, at, value)
                return
            case Const():
                out[:] = self.node(store.base)
            case Load(buffer, index, _, _):
                every = {PLACE: np.arange(out.size)}
                out[:] = self.inputs[buffer][evaluate(index, every, self.symbols)]
        for place, item in zip(at.tolist(), value):
            out[place] = item

    def reduce(self, kind: str, args: list[Any], dtype: str) -> Any:
        over, kept = self.columns, [1 if a.column else n for a, n in self.shape()]
        if kind == "argmax":
            return _argmax(args, over).reshape(kept)
        value = args[0]
        match kind:
            case "sum" | "dot":
                total = np.sum(value, axis=over, dtype=value.dtype)
            case "prod":
                total = np.prod(value, axis=over, dtype=value.dtype)
            case "max":
                total = np.max(value, axis=over, initial=lowest(value.dtype))
            case _:
                total = np.min(value, axis=over, initial=highest(value.dtype))
        return np.asarray(total, DTYPES[dtype][1]).reshape(kept)

    def shape(self) -> list[tuple[Axis, int]]:
        return list(zip(self.nest.axes, self.sizes))

    def stored(self, output: int) -> Any:
        kind = self.nest.outputs[output]
        shape = [dims.evaluate(d, self.symbols) for d in kind.shape]
        whole = np.empty(int(np.prod(shape)), DTYPES[kind.dtype][1])
        flat = _elements(whole)
        written = np.zeros(flat.shape, bool)
        for store in self.nest.stores:
            if store.output == output:
                place = evaluate(store.index, self.places, self.symbols)
                at, value = np.broadcast_arrays(place, self.values[store.node])
                if store.among is not None:
                    at, value = self.spread(at), self.spread(value)
                    self.scatter(flat, store, at.reshape(-1), value.reshape(-1))
                    written[:] = True
                    continue
                if not self.empty:
                    flat[at.reshape(-1)] = value.reshape(-1)
                    written[at.reshape(-1)] = True
        if not written.all():
            raise IndexError(f"{self.nest.name}: output {output} is not fully written")
        return whole.reshape(shape)


def _elements(array: Any) -> Any:
    flat = array.reshape(-1)
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def _argmax(args: list[Any], over: tuple[int, ...]) -> Any:
    value, position, valid = (np.moveaxis(a, over, range(-len(over), 0)) for a in args)
    lead = value.shape[: value.ndim - len(over)]
    terms = int(np.prod(value.shape[len(lead) :]))
    value, position, valid = (a.reshape(*lead, terms) for a in (value, position, valid))
    best = np.full(lead, lowest(value.dtype), value.dtype)
    index = np.full(lead, -1, np.int64)
    for k in range(value.shape[-1]):
        v = value[..., k]
        take = valid[..., k] & ((v > best) | (index < 0) | (v != v)) & (best == best)
        best, index = np.where(take, v, best), np.where(take, position[..., k], index)
    return index
