"""The comparison with the peers: right results, an end-to-end run, wrong results."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.bench import training as training_bench
from pirol.bench.networks import MODELS, bottleneck, encoder, normed
from pirol.bench.peers import (
    BenchError,
    Row,
    Timing,
    Worker,
    check,
    compare,
    geometric_mean,
)
from pirol.bench.worker import load_function
from pirol.bench.workloads import FIXED, FURTHER, Workload, drawn

SOFTMAX = Workload("softmax", (64, 16), ("softmax",))
TRANSPOSE = Workload("transpose_add", (32, 32), ("transpose", "add"))
SEEDED = [
    pytest.param(w, id=f"{w.name}-{seed}") for seed in range(4) for w in drawn(seed)
]

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
    np.save(folder / "fake.npy", np.load(folder / "input0000.npy"))
    print(json.dumps({"output": str(folder / "fake.npy")}), flush=True)
"""


def check_under_pirol(workload: Workload, folder: Path) -> None:
    """Pirol's result against NumPy's; strict, so that nothing is left to Paddle."""
    inputs = workload.inputs()
    function = load_function(workload.save(folder), "paddle")
    run = pirol.to_static(function, strict=True)
    with paddle.no_grad():
        result = run(*map(paddle.to_tensor, inputs))
    check("pirol", workload, result.numpy(), workload.reference(inputs))


@pytest.mark.parametrize("workload", FIXED + FURTHER, ids=lambda w: w.name)
def test_pirol_equals_numpy(workload: Workload, tmp_path: Path) -> None:
    check_under_pirol(workload.scaled(32), tmp_path)


@pytest.mark.parametrize("workload", SEEDED)
def test_pirol_equals_numpy_on_drawn(workload: Workload, tmp_path: Path) -> None:
    check_under_pirol(workload.scaled(32), tmp_path)


# Each kind of block that the suite of models has, small.
SQUEEZING = normed(10, 3, 2, 2, "hardswish") + (
    *("keep", "squeeze", "convolve:4,1,1,0,1", "relu", "convolve:10,1,1,0,1"),
    *("hardsigmoid", "gate"),
)
BLOCKS = (
    Workload(
        "residual", (2, 6, 9, 8), bottleneck(3, 2, True) + bottleneck(3, 1, False)
    ),
    Workload("squeezing", (2, 6, 9, 8), SQUEEZING),
    Workload("post_norm", (2, 5, 12), encoder(12, 3, False)),
    Workload(
        "vit",
        (2, 3, 8, 8),
        ("convolve:8,4,4,0,1", "tokens", "add", *encoder(8, 2, True), "mean_tokens"),
    ),
    Workload(
        "gradients",
        (2, 4, 9, 8),
        ("input_gradient:6,3,2,1,2", "weight_gradient:6,3,2,1,2"),
    ),
    Workload("head", (2, 6, 9, 8), ("pool:3,2,1,1", "mean_space", "dense:7")),
)


@pytest.mark.parametrize("workload", BLOCKS, ids=lambda w: w.name)
def test_blocks_of_models(workload: Workload, tmp_path: Path) -> None:
    check_under_pirol(workload, tmp_path)


@pytest.mark.full
def test_models_are_as_large_as_the_papers_say() -> None:
    """Millions of parameters, batch norm's statistics and position embeddings too."""
    sizes = {"resnet50": 25.6, "mobilenet_v3": 5.5, "bert_1x128": 85.1, "vit_b": 86.6}
    for name, size in sizes.items():
        (model,) = (w for w in MODELS if w.name == name)
        found = sum(x.size for x in model.inputs()[1:]) / 1e6
        assert found == pytest.approx(size, rel=0.01), name


def test_source_and_inputs_follow_from_the_steps() -> None:
    steps = ("keep", "batch_norm", "swap", "relu", "join", "add")
    norm = Workload("norm", (32, 64, 56, 56), steps).scaled(16)
    assert norm.source() == (
        "def workload(x0, x1, x2, x3, x4, x5):\n"
        "    x = x0\n"
        "    k0 = x\n"
        "    x = batch_norm(x, x1, x2, x3, x4)\n"
        "    x, k0 = k0, x\n"
        "    x = relu(x)\n"
        "    x = add(x, k0)\n"
        "    x = add(x, x5)\n"
        "    return result(x)\n"
    )
    inputs = norm.inputs()
    assert [x.shape for x in inputs] == [(2, 4, 3, 3), *[(4,)] * 4, (2, 4, 3, 3)]
    assert inputs[2].min() > 0  # the variance
    assert all(map(np.array_equal, inputs, norm.inputs()))
    turned = Workload("turned", (3, 5), ("transpose", "bias", "sum_rows", "add"))
    assert [x.shape for x in turned.inputs()] == [(3, 5), (3,), (3,)]


