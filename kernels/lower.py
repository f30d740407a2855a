"""Graph body -> Nest: every value is inlined at an index, views become accesses.

`build_nest(graph)` gives a Nest, or a Refusal that says why the ops do not fit one
loop nest. Fusion asks it, and what it accepts is what is compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Dim, Shape, same_shape
from pirol.compiler.ir import PART, Graph, Op, Value
from pirol.kernels import affine
from pirol.kernels.access import mirrored, narrow, part
from pirol.kernels.affine import Affine, Data, Refine, constant
from pirol.kernels.domain import (
    REDUCTIONS,
    SCANS,
    SCATTERS,
    WINDOWS,
    Domain,
    reduced,
    same_domain,
)
from pirol.kernels.merge import merge_axes
from pirol.kernels.nest import (
    PLACE,
    Axis,
    Const,
    Index,
    Load,
    Nest,
    Node,
    Reduce,
    Scalar,
    Scan,
    Store,
)
from pirol.kernels.operands import rounds, widens
from pirol.prim import PRIMS
from pirol.prim.contract import COMPILED
from pirol.prim.prim import ELEMENTWISE
from pirol.prim.reduce import lowest

PARTS = ("real", "imag")
MAX_NODES = 600  # a nest larger than this takes gcc too long


@dataclass(frozen=True)
class Refusal:
    """Why something was not done: a machine-readable code, and words."""

    code: str
    why: str

    def __str__(self) -> str:
        return f"{self.code}: {self.why}"


class _No(Exception):
    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.refusal = Refusal(code, why)


def build_nest(graph: Graph) -> Nest | Refusal:
    """The graph's ops as one loop nest over its inputs and outputs, or a Refusal."""
    splits: dict[str, Shape] = {}
    while True:
        try:
            return merge_axes(_Lowering(graph, splits).run())
        except Refine as wish:
            splits[wish.name] = wish.factors
        except _No as no:
            return no.refusal


def _domain(graph: Graph) -> Domain:
    found: Domain | None = None
    product = any(op.name in COMPILED for op in graph.ops)
    for op in graph.ops:
        here = reduced(op)
        if here is None:
            continue
        if found is not None and (product or not same_domain(found, here)):
            raise _No("domains differ", f"{op.title} reduces over other axes")
        found = found or here
    if found is not None:
        return found
    shape = max((v.shape for v in graph.results), key=len)
    return Domain(shape, shape, ())


