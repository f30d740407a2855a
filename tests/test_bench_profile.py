"""bench profile: traces of compilation and of steps, on the CPU and a device."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, device, tidy
from test_export import data, exported

import pirol
from pirol.bench import profile

__all__ = ["device", "tidy"]  # fixtures
needs_simulator = pytest.mark.skipif(not has_compiler(), reason="the simulator: g++")
pytestmark = pytest.mark.full
A_LAUNCH = 1e3 / 1024  # of the stand-in, in microseconds
Spans = dict[str, list[tuple[str, float, float]]]


def two_kernels(x: Any) -> Any:
    import paddle

    return paddle.cumsum(paddle.nn.functional.softmax(x, axis=1), 0) * 2.0


def spans(path: Path) -> Spans:
    """A trace's spans by track: name, begin and end."""
    events = json.loads(path.read_text())["traceEvents"]
    named = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    found: Spans = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            span = (e["name"], e["ts"], e["ts"] + e["dur"])
            found[named[e["tid"]]].append(span)
    return found


def check(found: Spans, steps: str, kernels: int) -> None:
    """Passes in order; each kernel compiled; within each call its steps in order."""
    names = [name for name, *_ in found["passes"]]
    assert names[0] == "claim" and names[-1] == "schedule and render"
    assert "fuse" in names
    assert len(found["kernels"]) == kernels
    compiled = {name for name, *_ in found["kernels"]}
    assert {name.split()[0] for name, *_ in found[steps]} == compiled
    for track in found.values():
        ends = [t for _, *both in track for t in both]
        assert ends == sorted(ends)


def test_a_workload_on_the_cpu(tmp_path: Path, capsys: Any) -> None:
    chosen = ["small_bias_relu", "--calls", "3", "--out", str(tmp_path)]
    assert profile.main(chosen) == 0
    found = spans(tmp_path / "small_bias_relu.trace.json")
    steps = found["steps, by the CPU's clock"]
    check(found, "steps, by the CPU's clock", 1)
    assert len(found["calls"]) == len(steps) == 3
    for (_, begin, end), (_, first, last) in zip(found["calls"], steps):
        assert begin <= first < last <= end
    assert "pirol_" in capsys.readouterr().out


def test_an_unknown_workload_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no workload nothing; there are .*softmax"):
        profile.main(["nothing", "--out", str(tmp_path)])


@needs_simulator
def test_a_file_on_a_device(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Times are the device's; profilers are given the calls alone, without graphs."""
    exported(two_kernels, tmp_path / "two.pirol", data(5, 7))
    tool = tmp_path / "nsys"
    told = tmp_path / "told"
    tool.write_text(f'#!/bin/sh\necho "$PIROL_CUDA_GRAPHS" "$@" > {told}\n')
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    given = [str(tmp_path / "two.pirol"), "--device", "cuda", "--out", str(tmp_path)]
    assert profile.main([*given, "--calls", "4"]) == 0
    found = spans(tmp_path / "two.trace.json")
    check(found, "steps, by CUDA's events", 2)
    steps = found["steps, by CUDA's events"]
    assert len(steps) == 8
    for k, (_, begin, end) in enumerate(steps):
        assert end - begin == pytest.approx(A_LAUNCH, abs=0.1)
        if k % 2:
            assert begin - steps[k - 1][1] == pytest.approx(A_LAUNCH, abs=0.1)
    again = f"{sys.executable} -m pirol bench profile {given[0]} --plain --device cuda"
    assert told.read_text().startswith("0 profile --trace=cuda,nvtx ")
    assert again in told.read_text()
    shown = capsys.readouterr().out
    assert "ncu is not on the PATH" in shown and "nsys: a report" in shown


@needs_simulator
def test_plain_calls_and_no_watch_replay_graphs(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(two_kernels, tmp_path / "two.pirol", data(5, 7))
    run = pirol.load(tmp_path / "two.pirol", device="cuda")
    given, replayed = data(5, 7), device.replayed
    run.watch()
    for _ in range(4):
        run(given)
    assert len(run.times()) == 2 and device.replayed == replayed
    run.watch(False)
    before = device.launches
    path = str(tmp_path / "two.pirol")
    chosen = [path, "--device", "cuda", "--plain", "--calls", "4"]
    assert profile.main([*chosen, "--out", str(tmp_path)]) == 0
    assert device.launches == before + 2 * 5
    assert not list(tmp_path.glob("*.json"))


def test_times_of_nothing(tmp_path: Path) -> None:
    """Before a call; and of steps that have no rows on a device."""
    exported(two_kernels, tmp_path / "two.pirol", data(5, 7))
    run = pirol.load(tmp_path / "two.pirol")
    assert run.times() == []
    run(data(5, 7))
    assert run.times() == []
    run.watch()
    run(data(5, 7))
    assert [name.split("_")[0] for name, *_ in run.times()] == ["pirol", "pirol"]
