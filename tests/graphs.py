"""Random small graphs with a NumPy meaning of their own, and ways to run a graph.

`cases()` draws a Case: a graph with its inputs and what each output should be, told
by closures that are made op by op beside the graph and share no code with it. A
Program builds many graphs with one run of gcc and one of the CUDA simulator.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from cuda_simulator import ReadOnly, Simulator
from hypothesis import strategies as st

from pirol.compiler import dims
from pirol.compiler.interpreter import bind_symbols
from pirol.compiler.ir import DTYPES, FLOATS, Graph, TensorType, Value, prune
from pirol.compiler.pipeline import fusible
from pirol.kernels import cpu, cuda
from pirol.kernels.build import build, load
from pirol.kernels.kernel import Kernel
from pirol.kernels.lower import Refusal, build_nest
from pirol.kernels.nest import Nest, interpret_nest
from pirol.kernels.render import CPU, CUDA, HEADERS, render
from pirol.passes.fuse import fuse
from pirol.prim import Builder

Array: TypeAlias = np.ndarray[Any, Any]
Sizes: TypeAlias = Mapping[str, int]
Wide = np.longdouble

KINDS = ("float32", "float64", "int64", "int32", "bool")
FLOATING = ("float32", "float64")
WHOLE = ("int64", "int32")

# Rounding errors allowed, in units in the last place. Arithmetic is correctly rounded
# (0.5) and elementary functions are within 4; one more is for this file's own doubt.
INEXACT = ("exp", "log", "tanh", "erf")
ULPS = dict.fromkeys(INEXACT, 5.0) | {"rsqrt": 2.0}
# Terms that a float32 sum may add up one by one before a wider total takes them; the
# error is then at most so many half ulps of sum(|x|).
IN_LINE = 1024


def dtype_of(name: str) -> Any:
    """The NumPy dtype of Paddle's name."""
    return np.dtype(DTYPES[name][1])


# What an array should be ---------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Expected:
    """Exactly `value`, or (with a bound) within `bound` of it; inf: anything goes.

    `signed`: whether the signs of zeros are determined too.
    """

    dtype: str
    value: Array
    bound: Array | None = None
    signed: bool = True

    def wide(self) -> tuple[Array, Array]:
        """(value, bound) in the widest float."""
        value = self.value.astype(Wide)
        return value, np.zeros(value.shape, Wide) if self.bound is None else self.bound


def check(got: Array, wanted: Expected, what: str) -> None:
    """AssertionError where `got` is not what was expected."""
    assert got.dtype == dtype_of(wanted.dtype), f"{what}: dtype {got.dtype}"
    assert got.shape == wanted.value.shape, f"{what}: shape {got.shape}"
    if wanted.bound is None:
        wrong = _differs(got, wanted)
    else:
        with np.errstate(all="ignore"):
            near = np.abs(got.astype(Wide) - wanted.value) <= wanted.bound
        same = got == wanted.value
        both_nan = np.isnan(got) & np.isnan(wanted.value)
        wrong = ~(near | same | both_nan | np.isinf(wanted.bound))
    if wrong.any():
        at = tuple(int(k) for k in np.argwhere(wrong)[0])
        bound = 0 if wanted.bound is None else wanted.bound[at]
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.size} are wrong; at {at} got "
            f"{got[at]!r}, expected {wanted.value[at]!r} within {bound}"
        )


def _differs(got: Array, wanted: Expected) -> Array:
    wrong = got != wanted.value
    if wanted.dtype in FLOATS:
        wrong &= ~(np.isnan(got) & np.isnan(wanted.value))
        if wanted.signed:
            zero = wanted.value == 0
            wrong |= zero & (np.signbit(got) != np.signbit(wanted.value))
    return np.asarray(wrong)


def same_bits(a: Array, b: Array) -> bool:
    """Whether all bits are equal, but for those of NaNs."""
    as_bytes = [np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b)]
    equal = (as_bytes[0] == as_bytes[1]).reshape(a.size, a.itemsize).all(axis=1)
    if a.dtype.kind == "f":
        equal |= np.isnan(a.reshape(-1)) & np.isnan(b.reshape(-1))
    return a.shape == b.shape and bool(equal.all())


