"""Random small graphs: `cases()` draws one with inputs and what it should give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from graph_meaning import COMPARES, KINDS, UNSTABLE, Sizes
from graph_sketch import Case, Item, Size, Sketch, _dims, fixed, named
from hypothesis import strategies as st

from pirol.compiler import dims
from pirol.compiler.ir import FLOATS

# Strategies ----------------------------------------------------------------------

EXTENTS = (0, 1, 2, 3, 4, 5, 7, 16, 17, 33)
MOST = 8000  # elements of a value at the sizes below
LARGEST = {"n": 17, "m": 13}
NUMBERS = {
    "float32": (0.0, -0.0, 1.0, 0.5, -2.0, 3.5, math.inf, -math.inf, math.nan),
    "float64": (0.0, -0.0, 1.0, 0.5, -2.0, 1e-3, math.inf, -math.inf, math.nan),
    "int64": (0, 1, -1, 3, 2**62, -(2**63)),
    "int32": (0, 1, -1, 3, 2**31 - 1, -(2**31)),
    "bool": (True, False),
}
UNARY = {
    "float": (
        *("neg", "abs", "exp", "log", "sqrt", "rsqrt", "tanh", "erf", "floor", "ceil"),
        *("round", "trunc", "log1p", "expm1", "sin", "cos", "sigmoid"),
    ),
    "int": ("neg", "abs", "not"),
    "bool": ("not",),
}
BINARY = {
    "float": ("add", "sub", "mul", "div", "max", "min", "pow", "fmod"),
    "int": ("add", "sub", "mul", "max", "min", "and", "or", "xor", "idiv", "rem"),
    "bool": ("and", "or", "xor", "max", "min"),
}


def class_of(dtype: str) -> str:
    """float, int or bool."""
    if dtype == "bool":
        return "bool"
    return "float" if dtype in FLOATS else "int"


def _same(a: Sequence[Size], b: Sequence[Size]) -> bool:
    return dims.same_shape(_dims(a), _dims(b))


def symbol_sizes() -> st.SearchStrategy[dict[str, int]]:
    """Values for the symbols."""
    n = st.sampled_from((0, 1, 2, 3, 5, 8, 17))
    m = st.sampled_from((0, 1, 2, 3, 7, 13))
    return st.fixed_dictionaries({"n": n, "m": m})


@dataclass
class _Drawing:
    """One graph being drawn: each method adds ops to the pool, or nothing."""

    draw: Any
    sketch: Sketch
    pool: list[Item] = field(default_factory=list)

    def one(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def pick(self, fits: Callable[[Item], bool] = lambda item: True) -> Item | None:
        """An item of the pool, the later ones first."""
        found = [i for i in reversed(self.pool) if fits(i)]
        return self.one(found[:6]) if found else None

    def add(self, *items: Item) -> None:
        self.pool += [i for i in items if self.small(i.sizes)]

    def small(self, sizes: Sequence[Size]) -> bool:
        return len(sizes) <= 4 and math.prod(s.of(LARGEST) for s in sizes) <= MOST

    def mate(self, item: Item, dtype: str, exact: bool = False) -> Item:
        """Another item of the same shape: from the pool, or made for it."""

        def fits(other: Item) -> bool:
            same = dims.same_shape(_dims(other.sizes), _dims(item.sizes))
            return same and other.dtype == dtype and (other.exact or not exact)

        found = [i for i in self.pool if fits(i)]
        number = self.one(NUMBERS[dtype])
        if found and self.draw(st.booleans()):
            return self.one(found)  # type: ignore[no-any-return]
        if item.rank and self.draw(st.booleans()):
            axis = self.draw(st.integers(0, item.rank - 1))
            return self.sketch.iota(axis, item.sizes, dtype)
        return self.sketch.const(number, item.sizes, dtype)

    def input(self) -> None:
        rank = self.draw(st.integers(0, 3))
        sizes = [self.size() for _ in range(rank)]
        if self.small(sizes):
            self.add(self.sketch.input(sizes, self.one(KINDS)))

    def size(self) -> Size:
        which = self.draw(st.integers(0, 9))
        if which < 4:
            return named("n" if which < 3 else "m")
        return fixed(self.one(EXTENTS[1:] if which < 9 else EXTENTS))

    def unary(self) -> None:
        x = self.pick()
        if x is None:
            return
        name = self.one(UNARY[class_of(x.dtype)])
        if x.exact or name not in UNSTABLE:
            self.add(self.sketch.apply(name, x))

    def binary(self) -> None:
        x = self.pick()
        if x is None:
            return
        name = self.one(BINARY[class_of(x.dtype)])
        if name in UNSTABLE and not x.exact:
            return
        pair = [x, self.mate(x, x.dtype, exact=name in UNSTABLE)]
        if self.draw(st.booleans()):
            pair.reverse()
        self.add(self.sketch.apply(name, *pair))

    def compare(self) -> None:
        x = self.pick(lambda i: i.exact)
        if x is not None:
            name = self.one(COMPARES)
            self.add(self.sketch.apply(name, x, self.mate(x, x.dtype, exact=True)))

    def select(self) -> None:
        x = self.pick()
        if x is not None:
            y, cond = self.mate(x, x.dtype), self.mate(x, "bool")
            self.add(self.sketch.apply("select", cond, x, y))

    def cast(self) -> None:
        x = self.pick()
        if x is None:
            return
        to = self.one(KINDS)
        if x.dtype in FLOATS and to not in FLOATS:
            if not x.exact:
                return
            if to != "bool":
                x = self.in_range(x)
        self.add(self.sketch.cast(x, to))

    def in_range(self, x: Item) -> Item:
        """NaN to 0 and the rest to -1000..1000: what any integer can hold."""
        make = self.sketch
        known = make.apply("eq", x, x)
        x = make.apply("select", known, x, make.const(0, x.sizes, x.dtype))
        x = make.apply("min", x, make.const(1000, x.sizes, x.dtype))
        return make.apply("max", x, make.const(-1000, x.sizes, x.dtype))

    def create(self) -> None:
        rank = self.draw(st.integers(1, 2))
        sizes = [self.known_size() for _ in range(rank)]
        if not self.small(sizes):
            return
        if self.draw(st.booleans()):
            axis = self.draw(st.integers(0, rank - 1))
            self.add(self.sketch.iota(axis, sizes, self.one(KINDS)))
        else:
            number = self.known_size() * 3 + 1
            self.add(self.sketch.const(number, sizes, self.one(KINDS[:-1])))

    def known_size(self) -> Size:
        """A size that some input has, or a static one."""
        found = [s for i in self.sketch.inputs for s in i.sizes]
        return self.one([*found, fixed(3)])  # type: ignore[no-any-return]

    def reshape(self) -> None:
        x = self.pick(lambda i: i.rank > 0)
        if x is None:
            return
        sizes = list(x.sizes)
        for _ in range(self.draw(st.integers(1, 2))):
            sizes = self.reshaped(sizes)
        self.add(self.sketch.reshape(x, sizes))

    def reshaped(self, sizes: list[Size]) -> list[Size]:
        """Two dims merged, one split, a 1 put in, or two neighbours exchanged."""
        k = self.draw(st.integers(0, max(len(sizes) - 1, 0)))
        how = self.one(("merge", "split", "one", "swap"))
        if how == "one" or not sizes:
            return [*sizes[:k], fixed(1), *sizes[k:]]
        if how == "split":
            size = sizes[k].dim
            by = [f for f in (2, 3, 11) if isinstance(size, int) and size % f == 0]
            if not by:
                return sizes
            factor = self.one(by)
            parts = [fixed(size // factor), fixed(factor)]
            return [*sizes[:k], *parts, *sizes[k + 1 :]]
        if k + 1 == len(sizes):
            return sizes
        a, b = sizes[k], sizes[k + 1]
        return [*sizes[:k], *([a * b] if how == "merge" else [b, a]), *sizes[k + 2 :]]

    def transpose(self) -> None:
        x = self.pick(lambda i: i.rank > 1)
        if x is not None:
            perm = self.draw(st.permutations(range(x.rank)))
            self.add(self.sketch.transpose(x, perm))

    def broadcast(self) -> None:
        x = self.pick(lambda i: i.rank < 4)
        if x is None:
            return
        sizes = [self.known_size() if s.is_one() else s for s in x.sizes]
        at = list(range(x.rank))
        if self.draw(st.booleans()):
            k = self.draw(st.integers(0, x.rank))
            sizes.insert(k, self.known_size())
            at = [a + (a >= k) for a in at]
        if self.small(sizes):
            self.add(self.sketch.broadcast(x, sizes, at))

    def slice(self) -> None:
        x = self.pick(lambda i: i.rank > 0)
        if x is None:
            return
        cuts = [self.cut(s) for s in x.sizes]
        self.add(self.sketch.slice(x, *zip(*cuts)))

    def reverse(self) -> None:
        x = self.pick(lambda i: i.rank > 0)
        if x is not None:
            some = st.sets(st.integers(0, x.rank - 1), min_size=1)
            self.add(self.sketch.reverse(x, sorted(self.draw(some))))

    def gather(self) -> None:
        """One axis by an index: counted, drawn from the pool, or an input."""
        x = self.pick(lambda i: i.rank > 0)
        if x is None:
            return
        axis = self.draw(st.integers(0, x.rank - 1))
        sizes = [*x.sizes[:axis], self.known_size(), *x.sizes[axis + 1 :]]
        found = [i for i in self.pool if i.dtype == "int64" and i.exact]
        found = [i for i in found if i.rank == len(sizes) and _same(i.sizes, sizes)]
        if found and self.draw(st.booleans()):
            index = self.one(found)
        else:
            index = self.sketch.iota(
                self.draw(st.integers(0, x.rank - 1)), sizes, "int64"
            )
        at = [-1 if k == axis else k for k in range(x.rank)]
        if self.small(sizes):
            self.add(self.sketch.gather(x, [index], sizes, at))

    def cumsum(self) -> None:
        x = self.pick(lambda i: i.rank > 0 and i.dtype != "bool")
        if x is not None:
            self.add(self.sketch.cumsum(x, self.draw(st.integers(0, x.rank - 1))))

    def cut(self, size: Size) -> tuple[Size, Size, int]:
        """(start, size, step) that stay within the size, whatever the symbols."""
        match self.draw(st.integers(0, 3)):
            case 0:
                return fixed(0), size, 1
            case 1:
                return self.one((fixed(0), fixed(1))), size // 2, 2
            case 2:
                return size // 2, size - size // 2, 1
            case _:
                return fixed(0), (size + 2) // 3, 3

    def pad(self) -> None:
        x = self.pick(lambda i: i.rank > 0)
        if x is None:
            return
        few = st.lists(st.sampled_from((0, 0, 1, 2)), min_size=x.rank, max_size=x.rank)
        low, high, inner = (self.draw(few) for _ in range(3))
        ends = [[fixed(p) for p in part] for part in (low, high)]
        if self.draw(st.integers(0, 4)) == 0:
            ends[0][0] = self.known_size()
        fill = self.one(NUMBERS[x.dtype])
        self.add(self.sketch.pad(x, *ends, inner, fill))

    def concat(self) -> None:
        x = self.pick(lambda i: i.rank > 0)
        if x is None:
            return
        axis = self.draw(st.integers(0, x.rank - 1))

        def fits(i: Item) -> bool:
            same = i.rank == x.rank and i.dtype == x.dtype
            pairs = zip(i.sizes, x.sizes)
            return same and all(
                k == axis or dims.equal(a.dim, b.dim) is True
                for k, (a, b) in enumerate(pairs)
            )

        others = [i for i in self.pool if fits(i)]
        count = self.draw(st.integers(1, 2))
        self.add(
            self.sketch.concat([x, *(self.one(others) for _ in range(count))], axis)
        )

    def reduce(self) -> None:
        x = self.pick(lambda i: i.rank > 0)
        if x is None:
            return
        item = self.reduced(x)
        self.add(item)

    def reduced(self, x: Item, axes: Sequence[int] | None = None) -> Item:
        if axes is None:
            some = st.sets(st.integers(0, x.rank - 1), min_size=1)
            axes = sorted(self.draw(some))
        names = ["reduce_max", "reduce_min"]
        if x.dtype != "bool":
            names += ["reduce_sum", "reduce_prod"]
        return self.sketch.reduce(self.one(names), x, axes)

    def rows(self) -> None:
        """A reduction combined with what it reduced, as in softmax; perhaps twice."""
        x = self.pick(lambda i: i.rank > 0)
        if x is None:
            return
        axes = sorted(self.draw(st.sets(st.integers(0, x.rank - 1), min_size=1)))
        kept = [k for k in range(x.rank) if k not in axes]
        for _ in range(self.draw(st.integers(1, 2))):
            back = self.sketch.broadcast(self.reduced(x, axes), x.sizes, kept)
            names = BINARY[class_of(x.dtype)]
            if not (x.exact and back.exact):
                names = tuple(n for n in names if n not in UNSTABLE)
            x = self.sketch.apply(self.one(names), x, back)
            name = self.one(UNARY[class_of(x.dtype)])
            if x.exact or name not in UNSTABLE:
                x = self.sketch.apply(name, x)
            self.add(x)

    def window(self) -> None:
        x = self.pick(lambda i: 0 < i.rank <= 3 and i.exact and i.dtype != "bool")
        if x is None:
            return
        each = [self.one_window(s) for s in x.sizes]
        if self.draw(st.booleans()):
            self.add(self.sketch.window_sum(x, *zip(*each)))
        else:
            self.add(*self.sketch.window_max(x, *zip(*each)))

    def one_window(self, size: Size) -> tuple[int, int, tuple[int, int], int]:
        """(window, stride, padding, dilation) of a dim, with an extent >= 0."""
        if self.draw(st.booleans()):
            return 1, 1, (0, 0), 1
        few = st.integers(1, 3)
        taps, stride, dilation = (self.draw(few) for _ in range(3))
        low, high = self.draw(st.integers(0, 2)), self.draw(st.integers(0, 2))
        reach = dilation * (taps - 1) + 1
        least = size.dim if isinstance(size.dim, int) else 0
        high += max(reach - stride - least - low - high, 0)
        return taps, stride, (low, high), dilation


_STEPS = (
    *("unary", "unary", "binary", "binary", "compare", "select", "cast", "create"),
    *("reshape", "reshape", "transpose", "broadcast", "slice", "pad", "concat"),
    *("reduce", "rows", "rows", "window", "reverse", "gather", "cumsum"),
)


@st.composite
def cases(draw: Any, most: int = 7) -> Case:
    """A random graph of up to `most` steps with one to three outputs."""
    drawing = _Drawing(draw, Sketch())
    # Each symbol is a dim of some input, so that a call's sizes tell its value.
    first = [named("n"), named("m")][: draw(st.integers(1, 2))]
    extra = [fixed(draw(st.sampled_from(EXTENTS[1:])))] * draw(st.integers(0, 1))
    sizes = draw(st.permutations([*first, *extra]))
    drawing.add(drawing.sketch.input(sizes, draw(st.sampled_from(KINDS))))
    if len(first) == 1:
        drawing.add(drawing.sketch.input([named("m")], draw(st.sampled_from(KINDS))))
    for _ in range(draw(st.integers(0, 1))):
        drawing.input()
    inputs = len(drawing.pool)
    for _ in range(draw(st.integers(1, most))):
        getattr(drawing, draw(st.sampled_from(_STEPS)))()
    made = drawing.pool[inputs:] or drawing.pool
    outputs = [made[-1]]
    for _ in range(draw(st.integers(0, 2))):
        outputs.append(draw(st.sampled_from(made)))
    return drawing.sketch.case(outputs)


def walk_sizes(case: Case, drawn: Sequence[Sizes]) -> Iterator[Sizes]:
    """The drawn sizes that differ in the symbols that the case has."""
    seen = set()
    for sizes in drawn:
        key = tuple(sizes[s] for s in case.symbols())
        if key not in seen:
            seen.add(key)
            yield sizes
