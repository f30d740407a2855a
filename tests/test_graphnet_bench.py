"""The GraphNet bench: scores, the folder form, records, and what ends a child."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.pir_utils import IrGuard

from pirol.bench import (
    coverage,
    graphnet,
    graphnet_child,
    graphnet_gradients,
    graphnet_run,
)
from pirol.bench.graphnet import folder, load, moved
from pirol.bench.graphnet_folder import load_folder
from pirol.bench.score import Outcome, es, family, level, s, tolerances, worst

MODEL = """
{planted}

class GraphModule(paddle.nn.Layer):
    def __init__(self):
        super().__init__()

    def forward(self, parameter_0, data_0, data_1):
        # pd_op.matmul: (2x3xf32) <- (2x4xf32, 4x3xf32)
        matmul_0 = paddle._C_ops.matmul(data_0, parameter_0, False, False)
        del data_0

        full_0 = paddle._C_ops.full(
            [1], float("2"), paddle.float32, paddle.core.CPUPlace()
        )
        scale_0 = paddle._C_ops.scale(matmul_0, full_0, float("1"), True)
        uniform_0 = paddle._C_ops.uniform(
            [2, 3], paddle.float32, full_0, full_0, 0,
            paddle.framework._current_expected_place(),
        )
        add_0 = paddle._C_ops.add(scale_0, uniform_0)
        return add_0, data_1
"""
INPUTS = """
class Program_weight_tensor_data_0:
    name = "data_0"
    shape = [2, 4]
    dtype = "float32"
    min_val = 0
    max_val = 0.5
    mean = None
    std = None
    data = None


class Program_weight_tensor_data_1:
    name = "data_1"
    shape = [None, 3]
    dtype = "int64"
    data = [1, 2, 3]
"""
WEIGHTS = """
class Program_weight_tensor_parameter_0:
    name = "parameter_0"
    shape = [4, 3]
    dtype = "float32"
    min_val = float("-inf")
    max_val = float("inf")
    mean = float("0.1")
    std = float("0.02")
    data = None
"""
# In the child, at the time of Pirol's first call.
PLANTED = """
from pirol.compiler.capture import plans
def planted(*_):
    {what}
