"""Where a workload's time goes: its compilation and its steps, as a trace.

    python -m pirol bench profile softmax --scale 64
    python -m pirol bench profile softmax.pirol --device cuda

A workload by its name is exported first, which needs Paddle; a file is as pirol.export,
or `bench gpu --export`, wrote it. The trace, for ui.perfetto.dev or chrome://tracing,
has the passes, the compilation of each kernel, and calls with their steps: on the CPU
by its clock, on CUDA by events. There Nsight Systems and Nsight Compute are run as
well, each where it is found: launches are made one by one, in NVTX ranges.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pirol
from pirol.bench import loaded as bench_loaded
from pirol.bench.suites import SUITES
from pirol.bench.workloads import FIXED, FURTHER, Workload
from pirol.compiler import archive, loaded
from pirol.compiler.pipeline import lower
from pirol.compiler.runtime import compile_cuda, compile_kernels, generate
from pirol.kernels.render import CPU, CUDA

TOOLS = {
    "nsys": ("profile", "--trace=cuda,nvtx", "--force-overwrite=true", "--output"),
    "ncu": ("--nvtx", "--force-overwrite", "--export"),
}
COMPILE, CALLS = 1, 2  # the trace's processes


def microseconds() -> float:
    """The clock that the trace's times are of."""
    return time.perf_counter_ns() / 1e3


@dataclass
class Trace:
    """Events in Chrome's trace format; a track is (process, its name)."""

    events: list[dict[str, Any]] = field(default_factory=list)
    tracks: dict[tuple[int, str], int] = field(default_factory=dict)
    start: float = field(default_factory=microseconds)

    def add(
        self, process: int, track: str, name: str, begin: float, end: float
    ) -> None:
        """Something that went on from `begin` to `end`."""
        key = (process, track)
        if key not in self.tracks:
            self.tracks[key] = len(self.tracks) + 1
            self.events.append(self._named("thread_name", key, track))
        where = {"pid": process, "tid": self.tracks[key]}
        span = {"ts": begin - self.start, "dur": end - begin}
        self.events.append({"name": name, "ph": "X", **where, **span})

    @contextmanager
    def span(self, process: int, track: str, name: str) -> Iterator[None]:
        """What is done within."""
        begin = microseconds()
        yield
        self.add(process, track, name, begin, microseconds())

    def _named(self, what: str, key: tuple[int, str], name: str) -> dict[str, Any]:
        where = {"pid": key[0], "tid": self.tracks.get(key, 0)}
        return {"name": what, "ph": "M", **where, "args": {"name": name}}

    def write(self, path: Path) -> None:
        """The trace as a file."""
        names = {COMPILE: "compilation", CALLS: "calls"}
        heads = [
            self._named("process_name", (k, ""), name) for k, name in names.items()
        ]
        path.write_text(json.dumps({"traceEvents": [*heads, *self.events]}) + "\n")


def compilation(trace: Trace, path: Path, device: int) -> None:
    """Every pass, and every kernel from an empty cache."""
    graph, arch = archive.read(str(path)).graph, ""
    if device >= 0:
        native = loaded.start()
        native.open_cuda(loaded.DRIVER)
        arch = native.cuda_arch(device)
    target = loaded.target_on(graph, device, arch)
    last = microseconds()

    def progress(name: str, _: float) -> None:
        nonlocal last
        trace.add(COMPILE, "passes", name, last, microseconds())
        last = microseconds()

    lowered = lower(graph, {}, progress, level="calls", target=target)
    with trace.span(COMPILE, "passes", "schedule and render"):
        kernels = generate(lowered.plan, CUDA if device >= 0 else CPU)
    alike = {k.kernel.name: k for k in kernels}
    with own_cache():
        for name, kernel in alike.items():
            with trace.span(COMPILE, "kernels", name):
                if device >= 0:
                    compile_cuda([kernel], arch, {})
                else:
                    compile_kernels([kernel])