def _ulp(value: Array, bound: Array, dtype: str) -> Array:
    top = np.finfo(dtype_of(dtype)).max
    at = np.minimum(np.where(np.isnan(value), 0, np.abs(value)) + bound, Wide(top))
    return np.asarray(np.spacing(at.astype(dtype_of(dtype))).astype(Wide))


def _settled(value: Array, bound: Array, doubt: Any, dtype: str) -> Expected:
    """What the dtype makes of it: too large is inf; what could be either is free."""
    limit = Wide(np.finfo(dtype_of(dtype)).max)
    finite = np.isfinite(value)
    bound = np.where(finite, bound, 0)
    over = finite & (np.abs(value) - bound > limit * Wide(1.0000002))
    unsure = finite & ~over & (np.abs(value) + bound > limit)
    value = np.where(over, np.copysign(Wide(np.inf), value), value)
    bound = np.where(over, 0, bound)
    free = np.broadcast_to(doubt, value.shape) | unsure | np.isnan(bound)
    return Expected(dtype, value, np.where(free, Wide(np.inf), bound), signed=False)


# Elementwise meanings ------------------------------------------------------------


def _larger(a: Array, b: Array) -> Array:
    return np.where((a > b) | (a != a), a, b)


def _smaller(a: Array, b: Array) -> Array:
    return np.where((a < b) | (a != a), a, b)


EXACT: dict[str, Callable[..., Any]] = {
    "neg": lambda x: -x,
    "abs": lambda x: np.where(x < 0, -x, x) if x.dtype.kind == "i" else np.fabs(x),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: np.ones((), x.dtype) / np.sqrt(x),
    "floor": np.floor,
    "not": lambda x: x ^ True,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "max": _larger,
    "min": _smaller,
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "select": lambda c, x, y: np.choose(c.astype(np.intp), [y, x]),
}
COMPARES = ("eq", "ne", "lt", "le", "gt", "ge")
UNSTABLE = (*COMPARES, "floor")  # a small error of an operand changes the result


def _positive_only(x: Array, e: Array) -> Any:
    """Doubt of sqrt and log: the operand may be on either side of 0."""
    return (np.abs(x) <= e) & (e > 0)


def _mul(x: Array, y: Array, e: Array, f: Array) -> tuple[Array, Array, Any]:
    doubt = (np.isinf(x) & (np.abs(y) <= f) & (f > 0)) | (
        np.isinf(y) & (np.abs(x) <= e) & (e > 0)
    )
    return x * y, np.abs(x) * f + np.abs(y) * e + e * f, doubt


def _div(x: Array, y: Array, e: Array, f: Array) -> tuple[Array, Array, Any]:
    doubt = (np.abs(y) <= f) & (f > 0)
    return x / y, (e + np.abs(x / y) * f) / (np.abs(y) - f), doubt


def _erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in x.reshape(-1)], Wide).reshape(x.shape)


# (value, bound, doubt) from operands' values, then their bounds.
SPREAD: dict[str, Callable[..., tuple[Array, Array, Any]]] = {
    "neg": lambda x, e: (-x, e, False),
    "abs": lambda x, e: (np.abs(x), e, False),
    "sqrt": lambda x, e: (np.sqrt(x), e / np.sqrt(x), _positive_only(x, e)),
    "rsqrt": lambda x, e: (1 / np.sqrt(x), e * (x - e) ** -1.5, _positive_only(x, e)),
    "exp": lambda x, e: (np.exp(x), np.exp(x) * np.expm1(e), False),
    "log": lambda x, e: (np.log(x), -np.log1p(-e / x), _positive_only(x, e)),
    "tanh": lambda x, e: (np.tanh(x), e, False),
    "erf": lambda x, e: (_erf(x), e * Wide(1.13), False),
    "add": lambda x, y, e, f: (x + y, e + f, False),
    "sub": lambda x, y, e, f: (x - y, e + f, False),
    "mul": _mul,
    "div": _div,
    "max": lambda x, y, e, f: (_larger(x, y), np.maximum(e, f), False),
    "min": lambda x, y, e, f: (_smaller(x, y), np.maximum(e, f), False),
}


