"""What a call of a small compiled function costs, beyond its kernels.

    python -m pirol bench calls

Functions of N tensors of one element each, so that kernels take next to nothing: the
line through their times gives the cost of a call, and of each tensor. Paddle's own
to_static and its eager ops are timed in turn with them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle

import pirol
from pirol.bench.demo import medians
from pirol.bench.graphnet_folder import run_file

COUNTS = (1, 2, 4, 8, 16, 32)
Call = Callable[[], Any]


def source(count: int) -> str:
    """A function that adds `count` tensors and 1."""
    names = [f"x{k}" for k in range(count)]
    return f"def total({', '.join(names)}):\n    return {' + '.join(names)} + 1.0\n"


def function(count: int, folder: Path) -> Any:
    """The function, from a file: Paddle reads the source of what it captures."""
    path = folder / f"total{count}.py"
    path.write_text(source(count))
    return run_file(path).total


def sides(total: Any, count: int) -> list[Call]:
    """Calls of Pirol's, of Paddle's to_static, and of eager Paddle."""
    inputs = [paddle.ones([1]) for _ in range(count)]
    ours = pirol.to_static(total, strict=True)
    theirs = paddle.jit.to_static(total, full_graph=True, backend=None)
    return [partial(f, *inputs) for f in (ours, theirs, total)]


def line(counts: Sequence[int], times: Sequence[float]) -> tuple[float, float]:
    """(time of a call, time of each tensor): the line nearest to all."""
    slope, start = np.polyfit(counts, times, 1)
    return float(start), float(slope)


def repeated(call: Call, calls: int) -> Call:
    """The call, made many times."""

    def run() -> None:
        for _ in range(calls):
            call()

    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Time, and print microseconds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=30, help="turns of each (%(default)s)")
    add("--calls", type=int, default=200, help="calls a turn (%(default)s)")
    chosen = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as work, paddle.no_grad():
        for count in COUNTS:
            runs = sides(function(count, Path(work)), count)
            many = [repeated(run, chosen.calls) for run in runs]
            for run in many:
                run()
            found = medians(many, chosen.rounds)
            rows.append([1e3 * ms / chosen.calls for ms in found])
    print("tensors    pirol us  to_static us    eager us")
    for count, (ours, static, eager) in zip(COUNTS, rows):
        print(f"{count:7}{ours:12.2f}{static:14.2f}{eager:12.2f}")
    start, slope = line(COUNTS, [row[0] for row in rows])
    print(f"pirol: {start:.2f} us a call and {slope:.3f} us a tensor")
    return 0


if __name__ == "__main__":
    sys.exit(main())
