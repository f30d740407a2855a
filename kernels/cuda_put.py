"""Schedule for what is put at places that data name, on CUDA: a block some places.

Of what goes to one place the last stays, whichever thread has it: the block's threads
share out a row's elements twice. First each leaves its number at its place, in shared
memory, if none there is larger; then the one that finds its own number stores. A block
has up to TILE places of a row, and looks at all of its elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pirol.compiler.dims import product
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.cuda_contract import below, both
from pirol.kernels.cuda_places import Places
from pirol.kernels.cuda_rows import BLOCK, over_rows
from pirol.kernels.kernel import (
    Apply,
    Array,
    At,
    Barrier,
    Claim,
    If,
    Kernel,
    Loop,
    Num,
    Offset,
    Put,
    Stmt,
)
from pirol.kernels.nest import Nest
from pirol.kernels.scatter import before, place_of

TILE = 4096  # places of a block
MANY = 1 << 14  # rows that keep a device busy, a thread each


def put_by_blocks(nest: Nest) -> Kernel | None:
    """The kernel of a nest that puts, unless its rows are many."""
    store = nest.scattered
    if store is None or store.base is None or not few_rows(nest):
        return None
    count = product(size for size, _ in store.among or ())
    span = min(max(count, 1), TILE) if isinstance(count, int) else TILE
    return _Put(nest, store, span).kernel()


def few_rows(nest: Nest) -> bool:
    """Whether its rows are sure to be too few for a thread each."""
    rows = product(a.extent for a in nest.rows)
    return isinstance(rows, int) and rows < MANY


@dataclass(frozen=True)
class _Put(Places):
    def kernel(self) -> Kernel:
        """The whole kernel."""
        value, stored = self.value()
        to = Put(f"out{self.store.output}", axis("at"), stored)
        stays = before(self.store, place_of(self.store))
        body: list[Stmt] = [
            *self.walk(),
            self.each("t", constant(self.span), [Put("last", axis("t"), self.nobody)]),
            Barrier(),
            self.elements([Claim("last", axis("t"), axis("c"))]),
            Barrier(),
            self.elements([self.if_last(axis("c"), [*value, to])]),
            self.each(
                "t",
                constant(self.span),
                [self.if_last(constant(-1), self.own_place(stays))],
            ),
            Barrier(),
        ]
        shared = [Array("last", "index", self.span, "shared")]
        rows = product(a.extent for a in self.axes)
        return replace(over_rows(self.nest, body, rows, shared), team=BLOCK)

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
        least = Apply("ge", (Offset(axis("t")), Num(0, "int64")), "int64", "bool")
        inside = If(both(least, below(axis("t"), self.span)), tuple(body))
        count = product(a.extent for a in self.nest.columns)
        return self.each("c", constant(count), [*self.element("c"), inside])