def elementwise(name: str, args: Sequence[Expected]) -> Expected:
    """What an elementwise primitive gives."""
    last = args[-1]
    out = "bool" if name in COMPARES else last.dtype
    signed = all(a.signed for a in args)
    with np.errstate(all="ignore"):
        if name == "select" and any(a.bound is not None for a in args):
            return _select(*args)
        exact = name not in INEXACT and all(a.bound is None for a in args)
        pole = name in ("div", "rsqrt") and not last.signed
        if exact and not pole:
            value = np.asarray(EXACT[name](*(a.value for a in args)))
            kept = out not in FLOATS or (signed and name not in ("max", "min"))
            return Expected(out, value.astype(dtype_of(out), copy=False), None, kept)
        pairs = [a.wide() for a in args]
        bounds = [b for _, b in pairs]
        value, bound, doubt = SPREAD[name](*(v for v, _ in pairs), *bounds)
        for free in bounds:
            doubt = doubt | np.isinf(free)
        if pole:  # 1 / 0 is inf or -inf
            doubt = doubt | (pairs[-1][0] == 0)
        ulps = ULPS.get(name, 1.0)
        return _settled(value, bound + ulps * _ulp(value, bound, out), doubt, out)


def _select(cond: Expected, x: Expected, y: Expected) -> Expected:
    (a, e), (b, f) = x.wide(), y.wide()
    value, bound = np.where(cond.value, a, b), np.where(cond.value, e, f)
    return Expected(x.dtype, value, bound, signed=False)


def converted(x: Expected, dtype: str) -> Expected:
    """What cast gives; out of an integer's range nothing is defined, so never ask."""
    with np.errstate(all="ignore"):
        if x.bound is None:
            value = (x.value != 0) if dtype == "bool" else x.value
            kept = dtype not in FLOATS or x.signed
            return Expected(dtype, value.astype(dtype_of(dtype)), None, kept)
        assert dtype in FLOATS, "a cast of an inexact value to a whole number"
        bound = x.bound + _ulp(x.value, x.bound, dtype)
        return _settled(x.value, bound, np.isinf(x.bound), dtype)


# Movement and reductions ---------------------------------------------------------


def moved(x: Expected, fn: Callable[[Array, Any], Array], fill: Any = 0) -> Expected:
    """The function of places applied to value and bound; `fill` is for new places."""
    value = fn(x.value, fill)
    return replace(x, value=value, bound=None if x.bound is None else fn(x.bound, 0))


def _picked(x: Array, shape: Sequence[int], places: Sequence[Array | None]) -> Array:
    """out[i0, i1, ..] = x[places[0], ..]; a place is an array over `shape`."""
    full = [np.broadcast_to(0 if p is None else p, shape) for p in places]
    return x[tuple(full)] if full else np.broadcast_to(x, shape).copy()


def _broadcast(x: Array, shape: Sequence[int], at: Sequence[int]) -> Array:
    grid = np.indices(shape)
    places = [None if x.shape[k] == 1 else grid[a] for k, a in enumerate(at)]
    return _picked(x, shape, places)


def _slice(
    x: Array, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]
) -> Array:
    for k, (start, size, step) in enumerate(zip(starts, sizes, steps)):
        x = np.take(x, start + step * np.arange(size), axis=k)
    return x


def _pad(
    x: Array, low: Sequence[int], high: Sequence[int], inner: Sequence[int], fill: Any
) -> Array:
    for k, (before, after, gap) in enumerate(zip(low, high, inner)):
        size = x.shape[k]
        span = size + max(size - 1, 0) * gap
        wide = list(x.shape)
        wide[k] = before + span + after
        out = np.empty(wide, x.dtype)
        out[...] = fill
        for j in range(size):
            to = (slice(None),) * k + (before + j * (gap + 1),)
            out[to] = np.take(x, j, axis=k)
        x = out
    return x


