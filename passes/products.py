"""products: large products of matrices, for a library to run, as steps of their own.

dot_general(x, y) -> product(x, y), of operands that lie in memory as rows at one
distance; y that repeats for the whole batch has none, and x's batch is more rows. With
a row that is added to each, it is product(x, y, row). What else is fused around a
product otherwise is kernels before and after it. conv(x, w) of windows of one place is
product(w, x), each image one of the batch. Of widened halves it is a product of the
halves, and as they are where its result is rounded to such and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.compiler.ir import HALVES, Graph, Op, Value, prune
from pirol.passes.canonicalize import cast_back
from pirol.prim import Builder
from pirol.prim.builder import rewritten
from pirol.prim.prim import WIDE

LEAST = 16  # rows, columns, terms
WORTH = 1 << 24  # operations that pay for a step and memory around it
FLOATS = ("float32", "float64")


@dataclass(frozen=True)
class Side:
    """An operand: a value, its axes that are the batch and those that are summed."""

    value: Value
    batch: tuple[int, ...]
    summed: tuple[int, ...]

    @property
    def free(self) -> tuple[int, ...]:
        """The other axes, in order."""
        taken = (*self.batch, *self.summed)
        return tuple(k for k in range(self.value.type.rank) if k not in taken)

    def count(self, axes: tuple[int, ...]) -> Dim:
        """How many places there are along axes."""
        return product(self.value.shape[k] for k in axes)


@dataclass(frozen=True)
class Matrix:
    """How an operand lies: [b, place, term] at b * batch + place * pitch + term; where
    it is turned, at b * batch + term * pitch + place."""

    turned: bool
    pitch: Dim
    batch: Dim


def matrix(side: Side) -> Matrix | None:
    """How the operand lies, if it is matrices of rows at one distance."""
    shape = side.value.shape
    steps = dims.strides(shape)
    axes = [k for k, d in enumerate(shape) if dims.equal(d, 1) is not True]
    batch, free, summed = (
        [axes.index(k) for k in group if k in axes]
        for group in (side.batch, side.free, side.summed)
    )
    if not free or not summed or not all(map(_in_a_row, (batch, free, summed))):
        return None
    last = [steps[axes[group[-1]]] if group else 0 for group in (batch, free, summed)]
    if batch and batch[-1] == len(axes) - 1:
        return None
    turned = free[-1] == len(axes) - 1
    return Matrix(turned, last[2 if turned else 1], last[0])


def _in_a_row(places: list[int]) -> bool:
    return not places or places == [*range(places[0], places[0] + len(places))]


def products(graph: Graph) -> Graph:
    """The graph with `product` for each dot_general that is worth it."""
    reader = lone_readers(graph)

    def rule(b: Builder, op: Op) -> Value | None:
        if op.name == "cast":
            return cast_back(b, op)
        make = {"conv": _pointwise, "dot_general": _product}.get(op.name)
        if make is None or op.result.dtype not in FLOATS:
            return None
        return make(b, op, rounded(reader.get(op.result)))

    return _with_rows(prune(rewritten(graph, rule)))


def _with_rows(graph: Graph) -> Graph:
    """The graph with product(x, y) + a row, where nobody else reads the product, as
    product(x, y, row); of halves, where the sum is rounded as the product was."""
    reader = lone_readers(graph)

    def rule(b: Builder, op: Op) -> Value | None:
        if op.name == "cast":
            return cast_back(b, op)
        if op.name != "add":
            return None
        for whole, added in (op.operands, op.operands[::-1]):
            half = rounded(reader.get(op.result))
            found = _with_row(b, whole, added, half) if whole in reader else None
            if found is not None and _lone(b, whole, reader):
                return found
        return None

    return prune(rewritten(graph, rule))


def _lone(b: Builder, whole: Value, reader: Mapping[Value, Op]) -> bool:
    source = b.producers[whole]
    return source.name != "cast" or source.operands[0] in reader


def lone_readers(graph: Graph) -> dict[Value, Op]:
    """Of each value that one op reads, and nobody else, that op."""
    results = set(graph.results)
    return {
        v: ops[0]
        for v, ops in graph.users().items()
        if len(ops) == 1 and v not in results
    }


def rounded(op: Op | None) -> str:
    """The half that an op rounds its operand to, or ""."""
    cast = op is not None and op.name == "cast" and op.result.dtype in HALVES
    return op.result.dtype if op is not None and cast else ""


def narrowed(b: Builder, x: Value, y: Value) -> tuple[Value, Value]:
    """The halves that both have been widened from, or they themselves."""
    left, right = _half_of(b, x), _half_of(b, y)
    if left is None or right is None or left.dtype != right.dtype:
        return x, y
    return left, right


def _half_of(b: Builder, value: Value) -> Value | None:
    source = b.producers.get(value)
    if source is None or not source.operands:
        return None
    x = source.operands[0]
    if source.name == "cast":
        return x if x.dtype in HALVES else None
    inner = _half_of(b, x) if source.name == "broadcast" else None
    return None if inner is None else b.one("broadcast", inner, **source.attrs)


def _pointwise(b: Builder, op: Op, half: str) -> Value | None:
    """A conv of windows of one place as a product."""
    (x, w), at = narrowed(b, *op.operands), op.attrs
    steps = any(s != 1 for s in at["strides"])
    if steps or any(map(any, at["padding"])) or at["groups"] != 1:
        return None
    if any(dims.equal(k, 1) is not True for k in w.shape[2:]):
        return None
    weights = b.reshape(w, shape=w.shape[:2])
    return _made(b, Side(weights, (), (1,)), Side(x, (0,), (1,)), half)


def _product(b: Builder, op: Op, half: str) -> Value | None:
    given = zip(sides(op), narrowed(b, *op.operands))
    x, y = (replace(side, value=value) for side, value in given)
    return _made(b, x, y, half)


def _made(b: Builder, x: Side, y: Side, half: str) -> Value | None:
    """The product of two operands, if it is worth it; of `half`s, it is rounded so."""
    if x.value.dtype not in (*FLOATS, *HALVES):
        return None
    y = _lying(b, y)
    if x.batch and not y.batch:
        if [*x.batch, *x.free] != sorted((*x.batch, *x.free)):
            return None
        x = Side(x.value, (), x.summed)
    if not _pays(x, y):
        return None
    x = _lying(b, x)
    dtype = x.value.dtype
    wide = dtype in HALVES and dtype != half
    made: Value = b.product(
        x.value,
        y.value,
        x_batch=x.batch,
        y_batch=y.batch,
        x_sum=x.summed,
        y_sum=y.summed,
        dtype=WIDE if wide else dtype,
    )
    return b.cast(made, dtype=WIDE) if dtype == half else made


def sides(op: Op) -> tuple[Side, Side]:
    """The operands of a dot_general or product, x's summed axes in order."""
    x, y, *_ = op.operands
    pairs = sorted(zip(op.attrs["x_sum"], op.attrs["y_sum"]))
    return (
        Side(x, tuple(op.attrs["x_batch"]), tuple(k for k, _ in pairs)),
        Side(y, tuple(op.attrs["y_batch"]), tuple(k for _, k in pairs)),
    )


