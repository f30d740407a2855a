"""Losses with derivatives in them: Pirol, eager Paddle, eager PyTorch and jax.jit.

    python -m pirol bench derivatives --python /path/to/python/with/torch/and/jax

Equations that a network solves (to the fourth derivative), and molecules whose forces
are matched. Every step is the loss and the gradients of all parameters; before any is
timed, each side's are held against eager Paddle's in float64. Then the sides take
turns, round by round.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from paddle.base import core

import pirol
from pirol.bench.derivatives_eager import EQUATIONS, LOSSES, draw
from pirol.bench.derivatives_paddle import Loss, results, step, tensors
from pirol.bench.graphnet import relative_l2
from pirol.bench.peers import Worker, environment
from pirol.bench.worker import measure, wait_until_quiet
from pirol.compiler.process import threads

WORKER = Path(__file__).with_name("derivatives_worker.py")
SIDES = ("paddle", "torch", "jax")
TOLERANCE = 1e-3  # relative L2 of the loss and all gradients, float32 from float64
Timed = Callable[[float], float]  # seconds of a round -> the median step's


def flat(found: Sequence[Any]) -> Any:
    """The loss and all gradients, one behind the other."""
    return np.concatenate([np.ravel(a) for a in found])


def checked(name: str, side: str, found: Any, exact: Any) -> None:
    """Raises SystemExit where a side found something else than float64."""
    far = relative_l2(found, exact)
    if not far <= TOLERANCE:
        raise SystemExit(f"{name}: {side} is {far:.1e} from Paddle in float64")


def of_paddle(layer: Any, inputs: Sequence[Any]) -> Timed:
    """Rounds of a Layer, eager or compiled."""

    def run(seconds: float) -> float:
        found: float = measure(partial(step, layer, inputs), seconds)["seconds"]
        wait_until_quiet()
        return found

    return run


def of_worker(worker: Worker) -> Timed:
    """Rounds of another process."""
    return lambda seconds: float(worker.ask(do="round", seconds=seconds)["seconds"])


def row(
    name: str, small: bool, rounds: int, length: float, workers: Sequence[Worker]
) -> list[float]:
    """The median milliseconds of Pirol and of each side, in their order, and then the
    median ratios of each side to Pirol, of rounds in one turn."""
    wide = draw(name, small, "float64")
    exact = flat(results(Loss(name, wide), tensors(wide)))
    drawn = draw(name, small)
    runs = []
    for compiled in (True, False):
        layer, inputs = Loss(name, drawn), tensors(drawn)
        layer = pirol.to_static(layer, strict=True) if compiled else layer
        side = "pirol" if compiled else "paddle"
        checked(name, side, flat(results(layer, inputs)), exact)
        runs.append(of_paddle(layer, inputs))
    for worker in workers:
        found = worker.ask(do="load", name=name, small=small)["output"]
        checked(name, worker.name, np.array(found), exact)
        runs.append(of_worker(worker))
    turns = [[run(length) for run in runs] for _ in range(rounds)]
    times = [1e3 * statistics.median(each) for each in zip(*turns)]
    ratios = [
        statistics.median(t[k] / t[0] for t in turns) for k in range(1, len(runs))
    ]
    return [*times, *ratios]


def worker_of(python: str, side: str) -> Worker:
    """A side's process, with as many threads as Pirol has."""
    count = threads()
    command = [python, str(WORKER), side, str(count)]
    return Worker(side, command, environment(count))


def memory(name: str, small: bool, side: str, python: str) -> float | None:
    """The most MB that a side takes for a loss in a process of its own, beyond its
    libraries and the inputs; Pirol's with the plan on disk."""
    for _ in range(2 if side == "pirol" else 1):
        worker = worker_of(python, side)
        try:
            if worker.absent:
                return None
            worker.ask(do="load", name=name, small=small)
            found: float | None = worker.ask(do="memory")["mb"]
        finally:
            worker.close()
    return found


def show_memory(names: Sequence[str], small: bool, python: str) -> None:
    """A table of the most MB of each side."""
    sides = ("pirol", *SIDES)
    print(f"{'loss':22}" + "".join(f"{f'{s} MB':>11}" for s in sides))
    for name in names:
        own = {s: sys.executable if s in ("pirol", "paddle") else python for s in sides}
        found = [memory(name, small, s, own[s]) for s in sides]
        cells = (f"{'-' if mb is None else f'{mb:.1f}':>11}" for mb in found)
        print(f"{name:22}{''.join(cells)}", flush=True)


@contextlib.contextmanager
def narrowed() -> Iterator[None]:
    """This process on the CPUs that the workers narrow themselves to."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[: threads()])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def started(python: str, names: Sequence[str]) -> Iterator[list[Worker]]:
    """The processes of the peers that are there."""
    workers = []
    for name in names:
        workers.append(worker_of(python, name))
        shown = workers[-1].absent or workers[-1].started["version"]
        print(f"{name}: {shown}")
    try:
        yield [w for w in workers if not w.absent]
    finally:
        for worker in workers:
            worker.close()


def summary(sides: Sequence[str], rows: dict[str, list[float]]) -> Iterator[str]:
    """Geometric means: of each side's times over Pirol's, and of the best peer's."""
    for k, side in enumerate(sides):
        ratios = [r[len(sides) + 1 + k] for r in rows.values()]
        yield f"{side} / Pirol, geometric mean: {statistics.geometric_mean(ratios):.2f}"
    peers = [k for k, side in enumerate(sides) if side != "paddle"]
    equations = [r for name, r in rows.items() if name in EQUATIONS]
    if peers and equations:
        best = [min(r[len(sides) + 1 + k] for k in peers) for r in equations]
        mean = statistics.geometric_mean(best)
        yield f"best of the others / Pirol, equations: {mean:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, time, and print milliseconds a step, and times over Pirol's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--python", default=sys.executable, help="interpreter that has torch and jax")
    add("--rounds", type=int, default=9, help="turns of each side (%(default)s)")
    add("--seconds", type=float, default=0.15, help="length of a round (%(default)s)")
    add("--small", action="store_true", help="small sizes, for a try")
    add("--names", help="names, with commas (all)")
    add("--memory", action="store_true", help="the most memory of each side, no times")
    chosen = parser.parse_args(arguments)
    core.set_num_threads(threads())
    names = chosen.names.split(",") if chosen.names else list(LOSSES)
    if unknown := [n for n in names if n not in LOSSES]:
        parser.error(f"unknown {', '.join(unknown)}; known: {', '.join(LOSSES)}")
    if chosen.memory:
        show_memory(names, chosen.small, chosen.python)
        return 0
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(f"load of this machine before: {load:.1f}; threads: {threads()}")
    with narrowed(), started(chosen.python, SIDES[1:]) as workers:
        sides = ["paddle", *(w.name for w in workers)]
        cells = "".join(f"{f'{side} ms':>11}" for side in ("pirol", *sides))
        print(f"{'loss':22}{cells}" + "".join(f"{f'{s} / Pirol':>15}" for s in sides))
        rows = {}
        for name in names:
            found = rows[name] = row(
                name, chosen.small, chosen.rounds, chosen.seconds, workers
            )
            cells = "".join(f"{x:11.2f}" for x in found[: len(sides) + 1])
            ratios = "".join(f"{x:15.2f}" for x in found[len(sides) + 1 :])
            print(f"{name:22}{cells}{ratios}", flush=True)
    print("\n".join(summary(sides, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
