"""Primitives on complex numbers, split into parts: against NumPy's complex numbers, by
the interpreter, the C kernels and the CUDA simulator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import Program
from hypothesis import given, settings
from hypothesis import strategies as st
from vjp_checks import check_both_orders
from vjp_samples import of_complex, parts_of

from pirol.compiler.dims import symbol
from pirol.compiler.errors import Unsupported
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import COMPLEX, Graph, TensorType, Value
from pirol.compiler.verify import verify
from pirol.kernels import cpu
from pirol.passes.canonicalize import canonicalize
from pirol.passes.complex_functions import ANALYTIC
from pirol.passes.complex_parts import complex_parts
from pirol.prim import Builder

Build = Callable[..., Any]
ENDS = (0.0, -0.0, 1.0, -1.0, 0.5, -2.0, np.inf, -np.inf, np.nan)


def graph_of(build: Build, *kinds: TensorType) -> Graph:
    b = Builder()
    found = build(b, *map(b.input, kinds))
    return b.graph("f", found if isinstance(found, list) else [found])


def split(graph: Graph) -> Graph:
    """As kernels have it; no primitive but three knows of complex numbers."""
    verify(graph, "flat")
    parts = canonicalize(complex_parts(graph))
    verify(parts, "flat")
    for op in parts.ops:
        kinds = {v.dtype for v in (*op.operands, *op.results)}
        assert kinds.isdisjoint(COMPLEX) or op.name in ("real", "imag", "complex")
    return parts


def numbers(shape: Sequence[int], dtype: str, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(2, *shape)) * 2
    return (parts[0] + 1j * parts[1]).astype(dtype)


def close(got: Any, wanted: Any, dtype: str, what: str, ulps: float = 64) -> None:
    """Within rounding errors of the number's size, and so much of 1."""
    assert got.shape == wanted.shape, what
    kind = np.finfo(dtype).eps
    with np.errstate(all="ignore"):
        error = np.abs(got - wanted)
        bound = ulps * kind * (np.abs(wanted) + 0.25)
    assert (error <= bound).all(), f"{what}: {error.max()} at {wanted[error > bound]}"


# Functions at hard points -------------------------------------------------------


def at_ends(name: str) -> tuple[Any, Any, Any]:
    z = np.array([complex(a, c) for a in ENDS for c in ENDS])
    graph = graph_of(
        lambda b, x: getattr(b, name)(x), TensorType(z.shape, "complex128")
    )
    (got,), (wanted,) = (interpret(g, [z]) for g in (split(graph), graph))
    return z, got, wanted


@pytest.mark.parametrize("name", [*ANALYTIC, "neg", "conj"])
def test_zeros_cuts_and_infinities(name: str) -> None:
    """As NumPy: values, the sides of branch cuts and the signs of zeros at all finite
    points; at infinite ones whatever Pirol has a number for (NaN is its "unknown")."""
    z, got, wanted = at_ends(name)
    finite = np.isfinite(z)
    for part in ("real", "imag"):
        a, c = getattr(got, part), getattr(wanted, part)
        where = finite & ~np.isnan(c)
        np.testing.assert_allclose(a[where], c[where], rtol=1e-13, atol=1e-15)
        assert (np.signbit(a) == np.signbit(c))[where & (c == 0)].all(), z[where]
        told = np.isinf(z) & ~np.isnan(z.real) & ~np.isnan(z.imag)
        told &= ~np.isnan(a) & ~np.isnan(c)
        np.testing.assert_allclose(a[told], c[told], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "tanh", "asin", "acos"])
def test_infinite_numbers_have_values(name: str) -> None:
    """Where a part is infinite, and the other finite, no NaN but where NumPy has it."""
    z, got, wanted = at_ends(name)
    one = np.isfinite(z.real) ^ np.isfinite(z.imag)
    one &= ~np.isnan(z) & (z.real != 0) & (z.imag != 0)
    for part in ("real", "imag"):
        a, c = getattr(got, part)[one], getattr(wanted, part)[one]
        assert (np.isnan(a) <= np.isnan(c)).all(), z[one]


