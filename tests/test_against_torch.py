"""Pooling and complex numbers against PyTorch: values, masks, two orders of gradients.

Run by `make fuzz`, where PIROL_TORCH names an interpreter that has torch, or this one
has it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.bench import complex_table

ROOT = Path(__file__).parent
PYTHON = os.environ.get("PIROL_TORCH") or sys.executable
THERE = "PIROL_TORCH" in os.environ or importlib.util.find_spec("torch") is not None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not THERE, reason="torch: pip install '.[bench]', PIROL_TORCH"),
]
Case = dict[str, Any]


def torchs(folder: Path, cases: list[Case]) -> None:
    """Have PyTorch write its results of cases whose arrays are in the folder."""
    told = [{k: c[k] for k in ("call", "inputs", "gradients")} for c in cases]
    (folder / "cases.json").write_text(json.dumps(told))
    command = [PYTHON, str(ROOT / "torch_side.py"), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]


HEAD = """import paddle
import paddle.nn.functional as F
import pirol.complex as pc
from pirol.nn.functional import max_pool1d, max_pool2d, max_pool3d

def loss_of(y, w):
    y = w * y * y
    return (y.real() if y.is_complex() else y).sum()
"""
BODY = """
def plain_{k}({names}):
    return {ours}

def run_{k}({names}, w):
    found = {ours}
    y, *mask = found if isinstance(found, tuple) else (found,)
    return y, *mask, loss_of(y, w)
"""


def functions(folder: Path, cases: list[Case]) -> dict[str, Any]:
    """Of each case its call by Pirol, plain_K, and run_K with the loss too."""
    told = [
        BODY.format(
            k=k, ours=c["ours"], names=", ".join(f"x{j}" for j in range(c["inputs"]))
        )
        for k, c in enumerate(cases)
    ]
    path = folder / "ours.py"
    path.write_text(HEAD + "".join(told))
    return runpy.run_path(str(path))


def results(plain: Any, run: Any, case: Case, w: Any) -> dict[str, Any]:
    """What torch_side.py writes, by compiled functions; no loss without gradients."""
    xs = [paddle.to_tensor(a) for a in case["xs"]]
    chosen = [xs[j] for j in case["gradients"]]
    for x in chosen:
        x.stop_gradient = False
    if not chosen:
        found = pirol.to_static(plain)(*xs)
        found = found if isinstance(found, (tuple, list)) else (found,)
    else:
        *found, loss = pirol.to_static(run)(*xs, paddle.to_tensor(w))
    named = dict(zip(("y", "mask"), found))
    if chosen:
        first = paddle.grad(loss, chosen, create_graph=True)
        named |= {f"g{j}": g for j, g in enumerate(first)}
        parts = (paddle.as_real(g) if g.is_complex() else g for g in first)
        second = paddle.grad(sum((g**2).sum() for g in parts), chosen)
        named |= {f"h{j}": h for j, h in enumerate(second)}
    return {name: value.numpy() for name, value in named.items()}


def held(folder: Path, cases: list[Case], tolerance: float) -> int:
    """Compare all results; how many there were."""
    rng, made, ways = np.random.default_rng(7), functions(folder, cases), []
    for k, case in enumerate(cases):
        for j, x in enumerate(case["xs"]):
            np.save(folder / f"{k}_x{j}.npy", x)
        y = made[f"plain_{k}"](*map(paddle.to_tensor, case["xs"]))
        y = y[0] if isinstance(y, tuple) else y
        if not (y.is_floating_point() or y.is_complex()):
            case["gradients"] = []
        kind = np.float32 if y.dtype in (paddle.float32, paddle.complex64) else float
        ways.append(rng.normal(size=y.shape).astype(kind))
        np.save(folder / f"{k}_w.npy", ways[-1])
    torchs(folder, cases)
    count = 0
    for k, case in enumerate(cases):
        found = results(made[f"plain_{k}"], made[f"run_{k}"], case, ways[k])
        for name, ours in found.items():
            path = folder / f"{k}_{name}.npy"
            if not path.exists():
                assert name[0] in "gh", (case["call"], name)
                continue
            wanted = np.load(path)
            if name == "mask":  # PyTorch's is that of the last NaN
                wanted = np.where(np.isfinite(found["y"]), wanted, ours)
            finite = np.abs(wanted[np.isfinite(wanted)])
            scale = float(finite.max(initial=1.0))
            what = f"{case['call']}: {name} of {[x.shape for x in case['xs']]}"
            np.testing.assert_allclose(
                ours, wanted, tolerance, tolerance * scale, err_msg=what
            )
            count += 1
    return count


def poolings(count: int, seed: int) -> list[Case]:
    """Windows drawn at random, that PyTorch takes: padded by half of them at most."""
    rng, cases = np.random.default_rng(seed), []
    while len(cases) < count:
        rank = int(rng.integers(1, 4))
        k, s, d = (tuple(map(int, rng.integers(1, top, rank))) for top in (6, 4, 4))
        p = tuple(int(rng.integers(0, n // 2 + 1)) for n in k)
        dims = [int(n) for n in rng.integers(1, (40, 20, 9)[rank - 1], rank)]
        reach = [b * (a - 1) + 1 for a, b in zip(k, d)]
        if any(n < r for n, r in zip(dims, reach)):  # a tap of each in x
            continue
        dtype = rng.choice(["float32", "float64"])
        x = rng.normal(size=(2, int(rng.integers(1, 4)), *dims)).astype(dtype)
        if rng.random() < 0.3:  # ties
            x = np.round(x)
        ceil = bool(rng.random() < 0.4)
        call = f"max_pool{rank}d(x0, {k}, {s}, {p}, {d}, {ceil}, True"
        case = {"call": f"F.{call})", "ours": f"{call}, ceil_correction=True)"}
        case |= {"inputs": 1, "gradients": [0], "xs": [x]}
        if rng.random() < 0.2:
            hit = rng.random(x.shape)
            x[hit < 0.05], x[hit > 0.9] = np.nan, -np.inf
            case["gradients"] = []
        cases.append(case)
    return cases


@pytest.mark.parametrize("seed", range(4))
def test_pooling(seed: int, tmp_path: Path) -> None:
    """Compiled, of any dilation, with PyTorch's order of arguments."""
    assert held(tmp_path, poolings(60, seed), 1e-5) >= 200


