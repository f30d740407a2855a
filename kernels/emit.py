"""What the schedules share: order of passes, and nodes as statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.compiler.ir import BITS, DTYPES, FLOATS
from pirol.kernels import affine
from pirol.kernels.kernel import (
    Apply,
    Array,
    At,
    Expr,
    Guarded,
    If,
    Let,
    Loop,
    Num,
    Offset,
    Put,
    Ref,
    Stmt,
)
from pirol.kernels.nest import (
    Const,
    Index,
    Load,
    Nest,
    Node,
    Reduce,
    Scalar,
    Scan,
    Store,
    index_of,
)
from pirol.prim.reduce import highest, lowest

ALIGNMENT = 64  # bytes, of arrays in scratch
TILE = 256  # rows taken together as lanes, with arrays for what each has
WORTH = 32768  # scalar operations that pay for a thread
JOIN = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}


def identity(kind: str, dtype: str) -> Num:
    """The value that a reduction starts from."""
    if kind in ("sum", "prod"):
        return Num(int(kind == "prod"), dtype)
    bound = lowest if kind in ("max", "argmax") else highest
    return Num(bound(DTYPES[dtype][1]), dtype)


@dataclass(frozen=True)
class Passes:
    """The passes over the columns: in each, reductions and stores; then row stores."""

    nest: Nest

    @cached_property
    def stages(self) -> tuple[int, ...]:
        """For each node, how many passes must be over before it can be computed."""
        found: list[int] = []
        for node in self.nest.nodes:
            level = max((found[a] for a in self.nest.arguments(node)), default=0)
            found.append(level + isinstance(node, Reduce))
        return tuple(found)

    def per_element(self, store: Store) -> bool:
        """Whether the store happens once per element."""
        columns = {a.name for a in self.nest.columns}
        return self.nest.per_element[store.node] or bool(store.index.axes() & columns)

    @cached_property
    def row_stores(self) -> list[Store]:
        """Stores that happen once per row."""
        return [s for s in self.nest.stores if not self.per_element(s)]

    @cached_property
    def passes(self) -> list[tuple[list[int], list[Store]]]:
        """For each pass: its reductions (node numbers) and its element stores."""
        nodes = self.nest.nodes
        reduces = [k for k, n in enumerate(nodes) if isinstance(n, Reduce)]
        stores = [s for s in self.nest.stores if self.per_element(s)]
        last = max([self.stages[k] for k in reduces], default=0)
        count = max([last, *(self.stages[s.node] + 1 for s in stores)])
        return [
            (
                [k for k in reduces if self.stages[k] == p + 1],
                [s for s in stores if self.stages[s.node] == p],
            )
            for p in range(count)
        ]

    def targets(self, p: int) -> list[int]:
        """The nodes that pass p is there for."""
        reduces, stores = self.passes[p]
        found = [a for k in reduces for a in self.nest.arguments(self.nest.nodes[k])]
        return found + [s.node for s in stores]

    @cached_property
    def total(self) -> int | None:
        """The nest's reduction, if it is the only one and all stores are of rows."""
        found = [k for k, n in enumerate(self.nest.nodes) if isinstance(n, Reduce)]
        alone = len(found) == 1 and len(self.row_stores) == len(self.nest.stores)
        return found[0] if alone and self.nest.columns else None


