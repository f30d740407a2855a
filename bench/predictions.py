"""How well the cost model predicts kernels that it was not fitted on.

    python -m pirol doctor --calibrate
    python -m pirol bench predictions --suite complex

Each workload runs on one thread, and each of its kernels' medians is held against what
`pirol.explain` predicted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import paddle

import pirol
from pirol.bench.suites import SUITES
from pirol.bench.worker import load_function, wait_until_quiet
from pirol.bench.workloads import FIXED, FURTHER, Workload

CALLS = 15


@dataclass(frozen=True)
class Found:
    """A kernel of a workload, in seconds."""

    workload: str
    kernel: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Of the prediction, of what was measured."""
        return abs(self.predicted / self.measured - 1)

    def __str__(self) -> str:
        times = (f"{1e6 * t:10.2f}" for t in (self.predicted, self.measured))
        ratio = self.predicted / self.measured
        return f"{' '.join(times)} {ratio:6.2f}  {self.workload} {self.kernel}"


def kernels_of(workload: Workload) -> list[Found]:
    """The kernels of a workload, each predicted and measured."""
    with tempfile.TemporaryDirectory() as folder:
        function = load_function(workload.save(Path(folder)), "paddle")
        inputs = [paddle.to_tensor(x) for x in workload.inputs()]
        compiled = pirol.to_static(function)
        took: dict[int, list[float]] = {}
        with paddle.no_grad():
            compiled(*inputs)
            pirol.explain(compiled, measure=True)
            for _ in range(CALLS):
                compiled(*inputs)
                groups = pirol.explain(compiled).groups
                for k, group in enumerate(groups):
                    if group.measured is not None:
                        took.setdefault(k, []).append(group.measured)
    found = [(groups[k], statistics.median(times)) for k, times in took.items()]
    return [Found(workload.name, g.kernel, g.predicted, t) for g, t in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit status."""
    os.environ["PIROL_THREADS"] = "1"
    parser = argparse.ArgumentParser(prog="python -m pirol bench predictions")
    suites = {"fixed": FIXED + FURTHER, **SUITES}
    parser.add_argument("--suite", choices=suites, default="fixed")
    parser.add_argument("--scale", type=int, default=1, help="divide every dim by it")
    chosen = parser.parse_args(arguments)
    print("predicted us, measured us, their ratio")
    found: list[Found] = []
    for workload in suites[chosen.suite]:
        wait_until_quiet()
        new = kernels_of(workload.scaled(chosen.scale))
        print(*new, sep="\n", flush=True)
        found += new
    median = statistics.median(f.error for f in found)
    print(f"{len(found)} kernels: median error {100 * median:.0f}%")
    return 0


if __name__ == "__main__":
    sys.exit(main())