plans.Plans.run = planted
"""


def write_sample(path: Path, planted: str = "") -> Path:
    path.mkdir(parents=True)
    (path / "model.py").write_text(MODEL.format(planted=planted))
    (path / "input_meta.py").write_text(INPUTS)
    (path / "weight_meta.py").write_text(WEIGHTS)
    (path / "graph_net.json").write_text("{}")
    return path


def test_tolerances_are_graphnets() -> None:
    assert tolerances("int64", 0) == (0.0, 0.0)
    assert tolerances("float32", 0) == (1.0, 1.0)
    assert tolerances("float32", -5) == pytest.approx((1e-5, 10**-5.886))
    assert tolerances("float64", -5) == pytest.approx((1e-7, 1e-7))
    assert tolerances("float16", -5) == pytest.approx((1e-5, 1e-3))
    assert tolerances("bfloat16", -5) == pytest.approx((1e-5, 10**-1.796))


def test_level_is_the_least_at_which_arrays_agree() -> None:
    x = np.array([1.0, np.nan, np.inf], "float32")
    assert level(x, x, "float32") == -10
    near = x + np.array([2e-4, 0, 0], "float32")
    assert level(near, x, "float32") == -3  # 1e-4 + 2.9e-5 < 2e-4 <= 1e-3
    assert level(x[:2], x, "float32") is None
    assert level(np.array([0.0, np.nan, np.inf]), x, "float32") == 0
    assert level(np.array([1.0, 1.0, np.inf]), x, "float32") is None
    ints = np.array([1, 2])
    assert level(ints, ints, "int64") == -10 and level(ints + 1, ints, "int64") is None
    assert worst([-10, -3, -5]) == -3 and worst([-10, None]) is None
    assert worst([]) == -10


def test_scores_by_hand() -> None:
    right, slow = Outcome(4.0, -10), Outcome(0.25, -3)
    crash = Outcome(error="runtime")
    assert s([right, slow], -3) == pytest.approx(1.0)
    assert s([right, slow], -4) == pytest.approx(math.sqrt(4 * 0.1))
    assert s([right, slow], -3, p=1) == pytest.approx(math.sqrt(4 / 16))
    assert s([right, crash], 3) == pytest.approx(math.sqrt(0.4))
    assert es([right, crash], 1) == pytest.approx(math.sqrt(0.4))
    assert es([right, crash], 2) == pytest.approx(2.0)
    assert es([right, Outcome()], 0) == pytest.approx(math.sqrt(0.4))
    assert es([right, Outcome()], 1) == pytest.approx(2.0)
    assert es([Outcome(error="compile")], 2, b=0.5) == pytest.approx(0.5)
    assert es([Outcome(error="compile")], 3) == 1.0
    assert math.isnan(s([], 0))


def test_families() -> None:
    names = {
        "PaddleX__PicoDet-L_layout_17cls__subgraph_0": "PicoDet",
        "PaddleX/PicoDet_LCNet_x2_5_face/subgraph_10": "PicoDet",
        "PaddleX__MobileNetV1_x0_25": "MobileNet",
        "PaddleX__Deeplabv3_Plus-R50__subgraph_1": "Deeplab",
        "PaddleNLP__bert-base-cased": "bert",
        "PaddleNLP__t5-small": "t5",
    }
    assert {name: family(name) for name in names} == names


def test_coverage_counts_what_a_compiler_could_replace() -> None:
    launched = Counter(matmul=4, conv2d=1, add=1, dropout=2, matrix_nms=1)
    assert coverage.replaceable(launched) == 3
    assert coverage.replaceable(launched, dropouts=2) == 1
    assert coverage.coverage(launched, 10, 2) == pytest.approx(0.9)
    assert coverage.coverage(launched, 2) == 0.0
    assert coverage.coverage(Counter(), 0) == 1.0


def test_folder_sample_is_compiled_and_compared(tmp_path: Path) -> None:
    sample = load_folder(write_sample(tmp_path / "s"), "s")
    assert [e["name"] for e in sample.inputs] == ["parameter_0", "data_0", "data_1"]
    weight, data, ints = sample.draw()
    assert abs(float(weight.mean()) - 0.1) < 0.03 and 0 <= float(data.min()) <= 0.5
    assert ints.shape == [1, 3] and ints.dtype == paddle.int64
    stages: list[str] = []
    found = graphnet_child.measure(sample, 20, stages.append)
    assert stages == ["paddle", "compile", "runtime", "time", "trace"]
    assert (found["verdict"], found["level"]) == ("right", -10)
    assert found["ops"] == 4  # matmul, scale, uniform, add
    assert found["launches"] == {"uniform": 1} and found["coverage"] == 1
    assert found["gflop"] == pytest.approx(48e-9)  # 2 * 2 * 3 * 4
    assert any("uniform" in f for f in found["fallbacks"])


def test_folder_without_facts_is_an_error(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "s")
    (path / "weight_meta.py").unlink()
    with pytest.raises(ValueError, match="no facts about parameter_0"):
        load_folder(path, "s")


def test_compared_says_what_is_wrong() -> None:
    x = paddle.ones([2, 3])
    found = graphnet_child.compared([x, x], [x, x * 1.001])
    assert found["verdict"] == "wrong" and found["level"] == -3
    assert found["error"] == pytest.approx(1e-3, rel=1e-2)
    found = graphnet_child.compared([x], [x.astype("float64")])
    assert found["level"] is None and "float64" in found["why"]
    half = x.astype("bfloat16")
    assert graphnet_child.compared([half], [half])["verdict"] == "right"


def test_only_a_step_excuses_what_float64_does_not() -> None:
    """Paddle on moved inputs shows which outputs a rounding can flip."""
    found = {"verdict": "wrong", "why": "", "level": 0, "error": 1.0}
    x = paddle.linspace(0.1, 1, 10)
    exact = paddle.linspace(0.1, 1, 10, "float64")
    off = paddle.concat([x[:9], paddle.zeros([1])])

    def verdict(ours: Any, step: bool) -> str:
        others = [[off if step and k == 2 else x] for k in range(4)]
        return graphnet_child.judged(found, [ours], [x], [exact], others)["verdict"]

    assert verdict(off, step=True) == "right" and verdict(off, step=False) == "wrong"
    assert verdict(x - 1, step=True) == "wrong"
    (near,) = moved([x], seed=0)
    difference = (near - x).abs() / x
    assert 0 < difference.max() < 2e-7 and near.dtype == x.dtype


@pytest.mark.full
def test_gradients_are_held(tmp_path: Path, monkeypatch: Any) -> None:
    """Of both forms of samples; and what is not Paddle's is wrong."""
    (path,) = folder().glob("*MobileNetV1*")
    samples = load(path), load_folder(write_sample(tmp_path / "s"), "s")
    for sample, count in zip(samples, (138, 2)):
        found = graphnet_gradients.measure(sample, lambda *_: None)
        assert (found["verdict"], found["gradients"]) == ("right", count), found
        assert found["error"] < 1e-3
    plain = graphnet_gradients.gradients
    runs = iter(range(9))

    def planted(*args: Any) -> Any:
        grads = plain(*args)
        if next(runs) == 1:  # the second is ours
            grads[0] = grads[0] * 1.002
        return grads

    monkeypatch.setattr(graphnet_gradients, "gradients", planted)
    found = graphnet_gradients.measure(samples[1], lambda *_: None)
    assert (found["verdict"], found["wrong"]) == ("wrong", [0])


