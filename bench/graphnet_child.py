"""One GraphNet sample, in a process of its own: compiled, compared, timed, traced.

    python -m pirol.bench.graphnet_child REQUEST      (a JSON object)

Lines of JSON on stdout: {"stage": NAME} as it goes, {"found": {...}} at the end, and
before a stage that only adds to it. What kills this process leaves the last stage, or
the last finding, for the parent (graphnet_run.py) to report.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import paddle
from paddle.base import core

from pirol.bench import coverage, demo, graphnet_gradients, score
from pirol.bench.graphnet import (
    MOVES,
    Run,
    agrees,
    exactly,
    load,
    moved,
    relative_l2,
)
from pirol.bench.graphnet_folder import load_folder
from pirol.compiler.process import threads

SEED = 2026
BUDGET = 1.0  # seconds of timed rounds
ROUNDS = (15, 50)
Found = dict[str, Any]
Tell = Callable[..., None]  # of a stage's name, and what was found before it
TOLERATED = (-3, 1e-3)  # level and relative L2 where no float64 arbitrates
COMPARABLE = 0.1  # relative L2 of Paddle's float32 from a float64 of the same program


def read(request: Found) -> Any:
    """The sample that the parent asked for."""
    path = Path(request["path"])
    return load_folder(path, request["name"]) if path.is_dir() else load(path)


def seeded(run: Run, tensors: Sequence[Any]) -> tuple[list[Any], float]:
    """A run from a known state of the random generator, and its seconds."""
    paddle.seed(SEED)
    start = time.perf_counter()
    found = run(tensors)
    return found, time.perf_counter() - start


def measure(sample: Any, gflop_limit: float, tell: Tell) -> Found:
    """What is to be known of a sample; `tell` is given each stage's name."""
    tell("paddle")
    start = time.perf_counter()
    theirs = sample.paddles()
    made = time.perf_counter() - start
    expected, seconds = seeded(theirs, sample.draw())
    found: Found = {"paddle_first": made + seconds}
    tell("compile")
    start = time.perf_counter()
    ours, report = sample.pirols()
    made = time.perf_counter() - start
    tell("runtime")
    outputs, seconds = seeded(ours, sample.draw())
    found |= {"pirol_first": made + seconds, **compared(outputs, expected)}
    wrong = found["verdict"] == "wrong"
    doubtful = found["level"] is not None and (wrong or found["level"] > TOLERATED[0])
    kept = (outputs, expected) if doubtful else None
    del outputs, expected
    tell("time")
    program = sample.program()
    found["gflop"] = coverage.gflop(program)
    found |= timed(ours, theirs, sample, found["gflop"] <= gflop_limit)
    tell("trace")
    inputs = sample.draw()
    found |= traced(lambda: ours(inputs), program)
    report = report.settled()
    fallbacks = dict.fromkeys(map(str, report.fallbacks))
    found |= {"fallbacks": list(fallbacks), "plans": report.compiles}
    found |= {"bytes": report.traffic, "factors": report.factors}
    if kept is not None:
        tell("float64", found)
        others = (seeded(theirs, moved(sample.draw(), k))[0] for k in range(MOVES))
        exact = exactly(sample, lambda run, tensors: seeded(run, tensors)[0])
        found = judged(found, *kept, exact, others)
    return found


def judged(
    found: Found,
    ours: Sequence[Any],
    theirs: Sequence[Any],
    exact: Any,
    others: Iterable[Sequence[Any]],
) -> Found:
    """The verdict on outputs that are not Paddle's, by those of a run in float64: right
    where ours are at most twice as far from them as Paddle's, or as Paddle's on inputs
    that a rounding has moved (`others`). Without such a run, or where it computes
    something else, the tolerances of TOLERATED decide."""
    near, far = (_farthest(side, exact) for side in (ours, theirs))
    found = found | {"levels64": [_level(side, exact) for side in (ours, theirs)]}
    if found["verdict"] == "right":  # but for single elements
        return found
    if exact and far < COMPARABLE:
        right, how = near <= 2 * far, f"float64: {near:.1e} off, Paddle {far:.1e}"
        if not right:
            far = max(_farthest(other, exact) for other in others)
            right, how = near <= 2 * far, f"{how}, its inputs moved {far:.1e}"
    else:
        level, error = TOLERATED
        right = found["level"] <= level and found["error"] <= error
        how = "no run in float64"
    verdict = "right" if right else "wrong"
    return found | {"verdict": verdict, "why": f"{found['why']} ({how})"}


def _level(side: Sequence[Any], exact: Sequence[Any]) -> int | None:
    """The level at which float32 outputs are close to those in float64."""
    pairs = [(t, e) for t, e in zip(side, exact) if e.dtype == paddle.float64]
    narrow = [(_array(t), e.numpy().astype(_array(t).dtype), t) for t, e in pairs]
    return score.worst([score.level(a, b, _name(t.dtype)) for a, b, t in narrow])


