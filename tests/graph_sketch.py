"""Sketch: builds a graph and, beside it, closures that tell what it should give."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from graph_meaning import (
    INEXACT,
    WHOLE,
    Array,
    Expected,
    Sizes,
    _broadcast,
    _pad,
    _picked,
    _slice,
    check,
    converted,
    dtype_of,
    elementwise,
    moved,
)
from graph_totals import reduced, running, window_total, windowed

from pirol.compiler import dims
from pirol.compiler.ir import FLOATS, Graph, TensorType, Value, prune
from pirol.prim import Builder

# The graph and its meaning, side by side -------------------------------------------


@dataclass(frozen=True)
class Size:
    """A dim, and its value computed without SymPy."""

    dim: Any
    of: Callable[[Sizes], int]

    def __add__(self, other: Size | int) -> Size:
        b = fixed(other) if isinstance(other, int) else other
        return Size(dims.add(self.dim, b.dim), lambda s: self.of(s) + b.of(s))

    def __sub__(self, other: Size | int) -> Size:
        b = fixed(other) if isinstance(other, int) else other
        return Size(dims.sub(self.dim, b.dim), lambda s: self.of(s) - b.of(s))

    def __mul__(self, other: Size | int) -> Size:
        b = fixed(other) if isinstance(other, int) else other
        return Size(dims.mul(self.dim, b.dim), lambda s: self.of(s) * b.of(s))

    def __floordiv__(self, by: int) -> Size:
        return Size(dims.floordiv(self.dim, by), lambda s: self.of(s) // by)

    def is_one(self) -> bool:
        """Whether it is 1, whatever the symbols."""
        return bool(dims.equal(self.dim, 1) is True)


def fixed(value: int) -> Size:
    """A static size."""
    return Size(value, lambda sizes: value)


def named(name: str) -> Size:
    """A symbolic size."""
    return Size(dims.symbol(name), lambda sizes: sizes[name])


def shape_of(*given: int | str) -> tuple[Size, ...]:
    """Sizes from ints and symbols' names."""
    return tuple(fixed(g) if isinstance(g, int) else named(g) for g in given)


def _dims(sizes: Sequence[Size]) -> tuple[Any, ...]:
    return tuple(s.dim for s in sizes)


@dataclass
class Env:
    """Inputs and symbols of one evaluation, and what is known already."""

    sizes: Sizes
    known: dict[Value, Expected] = field(default_factory=dict)

    def shape(self, sizes: Sequence[Size]) -> tuple[int, ...]:
        """The values of the sizes."""
        return tuple(s.of(self.sizes) for s in sizes)


@dataclass(frozen=True, eq=False)
class Item:
    """A value of the graph with its meaning; `exact`: it has no rounding error."""

    value: Value
    sizes: tuple[Size, ...]
    exact: bool
    run: Callable[[Env], Expected]

    @property
    def dtype(self) -> str:
        """The value's dtype."""
        return self.value.dtype

    @property
    def rank(self) -> int:
        """The number of dims."""
        return len(self.sizes)

    def at(self, env: Env) -> Expected:
        """The value's meaning, computed once."""
        if self.value not in env.known:
            env.known[self.value] = self.run(env)
        return env.known[self.value]