def test_larger_graphs_gradients_are_not_held() -> None:
    (path,) = folder().glob("*MobileNetV1*")
    asked = {"path": str(path), "name": path.stem, "alone": "", "gradients": True}
    found = graphnet_child.answer(asked | {"gflop": 0.0}, lambda *_: None)
    assert found["verdict"] == "no oracle" and "GFLOP" in found["why"]


def test_float64_arbitrates_without_paddles_clipping() -> None:
    """Of softmax 100 below its row's largest, where Paddle's own gives that of 64."""
    x = np.array([[0.0, -100.0]])
    with IrGuard():
        program, start = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(program, start):
            y = paddle.nn.functional.softmax(paddle.static.data("x", [1, 2], "float64"))
            outputs = graphnet._in_steps(program, [y])
            run = paddle.static.Executor().run
            (found,) = run(program, feed={"x": x}, fetch_list=outputs)
    np.testing.assert_allclose(found[0, 1], np.exp(-100.0), rtol=1e-12)
    assert paddle.nn.functional.softmax(paddle.to_tensor(x))[0, 1] > 1e-28


SAID = 'import os, signal, sys, time; print(\'{"stage": "STAGE"}\', flush=True); '


@pytest.mark.parametrize(
    ("stage", "code", "verdict", "why"),
    [
        ("runtime", "os.kill(os.getpid(), 11)", "crash", "SIGSEGV in stage runtime"),
        ("compile", "sys.exit('out of luck')", "crash", "out of luck in stage compile"),
        ("time", "time.sleep(60)", "timeout", "over 0.5 s in stage time"),
        ("paddle", "os.abort()", "no oracle", "SIGABRT in stage paddle"),
    ],
)
def test_how_a_child_ends(stage: str, code: str, verdict: str, why: str) -> None:
    command = [sys.executable, "-c", SAID.replace("STAGE", stage) + code]
    found = graphnet_run.run_child(command, dict(os.environ), 0.5)
    assert found["verdict"] == verdict and why in found["why"]
    assert found["class"] == ("compile" if stage == "compile" else "runtime")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_childs_children_end_with_it() -> None:
    code = "import subprocess; p = subprocess.Popen(['sleep', '60']); "
    code += 'print(\'{"found": {"pid": %d}}\' % p.pid, flush=True); p.wait()'
    found = graphnet_run.run_child([sys.executable, "-c", code], dict(os.environ), 0.5)
    end = time.monotonic() + 10
    while alive(found["pid"]) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(found["pid"])


