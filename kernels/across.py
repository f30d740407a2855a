"""Lanes that are rows, where results lie along the columns: in blocks of both.

To store one column's element of each row touches a line of memory for each, and those
of many rows are gone from the cache before the next column comes. So the elements of
some columns are kept in a block, which is turned as it is stored; loads that lie so are
turned into blocks before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.emit import Emitter
from pirol.kernels.kernel import Array, At, Expr, Loop, Put, Stmt, Turn
from pirol.kernels.nest import Axis, Load, Nest, Store
from pirol.kernels.turn import is_long, lies_along, read_along

LINE = 64  # bytes of a row in a block


@dataclass(frozen=True)
class Across:
    """The loads (node numbers) and stores of a pass that go through blocks; `lane` is
    the rows' axis, `size` how many a tile has, and where it ends `stop`."""

    nest: Nest
    lane: str
    size: int
    stop: Affine
    loads: tuple[int, ...]
    stores: tuple[Store, ...]

    @property
    def column(self) -> Axis:
        """The axis that memory runs along."""
        return self.nest.columns[-1]

    @property
    def count(self) -> int:
        """Columns of a block."""
        nodes = [*self.loads, *(s.node for s in self.stores)]
        widest: int = max(BITS[self.nest.nodes[k].dtype] for k in nodes)
        return LINE * 8 // widest

    @property
    def place(self) -> Affine:
        """An element's place in its block."""
        column = affine.add(axis(self.column.name), affine.scale(axis("some"), -1))
        row = affine.add(axis(self.lane), affine.scale(axis("tile"), -1))
        return affine.add(affine.scale(column, self.size), row)

    def have(self) -> dict[int, Expr]:
        """Where the loads' elements are."""
        return {k: At(f"block{k}", self.place) for k in self.loads}

    def put(self, emitter: Emitter, store: Store) -> Stmt:
        """Keep an element in its block, or store it."""
        if store not in self.stores:
            return emitter.put(store)
        return Put(f"kept{store.output}", self.place, emitter.ref(store.node))

    def around(self, lanes: Loop) -> Loop:
        """The loop over all blocks, given that over a tile's rows."""
        stop = affine.add(axis("some"), constant(self.count))
        end = constant(self.column.extent)
        columns = Loop(self.column.name, axis("some"), stop, (lanes,), limit=end)
        turns = [self.turn(k) for k in self.loads]
        backs = [self.turn_back(s) for s in self.stores]
        body = (*self.arrays(), *turns, columns, *backs)
        return Loop("some", affine.ZERO, end, body, step=self.count)

    def arrays(self) -> list[Stmt]:
        nodes = self.nest.nodes
        blocks = [(f"block{k}", nodes[k].dtype) for k in self.loads]
        blocks += [(f"kept{s.output}", nodes[s.node].dtype) for s in self.stores]
        return [
            Array(name, kind, self.size * self.count, "local") for name, kind in blocks
        ]

    def corner(self, name: str, index: Affine) -> tuple[str, Affine, Affine]:
        """Where a block begins in memory, and a row's step."""
        return corner_at(name, index, self.lane, {self.column.name: axis("some")})

    def turn(self, k: int) -> Stmt:
        load = self.nest.nodes[k]
        assert isinstance(load, Load)
        source = self.corner(f"in{load.buffer}", load.index)
        to = (f"block{k}", affine.ZERO, constant(self.size))
        return Turn(load.dtype, to, source, self.rows, self.columns)

    def turn_back(self, store: Store) -> Stmt:
        to = self.corner(f"out{store.output}", store.index)
        source = (f"kept{store.output}", affine.ZERO, constant(self.size))
        dtype = self.nest.nodes[store.node].dtype
        return Turn(dtype, to, source, self.columns, self.rows)

    @property
    def rows(self) -> tuple[Affine, int]:
        """How many rows a block has."""
        return affine.add(self.stop, affine.scale(axis("tile"), -1)), self.size

    @property
    def columns(self) -> tuple[Affine, int]:
        """How many columns."""
        end = constant(self.column.extent)
        return affine.add(end, affine.scale(axis("some"), -1)), self.count


def corner_at(
    name: str, index: Affine, lane: str, columns: dict[str, Affine]
) -> tuple[str, Affine, Affine]:
    """Where a tile begins in memory at some columns, and a row's step."""
    first = affine.substitute(index, {**columns, lane: axis("tile")})
    return name, first, constant(index.coefficient(lane))


def across(
    nest: Nest,
    lane: str,
    size: int,
    stop: Affine,
    needed: Sequence[int],
    stores: Sequence[Store],
) -> Across | None:
    """How a pass goes through blocks, if a store of it lies along the columns."""
    row = next((a for a in nest.rows if a.name == lane), None)
    if not nest.columns or row is None or not is_long(nest.columns[-1]):
        return None
    column = nest.columns[-1]
    found = tuple(s for s in stores if lies_along(s.index, column, row))
    loads = set(read_along(nest, column, row)).intersection(needed)
    if not found:
        return None
    return Across(nest, lane, size, stop, tuple(sorted(loads)), found)
