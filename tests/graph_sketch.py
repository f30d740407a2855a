"""Sketch: builds a graph and, beside it, closures that tell what it should give."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from graph_case import Case, Env, Item, Size, dims_of
from graph_meaning import (
    INEXACT,
    Array,
    Expected,
    Sizes,
    Wide,
    _broadcast,
    _pad,
    _picked,
    _slice,
    converted,
    dtype_of,
    elementwise,
    moved,
    put_over,
    random_word,
)
from graph_totals import (
    reduced,
    running,
    running_extreme,
    running_product,
    window_total,
    windowed,
)

from pirol.compiler.ir import FLOATS, HALVES, TensorType, Value, prune
from pirol.prim import Builder

Pair = tuple[int, int]


class Sketch:
    """Builds a graph op by op, and each op's NumPy meaning beside it."""

    def __init__(self) -> None:
        self.b = Builder()
        self.inputs: list[Item] = []

    def input(self, sizes: Sequence[Size], dtype: str) -> Item:
        """A new input."""

        def run(env: Env) -> Expected:
            raise KeyError("the environment lacks an input")

        value = self.b.input(TensorType(dims_of(sizes), dtype))
        item = Item(value, tuple(sizes), True, run)
        self.inputs.append(item)
        return item

    def _item(self, value: Value, sizes: Sequence[Size], exact: bool, run: Any) -> Item:
        return Item(value, tuple(sizes), exact, run)

    def const(self, number: Any, sizes: Sequence[Size], dtype: str) -> Item:
        """A constant: a number, or a Size."""
        plain = number.dim if isinstance(number, Size) else number
        value = self.b.const(value=plain, shape=dims_of(sizes), dtype=dtype)

        def run(env: Env) -> Expected:
            held = number.of(env.sizes) if isinstance(number, Size) else number
            wrapped = np.asarray(held).astype(dtype_of(dtype))
            return Expected(dtype, np.full(env.shape(sizes), wrapped))

        return self._item(value, sizes, True, run)

    def iota(self, axis: int, sizes: Sequence[Size], dtype: str) -> Item:
        """Counts up along an axis."""
        value = self.b.iota(axis=axis, shape=dims_of(sizes), dtype=dtype)

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

    def random_bits(self, key: Item, place: Item) -> Item:
        """The random bits of keys and places."""
        value = self.b.random_bits(key.value, place.value)

        def run(env: Env) -> Expected:
            return random_word(key.at(env).value, place.at(env).value)

        return self._item(value, place.sizes, True, run)

    def cast(self, x: Item, dtype: str) -> Item:
        """The item in another dtype."""
        value = self.b.cast(x.value, dtype=dtype)
        run = lambda env: converted(x.at(env), dtype)  # noqa: E731
        return self._item(value, x.sizes, x.exact, run)

    def bitcast(self, x: Item, dtype: str) -> Item:
        """The item's bits as another dtype."""
        value = self.b.bitcast(x.value, dtype=dtype)

        def run(env: Env) -> Expected:
            return Expected(dtype, x.at(env).value.view(dtype_of(dtype)))

        return self._item(value, x.sizes, x.exact, run)

    def reshape(self, x: Item, sizes: Sequence[Size]) -> Item:
        """The item in another shape, row-major."""
        value = self.b.reshape(x.value, shape=dims_of(sizes))

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
        value = self.b.broadcast(x.value, shape=dims_of(sizes), dims=tuple(at))

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
            x.value, starts=dims_of(starts), sizes=dims_of(sizes), steps=tuple(steps)
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
            x.value,
            low=dims_of(low),
            high=dims_of(high),
            interior=tuple(inner),
            value=fill,
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
            x.value, *(i.value for i in indices), shape=dims_of(sizes), dims=tuple(at)
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

    def put(
        self, x: Item, part: Item, indices: Sequence[Item], at: Sequence[int]
    ) -> Item:
        """x with elements put, one after the other, where gather would read."""
        value = self.b.put(
            x.value, part.value, *(i.value for i in indices), dims=tuple(at)
        )

        def run(env: Env) -> Expected:
            rest = iter([i.at(env).value for i in indices])
            grid = np.indices(env.shape(part.sizes))
            drawn = [grid[k] if k >= 0 else next(rest) for k in at]
            return put_over(x.at(env), part.at(env), drawn)

        return self._item(value, x.sizes, x.exact and part.exact, run)

    def cumsum(self, x: Item, axis: int) -> Item:
        """Sums up to each element."""
        value = self.b.cumsum(x.value, axis=axis)
        exact = x.exact and x.dtype not in FLOATS
        return self._item(value, x.sizes, exact, lambda env: running(x.at(env), axis))

    def cumprod(self, x: Item, axis: int) -> Item:
        """Products up to each element."""
        value = self.b.cumprod(x.value, axis=axis)
        exact = x.exact and x.dtype not in FLOATS

        def run(env: Env) -> Expected:
            return running_product(x.at(env), axis)

        return self._item(value, x.sizes, exact, run)

    def cummax(self, x: Item, axis: int) -> Item:
        """The largest up to each element."""
        return self._extreme("max", x, axis)

    def cummin(self, x: Item, axis: int) -> Item:
        """The smallest up to each element."""
        return self._extreme("min", x, axis)

    def _extreme(self, which: str, x: Item, axis: int) -> Item:
        value = self.b.one(f"cum{which}", x.value, axis=axis)

        def run(env: Env) -> Expected:
            return running_extreme(x.at(env), axis, which)

        return self._item(value, x.sizes, x.exact, run)

    def dot(
        self, x: Item, y: Item, batch: Sequence[Pair], summed: Sequence[Pair]
    ) -> Item:
        """Products summed over pairs of dims (of x, of y), for each batch pair."""
        (xb, yb), (xs, ys) = (tuple(zip(*p)) or ((), ()) for p in (batch, summed))
        value = self.b.dot_general(
            x.value, y.value, x_batch=xb, y_batch=yb, x_sum=xs, y_sum=ys
        )
        sides = [[*xb, *_others(x, xb + xs)], [*yb, *_others(y, yb + ys)]]
        sizes = [x.sizes[k] for k in sides[0]]
        sizes += [y.sizes[k] for k in sides[1][len(yb) :]]
        full = [*sizes, *(x.sizes[k] for k in xs)]
        sums = range(len(sizes), len(full))
        right = [*range(len(yb)), *range(len(sides[0]), len(sizes))]
        places = [dict(zip(sides[0], range(len(sides[0])))) | dict(zip(xs, sums))]
        places += [dict(zip(sides[1], right)) | dict(zip(ys, sums))]

        def run(env: Env) -> Expected:
            shape = env.shape(full)
            factors = [_spread(i.at(env), shape, p) for i, p in zip((x, y), places)]
            if x.dtype not in HALVES:
                return reduced("reduce_sum", _products(factors), tuple(sums))
            wide = _products([converted(f, "float32") for f in factors])
            if x.dtype == "bfloat16":
                wide = _without_subnormals(wide, factors)
            return converted(reduced("reduce_sum", wide, tuple(sums)), x.dtype)

        return self._item(value, sizes, False, run)

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
        values = self.b.window_max(x.value, **given, plane=(0, len(x.sizes)))

        def run(env: Env) -> tuple[Array, Array]:
            source = x.at(env)
            assert source.bound is None, "the index of an inexact value"
            return windowed(source.value, **given)

        def best(env: Env) -> Expected:
            kept = x.dtype not in FLOATS
            return Expected(x.dtype, run(env)[0], None, kept)

        def index(env: Env) -> Expected:
            return Expected("int32", run(env)[1])

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