def test_records_survive_a_broken_run(tmp_path: Path) -> None:
    out = tmp_path / "found.jsonl"
    graphnet_run.keep(out, {"name": "a", "verdict": "right"})
    with out.open("a") as file:
        file.write('{"name": "b", "verd')
    assert graphnet_run.recorded(out).keys() == {"a"}
    graphnet_run.keep(out, {"name": "c", "verdict": "right"})
    graphnet_run.keep(out, {"name": "a", "verdict": "wrong"})
    found = graphnet_run.recorded(out)
    assert found.keys() == {"a", "c"} and found["a"]["verdict"] == "wrong"


def test_a_run_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("X/One/subgraph_0", "X/Two", "Y/Two"):
        write_sample(tmp_path / "data" / name)
    ran: list[str] = []

    def run_sample(name: str, path: Path, _: argparse.Namespace) -> dict[str, Any]:
        assert (path / "model.py").exists()
        ran.append(name)
        return {"name": name, "verdict": "right", "level": -7, "speedup": 2.0}

    monkeypatch.setattr(graphnet_run, "run_sample", run_sample)
    command = [str(tmp_path / "data"), "--out", str(tmp_path / "f.jsonl")]
    assert graphnet_run.main([*command, "--limit", "1"]) == 0
    assert graphnet_run.main([*command, "--names", "X/*"]) == 0
    assert ran == ["X/One/subgraph_0", "X/Two"]
    assert graphnet_run.main([*command, "--names", "One", "--again"]) == 0
    assert ran[2:] == ["X/One/subgraph_0"]
    assert "  -7     2.000     2.000" in capsys.readouterr().out
    assert graphnet_run.main([*command, "--names", "Three"]) == 2


def bench(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pirol", "bench", "graphnet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_help_needs_no_paddle() -> None:
    code = "import sys; sys.modules['paddle'] = None; import pirol.__main__ as m; "
    for command in ("['--help']", "['bench', 'graphnet', '--help']"):
        ran = subprocess.run(
            [sys.executable, "-c", f"{code} m.main({command})"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0 and "usage: python -m pirol" in ran.stdout


@pytest.mark.full
def test_the_command_on_a_shared_sample(tmp_path: Path) -> None:
    out = tmp_path / "found.jsonl"
    (path,) = folder().glob("*SLANet*")
    ran = bench(path, "--out", out, "--threads", 1, "--warm")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (record,) = map(json.loads, out.read_text().splitlines())
    assert record["name"] == path.name.removesuffix(".json.gz")
    assert record["verdict"] == "right" and record["ops"] > 20
    assert record["pirol_first"] > record["pirol_again"] > 0
    assert record["pirol_mb"] > 50 and record["paddle_mb"] > 50
    assert "SLANet" in ran.stdout and "S(-5)" in ran.stdout
    assert load(path).name.endswith("SLANet/subgraph_1")


@pytest.mark.full
def test_the_command_on_planted_faults(tmp_path: Path) -> None:
    faults = {
        "crash": "import os; os.abort()",
        "hang": "import time; time.sleep(100)",
        "raises": "raise ValueError('planted')",
        "wrong": "return [args[1][1] * 0, args[1][2]]",
    }
    for name, what in faults.items():
        planted = PLANTED.format(what=what).replace("*_", "*args")
        write_sample(tmp_path / name, planted)
    out = tmp_path / "found.jsonl"
    ran = bench(tmp_path, "--out", out, "--timeout", 15, "--threads", 1)
    assert ran.returncode == 1, ran.stderr
    found = {r["name"]: r for r in map(json.loads, out.read_text().splitlines())}
    assert found["crash"]["why"] == "SIGABRT in stage runtime"
    assert found["hang"]["verdict"] == "timeout"
    assert "ValueError: planted" in found["raises"]["why"]
    assert found["wrong"]["verdict"] == "wrong" and found["wrong"]["level"] is None
    assert "crash: SIGABRT" in ran.stdout