def test_division_does_not_overflow() -> None:
    x = np.array([1e300 + 1e300j, 1e-300j, 3 - 4j, 1 + 1j, 0j, 2 + 0j, -1j])
    y = np.array([1e300 - 1e300j, 1e-300 + 1e-300j, 5j, 0j, 0j, np.inf, 1e308 + 1j])
    kind = TensorType(x.shape, "complex128")
    graph = graph_of(lambda b, x, y: b.div(x, y), kind, kind)
    (got,), (wanted,) = (interpret(g, [x, y]) for g in (split(graph), graph))
    np.testing.assert_allclose(got[:3], [1j, 0.5 + 0.5j, -0.8 - 0.6j], rtol=1e-15)
    np.testing.assert_allclose(got.view(float), wanted.view(float), rtol=1e-15)


def test_logarithms_near_one() -> None:
    z = np.array([1 + 1e-9j, 1 - 2**-40 + 1e-7j, 0.6 + 0.8j, 1e200 + 1e200j, 1e-300j])
    graph = graph_of(lambda b, x: b.log(x), TensorType(z.shape, "complex128"))
    (got,) = interpret(split(graph), [z])
    exact = [5e-19, 5e-15 - 2**-40, 0.0, 460.86359221, -690.7755279]
    np.testing.assert_allclose(got.real[[0, 3, 4]], np.take(exact, [0, 3, 4]))
    np.testing.assert_allclose(got.real[1:3], exact[1:3], rtol=1e-9, atol=1e-16)


# Kernels ------------------------------------------------------------------------


def functions(b: Builder, x: Value, y: Value) -> list[Value]:
    return [getattr(b, name)(x) for name in sorted(ANALYTIC)]


def arithmetic(b: Builder, x: Value, y: Value) -> list[Value]:
    real = b.cast(b.real(y), dtype=x.dtype)
    return [
        *(b.add(x, y), b.sub(x, y), b.mul(x, y), b.div(x, y), b.pow(x, y)),
        *(b.neg(x), b.conj(x), b.mul(x, 2.0), b.mul(x, 3j), b.sub(1.0, x)),
        *(b.mul(x, real), b.add(real, x), b.sub(real, x), b.div(real, x)),
        *(b.div(x, real), b.pow(x, real), b.exp(real), b.eq(x, y), b.ne(x, x)),
        b.select(b.lt(b.real(x), 0.0), x, y),
        b.hypot(b.real(x), b.imag(x)),
        b.cast(x, dtype="complex128"),
        b.cast(x, dtype="bool"),
        b.cast(x, dtype="float64"),
    ]


def movement(b: Builder, x: Value, y: Value) -> list[Value]:
    n, m = x.shape
    index = b.iota(axis=0, shape=(3, m), dtype="int64")
    return [
        b.transpose(b.mul(x, y), perm=(1, 0)),
        b.reshape(x, shape=(m, n)),
        b.reverse(x, axes=(1,)),
        b.slice(x, starts=(0, 1), sizes=(n, m - 1), steps=(1, 1)),
        b.pad(x, low=(1, 0), high=(0, 2), interior=(1, 0), value=2 - 1j),
        b.concat(x, b.mul(y, y), axis=1),
        b.broadcast(x, shape=(2, n, m), dims=(1, 2)),
        b.gather(x, index, shape=(3, m), dims=(-1, 1)),
        b.scatter_add(x, b.iota(axis=1, shape=(n, m), dtype="int64"),
                      shape=(n, 4), dims=(0, -1)),
        b.put(x, y, b.iota(axis=1, shape=(n, m), dtype="int64"), dims=(-1, 1)),
        b.put(b.mul(x, y), y, b.iota(axis=0, shape=(n, m), dtype="int64"),
              dims=(0, -1)),
        b.put(b.const(value=1j, shape=(n, m), dtype=x.dtype), x,
              b.iota(axis=0, shape=(n, m), dtype="int64"), dims=(0, -1)),
    ]  # fmt: skip