def reduced(name: str, x: Expected, axes: Sequence[int]) -> Expected:
    """What a reduction gives."""
    at = tuple(axes)
    if name == "reduce_sum":
        return _total(x, at)
    join = _larger if name == "reduce_max" else _smaller
    value = _folded(x.value, at, join, _bound_of(x.value.dtype, name == "reduce_max"))
    kept = x.dtype not in FLOATS or not at
    if x.bound is None:
        return Expected(x.dtype, value, None, kept and x.signed)
    bound = _folded(x.bound, at, np.maximum, Wide(0))
    return Expected(x.dtype, value, bound, signed=False)


def _bound_of(kind: Any, low: bool) -> Any:
    if kind.kind == "b":
        return not low
    if kind.kind == "f":
        return kind.type(-np.inf if low else np.inf)
    info = np.iinfo(kind)
    return info.min if low else info.max


def _folded(x: Array, axes: tuple[int, ...], join: Any, start: Any) -> Array:
    kept = [k for k in range(x.ndim) if k not in axes]
    rows = np.transpose(x, [*kept, *axes])
    shape = rows.shape[: len(kept)]
    flat = rows.reshape(*shape, math.prod(rows.shape[len(kept) :]))
    first = np.full((*shape, 1), start, x.dtype)
    while flat.shape[-1] > 1:
        half = flat.shape[-1] // 2
        both = join(flat[..., :half], flat[..., half : 2 * half])
        flat = np.concatenate([both, flat[..., 2 * half :]], axis=-1)
    total = join(flat, first) if flat.shape[-1] else first
    return np.asarray(total[..., 0], x.dtype)


def _total(x: Expected, axes: tuple[int, ...]) -> Expected:
    if x.dtype not in FLOATS:
        kind = dtype_of(x.dtype)
        with np.errstate(all="ignore"):
            exact = _folded(x.value, axes, np.add, kind.type(0))
        return Expected(x.dtype, exact)
    if not axes:
        value, bound = x.wide()
        return Expected(x.dtype, value, bound, signed=False)
    value, bound = x.wide()
    terms = math.prod(x.value.shape[k] for k in axes)
    in_line = min(terms, IN_LINE) if x.dtype == "float32" else terms
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(value), np.abs(value) + bound, 0).sum(axis=axes)
        info = np.finfo(dtype_of(x.dtype))
        error = bound.sum(axis=axes) + (in_line + 8) * Wide(info.eps) / 2 * size
        error = error + Wide(info.smallest_subnormal)
        doubt = np.isinf(bound).any(axis=axes) | (size > info.max)
        total = np.asarray(value.sum(axis=axes))
        return _settled(total, np.asarray(error), doubt, x.dtype)


def windowed(
    x: Array, window: Any, strides: Any, padding: Any, dilation: Any
) -> tuple[Array, Array]:
    """window_max by a walk over every window: (largest value, its flat index or -1)."""
    spans = [d * (k - 1) + 1 for k, d in zip(window, dilation)]
    shape = [
        (n + p[0] + p[1] - r) // s + 1
        for n, p, r, s in zip(x.shape, padding, spans, strides)
    ]
    best = np.full(shape, _bound_of(x.dtype, True), x.dtype)
    index = np.full(shape, -1, np.int64)
    for at in np.ndindex(*shape):
        for tap in np.ndindex(*window):
            place = tuple(
                a * s - p[0] + t * d
                for a, s, p, t, d in zip(at, strides, padding, tap, dilation)
            )
            if not all(0 <= p < n for p, n in zip(place, x.shape)):
                continue
            new, old = x[place], best[at]
            if old == old and (index[at] < 0 or new > old or new != new):
                best[at], index[at] = new, np.ravel_multi_index(place, x.shape)
    return best, index


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
        """reduce_sum, reduce_max or reduce_min; the axes are dropped."""
        value = getattr(self.b, name)(x.value, axes=tuple(axes))
        sizes = [s for k, s in enumerate(x.sizes) if k not in axes]
        exact = x.exact and not (name == "reduce_sum" and x.dtype in FLOATS)
        return self._item(
            value, sizes, exact, lambda env: reduced(name, x.at(env), axes)
        )

    def window_max(
        self, x: Item, window: Any, strides: Any, padding: Any, dilation: Any
    ) -> tuple[Item, Item]:
        """The largest value of each window, and its flat index."""
        given = {
            "window": tuple(window),
            "strides": tuple(strides),
            "padding": tuple(padding),
            "dilation": tuple(dilation),
        }
        values = self.b.window_max(x.value, **given)
        sizes = [
            (n + (p[0] + p[1]) - (d * (k - 1) + 1)) // s + 1
            for n, k, s, p, d in zip(x.sizes, window, strides, padding, dilation)
        ]

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