def test_draws_are_of_the_seed_alone() -> None:
    assert drawn(5) == drawn(5)
    assert [w.name for w in drawn(5)] == [w.name for w in FIXED]
    drawings = [drawn(seed) for seed in range(30)]
    for k, fixed in enumerate(FIXED):
        found = [d[k] for d in drawings]
        assert {w.dtype for w in found} == {"float32", "float64"}
        assert len({w.steps for w in found}) > 2, fixed.name
        assert len({w.shape for w in found}) > 2, fixed.name
    # Pinned: another Python must draw the same.
    assert str(drawn(0)[0]) == "bias_gelu: float64 8191x509: bias, relu"


def test_ratio_is_the_median_against_each_rounds_best_peer() -> None:
    timings = {
        "pirol": Timing([3.0, 3.0, 8.0], 0, 1),
        "torch": Timing([1.0, 6.0, 4.0], 0, 1),
        "jax": Timing([2.0, 2.0, 9.0], 0, 1),
        "paddle": Timing([0.1, 0.1, 0.1], 0, 1),
    }
    row = Row(SOFTMAX, timings)
    assert row.ratios() == [3.0, 1.5, 2.0]
    assert row.ratio() == 2.0
    alone = Row(SOFTMAX, {"pirol": timings["pirol"]})
    assert alone.ratio() is None
    half = Row(SOFTMAX, timings | {"pirol": Timing([0.5], 0, 1)})
    assert geometric_mean([row, half, alone]) == pytest.approx(1.0)
    assert geometric_mean([alone]) is None


def test_check_says_what_differs() -> None:
    reference = np.array([[1.0, 2.0], [3.0, 4.0]])
    right = reference.astype("float32")
    check("pirol", SOFTMAX, right, reference)
    wrong = right.copy()
    wrong[1, 0] = 3.01
    with pytest.raises(BenchError, match=r"1 of 4 values .* first at \(1, 0\)"):
        check("pirol", SOFTMAX, wrong, reference)
    with pytest.raises(BenchError, match=r"got float64 \(2, 2\), expected float32"):
        check("pirol", SOFTMAX, reference, reference)
    wrong[1, 0] = np.nan
    with pytest.raises(BenchError, match="1 of 4"):
        check("pirol", SOFTMAX, wrong, reference)


@pytest.fixture
def fake() -> Iterator[Worker]:
    worker = Worker("fake", [sys.executable, "-c", FAKE])
    yield worker
    worker.close()


def test_a_wrong_result_is_an_error(fake: Worker) -> None:
    with pytest.raises(BenchError, match="fake: softmax: .* values differ"):
        compare(SOFTMAX, [fake], rounds=1, seconds=0.0)


def test_a_failed_or_dead_worker_is_an_error(fake: Worker) -> None:
    with pytest.raises(BenchError, match="fake: load: ValueError: broken"):
        compare(TRANSPOSE, [fake], rounds=1, seconds=0.0)
    fake.process.kill()
    with pytest.raises(BenchError, match="fake: the worker ended with status -9"):
        compare(SOFTMAX, [fake], rounds=1, seconds=0.0)


@pytest.mark.full
def test_driver_end_to_end(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "pirol.bench.peers", "--peers", "pirol,paddle"]
    command += ["--rounds", "1", "--seconds", "0.01", "--scale", "64"]
    command += ["--workloads", "softmax,mlp", "--threads", "1", "--seed", "1"]
    ran = subprocess.run(
        [*command, "--json", str(found)], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert "drawn by seed 1" in ran.stdout
    assert "pirol ms" in ran.stdout and "paddle ms" in ran.stdout
    record = json.loads(found.read_text())
    assert record["seed"] == 1 and record["geometric_mean"] is None
    assert [r["name"] for r in record["rows"]] == ["softmax", "mlp"]
    for row in record["rows"]:
        assert row["timings"].keys() == {"pirol", "paddle"} and row["ratio"] is None
        assert all(t["median"] > 0 for t in row["timings"].values())


def test_bench_refuses_wrong_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    right, looks = training_bench.step, []

    def wrong(layer: Any, model: Any, loss: Any, look: bool = False) -> Any:
        found = right(layer, model, loss, look)
        looks.extend([found] if look else [])
        return found * 1.01 if look and len(looks) == 1 else found

    monkeypatch.setattr(training_bench, "step", wrong)
    with pytest.raises(SystemExit, match="gradients are"):
        training_bench.row("burgers", small=True, rounds=1)
