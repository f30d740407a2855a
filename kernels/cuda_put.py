"""Schedule for what is put at places that data name, on CUDA: a block some places.

Of what goes to one place the last stays, whichever thread has it: the block's threads
share out a row's elements twice. First each leaves its number at its place, in shared
memory, if none there is larger; then the one that finds its own number stores. A block
has up to TILE places of a row, and looks at all of its elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.cuda_contract import below, both
from pirol.kernels.cuda_rows import BLOCK, over_rows
from pirol.kernels.emit import Emitter, closure, unravel
from pirol.kernels.kernel import (
    Apply,
    Array,
    At,
    Barrier,
    Claim,
    Expr,
    If,
    Kernel,
    Let,
    Loop,
    Num,
    Offset,
    Put,
    Stmt,
)
from pirol.kernels.nest import Axis, Nest, Store
from pirol.kernels.scatter import before, place_of

TILE = 4096  # places of a block
MANY = 1 << 14  # rows that keep a device busy, a thread each


def put_by_blocks(nest: Nest) -> Kernel | None:
    """The kernel of a nest that puts, unless its rows are many."""
    store = nest.scattered
    if store is None or store.base is None:
        return None
    rows = product(a.extent for a in nest.rows)
    few = isinstance(rows, int) and rows < MANY
    return _Put(nest, store).kernel() if few else None


@dataclass(frozen=True)
class _Put:
    nest: Nest
    store: Store

    @property
    def sizes(self) -> list[Dim]:
        """The extents of the places' axes."""
        return [size for size, _ in self.store.among or ()]

    @property
    def span(self) -> int:
        """How many places a block has."""
        count = product(self.sizes)
        return min(max(count, 1), TILE) if isinstance(count, int) else TILE

    def kernel(self) -> Kernel:
        """The whole kernel."""
        nest, count = self.nest, product(self.sizes)
        tiles = Axis("tile", dims.ceildiv(count, self.span), False)
        axes = (*nest.rows, tiles)
        body: list[Stmt] = [
            *unravel([a.name for a in axes], replace(nest, axes=axes), "r"),
            self.each("t", constant(self.span), [Put("last", axis("t"), self.nobody)]),
            Barrier(),
            self.elements([Claim("last", axis("t"), axis("c"))]),
            Barrier(),
            self.elements([self.if_last(axis("c"), self.value())]),
            self.each("t", constant(self.span), self.others(count)),
            Barrier(),
        ]
        shared = [Array("last", "index", self.span, "shared")]
        whole = over_rows(nest, body, product(a.extent for a in axes), shared)
        return replace(whole, team=BLOCK)

    nobody = Num(-1, "int64")

    def each(self, name: str, stop: Affine, body: Sequence[Stmt]) -> Stmt:
        """A loop that the block's threads share out."""
        return Loop(name, affine.ZERO, stop, tuple(body), kind="threads")

    def if_last(self, number: Affine, body: Sequence[Stmt]) -> Stmt:
        """Statements for a place where this number stayed."""
        ends = At("last", axis("t")), Offset(number)
        return If(Apply("eq", ends, "int64", "bool"), tuple(body))

    def elements(self, body: Sequence[Stmt]) -> Stmt:
        """Statements for the row's elements whose place is the block's."""
        nest, columns = self.nest, self.nest.columns
        names = [a.name for a in columns]
        index = sorted(self.store.index.data())
        found: list[Stmt] = [
            *unravel(names, nest, "c"),
            *Emitter(nest).lets(closure(nest, index, ())),
            Let("at", "index", Offset(self.store.index)),
            Let("t", "index", Offset(affine.add(self.number(), self.first(-1)))),
        ]
        least = Apply("ge", (Offset(axis("t")), Num(0, "int64")), "int64", "bool")
        found.append(If(both(least, below(axis("t"), self.span)), tuple(body)))
        return self.each("c", constant(product(a.extent for a in columns)), found)

    def first(self, sign: int = 1) -> Affine:
        """The number of the block's first place."""
        return affine.scale(axis("tile"), sign * self.span)

    def number(self) -> Affine:
        """That of the place `at` among all of a row, row-major."""
        steps = dims.strides(tuple(self.sizes))
        limits = {"at": product(self.nest.outputs[self.store.output].shape)}
        total = affine.ZERO
        for (size, step), by in zip(self.store.among or (), steps):
            part = affine.divide(axis("at"), dims.maximum(step, 1), limits)[0]
            part = affine.divide(part, dims.maximum(size, 1), limits)[1]
            total = affine.add(total, affine.scale(part, by))
        return total

    def value(self) -> list[Stmt]:
        """The element's value, stored."""
        nest, emitter = self.nest, Emitter(self.nest)
        had = closure(nest, sorted(self.store.index.data()), ())
        needed = closure(nest, [self.store.node], had)
        to = f"out{self.store.output}"
        value: Expr = emitter.ref(self.store.node)
        return [*emitter.lets(needed), Put(to, axis("at"), value)]

    def others(self, count: Dim) -> list[Stmt]:
        """What is at a place that nothing is put at stays there."""
        axes = [Axis(f"z{k}", size, False) for k, size in enumerate(self.sizes)]
        place = place_of(self.store)
        number = affine.add(self.first(), axis("t"))
        stays = Put(f"out{self.store.output}", place, before(self.store, place))
        walked = replace(self.nest, axes=tuple(axes))
        body = [*unravel([a.name for a in axes], walked, "p"), stays]
        inside = If(below(axis("p"), count), (self.if_last(constant(-1), body),))
        return [Let("p", "index", Offset(number)), inside]
