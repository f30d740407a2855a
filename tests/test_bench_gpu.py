"""The bench of a GPU, from end to end, on the stand-in driver."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, device

from pirol.bench import gpu
from pirol.bench.suites import SUITES

__all__ = ["device"]  # a fixture
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++"),
]
NAMES = ("softmax", "sum_all", "sum_rows", "transpose", "residual_rms_norm")
NAMES += ("softmax_bf16", "complex_chain", "complex_functions", "stft_mask")
NAMES += ("sort", "sort_bf16", "sort_f64", "sort_places", "topk")
NAMES += ("bias_gelu_back", "softmax_back", "layer_norm_back", "residual_rms_norm_back")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that end soon."""
    monkeypatch.setattr(gpu, "LONG", 1e-4)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "MOST", 1)
    monkeypatch.setattr(gpu, "device", gpu.Plain)


def exported(folder: Path, *names: str) -> None:
    for workload in SUITES["gpu"]:
        if workload.name in names:
            gpu.export(replace(workload, shape=(8, 96)), folder)


def test_a_table(device: Device, tmp_path: Path, capsys: Any) -> None:
    exported(tmp_path, *NAMES)
    before = device.launches
    assert gpu.main([str(tmp_path), "--json", str(tmp_path / "found.out")]) == 0
    assert device.launches > before
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    rows = json.loads((tmp_path / "found.out").read_text())
    assert sorted(r["workload"]["name"] for r in rows) == sorted(NAMES)
    assert all(r["timings"]["pirol"]["call"] > 0 for r in rows)


def test_a_wrong_result_is_told(
    device: Device, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(tmp_path, "softmax")
    monkeypatch.setattr(
        gpu.Plain, "reference", lambda self, w, f, t: np.full((8, 96), 0.5)
    )
    assert gpu.main([str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "pirol: softmax" in told.err and "differ" in told.err
    assert " - " in told.out
