"""What schedules for places that data name share on CUDA: a part of them for a team.

A row's places are numbered, row-major; a team has `span` of them, a tile, and looks at
all of the row's elements for those that are its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis
from pirol.kernels.cuda_contract import below
from pirol.kernels.emit import Emitter, closure, unravel
from pirol.kernels.kernel import Expr, If, Let, Offset, Put, Stmt
from pirol.kernels.nest import Axis, Nest, Store
from pirol.kernels.scatter import place_of


@dataclass(frozen=True)
class Places:
    """A nest that stores at such places, and how many of them a team has."""

    nest: Nest
    store: Store
    span: int

    @property
    def sizes(self) -> list[Dim]:
        """The extents of the places' axes."""
        return [size for size, _ in self.store.among or ()]

    @property
    def count(self) -> Dim:
        """How many places a row has."""
        return product(self.sizes)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The rows, and each one's tiles."""
        tiles = Axis("tile", dims.ceildiv(self.count, self.span), False)
        return (*self.nest.rows, tiles)

    def walk(self) -> list[Stmt]:
        """The axes' values, from the number `r`."""
        axes = self.axes
        return unravel([a.name for a in axes], replace(self.nest, axes=axes), "r")

    def element(self, column: str) -> list[Stmt]:
        """The place `at` of a row's element, and its number `t` in the tile."""
        index = sorted(self.store.index.data())
        return [
            *unravel([a.name for a in self.nest.columns], self.nest, column),
            *Emitter(self.nest).lets(closure(self.nest, index, ())),
            Let("at", "index", Offset(self.store.index)),
            Let("t", "index", Offset(affine.add(self.number(), self.first(-1)))),
        ]

    def value(self) -> tuple[list[Stmt], Expr]:
        """What comes to the element's place, behind what computes it."""
        emitter = Emitter(self.nest)
        had = closure(self.nest, sorted(self.store.index.data()), ())
        needed = closure(self.nest, [self.store.node], had)
        value = emitter.ref(self.store.node)
        return emitter.lets(needed), value

    def first(self, sign: int = 1) -> Affine:
        """The number of the tile's first place."""
        return affine.scale(axis("tile"), sign * self.span)

    def number(self) -> Affine:
        """That of the place `at` among all of a row."""
        steps = dims.strides(tuple(self.sizes))
        limits = {"at": product(self.nest.outputs[self.store.output].shape)}
        total = affine.ZERO
        for (size, step), by in zip(self.store.among or (), steps):
            part = affine.divide(axis("at"), dims.maximum(step, 1), limits)[0]
            part = affine.divide(part, dims.maximum(size, 1), limits)[1]
            total = affine.add(total, affine.scale(part, by))
        return total

    def own_place(self, stored: Expr) -> list[Stmt]:
        """The store to the tile's place `t`, if there is one."""
        axes = tuple(Axis(f"z{k}", n, False) for k, n in enumerate(self.sizes))
        walked = replace(self.nest, axes=axes)
        to = f"out{self.store.output}"
        body = [
            *unravel([a.name for a in axes], walked, "p"),
            Put(to, place_of(self.store), stored),
        ]
        number = affine.add(self.first(), axis("t"))
        inside = If(below(axis("p"), self.count), tuple(body))
        return [Let("p", "index", Offset(number)), inside]