@pytest.mark.parametrize("seed", range(2))
def test_complex_functions(seed: int, tmp_path: Path) -> None:
    """Those of the table in docs/complex.md that PyTorch has, in complex128."""
    page = (ROOT.parent / "docs" / "complex.md").read_text()
    both = {
        name
        for name, cell in complex_table.cells(page).items()
        if cell["PyTorch"] == "yes" and cell["Pirol"] not in ("-", "wrong", "Paddle")
    }
    rows = {name: row for name, row in complex_table.rows().items() if name in both}
    names = complex_table.NAMES.split(", ")
    rng, xs = np.random.default_rng(seed), []
    for x in complex_table.arrays():
        if x.dtype.kind == "c":
            parts = rng.normal(size=(2, *x.shape))
            x = parts[0] + 1j * parts[1]
        xs.append(x)
    cases = [
        {
            "call": called(row["torch"], names),
            "ours": called(row["paddle"], names),
            "inputs": len(xs),
            "gradients": [names.index(used(row["torch"]))],
            "xs": xs,
        }
        for row in rows.values()
    ]
    assert held(tmp_path, cases, 1e-9) >= 200


def called(call: str, names: list[str]) -> str:
    """The call with x0, x1, .. for the table's names of its arguments."""
    numbers = {name: f"x{k}" for k, name in enumerate(names)}
    word = re.compile(
        r"(?<![\w.\"'])([a-z]+)(?![\w(.\"'=])|(?<![\w.\"'])([a-z]+)(?=\.)"
    )
    return word.sub(lambda m: numbers.get(m[0], m[0]), call)


def used(call: str) -> str:
    """The first argument that a call has."""
    found = re.search(r"(?<![\w.])(x|c|d|e|s|g)(?!\w)", call.split("(", 1)[-1])
    return found[1] if found else "x"
