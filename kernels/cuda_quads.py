"""Schedule for transposes of halves on CUDA: squares of 4 x 4 turn in registers.

Of a tile of 64 x 64 each thread reads such a square, four halves an access, and puts it
into shared memory turned; then it takes four elements at a time along the last axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pirol.compiler import dims
from pirol.compiler.dims import product
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.cuda_contract import below, both
from pirol.kernels.cuda_rows import BLOCK, ROOM, over_rows
from pirol.kernels.cuda_vector import Wide, is_even, several, wide
from pirol.kernels.emit import unravel
from pirol.kernels.kernel import (
    Array,
    At,
    Barrier,
    Expr,
    If,
    Kernel,
    Let,
    Loop,
    Move,
    Offset,
    Put,
    Stmt,
)
from pirol.kernels.nest import Axis, Load, Nest

QUAD = 4  # elements of a square's side, and of an access
SIDE = 64  # elements of a tile's side
EACH = SIDE // QUAD  # squares of a tile's side; a block's threads have one each
FEW = 16  # bits of an element, at most


def quads(nest: Nest, inner: Axis, along: Axis, loads: Sequence[int]) -> Kernel | None:
    """The kernel of a nest whose `loads` run along another axis than its stores, if all
    of both go four at a time."""
    found = wide(nest, inner, most=QUAD)
    if found is None or found.width < QUAD or len(found.stores) < len(nest.stores):
        return None
    room = sum(BITS[nest.nodes[k].dtype] for k in loads) // 8 * SIDE * SIDE
    few = all(BITS[nest.nodes[k].dtype] <= FEW for k in loads)
    even = all(is_even(_load(nest, k).index, along.name, QUAD) for k in loads)
    if not few or not even or room > ROOM or not dims.multiple(along.extent, QUAD):
        return None
    return _Quads(found, inner, along, tuple(loads)).kernel()


def _load(nest: Nest, k: int) -> Load:
    load = nest.nodes[k]
    assert isinstance(load, Load)
    return load


@dataclass(frozen=True)
class _Quads:
    wide: Wide
    inner: Axis
    along: Axis
    loads: tuple[int, ...]

    @property
    def nest(self) -> Nest:
        """What is computed."""
        return self.wide.nest

    def kernel(self) -> Kernel:
        """The whole kernel."""
        nest, ends = self.nest, (self.along, self.inner)
        outer = [a for a in nest.rows if a not in ends]
        blocks = [
            Axis(name, dims.ceildiv(of.extent, SIDE), False)
            for name, of in zip(("high", "wide"), ends)
        ]
        axes = (*outer, *blocks)
        body = [
            *unravel([a.name for a in axes], replace(nest, axes=axes), "r"),
            *self.fill(),
            Barrier(),
            self.work(),
            Barrier(),
        ]
        shared = [
            Array(f"t{k}", nest.nodes[k].dtype, SIDE * SIDE, "shared")
            for k in self.loads
        ]
        count = product(a.extent for a in axes)
        return replace(over_rows(nest, body, count, shared), team=BLOCK)

    def place(self, block: str, within: Affine) -> Affine:
        """A place on one of the tile's axes."""
        return affine.add(affine.scale(axis(block), SIDE), within)

    def slot(self, row: Affine, square: Affine, quad: Affine) -> Affine:
        """Where shared memory has four elements of a row; they go round by the square
        that the row is in, so that no two of sixteen threads meet in a bank."""
        limits = {"thread": BLOCK, "k": BLOCK}
        turned = affine.divide(affine.add(square, quad), EACH, limits)[1]
        return affine.add(affine.scale(row, SIDE), affine.scale(turned, QUAD))

    def inside(self, high: Affine, first: Affine) -> Expr | None:
        """Whether a place is one of the axes'; None: each is."""
        found = [
            below(place, of.extent)
            for place, of in ((high, self.along), (first, self.inner))
            if not (isinstance(of.extent, int) and of.extent % SIDE == 0)
        ]
        return both(*found) if len(found) == 2 else found[0] if found else None

    def guarded(self, high: Affine, first: Affine, body: Sequence[Stmt]) -> list[Stmt]:
        """Statements for what is inside."""
        condition = self.inside(high, first)
        return [*body] if condition is None else [If(condition, tuple(body))]

    def fill(self) -> list[Stmt]:
        """A thread's square of each load, turned, into shared memory."""
        down, across = affine.divide(axis("thread"), EACH, {"thread": BLOCK})
        high = self.place("high", affine.scale(across, QUAD))
        first = self.place("wide", affine.scale(down, QUAD))
        body: list[Stmt] = []
        for k in self.loads:
            load = _load(self.nest, k)
            dtype, index = load.dtype, load.index
            names = f"s{k}", f"q{k}"
            body += [Array(name, dtype, QUAD * QUAD, "local") for name in names]
            at = {self.along.name: high, self.inner.name: axis("line")}
            source = (f"in{load.buffer}", affine.substitute(index, at))
            line = affine.add(first, axis("j"))
            body.append(_four("j", [
                Let("line", "index", Offset(line)),
                Move(dtype, QUAD, (names[0], affine.scale(axis("j"), QUAD)), source),
            ]))  # fmt: skip
            item = At(names[0], affine.add(affine.scale(axis("j"), QUAD), axis("c")))
            to = affine.add(affine.scale(axis("c"), QUAD), axis("j"))
            row = affine.add(affine.scale(across, QUAD), axis("c"))
            put = self.slot(row, across, down)
            body.append(_four("c", [
                _four("j", [Put(names[1], to, item)]),
                Move(dtype, QUAD, (f"t{k}", put),
                     (names[1], affine.scale(axis("c"), QUAD))),
            ]))  # fmt: skip
        return self.guarded(high, first, body)

    def work(self) -> Stmt:
        """All work on the tile's elements, four of them at a time."""
        item = affine.add(affine.scale(axis("k"), BLOCK), axis("thread"))
        limits = {"k": QUAD, "thread": BLOCK}
        row, quad = affine.divide(item, EACH, limits)
        square = affine.divide(row, QUAD, limits)[0]
        high = self.place("high", row)
        first = self.place("wide", affine.scale(quad, QUAD))
        body: list[Stmt] = [Let(self.along.name, "index", Offset(high))]
        nodes = self.nest.nodes
        body += [Array(f"x{k}", nodes[k].dtype, QUAD, "local") for k in self.loads]
        body += [
            Move(nodes[k].dtype, QUAD, (f"x{k}", affine.ZERO),
                 (f"t{k}", self.slot(row, square, quad)))
            for k in self.loads
        ]  # fmt: skip
        turned = {k: At(f"x{k}", axis("e")) for k in self.loads}
        body += several(self.wide, first, turned)
        whole = tuple(self.guarded(high, first, body))
        return Loop("k", affine.ZERO, constant(QUAD), whole, unroll=QUAD)


def _four(var: str, body: Sequence[Stmt]) -> Stmt:
    return Loop(var, affine.ZERO, constant(QUAD), tuple(body), unroll=QUAD)
