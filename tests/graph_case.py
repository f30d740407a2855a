"""A graph with its meaning: dims as Sizes, values as Items, a whole graph as a Case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from graph_meaning import WHOLE, Array, Expected, Sizes, check, dtype_of
from ml_dtypes import finfo

from pirol.compiler import dims
from pirol.compiler.ir import Graph, Value

# Dims and values -------------------------------------------------------------------


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


def dims_of(sizes: Sequence[Size]) -> tuple[Any, ...]:
    """The dims of the sizes."""
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
        found = dims.symbols_of(*(d for i in self.inputs for d in dims_of(i.sizes)))
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
        agree(self.expected(sizes, arrays), got, f"{who}, sizes {dict(sizes)}")


def agree(wanted: Sequence[Expected], got: Sequence[Array], what: str) -> None:
    """AssertionError where the outputs are not what they should be."""
    assert len(got) == len(wanted)
    for k, (have, want) in enumerate(zip(got, wanted)):
        check(have, want, f"{what}, output {k}")


# Data ------------------------------------------------------------------------------


def special_floats(dtype: str) -> Array:
    """NaN, infinities, zeros of both signs, the largest and smallest numbers."""
    info = finfo(dtype_of(dtype))
    tiny, least, top = info.tiny, info.smallest_subnormal, info.max
    found = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1, -1, tiny, -least, top, -top, 0.5]
    return np.array(found, dtype_of(dtype))


def special_ints(dtype: str) -> Array:
    """The ends of the range, and numbers around 0."""
    info = np.iinfo(dtype_of(dtype))
    found = [info.min, info.min + 1, info.max, 0, 1, -1, 2, -7]
    return np.array(found, np.int64).astype(dtype_of(dtype))


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