# Ways to run -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel of a graph: what it reads and writes, and its forms."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nest: Nest
    cpu: Kernel
    cuda: Kernel


def _nest(graph: Graph, name: str) -> Nest:
    nest = build_nest(graph)
    assert not isinstance(nest, Refusal), f"{nest}\n{graph}"
    return replace(nest, name=name)


def steps_of(graph: Graph, prefix: str = "k", whole: bool = False) -> list[Step]:
    """The graph's kernels: fused groups, or (`whole`) one for all if it can be."""
    if whole and not isinstance(build_nest(graph), Refusal):
        parts = [(graph, graph.inputs, graph.outputs)]
    else:
        groups = fuse(graph, fusible)[0].ops
        parts = [(g.body, g.operands, g.results) for g in groups]  # type: ignore[misc]
    found = []
    for k, (body, inputs, outputs) in enumerate(parts):
        nest = _nest(body, f"{prefix}{k}")
        found.append(
            Step(inputs, outputs, nest, cpu.schedule(nest), cuda.schedule(nest))
        )
    return found


PRELUDE = (HEADERS / "pirol_cuda.h").read_text()


def c_text(kernels: Sequence[Kernel]) -> str:
    """The C text of many kernels."""
    return "\n".join(render(k, CPU) for k in kernels)


def cuda_text(kernels: Sequence[Kernel]) -> str:
    """The CUDA text of many kernels, with the common head once."""
    return PRELUDE + "\n".join(render(k, CUDA).replace(PRELUDE, "") for k in kernels)


@functools.cache
def simulator(text: str, names: tuple[str, ...]) -> Simulator:
    """The simulator of a text, built once."""
    return Simulator(text, names)


Launch: TypeAlias = Callable[[Step, Sequence[Array], Sizes], list[Array]]


class Program:
    """Graphs built together: one C library and one simulator for all their kernels."""

    def __init__(self, graphs: Sequence[Graph], *, whole: bool = False) -> None:
        self.graphs = graphs
        self.steps = [steps_of(g, f"g{k}_", whole) for k, g in enumerate(graphs)]
        self.kernels = [s for steps in self.steps for s in steps]

    @functools.cached_property
    def library(self) -> str:
        """The path of the C kernels."""
        return str(build([c_text([s.cpu for s in self.kernels])])[0])

    @functools.cached_property
    def simulator(self) -> Simulator:
        """The CUDA kernels on the simulator."""
        names = tuple(s.nest.name for s in self.kernels)
        return simulator(cuda_text([s.cuda for s in self.kernels]), names)

    def run(self, number: int, arrays: Sequence[Array], launch: Launch) -> list[Array]:
        """The outputs of a graph, kernel by kernel."""
        graph = self.graphs[number]
        sizes = bind_symbols(graph, [a.shape for a in arrays])
        env: dict[Value, Array] = dict(zip(graph.inputs, arrays))
        for step in self.steps[number]:
            results = launch(step, [env[v] for v in step.inputs], sizes)
            env.update(zip(step.outputs, results))
        return [env[v] for v in graph.outputs]

    def nests(self, number: int, arrays: Sequence[Array]) -> list[Array]:
        """On NumPy, nest by nest, every access checked."""
        return self.run(
            number, arrays, lambda s, given, sizes: interpret_nest(s.nest, given, sizes)
        )

    def c(
        self, number: int, arrays: Sequence[Array], seed: int | None = 0
    ) -> list[Array]:
        """On the CPU; with a seed, random chunks must give the same bits."""
        rng = None if seed is None else np.random.default_rng(seed)

        def launch(step: Step, given: Sequence[Array], sizes: Sizes) -> list[Array]:
            address = load(self.library, step.nest.name)
            return launch_c(address, step.cpu, given, sizes, rng)

        return self.run(number, arrays, launch)

    def cuda(
        self, number: int, arrays: Sequence[Array], blocks: int = 3
    ) -> list[Array]:
        """On the CUDA simulator."""

        def launch(step: Step, given: Sequence[Array], sizes: Sizes) -> list[Array]:
            return launch_cuda(self.simulator, step.cuda, given, sizes, blocks)

        return self.run(number, arrays, launch)


