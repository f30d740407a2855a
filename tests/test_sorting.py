"""The primitive sort: its meaning, on the CPU, on the stand-in device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import planted
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, device, tidy
from hypothesis import given
from hypothesis import strategies as st
from sort_cases import CASES, LARGE, Sort

from pirol.compiler import _native, dims
from pirol.compiler.dims import symbol
from pirol.compiler.errors import ShapeError
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import DTYPES, TensorType
from pirol.compiler.loaded import Program
from pirol.kernels import sorting
from pirol.prim import Builder

__all__ = ["device", "tidy"]  # fixtures
needs_simulator = pytest.mark.skipif(not has_compiler(), reason="the simulator: g++")
KINDS = [k for k in DTYPES if not k.startswith("complex")]


@st.composite
def sorts(draw: Any) -> Sort:
    lead = draw(st.lists(st.integers(0, 4), max_size=2))
    size = draw(st.sampled_from([0, 1, 2, 31, 33, 64, 257, 600]))
    count = draw(st.sampled_from([-1, 0, 1, size // 9, size // 2]))
    kind, down = draw(st.sampled_from(KINDS)), draw(st.booleans())
    return Sort((*lead, size), kind, down, min(count, size))


@given(sorts(), st.integers(0, 1000))
def test_meaning(case: Sort, seed: int) -> None:
    x = case.data(seed)
    case.check(x, interpret(case.graph(), [x]))


@given(sorts(), st.integers(0, 1000))
def test_on_the_cpu(case: Sort, seed: int) -> None:
    x = case.data(seed)
    case.check(x, Program(case.archive())(x))


@pytest.mark.parametrize("case", [*CASES, *LARGE], ids=str)
def test_any_number_of_threads(case: Sort) -> None:
    run, before = Program(case.archive()), _native.get_threads()
    try:
        for threads in (1, 2, 3, 8):
            _native.set_threads(threads)
            x = case.data(threads)
            case.check(x, run(x))
    finally:
        _native.set_threads(before)


@needs_simulator
@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_a_device(case: Sort, device: Device) -> None:
    run, before = Program(case.archive(), 0), device.launches
    for seed in range(2):
        x = case.data(seed)
        case.check(x, run(x))
    empty = 0 in (*case.shape, case.count)
    runs = max(1, -(-case.shape[-1] // 2048))
    passes = 0 if empty else 1 + (runs - 1).bit_length()
    assert device.launches - before == 2 * passes


FAULTS = {
    "the second run is left out": (r"which \+ 1 < runs \? run : 0", "0"),
    "a merge that begins too late": (r"int i = left \+ low", "int i = left + low + 1"),
    "no barrier": (r"(put_own\(memory, own, thread\);\n) +__syncthreads..;", r"\1"),
    "a run that is not read backwards": (r"own.back \? last : k.", "own[k]"),
    "the wrong half": (r"!= upper", "== upper"),
    "a search that goes too far": (r"low \+= step \* found", "low += step * found + 1"),
    "runs that keep too few": (r"grows = run < count", "grows = 0"),
    "a zero by its key": (r" \|\| bits == keys.sign", ""),
    "two zeros": (r"if \(!size\) bits = 0;", ""),
    "NaN by their sign": (r"if \(size > keys.infinity\)", "if (false)"),
    "places by chance": (r"key << 32 \| \(unsigned\)place", "key << 32"),
}  # fmt: skip


@needs_simulator
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(
    name: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = planted.text(*FAULTS[name])(sorting.TEXT)
    monkeypatch.setattr(sorting, "TEXT", changed)
    case = Sort((2, 4500))
    x = case.data(0)
    with pytest.raises((AssertionError, RuntimeError)):
        case.check(x, Program(case.archive(), 0)(x))


@needs_simulator
@pytest.mark.parametrize("device_number", [-1, 0])
@pytest.mark.parametrize("which", [0, 1])
def test_a_result_that_nobody_wants(
    which: int, device_number: int, device: Device
) -> None:
    case = Sort((2, 3000))
    graph, x = case.graph(), case.data(1)
    alone = replace(graph, outputs=graph.outputs[which : which + 1])
    archive = replace(case.archive(), graph=alone, form=["output", 0])
    found = np.asarray(Program(archive, device_number)(x))
    assert found.tobytes() == case.expected(x)[which].tobytes()


def test_rows_whose_number_is_not_known() -> None:
    case = Sort((symbol("n"), symbol("m")))
    run = Program(case.archive())
    for shape in ((3, 50), (1, 40_000), (0, 3), (2, 0)):
        one = Sort(shape)
        x = one.data(2)
        one.check(x, run(x))


def test_more_than_a_row_has() -> None:
    b, n = Builder(), symbol("n")
    x = b.input(TensorType((2, n), "float32"))
    with pytest.raises(ShapeError, match="no more than a row has"):
        b.sort(x, descending=False, count=dims.add(n, 1))
    graph = b.graph("sort", list(b.sort(x, descending=False, count=5)))
    run = Program(replace(Sort((2, 5)).archive(), graph=graph))
    assert np.asarray(run(np.ones((2, 5), "float32"))[1]).shape == (2, 5)
    with pytest.raises(RuntimeError, match="another number of items"):
        run(np.ones((2, 4), "float32"))
