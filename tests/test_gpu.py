"""On a GPU: the random graphs of test_kernels_many.py, their kernels' very text."""

from __future__ import annotations

import numpy as np
import pytest
import sort_cases
import transform_cases
from attention_cases import CASES, Case, near
from cuda_gpu import Gpu, has_gpu
from graph_case import agree
from graph_meaning import same_bits
from graph_runs import Program
from graphs import rolled, rolled_sizes
from half_data import (
    TURNS,
    cast,
    drawn,
    every_half,
    near_every_half,
    rows_over_their_largest,
    shares,
)
from test_random_bits import pair
from test_scatter import SUMS, summed

from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import DTYPES, HALVES
from pirol.compiler.loaded import Program as Loaded
from pirol.kernels import cufft
from pirol.passes.halves import halves

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_gpu(), reason="no NVIDIA GPU"),
]
CHUNKS, CHUNK = 32, 30


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_graphs_agree(chunk: int) -> None:
    numbers = range(chunk * CHUNK, (chunk + 1) * CHUNK)
    cases = [rolled(0, number) for number in numbers]
    program = Program([c.graph for c in cases], whole=chunk % 4 == 3, device=Gpu)
    for k, (number, case) in enumerate(zip(numbers, cases)):
        for turn, sizes in enumerate(rolled_sizes(0, number, 2)):
            data = 2 * number + turn
            arrays = case.arrays(sizes, data, special=turn == 1)
            at = f"graph 0:{number}, sizes {sizes}, data {data}"
            agree(
                case.expected(sizes, arrays), program.cuda(k, arrays, data % 4 + 1), at
            )


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_are_rounded_to_nearest_even(dtype: str) -> None:
    """By the device's own instructions."""
    halves, floats = every_half(dtype), near_every_half(dtype)
    graphs = [
        cast(dtype, "float32", halves.size), cast("float32", dtype, floats.size)
    ]  # fmt: skip
    program = Program(graphs, device=Gpu)
    assert same_bits(program.cuda(0, [halves])[0], halves.astype(np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = floats.astype(DTYPES[dtype][1])
    assert same_bits(program.cuda(1, [floats])[0], rounded)


@pytest.mark.parametrize("name", TURNS)
def test_turned_halves(name: str) -> None:
    graph = TURNS[name]
    given = drawn(graph)
    (wanted,) = interpret(halves(graph), given)
    assert same_bits(Program([graph], device=Gpu).cuda(0, given)[0], wanted)


def test_quotients_are_those_of_a_division() -> None:
    x = rows_over_their_largest()
    with np.errstate(all="ignore"):
        wanted = x / x.max(axis=1, keepdims=True)
    (found,) = Program([shares("float32")], device=Gpu).cuda(0, [x])
    assert same_bits(found, wanted)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention(case: Case) -> None:
    """By cuDNN where it is found, once and again; else by kernels of ours."""
    run = Loaded(case.archive(), 0)
    for seed in range(2):
        given = case.data(seed)
        near(run(*given), case.expected(*given))


@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("case", transform_cases.CASES, ids=str)
def test_transforms(
    case: transform_cases.Transform, library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By cuFFT where it is found, and as products."""
    if not library:
        monkeypatch.setattr(cufft, "libraries", list)
    run = Loaded(case.archive(), 0)
    for seed in range(3):
        x = case.data(seed)
        case.check(x, run(x))


@pytest.mark.parametrize("case", [*sort_cases.CASES, *sort_cases.LARGE], ids=str)
def test_sorts(case: sort_cases.Sort) -> None:
    run = Loaded(case.archive(), 0)
    for seed in range(2):
        x = case.data(seed)
        case.check(x, run(x))


def test_random_bits() -> None:
    graph, arrays = pair()
    (wanted,) = interpret(graph, arrays)
    (found,) = Program([graph], device=Gpu).cuda(0, arrays)
    assert same_bits(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("sizes", SUMS)
def test_sums_at_places_are_in_order(sizes: tuple[int, int, int], dtype: str) -> None:
    graph, arrays = summed(*sizes, dtype)
    (wanted,) = interpret(graph, arrays)
    for blocks in (1, 7):
        (found,) = Program([graph], device=Gpu).cuda(0, arrays, blocks)
        assert same_bits(found, wanted)
