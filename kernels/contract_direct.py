"""Contractions whose columns' operand is read as it lies.

To pack a panel costs as much as some twenty rows of its products. Where all rows are in
one tile it would be read but once: a layer's weights, of a few rows, come from memory
and are multiplied on the way.
"""

from __future__ import annotations

from dataclasses import replace

from pirol.compiler import dims
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.contract import Contraction
from pirol.kernels.kernel import Apply, Dot, Expr, If, Num, Stmt
from pirol.kernels.operands import even_steps, is_widened, load_of, start_of

VECTOR = 512  # bits; columns are read up to a vector's end


def directly(tiles: Contraction) -> Contraction:
    """The contraction, without panels where or while it needs none."""
    if type(tiles) is not Contraction or is_widened(tiles.nest, tiles.right):
        return tiles
    steps = even_steps(tiles.nest, tiles.right, tiles.wide)
    if steps is None or dims.equal(steps[0], 1) is not True:
        return tiles
    if dims.equal(tiles.blocks("high").extent, 1) is False:
        return tiles
    columns = tiles.sides["wide"][1]
    if not isinstance(columns, int) or columns % (VECTOR // BITS[tiles.dtype]):
        return tiles
    given = (tiles.nest, tiles.dot, tiles.left, tiles.right, tiles.high, tiles.wide)
    return Direct(*given, tiles.lanes)


class Direct(Contraction):
    """A contraction that reads columns where they lie if all rows are in one tile."""

    @property
    def alone(self) -> bool:
        """Whether that is known."""
        return dims.equal(self.blocks("high").extent, 1) is True

    def when(self, prim: str) -> Expr:
        """Whether the tiles of a panel are one ("eq"), or more ("ne")."""
        tiles = Num(self.blocks("high").extent, "int64")
        return Apply(prim, (tiles, Num(1, "int64")), "int64", "bool")

    def panels(self) -> list[tuple[str, str, dims.Dim]]:
        return [] if self.alone else super().panels()

    def packing(self) -> list[Stmt]:
        return [] if self.alone else [If(self.when("ne"), tuple(super().packing()))]

    def tile(self) -> list[Stmt]:
        (packed,) = super().tile()
        assert isinstance(packed, Dot)
        direct = replace(packed, right=self.columns)
        if self.alone:
            return [direct]
        return [If(self.when("eq"), (direct,)), If(self.when("ne"), (packed,))]

    @property
    def columns(self) -> tuple[str, Affine, Affine]:
        """Where the block's columns lie, and a term's step there."""
        load = load_of(self.nest, self.right)
        steps = even_steps(self.nest, self.right, self.wide)
        assert steps is not None
        start = start_of(load.index, [*self.nest.columns, *self.wide])
        first = affine.add(start, axis("wide_first"))
        return f"in{load.buffer}", first, constant(steps[1])
