"""GraphNet's scores from what was found per sample: pure functions of numbers.

A sample is correct at level t where every output is close to Paddle's at that level's
tolerances; S(t) and ES(t) are geometric means over samples, as docs/bench.md says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVELS = range(-10, 4)
WRONG = 0.1  # b: what a wrong sample counts
SLOWER = 0.0  # p: what a slower sample counts more
# dtype -> the exponents of atol and rtol at level 1.
EXPONENTS = {
    "float16": (1.0, 3 / 5),
    "bfloat16": (1.0, 1.796 / 5),
    "float32": (1.0, 5.886 / 5),
    "complex64": (1.0, 5.886 / 5),
    "float64": (7 / 5, 7 / 5),
    "complex128": (7 / 5, 7 / 5),
}
TOLERATED = {"accuracy": 1, "runtime": 2, "compile": 3}  # ES: from this level on
_WORD = re.compile(r"[A-Za-z]{2,}?(?=[vV]?\d|[^A-Za-z]|$)")


@dataclass(frozen=True)
class Outcome:
    """One sample: `level` is the least at which it is correct (None: at no level),
    `error` the class of what went wrong where there is no result to judge."""

    speedup: float = 1.0
    level: int | None = None
    error: str = ""

    def correct(self, t: int) -> bool:
        """Whether all outputs are right at level t."""
        return self.level is not None and self.level <= t


def tolerances(dtype: str, t: int) -> tuple[float, float]:
    """(atol, rtol) of a dtype at level t; zeros for integers, which must be equal."""
    if dtype not in EXPONENTS:
        return 0.0, 0.0
    absolute, relative = EXPONENTS[dtype]
    return float(10.0 ** (absolute * t)), float(10.0 ** (relative * t))


def level(ours: Any, theirs: Any, dtype: str) -> int | None:
    """The least level at which two arrays agree, or None; NaN equals NaN."""
    if ours.shape != theirs.shape:
        return None
    if dtype not in EXPONENTS:
        return LEVELS[0] if np.array_equal(ours, theirs) else None
    for t in LEVELS:
        atol, rtol = tolerances(dtype, t)
        if np.allclose(ours, theirs, rtol=rtol, atol=atol, equal_nan=True):
            return t
    return None


def worst(levels: Sequence[int | None]) -> int | None:
    """The level of a sample from those of its outputs."""
    found = [t for t in levels if t is not None]
    if len(found) < len(levels):
        return None
    return max(found, default=LEVELS[0])


def s(
    outcomes: Iterable[Outcome], t: int, p: float = SLOWER, b: float = WRONG
) -> float:
    """S(t): the geometric mean of speedups, b for each sample not correct at t.

    Args:
        outcomes: what was found, one a sample.
        t: the level of tolerance.
        p: a slower sample's speedup is taken to the power p + 1.
        b: what a wrong sample counts.

    Returns:
        The score; NaN where there is no sample.
    """
    return _mean(_speedup(o, p) if o.correct(t) else b for o in outcomes)


def es(
    outcomes: Iterable[Outcome], t: int, p: float = SLOWER, b: float = WRONG
) -> float:
    """ES(t): as S(t), but from its own level on a class of errors counts 1, not b."""

    def factor(o: Outcome) -> float:
        if o.correct(t):
            return _speedup(o, p)
        return b if t < TOLERATED[o.error or "accuracy"] else 1.0

    return _mean(factor(o) for o in outcomes)


def _speedup(outcome: Outcome, p: float) -> float:
    speedup = outcome.speedup
    return float(speedup if speedup >= 1 else speedup ** (p + 1))


def _mean(factors: Iterable[float]) -> float:
    logs = [math.log(f) for f in factors]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def interval(ratios: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """Where the median of paired ratios lies: its 95% bootstrap interval."""
    again = np.random.default_rng(0).choice(ratios, (draws, len(ratios)))
    low, high = np.quantile(np.median(again, 1), (0.025, 0.975))
    return float(low), float(high)


def family(name: str) -> str:
    """The model family of a sample's name: the first word of its model, no version.

    >>> family("PaddleX__PicoDet-L_layout_17cls__subgraph_0")
    'PicoDet'
    >>> family("PaddleNLP/t5-small")
    't5'
    """
    parts = [p for p in re.split(r"__|/", name) if p and not p.startswith("subgraph")]
    model = parts[-1] if parts else name
    word = _WORD.match(model)
    return word.group(0) if word else re.split(r"[-_.]", model)[0]
