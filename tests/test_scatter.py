"""Sums, and what is put, at places that data name: kernels against NumPy."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import planted
import pytest
from cuda_simulator import Simulator, SimulatorError, has_compiler
from graph_case import sample
from graph_meaning import dtype_of
from graph_runs import cuda_text, launch_cuda, run_c, run_cuda, steps_of

from pirol.compiler.ir import Graph, TensorType
from pirol.kernels.cuda_rows import BLOCK, LANES
from pirol.kernels.lower import build_nest
from pirol.kernels.nest import Nest, interpret_nest
from pirol.kernels.show import show
from pirol.prim import PRIMS, Builder

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
DTYPES = ("float32", "float64", "int32", "int64", "uint8", "int8")
MOVED = (*DTYPES, "bool", "float16", "bfloat16")
SUMS = ((3, 700, 5), (2, 100, 1), (1, 1500, 130), (40, 70, 64), (2, 33, 3000))
REST = "rest &= ~(1u << 31 >> __clz((int)rest))"  # the last one done


def places(rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...], list[int]]:
    """Shapes of a result and of what goes there, and scatter_add's dims."""
    rank = rng.randint(1, 3)
    shape = tuple(rng.choice((0, 1, 2, 5, 33)) for _ in range(rank))
    kept = [k for k in range(rank) if rng.random() < 0.5]
    free = rng.randint(0, 2)
    sizes = [
        *(shape[k] for k in kept),
        *(rng.choice((0, 1, 4, 70)) for _ in range(free)),
    ]
    order = rng.sample(range(len(sizes)), len(sizes))
    given = tuple(sizes[k] for k in order)
    dims = [-1] * rank
    for place, k in enumerate(kept):
        dims[k] = order.index(place)
    return shape, given, dims


def drawn(rng: random.Random) -> tuple[Graph, list[Any], dict[str, Any]]:
    """A sum of a doubled operand at random places; its arrays, and its attributes."""
    dtype, (shape, given, dims) = rng.choice(DTYPES), places(rng)
    b = Builder()
    x = b.input(TensorType(given, dtype))
    indices = [b.input(TensorType(given, "int64")) for k in dims if k < 0]
    attrs = {"shape": shape, "dims": tuple(dims)}
    y = b.scatter_add(b.add(x, x), *indices, **attrs)
    data = np.random.default_rng(rng.randint(0, 1 << 30))
    arrays = [data.integers(-20, 20, given).astype(dtype_of(dtype))]
    if dtype.startswith("float"):
        arrays = [data.standard_normal(given).astype(dtype_of(dtype))]
    arrays += [data.integers(-3, 9, given) for _ in indices]
    return b.graph("f", [y]), arrays, attrs


@pytest.mark.parametrize("target", ["c", "cuda"])
@pytest.mark.parametrize(
    "seed",
    [*range(3), *(pytest.param(k, marks=pytest.mark.full) for k in range(3, 12))],
)
def test_sums_at_places(seed: int, target: str) -> None:
    for k in range(3):
        graph, arrays, attrs = drawn(random.Random(3 * seed + k))
        (got,) = (run_c if target == "c" else run_cuda)(graph, arrays)
        x, *indices = arrays
        with np.errstate(over="ignore"):
            want = PRIMS["scatter_add"].numpy(x + x, *indices, **attrs)
        assert got.dtype == want.dtype and got.shape == want.shape
        if want.dtype.kind == "f":
            exact = PRIMS["scatter_add"].numpy(
                2 * x.astype("longdouble"), *indices, **attrs
            )
            bound = (x.size + 2) * np.finfo(x.dtype).eps * np.abs(x).sum() * 2
            assert (np.abs(got - exact) <= bound).all()
        else:
            np.testing.assert_array_equal(got, want)


def put(rng: random.Random) -> tuple[Graph, list[Any], Any]:
    """Elements put over others at random places; its arrays, and what it gives."""
    dtype, (shape, given, dims) = rng.choice(MOVED), places(rng)
    b, data = Builder(), np.random.default_rng(rng.randint(0, 1 << 30))
    x, part = (b.input(TensorType(s, dtype)) for s in (shape, given))
    indices = [b.input(TensorType(given, "int64")) for k in dims if k < 0]
    graph = b.graph("f", [b.put(x, part, *indices, dims=tuple(dims))])
    arrays = [sample(data, s, dtype, True) for s in (shape, given)]
    lines = [data.integers(-3, 9, given) for _ in indices]
    wanted, rest = arrays[0].copy(), iter(lines)
    at = [np.indices(given)[k] if k >= 0 else next(rest) for k in dims]
    at = [np.clip(p, 0, n - 1) for p, n in zip(at, shape)]
    for k in np.ndindex(given if wanted.size else (0,)):
        wanted[tuple(p[k] for p in at)] = arrays[1][k]
    return graph, [*arrays, *lines], wanted


