"""Schedule for contractions of which one operand serves all rows: lanes along terms.

The gradient of a depthwise conv's weights is one: its rows are a window's taps, its
terms lines of the image, at another distance in each operand. A task is what both
operands' axes lead to, all rows of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.contract import WORTH
from pirol.kernels.emit import (
    Passes,
    axes_of,
    column_loops,
    grain,
    in_scratch,
    unravel,
)
from pirol.kernels.kernel import Along, At, Kernel, Loop, Offset, Put, Stmt
from pirol.kernels.nest import Axis, Load, Nest
from pirol.kernels.operands import factors_of, places_of
from pirol.kernels.tile import row_stores

LEAST = 4  # terms of a line


def along_lines(nest: Nest) -> Kernel | None:
    """The kernel of a contraction whose terms are lines in both operands, None where
    they are not."""
    found = factors_of(nest)
    if found is None or len(nest.columns) < 2:
        return None
    dot, factors = found
    few, many = sorted(factors, key=lambda k: len(_rows_of(nest, k)))
    shared = _rows_of(nest, few)
    own = [a for a in nest.rows if a.name in _rows_of(nest, many) - shared]
    if not (own and shared) or shared - _rows_of(nest, many):
        return None
    long = not isinstance(nest.columns[-1].extent, int)
    long = long or nest.columns[-1].extent >= LEAST
    if not long or not all(_along(nest, k) for k in (many, few)):
        return None
    return _Along(nest, dot, many, few, own).kernel()


def _along(nest: Nest, node: int) -> bool:
    """Whether the last terms of a load lie one behind the other."""
    places, last = places_of(nest, node), nest.columns[-1].name
    if places is None or not places[1].plain(last):
        return False
    return dims.equal(places[1].coefficient(last), 1) is True


def _rows_of(nest: Nest, node: int) -> set[str]:
    """The row axes that a node depends on."""
    return axes_of(nest, node) - {a.name for a in nest.columns}


@dataclass(frozen=True)
class _Along:
    """A contraction `dot` of `left`, whose axes `own` are the rows, and `right`."""

    nest: Nest
    dot: int
    left: int
    right: int
    own: list[Axis]

    @property
    def dtype(self) -> str:
        return self.nest.nodes[self.dot].dtype

    @property
    def rows(self) -> Dim:
        return product(a.extent for a in self.own)

    @property
    def lines(self) -> Dim:
        return product(a.extent for a in self.nest.columns[:-1])

    def kernel(self) -> Kernel:
        outer = tuple(a for a in self.nest.rows if a not in self.own)
        arrays, scratch = in_scratch(
            [
                ("sums", self.dtype, self.rows),
                ("rows_at", "int64", self.rows),
                ("left_at", "int64", self.lines),
                ("right_at", "int64", self.lines),
            ]
        )
        body = [
            *unravel([a.name for a in outer], self.nest, "r"),
            self.each_row(
                [Put("rows_at", axis("row"), Offset(self.places(self.left)[0]))]
            ),
            self.sums(),
            self.each_row(
                row_stores(
                    self.nest, Passes(self.nest), {self.dot: At("sums", axis("row"))}
                )
            ),
        ]
        loop = Loop("r", axis("begin"), axis("end"), tuple(body), kind="rows")
        cost = dims.mul(self.rows, product(a.extent for a in self.nest.columns))
        return Kernel(
            self.nest.name,
            self.nest.inputs,
            self.nest.outputs,
            (*arrays, self.list_lines(), loop),
            product(a.extent for a in outer),
            grain(cost, WORTH),
            scratch,
        )

    def places(self, node: int) -> tuple[Affine, Affine]:
        """A load's place as a row's and a term's."""
        found = places_of(self.nest, node)
        assert found is not None
        return found

    def buffer(self, node: int) -> str:
        load = self.nest.nodes[node]
        assert isinstance(load, Load)
        return f"in{load.buffer}"

    def list_lines(self) -> Stmt:
        """left_at[line], right_at[line] = where each line begins."""
        columns = self.nest.columns[:-1]
        begin = {self.nest.columns[-1].name: affine.ZERO}
        line = affine.linear(
            [axis(a.name) for a in columns], tuple(a.extent for a in columns)
        )
        puts = [
            Put(name, line, Offset(affine.substitute(self.places(node)[1], begin)))
            for name, node in (("left_at", self.left), ("right_at", self.right))
        ]
        return column_loops(self.nest, puts, [a.name for a in columns])

    def each_row(self, body: list[Stmt]) -> Stmt:
        places = unravel(
            [a.name for a in self.own], replace(self.nest, axes=tuple(self.own)), "row"
        )
        return Loop("row", affine.ZERO, constant(self.rows), (*places, *body))

    def sums(self) -> Stmt:
        return Along(
            self.dtype,
            "sums",
            (self.buffer(self.left), "rows_at", "left_at"),
            (self.buffer(self.right), self.places(self.right)[0], "right_at"),
            self.rows,
            self.lines,
            self.nest.columns[-1].extent,
        )
