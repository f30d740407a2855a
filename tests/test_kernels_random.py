"""Random graphs: NumPy, the interpreter, nests, C and simulated CUDA all agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from cuda_simulator import has_compiler
from graphs import Case, Program, cases, symbol_sizes, walk_sizes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pirol.compiler.interpreter import interpret
from pirol.compiler.verify import verify
from pirol.passes.canonicalize import canonicalize

SLOW_BUILDS = (HealthCheck.too_slow, HealthCheck.data_too_large)
OPTIONS = {"deadline": None, "print_blob": True, "suppress_health_check": SLOW_BUILDS}
SEEDS = st.integers(0, 2**32 - 1)
needs_simulator = pytest.mark.skipif(not has_compiler(), reason="no g++")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: Any) -> Iterator[None]:
    """Kernels that will never be seen again do not go into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIROL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


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
@settings(max_examples=6, **OPTIONS)
@given(batches(5), SIZES, SEEDS, st.booleans(), st.booleans())
def test_all_agree(
    some: Sequence[Case], drawn: Sequence[Any], seed: int, tame: bool, whole: bool
) -> None:
    check_kernels(some, drawn, seed, tame, whole)


@pytest.mark.slow
@settings(max_examples=3000, **OPTIONS)
@given(cases(most=12), SIZES, SEEDS, st.booleans())
def test_interpreter_is_numpy_for_long(
    case: Case, drawn: Sequence[Any], seed: int, tame: bool
) -> None:
    check_interpreter(case, drawn, seed, tame)


@pytest.mark.slow
@needs_simulator
@settings(max_examples=400, **OPTIONS)
@given(batches(4), SIZES, SEEDS, st.booleans(), st.booleans())
def test_all_agree_for_long(
    some: Sequence[Case], drawn: Sequence[Any], seed: int, tame: bool, whole: bool
) -> None:
    check_kernels(some, drawn, seed, tame, whole)
