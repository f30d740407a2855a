"""GraphNet samples as runnable programs: load, draw inputs, run by Paddle or Pirol.

A sample is a `NAME.json.gz` with `inputs`, `outputs` and the PIR `program`, as the
project's tests/data/README.md says. PIROL_GRAPHNET_DIR names a folder of them.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.base import core
from paddle.decomposition import decomp
from paddle.jit.dy2static.pir_partial_program import PartialProgramLayer

from pirol.compiler.capture.options import Options
from pirol.compiler.capture.seam import CompiledLayer
from pirol.compiler.report import Report

HERE = Path(__file__).resolve().parent.parent / "tests" / "data" / "graphnet"
FAR = 1e4  # in the place of an infinite bound
# What makes a serialised program one of float64: types, and dtypes among attributes.
DOUBLED = (
    ('"#": "0.t_f32"', '"#": "0.t_f64"'),
    ('"1.a_dtype", "D": "float32"', '"1.a_dtype", "D": "float64"'),
)
MOVES = 4  # runs of Paddle on moved inputs, where results are still too far off
Run = Callable[[Sequence[Any]], list[Any]]


def folder() -> Path:
    """PIROL_GRAPHNET_DIR, else the samples that the project carries."""
    return Path(os.environ.get("PIROL_GRAPHNET_DIR") or HERE)


@dataclass(frozen=True)
class Graph:
    """A graph of any form: its name, and its inputs' facts in argument order.

    trained: its runs are for gradients, which all its floats have.
    """

    name: str
    inputs: list[dict[str, Any]]
    trained: bool = field(default=False, kw_only=True)

    def draw(self, seed: int = 0) -> list[Any]:
        """Input tensors within each input's bounds."""
        rng = np.random.default_rng(seed)
        return [_tensor(rng, entry) for entry in self.inputs]


@dataclass(frozen=True)
class Sample(Graph):
    """A graph with its serialised program."""

    outputs: list[tuple[int, int]]
    serialised: dict[str, Any]
    in_steps: bool = False  # softmax, which Paddle's own kernel clips

    def paddles(self) -> Run:
        """The program as Paddle's to_static runs it."""
        layer = self._layer(PartialProgramLayer, None)
        return lambda tensors: list(layer.sot_call(list(tensors)))

    def pirols(self, options: Options | None = None) -> tuple[Run, Report]:
        """The program compiled by Pirol, and the report of it; dropout as by Paddle."""
        options = options or Options(counted=False)
        layer = self._layer(CompiledLayer, options)
        return lambda tensors: list(layer.sot_call(list(tensors))), options.report

    def in_double(self) -> tuple[Run, list[Any]]:
        """Paddle's run with all that is float32 in float64, and tensors for it."""
        text = json.dumps(self.serialised)
        for narrow, wide in DOUBLED:
            text = text.replace(narrow, wide)
        tensors = [
            t.astype("float64") if t.dtype == paddle.float32 else t for t in self.draw()
        ]
        double = replace(self, serialised=json.loads(text), in_steps=True)
        return double.paddles(), tensors

    def _layer(self, kind: Any, options: Options | None) -> Any:
        program = self.program()
        ops = program.global_block().ops
        data = {op.attrs()["name"]: op.result(0) for op in ops if _is_data(op)}
        inputs = [data[entry["name"]] for entry in self.inputs]
        outputs = [ops[at].results()[k] for at, k in self.outputs]
        if self.in_steps:
            outputs = _in_steps(program, outputs)
        extra = {} if options is None else {"build_strategy": options}
        layer = kind(program, inputs, [outputs], ([], []), **extra)
        layer.training = self.trained
        return layer

    def program(self) -> Any:
        """The PIR program as captured."""
        program = paddle.static.Program()
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "program.json"
            path.write_text(json.dumps(self.serialised))
            core.deserialize_pir_program(str(path), program)
        if self.trained:
            _let_gradients_through(program)
        return program


def _in_steps(program: Any, outputs: list[Any]) -> list[Any]:
    """The outputs, each softmax decomposed by Paddle: its kernel on a CPU takes no
    element for more than 64 below its row's largest."""
    with decomp.prim_guard():
        clipped = frozenset({"pd_op.softmax", "pd_op.log_softmax"})
        return list(decomp.decompose(program, outputs, whitelist=clipped))


