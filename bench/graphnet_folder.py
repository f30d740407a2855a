"""GraphNet's own form of a sample: a folder with Python files, run as they are.

`model.py` has `class GraphModule(paddle.nn.Layer)`, whose forward takes the inputs by
name; `input_meta.py` and `weight_meta.py` have a class of facts for each input.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import paddle
from paddle.autograd.backward_utils import ValueDict
from paddle.base import core
from paddle.static import InputSpec

import pirol
from pirol.bench.graphnet import Graph, Run, Sample
from pirol.compiler.report import Report

FACTS = ("name", "shape", "dtype", "min_val", "max_val", "mean", "std", "data")
DEFAULTS: dict[str, Any] = {"dtype": "float32", "min_val": 0, "max_val": 2}


@dataclass(frozen=True)
class Folder(Graph):
    """A sample whose program is a Layer of the dataset."""

    module: Any

    def paddles(self) -> Run:
        """The Layer as Paddle's to_static runs it."""
        layer = paddle.jit.to_static(self.fresh(), full_graph=True, backend=None)
        return self._flat(layer)

    def pirols(self) -> tuple[Run, Report]:
        """The Layer compiled by Pirol, and the report of it; dropout as by Paddle."""
        layer = pirol.to_static(self.fresh(), random="eager")
        return self._flat(layer), pirol.explain(layer)

    def program(self) -> Any:
        """The PIR program as captured."""
        return self.captured().main_program

    def captured(self) -> Any:
        """What Paddle captures of the Layer; its inputs have their names."""
        spec = [InputSpec(e["shape"], e["dtype"], e["name"]) for e in self.inputs]
        layer = paddle.jit.to_static(self.fresh(), spec, full_graph=True, backend=None)
        return layer.forward.concrete_program

    def in_double(self) -> tuple[Run, list[Any]]:
        """Paddle's run with all that is float32 in float64, and tensors for it."""
        found = self.captured()
        results = ValueDict()
        for at, op in enumerate(found.main_program.global_block().ops):
            for k, result in enumerate(op.results()):
                results[result] = (at, k)
        outputs = [results[v] for v in paddle.utils.flatten(found.outputs)]
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "program.json"
            core.serialize_pir_program(found.main_program, str(path), True, True)
            serialised = json.loads(path.read_text())
        sample = Sample(self.name, self.inputs, outputs, serialised)
        return replace(sample, trained=self.trained).in_double()

    def fresh(self) -> Any:
        """A new GraphModule."""
        layer = self.module()
        if not self.trained:
            layer.eval()
        return layer

    def _flat(self, layer: Any) -> Run:
        def run(tensors: Any) -> list[Any]:
            with paddle.set_grad_enabled(self.trained):
                found = layer(*tensors)
            return [t for t in paddle.utils.flatten(found) if t is not None]

        return run


def load_folder(path: Path, name: str) -> Folder:
    """Read a sample's folder; runs the Python files in it.

    Raises:
        ValueError: an input of forward has no facts.
    """
    module = run_file(path / "model.py").GraphModule
    facts: dict[str, dict[str, Any]] = {}
    for file in ("weight_meta.py", "input_meta.py"):
        if (path / file).exists():
            facts |= {e["name"]: e for e in _entries(run_file(path / file))}
    names = [n for n in inspect.signature(module.forward).parameters if n != "self"]
    missing = [n for n in names if n not in facts]
    if missing:
        raise ValueError(f"{path}: no facts about {', '.join(missing)}")
    return Folder(name, [facts[n] for n in names], module)


def run_file(path: Path) -> ModuleType:
    """The module that a Python file makes; capture finds its source."""
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["paddle"] = paddle  # some samples use it without importing it
    sys.modules[spec.name] = module  # where capture looks for sources
    spec.loader.exec_module(module)
    return module


def _entries(module: ModuleType) -> list[dict[str, Any]]:
    classes = [c for c in vars(module).values() if inspect.isclass(c)]
    return [_entry(c) for c in classes if hasattr(c, "name")]


def _entry(facts: Any) -> dict[str, Any]:
    found = {k: getattr(facts, k, DEFAULTS.get(k)) for k in FACTS}
    found["shape"] = [1 if d is None else d for d in found["shape"] or []]
    return found