def run_c(graph: Graph, arrays: Sequence[Array], seed: int | None = 0) -> list[Array]:
    """A graph's outputs by its C kernels."""
    return Program([graph]).c(0, arrays, seed)


def run_cuda(graph: Graph, arrays: Sequence[Array], blocks: int = 3) -> list[Array]:
    """A graph's outputs by its CUDA kernels on the simulator."""
    return Program([graph]).cuda(0, arrays, blocks)


def _outputs(kernel: Kernel, sizes: Sizes) -> list[tuple[tuple[int, ...], Any]]:
    return [
        (tuple(dims.evaluate(d, sizes) for d in t.shape), dtype_of(t.dtype))
        for t in kernel.outputs
    ]


def launch_cuda(
    built: Simulator,
    kernel: Kernel,
    inputs: Sequence[Array],
    sizes: Sizes,
    blocks: int = 3,
) -> list[Array]:
    """One CUDA kernel on the simulator; SimulatorError where it breaks a rule."""
    given = [ReadOnly(np.ascontiguousarray(x)) for x in inputs]
    outputs = [np.empty(shape, kind) for shape, kind in _outputs(kernel, sizes)]
    numbers = [dims.evaluate(d, sizes) for d in (*kernel.params, kernel.rows)]
    built.launch(
        kernel.name, (blocks, 1, 1), (kernel.block, 1, 1), [*given, *outputs, *numbers]
    )
    return outputs


POISON = 0xA5
MARGIN = 256  # bytes around each buffer that must stay as they are
_KERNEL = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_void_p,
)