def reductions(b: Builder, x: Value, y: Value) -> list[Value]:
    norm = b.sqrt(b.reduce_sum(b.mul(b.real(x), b.real(x)), axes=(1,)))
    return [
        b.reduce_sum(x, axes=(1,)),
        b.reduce_sum(x, axes=(0,)),
        b.reduce_sum(b.mul(x, y), axes=(0, 1)),
        b.cumsum(x, axis=1),
        norm,
        b.cumprod(b.slice(x, starts=(0, 0), sizes=(x.shape[0], 5), steps=(1, 1)),
                  axis=1),
        b.reduce_prod(b.slice(x, starts=(0, 0), sizes=(x.shape[0], 5), steps=(1, 1)),
                      axes=(1,)),
    ]  # fmt: skip


def products(b: Builder, x: Value, y: Value) -> list[Value]:
    at = {"x_batch": (), "y_batch": (), "x_sum": (1,), "y_sum": (1,)}
    real = b.cast(b.real(y), dtype=x.dtype)
    found = b.dot_general(x, y, **at)
    image = b.reshape(x, shape=(1, *x.shape))
    weights = b.slice(y, starts=(0, 0), sizes=(y.shape[0], 3), steps=(1, 1))
    weights = b.reshape(weights, shape=(1, y.shape[0], 3))
    window = {"strides": (2,), "padding": ((1, 0),), "dilation": (1,), "groups": 1}
    return [
        b.tanh(found),
        b.dot_general(real, x, **at),
        b.dot_general(b.conj(x), x, **at),
        b.conv(image, weights, **window),
    ]


FAMILIES = (functions, arithmetic, movement, reductions, products)
SIZES = ((3, 7), (1, 33), (5, 16), (2, 6))


@functools.cache
def program(family: Build, dtype: str) -> tuple[Graph, Program]:
    """The family for any sizes of the rows; columns are so many that lanes and rests
    of them occur."""
    kind = TensorType((symbol("n"), 37), dtype)
    graph = graph_of(family, kind, kind)
    return graph, Program([split(graph)])


def check_kernels(family: Build, dtype: str, run: str) -> None:
    graph, built = program(family, dtype)
    for seed, n in enumerate((1, 4, 19)):
        x, y = (numbers((n, 37), dtype, 2 * seed + k) for k in (0, 1))
        got = getattr(built, run)(0, [x, y])
        wanted = interpret(graph, [x.astype("complex128"), y.astype("complex128")])
        rough = 2000 if family in (products, reductions) else 64
        for k, (a, c) in enumerate(zip(got, wanted)):
            if a.dtype == bool:
                np.testing.assert_array_equal(a, c)
            else:
                close(a, c, dtype, f"{family.__name__} {k}", rough)


@pytest.mark.full
@pytest.mark.parametrize("family", FAMILIES)
def test_nests(family: Build) -> None:
    check_kernels(family, "complex128", "nests")


SLOW = pytest.param(functions, marks=pytest.mark.full)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("family", [SLOW, *FAMILIES[1:]])
def test_c(family: Build, dtype: str) -> None:
    check_kernels(family, dtype, "c")


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cuda(family: Build, dtype: str) -> None:
    check_kernels(family, dtype, "cuda")


@pytest.mark.full
@pytest.mark.parametrize("run", ["c", "nests"])
def test_kernels_at_hard_points(run: str) -> None:
    """The C functions give what the split graph gives on NumPy, NaN and all."""
    graph, built = program(functions, "complex128")
    ends = np.array([complex(a, c) for a in ENDS for c in ENDS])
    x = np.resize(ends, (3, 37))
    got = getattr(built, run)(0, [x, x])
    for k, (a, c) in enumerate(zip(got, interpret(split(graph), [x, x]))):
        same = np.isclose(a.view(float), c.view(float), 1e-12, 1e-14, equal_nan=True)
        same |= np.repeat(np.isnan(x), 2, axis=1)  # NaN has a sign, which none promises
        assert same.all(), (sorted(ANALYTIC)[k], x.view(float)[~same])