@pytest.mark.parametrize("target", ["c", "cuda"])
@pytest.mark.parametrize(
    "seed",
    [*range(4), *(pytest.param(k, marks=pytest.mark.full) for k in range(4, 16))],
)
def test_put_at_places(seed: int, target: str) -> None:
    for k in range(4):
        graph, arrays, wanted = put(random.Random(4 * seed + k))
        (got,) = (run_c if target == "c" else run_cuda)(graph, arrays)
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        assert got.tobytes() == wanted.tobytes()


def crowded() -> tuple[Graph, list[Any], Any]:
    """Many elements put at few places, which more than one block has; what it gives."""
    b, data = Builder(), np.random.default_rng(2)
    x = b.input(TensorType((9000, 2), "float32"))
    part = b.input(TensorType((600, 2), "float32"))
    at = b.input(TensorType((600,), "int64"))
    wide = b.broadcast(at, shape=(600, 2), dims=(0,))
    graph = b.graph("f", [b.put(x, b.neg(part), wide, dims=(-1, 1))])
    arrays = [data.standard_normal(v.shape).astype("f") for v in (x, part)]
    places = data.choice([0, 7, 4095, 4096, 8999], 600)
    wanted = arrays[0].copy()
    for k, place in enumerate(places):
        wanted[place] = -arrays[1][k]
    return graph, [*arrays, places], wanted


def test_blocks_put_the_last_at_each_place() -> None:
    graph, arrays, wanted = crowded()
    (step,) = steps_of(graph)
    assert step.cuda.team == BLOCK and step.cuda.rows == 2 * 3
    (got,) = run_cuda(graph, arrays)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    "old, new, found",
    [
        (r"atomicMax\(last \+ t, c\)", "last[t] = c", "race"),
        (r"\(last\[t\] == c\)", "(last[t] >= c)", "race|are wrong"),
        (r"\(last\[t\] == \(-1\)\)", "(true)", "race|are wrong"),
    ],
    ids=["not in turn", "more than the last", "over what is put"],
)
def test_faults_of_putting_are_found(old: str, new: str, found: str) -> None:
    graph, arrays, wanted = crowded()
    (step,) = steps_of(graph)
    source = planted.text(old, new)(cuda_text([step.cuda]))
    given = [arrays[graph.inputs.index(v)] for v in step.inputs]
    with pytest.raises((AssertionError, SimulatorError), match=found):
        made = Simulator(source, [step.cuda.name])
        (got,) = launch_cuda(made, step.cuda, given, {}, 2)
        assert (got == wanted).all(), "are wrong"


def summed(
    rows: int, terms: int, places: int, dtype: str = "float32"
) -> tuple[Graph, list[Any]]:
    """Many terms for each place, of sizes for which their order tells."""
    b, data = Builder(), np.random.default_rng(places)
    x = b.input(TensorType((rows, terms), dtype))
    at = b.input(TensorType((rows, terms), "int64"))
    y = b.scatter_add(b.neg(x), at, shape=(rows, places), dims=(0, -1))
    values = data.standard_normal((rows, terms)) * 10.0 ** data.integers(-3, 4)
    indices = data.integers(-1, places + 1, (rows, terms))  # some are clamped
    return b.graph("f", [y]), [values.astype(dtype), indices]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8"])
@pytest.mark.parametrize("sizes", SUMS)
def test_warps_add_in_order(sizes: tuple[int, int, int], dtype: str) -> None:
    """To the last bit as on the CPU, where one thread adds term by term."""
    graph, arrays = summed(*sizes, dtype)
    (step,) = steps_of(graph)
    assert step.cuda.team == LANES and step.cuda.rows >= sizes[0]
    (wanted,) = run_c(graph, arrays)
    for blocks in (1, 5):
        (got,) = run_cuda(graph, arrays, blocks)
        assert got.tobytes() == wanted.tobytes()


def test_so_many_rows_are_a_thread_each() -> None:
    (step,) = steps_of(summed(1 << 14, 3, 5)[0])
    assert step.cuda.team == 1


