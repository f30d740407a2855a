"""The CPU's own functions of float32, against float64's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_runs import c_text, run_c, steps_of

from pirol.compiler.ir import Graph, TensorType
from pirol.kernels.render import OWN
from pirol.prim import Builder

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
MOST = 2.0  # ulp
STEP = 6007  # of all float32, by their bits: a prime


def graph_of(name: str, size: int, dtype: str = "float32") -> Graph:
    b = Builder()
    return b.graph("f", [getattr(b, name)(b.input(TensorType((size,), dtype)))])


def ulps(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The errors in units of the last place of what is exact, as float32 has it."""
    rounded = np.abs(exact.astype(np.float32))
    unit = np.nextafter(rounded, np.float32(np.inf)) - rounded.astype(np.float64)
    return np.abs(found.astype(np.float64) - exact) / unit


@pytest.mark.parametrize("name", OWN)
def test_all_floats(name: str) -> None:
    bits = np.arange(0, 2**32, STEP, dtype=np.uint64).astype(np.uint32)
    x = np.concatenate([bits.view(np.float32), np.float32([0.0, -0.0, 0.6, 10.0])])
    (found,) = run_c(graph_of(name, x.size), [x])
    assert found.dtype == np.float32
    nan = np.isnan(x)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(np.signbit(found[~nan]), np.signbit(x[~nan]))
    exact = np.array([getattr(math, name)(v) for v in x[~nan].tolist()])
    assert ulps(found[~nan], exact).max() <= MOST
    assert np.abs(found[~nan]).max() == 1.0
    tiny = np.abs(x) < 1e-30
    assert ulps(found[tiny], exact[tiny[~nan]]).max() <= 1.0


@pytest.mark.parametrize("name", OWN)
def test_the_rest_of_a_loop_computes_the_same(name: str) -> None:
    x = np.random.default_rng(3).normal(size=61).astype("float32")
    (many,) = run_c(graph_of(name, 61), [x])
    one = [run_c(graph_of(name, 1), [x[k : k + 1]])[0][0] for k in range(0, 61, 20)]
    np.testing.assert_array_equal(many[::20], one)


def test_wide_ones_are_the_library_s() -> None:
    for name in OWN:
        (step,) = steps_of(graph_of(name, 8, "float64"))
        assert f"{name}(" in c_text([step.cpu]) and "pr_" + name not in c_text(
            [step.cpu]
        )
