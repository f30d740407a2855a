"""Times the same work in Pirol, torch.compile and jax.jit; Paddle for reference.

    python -m pirol.bench.peers --python /path/to/python/with/torch/and/jax

Every peer runs in a process of its own with the same inputs and threads. After all
results were found equal to NumPy's, the peers take turns, one short round each.
docs/bench.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pirol.bench.suites import SUITES
from pirol.bench.workloads import FIXED, FURTHER, Workload, drawn

WORKER = Path(__file__).with_name("worker.py")
OURS = "pirol"
PEERS = ("torch", "jax")  # what Pirol is measured against
REFERENCES = ("paddle", "to_static")
# dtype -> relative tolerance, and absolute as a part of the result's largest value
TOLERANCES = {"float32": (1e-4, 1e-5), "float64": (1e-10, 1e-11)}
TOLERANCES["complex64"] = TOLERANCES["float32"]
TOLERANCES["bfloat16"] = (5e-2, 2e-2)  # each step rounds, to 1 in 256


class BenchError(Exception):
    """A worker failed, or gave a wrong result."""


class Worker:
    """One peer's process, asked and answered by lines of JSON."""

    def __init__(
        self, name: str, command: Sequence[str], env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self.started = self.read()

    @property
    def absent(self) -> str:
        """Why this peer cannot run, or ""."""
        return str(self.started.get("absent", ""))

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request."""
        assert self.process.stdin is not None
        # Where the worker has ended, read() says how.
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.read()
        if "error" in answer:
            raise BenchError(f"{self.name}: {request['do']}: {answer['error']}")
        return answer

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise BenchError(f"{self.name}: the worker ended with status {code}")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def environment(threads: int) -> dict[str, str]:
    """The variables that hold every framework to `threads` threads.

    JAX has no setting of its own for its CPU client: it counts the CPUs that the
    process may use (the worker narrows them), or NPROC.
    """
    many = "true" if threads > 1 else "false"
    xla = f"--xla_cpu_multi_thread_eigen={many} intra_op_parallelism_threads={threads}"
    names = ("OMP", "MKL", "OPENBLAS")
    count = {f"{name}_NUM_THREADS": str(threads) for name in names}
    count |= {"PIROL_THREADS": str(threads), "NPROC": str(threads)}
    return os.environ | count | {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu"}


def start(name: str, python: str, threads: int) -> Worker:
    """The worker of a peer; torch and jax run in `python`, the others in this one."""
    interpreter = python if name in PEERS else sys.executable
    command = [interpreter, str(WORKER), name, str(threads)]
    return Worker(name, command, environment(threads))


def check(name: str, workload: Workload, got: Any, reference: Any) -> None:
    """Raises BenchError where a result has not the dtype or values it should have."""
    where, dtype = f"{name}: {workload}", workload.dtype
    if got.dtype != dtype or got.shape != reference.shape:
        raise BenchError(
            f"{where}: got {got.dtype} {got.shape}, expected {dtype} {reference.shape}"
        )
    rtol, part = TOLERANCES[dtype]
    atol = part * float(np.abs(reference).max())
    wrong = ~np.isclose(got, reference, rtol=rtol, atol=atol)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise BenchError(
            f"{where}: {int(wrong.sum())} of {wrong.size} values differ from NumPy's, "
            f"first at {at}: got {got[at]!r}, expected {reference[at]!r}"
        )


@dataclass(frozen=True)
class Timing:
    """A peer's rounds: seconds of each; page faults and busy cores, medians."""

    seconds: list[float]
    faults: float
    cores: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Row:
    """A workload's timings, by peer."""

    workload: Workload
    timings: dict[str, Timing]

    def ratios(self) -> list[float]:
        """Pirol's time over the best peer's, for each round; empty without peers."""
        peers = [t.seconds for name, t in self.timings.items() if name in PEERS]
        ours = self.timings.get(OURS)
        if ours is None or not peers:
            return []
        return [mine / min(other) for mine, *other in zip(ours.seconds, *peers)]

    def ratio(self) -> float | None:
        """The median of the rounds' ratios."""
        ratios = self.ratios()
        return statistics.median(ratios) if ratios else None

    def record(self) -> dict[str, Any]:
        """The row as --json writes it."""
        found = {
            name: asdict(t) | {"median": t.median} for name, t in self.timings.items()
        }
        return {
            **asdict(self.workload),
            "timings": found,
            "ratios": self.ratios(),
            "ratio": self.ratio(),
        }


def prepare(workload: Workload, workers: Sequence[Worker]) -> list[Worker]:
    """Have every worker compile the workload, and check what it computes; those that
    did, among the references, which need not have it all."""
    able = []
    inputs = workload.inputs()
    reference = workload.reference(inputs)
    with tempfile.TemporaryDirectory() as folder:
        workload.save(Path(folder))
        for k, array in enumerate(inputs):
            np.save(Path(folder) / f"input{k:04}.npy", array)
        for w in workers:
            try:
                answer = w.ask(do="load", workload=workload.name, folder=folder)
            except BenchError:
                if w.name not in REFERENCES:
                    raise
                continue
            check(w.name, workload, np.load(answer["output"]), reference)
            able.append(w)
    return able


def compare(
    workload: Workload, workers: Sequence[Worker], rounds: int, seconds: float
) -> Row:
    """Check all workers' results, then time them in turns.

    Raises:
        BenchError: a worker failed, or its result is wrong.
    """
    workers = prepare(workload, workers)
    found: dict[str, list[dict[str, Any]]] = {w.name: [] for w in workers}
    for turn in range(rounds):
        # Each begins in turn, so that none always follows the same other.
        first = turn % len(workers)
        for w in (*workers[first:], *workers[:first]):
            found[w.name].append(w.ask(do="round", seconds=seconds))
    return Row(workload, {n: _timing(a) for n, a in found.items()})


def _timing(answers: list[dict[str, Any]]) -> Timing:
    return Timing(
        [a["seconds"] for a in answers],
        statistics.median(a["faults"] for a in answers),
        statistics.median(a["cores"] for a in answers),
    )


def heading(names: Sequence[str]) -> str:
    """The table's first line."""
    cells = "".join(f"{name + ' ms':>14}" for name in names)
    return f"{'workload':<20}{cells}{'Pirol / best':>14}"


def line(row: Row, names: Sequence[str]) -> str:
    """One workload's line of the table; "-" of those that could not run it."""
    ratio, cells = row.ratio(), ""
    for name in names:
        timing = row.timings.get(name)
        cells += f"{'-':>14}" if timing is None else f"{1e3 * timing.median:>14.4f}"
    shown = "-" if ratio is None else f"{ratio:.2f}"
    return f"{row.workload.name:<20}{cells}{shown:>14}"


def geometric_mean(rows: Sequence[Row]) -> float | None:
    """The geometric mean of the rows' ratios; None without any."""
    ratios = [ratio for row in rows if (ratio := row.ratio()) is not None]
    return statistics.geometric_mean(ratios) if ratios else None


def _known(
    parser: argparse.ArgumentParser, names: list[str], known: Collection[str]
) -> list[str]:
    unknown = [n for n in names if n not in known]
    if unknown:
        parser.error(f"unknown {', '.join(unknown)}; known: {', '.join(known)}")
    return names


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed and completed command line."""
    every = (OURS, *PEERS, *REFERENCES)
    parser = argparse.ArgumentParser(
        prog="python -m pirol.bench.peers", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--python", default=sys.executable, help="interpreter that has torch and jax")
    add("--threads", type=int, default=2, help="threads of every peer (2)")
    add("--peers", default=",".join(every), help="names, with commas (all)")
    add("--workloads", help="names, with commas (all but layer_norm, small_bias_relu)")
    add("--suite", choices=sorted(SUITES), help="time these workloads instead")
    add("--seed", type=int, help="time variants of the workloads, drawn by this seed")
    add("--rounds", type=int, help="turns that each peer gets (30)")
    add("--seconds", type=float, help="length of a round (0.1)")
    add("--scale", type=int, default=1, help="divide every dim by this (1)")
    add("--quick", action="store_true", help="5 rounds of 0.02 s")
    add("--json", type=Path, help="write all rounds' figures to this file")
    found = parser.parse_args(arguments)
    found.rounds = found.rounds or (5 if found.quick else 30)
    found.seconds = found.seconds or (0.02 if found.quick else 0.1)
    further: Sequence[Workload]
    if found.suite is not None:
        usual, further = SUITES[found.suite], ()
    elif found.seed is None:
        usual, further = FIXED, FURTHER
    else:
        usual, further = drawn(found.seed), ()
    table = {w.name: w.scaled(found.scale) for w in (*usual, *further)}
    names = found.workloads.split(",") if found.workloads else [w.name for w in usual]
    found.peers = _known(parser, found.peers.split(","), every)
    found.workloads = [table[n] for n in _known(parser, names, table)]
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    if found.threads < 1 or 0 < cpus < found.threads:
        parser.error(f"--threads {found.threads}: this process may use {cpus} CPUs")
    if shutil.which(found.python) is None:
        parser.error(f"--python {found.python}: no such program")
    return found


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def run(chosen: argparse.Namespace, workers: list[Worker]) -> list[Row]:
    """Start the chosen peers, adding them to `workers`; print the table as it grows."""
    for name in chosen.peers:
        w = start(name, chosen.python, chosen.threads)
        workers.append(w)
        shown = f"absent ({w.absent})" if w.absent else w.started["version"]
        print(f"{name}: {shown}", flush=True)
    present = [w for w in workers if not w.absent]
    if not present:
        raise BenchError("none of the chosen peers is present")
    print(f"threads: {chosen.threads}; rounds: {chosen.rounds} of {chosen.seconds} s")
    print(f"load of this machine before: {_load():.1f} of {os.cpu_count()} CPUs")
    seeded = "" if chosen.seed is None else f", drawn by seed {chosen.seed}"
    print(f"workloads{seeded}:", *chosen.workloads, sep="\n  ")
    print("\n" + heading([w.name for w in present]))
    rows = []
    for workload in chosen.workloads:
        rows.append(compare(workload, present, chosen.rounds, chosen.seconds))
        print(line(rows[-1], [w.name for w in present]), flush=True)
    if (mean := geometric_mean(rows)) is not None:
        print(f"geometric mean of Pirol / best over {len(rows)}{seeded}: {mean:.2f}")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where a worker failed or computed something else."""
    chosen = options(arguments)
    workers: list[Worker] = []
    try:
        rows = run(chosen, workers)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        for w in workers:
            w.close()
    if chosen.json:
        record = {
            "seed": chosen.seed,
            "threads": chosen.threads,
            "rounds": chosen.rounds,
            "seconds": chosen.seconds,
            "peers": {w.name: w.started for w in workers},
            "geometric_mean": geometric_mean(rows),
            "rows": [r.record() for r in rows],
        }
        chosen.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