def every_other() -> None:
    """sin of every other number, in chunks of any size: always the same bits."""
    kind = TensorType((symbol("n"), 2), "float32")
    take = {"starts": (0, 1), "sizes": (symbol("n"), 1), "steps": (1, 1)}
    graph = graph_of(lambda b, x: b.sin(b.slice(x, **take)), kind)
    built = Program([graph])
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(2500, 2)).astype("float32")
        (got,) = built.c(0, [x], seed)
        np.testing.assert_allclose(got, np.sin(x[:, 1:]), rtol=1e-6)


def test_every_other_element(monkeypatch: pytest.MonkeyPatch) -> None:
    every_other()
    monkeypatch.setattr(cpu, "with_gaps", lambda nest, lane: [])
    with pytest.raises(AssertionError, match="other bits"):
        every_other()


def test_an_element_of_each_row_that_data_name() -> None:
    """Gaps, and places that are computed first."""
    n = symbol("n")
    kind, places = TensorType((n, 17), "float32"), TensorType((n,), "int64")
    b = Builder()
    x, at = b.input(kind), b.input(places)
    found = b.exp(b.gather(x, at, shape=(n,), dims=(0, -1)))
    built = Program([b.graph("f", [found])])
    values = np.random.default_rng(0).normal(size=(1000, 17)).astype("float32")
    chosen = np.arange(1000) * 7 % 17
    (got,) = built.c(0, [values, chosen], 0)
    np.testing.assert_allclose(got, np.exp(values[np.arange(1000), chosen]), rtol=1e-6)


def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ANALYTIC["exp"]

    def wrong(b: Builder, x: Any) -> Any:
        real, imag = right(b, x)
        return real, b.neg(imag)

    monkeypatch.setitem(ANALYTIC, "exp", wrong)
    with pytest.raises(AssertionError):
        test_zeros_cuts_and_infinities("exp")


def test_what_has_no_order_is_refused() -> None:
    kind = TensorType((3,), "complex64")
    b = Builder()
    x = b.input(kind)
    window = b.op("window_sum", [x], [kind], {})
    with pytest.raises(Unsupported, match="window_sum of complex numbers"):
        complex_parts(b.graph("f", [window.result]))


# Random graphs ------------------------------------------------------------------

UNARY = ("neg", "conj", "exp", "sin", "tanh", "sqrt", "log", "atan", "sigmoid")
BINARY = ("add", "sub", "mul", "div")


@st.composite
def graphs(draw: Any) -> tuple[Graph, list[Any]]:
    """A few values, each of those before: functions, products, moves and sums."""
    shape = (draw(st.sampled_from([1, 2, 5])), draw(st.sampled_from([0, 1, 3, 17])))
    b, kind = Builder(), TensorType(shape, "complex128")
    inputs = [b.input(kind), b.input(TensorType(shape, "float64"))]
    values = [inputs[0], b.cast(inputs[1], dtype="complex128")]
    for _ in range(draw(st.integers(1, 8))):
        x, y = (draw(st.sampled_from(values)) for _ in range(2))
        match draw(st.integers(0, 5)):
            case 0:
                made = getattr(b, draw(st.sampled_from(UNARY)))(x)
            case 1 | 2:
                made = getattr(b, draw(st.sampled_from(BINARY)))(x, y)
            case 3:
                made = b.reverse(x, axes=(draw(st.integers(0, 1)),))
            case 4:
                made = b.select(b.lt(b.real(x), b.imag(y)), x, y)
            case _:
                axis = draw(st.integers(0, 1))
                total = b.reduce_sum(x, axes=(axis,))
                made = b.broadcast(total, shape=shape, dims=(1 - axis,))
        values.append(made)
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    real = rng.normal(size=shape)
    whole = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    return b.graph("f", [values[-1], *values[-3:-1]]), [whole, real]


