"""Compiles, checks and times GraphNet samples, each in a process of its own.

    python -m pirol bench graphnet DIR --out found.jsonl

Reads the shared form (*.json.gz) and GraphNet's own folders. A crash, a hang or a
full memory ends one sample's process and is noted; a run that was broken off goes on
where FILE ends. docs/bench.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from pirol.bench.peers import environment
from pirol.bench.score import LEVELS, Outcome, es, family, s

Record = dict[str, Any]
SHOWN = (-5, 0, 1)  # the levels in the table of families
STAGES = {"compile": "compile"}  # stage -> class of error; any other: runtime


def samples(root: Path) -> list[tuple[str, Path]]:
    """(name, path) of the samples at and under a path, by name."""
    root = root.resolve()
    if root.is_file() or (root / "model.py").exists():
        return [(_name(root, root.parents[min(2, len(root.parents) - 1)]), root)]
    files = root.rglob("*.json.gz")
    folders = (p.parent for p in root.rglob("model.py"))
    return sorted((_name(p, root), p) for p in (*files, *folders))


def _name(path: Path, root: Path) -> str:
    if path.name.endswith(".json.gz"):
        return path.name.removesuffix(".json.gz")
    return path.relative_to(root).as_posix()


def run_child(command: Sequence[str], env: dict[str, str], timeout: float) -> Record:
    """What a child found: its own record, or how and at which stage it ended."""
    with tempfile.TemporaryFile() as noise:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            env=env,
            start_new_session=True,
        )
        late = False
        try:
            said, _ = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            # The child's own children, a C compiler for one, are in its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        if late:
            said, _ = child.communicate()
        noise.seek(max(0, noise.seek(0, os.SEEK_END) - 300))
        tail = " ".join(noise.read().decode(errors="replace").split())
    return _judged(said, child.returncode, timeout if late else None, tail)


def _judged(said: str, status: int, limit: float | None, tail: str) -> Record:
    stage, found = "load", None
    for line in said.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            told = json.loads(line)
            stage, found = told.get("stage", stage), told.get("found", found)
    if found is not None:
        return _failed(found)
    if limit is not None:
        return _failed({"failed": stage, "why": f"over {limit:g} s", "how": "timeout"})
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    why = name if status < 0 else f"{name}: {tail}"
    return _failed({"failed": stage, "why": why})


def _failed(found: Record) -> Record:
    """The record of a child that did not come to its end."""
    if "failed" not in found:
        return found
    stage = found["failed"]
    how = "no oracle" if stage in ("load", "paddle") else found.get("how", "crash")
    why = f"{found['why']} in stage {stage}"
    return {"verdict": how, "why": why, "class": STAGES.get(stage, "runtime")}


def run_sample(name: str, path: Path, chosen: argparse.Namespace) -> Record:
    """The record of one sample."""
    request: Record = {"path": str(path), "name": name, "gflop": chosen.gflop}
    request["gradients"] = chosen.gradients
    with tempfile.TemporaryDirectory() as cache:
        env = environment(chosen.threads) | {"PIROL_CACHE_DIR": f"{cache}/pirol"}
        found = run_child(_command(request), env, chosen.timeout)
        alone = chosen.warm and "pirol_first" in found
        for side in ("pirol", "paddle") if alone else ():
            again = run_child(_command(request, side), env, chosen.timeout)
            found |= {k: v for k, v in again.items() if k.startswith(side)}
    return {"name": name, "threads": chosen.threads, **found}


def _command(request: Record, alone: str = "") -> list[str]:
    asked = json.dumps(request | {"alone": alone})
    return [sys.executable, "-m", "pirol.bench.graphnet_child", asked]


def recorded(path: Path | None) -> dict[str, Record]:
    """The records of an earlier run by name; a line that was cut off is no record."""
    found: dict[str, Record] = {}
    if path is None or not path.exists():
        return found
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            found[record["name"]] = record
    return found


def keep(path: Path | None, record: Record) -> None:
    """Append a record; it starts a line of its own, whatever was cut off before."""
    if path is None:
        return
    with path.open("a+b") as file:
        if file.tell() and not _ends_line(file):
            file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def text_of(record: Record) -> str:
    """A sample's line."""
    verdict = record["verdict"]
    if verdict != "right":
        verdict = f"{verdict}: {record['why']}"
    cells = [
        _cell("error", record.get("error"), ".1e"),
        _cell("speedup", record.get("speedup"), ".2f"),
        _cell("coverage", record.get("coverage"), ".2f"),
        _cell("first s", record.get("pirol_first"), ".2f"),
        _cell("warm", record.get("pirol_again"), ".2f"),
        _cell("Paddle", record.get("paddle_first"), ".2f"),
        _cell("MB", record.get("pirol_mb"), ".0f"),
        _cell("Paddle", record.get("paddle_mb"), ".0f"),
    ]
    return f"{record['name']}  {verdict}  {'  '.join(c for c in cells if c)}".rstrip()


def _cell(name: str, value: float | None, form: str) -> str:
    return "" if value is None else f"{name} {value:{form}}"


def outcome(record: Record) -> Outcome:
    """A record as the scores take it."""
    level, speedup = record.get("level"), record.get("speedup", 1.0)
    return Outcome(speedup, level, record.get("class", ""))


