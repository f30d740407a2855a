"""The verdict on a sample's gradients, from gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pirol.bench.graphnet_gradients import apart, judged

RNG = np.random.default_rng(0)
TRUE = RNG.standard_normal(50)


def verdict(ours: Any, theirs: Any, exact: list[Any], others: list[Any]) -> Any:
    moved = [[other] for other in others]
    return judged(apart([ours], [theirs]), [ours], [theirs], exact, moved)["verdict"]


@pytest.mark.parametrize("exact", [[TRUE], []])
def test_a_wrong_gradient_is_wrong(exact: list[Any]) -> None:
    """With float64 to ask or not, whatever little a rounding of the inputs does."""
    near = [TRUE * (1 + 1e-5 * k) for k in range(3)]
    assert verdict(TRUE * 1.01, TRUE, exact, near) == "wrong"
    assert verdict(TRUE * np.inf, TRUE, exact, near) == "wrong"


def test_noise_is_told_by_moved_inputs() -> None:
    """A gradient that is 0 to float32 is another one after any rounding."""
    draws = [1e-9 * RNG.standard_normal(50) for _ in range(5)]
    assert verdict(draws[0], draws[1], [], draws[2:]) == "right"
    assert verdict(10 * draws[0], draws[1], [], draws[2:]) == "wrong"
    assert verdict(draws[0], draws[1], [TRUE * 0 + 1e-12], []) == "right"


def test_as_near_to_float64_as_paddle_is_right() -> None:
    off = TRUE * (1 + 2e-3 * RNG.standard_normal(50))
    assert verdict(off, TRUE * (1 + 2e-3), [TRUE], []) == "right"
    assert verdict(TRUE * (1 + 9e-3), TRUE * (1 + 2e-3), [TRUE], []) == "wrong"
