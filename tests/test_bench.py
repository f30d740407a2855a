"""The comparison with the peers: right results, an end-to-end run, wrong results."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest

import pirol
from pirol.bench.peers import BenchError, Row, Timing, Worker, check, compare
from pirol.bench.workloads import TABLE, WORKLOADS, Workload

# Speaks the worker's protocol. Its results are the first input, and so wrong; asked
# for transpose_add it fails.
FAKE = """
import json, pathlib, sys
import numpy as np
print(json.dumps({"version": "0"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["workload"] == "transpose_add":
        print(json.dumps({"error": "ValueError: broken"}), flush=True)
        continue
    folder = pathlib.Path(request["folder"])
    np.save(folder / "fake.npy", np.load(folder / "input0.npy"))
    print(json.dumps({"output": str(folder / "fake.npy")}), flush=True)
"""


@pytest.mark.parametrize("workload", TABLE, ids=lambda w: w.name)
def test_paddle_functions_under_pirol_equal_numpy(workload: Workload) -> None:
    inputs = workload.inputs(scale=32)
    run = pirol.to_static(workload.function("paddle"), strict=True)
    with paddle.no_grad():
        result = run(*map(paddle.to_tensor, inputs))
    check("pirol", workload.name, result.numpy(), workload.reference(inputs))


def test_inputs_are_scaled_and_repeatable() -> None:
    norm = WORKLOADS["batch_norm"]
    shapes = [x.shape for x in norm.inputs(scale=16)]
    assert shapes == [(2, 4, 3, 3), (2, 4, 3, 3), (4,), (4,), (4,), (4,)]
    assert norm.inputs(scale=16)[3].min() > 0
    first, second = norm.inputs(scale=16), norm.inputs(scale=16)
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


def test_ratio_is_the_median_against_each_rounds_best_peer() -> None:
    timings = {
        "pirol": Timing([3.0, 3.0, 8.0], 0, 1),
        "torch": Timing([1.0, 6.0, 4.0], 0, 1),
        "jax": Timing([2.0, 2.0, 9.0], 0, 1),
        "paddle": Timing([0.1, 0.1, 0.1], 0, 1),
    }
    row = Row("softmax", [(2, 2)], timings)
    assert row.ratios() == [3.0, 1.5, 2.0]
    assert row.ratio() == 2.0
    assert Row("softmax", [(2, 2)], {"pirol": timings["pirol"]}).ratio() is None


def test_check_says_what_differs() -> None:
    reference = np.array([[1.0, 2.0], [3.0, 4.0]])
    right = reference.astype("float32")
    check("pirol", "softmax", right, reference)
    wrong = right.copy()
    wrong[1, 0] = 3.01
    with pytest.raises(BenchError, match=r"1 of 4 values .* first at \(1, 0\)"):
        check("pirol", "softmax", wrong, reference)
    with pytest.raises(BenchError, match=r"got float64 \(2, 2\), expected float32"):
        check("pirol", "softmax", reference, reference)
    wrong[1, 0] = np.nan
    with pytest.raises(BenchError, match="1 of 4"):
        check("pirol", "softmax", wrong, reference)


@pytest.fixture
def fake() -> Iterator[Worker]:
    worker = Worker("fake", [sys.executable, "-c", FAKE])
    yield worker
    worker.close()


def test_a_wrong_result_is_an_error(fake: Worker) -> None:
    with pytest.raises(BenchError, match="fake: softmax: .* values differ"):
        compare(WORKLOADS["softmax"], [fake], rounds=1, seconds=0.0, scale=64)


def test_a_failed_or_dead_worker_is_an_error(fake: Worker) -> None:
    with pytest.raises(BenchError, match="fake: load: ValueError: broken"):
        compare(WORKLOADS["transpose_add"], [fake], rounds=1, seconds=0.0, scale=64)
    fake.process.kill()
    with pytest.raises(BenchError, match="fake: the worker ended with status -9"):
        compare(WORKLOADS["softmax"], [fake], rounds=1, seconds=0.0, scale=64)


@pytest.mark.full
def test_driver_end_to_end(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "pirol.bench.peers", "--peers", "pirol,paddle"]
    command += ["--rounds", "1", "--seconds", "0.01", "--scale", "64"]
    command += ["--workloads", "softmax,small_bias_relu", "--threads", "1"]
    ran = subprocess.run(
        [*command, "--json", str(found)], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert "pirol ms" in ran.stdout and "paddle ms" in ran.stdout
    record = json.loads(found.read_text())
    assert [r["workload"] for r in record["rows"]] == ["softmax", "small_bias_relu"]
    for row in record["rows"]:
        assert row["timings"].keys() == {"pirol", "paddle"} and row["ratio"] is None
        assert all(t["median"] > 0 for t in row["timings"].values())
