"""Halves on CUDA: transposes four at a time, and quotients by a row's divisor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from cuda_simulator import Simulator, SimulatorError
from cuda_simulator_build import has_compiler
from graph_meaning import same_bits
from graph_runs import cuda_text, launch_cuda, run_c, run_cuda, steps_of
from half_data import (
    TURNS,
    counted_shares,
    drawn,
    rows_over_their_largest,
    shares,
    turned_sum,
)
from planted import Edit, text, without

from pirol.compiler.ir import DTYPES, HALVES, Graph, TensorType
from pirol.kernels import affine
from pirol.kernels.kernel import Barrier, Kernel, Move, Over, statements_of
from pirol.passes.halves import halves
from pirol.prim import Builder

needs_simulator = pytest.mark.skipif(not has_compiler(), reason="the simulator: g++")
Shape = tuple[int, ...]


# ---- transposes ----


def kernel_of(graph: Graph) -> Kernel:
    (step,) = steps_of(halves(graph))
    return step.cuda


def moved(kernel: Kernel) -> bool:
    """Whether it takes several elements at a time."""
    return kernel.has(Move) and kernel.team > 1


@needs_simulator
@pytest.mark.parametrize("name", TURNS)
def test_four_elements_at_a_time_are_turned(name: str) -> None:
    graph = TURNS[name]
    assert moved(kernel_of(graph))
    given = drawn(graph)
    for found, other in zip(run_cuda(graph, given), run_c(graph, given)):
        assert same_bits(found, other)


def test_what_is_uneven_or_wider_is_turned_one_by_one() -> None:
    for graph in (
        turned_sum((66, 64), "bfloat16"),
        turned_sum((64, 66), "bfloat16"),
        turned_sum((64, 64), "float32"),
    ):
        assert kernel_of(graph).has(Barrier) and not moved(kernel_of(graph))


def test_no_two_threads_meet_in_a_bank_of_shared_memory() -> None:
    """Sixteen threads, of 8 bytes each, take all 32 banks in one go."""
    kernel, threads = kernel_of(TURNS["whole tiles"]), np.arange(256)
    ends = [end for s in statements_of(kernel) if isinstance(s, Move)
            for end in (s.to, s.source) if end[0] == "t0"]  # fmt: skip
    assert len(ends) == 2
    for _, place in ends:
        at = affine.evaluate(place, {"thread": threads, "c": 1, "k": 3}, {})
        assert not (at % 4).any()
        banks = (at // 4 % 16).reshape(16, 16)
        assert all(len({*row}) == 16 for row in banks.tolist())


def run(kernel: Kernel, source: str, given: Sequence[Any]) -> list[Any]:
    """A kernel by a text, checked on the simulator."""
    return launch_cuda(Simulator(source, [kernel.name]), kernel, given, {}, 1)


@needs_simulator
@pytest.mark.parametrize(
    "edit, of, found",
    [
        (without(Barrier), "kernel", "uninitialised __shared__"),
        (text(r"\+ j \+ wide", "+ wide"), "text", "are wrong"),
        (text(r"< \(68\)", "< (72)"), "text", "bounds"),
    ],
    ids=["no barrier", "one row four times", "beyond the end"],
)
def test_faults_of_turning_are_found(edit: Edit, of: str, found: str) -> None:
    graph = TURNS["parts of tiles"]
    given, kernel = drawn(graph), kernel_of(graph)
    (wanted,) = run_c(graph, given)

    def check(kernel: Kernel, source: str) -> None:
        assert same_bits(run(kernel, source, given)[0], wanted), "are wrong"

    check(kernel, cuda_text([kernel]))
    if of == "kernel":
        kernel = edit(kernel)
    source = cuda_text([kernel])
    with pytest.raises((AssertionError, SimulatorError), match=found):
        check(kernel, edit(source) if of == "text" else source)


# ---- quotients by one number of a row ----


@needs_simulator
def test_quotients_are_those_of_a_division() -> None:
    graph, x = shares("float32"), rows_over_their_largest()
    assert kernel_of(graph).has(Over)
    with np.errstate(all="ignore"):
        wanted = x / x.max(axis=1, keepdims=True)
    found = run_cuda(graph, [x])[0]
    assert same_bits(found, wanted)


@needs_simulator
def test_quotients_that_are_added_up() -> None:
    kernel, x = kernel_of(counted_shares()), rows_over_their_largest()
    with np.errstate(all="ignore"):
        share = x / x.max(axis=1, keepdims=True)
    wanted = share - (share >= 0.5).sum(axis=1, keepdims=True, dtype=np.float32)
    source = cuda_text([kernel])
    assert kernel.has(Over) and same_bits(run(kernel, source, [x])[0], wanted)
    edited = text(r"acc(\d+) = old\1;", "")(source)
    assert not same_bits(run(kernel, edited, [x])[0], wanted)


def test_what_is_stored_one_by_one_is_divided() -> None:
    """It could lie on an operand, and be read again."""
    b = Builder()
    x = b.input(TensorType((8, 131), "float32"))
    top = b.broadcast(b.reduce_max(x, axes=(1,)), shape=(8, 131), dims=(0,))
    assert not kernel_of(b.graph("f", [b.div(x, top)])).has(Over)


@needs_simulator
@pytest.mark.parametrize("dtype", HALVES)
def test_halves_over_their_largest_are_rounded_once(dtype: str) -> None:
    x = rows_over_their_largest()
    with np.errstate(all="ignore"):
        x = (x / x[:, 8:9]).astype(DTYPES[dtype][1])
        wide = x.astype(np.float32)
        wanted = (wide / wide.max(axis=1, keepdims=True)).astype(x.dtype)
    found = run_cuda(shares(dtype), [x])[0]
    assert same_bits(found.astype(np.float32), wanted.astype(np.float32))


@needs_simulator
@pytest.mark.parametrize(
    "old, new",
    [
        (r"fmaf\(-fmaf\(near, b, -a\), r, near\)", "near"),
        (r"\*far \|= .*;", ""),
        (r" & \(a != r - r\)", " & (a != 0)"),
        (r"-fmaf\(near, b, -a\)", "fmaf(-near, b, a)"),
    ],
    ids=["not set right", "never far", "a divisor of 0", "a remainder of -0"],
)
def test_faults_of_quotients_are_found(old: str, new: str) -> None:
    x, kernel = rows_over_their_largest(), kernel_of(shares("float32"))
    with np.errstate(all="ignore"):
        wanted = x / x.max(axis=1, keepdims=True)
    edited = text(old, new)(cuda_text([kernel]))
    assert not same_bits(run(kernel, edited, [x])[0], wanted)
