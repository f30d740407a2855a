"""The main job on real input: compile real models, compare with Paddle, time both.

python -m pirol.bench.demo            an encoder, images, a saved model, GraphNet graphs
python -m pirol.bench.demo --quick    smaller models, one timing round
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import paddle
from paddle.base import core
from paddle.static import InputSpec

import pirol
from pirol.bench.graphnet import folder, load, relative_l2
from pirol.compiler.capture.options import Options
from pirol.compiler.process import threads

TOLERANCE = 1e-5  # relative L2 against Paddle
SIZES = [
    (1, 1), (2, 1), (1, 2), (3, 5), (5, 3), (0, 7), (7, 0), (0, 0), (1, 13), (13, 1),
    (2, 17), (4, 19), (1, 23), (6, 11), (3, 29), (2, 31), (1, 37), (8, 8), (11, 2),
    (2, 64), (1, 0), (0, 1), (1, 3), (3, 1), (2, 2), (2, 3), (3, 2), (5, 5), (7, 7),
    (1, 41), (1, 43), (2, 47), (1, 53), (1, 59), (1, 61), (1, 67), (17, 2), (19, 1),
    (23, 1), (1, 71), (9, 4), (4, 9), (12, 3), (1, 73), (1, 79), (31, 1), (1, 97),
    (16, 4), (1, 128), (2, 100),
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One workload's result; times in milliseconds, None where there is no such run."""

    name: str
    report: pirol.Report
    compile_s: float
    error: float
    pirol_ms: float
    eager_ms: float | None
    static_ms: float

    def cells(self) -> list[str]:
        """The row as text."""
        done, total = self.report.coverage
        return [
            self.name,
            f"{done}/{total}",
            str(len(self.report.kernels)),
            f"{self.compile_s:.2f}",
            f"{self.error:.1e}",
            f"{self.pirol_ms:.3f}",
            "-" if self.eager_ms is None else f"{self.eager_ms:.3f}",
            f"{self.static_ms:.3f}",
            f"{self.static_ms / self.pirol_ms:.2f}",
        ]


HEAD = ["workload", "ops", "kernels", "compile s", "rel. L2", "Pirol ms", "eager ms"]
HEAD += ["to_static ms", "to_static / Pirol"]


class Bar:
    """A progress bar on standard error, for `progress=`."""

    WIDTH = 24

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, stage: str, done: float) -> None:
        """Draw the bar; a line end when all is done."""
        full = round(self.WIDTH * done)
        bar = "#" * full + "." * (self.WIDTH - full)
        end = "\n" if done >= 1 else ""
        print(f"\r{self.name:28.28} [{bar}] {stage:16}", end=end, file=sys.stderr)