def in_scratch(arrays: Iterable[tuple[str, str, Dim]]) -> tuple[list[Stmt], Dim]:
    """Arrays (name, dtype, length) one after the other in scratch; bytes in all."""
    found: list[Stmt] = []
    end: Dim = 0
    for name, dtype, length in arrays:
        found.append(Array(name, dtype, length, "scratch", end))
        whole = dims.add(dims.mul(length, BITS[dtype] // 8), ALIGNMENT - 1)
        whole = dims.mul(dims.floordiv(whole, ALIGNMENT), ALIGNMENT)
        end = dims.add(end, whole)
    return found, end


def span_of(loop: Loop) -> int | None:
    """How many iterations a loop has, but for its limit, where that is known."""
    return affine.number(affine.add(loop.stop, affine.scale(loop.start, -1)))


def with_lanes(
    body: Iterable[Stmt], change: Callable[[Loop], list[Stmt]]
) -> Iterator[Stmt]:
    """Statements, each loop over lanes among or in them changed."""
    for stmt in body:
        if isinstance(stmt, Loop) and stmt.kind == "lanes":
            yield from change(stmt)
        elif isinstance(stmt, (Loop, If)):
            yield replace(stmt, body=tuple(with_lanes(stmt.body, change)))
        else:
            yield stmt


def in_tiles(
    loop: Loop, size: int, name: str, parts: Callable[[Loop], list[Stmt]]
) -> list[Stmt]:
    """A loop's iterations, up to `size` at a time by what `parts` makes of a loop over
    so many."""
    span = span_of(loop)
    if span is not None and span <= size:
        return parts(loop)
    name = f"{loop.var}_{name}"
    stop = affine.add(affine.axis(name), affine.constant(size))
    # Where there is a limit the stop is a whole number of TILEs behind the start.
    limit = loop.stop if loop.limit is None else loop.limit
    inner = replace(loop, start=affine.axis(name), stop=stop, limit=limit)
    body = tuple(parts(inner))
    return [Loop(name, loop.start, loop.stop, body, step=size, limit=loop.limit)]


def grain(cost: Dim, worth: int = WORTH) -> Dim:
    """Rows that are worth a thread, given the cost of one."""
    return dims.add(dims.floordiv(worth, dims.maximum(cost, 1)), 1)


def axes_of(nest: Nest, node: int) -> set[str]:
    """The axes that the indices behind a node depend on."""
    behind = (nest.nodes[k] for k in closure(nest, [node], ()))
    return set[str]().union(*(index_of(n).axes() for n in behind))


def closure(nest: Nest, targets: Iterable[int], stop: Iterable[int]) -> list[int]:
    """The nodes needed for the targets, in order, not going behind `stop`."""
    halt, needed, todo = set(stop), set[int](), list(targets)
    while todo:
        k = todo.pop()
        if k in needed or k in halt:
            continue
        needed.add(k)
        todo += nest.arguments(nest.nodes[k])
    return sorted(needed)


@dataclass
class Emitter:
    """Turns nodes into Let statements.

    `have` holds the nodes with other sources, `done` those that are already Lets of
    the row; `scan` makes a scan's next step and the Let of its value.
    """

    nest: Nest
    have: dict[int, Expr] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    scan: Callable[[int], list[Stmt]] | None = None

    def row_level(self, targets: Iterable[int]) -> list[Stmt]:
        """Lets for the row-level nodes behind the targets, once each."""
        fresh = [
            k
            for k in closure(self.nest, targets, self.done)
            if not self.nest.per_element[k]
            and not isinstance(self.nest.nodes[k], Reduce)
        ]
        self.done.update(fresh)
        return self.lets(fresh)

    def ref(self, k: int) -> Expr:
        """How a node is read."""
        return self.have.get(k) or Ref(f"v{k}")

    def lets(self, nodes: Iterable[int]) -> list[Stmt]:
        """Let statements for the nodes, in order."""
        nodes = list(nodes)
        found: list[Stmt] = self.data(nodes)
        for k in nodes:
            node = self.nest.nodes[k]
            if isinstance(node, Scan):
                assert self.scan is not None
                found += self.scan(k)
            else:
                found.append(Let(f"v{k}", node.dtype, self.value(node)))
        return found

    def data(self, nodes: Iterable[int]) -> list[Stmt]:
        """Variables for the nodes that indices name, where `have` holds them."""
        named = {d for k in nodes for d in index_of(self.nest.nodes[k]).data()}
        return [
            Let(f"v{k}", "int64", self.have[k]) for k in sorted(named & {*self.have})
        ]

    def value(self, node: Node) -> Expr:
        """The expression of a node."""
        match node:
            case Load(buffer, index, guard, dtype):
                item = At(f"in{buffer}", index)
                if guard is None:
                    return item
                return Guarded(self.ref(guard), item, dtype)
            case Const(value, dtype):
                return Num(value, dtype)
            case Index(value):
                return Offset(value)
            case Scalar(prim, args, dtype):
                given = tuple(self.ref(a) for a in args)
                of = self.nest.nodes[args[-1]].dtype
                return Apply(prim, given, of, dtype)
        raise TypeError(f"a reduction has no plain expression: {node}")

    def put(self, store: Store) -> Stmt:
        """The statement of a store."""
        return Put(f"out{store.output}", store.index, self.ref(store.node))


def join(kind: str, old: Expr, new: Expr, dtype: str) -> Expr:
    """The accumulator after one more value."""
    return Apply(JOIN[kind], (old, new), dtype, dtype)


def cast(value: Expr, of: str, to: str) -> Expr:
    """The value in another dtype."""
    return value if of == to else Apply("cast", (value,), of, to)


def argmax_update(
    best: Expr, index: Expr, value: Expr, position: Expr, valid: Expr, dtype: str
) -> tuple[Expr, Expr]:
    """New (best, index): the first largest valid value; the first NaN wins."""

    def apply(prim: str, *args: Expr, of: str = dtype, to: str = "bool") -> Expr:
        return Apply(prim, args, of, to)

    better = apply("gt", value, best)
    first = apply("lt", index, Num(0, "int64"), of="int64")
    better = apply("or", better, first, of="bool")
    if dtype in FLOATS:
        better = apply("or", better, apply("ne", value, value), of="bool")
        better = apply("and", better, apply("eq", best, best), of="bool")
    take = apply("and", better, valid, of="bool")
    return (
        apply("select", take, value, best, to=dtype),
        apply("select", take, position, index, of="int64", to="int64"),
    )


def unravel(names: Sequence[str], nest: Nest, flat: str) -> list[Stmt]:
    """Lets for axes from their row-major number `flat`."""
    extents = {a.name: a.extent for a in nest.axes}
    rest, found = affine.axis(flat), []
    bounds = {flat: product(extents[n] for n in names)}
    for name in reversed(names[1:]):
        rest, place = affine.divide(rest, extents[name], bounds)
        found.append(Let(name, "index", Offset(place)))
    if names:
        found.append(Let(names[0], "index", Offset(rest)))
    return list(reversed(found))


def column_loops(nest: Nest, body: Sequence[Stmt], names: Sequence[str]) -> Stmt:
    """Serial loops over the named axes around a body, the first outermost."""
    extents = {a.name: a.extent for a in nest.axes}
    inner = tuple(body)
    for name in reversed(names):
        loop = Loop(name, affine.ZERO, affine.constant(extents[name]), inner)
        inner = (loop,)
    (only,) = inner
    return only


def accumulator(node: Reduce | Scan, terms: object) -> str:
    """The dtype to add up in: wider than float32 where many terms come in line."""
    few = isinstance(terms, int) and terms <= 64
    wide = node.kind == "sum" and node.dtype == "float32" and not few
    return "float64" if wide else node.dtype