class Sketch:
    """Builds a graph op by op, and each op's NumPy meaning beside it."""

    def __init__(self) -> None:
        self.b = Builder()
        self.inputs: list[Item] = []

    def input(self, sizes: Sequence[Size], dtype: str) -> Item:
        """A new input."""

        def run(env: Env) -> Expected:
            raise KeyError("the environment lacks an input")

        value = self.b.input(TensorType(_dims(sizes), dtype))
        item = Item(value, tuple(sizes), True, run)
        self.inputs.append(item)
        return item

    def _item(self, value: Value, sizes: Sequence[Size], exact: bool, run: Any) -> Item:
        return Item(value, tuple(sizes), exact, run)

    def const(self, number: Any, sizes: Sequence[Size], dtype: str) -> Item:
        """A constant: a number, or a Size."""
        plain = number.dim if isinstance(number, Size) else number
        value = self.b.const(value=plain, shape=_dims(sizes), dtype=dtype)

        def run(env: Env) -> Expected:
            held = number.of(env.sizes) if isinstance(number, Size) else number
            found = np.empty(env.shape(sizes), dtype_of(dtype))
            found[...] = held
            return Expected(dtype, found)

        return self._item(value, sizes, True, run)

    def iota(self, axis: int, sizes: Sequence[Size], dtype: str) -> Item:
        """Counts up along an axis."""
        value = self.b.iota(axis=axis, shape=_dims(sizes), dtype=dtype)

        def run(env: Env) -> Expected:
            grid = np.indices(env.shape(sizes))[axis]
            return Expected(dtype, grid.astype(dtype_of(dtype)))

        return self._item(value, sizes, True, run)

    def apply(self, name: str, *args: Item) -> Item:
        """An elementwise primitive on items of one shape."""
        method = f"{name}_" if name in ("and", "or", "not") else name
        value = getattr(self.b, method)(*(a.value for a in args))
        pole = name in ("div", "rsqrt")
        exact = name not in INEXACT and all(a.exact for a in args) and not pole
        return self._item(
            value,
            args[-1].sizes,
            exact,
            lambda env: elementwise(name, [a.at(env) for a in args]),
        )

    def cast(self, x: Item, dtype: str) -> Item:
        """The item in another dtype."""
        value = self.b.cast(x.value, dtype=dtype)
        run = lambda env: converted(x.at(env), dtype)  # noqa: E731
        return self._item(value, x.sizes, x.exact, run)

    def reshape(self, x: Item, sizes: Sequence[Size]) -> Item:
        """The item in another shape, row-major."""
        value = self.b.reshape(x.value, shape=_dims(sizes))

        def run(env: Env) -> Expected:
            shape = env.shape(sizes)
            return moved(x.at(env), lambda a, _: a.reshape(-1).reshape(shape))

        return self._item(value, sizes, x.exact, run)

    def transpose(self, x: Item, perm: Sequence[int]) -> Item:
        """Axes in another order."""
        value = self.b.transpose(x.value, perm=tuple(perm))

        def run(env: Env) -> Expected:
            def place(a: Array, _: Any) -> Array:
                shape = [a.shape[p] for p in perm]
                grid = np.indices(shape)
                return _picked(
                    a, shape, [grid[list(perm).index(k)] for k in range(a.ndim)]
                )

            return moved(x.at(env), place)

        return self._item(value, [x.sizes[p] for p in perm], x.exact, run)

    def broadcast(self, x: Item, sizes: Sequence[Size], at: Sequence[int]) -> Item:
        """Dim k of the item becomes dim at[k] of the new shape."""
        value = self.b.broadcast(x.value, shape=_dims(sizes), dims=tuple(at))

        def run(env: Env) -> Expected:
            shape = env.shape(sizes)
            return moved(x.at(env), lambda a, _: _broadcast(a, shape, at))

        return self._item(value, sizes, x.exact, run)

    def slice(
        self,
        x: Item,
        starts: Sequence[Size],
        sizes: Sequence[Size],
        steps: Sequence[int],
    ) -> Item:
        """Every step-th element from a start on."""
        value = self.b.slice(
            x.value, starts=_dims(starts), sizes=_dims(sizes), steps=tuple(steps)
        )

        def run(env: Env) -> Expected:
            first, count = env.shape(starts), env.shape(sizes)
            return moved(x.at(env), lambda a, _: _slice(a, first, count, steps))

        return self._item(value, sizes, x.exact, run)

    def pad(
        self,
        x: Item,
        low: Sequence[Size],
        high: Sequence[Size],
        inner: Sequence[int],
        fill: Any,
    ) -> Item:
        """Around and between the elements, `fill`."""
        value = self.b.pad(
            x.value, low=_dims(low), high=_dims(high), interior=tuple(inner), value=fill
        )

        def run(env: Env) -> Expected:
            before, after = env.shape(low), env.shape(high)
            return moved(x.at(env), lambda a, f: _pad(a, before, after, inner, f), fill)

        sizes = []
        for size, lo, hi, gap, dim in zip(x.sizes, low, high, inner, value.shape):

            def of(
                s: Sizes, n: Size = size, a: Size = lo, b: Size = hi, g: int = gap
            ) -> int:
                return a.of(s) + n.of(s) + max(n.of(s) - 1, 0) * g + b.of(s)

            sizes.append(Size(dim, of))
        return self._item(value, sizes, x.exact, run)

    def concat(self, items: Sequence[Item], axis: int) -> Item:
        """The items one behind the other."""
        value = self.b.concat(*(i.value for i in items), axis=axis)

        def run(env: Env) -> Expected:
            parts = [i.at(env) for i in items]
            if all(p.bound is None for p in parts):
                joined = _joined([p.value for p in parts], axis)
                return Expected(
                    parts[0].dtype, joined, None, all(p.signed for p in parts)
                )
            pairs = [p.wide() for p in parts]
            joined = _joined([v for v, _ in pairs], axis)
            bounds = _joined([b for _, b in pairs], axis)
            return Expected(parts[0].dtype, joined, bounds, signed=False)

        total = functools.reduce(lambda a, b: a + b, (i.sizes[axis] for i in items))
        sizes = [*items[0].sizes[:axis], total, *items[0].sizes[axis + 1 :]]
        return self._item(value, sizes, all(i.exact for i in items), run)

    def reduce(self, name: str, x: Item, axes: Sequence[int]) -> Item:
        """A reduction by its name; the axes are dropped."""
        value = getattr(self.b, name)(x.value, axes=tuple(axes))
        sizes = [s for k, s in enumerate(x.sizes) if k not in axes]
        rounded = name in ("reduce_sum", "reduce_prod") and x.dtype in FLOATS
        exact = x.exact and not rounded
        return self._item(
            value, sizes, exact, lambda env: reduced(name, x.at(env), axes)
        )

    def reverse(self, x: Item, axes: Sequence[int]) -> Item:
        """The axes counted from their ends."""
        value = self.b.reverse(x.value, axes=tuple(axes))

        def turn(a: Array, _: Any) -> Array:
            for k in axes:
                a = np.take(a, np.arange(a.shape[k])[::-1], axis=k)
            return a

        return self._item(value, x.sizes, x.exact, lambda env: moved(x.at(env), turn))

    def gather(
        self, x: Item, indices: Sequence[Item], sizes: Sequence[Size], at: Sequence[int]
    ) -> Item:
        """Elements of x at coordinates from the place (at >= 0) or from an index."""
        value = self.b.gather(
            x.value, *(i.value for i in indices), shape=_dims(sizes), dims=tuple(at)
        )

        def run(env: Env) -> Expected:
            shape, grid = env.shape(sizes), np.indices(env.shape(sizes))
            rest = iter([i.at(env).value for i in indices])
            drawn = [grid[k] if k >= 0 else next(rest) for k in at]

            def pick(a: Array, _: Any) -> Array:
                if not a.size:
                    return np.zeros(shape, a.dtype)
                ends = zip(drawn, a.shape)
                places = [np.maximum(np.minimum(p, n - 1), 0) for p, n in ends]
                return _picked(a, shape, places)

            return moved(x.at(env), pick)

        return self._item(value, sizes, x.exact, run)

    def cumsum(self, x: Item, axis: int) -> Item:
        """Sums up to each element."""
        value = self.b.cumsum(x.value, axis=axis)
        exact = x.exact and x.dtype not in FLOATS
        return self._item(value, x.sizes, exact, lambda env: running(x.at(env), axis))

    def window_sum(
        self, x: Item, window: Any, strides: Any, padding: Any, dilation: Any
    ) -> Item:
        """The sum of each window."""
        given, sizes = _windows(x, window, strides, padding, dilation)
        value = self.b.window_sum(x.value, **given)
        exact = x.exact and x.dtype not in FLOATS

        def run(env: Env) -> Expected:
            return window_total(x.at(env), env.shape(sizes), **given)

        return self._item(value, sizes, exact, run)

    def window_max(
        self, x: Item, window: Any, strides: Any, padding: Any, dilation: Any
    ) -> tuple[Item, Item]:
        """The largest value of each window, and its flat index."""
        given, sizes = _windows(x, window, strides, padding, dilation)
        values = self.b.window_max(x.value, **given)

        def run(env: Env) -> tuple[Array, Array]:
            source = x.at(env)
            assert source.bound is None, "the index of an inexact value"
            return windowed(source.value, **given)

        def best(env: Env) -> Expected:
            kept = x.dtype not in FLOATS
            return Expected(x.dtype, run(env)[0], None, kept)

        def index(env: Env) -> Expected:
            return Expected("int64", run(env)[1])

        return (
            self._item(values[0], sizes, True, best),
            self._item(values[1], sizes, True, index),
        )

    def case(self, outputs: Sequence[Item], name: str = "f") -> Case:
        """The graph that returns these items."""
        graph = prune(self.b.graph(name, [o.value for o in outputs]))
        return Case(graph, tuple(self.inputs), tuple(outputs))