def _without_subnormals(products: Expected, factors: Sequence[Expected]) -> Expected:
    """The products, where subnormal factors and results may count as 0."""
    value, bound = products.wide()
    least = np.finfo(np.float32).tiny
    tiny = [(f.value != 0) & (np.abs(f.wide()[0]) < least) for f in factors]
    lost = np.where(np.logical_or(*tiny), np.abs(value), least)
    return replace(products, bound=bound + np.where(np.isnan(lost), np.inf, lost))


def _products(factors: Sequence[Expected]) -> Expected:
    """What is summed; a product out of range may be added up before it is rounded."""
    product = elementwise("mul", factors)
    if product.dtype not in FLOATS:
        return product
    value, bound = product.wide()
    over = np.isinf(value) & np.all([np.isfinite(f.value) for f in factors], axis=0)
    return replace(product, bound=np.where(over, Wide(np.inf), bound))


def _others(x: Item, but: Sequence[int]) -> list[int]:
    return [k for k in range(x.rank) if k not in but]


def _spread(x: Expected, shape: Sequence[int], at: dict[int, int]) -> Expected:
    """x over a shape; `at`: where each of its dims lies in that."""
    order = [at[k] for k in range(len(at))]
    return moved(x, lambda a, _: _broadcast(a, shape, order))


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