class _Memory:
    """A buffer within poisoned memory, `shift` bytes off a multiple of 64."""

    def __init__(self, nbytes: int, shift: int = 0) -> None:
        self.all = np.full(nbytes + 2 * MARGIN + 128, POISON, np.uint8)
        base = self.all.ctypes.data + MARGIN
        start = -(-base // 64) * 64 + shift - self.all.ctypes.data
        self.bytes = self.all[start : start + nbytes]
        self.address = self.all.ctypes.data + start
        self.around = (self.all[:start], self.all[start + nbytes :])

    def intact(self) -> bool:
        return all(bool((part == POISON).all()) for part in self.around)


def launch_c(
    address: int,
    kernel: Kernel,
    inputs: Sequence[Array],
    sizes: Sizes,
    rng: Any = None,
) -> list[Array]:
    """One C kernel; AssertionError where it writes outside, too little, or twice.

    With `rng` the rows are also run in chunks, in any order and in buffers of another
    alignment, which must write disjoint parts of the same bits.
    """
    rows = dims.evaluate(kernel.rows, sizes)
    kinds = _outputs(kernel, sizes)
    whole, written = _run_rows(address, kernel, inputs, sizes, (0, rows), 0)
    for k, done in enumerate(written):
        assert done.all(), f"{kernel.name}: output {k} is not fully written"
    if rng is not None:
        cuts = sorted({0, rows, *(int(c) for c in rng.integers(0, rows + 1, 3))})
        spans = list(zip(cuts, cuts[1:]))
        rng.shuffle(spans)
        _check_chunks(address, kernel, inputs, sizes, [(a, b) for a, b in spans], whole)
    return [w.view(kind).reshape(shape) for w, (shape, kind) in zip(whole, kinds)]


def _check_chunks(
    address: int,
    kernel: Kernel,
    inputs: Sequence[Array],
    sizes: Sizes,
    spans: Sequence[tuple[int, int]],
    whole: Sequence[Array],
) -> None:
    kinds = [kind for _, kind in _outputs(kernel, sizes)]
    seen = [np.zeros(w.size // kind.itemsize, bool) for w, kind in zip(whole, kinds)]
    for span in spans:
        parts, written = _run_rows(address, kernel, inputs, sizes, span, 8)
        for k, (part, done) in enumerate(zip(parts, written)):
            what = f"{kernel.name}: output {k}, rows {span}"
            assert not (seen[k] & done).any(), f"{what} writes another chunk's part"
            seen[k] |= done
            a, b = (x.view(kinds[k])[done] for x in (part, whole[k]))
            assert same_bits(a, b), f"{what}: other bits than all rows at once"
    for k, done in enumerate(seen):
        assert done.all(), f"{kernel.name}: output {k} is not fully written by chunks"


def _run_rows(
    address: int,
    kernel: Kernel,
    inputs: Sequence[Array],
    sizes: Sizes,
    span: tuple[int, int],
    shift: int,
) -> tuple[list[Array], list[Array]]:
    """The outputs' bytes, and which elements were written, of the rows in `span`."""
    memories = []
    for x in inputs:
        memories.append(_Memory(x.nbytes, shift))
        memories[-1].bytes[:] = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    kinds = _outputs(kernel, sizes)
    outs = [_Memory(math.prod(s) * kind.itemsize, shift) for s, kind in kinds]
    scratch = _Memory(dims.evaluate(kernel.scratch, sizes))
    pointers = [m.address for m in (*memories, *outs)]
    buffers = (ctypes.c_void_p * max(len(pointers), 1))(*pointers)
    numbers = [dims.evaluate(d, sizes) for d in kernel.params]
    params = (ctypes.c_int64 * max(len(numbers), 1))(*numbers)
    _KERNEL(address)(
        ctypes.addressof(buffers), ctypes.addressof(params), *span, scratch.address
    )
    for memory in (*memories, *outs, scratch):
        assert memory.intact(), f"{kernel.name} writes outside its buffers"
    written = [
        (m.bytes.reshape(-1, kind.itemsize) != POISON).any(axis=1)
        for m, (_, kind) in zip(outs, kinds)
    ]
    return [m.bytes for m in outs], written


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
    "float": ("neg", "abs", "exp", "log", "sqrt", "rsqrt", "tanh", "erf", "floor"),
    "int": ("neg", "abs"),
    "bool": ("not",),
}
BINARY = {
    "float": ("add", "sub", "mul", "div", "max", "min"),
    "int": ("add", "sub", "mul", "max", "min", "and", "or"),
    "bool": ("and", "or", "max", "min"),
}


def class_of(dtype: str) -> str:
    """float, int or bool."""
    if dtype == "bool":
        return "bool"
    return "float" if dtype in FLOATS else "int"


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
        pair = [x, self.mate(x, x.dtype)]
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
        names += ["reduce_sum"] * (x.dtype != "bool")
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
            x = self.sketch.apply(self.one(BINARY[class_of(x.dtype)]), x, back)
            name = self.one(UNARY[class_of(x.dtype)])
            if x.exact or name not in UNSTABLE:
                x = self.sketch.apply(name, x)
            self.add(x)

    def window(self) -> None:
        x = self.pick(lambda i: 0 < i.rank <= 3 and i.exact and i.dtype != "bool")
        if x is None:
            return
        each = [self.one_window(s) for s in x.sizes]
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
    *("reduce", "rows", "rows", "window"),
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