@contextmanager
def own_cache() -> Iterator[None]:
    """A cache of kernels that is empty, and goes away."""
    before = os.environ.get("PIROL_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PIROL_CACHE_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["PIROL_CACHE_DIR"]
            if before is not None:
                os.environ["PIROL_CACHE_DIR"] = before


def calls(trace: Trace, run: Any, given: Sequence[Any], count: int) -> dict[str, float]:
    """Calls with their steps; the median of each step's microseconds, by its name."""
    steps = "steps, by the CPU's clock" if run.device < 0 else "steps, by CUDA's events"
    taken: dict[str, list[float]] = defaultdict(list)
    run.watch()
    for number in range(count):
        begin = microseconds()
        run(*given)
        trace.add(CALLS, "calls", f"call {number}", begin, microseconds())
        times = run.times()
        for name, start, end in times:
            trace.add(CALLS, steps, name, begin + start, begin + end)
        for name in dict.fromkeys(name for name, *_ in times):
            taken[name].append(sum(b - a for n, a, b in times if n == name))
    run.watch(False)
    return {name: statistics.median(found) for name, found in taken.items()}


def known() -> dict[str, Workload]:
    """The workloads by name; of equal names the first."""
    every = [*FIXED, *FURTHER, *(w for suite in SUITES.values() for w in suite)]
    every.sort(key=lambda w: w not in SUITES["gpu"])
    return {w.name: w for w in reversed(every)}


def program(chosen: argparse.Namespace) -> Path:
    """The file of the program, exported if a workload is named."""
    if chosen.workload.endswith(".pirol"):
        return Path(chosen.workload)
    workload = known().get(chosen.workload)
    if workload is None:
        raise SystemExit(
            f"no workload {chosen.workload}; there are {', '.join(known())}"
        )
    from pirol.bench.gpu import export

    first, *others = workload.shape
    export(
        replace(workload, shape=(max(1, first // chosen.scale), *others)), chosen.out
    )
    return Path(chosen.out) / f"{workload.name}.pirol"


def nsight(path: Path, chosen: argparse.Namespace) -> None:
    """Run the calls alone under each of NVIDIA's profilers that is found."""
    again = [sys.executable, "-m", "pirol", "bench", "profile", str(path), "--plain"]
    again += ["--device", chosen.device, "--calls", str(chosen.calls)]
    again += ["--size", str(chosen.size)]
    for name, options in TOOLS.items():
        tool = shutil.which(name)
        if tool is None:
            print(f"{name} is not on the PATH")
            continue
        report = chosen.out / f"{path.stem}-{name}"
        command = [tool, *options, str(report), *again]
        environment = os.environ | {"PIROL_CUDA_GRAPHS": "0"}
        done = subprocess.run(command, env=environment, check=False).returncode
        print(f"{name}: {'a report' if done == 0 else f'status {done}'}: {report}")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pirol bench profile",
        description=(__doc__ or "").splitlines()[0],
    )
    add = parser.add_argument
    add("workload", help="a name, or a file that pirol.export wrote")
    add("--device", default="cpu", help="cpu, cuda or cuda:1 (%(default)s)")
    add("--calls", type=int, default=5, help="(%(default)s)")
    add("--scale", type=int, default=1, help="divide a workload's first dim (1)")
    add("--size", type=int, default=32, help="of what a file leaves open (%(default)s)")
    add("--out", type=Path, default=Path("build/profile"), help="folder (%(default)s)")
    add("--plain", action="store_true", help="the calls alone, for other profilers")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile, and print what the steps take."""
    chosen = parsed(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    path, trace = program(chosen), Trace()
    run = pirol.load(str(path), chosen.device, graphs=False)
    given = bench_loaded.inputs(str(path), chosen.size, run.device)
    bench_loaded.leaf(run(*given)).to(-1)
    if chosen.plain:
        for _ in range(chosen.calls):
            found = run(*given)
        bench_loaded.leaf(found).to(-1)
        return 0
    compilation(trace, path, run.device)
    taken = calls(trace, run, given, chosen.calls)
    for name, each in sorted(taken.items(), key=lambda item: -item[1]):
        print(f"{each:10.1f} us  {name}")
    trace.write(chosen.out / f"{path.stem}.trace.json")
    print(f"{chosen.out / path.stem}.trace.json: open it in ui.perfetto.dev")
    if run.device >= 0:
        nsight(path, chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
