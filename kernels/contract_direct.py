"""Contractions whose columns' operand is read as it lies, as weights are.

A tile's function packs a block of terms at a time, or none for few rows, and brings the
next block into the caches meanwhile. So all of a tile's rows are multiplied by weights
that come from memory as fast as by those that are near, and a tile may have many.
"""

from __future__ import annotations

from dataclasses import replace

from pirol.compiler import dims
from pirol.compiler.dims import product
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.contract import ROWS, Contraction
from pirol.kernels.kernel import Dot, Stmt
from pirol.kernels.nest import Axis
from pirol.kernels.operands import even_steps, is_widened, load_of, start_of

MANY = 256  # the most rows of a tile
SHORT = 128  # so few terms are better packed once for many tiles of few rows
NEAR = 1 << 22  # bits of the rows' operand that stay in the second cache
TASKS = 8  # into so many tiles the work is cut at least, if they keep ROWS rows


def directly(tiles: Contraction) -> Contraction:
    """The contraction, without panels where it needs none."""
    if type(tiles) is not Contraction or is_widened(tiles.nest, tiles.right):
        return tiles
    steps = even_steps(tiles.nest, tiles.right, tiles.wide)
    if steps is None or dims.equal(steps[0], 1) is not True:
        return tiles
    short = isinstance(tiles.terms, int) and tiles.terms <= SHORT
    if short and dims.equal(tiles.blocks("high").extent, 1) is not True:
        return tiles
    given = (tiles.nest, tiles.dot, tiles.left, tiles.right, tiles.high, tiles.wide)
    return Direct(*given, tiles.lanes)


class Direct(Contraction):
    """A contraction that reads columns where they lie."""

    @property
    def order(self) -> tuple[Axis, Axis]:
        """Tiles of the same rows follow each other, unless all rows are near."""
        wide, high = super().order
        count = product(a.extent for a in self.high)
        bits = dims.mul(dims.mul(count, self.terms), BITS[self.dtype])
        near = isinstance(bits, int) and bits <= NEAR
        return (wide, high) if near else (high, wide)

    @property
    def most(self) -> int:
        if self.turns:
            return super().most
        count, columns = (product(a.extent for a in s) for s in (self.high, self.wide))
        panels = dims.ceildiv(columns, self.width)
        others = product([panels, *(a.extent for a in self.outer)])
        if not isinstance(others, int) or not isinstance(count, int):
            return ROWS if isinstance(others, int) and others < TASKS else MANY
        return max(ROWS, min(MANY, count * others // TASKS))

    def panels(self) -> list[tuple[str, str, dims.Dim]]:
        return []

    def tile(self) -> list[Stmt]:
        (packed,) = super().tile()
        assert isinstance(packed, Dot)
        return [replace(packed, right=self.columns, reads=True)]

    @property
    def columns(self) -> tuple[str, Affine, Affine]:
        """Where the block's columns lie, and a term's step there."""
        load = load_of(self.nest, self.right)
        steps = even_steps(self.nest, self.right, self.wide)
        assert steps is not None
        start = start_of(load.index, [*self.nest.columns, *self.wide])
        first = affine.add(start, axis("wide_first"))
        return f"in{load.buffer}", first, constant(steps[1])
