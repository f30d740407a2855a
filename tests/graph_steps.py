"""Steps by which a random graph grows: each adds ops to the pool, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graph_case import Item, Size, fixed
from graph_meaning import ALL_KINDS, COMPARES, FLOATING, UNSTABLE
from graph_pairs import BINARY, UNARY, Pair, binary_of, class_of
from graph_pool import NUMBERS, Pool, Want, same

from pirol.compiler import dims

ANY = Want()


def _has_dims(item: Item) -> bool:
    return item.rank > 0


class Steps(Pool):
    """A graph that is being drawn; `want` tells what a step has to be about."""

    def unary(self, want: Want) -> None:
        """An elementwise primitive of one operand."""
        unstable = want.name in UNSTABLE
        x = self.pick(want, lambda i: i.exact or not unstable)
        if x is None:
            return
        name = self.name(want, UNARY[class_of(x.dtype)])
        if x.exact or name not in UNSTABLE:
            self.add(self.sketch.apply(name, x))

    def binary(self, want: Want) -> None:
        """An elementwise primitive of two operands."""
        unstable = want.name in UNSTABLE
        x = self.pick(want, lambda i: i.exact or not unstable)
        if x is None:
            return
        name = self.name(want, binary_of(x.dtype))
        if name in UNSTABLE and not x.exact:
            return
        pair = [x, self.mate(x, x.dtype, exact=name in UNSTABLE)]
        if self.choices.flag():
            pair.reverse()
        self.add(self.sketch.apply(name, *pair))

    def compare(self, want: Want) -> None:
        """A comparison."""
        x = self.pick(want, lambda i: i.exact)
        if x is not None:
            name = self.name(want, COMPARES)
            self.add(self.sketch.apply(name, x, self.mate(x, x.dtype, exact=True)))

    def select(self, want: Want) -> None:
        """One of two by a third."""
        x = self.pick(want)
        if x is not None:
            y, cond = self.mate(x, x.dtype), self.mate(x, "bool")
            self.add(self.sketch.apply("select", cond, x, y))

    def random_bits(self, want: Want) -> None:
        """Bits of keys and places."""
        x = self.pick(want, lambda i: i.dtype == "int64")
        if x is not None:
            self.add(self.sketch.random_bits(x, self.mate(x, "int64")))

    def cast(self, want: Want) -> None:
        """To another dtype, which `want` names as "cast to int8"."""
        to = want.name.removeprefix("cast to ") or str(self.choices.one(ALL_KINDS))
        whole = to not in FLOATING
        rounded = lambda i: i.dtype in FLOATING and not i.exact  # noqa: E731
        x = self.pick(want, lambda i: not (whole and rounded(i)))
        if x is not None:
            self.add(self.converted(x, to))

    def const(self, want: Want) -> None:
        """A constant: a number, or a dim."""
        sizes, dtype = self.new_sizes(), self.dtype(want)
        if not self.small(sizes):
            return
        number = self.choices.one(NUMBERS[dtype])
        if dtype != "bool" and self.choices.flag():
            number = self.known_size() * 3 + 1
        self.add(self.sketch.const(number, sizes, dtype))

    def iota(self, want: Want) -> None:
        """Counted along an axis."""
        sizes = self.new_sizes()
        if self.small(sizes):
            axis = self.choices.number(0, len(sizes) - 1)
            self.add(self.sketch.iota(axis, sizes, self.dtype(want)))

    def new_sizes(self) -> list[Size]:
        """Of what is created."""
        return [self.known_size() for _ in range(self.choices.number(1, 2))]

    def reshape(self, want: Want) -> None:
        """Row-major in another shape."""
        x = self.pick(want, _has_dims)
        if x is None:
            return
        sizes = list(x.sizes)
        for _ in range(self.choices.number(1, 2)):
            sizes = self.reshaped(sizes)
        self.add(self.sketch.reshape(x, sizes))

    def reshaped(self, sizes: list[Size]) -> list[Size]:
        """Two dims merged, one split, a 1 put in, or two neighbours exchanged."""
        k = self.choices.number(0, max(len(sizes) - 1, 0))
        how = self.choices.one(("merge", "split", "one", "swap"))
        if how == "one" or not sizes:
            return [*sizes[:k], fixed(1), *sizes[k:]]
        if how == "split":
            size = sizes[k].dim
            by = [f for f in (2, 3, 11) if isinstance(size, int) and size % f == 0]
            if not by:
                return sizes
            factor = self.choices.one(by)
            parts = [fixed(size // factor), fixed(factor)]
            return [*sizes[:k], *parts, *sizes[k + 1 :]]
        if k + 1 == len(sizes):
            return sizes
        a, b = sizes[k], sizes[k + 1]
        return [*sizes[:k], *([a * b] if how == "merge" else [b, a]), *sizes[k + 2 :]]

    def transpose(self, want: Want) -> None:
        """The axes in another order."""
        x = self.pick(want, lambda i: i.rank > 1)
        if x is not None:
            perm = self.choices.order(range(x.rank))
            self.add(self.sketch.transpose(x, perm))

    def broadcast(self, want: Want) -> None:
        """Dims of 1 made longer, and perhaps a new one."""
        x = self.pick(want, lambda i: i.rank < 4)
        if x is None:
            return
        sizes = [self.known_size() if s.is_one() else s for s in x.sizes]
        at = list(range(x.rank))
        if self.choices.flag():
            k = self.choices.number(0, x.rank)
            sizes.insert(k, self.known_size())
            at = [a + (a >= k) for a in at]
        if self.small(sizes):
            self.add(self.sketch.broadcast(x, sizes, at))

    def slice(self, want: Want) -> None:
        """A part of each dim."""
        x = self.pick(want, _has_dims)
        if x is not None:
            cuts = [self.cut(s) for s in x.sizes]
            self.add(self.sketch.slice(x, *zip(*cuts)))

    def cut(self, size: Size) -> tuple[Size, Size, int]:
        """(start, size, step) that stay within the size, whatever the symbols."""
        match self.choices.number(0, 3):
            case 0:
                return fixed(0), size, 1
            case 1:
                return self.choices.one((fixed(0), fixed(1))), size // 2, 2
            case 2:
                return size // 2, size - size // 2, 1
            case _:
                return fixed(0), (size + 2) // 3, 3

    def reverse(self, want: Want) -> None:
        """Some axes from their ends."""
        x = self.pick(want, _has_dims)
        if x is not None:
            self.add(self.sketch.reverse(x, self.choices.some(x.rank)))

    def gather(self, want: Want) -> None:
        """One axis by an index."""
        x = self.pick(want, _has_dims)
        if x is None:
            return
        axis = self.choices.number(0, x.rank - 1)
        sizes = [*x.sizes[:axis], self.known_size(), *x.sizes[axis + 1 :]]
        if self.small(sizes):
            at = [-1 if k == axis else k for k in range(x.rank)]
            self.add(self.sketch.gather(x, [self.index(sizes)], sizes, at))

    def put(self, want: Want) -> None:
        """Elements put along one axis, at an index."""
        x = self.pick(want, _has_dims)
        if x is None:
            return
        axis = self.choices.number(0, x.rank - 1)
        sizes = [*x.sizes[:axis], self.known_size(), *x.sizes[axis + 1 :]]
        if self.small(sizes):
            at = [-1 if k == axis else k for k in range(x.rank)]
            part = self.sketch.input(sizes, x.dtype)
            self.add(self.sketch.put(x, part, [self.index(sizes)], at))

    def index(self, sizes: list[Size]) -> Item:
        """Places: counted, or drawn from the pool, or given."""
        found = [i for i in self.items if i.dtype == "int64" and i.exact]
        found = [i for i in found if i.rank == len(sizes) and same(i.sizes, sizes)]
        if found and self.choices.flag():
            item: Item = self.choices.one(found)
            return item
        if self.choices.flag():
            axis = self.choices.number(0, len(sizes) - 1)
            return self.sketch.iota(axis, sizes, "int64")
        return self.sketch.input(sizes, "int64")

    def pad(self, want: Want) -> None:
        """Something before, behind and between."""
        x = self.pick(want, _has_dims)
        if x is None:
            return
        low, high, inner = (
            [self.choices.one((0, 0, 1, 2)) for _ in x.sizes] for _ in range(3)
        )
        ends = [[fixed(p) for p in part] for part in (low, high)]
        if self.choices.number(0, 4) == 0:
            ends[0][0] = self.known_size()
        fill = self.choices.one(NUMBERS[x.dtype])
        self.add(self.sketch.pad(x, *ends, inner, fill))

    def concat(self, want: Want) -> None:
        """Two or three items that differ along one axis, one of them perhaps twice."""
        x = self.pick(want, _has_dims)
        if x is None:
            return
        axis = self.choices.number(0, x.rank - 1)

        def fits(i: Item) -> bool:
            pairs = enumerate(zip(i.sizes, x.sizes))
            return (i.rank, i.dtype) == (x.rank, x.dtype) and all(
                k == axis or dims.equal(a.dim, b.dim) is True for k, (a, b) in pairs
            )

        others = [i for i in self.items if fits(i)] or [x]
        more = [self.choices.one(others) for _ in range(self.choices.number(1, 2))]
        self.add(self.sketch.concat([x, *more], axis))

    def reduce(self, want: Want) -> None:
        """A reduction over some axes."""
        x = self.pick(want, _has_dims)
        if x is not None:
            self.add(self.reduced(x, self.choices.some(x.rank), want))

    def reduced(self, x: Item, axes: Sequence[int], want: Want = ANY) -> Item:
        """Some reduction, over the axes."""
        names = ["reduce_max", "reduce_min"]
        if x.dtype != "bool":
            names += ["reduce_sum", "reduce_prod"]
        return self.sketch.reduce(self.name(want, names), x, axes)

    def rows(self, want: Want) -> None:
        """A reduction combined with what it reduced, as in softmax; perhaps twice."""
        x = self.pick(want, _has_dims)
        if x is None:
            return
        axes = self.choices.some(x.rank)
        kept = [k for k in range(x.rank) if k not in axes]
        for _ in range(self.choices.number(1, 2)):
            back = self.sketch.broadcast(self.reduced(x, axes), x.sizes, kept)
            names = binary_of(x.dtype)
            if not (x.exact and back.exact):
                names = tuple(n for n in names if n not in UNSTABLE)
            x = self.sketch.apply(self.choices.one(names), x, back)
            name = self.choices.one(UNARY[class_of(x.dtype)])
            if x.exact or name not in UNSTABLE:
                x = self.sketch.apply(name, x)
            self.add(x)

    def scan(self, want: Want) -> None:
        """Sums, products or extremes along an axis."""
        x = self.pick(want, lambda i: i.rank > 0 and i.dtype != "bool")
        if x is not None:
            axis = self.choices.number(0, x.rank - 1)
            name = self.name(want, ("cumsum", "cumprod", "cummax", "cummin"))
            self.add(getattr(self.sketch, name)(x, axis))

    def dot(self, want: Want) -> None:
        """Products summed over some dims, others taken one by one."""
        x = self.pick(want, lambda i: 0 < i.rank <= 3 and i.dtype != "bool")
        if x is None:
            return
        summed = self.choices.some(x.rank)
        batch = [k for k in range(x.rank) if k not in summed and self.choices.flag()]
        free = [self.known_size() for _ in range(self.choices.number(0, 2))]
        order = self.choices.order(range(len(batch) + len(summed) + len(free)))
        sizes = [*(x.sizes[k] for k in (*batch, *summed)), *free]
        if not self.small([*x.sizes, *free]):
            return
        y = self.sketch.input([sizes[k] for k in order], x.dtype)
        pairs = [(k, order.index(j)) for j, k in enumerate((*batch, *summed))]
        self.add(self.sketch.dot(x, y, pairs[: len(batch)], pairs[len(batch) :]))

    def window(self, want: Want) -> None:
        """The sums or the largest of windows."""
        fits = lambda i: 0 < i.rank <= 3 and i.exact and i.dtype != "bool"  # noqa: E731
        x = self.pick(want, fits)
        if x is None:
            return
        each = [self.one_window(s) for s in x.sizes]
        if self.name(want, ("window_sum", "window_max")) == "window_sum":
            self.add(self.sketch.window_sum(x, *zip(*each)))
        else:
            self.add(*self.sketch.window_max(x, *zip(*each)))

    def one_window(self, size: Size) -> tuple[int, int, tuple[int, int], int]:
        """(window, stride, padding, dilation) of a dim, with an extent >= 0."""
        if self.choices.flag():
            return 1, 1, (0, 0), 1
        taps, stride, dilation = (self.choices.number(1, 3) for _ in range(3))
        low, high = self.choices.number(0, 2), self.choices.number(0, 2)
        reach = dilation * (taps - 1) + 1
        least = size.dim if isinstance(size.dim, int) else 0
        high += max(reach - stride - least - low - high, 0)
        return taps, stride, (low, high), dilation


Step = Callable[[Steps, Want], None]
_PLAIN: dict[str, Step] = {
    "select": Steps.select,
    "random_bits": Steps.random_bits,
    "const": Steps.const,
    "iota": Steps.iota,
    "reshape": Steps.reshape,
    "transpose": Steps.transpose,
    "broadcast": Steps.broadcast,
    "slice": Steps.slice,
    "reverse": Steps.reverse,
    "gather": Steps.gather,
    "put": Steps.put,
    "pad": Steps.pad,
    "concat": Steps.concat,
    "cumsum": Steps.scan,
    "cumprod": Steps.scan,
    "cummax": Steps.scan,
    "cummin": Steps.scan,
    "dot_general": Steps.dot,
    "window_sum": Steps.window,
    "window_max": Steps.window,
}
STEPS: tuple[Step, ...] = (
    *(Steps.unary, Steps.unary, Steps.binary, Steps.binary, Steps.compare),
    *(Steps.cast, Steps.reduce, Steps.rows, Steps.rows, Steps.reshape),
    *_PLAIN.values(),
)


def step_about(pair: Pair) -> Step:
    """The step that makes a pair's primitive."""
    name = pair[0]
    groups: dict[Step, Any] = {
        Steps.unary: {n for names in UNARY.values() for n in names},
        Steps.binary: {n for names in BINARY.values() for n in names},
        Steps.compare: COMPARES,
        Steps.cast: {f"cast to {k}" for k in ALL_KINDS},
        Steps.reduce: ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"),
    }
    for step, names in groups.items():
        if name in names:
            return step
    return _PLAIN[name]
