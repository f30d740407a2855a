"""The values that a random graph has so far, and how one of them is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graph_case import Item, Size, dims_of, fixed, named
from graph_choices import Choices
from graph_meaning import ALL_KINDS, FLOATING
from graph_sketch import Sketch

from pirol.compiler import dims
from pirol.compiler.ir import HALVES

EXTENTS = (0, 1, 2, 3, 4, 5, 7, 16, 17, 33)
LARGEST = {"n": 17, "m": 13}
NUMBERS = {
    "float32": (0.0, -0.0, 1.0, 0.5, -2.0, 3.5, math.inf, -math.inf, math.nan),
    "float64": (0.0, -0.0, 1.0, 0.5, -2.0, 1e-3, math.inf, -math.inf, math.nan),
    "int64": (0, 1, -1, 3, 2**62, -(2**63)),
    "int32": (0, 1, -1, 3, 2**31 - 1, -(2**31)),
    "int8": (0, 1, -1, 3, 127, -128),
    "uint8": (0, 1, 2, 3, 128, 255),
    "bool": (True, False),
}
NUMBERS |= {half: NUMBERS["float32"] for half in HALVES}
HELD = {"int8": (-128, 127), "uint8": (0, 255)}  # and by the others at least 1000


@dataclass(frozen=True)
class Want:
    """What a step has to be about; "" leaves it open."""

    name: str = ""
    dtype: str = ""

    def takes(self, dtype: str) -> bool:
        """Whether it may be about this dtype."""
        return self.dtype in ("", dtype)


def same(a: Sequence[Size], b: Sequence[Size]) -> bool:
    """Whether the sizes are equal, whatever the symbols."""
    return dims.same_shape(dims_of(a), dims_of(b))


def anything(item: Item) -> bool:
    """Every item fits."""
    return True


@dataclass
class Pool:
    """The items of a graph that is being drawn."""

    choices: Choices
    static: bool = False  # no symbols
    most: int = 8000  # elements of a value at the largest sizes
    sketch: Sketch = field(default_factory=Sketch)
    items: list[Item] = field(default_factory=list)

    def name(self, want: Want, options: Sequence[str]) -> str:
        """The wanted primitive, or one of the options."""
        return want.name or str(self.choices.one(options))

    def dtype(self, want: Want) -> str:
        """The wanted dtype, or any."""
        return want.dtype or str(self.choices.one(ALL_KINDS))

    def pick(self, want: Want, fits: Callable[[Item], bool] = anything) -> Item | None:
        """An item, one of the later ones; of a wanted dtype it is made if need be."""
        found = [i for i in reversed(self.items) if want.takes(i.dtype) and fits(i)]
        if found:
            return self.choices.one(found[:6])  # type: ignore[no-any-return]
        return self.made(want.dtype, fits) if want.dtype else None

    def made(self, dtype: str, fits: Callable[[Item], bool]) -> Item:
        """A new item of the dtype: another one cast to it, or an input of rank 2."""
        others = [i for i in reversed(self.items) if i.exact and fits(i)]
        if others and self.choices.flag():
            item = self.converted(self.choices.one(others[:6]), dtype)
        else:
            item = self.sketch.input([self.size(), self.size()], dtype)
        self.add(item)
        return item

    def add(self, *items: Item) -> None:
        """Take the items that are small enough."""
        self.items += [i for i in items if self.small(i.sizes)]

    def small(self, sizes: Sequence[Size]) -> bool:
        """Whether a value of these sizes is small enough."""
        count = math.prod(s.of(LARGEST) for s in sizes)
        return len(sizes) <= 4 and count <= self.most

    def mate(self, item: Item, dtype: str, exact: bool = False) -> Item:
        """Another item of the same shape: from the pool, or made for it."""

        def fits(other: Item) -> bool:
            alike = other.dtype == dtype and (other.exact or not exact)
            return alike and same(other.sizes, item.sizes)

        found = [i for i in self.items if fits(i)]
        number = self.choices.one(NUMBERS[dtype])
        if found and self.choices.flag():
            return self.choices.one(found)  # type: ignore[no-any-return]
        if item.rank and self.choices.flag():
            axis = self.choices.number(0, item.rank - 1)
            return self.sketch.iota(axis, item.sizes, dtype)
        return self.sketch.const(number, item.sizes, dtype)

    def input(self) -> None:
        """A new input of the graph."""
        sizes = [self.size() for _ in range(self.choices.number(0, 3))]
        if self.small(sizes):
            self.add(self.sketch.input(sizes, self.choices.one(ALL_KINDS)))

    def size(self) -> Size:
        """A symbol or a number."""
        which = self.choices.number(0, 9)
        if which < 4 and not self.static:
            return named("n" if which < 3 else "m")
        return fixed(self.choices.one(EXTENTS[1:] if which < 9 else EXTENTS))

    def known_size(self) -> Size:
        """A size that some input has, or a static one."""
        found = [s for i in self.sketch.inputs for s in i.sizes]
        return self.choices.one([*found, fixed(3)])  # type: ignore[no-any-return]

    def converted(self, x: Item, dtype: str) -> Item:
        """The item, an exact one, cast to the dtype."""
        if x.dtype in FLOATING and dtype not in (*FLOATING, "bool"):
            x = self.in_range(x, *HELD.get(dtype, (-1000, 1000)))
        return self.sketch.cast(x, dtype)

    def in_range(self, x: Item, low: int, high: int) -> Item:
        """NaN to 0, and the rest to low..high: what an integer can hold."""
        make = self.sketch
        known = make.apply("eq", x, x)
        x = make.apply("select", known, x, make.const(0, x.sizes, x.dtype))
        x = make.apply("min", x, make.const(high, x.sizes, x.dtype))
        return make.apply("max", x, make.const(low, x.sizes, x.dtype))

    def unread(self) -> list[Item]:
        """The items that were made and that no op reads."""
        read: set[Any] = {v for op in self.sketch.b.ops for v in op.operands}
        given = {i.value for i in self.sketch.inputs}
        return [i for i in self.items if i.value not in read | given]
