"""Two thousand random graphs: NumPy, the interpreter, nests, C and some CUDA agree.

A failure names its graph; `pytest tests/test_kernels_many.py --graph SEED:NUMBER` runs
that one alone.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from cuda_simulator import has_compiler
from graph_case import Case, agree
from graph_pairs import Pair, legal_pairs, pairs_of
from graph_runs import Program
from graphs import rolled, rolled_sizes
from hypothesis import settings

from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph

COUNT, FIRST, CHUNK = 2594, 20, 198  # graphs in all, in the first chunk, in others
LONG = 10  # chunks more in `make fuzz`
SIMULATED = 8  # every so many graphs one is run on the CUDA simulator too
UNITS = 4  # texts that a chunk's C kernels are spread over
LEAST = 20  # kernels that each pair must reach

# Steady in `make test`; a fresh one with --hypothesis-profile=fuzz.
SEED = 0 if settings().derandomize else random.SystemRandom().randrange(2**32)


@dataclass
class Tally:
    """What was run."""

    ops: dict[int, int] = field(default_factory=dict)  # graph number -> its ops
    dynamic: set[int] = field(default_factory=set)
    simulated: set[int] = field(default_factory=set)
    pairs: Counter[Pair] = field(default_factory=Counter)  # in C kernels that were run


TALLY = Tally()


def pytest_generate_tests(metafunc: Any) -> None:
    """Chunks of graphs: one for `make quick`, more for `make test` and `make fuzz`."""
    if "numbers" not in metafunc.fixturenames:
        return
    one = metafunc.config.getoption("--graph")
    if one:
        seed, number = map(int, one.split(":"))
        metafunc.parametrize(("seed", "numbers"), [(seed, [number])], ids=[one])
        return
    starts = range(FIRST, COUNT + LONG * CHUNK, CHUNK)
    chunks = [pytest.param(SEED, range(FIRST), id=f"{SEED}:0")]
    for k in starts:
        mark = pytest.mark.full if k < COUNT else pytest.mark.slow
        numbers = range(k, k + CHUNK)
        chunks.append(pytest.param(SEED, numbers, marks=mark, id=f"{SEED}:{k}"))
    metafunc.parametrize(("seed", "numbers"), chunks)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: Any) -> Iterator[None]:
    """Kernels that will never be seen again do not go into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIROL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@contextmanager
def told(seed: int, number: int) -> Iterator[None]:
    """A failure says which graph it is of."""
    try:
        yield
    except Exception as error:
        way = f"pytest tests/test_kernels_many.py --graph {seed}:{number}"
        raise AssertionError(f"{way}\n{type(error).__name__}: {error}") from error


def is_dynamic(graph: Graph) -> bool:
    """Whether a value in it has a symbolic dim."""
    values = [v for op in graph.ops for v in (*op.operands, *op.results)]
    return any(not isinstance(d, int) for v in values for d in v.shape)


def built(graphs: Sequence[Graph], whole: bool) -> tuple[Program, Program]:
    """All with their C kernels, and every SIMULATED-th one with its CUDA kernels."""
    program = Program(graphs, whole=whole, units=min(UNITS, len(graphs)))
    some = Program(graphs[::SIMULATED] if has_compiler() else [], whole=whole)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: some.simulator if some.kernels else None)
        assert len(program.libraries) == len(program.kernels)
        done.result()
    return program, some


def prepared(
    seed: int, numbers: Sequence[int], cases: Sequence[Case]
) -> tuple[Program, Program]:
    """All built together; what fails then is looked for one by one."""
    whole = (numbers[0] - FIRST) // CHUNK % 4 == 3  # one kernel a graph if it can be
    graphs = [case.graph for case in cases]
    try:
        return built(graphs, whole)
    except Exception:
        for number, graph in zip(numbers, graphs):
            with told(seed, number):
                built([graph], whole)
        raise


def test_graphs_agree(seed: int, numbers: Sequence[int]) -> None:
    cases = []
    for number in numbers:
        with told(seed, number):
            cases.append(rolled(seed, number))
    program, some = prepared(seed, numbers, cases)
    for k, (number, case) in enumerate(zip(numbers, cases)):
        with told(seed, number):
            on_gpu = bool(some.graphs) and k % SIMULATED == 0
            check_one(seed, number, case, (program, k), some if on_gpu else None)
            TALLY.ops[number] = len(case.graph.ops)
            if is_dynamic(case.graph):
                TALLY.dynamic.add(number)
            for step in program.steps[k]:
                TALLY.pairs.update(pairs_of(step.body))


def check_one(
    seed: int,
    number: int,
    case: Case,
    place: tuple[Program, int],
    simulated: Program | None,
) -> None:
    """The graph at two sizes (if it has any), first on plain data, then on extremes."""
    program, k = place
    for turn, sizes in enumerate(rolled_sizes(seed, number, 2)):
        data = (seed + 2 * number + turn) % 2**32
        arrays = case.arrays(sizes, data, special=turn == 1)
        wanted = case.expected(sizes, arrays)
        at = f"sizes {sizes}, data {data}"
        agree(wanted, interpret(case.graph, arrays), f"interpreter, {at}")
        agree(wanted, program.nests(k, arrays), f"nests, {at}")
        agree(wanted, program.c(k, arrays, data), f"C, {at}")
        if simulated is not None:
            found = simulated.cuda(k // SIMULATED, arrays, data % 4 + 1)
            agree(wanted, found, f"CUDA, {at}")
            TALLY.simulated.add(number)


@pytest.mark.full
def test_the_graphs_are_many_and_of_all_kinds(request: Any) -> None:
    if request.config.getoption("--graph"):
        pytest.skip("one graph was asked for")
    count = len(TALLY.ops)
    assert count >= COUNT, f"{count} graphs passed: run this file as a whole"
    assert statistics.median(TALLY.ops.values()) >= 8
    assert 0.4 <= len(TALLY.dynamic) / count <= 0.6
    if has_compiler():
        assert 0.1 <= len(TALLY.simulated) / count <= 0.15
    short = {p: TALLY.pairs[p] for p in legal_pairs() if TALLY.pairs[p] < LEAST}
    assert not short, f"reached fewer than {LEAST} kernels: {short}"
    print(
        f"{count} graphs, median {statistics.median(TALLY.ops.values())} ops, "
        f"{len(TALLY.dynamic)} dynamic, {len(TALLY.simulated)} simulated; each of "
        f"{len(legal_pairs())} pairs in {min(TALLY.pairs.values())} kernels or more"
    )