def summary(records: Sequence[Record]) -> list[str]:
    """The scores' lines: by level, and by family."""
    judged = [r for r in records if r["verdict"] != "no oracle"]
    left = len(records) - len(judged)
    lines = [f"{len(judged)} samples; {left} that Paddle itself cannot run left out"]
    every = [outcome(r) for r in judged]
    lines.append("\n   t      S(t)     ES(t)")
    lines += [f"{t:4}  {s(every, t):8.3f}  {es(every, t):8.3f}" for t in LEVELS]
    heads = "".join(f"{f'S({t})':>9}{f'ES({t})':>9}" for t in SHOWN)
    lines.append(f"\n{'family':<20}{'right':>9}{'coverage':>10}{heads}")
    groups: dict[str, list[Record]] = {}
    for record in judged:
        groups.setdefault(family(record["name"]), []).append(record)
    lines += [_row(name, groups[name]) for name in sorted(groups)]
    return [*lines, _row("all", judged), "", *_costs(judged)]


def gradients(records: Sequence[Record]) -> list[str]:
    """Of how many samples and inputs gradients were held, and who computed them."""
    held = [r for r in records if r["verdict"] != "no oracle" and "gradients" in r]
    right = sum(r["verdict"] == "right" for r in held)
    whole = sum(
        not any(f.startswith("the program") for f in r["fallbacks"]) for r in held
    )
    return [
        f"{right} of {len(held)} right, {sum(r['gradients'] for r in held)} gradients; "
        f"{whole} without Paddle's own run; {len(records) - len(held)} not held"
    ]


def _costs(records: Sequence[Record]) -> list[str]:
    """First calls, memory and memory traffic, as far as they were measured."""
    lines = []
    slower = [r for r in records if r.get("within") and r["within"][1] < 1]
    lines += [f"slower than Paddle: {r['name']} {r['speedup']:.2f}" for r in slower]
    cold = [r["pirol_first"] - r["pirol_ms"] / 1e3 for r in records if "pirol_ms" in r]
    if cold:
        lines.append(f"first call less a steady one, cold: {_spread(cold)} s")
    pairs = [r for r in records if "pirol_mb" in r and "paddle_mb" in r]
    if pairs:
        later = [r["pirol_again"] - r["paddle_again"] for r in pairs]
        lines.append(f"warm, beyond Paddle's first call: {_spread(later)} s")
        memory = [r["pirol_mb"] / r["paddle_mb"] for r in pairs]
        lines.append(f"peak memory over Paddle's: {_spread(memory)}")
    traced = [r for r in records if "factors" in r and r["bytes"][1]]
    if traced:
        whole = np.array([r["bytes"] for r in traced])
        beside = whole - np.array([r["factors"] for r in traced])
        form = "bytes moved, of one kernel an op: {}; but for operands of products: {}"
        lines.append(form.format(*map(_shares, (whole, beside))))
    return lines


def _shares(moved: Any) -> str:
    """Of bytes [samples, (ours, one kernel an op)]: over all, and of each sample."""
    ours, apart = moved.sum(0)
    some = moved[moved[:, 1] > 0]
    return f"{ours / apart:.2f} in sum, {np.median(some[:, 0] / some[:, 1]):.2f} median"


def _spread(numbers: Sequence[float]) -> str:
    middle, high = np.quantile(numbers, (0.5, 0.9))
    return f"median {middle:.2f}, p90 {high:.2f}, most {max(numbers):.2f}"


def _row(name: str, records: Sequence[Record]) -> str:
    right = sum(r["verdict"] == "right" for r in records)
    parts = [r["coverage"] for r in records if "coverage" in r]
    covered = sum(parts) / len(parts) if parts else math.nan
    found = [outcome(r) for r in records]
    scores = "".join(f"{s(found, t):9.3f}{es(found, t):9.3f}" for t in SHOWN)
    return f"{name:<20}{f'{right}/{len(records)}':>9}{covered:10.3f}{scores}"


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pirol bench graphnet",
        description=(__doc__ or "").splitlines()[0],
    )
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    add = parser.add_argument
    add("dir", type=Path, help="folder of samples, or one sample")
    add("--out", type=Path, help="JSON lines file; the samples in it are not run again")
    add("--again", action="store_true", help="run the samples in FILE, too")
    add("--names", default="*", help="parts or shell patterns of names, with commas")
    add("--limit", type=int, help="at most this many samples")
    add("--threads", type=int, default=cpus, help="threads of both (%(default)s)")
    add("--timeout", type=float, default=600, help="seconds a sample (%(default)g)")
    add(
        "--gflop",
        type=float,
        default=20,
        help="larger graphs run once, or not at all with --gradients (%(default)g)",
    )
    warm = "time a first call on a filled cache, and measure memory, of each side alone"
    backward = "hold gradients of all float inputs against Paddle's; time nothing"
    add("--gradients", action="store_true", help=backward)
    add("--warm", action="store_true", help=warm)
    return parser.parse_args(arguments)


def selected(chosen: argparse.Namespace) -> list[tuple[str, Path]]:
    """The samples that --names and --limit leave."""
    patterns = chosen.names.split(",")
    found = [
        (name, path)
        for name, path in samples(chosen.dir)
        if any(fnmatch(name, p) or p in name for p in patterns)
    ]
    return found[: chosen.limit]


def records(chosen: argparse.Namespace) -> Iterator[Record]:
    """Each selected sample's record, from the file or a run."""
    old = {} if chosen.again else recorded(chosen.out)
    for name, path in selected(chosen):
        record = old.get(name) or run_sample(name, path, chosen)
        if name not in old:
            keep(chosen.out, record)
        yield record


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where a sample is not right, 2 where there is none."""
    chosen = options(arguments)
    found = []
    for record in records(chosen):
        print(text_of(record), flush=True)
        found.append(record)
    if not found:
        print(f"error: no samples for {chosen.names} in {chosen.dir}", file=sys.stderr)
        return 2
    lines = gradients(found) if chosen.gradients else summary(found)
    print("\n" + "\n".join(lines))
    return int(any(r["verdict"] not in ("right", "no oracle") for r in found))


if __name__ == "__main__":
    sys.exit(main())
