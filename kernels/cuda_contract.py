"""Schedule for contractions on CUDA: a block of 16 x 16 threads computes 64 x 64 tiles.

DEEP terms of both operands at a time go to shared memory, by evaluating their loads, so
that a conv needs no image of its windows; each thread keeps 4 x 4 sums in registers,
and the epilogue works on those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.contract import Contraction, contraction
from pirol.kernels.cuda_rows import over_rows
from pirol.kernels.emit import Emitter, Passes, closure, unravel
from pirol.kernels.kernel import (
    Apply,
    Array,
    At,
    Barrier,
    Expr,
    If,
    Kernel,
    Let,
    Loop,
    Num,
    Offset,
    Outer,
    Put,
    Ref,
    Set,
    Stmt,
    Var,
)
from pirol.kernels.nest import Axis, Nest
from pirol.kernels.operands import load_of
from pirol.kernels.tile import row_stores

# As pr_outer of pirol_cuda.h has them.
SIDE = 64  # rows and columns of a tile
EACH = 4  # rows and columns of a thread
ACROSS = SIDE // EACH
DEEP = 16  # terms in shared memory at once
PITCH = SIDE + 1  # from one term to the next there: in other banks
THREADS = ACROSS * ACROSS
RESIDENT = 2  # blocks at once; for more, sums would be spilled
FEW = 64  # results; fewer are left to a thread or block each


def tiles(nest: Nest) -> Kernel | None:
    """The kernel of a contraction with two sides and some results, else None."""
    found = contraction(nest)
    if found is None:
        return None
    sizes = [product(a.extent for a in side) for side in (found.high, found.wide)]
    if all(isinstance(n, int) for n in sizes) and sizes[0] * sizes[1] < FEW:
        return None
    return _Tiles(found).kernel()


@dataclass(frozen=True)
class _Tiles:
    found: Contraction

    def kernel(self) -> Kernel:
        nest, dtype = self.found.nest, self.found.dtype
        order = (
            *self.found.outer,
            _blocks("wide", self.wide),
            _blocks("high", self.high),
        )
        names = [a.name for a in order]
        depth = Loop(
            "first_term",
            affine.ZERO,
            constant(self.found.terms),
            (
                self.fill("left", self.found.left, self.found.high),
                self.fill("right", self.found.right, self.found.wide),
                Barrier(),
                Outer(dtype, "sums", "left", "right"),
                Barrier(),
            ),
            step=DEEP,
        )
        body = [
            *unravel(names, replace(nest, axes=order), "r"),
            Array("sums", dtype, EACH * EACH, "local"),
            _each("s", EACH * EACH, [Put("sums", axis("s"), Num(0, dtype))]),
            depth,
            self.epilogue(),
        ]
        shared = [Array(n, dtype, DEEP * PITCH, "shared") for n in ("left", "right")]
        kernel = over_rows(nest, body, product(a.extent for a in order), shared)
        return replace(kernel, block=THREADS, team=THREADS, resident=RESIDENT)

    @property
    def high(self) -> Dim:
        """All rows."""
        return product(a.extent for a in self.found.high)

    @property
    def wide(self) -> Dim:
        """All columns."""
        return product(a.extent for a in self.found.wide)

    def fill(self, name: str, node: int, side: Sequence[Axis]) -> Stmt:
        """name[term, place] = the operand, 0 beyond its ends. Neighbouring threads take
        neighbouring elements, of terms or of the side's axes."""
        columns, nest = self.found.nest.columns, self.found.nest
        item, extents = axis("item"), {"item": SIDE * DEEP}
        if load_of(nest, node).index.along(columns[-1].name):
            place, term = affine.divide(item, DEEP, extents)
        else:
            term, place = affine.divide(item, SIDE, extents)
        block = affine.scale(
            axis("high_block" if name == "left" else "wide_block"), SIDE
        )
        count = product(a.extent for a in side)
        at_place, at_term = (
            affine.add(block, place),
            affine.add(axis("first_term"), term),
        )
        inside = both(below(at_place, count), below(at_term, self.found.terms))
        values: list[Stmt] = [
            Let("place", "index", Offset(at_place)),
            Let("term", "index", Offset(at_term)),
            *unravel([a.name for a in side], nest, "place"),
            *unravel([a.name for a in columns], nest, "term"),
            *Emitter(nest).lets(closure(nest, [node], ())),
            Set("value", Ref(f"v{node}")),
        ]
        to = affine.add(affine.scale(term, PITCH), place)
        body = (
            Var("value", self.found.dtype, Num(0, self.found.dtype)),
            If(inside, tuple(values)),
            Put(name, to, Ref("value")),
        )
        stop = constant(SIDE * DEEP)
        return Loop("item", affine.ZERO, stop, body, kind="threads")

    def epilogue(self) -> Stmt:
        """What is done with each of the thread's sums."""
        nest, found = self.found.nest, self.found
        extents = {"thread": THREADS}
        down, across = affine.divide(axis("thread"), ACROSS, extents)
        row = affine.add(affine.scale(down, EACH), axis("i"))
        column = affine.add(across, affine.scale(axis("j"), ACROSS))
        places = [
            affine.add(affine.scale(axis(f"{side}_block"), SIDE), place)
            for side, place in (("high", row), ("wide", column))
        ]
        inside = both(below(places[0], self.high), below(places[1], self.wide))
        place = affine.add(affine.scale(axis("i"), EACH), axis("j"))
        have: dict[int, Expr] = {found.dot: At("sums", place)}
        body: list[Stmt] = [
            Let("row", "index", Offset(places[0])),
            Let("column", "index", Offset(places[1])),
            *unravel([a.name for a in found.high], nest, "row"),
            *unravel([a.name for a in found.wide], nest, "column"),
            *row_stores(nest, Passes(nest), have),
        ]
        return _each("i", EACH, [_each("j", EACH, [If(inside, tuple(body))])])


def _blocks(side: str, count: Dim) -> Axis:
    return Axis(f"{side}_block", dims.ceildiv(count, SIDE), False)


def _each(var: str, count: int, body: Sequence[Stmt]) -> Stmt:
    return Loop(var, affine.ZERO, constant(count), tuple(body))


def below(value: Affine, bound: Dim) -> Expr:
    """Whether value < bound."""
    ends = (Offset(value), Offset(constant(bound)))
    return Apply("lt", ends, "int64", "bool")


def both(a: Expr, b: Expr) -> Expr:
    """Whether both hold."""
    return Apply("and", (a, b), "bool", "bool")