@pytest.mark.parametrize(
    "old, new, found",
    [
        (r"__ffs\(\(int\)rest\) - 1", "31 - __clz((int)rest)", "are wrong"),
        (r"if \(at % 32 == threadIdx.x % 32\)", "", "race|are wrong"),
        (r"sums\[[^]]*\] = 0.0f;", ";", "uninit|never written|are wrong"),
        (r"p < \(128\)", "p < (127)", "never written|are wrong"),
    ],
    ids=["from the last", "by all lanes", "what was there", "a place left out"],
)
def test_faults_of_adding_are_found(old: str, new: str, found: str) -> None:
    graph, arrays = summed(2, 300, 128)
    (step,) = steps_of(graph)
    (wanted,) = run_c(graph, arrays)
    source = planted.text(old, new)(cuda_text([step.cuda]))
    source = source.replace("rest &= rest - 1", REST) if "clz" in new else source
    given = [arrays[graph.inputs.index(v)] for v in step.inputs]
    with pytest.raises((AssertionError, SimulatorError), match=found):
        made = Simulator(source, [step.cuda.name])
        (got,) = launch_cuda(made, step.cuda, given, {}, 2)
        assert got.tobytes() == wanted.tobytes(), "are wrong"


@pytest.mark.parametrize("seed", range(8))
def test_nest_means_the_same(seed: int) -> None:
    graph, arrays, attrs = drawn(random.Random(100 + seed))
    arrays = [np.abs(a) if k == 0 else a for k, a in enumerate(arrays)]
    nest = build_nest(graph)
    assert isinstance(nest, Nest) and "+=" in show(nest)
    (got,) = interpret_nest(nest, arrays, {})
    want = PRIMS["scatter_add"].numpy(arrays[0] + arrays[0], *arrays[1:], **attrs)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def rows(dtype: str = "float32") -> tuple[Graph, list[Any]]:
    b = Builder()
    x, at = b.input(TensorType((9, 40), dtype)), b.input(TensorType((9,), "int64"))
    wide = b.broadcast(at, shape=(9, 40), dims=(0,))
    y = b.scatter_add(x, wide, shape=(5, 40), dims=(-1, 1))
    arrays = [np.ones((9, 40), dtype), np.array([0, 1, 1, 3, 3, 3, 0, 1, 3])]
    return b.graph("f", [y]), arrays


def test_rows_that_nothing_is_added_to_are_zero() -> None:
    graph, arrays = rows()
    (got,) = run_c(graph, arrays)
    np.testing.assert_array_equal(got[:, 0], [2, 3, 0, 4, 0])
    np.testing.assert_array_equal(got, np.repeat(got[:, :1], 40, 1))


def test_put_means_the_same_of_any_layout() -> None:
    """NumPy's arrays may lie column by column, as products do."""
    x, at = np.zeros((3, 4), "int64", order="F"), np.array([[1], [2], [0]])
    put = PRIMS["put"].numpy
    found = put(x, np.array([[7], [8], [9]]), at, dims=(0, -1))
    np.testing.assert_array_equal(found, [[0, 7, 0, 0], [0, 0, 8, 0], [9, 0, 0, 0]])


def test_what_follows_is_another_kernel() -> None:
    b = Builder()
    x, at = b.input(TensorType((9,), "float32")), b.input(TensorType((9,), "int64"))
    y = b.scatter_add(b.exp(x), at, shape=(5,), dims=(-1,))
    graph = b.graph("f", [b.mul(y, y)])
    steps = steps_of(graph)
    assert [len(s.body.ops) for s in steps] == [2, 1]
    arrays = [np.arange(9, dtype="float32") / 9, np.arange(9) % 3]
    (got,) = run_c(graph, arrays)
    sums = np.bincount(arrays[1], np.exp(arrays[0].astype("float64")), 5)
    np.testing.assert_allclose(got, sums**2, rtol=1e-6)


def test_what_a_sum_decides_is_another_kernel() -> None:
    b = Builder()
    x, at = b.input(TensorType((9,), "float32")), b.input(TensorType((9,), "int64"))
    share = b.div(x, b.broadcast(b.reduce_sum(x, axes=(0,)), dims=(), shape=(9,)))
    found = b.scatter_add(share, at, shape=(4,), dims=[-1])
    assert str(build_nest(b.graph("shares", [found]))).startswith("domains differ")