def seconds(run: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def medians(runs: Sequence[Callable[[], Any] | None], rounds: int) -> list[Any]:
    """Median milliseconds of each, taken in turn; None for None."""
    return medians_told([run and partial(seconds, run) for run in runs], rounds)


def medians_told(
    timers: Sequence[Callable[[], float] | None], rounds: int
) -> list[Any]:
    """The same of what tells its seconds itself."""
    times: list[list[float]] = [[] for _ in timers]
    for _ in range(rounds):
        for kept, timer in zip(times, timers):
            if timer is not None:
                kept.append(timer() * 1e3)
    return [statistics.median(kept) if kept else None for kept in times]


def worst(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The largest relative L2 over the outputs."""
    return max(relative_l2(a.numpy(), b.numpy()) for a, b in zip(ours, theirs))


def layer_row(name: str, layer: Any, spec: list[Any], inputs: list[Any], n: int) -> Row:
    """Compile a Layer and measure it against its eager and to_static copies."""
    eager, static = copy.deepcopy(layer), copy.deepcopy(layer)
    static = paddle.jit.to_static(
        static, input_spec=spec, backend=None, full_graph=True
    )
    fast = pirol.to_static(layer, input_spec=spec, progress=Bar(name))
    found: list[Any] = []
    compile_s = seconds(lambda: found.append(fast(*inputs)))
    error = worst(found, [eager(*inputs)])
    static(*inputs)
    runs = [lambda: fast(*inputs), lambda: eager(*inputs), lambda: static(*inputs)]
    ours, eagers, statics = medians(runs, n)
    return Row(name, pirol.explain(fast), compile_s, error, ours, eagers, statics)


def encoder(layers: int, width: int, rounds: int) -> tuple[Row, Any, Any]:
    """A BERT-size encoder with None batch and length; its row, itself, a copy."""
    one = paddle.nn.TransformerEncoderLayer(
        width, width // 64, 4 * width, dropout=0.1, activation="gelu"
    )
    model = paddle.nn.TransformerEncoder(one, layers)
    model.eval()
    spec = [
        InputSpec([None, None, width], "float32", "hidden"),
        InputSpec([None, 1, 1, None], "float32", "mask"),
    ]
    name = f"encoder {layers} x {width}"
    eager = copy.deepcopy(model)
    row = layer_row(name, model, spec, hidden(2, 64, width), rounds)
    return row, model, eager


def hidden(batch: int, length: int, width: int) -> list[Any]:
    """Hidden states and an additive mask that hides some places of each sequence."""
    states = paddle.randn([batch, length, width])
    mask = (paddle.rand([batch, 1, 1, length]) < 0.1).astype("float32") * -1e4
    return [states, mask]


def sizes_served(model: Any, eager: Any, width: int) -> int:
    """Check the compiled encoder at all SIZES; how many plans that took."""
    for batch, length in SIZES:
        inputs = hidden(batch, length, width)
        out = model(*inputs)
        if list(out.shape) != [batch, length, width]:
            raise SystemExit(f"encoder: shape {out.shape} at {batch} x {length}")
        # Eager Paddle's reshape refuses an empty batch or sequence.
        if batch * length and not worst([out], [eager(*inputs)]) <= TOLERANCE:
            raise SystemExit(f"encoder: disagrees at {batch} x {length}")
    return pirol.explain(model).compiles


IMAGE = [InputSpec([None, 3, 224, 224], "float32", "image")]


def vision(rounds: int) -> list[Row]:
    """Models of paddle.vision on one photo-sized image."""
    models = {
        "ResNet-50": paddle.vision.models.resnet50,
        "MobileNetV3-large": paddle.vision.models.mobilenet_v3_large,
    }
    rows = []
    for name, make in models.items():
        model = make()
        model.eval()
        image = [paddle.rand([1, 3, 224, 224])]
        rows.append(layer_row(f"{name} 224 x 224", model, IMAGE, image, rounds))
    return rows


def saved(rounds: int) -> Row:
    """A model written by paddle.jit.save and loaded from disk by Pirol."""
    name = "saved MobileNetV3-small"
    model = paddle.vision.models.mobilenet_v3_small()
    model.eval()
    image = paddle.rand([1, 3, 224, 224])
    with tempfile.TemporaryDirectory() as work:
        paddle.jit.save(copy.deepcopy(model), f"{work}/model", input_spec=IMAGE)
        fast = pirol.load_inference_model(f"{work}/model", progress=Bar(name))
        static = paddle.jit.load(f"{work}/model")
    found: list[Any] = []
    compile_s = seconds(lambda: found.append(fast(image)))
    error = worst(found, [model(image)])
    static(image)
    runs = [lambda: fast(image), lambda: model(image), lambda: static(image)]
    ours, eagers, statics = medians(runs, rounds)
    return Row(name, pirol.explain(fast), compile_s, error, ours, eagers, statics)


def graphs(rounds: int) -> list[Row]:
    """Some of the GraphNet samples at hand, of as many kinds."""
    rows = []
    for path in sorted(folder().glob("*.json.gz"))[::3][:5]:
        sample = load(path)
        name = sample.name.split("/", 1)[-1].replace("/subgraph", "")
        paddles = sample.paddles()
        run, report = sample.pirols(Options(progress=Bar(name), counted=False))
        start = time.perf_counter()
        found = run(sample.draw())
        compile_s = time.perf_counter() - start
        error = worst(found, paddles(sample.draw()))
        mine, theirs = sample.draw(), sample.draw()
        runs = [lambda r=run, x=mine: r(x), lambda r=paddles, x=theirs: r(x)]
        ours, statics = medians(runs, rounds * 5)
        rows.append(Row(name, report.settled(), compile_s, error, ours, None, statics))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    lines = [HEAD, *(r.cells() for r in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(line, widths))
        )
        for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print the table; 1 where a result disagrees with Paddle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small models, one round")
    quick = parser.parse_args(arguments).quick
    layers, width, rounds = (2, 128, 1) if quick else (12, 768, 5)
    paddle.seed(1)
    core.set_num_threads(threads())
    with paddle.no_grad():
        first, model, eager = encoder(layers, width, rounds)
        rows = [first]
        if not quick:
            rows += [*vision(rounds), saved(rounds)]
        rows += graphs(rounds)
        plans = sizes_served(model, eager, width)
    print(f"\n{table(rows)}\n")
    print(
        f"encoder: {len(SIZES)} sizes, 0 and 1 and primes among them: {plans} plan(s)"
    )
    wrong = [r.name for r in rows if not r.error <= TOLERANCE]
    if wrong or plans != 1:
        print(f"DISAGREES with Paddle: {', '.join(wrong) or 'more than one plan'}")
        return 1
    print(f"all agree with Paddle at relative L2 {TOLERANCE:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
