"""Exported workloads on a CUDA device, against torch and jax on the same device.

    python -m pirol bench gpu --export FOLDER    where Paddle is: writes the programs
    python -m pirol bench gpu FOLDER             where a GPU is; Paddle is not needed

Every result is held against float64 before anything is timed. A figure is the time of
a call among many made back to back, and of one replay of a CUDA graph of many. The
inputs rotate, so that none is still in the cache. docs/bench.md says what the columns
mean.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import pirol
from pirol.bench.peers import TOLERANCES, BenchError, check
from pirol.bench.suites import SUITES
from pirol.bench.worker import load_function
from pirol.bench.workloads import Workload
from pirol.compiler.ir import BITS
from pirol.compiler.loaded import of_numpy, to_numpy

CACHE = 1 << 28  # bytes that no cache holds
ROUNDS = 7
LONG = 0.02  # seconds that a round takes, about
COUNT = 20  # calls in a CUDA graph
MOST = 8  # sets of inputs beside the first
SIDES = ("pirol", "torch", "compile", "autotune", "jax")
Call = Callable[..., Any]


def export(workload: Workload, folder: Path, open_sizes: bool = False) -> None:
    """NAME.pirol, NAME.py and NAME.json of a workload; `open_sizes`: the program takes
    any first dim of what has the shape of the workload."""
    import paddle

    path, inputs = workload.save(folder), workload.inputs()
    spec = None
    if open_sizes:
        spec = [
            paddle.static.InputSpec([None, *x.shape[1:]], workload.dtype)
            if x.shape == workload.shape
            else paddle.static.InputSpec(x.shape, workload.dtype)
            for x in inputs
        ]
    tensors = [paddle.to_tensor(bits(x), dtype=workload.dtype) for x in inputs]
    function = load_function(path, "paddle")
    run = pirol.to_static(function, input_spec=spec, strict=True)
    with paddle.no_grad():
        run(*tensors)
    pirol.export(run, str(folder / f"{workload.name}.pirol"), target="cuda:sm_90")
    (folder / f"{workload.name}.json").write_text(json.dumps(asdict(workload)) + "\n")


def parts(found: Any) -> list[Any]:
    """A result's tensors: one, or those of a tuple."""
    return list(found) if isinstance(found, (tuple, list)) else [found]


def bits(array: Any) -> Any:
    """The array; of bfloat16, which NumPy alone has not, its bits."""
    return array.view(np.uint16) if array.dtype == "bfloat16" else array


def read(path: Path) -> Workload:
    """The workload of a JSON file."""
    found = json.loads(path.read_text())
    found["shape"], found["steps"] = tuple(found["shape"]), tuple(found["steps"])
    return Workload(**found)


