"""Small programs of one kernel each, which the cost model's figures are measured with.

They are made for this and are no program's; their data stay in the nearest cache, but
for `far`, which tell how fast memory is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pirol.compiler.ir import FLOATS, Graph, TensorType, Value
from pirol.prim import Builder

NEAR = 1024  # elements
FOOTPRINTS = tuple(1 << k for k in range(15, 27))  # bytes that memory is measured with
PAIRS = ("div", "pow", "atan2", "hypot", "fmod", "log_hypot")
FUNCTIONS = (
    *("exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "log1p", "expm1", "sin"),
    *("cos", "log2", "log10", "tan", "atan", "sinh", "cosh", "asinh", "floor", "abs"),
    *PAIRS,
)
Kind = tuple[tuple[int, ...], str]  # of an input: shape and dtype
Make = Callable[..., Any]  # given a Builder and the inputs


@dataclass(frozen=True)
class Micro:
    """A small program."""

    name: str
    graph: Graph

    def inputs(self) -> list[Any]:
        """Numbers between 0.5 and 1, or from 1 to 3."""
        rng = np.random.default_rng(0)
        return [_numbers(rng, v.type) for v in self.graph.inputs]


def _numbers(rng: np.random.Generator, kind: TensorType) -> Any:
    if kind.dtype in FLOATS:
        return rng.uniform(0.5, 1.0, kind.shape).astype(kind.dtype)
    return rng.integers(0 if kind.dtype == "bool" else 1, 4, kind.shape).astype(
        kind.dtype
    )


def micro(name: str, make: Make, *kinds: Kind) -> Micro:
    """The program that `make` builds of inputs."""
    b = Builder()
    inputs = [b.input(TensorType(*kind)) for kind in kinds]
    return Micro(name, b.graph("micro", [make(b, *inputs)]))


def called(name: str, **attrs: Any) -> Make:
    """A primitive by itself."""
    return lambda b, *xs: getattr(b, name)(*xs, **attrs)


def near() -> Iterator[Micro]:
    """Those whose data stay in the nearest cache."""
    for n in (16, 64, 256):
        yield micro(f"start {n}", called("neg"), ((n,), "float32"))
    for dtype in ("float32", "float64"):
        line = ((NEAR,), dtype)
        yield from _arithmetic(dtype, line)
        yield from _rows(dtype)
        yield from _places(dtype, line)
        yield from _products(dtype)
        for name in FUNCTIONS:
            kinds = [line] * (2 if name in PAIRS else 1)
            yield micro(f"{name} {dtype}", called(name), *kinds)
    for dtype in ("int32", "int64", "bool", "uint8"):
        line = ((NEAR,), dtype)
        yield micro(f"and {dtype}", _folded("and_"), *[line] * 3)
        yield micro(f"wide {dtype}", called("cast", dtype="float32"), line)
    for dtype in ("int32", "int64"):
        for name in ("add", "mul", "min", "shift_left", "xor", "rem"):
            yield micro(f"{name} {dtype}", _folded(name), *[((NEAR,), dtype)] * 2)
        yield micro(f"select {dtype}", _select, *[((NEAR,), dtype)] * 2)


def copy(size: int) -> Micro:
    """A program that reads and writes so many bytes, half of them each."""
    return micro(f"copy {size}", called("neg"), ((size // 8,), "float32"))


def far(size: int) -> tuple[Micro, Micro]:
    """Such a program, and one that only reads so many."""
    total, rows = called("reduce_sum", axes=(1,)), (size // 4096, 1024)
    return copy(size), micro(f"sum {size}", total, (rows, "float32"))


def _arithmetic(dtype: str, line: Kind) -> Iterator[Micro]:
    yield micro(f"neg {dtype}", called("neg"), line)
    for count in (2, 3, 5):
        yield micro(f"add {count} {dtype}", _folded("add"), *[line] * count)
    yield micro(f"chain {dtype}", _chain, line, line)
    yield micro(f"select {dtype}", _select, line, line)
    for other in ("float32", "float64", "int32", "int64", "float16", "bool"):
        if other != dtype:
            to, back = called("cast", dtype=other), called("cast", dtype=dtype)
            yield micro(f"cast {dtype} to {other}", to, line)
            yield micro(f"cast {other} to {dtype}", back, ((NEAR,), other))


def _folded(name: str) -> Make:
    def make(b: Builder, first: Value, *rest: Value) -> Value:
        for x in rest:
            first = getattr(b, name)(first, x)
        return first

    return make


def _chain(b: Builder, x: Value, y: Value) -> Any:
    for _ in range(12):
        x = b.add(b.mul(x, y), y)
    return x


def _select(b: Builder, x: Value, y: Value) -> Any:
    return b.select(b.lt(x, y), b.mul(x, y), x)


def _rows(dtype: str) -> Iterator[Micro]:
    for shape in ((64, 32), (16, 64), (4, 256), (8, 100), (256, 4)):
        kind, size = (shape, dtype), "x".join(map(str, shape))
        for name in ("reduce_sum", "reduce_max"):
            for axes in ((0,), (1,)):
                label = f"{name} {size} {axes[0]} {dtype}"
                yield micro(label, called(name, axes=axes), kind)
        yield micro(f"shares {size} {dtype}", partial(_shares, shape=shape), kind)


def _shares(b: Builder, x: Value, shape: tuple[int, ...]) -> Any:
    """Of each row's sum: two passes over it."""
    total = b.reduce_sum(x, axes=(1,))
    return b.mul(x, b.broadcast(total, shape=shape, dims=(0,)))


def _places(dtype: str, line: Kind) -> Iterator[Micro]:
    for side in (16, 32):
        turned = called("transpose", perm=(1, 0))
        yield micro(f"turn {side} {dtype}", turned, ((side, side), dtype))

    def strided(b: Builder, x: Value) -> Any:
        return b.neg(b.slice(x, starts=(0,), sizes=(NEAR // 4,), steps=(4,)))

    yield micro(f"strided {dtype}", strided, line)
    taken = called("gather", shape=(NEAR,), dims=(-1,))
    yield micro(f"taken {dtype}", taken, ((256,), dtype), ((NEAR,), "int64"))


def _products(dtype: str) -> Iterator[Micro]:
    product = called("dot_general", x_batch=(), y_batch=(), x_sum=(1,), y_sum=(0,))
    for m, n, k in ((32, 64, 32), (16, 128, 32), (8, 256, 16), (64, 32, 16)):
        kinds = ((m, k), dtype), ((k, n), dtype)
        yield micro(f"dot {m}x{n}x{k} {dtype}", product, *kinds)
