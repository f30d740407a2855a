"""Random graphs: NumPy, the interpreter, nests, C and simulated CUDA all agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from cuda_simulator import has_compiler
from graph_case import Case, named, shape_of
from graph_runs import Program
from graph_sketch import Sketch
from graphs import cases, symbol_sizes, walk_sizes
from hypothesis import (
    HealthCheck,
    Phase,
    currently_in_test_context,
    given,
    note,
    settings,
)
from hypothesis import strategies as st

from pirol.compiler.interpreter import interpret
from pirol.compiler.verify import verify
from pirol.passes.canonicalize import canonicalize

SLOW_BUILDS = (HealthCheck.too_slow, HealthCheck.data_too_large)
OPTIONS: dict[str, Any] = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": SLOW_BUILDS,
}
# A graph is reported as it was drawn: to shrink five at once would take many builds.
BUILDS = {**OPTIONS, "phases": (Phase.explicit, Phase.reuse, Phase.generate)}
SEEDS = st.integers(0, 2**32 - 1)
needs_simulator = pytest.mark.skipif(not has_compiler(), reason="no g++")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: Any) -> Iterator[None]:
    """Kernels that will never be seen again do not go into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIROL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def tell(text: str) -> None:
    """Shown with a failing example."""
    if currently_in_test_context():
        note(text)


def check_interpreter(case: Case, drawn: Sequence[Any], seed: int, tame: bool) -> None:
    verify(case.graph, "flat")
    simple = canonicalize(case.graph)
    verify(simple, "flat")
    for sizes in walk_sizes(case, drawn):
        arrays = case.arrays(sizes, seed, special=not tame)
        case.check(sizes, arrays, interpret(case.graph, arrays), "interpreter")
        case.check(sizes, arrays, interpret(simple, arrays), "canonicalized")


def check_kernels(
    some: Sequence[Case], drawn: Sequence[Any], seed: int, tame: bool, whole: bool
) -> None:
    """One build of all the graphs, then each at several sizes."""
    program = Program([case.graph for case in some], whole=whole)
    for k, case in enumerate(some):
        for sizes in walk_sizes(case, drawn):
            tell(f"graph {k} at {sizes}, seed {seed}")
            arrays = case.arrays(sizes, seed, special=not tame)
            case.check(sizes, arrays, program.nests(k, arrays), "nests")
            case.check(sizes, arrays, program.c(k, arrays, seed), "C")
            case.check(sizes, arrays, program.cuda(k, arrays, seed % 4 + 1), "CUDA")


SIZES = st.lists(symbol_sizes(), min_size=2, max_size=3)


@settings(max_examples=150, **OPTIONS)
@given(cases(), SIZES, SEEDS, st.booleans())
def test_interpreter_is_numpy(
    case: Case, drawn: Sequence[Any], seed: int, tame: bool
) -> None:
    check_interpreter(case, drawn, seed, tame)


def batches(size: int) -> Any:
    """Graphs that are built together."""
    return st.lists(cases(), min_size=size, max_size=size)


@needs_simulator
@settings(max_examples=6, **BUILDS)
@given(batches(5), SIZES, SEEDS, st.booleans(), st.booleans())
def test_all_agree(
    some: Sequence[Case], drawn: Sequence[Any], seed: int, tame: bool, whole: bool
) -> None:
    check_kernels(some, drawn, seed, tame, whole)


def two_kept_arrays() -> Case:
    """Two costly values that two passes over a row of unknown length share."""
    s = Sketch()
    x = s.input(shape_of("m", "n"), "float32")
    kept = [s.apply(name, x) for name in ("tanh", "erf", "exp")]
    sums = [s.reduce("reduce_max", k, (1,)) for k in kept]
    back = [s.broadcast(t, x.sizes, (0,)) for t in sums]
    return s.case([s.apply("sub", k, t) for k, t in zip(kept, back)])


def both_zeros() -> Case:
    """0.0 and -0.0 are equal as numbers, and two constants."""
    s = Sketch()
    x = s.input(shape_of("n"), "float64")
    zeros = [s.const(zero, x.sizes, x.dtype) for zero in (0.0, -0.0)]
    low = s.apply("lt", x, zeros[0])
    return s.case([s.apply("select", low, *zeros), s.apply("mul", x, zeros[1])])


def row_level_work() -> Case:
    """A row's own values are stored though the row has no elements."""
    s = Sketch()
    x, y = s.input(shape_of("m", "n"), "int64"), s.input(shape_of("m"), "int64")
    total = s.apply("add", s.reduce("reduce_sum", x, (1,)), y)
    return s.case([total, s.apply("mul", x, s.broadcast(total, x.sizes, (0,)))])


def divisions() -> Case:
    """Views whose indices cannot be had without dividing by a symbol."""
    s = Sketch()
    n, m = named("n"), named("m")
    x = s.input([n, m], "int32")
    turned = s.reshape(s.transpose(s.reshape(x, [m, n]), (1, 0)), [n * m])
    part = s.slice(turned, [(n * m) // 2], [n * m - (n * m) // 2], (1,))
    ends = [n], [m]
    return s.case([s.pad(part, *ends, (1,), -1), s.concat([part, turned, part], 0)])


@pytest.mark.full
@needs_simulator
@pytest.mark.parametrize("whole", [False, True])
def test_known_graphs(whole: bool) -> None:
    some = [make() for make in (two_kept_arrays, both_zeros, row_level_work, divisions)]
    drawn = [
        {"n": n, "m": m} for n, m in ((0, 0), (0, 3), (2, 0), (1, 1), (5, 3), (70, 65))
    ]
    for tame in (False, True):
        check_kernels(some, drawn, 11, tame, whole)


@pytest.mark.slow
@settings(max_examples=3000, **OPTIONS)
@given(cases(most=12), SIZES, SEEDS, st.booleans())
def test_interpreter_is_numpy_for_long(
    case: Case, drawn: Sequence[Any], seed: int, tame: bool
) -> None:
    check_interpreter(case, drawn, seed, tame)


@pytest.mark.slow
@needs_simulator
@settings(max_examples=400, **BUILDS)
@given(batches(4), SIZES, SEEDS, st.booleans(), st.booleans())
def test_all_agree_for_long(
    some: Sequence[Case], drawn: Sequence[Any], seed: int, tame: bool, whole: bool
) -> None:
    check_kernels(some, drawn, seed, tame, whole)
