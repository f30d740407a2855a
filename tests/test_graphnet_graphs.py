"""The GraphNet graphs that the project carries: results, coverage, one plan each."""

from __future__ import annotations

from pathlib import Path

import paddle
import pytest

from pirol.bench import coverage
from pirol.bench.graphnet import HERE, agrees, load
from pirol.compiler.errors import PirolWarning

PATHS = sorted(HERE.glob("*.json.gz"))
LEAST = 0.95  # coverage of each; most have all


def test_there_are_fifteen() -> None:
    assert len(PATHS) == 15


@pytest.mark.full
@pytest.mark.filterwarnings(f"ignore::{PirolWarning.__module__}.PirolWarning")
@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.name.split(".")[0])
def test_graph(path: Path) -> None:
    """As Paddle's own run gives, from fresh inputs, with the same seed."""
    sample = load(path)
    theirs, (ours, report) = sample.paddles(), sample.pirols()
    for seed in (0, 1):
        paddle.seed(seed)
        expected = theirs(sample.draw(seed))
        paddle.seed(seed)
        found = ours(sample.draw(seed))
        assert agrees(found, expected) == ""
    inputs = sample.draw()
    launched = coverage.launches(lambda: ours(inputs))
    program = sample.program()
    dropouts = coverage.training_dropouts(program)
    compute = coverage.compute_ops(program)
    assert coverage.coverage(launched, compute, dropouts) >= LEAST
    assert report.compiles <= 2