class Torch:
    """Tensors of torch on a GPU."""

    def __init__(self) -> None:
        import torch

        # float32 throughout, as the others have it.
        torch.backends.cudnn.allow_tf32 = False
        self.torch = torch
        self.name = torch.cuda.get_device_name()

    def standard_normal(self, shape: Any) -> Any:
        """As NumPy's generators have it; drawn on the GPU, which is faster."""
        return self.torch.randn(shape, device="cuda").cpu().numpy()

    def tensors(self, arrays: Sequence[Any]) -> list[Any]:
        kinds = [getattr(self.torch, str(a.dtype)) for a in arrays]
        whole = (self.torch.from_numpy(bits(a)).cuda() for a in arrays)
        return [x.view(kind) for x, kind in zip(whole, kinds)]

    def another(self, tensors: Sequence[Any]) -> list[Any]:
        return [t.clone() for t in tensors]

    def reference(self, workload: Workload, folder: Path, tensors: list[Any]) -> Any:
        function = load_function(folder / f"{workload.name}.py", "torch")
        return function(*map(self.doubled, tensors))

    def doubled(self, tensor: Any) -> Any:
        """In double precision."""
        whole = self.torch.complex128 if tensor.is_complex() else self.torch.float64
        return tensor.to(whole)

    def check(self, where: str, got: Any, wanted: Any, dtype: str) -> None:
        got = got if isinstance(got, self.torch.Tensor) else self.torch.from_dlpack(got)
        if got.shape != wanted.shape or str(got.dtype) != f"torch.{dtype}":
            raise BenchError(f"{where}: got {got.dtype} {tuple(got.shape)}")
        rtol, part = TOLERANCES[dtype]
        limit = rtol * wanted.abs() + part * wanted.abs().max()
        away = (self.doubled(got) - wanted).abs()
        wrong = ~(away <= limit)
        if wrong.any():
            far = away.max().item()
            raise BenchError(f"{where}: {int(wrong.sum())} values are wrong, by {far}")

    def wait(self) -> None:
        self.torch.cuda.synchronize()

    def copy(self) -> float:
        """Bytes a second that a copy of CACHE bytes reads and writes."""
        x = self.torch.randn(CACHE // 4, device="cuda")
        y = self.torch.empty_like(x)
        each, _ = timed(lambda: y.copy_(x), [()], self.wait)
        return 2 * CACHE / each

    def replay(self, call: Call, sets: Sequence[Any], count: int) -> float:
        """Seconds of a call among `count` in a CUDA graph."""
        graph, stream = self.torch.cuda.CUDAGraph(), self.torch.cuda.Stream()
        with self.torch.cuda.stream(stream):
            for given in sets:
                call(*given)
        self.wait()
        with self.torch.cuda.graph(graph):
            for k in range(count):
                call(*sets[k % len(sets)])
        each, _ = timed(graph.replay, [()], self.wait)
        return each / count


class Plain:
    """Pirol's own arrays: without torch there are no peers."""

    name = "a CUDA device"

    def __init__(self) -> None:
        from pirol.compiler import _native
        from pirol.compiler.loaded import DRIVER

        _native.open_cuda(DRIVER)
        self.rng = np.random.default_rng(0)
        self.last: Any = None

    def standard_normal(self, shape: Any) -> Any:
        return self.rng.standard_normal(shape)

    def tensors(self, arrays: Sequence[Any]) -> list[Any]:
        return [of_numpy(np.ascontiguousarray(a)).to(0) for a in arrays]

    def another(self, tensors: Sequence[Any]) -> list[Any]:
        return [t.to(-1).to(0) for t in tensors]

    def reference(self, workload: Workload, folder: Path, tensors: list[Any]) -> Any:
        return workload.reference([to_numpy(t.to(-1)) for t in tensors])

    def check(self, where: str, got: Any, wanted: Any, dtype: str) -> None:
        self.last = got
        check(where, Workload(where, (), (), dtype), to_numpy(got.to(-1)), wanted)

    def wait(self) -> None:
        self.last.to(-1)

    def copy(self) -> float:
        return math.nan

    def replay(self, call: Call, sets: Sequence[Any], count: int) -> float:
        return math.nan


def timed(
    call: Call, sets: Sequence[Sequence[Any]], wait: Callable[[], None]
) -> tuple[float, float]:
    """Seconds of a call among many, medians of ROUNDS: until the device has done it,
    and until the host has."""
    for given in sets:
        call(*given)
    wait()
    count = 1
    while True:
        whole, host = _round(call, sets, wait, count)
        if whole >= LONG / 2 or count >= 4096:
            break
        count *= 2
    found = [_round(call, sets, wait, count) for _ in range(ROUNDS)]
    whole, host = (statistics.median(each) for each in zip(*found))
    return whole / count, host / count


def _round(
    call: Call, sets: Sequence[Any], wait: Callable[[], None], count: int
) -> tuple[float, float]:
    start = time.perf_counter()
    for k in range(count):
        call(*sets[k % len(sets)])
    host = time.perf_counter() - start
    wait()
    return time.perf_counter() - start, host


@dataclass(frozen=True)
class Timing:
    """Seconds of a call, of the host's part of it, and of one in a CUDA graph."""

    call: float
    host: float
    graph: float

    @property
    def best(self) -> float:
        return min(self.call, self.graph) if self.graph == self.graph else self.call


def side(name: str, folder: Path, workload: Workload) -> tuple[Call, Call]:
    """(the call, the tensors it takes from torch's) of Pirol or a peer."""
    stem = folder / workload.name
    if name == "pirol":
        return pirol.load(f"{stem}.pirol", device="cuda"), lambda tensors: tensors
    path = stem.with_suffix(".py")
    if name == "jax":
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
        jax.config.update("jax_enable_x64", workload.dtype == "float64")
        run = jax.jit(load_function(path, "jax"))
        return run, lambda tensors: list(map(jax.dlpack.from_dlpack, tensors))
    import torch

    function = load_function(path, "torch")
    mode = {"compile": "default", "autotune": "max-autotune-no-cudagraphs"}.get(name)
    if mode is not None:
        torch._dynamo.reset()
        function = torch.compile(function, mode=mode)
    return function, lambda tensors: tensors


@dataclass(frozen=True)
class Row:
    """A workload's timings by side; bytes are its inputs' and its results'."""

    workload: Workload
    bytes: int
    timings: dict[str, Timing]
    failed: dict[str, str] = field(default_factory=dict)

    def ratio(self) -> float:
        """Pirol's time over the best peer's; NaN without any."""
        peers = [t.best for name, t in self.timings.items() if name != "pirol"]
        ours = self.timings.get("pirol")
        return ours.best / min(peers) if ours and peers else math.nan

    def line(self, sides: Sequence[str], copy: float) -> str:
        """One line of the table."""
        cells = ""
        for name in sides:
            found = self.timings.get(name)
            shown = "-" if found is None else f"{1e6 * found.best:.1f}"
            cells += f"{shown:>10}"
        ours = self.timings.get("pirol")
        part = self.bytes / ours.best / copy if ours else math.nan
        host = f"{1e6 * ours.host:>9.1f}" if ours else f"{'-':>9}"
        return f"{self.workload.name:<20}{cells}{self.ratio():>9.2f}{part:>8.1%}{host}"


def compare(path: Path, gpu: Any, sides: Sequence[str]) -> Row:
    """Check and time a workload's sides in turn; one that fails is left out."""
    workload, folder = read(path), path.parent
    tensors = gpu.tensors(workload.inputs(gpu))
    wanted = parts(gpu.reference(workload, folder, tensors))
    width = BITS[workload.dtype] // 8
    size, made = (
        sum(math.prod(t.shape) for t in some) * width for some in (tensors, wanted)
    )
    more = min(MOST, CACHE // size)
    sets = [tensors, *(gpu.another(tensors) for _ in range(more))]
    row = Row(workload, size + made, {})
    for name in sides:
        try:
            call, own = side(name, folder, workload)
            where = f"{name}: {workload.name}"
            for got, exact in zip(parts(call(*own(tensors))), wanted, strict=True):
                gpu.check(where, got, exact, workload.dtype)
            given = [own(t) for t in sets]
            row.timings[name] = timing(name, call, given, gpu)
        except Exception as error:
            row.failed[name] = f"{type(error).__name__}: {error}"
            print(f"error: {name}: {workload.name}: {error}", file=sys.stderr)
    return row


def timing(name: str, call: Call, sets: Sequence[Any], gpu: Any) -> Timing:
    """A side's figures; jax has streams of its own, which no graph of ours sees."""
    if name != "jax":
        each, host = timed(call, sets, gpu.wait)
        return Timing(each, host, gpu.replay(call, sets, COUNT))

    def wait() -> None:  # its device works in order
        parts(call(*sets[0]))[-1].block_until_ready()

    each, host = timed(call, sets, wait)
    return Timing(each, host, math.nan)


def device() -> Any:
    """What makes tensors: torch where it sees a GPU, else Pirol itself."""
    try:
        import torch
    except ImportError:
        return Plain()
    return Torch() if torch.cuda.is_available() else Plain()


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pirol bench gpu", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("folder", type=Path, help="where the programs are, or are to be")
    add("--export", action="store_true", help="write the programs; needs Paddle")
    add("--scale", type=int, default=1, help="divide the first dims by this (1)")
    add("--open", action="store_true", help="programs for any first dim")
    add("--sides", default=",".join(SIDES), help="names, with commas (all)")
    add("--workloads", help="names, with commas (all)")
    add("--json", type=Path, help="write all figures to this file")
    return parser.parse_args(arguments)


def run(chosen: argparse.Namespace, names: Sequence[str] | None) -> list[Row]:
    """Print the table as it grows."""
    sides = chosen.sides.split(",")
    gpu = device()
    if isinstance(gpu, Plain):
        sides = ["pirol"]
    copy = gpu.copy()
    print(f"{gpu.name}; a copy of 256 MiB moves {copy / 1e12:.2f} TB/s; times in us")
    heads = "".join(f"{name:>10}" for name in sides)
    print(f"{'workload':<20}{heads}{'/ best':>9}{'of copy':>8}{'host us':>9}")
    rows: list[Row] = []
    for path in sorted(chosen.folder.glob("*.json")):
        if names is not None and path.stem not in names:
            continue
        rows.append(compare(path, gpu, sides))
        print(rows[-1].line(sides, copy), flush=True)
        if chosen.json:
            write(chosen.json, rows)
    ratios = [r.ratio() for r in rows if r.ratio() == r.ratio()]
    if ratios:
        mean = statistics.geometric_mean(ratios)
        print(f"geometric mean of Pirol / best over {len(ratios)}: {mean:.2f}")
    return rows


def write(path: Path, rows: Sequence[Row]) -> None:
    """All figures so far, as JSON."""
    found = [asdict(r) | {"ratio": r.ratio()} for r in rows]
    path.write_text(json.dumps(found, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where a result is wrong."""
    chosen = options(arguments)
    names = chosen.workloads.split(",") if chosen.workloads else None
    if chosen.export:
        chosen.folder.mkdir(parents=True, exist_ok=True)
        for workload in SUITES["gpu"]:
            if names is not None and workload.name not in names:
                continue
            first, *others = workload.shape
            shape = (max(1, first // chosen.scale), *others)
            small = replace(workload, shape=shape)
            export(small, chosen.folder, chosen.open)
        return 0
    rows = run(chosen, names)
    return int(any(r.failed for r in rows))


if __name__ == "__main__":
    sys.exit(main())