@dataclass
class _Lowering:
    graph: Graph
    splits: dict[str, Shape]
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbers: dict[Any, int] = {}
        self.memo: dict[Any, int] = {}
        self.producers = self.graph.producers()
        self.buffers = {v: k for k, v in enumerate(self.graph.inputs)}
        self.domain = _domain(self.graph)
        self.axes: list[Axis] = []
        self.full = tuple(map(self.axis_index, range(len(self.domain.full))))
        self.extents = {a.name: a.extent for a in self.axes}
        self.rows = tuple(
            e for k, e in enumerate(self.full) if k not in self.domain.columns
        )

    def axis_index(self, k: int) -> Affine:
        """The index of dim k of the domain: its axis, or the split axes' sum."""
        return self.split_axis(f"i{k}", self.domain.full[k], k in self.domain.columns)

    def split_axis(self, name: str, extent: Dim, column: bool) -> Affine:
        if dims.equal(extent, 1) is True:
            return affine.ZERO
        if name not in self.splits:
            self.axes.append(Axis(name, extent, column))
            return affine.axis(name)
        factors = self.splits[name]
        parts = [
            self.split_axis(f"{name}_{j}", f, column) for j, f in enumerate(factors)
        ]
        return affine.linear(parts, factors)

    def run(self) -> Nest:
        self.walked = self.places()
        outputs = enumerate(self.graph.outputs)
        stores = [s for k, v in outputs for s in self.stores(k, v)]
        rows = [a for a in self.axes if not a.column]
        columns = [a for a in self.axes if a.column]
        return Nest(
            self.graph.name,
            tuple(rows + columns),
            tuple(self.nodes),
            tuple(stores),
            tuple(v.type for v in self.graph.inputs),
            tuple(v.type for v in self.graph.outputs),
        )

    def places(self) -> dict[Value, tuple[Affine, ...]]:
        """Where the loops stand in what follows a contraction through views."""
        found: dict[Value, tuple[Affine, ...]] = {}
        for op in self.graph.ops:
            if op.name in COMPILED:
                found[op.result] = self.product_index(op)
                continue
            known = [v for v in op.operands if v in found and v.shape]
            if not known:
                continue
            at, shape = found[known[0]], known[0].shape
            if op.name == "transpose":
                found[op.result] = tuple(at[k] for k in op.attrs["perm"])
            elif op.name == "reshape":
                to = op.result.shape
                found[op.result] = affine.reshape(at, shape, to, self.extents)
            elif PRIMS[op.name].kind in ELEMENTWISE:
                found[op.result] = at
        return found

    def product_index(self, op: Op) -> tuple[Affine, ...]:
        """Where the loops stand in a contraction's result."""
        rows = self.domain.rows
        return affine.reshape(self.rows, rows, op.result.shape, self.extents)

    def scattered(self, output: int, op: Op) -> Store:
        """Where each element of an operand is added to the result, or put."""
        if len(self.graph.outputs) > 1:
            raise _No("domains differ", f"{op.title} has a kernel of its own")
        *below, source = op.operands[: SCATTERS[op.name] + 1]
        indices = [*op.operands[SCATTERS[op.name] + 1 :]]
        shape = op.result.shape
        at, among = [], []
        for k, size, step in zip(op.attrs["dims"], shape, dims.strides(shape)):
            if k >= 0:
                at.append(self.full[k])
                continue
            at.append(self.place(indices.pop(0), self.full, size, None))
            among.append((size, step))
        node = self.at(source, self.full)
        if any(isinstance(n, Reduce) for n in self.nodes):
            raise _No("domains differ", f"{op.title} takes what all of a row decide")
        base = self.base(below[0]) if below else None
        return Store(output, affine.linear(at, shape), node, tuple(among), base)

    def base(self, value: Value) -> Load | Const:
        """What lies at a place before something is put there."""
        op, place = self.producers.get(value), affine.axis(PLACE)
        while op is not None and op.name == "reshape":
            value = op.operands[0]
            op = self.producers.get(value)
        if op is not None and op.name == "const":
            return Const(op.attrs["value"], value.dtype)
        if op is not None and op.name in PARTS and op.operands[0] in self.buffers:
            buffer, place = op.operands[0], part(place, PARTS.index(op.name))
            return Load(self.buffers[buffer], place, None, value.dtype)
        if op is not None:
            raise _No("recompute", f"{op.title} is read once more than it is put over")
        return Load(self.buffers[value], place, None, value.dtype)

    def stores(self, output: int, value: Value) -> list[Store]:
        """An output's stores; of complex numbers, the real parts' and the others'."""
        maker = self.producers.get(value)
        sums = maker
        while sums is not None and sums.name == "reshape":
            sums = self.producers.get(sums.operands[0])
        scatters = sums is not None and sums.name in SCATTERS
        if sums is not None and scatters and value.dtype not in PART:
            return [self.scattered(output, sums)]
        at = self.stored_at(value)
        place = affine.linear(at, value.shape)
        if value.dtype not in PART:
            return [Store(output, place, self.at(value, at))]
        if maker is not None and maker.name == "const":
            number, kind = complex(maker.attrs["value"]), PART[value.dtype]
            parts = [self.node(Const(v, kind)) for v in (number.real, number.imag)]
        elif maker is not None and maker.name == "complex":
            parts = [self.at(v, at) for v in maker.operands]
        else:
            raise _No("no kernel", f"{value.type} that is not made of its parts")
        return [Store(output, part(place, k), node) for k, node in enumerate(parts)]

    def stored_at(self, value: Value) -> tuple[Affine, ...]:
        """Where the loops stand in an output."""
        if value in self.walked:
            return self.walked[value]
        places = [(self.rows, self.domain.rows), (self.full, self.domain.full)]
        if same_shape(value.shape, self.domain.full):
            places.reverse()  # both fit where a size is 0
        for index, shape in places:
            if dims.equal(value.type.size, dims.product(shape)) is True:
                return affine.reshape(index, shape, value.shape, self.extents)
        raise _No("domains differ", f"a result {value.type} does not fit the loops")

    def node(self, node: Node) -> int:
        if isinstance(node, Index):
            node = Index(affine.nonzero(node.value))
        # 0.0 == -0.0, but their texts differ.
        key = (node, repr(node.value)) if isinstance(node, Const) else node
        if key not in self.numbers:
            if len(self.nodes) >= MAX_NODES:
                raise _No("too large", f"more than {MAX_NODES} scalar ops")
            self.numbers[key] = len(self.nodes)
            self.nodes.append(node)
        return self.numbers[key]

    def scalar(self, prim: str, dtype: str, *args: int) -> int:
        return self.node(Scalar(prim, args, dtype))

    def const(self, value: Any, dtype: str) -> int:
        return self.node(Const(value, dtype))

    def at(
        self, value: Value, index: Sequence[Affine], guard: int | None = None
    ) -> int:
        """The node of a value's element at an index; loads obey `guard`."""
        key = (value, tuple(index), guard)
        if key not in self.memo:
            self.memo[key] = self.inline(value, tuple(index), guard)
        return self.memo[key]

    def inline(self, value: Value, index: tuple[Affine, ...], guard: int | None) -> int:
        op = self.producers.get(value)
        if op is None:
            offset = affine.linear(index, value.shape)
            return self.node(Load(self.buffers[value], offset, guard, value.dtype))
        if op.name in PARTS:
            return self.part(op, index, guard)
        if PRIMS[op.name].kind in ELEMENTWISE:
            args = [self.at(v, index, guard) for v in op.operands]
            return self.scalar(op.name, value.dtype, *args)
        return self.special(op, value, index, guard)

    def part(self, op: Op, index: tuple[Affine, ...], guard: int | None) -> int:
        """A part of a complex number, which memory holds one behind the other."""
        source, k = op.operands[0], PARTS.index(op.name)
        maker = self.producers.get(source)
        if maker is not None:
            if maker.name != "complex":
                raise _No("no kernel", f"{maker.title} of complex numbers")
            return self.at(maker.operands[k], index, guard)
        place = part(affine.linear(index, source.shape), k)
        return self.node(Load(self.buffers[source], place, guard, op.result.dtype))

    def special(
        self, op: Op, value: Value, index: tuple[Affine, ...], guard: int | None
    ) -> int:
        attrs = op.attrs
        match op.name:
            case "const":
                return self.const(attrs["value"], value.dtype)
            case "iota":
                return self.number(index[attrs["axis"]], value.dtype)
            case "reshape":
                source = op.operands[0]
                at = affine.reshape(index, value.shape, source.shape, self.extents)
                return self.at(source, at, guard)
            case "transpose":
                back = sorted(range(len(index)), key=lambda k: attrs["perm"][k])
                return self.at(op.operands[0], [index[k] for k in back], guard)
            case "broadcast":
                return self.at(op.operands[0], narrow(op, index), guard)
            case "slice":
                moved = zip(index, attrs["steps"], attrs["starts"])
                places = [
                    affine.add(affine.scale(i, s), constant(a)) for i, s, a in moved
                ]
                return self.at(op.operands[0], places, guard)
            case "reverse":
                return self.at(op.operands[0], mirrored(op, index), guard)
            case "gather":
                return self.gather(op, index, guard)
            case "pad":
                return self.pad(op, index, guard)
            case "concat":
                return self.concat(op, index, guard)
            case "window_max" | "window_sum":
                return self.window(op, value, index)
            case name if name in SCANS:
                return self.scan(op, index)
            case name if name in COMPILED:
                return self.contraction(op, index)
            case name if name in REDUCTIONS:
                return self.reduction(op, index)
        raise _No("no kernel", f"{op.name} has no loop form")

    def number(self, value: Affine, dtype: str) -> int:
        node = self.node(Index(value))
        return node if dtype == "int64" else self.scalar("cast", dtype, node)

    # What is reduced is read where the loops stand, so that no guard is needed: one may
    # depend on the reduced axis itself, where the result is read along it.

    def reduction(self, op: Op, index: tuple[Affine, ...]) -> int:
        if index != self.rows:
            raise _No("domains differ", f"{op.title} is read at other rows")
        arg = self.at(op.operands[0], self.full)
        return self.node(Reduce(REDUCTIONS[op.name], (arg,), op.result.dtype))

    def contraction(self, op: Op, index: tuple[Affine, ...]) -> int:
        if index != self.product_index(op):
            raise _No("domains differ", f"{op.title} is read at other rows")
        places = self.conv_places if op.name == "conv" else self.dot_places
        batch = self.rows[: len(op.attrs.get("x_batch", ()))]
        apart = set[str]().union(*(a.axes() for a in batch))
        factors: list[int] = []
        for source, (at, conditions) in zip(op.operands, places(op)):
            item = self.at(source, at, self.all_of(None, conditions))
            if not (
                isinstance(self.nodes[item], Load)
                or (op.name == "dot_general" and self.is_half(item, factors, apart))
            ):
                why = f"an operand of {op.title} would be computed again and again"
                raise _No("recompute", why)
            factors.append(item)
        product = self.scalar("mul", op.result.dtype, *factors)
        return self.node(Reduce("dot", (product,), op.result.dtype))

    def is_half(self, item: int, before: list[int], apart: set[str]) -> bool:
        """Whether a factor is a half that a product takes as it is; the second only
        where the first is."""
        if not before:
            return widens(self.nodes, item, self.full[-1])
        if isinstance(self.nodes[before[0]], Load):
            return False
        return widens(self.nodes, item, None) or rounds(self.nodes, item, apart)

    def dot_places(self, op: Op) -> list[tuple[list[Affine], list[int]]]:
        """For each operand, the index of its element, and when it is there."""
        attrs = op.attrs
        found: list[tuple[list[Affine], list[int]]] = []
        batch, summed = len(attrs["x_batch"]), self.full[len(self.rows) :]
        free = list(self.rows[batch:])
        for source, side in zip(op.operands, "xy"):
            given = dict(zip(attrs[f"{side}_batch"], self.rows))
            given |= dict(zip(attrs[f"{side}_sum"], summed))
            rank = range(source.type.rank)
            at = [given[k] if k in given else free.pop(0) for k in rank]
            found.append((at, []))
        return found

    def conv_places(self, op: Op) -> list[tuple[list[Affine], list[int]]]:
        """As dot_places; x is there where a tap does not lie in the padding."""
        x, w = (v.shape for v in op.operands)
        image, group, out, *at = self.rows
        channel, *taps = self.full[len(self.rows) :]
        inputs = affine.linear((group, channel), (op.attrs["groups"], w[1]))
        outputs = affine.linear((group, out), self.domain.rows[1:3])
        found, conditions = [image, inputs], list[int]()
        for k, size in enumerate(x[2:]):
            place = self.tap(at[k], taps[k], op.attrs, k)
            conditions += self.inside(place, 0, size)
            found.append(place)
        return [(found, conditions), ([outputs, channel, *taps], [])]

    def tap(self, at: Affine, tap: Affine, attrs: Any, k: int) -> Affine:
        """Where a window's tap on the spatial axis k lies."""
        start = affine.scale(at, attrs["strides"][k])
        place = affine.add(start, affine.scale(tap, attrs["dilation"][k]))
        return affine.add(place, constant(dims.mul(-1, attrs["padding"][k][0])))

    def scan(self, op: Op, index: tuple[Affine, ...]) -> int:
        if index != self.full:
            raise _No("domains differ", f"{op.title} is read at other places")
        arg = self.at(op.operands[0], self.full)
        return self.node(Scan(SCANS[op.name], (arg,), op.result.dtype))

    def gather(self, op: Op, index: tuple[Affine, ...], guard: int | None) -> int:
        source, *indices = op.operands
        at: list[Affine] = []
        conditions: list[int] = []
        for k, size in zip(op.attrs["dims"], source.shape):
            if k >= 0:
                at.append(index[k])
                continue
            at.append(self.place(indices.pop(0), index, size, guard))
            if not (isinstance(size, int) and size > 0):
                ends = self.const(size, "int64"), self.const(0, "int64")
                conditions.append(self.scalar("gt", "bool", *ends))
        item = self.at(source, at, self.all_of(guard, conditions))
        return self.or_zero(item, self.all_of(None, conditions), source.dtype)

    def place(
        self, index: Value, at: Sequence[Affine], size: Dim, guard: int | None
    ) -> Affine:
        """An index's element, clamped into 0..size - 1."""
        place = self.at(index, at, guard)
        last = self.const(dims.sub(size, 1), "int64")
        place = self.scalar("min", "int64", place, last)
        place = self.scalar("max", "int64", place, self.const(0, "int64"))
        return Affine(((Data(place, size), 1),))

    def or_zero(self, item: int, here: int | None, dtype: str) -> int:
        """The item where `here` is true, else 0, which a load's guard gives already."""
        if here is None or isinstance(self.nodes[item], Load):
            return item
        return self.scalar("select", dtype, here, item, self.const(0, dtype))

    def inside(self, value: Affine, low: Dim, high: Dim) -> list[int]:
        """Conditions for low <= value < high; those sure to hold are left out."""
        found = []
        above, below = affine.within(value, low, high, self.extents)
        if not above:
            ends = self.node(Index(value)), self.const(low, "int64")
            found.append(self.scalar("ge", "bool", *ends))
        if not below:
            ends = self.node(Index(value)), self.const(high, "int64")
            found.append(self.scalar("lt", "bool", *ends))
        return found

    def all_of(self, guard: int | None, conditions: list[int]) -> int | None:
        for condition in conditions:
            if guard is not None:
                condition = self.scalar("and", "bool", guard, condition)
            guard = condition
        return guard

    def pad(self, op: Op, index: tuple[Affine, ...], guard: int | None) -> int:
        source, attrs = op.operands[0], op.attrs
        conditions: list[int] = []
        at: list[Affine] = []
        for k, place in enumerate(index):
            moved = affine.add(place, constant(dims.mul(-1, attrs["low"][k])))
            step = attrs["interior"][k] + 1
            if step > 1:
                moved, rest = affine.divide(moved, step, self.extents)
                zero = self.node(Index(rest)), self.const(0, "int64")
                conditions.append(self.scalar("eq", "bool", *zero))
            conditions += self.inside(moved, 0, source.shape[k])
            at.append(moved)
        if not conditions:
            return self.at(source, at, guard)
        here = self.all_of(None, conditions)
        assert here is not None
        value = self.at(source, at, self.all_of(guard, conditions))
        other = self.const(attrs["value"], source.dtype)
        return self.scalar("select", source.dtype, here, value, other)

    def concat(self, op: Op, index: tuple[Affine, ...], guard: int | None) -> int:
        axis, start, parts = op.attrs["axis"], 0, []
        for operand in op.operands:
            end = dims.add(start, operand.shape[axis])
            moved = affine.add(index[axis], constant(dims.mul(-1, start)))
            at = (*index[:axis], moved, *index[axis + 1 :])
            conditions = self.inside(index[axis], start, end)
            value = self.at(operand, at, self.all_of(guard, conditions))
            parts.append((end, value))
            start = end
        result = parts[-1][1]
        for end, value in reversed(parts[:-1]):
            ends = self.node(Index(index[axis])), self.const(end, "int64")
            first = self.scalar("lt", "bool", *ends)
            result = self.scalar("select", op.result.dtype, first, value, result)
        return result

    def window(self, op: Op, value: Value, index: tuple[Affine, ...]) -> int:
        if index != self.rows:
            raise _No("domains differ", f"{op.title} is read at other rows")
        source, attrs = op.operands[0], op.attrs
        taps = self.full[len(index) :]
        at, conditions = [], []
        for k, size in enumerate(source.shape):
            place = self.tap(index[k], taps[k], attrs, k)
            conditions += self.inside(place, 0, size)
            at.append(place)
        here = self.all_of(None, conditions)
        item = self.at(source, at, here)
        if value is not op.results[0]:
            plane = slice(*attrs["plane"])
            number = self.node(Index(affine.linear(at[plane], source.shape[plane])))
            valid = self.const(True, "bool") if here is None else here
            found = self.node(Reduce("argmax", (item, number, valid), "int64"))
            return self.scalar("cast", value.dtype, found)
        kind = WINDOWS[op.name]
        if kind == "sum":
            item = self.or_zero(item, here, source.dtype)
        elif here is not None:
            low = self.const(lowest(source.dtype), source.dtype)
            item = self.scalar("select", source.dtype, here, item, low)
        return self.node(Reduce(kind, (item,), source.dtype))