@pytest.mark.full
@settings(max_examples=60, deadline=None)
@given(graphs())
def test_random_graphs_on_nests(case: tuple[Graph, list[Any]]) -> None:
    graph, arrays = case
    with np.errstate(all="ignore"):
        wanted = interpret(graph, arrays)
        moved = interpret(graph, [a * (1 + 1e-12) for a in arrays])
        got = Program([split(graph)]).nests(0, arrays)
        for a, c, near in zip(got, wanted, moved):
            known = np.isfinite(c) & np.isfinite(near)
            slack = 1e-10 * (1 + np.abs(c)) + 1e3 * np.abs(c - near)
            assert (np.abs(a - c) <= slack)[known].all()


# Gradients ----------------------------------------------------------------------

SMALL = ("asin", "acos", "acosh", "atanh", "atan", "tan", "log1p", "expm1")


@pytest.mark.parametrize("name", [*ANALYTIC, "neg"])
def test_gradients_of_functions(name: str) -> None:
    """To second order, against differences of NumPy's functions."""

    def build(b: Builder, z: Value) -> Any:
        return parts_of(b, getattr(b, name)(b.add(z, 0.3 + 0.2j)))

    for sample in of_complex(build, ((7,), (2, 3))):
        rng = np.random.default_rng(3)
        arrays = [rng.uniform(0.1, 0.6, k.shape) for k in sample.kinds]
        arrays[1] *= -1 if name == "atan" else 1
        check_both_orders(sample.graph(), arrays, "normal")


PAIRS: dict[str, Build] = {
    "mul": lambda b, x, y: b.mul(x, y),
    "div": lambda b, x, y: b.div(x, y),
    "pow": lambda b, x, y: b.pow(x, y),
    "add": lambda b, x, y: b.add(x, b.conj(y)),
    "sum": lambda b, x, y: b.reduce_sum(b.mul(x, y), axes=(0,)),
    "prod": lambda b, x, y: b.reduce_prod(b.add(x, y), axes=(0,)),
    "cumsum": lambda b, x, y: b.mul(b.cumsum(x, axis=0), y),
    "cumprod": lambda b, x, y: b.cumprod(b.add(x, y), axis=0),
    "put": lambda b, x, y: b.mul(
        b.put(
            x, b.mul(y, y), b.const(value=2, shape=x.shape, dtype="int64"), dims=(-1,)
        ),
        y,
    ),
    "dot": lambda b, x, y: b.dot_general(
        x, y, x_batch=(), y_batch=(), x_sum=(0,), y_sum=(0,)
    ),
    "size": lambda b, x, y: b.mul(
        b.cast(b.hypot(b.real(x), b.imag(x)), dtype=y.dtype), y
    ),
    "pad": lambda b, x, y: b.mul(
        b.pad(x, low=(1,), high=(1,), interior=(0,), value=1j), 2j
    ),
    "select": lambda b, x, y: b.select(b.lt(b.real(x), b.real(y)), b.mul(x, x), y),
    "concat": lambda b, x, y: b.exp(b.concat(x, y, axis=0)),
    "part": lambda b, x, y: b.mul(b.cast(b.cast(x, dtype="float64"), dtype=x.dtype), y),
}


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_of_pairs(name: str) -> None:
    """A part may be the variable of a real function: dL/dx + j dL/dy is asked for."""

    def build(b: Builder, z: Value) -> Any:
        other = b.add(b.conj(b.mul(z, 0.7 - 0.4j)), 1.1)
        return parts_of(b, PAIRS[name](b, z, other))

    for sample in of_complex(build, ((5,),)):
        rng = np.random.default_rng(4)
        arrays = [rng.uniform(0.4, 1.5, k.shape) for k in sample.kinds]
        check_both_orders(sample.graph(), arrays, "normal")
