"""Launches that come again are replayed as CUDA graphs: on the stand-in driver."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import FOLDER, Device, built, device, tidy
from test_cuda_device import Strided, back, on_device
from test_export import data, exported

import pirol
from pirol.bench import loaded as timed
from pirol.compiler import _native

__all__ = ["device", "tidy"]  # fixtures
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++"),
]
SPEC = [paddle.static.InputSpec([None, None], name="x")]
ENOUGH = 6  # calls, of which some are replayed
STREAM, OTHER = 77, 88


def steps(x: Any) -> Any:
    """Three kernels, with memory between them."""
    rows = paddle.nn.functional.softmax(x, axis=1)
    return paddle.cumsum(rows, 0) * 2.0, rows.sum()


def expected(x: Any) -> tuple[Any, Any]:
    rows = np.exp(x - x.max(1, keepdims=True))
    rows /= rows.sum(1, keepdims=True)
    return np.cumsum(rows, 0) * 2.0, rows.sum()


def loaded_steps(folder: Path, **options: Any) -> Any:
    exported(steps, folder / "f", data(5, 7), input_spec=SPEC)
    return pirol.load(folder / "f", device="cuda", **options)


def check(found: Any, x: Any) -> None:
    for one, other in zip(found, expected(x)):
        np.testing.assert_allclose(back(one), other, rtol=1e-5)


def stats(run: Any) -> Any:
    return run._compiled.stats()


def replays(run: Any, x: Any, calls: int = ENOUGH) -> int:
    """How many of these calls are replayed; all are right."""
    before, given = stats(run)["replays"], on_device(x)
    for _ in range(calls):
        check(run(given), x)
    return int(stats(run)["replays"] - before)


def test_calls_that_come_again(device: Device, tmp_path: Path) -> None:
    run = loaded_steps(tmp_path)
    x = data(5, 7)
    launched, replayed = device.launches, device.replayed
    assert replays(run, x, 1) == 0
    each = device.launches - launched
    assert each > 2 and replays(run, x, 20) >= 15
    assert device.launches - launched == 21 * each
    assert device.replayed - replayed == stats(run)["replays"]
    assert 0 < device.counts.graphs == stats(run)["graphs"] <= 4


def test_each_call_reads_and_writes_its_own_memory(tmp_path: Path) -> None:
    """Inputs in turn, and results that are kept, so that others get other memory."""
    run = loaded_steps(tmp_path)
    inputs = [data(5, 7) for _ in range(3)]
    given, kept = [on_device(x) for x in inputs], []
    for turn in range(12):
        for x, array in zip(inputs, given):
            found = run(array)
            check(found, x)
            if turn in (4, 8):
                kept.append((found, x))
    assert stats(run)["replays"] > 5
    for found, x in kept:
        check(found, x)


def test_what_changed_in_memory_is_seen(tmp_path: Path) -> None:
    run = loaded_steps(tmp_path)
    base, x = on_device(data(5, 7)), data(5, 7)
    for _ in range(ENOUGH):
        x = x * 0.5 + 1.0
        write(base, x)
        check(run(base), x)
    assert stats(run)["replays"] > 0


def write(array: Any, x: Any) -> None:
    """Into memory of the stand-in's, which is the host's."""
    tensor = Strided(array, x, x).tensor
    ctypes.memmove(tensor.data, np.ascontiguousarray(x).ctypes.data, x.nbytes)


def test_memory_that_is_always_new(device: Device, tmp_path: Path) -> None:
    run = loaded_steps(tmp_path)
    device.fresh(True)
    try:
        assert replays(run, data(5, 7)) == 0 and stats(run)["graphs"] == 0
    finally:
        device.fresh(False)


def test_sizes_are_told_apart(tmp_path: Path) -> None:
    """Two shapes of the same memory; every pointer is the same."""
    run = loaded_steps(tmp_path)
    whole = data(24)
    base, before = on_device(whole), 0
    for _ in range(12):
        for shape in ((4, 6), (6, 4), (24, 1), (4, 6)):
            like = whole.reshape(shape)
            check(run(Strided(base, like, whole)), like)
    assert stats(run)["replays"] > before


def test_no_rows(tmp_path: Path) -> None:
    run = loaded_steps(tmp_path)
    given = on_device(data(0, 7))
    for _ in range(ENOUGH):
        found = run(given)
        assert found[0].shape == (0, 7) and back(found[1]) == 0


def test_graphs_go_with_the_plan(device: Device, tmp_path: Path) -> None:
    loaded_steps(tmp_path)
    other = pirol.load(tmp_path / "f", device="cuda:1")
    given = _native.Array(data(5, 7)).to(1)
    for _ in range(ENOUGH):
        other(given)
    assert device.counts.graphs > 0
    del other
    gc.collect()
    assert device.counts.graphs == 0


def test_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert replays(loaded_steps(tmp_path, graphs=False), data(5, 7)) == 0
    monkeypatch.setenv("PIROL_CUDA_GRAPHS", "0")
    assert replays(loaded_steps(tmp_path), data(5, 7)) == 0
    monkeypatch.setenv("PIROL_CUDA_GRAPHS", "1")
    assert replays(loaded_steps(tmp_path), data(5, 7)) > 0


def on_stream(run: Any, array: Any, stream: int) -> Any:
    found = run._compiled.run_on([array], stream)
    return found[:2]


def test_a_stream_that_is_captured(device: Device, tmp_path: Path) -> None:
    run = loaded_steps(tmp_path)
    x = data(5, 7)
    given = on_device(x)
    for _ in range(ENOUGH):
        check(on_stream(run, given, STREAM), x)
    before, captured = stats(run)["replays"], device.counts.captured
    assert before > 0
    device.capture(STREAM)
    for _ in range(ENOUGH):
        found = on_stream(run, given, STREAM)
    assert stats(run)["replays"] == before
    assert device.counts.captured >= captured + 3 * ENOUGH
    check(on_stream(run, given, OTHER), x)
    device.capture(0)
    check(found, x)
    check(on_stream(run, given, STREAM), x)


def test_several_streams(tmp_path: Path) -> None:
    run = loaded_steps(tmp_path)
    inputs = {STREAM: data(5, 7), OTHER: data(6, 3), 0: data(2, 2)}
    given = {stream: on_device(x) for stream, x in inputs.items()}
    for _ in range(2 * ENOUGH):
        for stream, x in inputs.items():
            check(on_stream(run, given[stream], stream), x)
            check(on_stream(run, given[STREAM], stream), inputs[STREAM])
    assert stats(run)["replays"] > ENOUGH


def test_two_threads(tmp_path: Path) -> None:
    run = loaded_steps(tmp_path)
    wrong: list[BaseException] = []

    def call(stream: int) -> None:
        x = data(4, 3)
        given = on_device(x)
        try:
            for _ in range(40):
                check(on_stream(run, given, stream), x)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=call, args=(s,)) for s in (STREAM, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and stats(run)["calls"] == 80


@pytest.mark.parametrize("what", ["instantiate", "launch"])
def test_a_graph_that_fails(what: str, device: Device, tmp_path: Path) -> None:
    run = loaded_steps(tmp_path)
    device.fail(what)
    try:
        assert replays(run, data(5, 7)) == 0
    finally:
        device.fail("")
    assert stats(run)["graphs"] == 1
    assert replays(run, data(5, 7)) == 0  # it is not tried again


def test_more_memory_than_graphs(device: Device, tmp_path: Path) -> None:
    """Building one for each call would cost more than it saves."""
    run = loaded_steps(tmp_path)
    inputs = [data(5, 7) for _ in range(14)]
    given = [on_device(x) for x in inputs]
    for _ in range(5):
        for x, array in zip(inputs, given):
            check(run(array), x)
    counts = stats(run)
    assert device.counts.graphs == 8 < counts["graphs"] <= 8 + 70 // 32
    assert replays(run, inputs[0], 40) > 0


def looked_up(x: Any, table: Any) -> Any:
    """A check comes first, which waits for the device."""
    rows = paddle.nn.functional.embedding(x, table)
    return steps(rows)[0]


def test_around_a_check(tmp_path: Path) -> None:
    table = data(9, 4)
    indices = np.array([3, 8, 1, 1, 5])
    exported(looked_up, tmp_path / "f", indices, table)
    run = pirol.load(tmp_path / "f", device="cuda")
    good, bad, held = on_device(indices), on_device(indices + 9), on_device(table)
    for _ in range(ENOUGH):
        np.testing.assert_allclose(
            back(run(good, held)), expected(table[indices])[0], rtol=1e-5
        )
        with pytest.raises(RuntimeError, match="(?i)index|range"):
            run(bad, held)
    assert stats(run)["replays"] > 0


def grown_in_place(x: Any) -> Any:
    rows = paddle.nn.functional.softmax(x, axis=1)
    paddle.assign(paddle.cumsum(rows, 0), x)
    return x.sum()


def test_writes(tmp_path: Path) -> None:
    x = data(5, 7)
    exported(grown_in_place, tmp_path / "f", x.copy())
    run, given = pirol.load(tmp_path / "f", device="cuda"), on_device(x)
    for _ in range(ENOUGH):
        x = expected(x)[0] / 2.0
        np.testing.assert_allclose(back(run(given)), x.sum(), rtol=1e-5)
        np.testing.assert_allclose(back(given), x, rtol=1e-5)
    assert stats(run)["replays"] > 0


OLD = """
import sys
import cuda_stand_in, numpy, pirol
cuda_stand_in.stand_in(cuda_stand_in.driver("-DNO_GRAPHS"), setattr)
run, x = pirol.load(sys.argv[1], device="cuda"), numpy.ones((5, 7), "float32")
for _ in range(6):
    assert abs(run(x)[1] - 5) < 1e-5
