"""A GraphNet sample's gradients: Pirol's against Paddle's and a run in float64.

The loss is a fixed random mean of the float outputs; a gradient is held for each float
input, the sample's parameters among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import paddle

from pirol.bench.graphnet import MOVES, Run, exactly, moved, relative_l2

SEED = 2026
NEAR = 1e-3  # relative L2 of a gradient from Paddle's
ALIKE = 2.0  # times as far from float64 as Paddle's
NOISE = 5.0  # the same of what in Paddle is further off than its own size: 0 to float32
Found = dict[str, Any]
Grads = list[Any]  # of an array an input; None where there is no gradient


def measure(sample: Any, tell: Callable[..., None]) -> Found:
    """The verdict on a sample's gradients; `tell` is given each stage's name."""
    sample = replace(sample, trained=True)
    tell("paddle")
    theirs = gradients(sample.paddles(), sample.draw())
    tell("compile")
    run, report = sample.pirols()
    tell("runtime")
    ours = gradients(run, sample.draw())
    fallbacks = [str(f) for f in report.settled().fallbacks]
    found: Found = {"gradients": sum(g is not None for g in theirs)}
    found |= {"nan": sum(g is not None and bool(np.isnan(g).any()) for g in theirs)}
    found |= {"fallbacks": list(dict.fromkeys(fallbacks))}
    far = apart(ours, theirs)
    found |= {"error": max(far.values(), default=0.0)}
    wrong = {k: error for k, error in far.items() if not error <= NEAR}
    if not wrong:
        return found | {"verdict": "right", "why": ""}
    unknown = {"verdict": "no oracle", "why": f"{len(wrong)} over {NEAR:g}"}
    tell("moved", found | unknown)
    paddles, others, verdict = sample.paddles(), [], unknown
    for k in range(MOVES):
        others.append(gradients(paddles, moved(sample.draw(), k)))
        verdict = judged(wrong, ours, theirs, [], others)
        if verdict["verdict"] == "right":
            return found | verdict
    tell("float64", found | verdict)
    return found | judged(wrong, ours, theirs, exactly(sample, gradients), others)


def gradients(run: Run, tensors: Sequence[Any]) -> Grads:
    """Of the loss, with respect to each tensor."""
    for tensor in tensors:
        tensor.stop_gradient = not tensor.is_floating_point()
    paddle.seed(SEED)
    rng = np.random.default_rng(SEED)
    shares = []
    for output in run(tensors):
        if output.is_floating_point() and not output.stop_gradient and output.size:
            weights = paddle.to_tensor(rng.uniform(0.5, 1.5, output.shape))
            shares.append((output * weights.astype(output.dtype)).mean())
    if not shares:
        return [None] * len(tensors)
    paddle.add_n([share.astype("float64") for share in shares]).backward()
    return [None if t.grad is None else t.grad.numpy() for t in tensors]


def apart(ours: Grads, theirs: Grads) -> dict[int, float]:
    """The relative L2 by number of each input that has a gradient on either side."""
    return {
        k: _distance(a, b)
        for k, (a, b) in enumerate(zip(ours, theirs))
        if a is not None or b is not None
    }


def _distance(a: Any, b: Any) -> float:
    """A gradient that one side lacks is zero there; where `b`, Paddle's, is NaN, as
    that of prod is at zeros, nothing is held."""
    a, b = (np.zeros_like(y) if x is None else x for x, y in ((a, b), (b, a)))
    if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
        return float("inf")
    a = np.where(np.isnan(b), b, a)
    return relative_l2(a.astype("float64"), b.astype("float64"))


def judged(
    wrong: dict[int, float],
    ours: Grads,
    theirs: Grads,
    exact: Grads,
    others: Sequence[Grads],
) -> Found:
    """Right where those that are not Paddle's are as near to float64 as Paddle's, or as
    Paddle's on inputs that a rounding has moved (`others`); without a run in float64,
    as near to Paddle's as those are."""

    def far(side: Grads) -> Any:
        return np.array([_distance(side[k], (exact or theirs)[k]) for k in wrong])

    near, paddles = far(ours), far(theirs)
    most = np.maximum.reduce([paddles, *map(far, others)])
    limit = np.where(most > 1, NOISE, ALIKE) * most
    numbers = [k for k, bad in zip(wrong, ~(near <= limit)) if bad]
    worst = max(wrong, key=lambda k: wrong[k])
    how = f"{'' if exact else 'no '}float64: {near.max():.1e} off, Paddle"
    how += f" {paddles.max():.1e}, its inputs moved {most.max():.1e}"
    why = f"{len(wrong)} over {NEAR:g}, most input {worst}: {wrong[worst]:.1e}"
    verdict = "wrong" if numbers else "right"
    return {"verdict": verdict, "why": f"{why} ({how})", "wrong": numbers}