def _pays(x: Side, y: Side) -> bool:
    """Whether there are enough rows, columns and terms, and of all together."""
    sizes = (x.count(x.free), y.count(y.free), x.count(x.summed), y.count(y.batch))
    *matrix, batch = map(dims.about, sizes)
    return min(matrix) >= LEAST and 2 * math.prod(matrix) * batch >= WORTH


def _lying(b: Builder, side: Side) -> Side:
    """The operand as it lies in memory: the farthest of the values that it is a view of
    that is matrices, or a transposed copy of it."""
    fitting = [s for s in _seen_through(b, side) if matrix(s) is not None]
    if fitting:
        return fitting[-1]
    perm = (*side.batch, *side.free, *side.summed)
    ends = len(side.batch), len(perm) - len(side.summed)
    turned = b.transpose(side.value, perm=perm)
    return Side(turned, tuple(range(ends[0])), tuple(range(ends[1], len(perm))))


def _seen_through(b: Builder, side: Side | None) -> Iterator[Side]:
    """The operand, and what it is a transposed or repeated view of."""
    while side is not None:
        yield side
        source = b.producers.get(side.value)
        if source is None or source.name not in ("transpose", "broadcast"):
            return
        look = _unturned if source.name == "transpose" else _unrepeated
        side = look(b, source, side)


def _unturned(b: Builder, source: Op, side: Side) -> Side | None:
    """transpose(x) as x, if the free axes keep their order."""
    perm = source.attrs["perm"]
    batch, free, summed = (
        tuple(perm[k] for k in group) for group in (side.batch, side.free, side.summed)
    )
    return Side(source.operands[0], batch, summed) if [*free] == sorted(free) else None


def _unrepeated(b: Builder, source: Op, side: Side) -> Side | None:
    """broadcast(x) as x, if it repeats for the batch, all of it, and nothing else."""
    x, shape, at = source.operands[0], side.value.shape, source.attrs["dims"]
    kept = [k for d, k in zip(x.shape, at) if dims.equal(d, shape[k]) is True]
    if not side.batch or {*range(len(shape))} - {*kept} != {*side.batch}:
        return None
    if len(kept) < x.type.rank:
        x = b.reshape(x, shape=tuple(shape[k] for k in kept))
    return Side(x, (), tuple(map(kept.index, side.summed)))


def _with_row(b: Builder, whole: Value, added: Value, half: str) -> Value | None:
    """product(x, y) + row -> product(x, y, row); or the same of what is widened."""
    source, spread = b.producers.get(whole), b.producers.get(added)
    if source is None or spread is None or spread.name != "broadcast":
        return None
    product, row = source, spread.operands[0]
    if source.name == "cast":
        product = b.producers.get(source.operands[0], source)
        row = _half_of(b, row) or row
    dtype = product.result.dtype
    if product.name != "product" or len(product.operands) > 2:
        return None
    if row.dtype != dtype or dtype not in ("float32", half):
        return None
    if not _is_row(product, spread):
        return None
    made: Value = b.product(*product.operands, row, **product.attrs)
    return b.cast(made, dtype=WIDE) if dtype == half else made


def _is_row(source: Op, spread: Op) -> bool:
    """Whether a value is one row for each of a product's, which has no batch."""
    y = sides(source)[1]
    if y.batch or len(y.free) != 1:
        return False
    row, shape = spread.operands[0], source.result.shape
    wide = row.type.rank == 1 and dims.equal(row.shape[0], shape[-1]) is True
    return wide and tuple(spread.attrs["dims"]) == (len(shape) - 1,)
