"""Schedule for what is added up at places that data name, on CUDA: a warp some places.

A warp has up to MOST places of a row, whose sums lie in shared memory, each one lane's.
It takes the row's elements 32 at a time; one after the other, in their order, those
that come to the warp's places are told to all lanes, and the place's own adds. So each
sum has its terms in order, as on a CPU, and no thread waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pirol.compiler.dims import product
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.cuda_contract import below, both
from pirol.kernels.cuda_places import Places
from pirol.kernels.cuda_put import few_rows
from pirol.kernels.cuda_rows import LANES, WARPS, over_rows
from pirol.kernels.kernel import (
    AddInTurn,
    Apply,
    Array,
    At,
    If,
    Kernel,
    Let,
    Loop,
    Num,
    Offset,
    Put,
    Set,
    Stmt,
    Var,
)
from pirol.kernels.nest import Nest

ROOM = 32 * 1024  # bytes of a block's sums
BUSY = 1 << 11  # warps that keep a device busy


def sums_by_warps(nest: Nest) -> Kernel | None:
    """The kernel of a nest that adds up at such places, unless its rows are many."""
    store = nest.scattered
    if store is None or store.base is not None or not few_rows(nest):
        return None
    count = product(size for size, _ in store.among or ())
    rows = product(a.extent for a in nest.rows)
    size = BITS[nest.nodes[store.node].dtype] // 8
    return _Sums(nest, store, _span(count, rows, ROOM // (WARPS * size))).kernel()


def _span(count: object, rows: object, most: int) -> int:
    """Places of a warp: as few as keep the device busy, a power of two."""
    span = LANES
    while span < most and isinstance(count, int) and isinstance(rows, int):
        if span >= count or rows * (count // (2 * span)) < BUSY:
            return span
        span *= 2
    return min(most, 4 * LANES) if not isinstance(count, int) else span


@dataclass(frozen=True)
class _Sums(Places):
    def kernel(self) -> Kernel:
        """The whole kernel."""
        dtype = self.nest.nodes[self.store.node].dtype
        sums = Array("sums", dtype, WARPS * self.span, "shared")
        zero = Put("sums", self.own, Num(0, dtype))
        stores = self.own_place(At("sums", self.own))
        body = [*self.walk(), self.places([zero]), self.elements(), self.places(stores)]
        rows = product(a.extent for a in self.axes)
        return replace(over_rows(self.nest, body, rows, [sums]), team=LANES)

    @property
    def warps(self) -> Affine:
        """Where the warp's sums begin."""
        return affine.scale(axis("warp"), self.span)

    @property
    def own(self) -> Affine:
        """Where the sum of the place `t` lies."""
        return affine.add(self.warps, axis("t"))

    def places(self, body: Sequence[Stmt]) -> Stmt:
        """A loop over the lane's own places."""
        stop = constant(self.span)
        return Loop("t", axis("lane"), stop, tuple(body), step=LANES)

    def elements(self) -> Stmt:
        """The row's elements, added to the sums."""
        dtype = self.nest.nodes[self.store.node].dtype
        count = product(a.extent for a in self.nest.columns)
        value, added = self.value()
        least = Apply("ge", (Offset(axis("t")), Num(0, "int64")), "int64", "bool")
        inside = both(least, below(axis("t"), self.span))
        chosen = (*value, Set("to", Offset(axis("t"))), Set("term", added))
        one = (*self.element("c"), If(inside, chosen))
        number = affine.add(axis("c0"), axis("lane"))
        body = (
            Var("to", "index", Num(-1, "int64")),
            Var("term", dtype, Num(0, dtype)),
            Let("c", "index", Offset(number)),
            If(below(axis("c"), count), one),
            AddInTurn("sums", self.warps, "to", "term", dtype),
        )
        return Loop("c0", affine.ZERO, constant(count), body, step=LANES)