def _farthest(side: Sequence[Any], exact: Sequence[Any]) -> float:
    return max(map(_distance, side, exact), default=0.0)


def _distance(tensor: Any, exact: Any) -> float:
    """Of floats; integers were compared already."""
    array = _array(tensor)
    whole = array.dtype.kind in "bui"
    return 0.0 if whole else relative_l2(array.astype("float64"), exact.numpy())


def compared(ours: Sequence[Any], theirs: Sequence[Any]) -> Found:
    """Verdict, largest relative L2, and the level at which all outputs are right."""
    why = agrees(ours, theirs)
    same = len(ours) == len(theirs) and all(
        a.dtype == b.dtype and list(a.shape) == list(b.shape)
        for a, b in zip(ours, theirs)
    )
    found: Found = {"verdict": "wrong" if why else "right", "why": why}
    if not same:
        return found | {"error": None, "level": None}
    pairs = [(_array(a), _array(b), _name(a.dtype)) for a, b in zip(ours, theirs)]
    error = max((relative_l2(a, b) for a, b, _ in pairs), default=0.0)
    level = score.worst([score.level(*pair) for pair in pairs])
    return found | {"error": error, "level": level}


def _array(tensor: Any) -> Any:
    wide = tensor.astype("float32") if _name(tensor.dtype) == "bfloat16" else tensor
    return wide.numpy()


def _name(dtype: Any) -> str:
    return str(dtype).rsplit(".", 1)[-1]


def timed(ours: Run, theirs: Run, sample: Any, often: bool) -> Found:
    """Median milliseconds of both, taken in turn on inputs of their own, and where
    the quotient of the two lies."""
    mine, other = sample.draw(), sample.draw()
    runs = [
        partial(demo.seconds, partial(ours, mine)),
        partial(demo.seconds, partial(theirs, other)),
    ]
    rounds = 1
    if often:
        once = sum(run() for run in runs)
        rounds = min(max(int(BUDGET / once), ROUNDS[0]), ROUNDS[1])
    taken = np.array([[run() for run in runs] for _ in range(rounds)])
    pirol_ms, paddle_ms = 1e3 * np.median(taken, 0)
    found = {"pirol_ms": pirol_ms, "paddle_ms": paddle_ms, "rounds": rounds}
    within = score.interval(taken[:, 1] / taken[:, 0]) if often else None
    return found | {"speedup": paddle_ms / pirol_ms, "within": within}


def traced(call: Callable[[], Any], program: Any) -> Found:
    """Coverage, and what it was made from."""
    launched = coverage.launches(call)
    compute = coverage.compute_ops(program)
    dropouts = coverage.training_dropouts(program)
    part = coverage.coverage(launched, compute, dropouts)
    return {"coverage": part, "ops": compute, "launches": dict(launched)}


def first_call(sample: Any, side: str, tell: Tell) -> Found:
    """A side's first call alone: its seconds, and the process's largest memory after
    two more calls."""
    tell("compile" if side == "pirol" else "paddle")
    start = time.perf_counter()
    run = sample.pirols()[0] if side == "pirol" else sample.paddles()
    made = time.perf_counter() - start
    tell("runtime" if side == "pirol" else "paddle")
    inputs = sample.draw()  # once: drawing takes memory of its own
    seconds = made + seeded(run, inputs)[1]
    for _ in range(2):
        run(inputs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {f"{side}_again": seconds, f"{side}_mb": peak}


def answer(request: Found, tell: Tell) -> Found:
    """Do what was asked; an exception is a finding, too."""
    stages = ["load"]

    def enter(stage: str, found: Found | None = None) -> None:
        stages.append(stage)
        tell(stage, found)

    try:
        sample = read(request)
        core.set_num_threads(threads())
        if request["alone"]:
            return first_call(sample, request["alone"], enter)
        if request["gradients"]:
            work = coverage.gflop(sample.program())
            if work > request["gflop"]:
                return {"verdict": "no oracle", "why": f"{work:.0f} GFLOP"}
            return graphnet_gradients.measure(sample, enter)
        return measure(sample, request["gflop"], enter)
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        return {"failed": stages[-1], "why": why}


def _first_to_go() -> None:
    """Where memory runs out, the kernel ends this process and not its parent."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    """Answer the request on the command line."""
    _first_to_go()
    # What libraries print on stdout must not be taken for an answer.
    lines: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(line: Found) -> None:
        print(json.dumps(line), file=lines, flush=True)

    request = json.loads(sys.argv[1])

    def tell(stage: str, found: Found | None) -> None:
        say({"stage": stage} | ({"found": found} if found else {}))

    say({"found": answer(request, tell)})
    # Paddle's and OpenMP's threads at exit are no part of what is measured.
    lines.close()
    os._exit(0)


if __name__ == "__main__":
    main()