def _windows(
    x: Item, window: Any, strides: Any, padding: Any, dilation: Any
) -> tuple[dict[str, Any], list[Size]]:
    """The attributes of a windowed primitive, and the sizes of its result."""
    given = {
        "window": tuple(window),
        "strides": tuple(strides),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
    }
    sizes = [
        (n + (p[0] + p[1]) - (d * (k - 1) + 1)) // s + 1
        for n, k, s, p, d in zip(x.sizes, window, strides, padding, dilation)
    ]
    return given, sizes


def _joined(parts: Sequence[Array], axis: int) -> Array:
    shape = list(parts[0].shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    out = np.empty(shape, parts[0].dtype)
    start = 0
    for part in parts:
        end = start + part.shape[axis]
        out[(slice(None),) * axis + (slice(start, end),)] = part
        start = end
    return out


@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """A graph with the meaning of its inputs and outputs."""

    graph: Graph
    inputs: tuple[Item, ...]
    outputs: tuple[Item, ...]

    def __repr__(self) -> str:
        return f"Case of\n{self.graph}"

    def symbols(self) -> list[str]:
        """The names of the shape symbols."""
        found = dims.symbols_of(*(d for i in self.inputs for d in _dims(i.sizes)))
        return sorted(found)

    def arrays(self, sizes: Sizes, seed: int, special: bool = True) -> list[Array]:
        """Input data, with NaN, Inf, -0.0 and extreme integers where `special`."""
        rng = np.random.default_rng(seed)
        shapes = [tuple(s.of(sizes) for s in i.sizes) for i in self.inputs]
        return [sample(rng, s, i.dtype, special) for s, i in zip(shapes, self.inputs)]

    def expected(self, sizes: Sizes, arrays: Sequence[Array]) -> list[Expected]:
        """What the outputs should be."""
        env = Env(sizes)
        for item, array in zip(self.inputs, arrays):
            env.known[item.value] = Expected(item.dtype, array)
        return [o.at(env) for o in self.outputs]

    def check(self, sizes: Sizes, arrays: Any, got: Sequence[Array], who: str) -> None:
        """AssertionError where the outputs are not what they should be."""
        wanted = self.expected(sizes, arrays)
        assert len(got) == len(wanted)
        for k, (have, want) in enumerate(zip(got, wanted)):
            check(have, want, f"{who}, output {k}, sizes {dict(sizes)}")


# Data ------------------------------------------------------------------------------


def special_floats(dtype: str) -> Array:
    """NaN, infinities, zeros of both signs, the largest and smallest numbers."""
    info = np.finfo(dtype_of(dtype))
    tiny, least, top = info.tiny, info.smallest_subnormal, info.max
    found = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1, -1, tiny, -least, top, -top, 0.5]
    return np.array(found, dtype_of(dtype))


def special_ints(dtype: str) -> Array:
    """The ends of the range, and numbers around 0."""
    info = np.iinfo(dtype_of(dtype))
    found = [info.min, info.min + 1, info.max, 0, 1, -1, 2, -7]
    return np.array(found, dtype_of(dtype))


def sample(rng: Any, shape: Sequence[int], dtype: str, special: bool) -> Array:
    """Random data; one element in 6 or 60 is a special one."""
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if dtype in WHOLE:
        plain = rng.integers(-9, 10, shape).astype(dtype_of(dtype))
        rare = special_ints(dtype)
    else:
        scale = 10.0 ** rng.integers(-2, 2)
        plain = (rng.standard_normal(shape) * scale).astype(dtype_of(dtype))
        rare = special_floats(dtype)
    if not special:
        return np.asarray(plain)
    chosen = rare[rng.integers(0, len(rare), shape)]
    often = rng.choice((1 / 6, 1 / 60))
    return np.asarray(np.where(rng.random(shape) < often, chosen, plain))
