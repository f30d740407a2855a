"""Schedule for products of bfloat16, which the processor adds up in float32.

As kernels/contract.py has it, but what is packed stays as halves, the terms of a panel
in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

from pirol.compiler import dims
from pirol.compiler.dims import Dim, multiple
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.contract import ALL, Contraction, used_of
from pirol.kernels.kernel import Loop, Num, Pairs, Put, Stmt, Turn
from pirol.kernels.nest import Axis, Nest, Scalar
from pirol.kernels.operands import even_steps, load_of, start_of
from pirol.prim.prim import PAIRED

HALF = PAIRED


def of_halves(found: Contraction) -> Contraction:
    """The contraction, as one of halves where both operands are widened bfloat16."""
    ends = (found.left, found.right)
    if not all(_half(found.nest, k) == HALF for k in ends):
        return found
    return Halves(found.nest, found.dot, *ends, found.high, found.wide, found.lanes)


def _half(nest: Nest, node: int) -> str:
    """The dtype of the half that a factor was widened from, or ""."""
    wide = nest.nodes[node]
    return nest.nodes[wide.args[0]].dtype if isinstance(wide, Scalar) else ""


class Halves(Contraction):
    """A contraction of two widened loads of bfloat16."""

    @property
    def item(self) -> str:
        return HALF

    def turned(self) -> Contraction:
        """With the sides changed where the rows' terms lie one behind the other only
        so."""
        other = self.exchanged()
        better = self.left_steps is None and other.left_steps is not None
        return other if better else self

    @property
    def pairs(self) -> Dim:
        """How many pairs of terms there are, the last perhaps of one."""
        return dims.ceildiv(self.terms, 2)

    def panels(self) -> list[tuple[str, str, Dim]]:
        found = [("panel", HALF, dims.mul(self.pairs, 2 * self.width))]
        rows = ("lines", HALF, dims.mul(self.terms, self.width))
        return [*found, rows] if self.gathers else found

    def packed(self, node: int) -> int:
        cast = self.nest.nodes[node]
        assert isinstance(cast, Scalar)
        return cast.args[0]

    @property
    def left_steps(self) -> tuple[Dim, Dim] | None:
        found = self.half_steps(self.left, self.high)
        return found if found is not None and dims.equal(found[1], 1) is True else None

    def half_steps(self, node: int, axes: Sequence[Axis]) -> tuple[Dim, Dim] | None:
        """As even_steps; None of what is only now made a half."""
        lies = load_of(self.nest, node).dtype == HALF
        return even_steps(self.nest, node, axes) if lies else None

    # ---- the panel ----

    @property
    def lies(self) -> tuple[Dim, Dim] | None:
        """A column's and a term's step in the right operand, if they are even."""
        return self.half_steps(self.right, self.wide)

    @property
    def in_lines(self) -> bool:
        """Whether the columns of the right operand lie one behind the other."""
        return self.lies is not None and dims.equal(self.lies[0], 1) is True

    @property
    def in_pairs(self) -> bool:
        """Whether a pair of terms of the right operand is 32 bits of memory."""
        if self.lies is None or dims.equal(self.lies[1], 1) is not True:
            return False
        return multiple(self.lies[0], 2) and multiple(self.terms, 2)

    @property
    def gathers(self) -> bool:
        """Whether the panel's elements are read one by one."""
        return not (self.in_lines or self.in_pairs)

    def clear(self) -> list[Stmt]:
        """Zeros behind the columns, where turned pairs leave them as they were."""
        if not self.in_pairs or not super().clear():
            return []
        place = affine.add(affine.scale(axis("k"), 2 * self.width), axis("j"))
        used = affine.scale(used_of("wide"), 2)
        columns = Loop("j", used, constant(2 * self.width), (_zero(place),))
        return [Loop("k", affine.ZERO, constant(self.pairs), (columns,))]

    def pack(self) -> list[Stmt]:
        """The pairs: of lines of the right operand, or turned, 32 bits at a time; or of
        lines that its elements are first brought into."""
        if self.gathers:
            source = ("lines", affine.ZERO, constant(self.width))
            return [self.gather("lines"), self.pair_up(source)]
        load, lies = load_of(self.nest, self.right), self.lies
        assert lies is not None
        axes = [*self.nest.columns, *self.wide]
        first = affine.scale(axis("wide_first"), lies[0])
        start = affine.add(start_of(load.index, axes), first)
        name = f"in{load.buffer}"
        if self.in_lines:
            return [self.pair_up((name, start, constant(lies[1])))]
        to = ("panel", affine.ZERO, constant(self.width))
        source = (name, start, constant(dims.floordiv(lies[0], 2)))
        high = (constant(self.pairs), ALL)
        return [Turn("int32", to, source, (used_of("wide"), self.width), high)]

    def pair_up(self, source: tuple[str, Affine, Affine]) -> Stmt:
        """The panel from lines."""
        return Pairs("panel", source, used_of("wide"), self.width, constant(self.terms))


def _zero(place: Affine) -> Stmt:
    return Put("panel", place, Num(0, HALF))