def _let_gradients_through(program: Any) -> None:
    for op in program.global_block().ops:
        stops = all(v.stop_gradient for v in op.operands_source() if v.initialized())
        for result in op.results():
            if result.initialized() and result.is_dense_tensor_type():
                result.stop_gradient = "float" not in str(result.dtype).lower()
            elif result.initialized():
                result.stop_gradient = stops


def _is_data(op: Any) -> bool:
    return bool(op.name() == "pd_op.data")


def load(path: Path) -> Sample:
    """Read a sample."""
    with gzip.open(path, "rt") as file:
        found = json.load(file)
    outputs = [(int(at), int(k)) for at, k in found["outputs"]]
    return Sample(found["sample"], found["inputs"], outputs, found["program"])


def _tensor(rng: np.random.Generator, entry: dict[str, Any]) -> Any:
    shape, dtype = entry["shape"], entry["dtype"]
    if entry.get("data") is not None:
        return paddle.to_tensor(np.array(entry["data"]).reshape(shape)).astype(dtype)
    low, high = entry.get("min_val"), entry.get("max_val")
    if dtype == "bool":
        return paddle.to_tensor(rng.integers(0, 2, shape).astype(bool))
    low, high = map(_bound, (low, high))
    if dtype.startswith(("int", "uint")):
        values = rng.integers(int(low), max(int(high), int(low)) + 1, shape)
        return paddle.to_tensor(values.astype(dtype))
    values = _floats(rng, entry, shape, float(low), float(high))
    return paddle.to_tensor(values.astype("float64")).astype(dtype)


def _bound(value: float | None) -> float:
    if value is None or math.isnan(value):
        return 0.0
    return math.copysign(FAR, value) if math.isinf(value) else value


def _floats(
    rng: np.random.Generator, entry: dict[str, Any], shape: Any, low: float, high: float
) -> Any:
    mean, std = entry.get("mean"), entry.get("std")
    if mean is None or std is None or not math.isfinite(mean + std):
        return rng.uniform(low, max(high, low), shape)
    return np.clip(rng.normal(mean, std, shape), low, max(high, low))


def exactly(
    sample: Any, results: Callable[[Run, Sequence[Any]], list[Any]]
) -> list[Any]:
    """The results of a run in float64; none where Paddle has no such kernels."""
    try:
        return results(*sample.in_double())
    except Exception:
        return []


def moved(tensors: Sequence[Any], seed: int) -> list[Any]:
    """The tensors with float32 elements multiplied by 1 - eps, 1 or 1 + eps."""
    rng, eps = np.random.default_rng(seed), np.finfo(np.float32).eps

    def move(tensor: Any) -> Any:
        if tensor.dtype != paddle.float32:
            return tensor
        factors = 1 + eps * rng.integers(-1, 2, tensor.shape).astype(np.float32)
        return paddle.to_tensor(tensor.numpy() * factors)

    return [move(t) for t in tensors]


def agrees(ours: Sequence[Any], theirs: Sequence[Any], tolerance: float = 1e-5) -> str:
    """ "" where all outputs agree (relative L2, integers exact), else what differs."""
    for k, (a, b) in enumerate(zip(ours, theirs)):
        if a.dtype != b.dtype or list(a.shape) != list(b.shape):
            return f"output {k}: {a.dtype} {a.shape}, expected {b.dtype} {b.shape}"
        error = relative_l2(a.numpy(), b.numpy())
        if not error <= tolerance:
            return f"output {k}: relative L2 {error:.2e}"
    return "" if len(ours) == len(theirs) else "another number of outputs"


def relative_l2(a: Any, b: Any) -> float:
    """|a - b| / |b| in float64; infinite where NaN or Inf stand at other places."""
    if a.dtype.kind in "bui":
        return 0.0 if np.array_equal(a, b) else float("inf")
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return float("inf")
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    x, y = a[finite].astype("complex128"), b[finite].astype("complex128")
    scale = float(np.linalg.norm(y))
    error = float(np.linalg.norm(x - y))
    return error / scale if scale else error