assert run._compiled.stats()["replays"] == run._compiled.stats()["graphs"] == 0
"""


def test_a_driver_without_graphs(tmp_path: Path) -> None:
    loaded_steps(tmp_path)
    command = [sys.executable, "-c", OLD, str(tmp_path / "f")]
    ran = subprocess.run(
        command, cwd=FOLDER.parent, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


# ---- ranges ----


class Tool:
    """What the stand-in for a profiler saw."""

    def __init__(self) -> None:
        self.path = str(built("nvtx", [FOLDER / "nvtx_tool.c"]))
        self.library = ctypes.CDLL(self.path)
        self.library.tool_names.restype = ctypes.c_char_p

    @property
    def ranges(self) -> int:
        """Begun and ended."""
        pushes = int(self.library.tool_pushes())
        assert pushes == self.library.tool_pops()
        return pushes

    @property
    def names(self) -> list[str]:
        return str(self.library.tool_names().decode()).splitlines()


def test_launches_are_ranges_for_a_profiler(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Tool()
    monkeypatch.setenv("NVTX_INJECTION64_PATH", tool.path)
    run, given, launched = loaded_steps(tmp_path), on_device(data(5, 7)), 0
    pirol.load(tmp_path / "f", device="cuda")  # tells the tool nothing again
    try:
        before = device.launches
        for _ in range(ENOUGH):
            run(given)
        launched = device.launches - before
    finally:
        monkeypatch.delenv("NVTX_INJECTION64_PATH")
        run = pirol.load(tmp_path / "f", device="cuda")
    assert tool.ranges == launched > 2 * ENOUGH and tool.library.tool_starts() == 1
    assert stats(run)["replays"] == 0
    file = Path(__file__).name
    assert all(n.startswith("pirol_") and f"{file}:" in n for n in tool.names)
    assert replays(run, data(5, 7)) > 0 and tool.ranges == launched


def test_profilers_that_are_none(device: Device) -> None:
    assert not _native.open_profiler("/nowhere/libtool.so")
    assert not _native.open_profiler("libm.so.6")
    assert not _native.open_profiler("")


# ---- memory ----


def test_the_pool_keeps_its_memory(device: Device) -> None:
    on_device(data(3))
    assert device.threshold(0) == 2**64 - 1


def test_a_stream_that_is_gone(device: Device, tmp_path: Path) -> None:
    """What was made on it is still there, and is given back, as `tidy` checks."""
    run, x = loaded_steps(tmp_path), data(5, 7)
    found = on_stream(run, on_device(x), 0xDEAD)
    found[0].__dlpack__(stream=STREAM)
    np.testing.assert_allclose(back(found[0]), expected(x)[0], rtol=1e-5)


def test_arrays_wait_for_the_stream_that_made_them(
    device: Device, tmp_path: Path
) -> None:
    run = loaded_steps(tmp_path)
    (found, _) = on_stream(run, on_device(data(5, 7)), STREAM)
    before = device.waits
    assert _native.Array(found, STREAM) is found and device.waits == before
    assert _native.Array(found, OTHER) is found and device.waits == before + 1
    assert _native.Array(found) is found and device.waits == before + 1
    del found
    assert device.counts.freed_on == OTHER


def test_both_ways_are_timed(
    device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded_steps(tmp_path)
    before = device.replayed
    timed.main(
        [str(tmp_path / "f"), "--device", "cuda", "--rounds", "2", "--size", "3"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "cuda, launches",
        "cuda, graphs",
    ]
    assert device.replayed > before
