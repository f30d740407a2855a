"""Calibration: the cost model's figures, measured on this machine by small programs.

The seconds of all pieces of work are fitted to the programs' times together, by
non-negative least squares of relative errors: few pieces can be timed by themselves.
Memory's are told by long copies and sums, what they compute taken off.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from pirol.compiler.costs import LAUNCH, Curve, Machine
from pirol.compiler.loaded import of_numpy, refuse, start
from pirol.compiler.micro import FOOTPRINTS, Micro, copy, far, near
from pirol.compiler.pipeline import lower
from pirol.compiler.process import MAPPED_FROM, threads
from pirol.compiler.runtime import Compiled, assemble, compile_kernels, generate
from pirol.kernels.work import Work, work

ROUNDS, CALLS = 5, 40  # of a small program; of a long one as many as take LONG
LONG = 0.05  # seconds
SWEEPS = 2000  # over all pieces of work


def calibrate() -> Machine:
    """Measure this machine on one thread: a minute or less.

    Raises:
        BuildError: there is no C compiler.
    """
    native = start()
    native.set_threads(1)
    small = list(near())
    plans = made(small)
    counted = [counts for _, counts in plans]
    times = [measured(run, m) for (run, _), m in zip(plans, small)]
    machine = memory(fitted(counted, times))
    native.set_threads(threads())
    return machine


def made(programs: Sequence[Micro]) -> list[tuple[Compiled, Work]]:
    """Their plans, and what a call of each does."""
    lowered = [lower(m.graph, {}, level="calls", target="cpu") for m in programs]
    kernels = [generate(found.plan) for found in lowered]
    codes = iter(compile_kernels([k for some in kernels for k in some]))
    found = []
    for program, plan, some in zip(programs, lowered, kernels):
        own = [next(codes) for _ in some]
        run = assemble(plan.plan, program.graph, refuse, own, {"arrays": True})
        (alone,) = some
        found.append((run, {LAUNCH: 1.0, **work(alone.kernel, {})}))
    return found


def measured(run: Compiled, program: Micro) -> float:
    """Seconds of its kernel in a steady call: the least of some medians."""
    given = [of_numpy(x) for x in program.inputs()]
    run.watch(True)

    def once() -> float:
        run.run(given)
        return sum(end - begin for _, begin, end in run.times()) / 1e6

    took = max(once(), once(), 1e-9)
    calls = max(3, min(CALLS, int(LONG / took)))
    rounds = ROUNDS if calls == CALLS else 2
    return min(statistics.median(once() for _ in range(calls)) for _ in range(rounds))


def fitted(counted: Sequence[Work], times: Sequence[float]) -> dict[str, float]:
    """Seconds of each piece of work, none below 0: one piece after the other is moved
    to where the errors are least, until all are."""
    pieces = sorted({piece for counts in counted for piece in counts})
    rows = ([c.get(p, 0) / t for p in pieces] for c, t in zip(counted, times))
    shares = np.array([*rows])
    lengths = (shares**2).sum(0)
    found, left = np.zeros(len(pieces)), np.ones(len(times))
    for _ in range(SWEEPS):
        for k in range(len(pieces)):
            step = max(-found[k], shares[:, k] @ left / lengths[k])
            found[k] += step
            left -= step * shares[:, k]
    return {piece: float(x) for piece, x in zip(pieces, found)}


def memory(costs: dict[str, float]) -> Machine:
    """The machine of these costs, and its memory's figures."""
    sizes, read, written = [], [], []
    for size in FOOTPRINTS:
        copied, summed = timed(far(size), costs[LAUNCH])
        sizes.append(float(size))
        read.append(summed / size)
        written.append(max(copied / (size / 2) - read[-1], 0.0))
    (copied,) = timed([copy(4 * MAPPED_FROM)], costs[LAUNCH])
    fresh = copied / (2 * MAPPED_FROM) - read[-1]
    nearer, later = (Curve(tuple(sizes), tuple(c)) for c in (read, written))
    return Machine(costs, nearer, later, fresh, measured=True)


def timed(programs: Sequence[Micro], start: float) -> list[float]:
    """Seconds of some programs, beside the start of a kernel."""
    plans = made(programs)
    return [max(measured(run, m) - start, 0.0) for (run, _), m in zip(plans, programs)]
