"""The CPU's own functions of float32, against float64's."""

from __future__ import annotations

import math
from collections.abc import Callable

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


EXACT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "erf": np.vectorize(math.erf),
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


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
    """NaN, infinities, signs of zeros and the smallest numbers among them."""
    bits = np.arange(0, 2**32, STEP, dtype=np.uint64).astype(np.uint32)
    more = [0.0, -0.0, 0.6, 10.0, -1.0, 88.72, 88.73, -103.9, -104.1, np.inf, -np.inf]
    x = np.concatenate([bits.view(np.float32), np.float32([*more, np.nan])])
    if name == "sigmoid":  # no smaller results: 1 + exp(-x) is inf
        x = x[~(x < -87)]
    (found,) = run_c(graph_of(name, x.size), [x])
    assert found.dtype == np.float32
    with np.errstate(all="ignore"):
        exact = EXACT[name](x.astype(np.float64))
        rounded = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
    known = ~np.isnan(exact)
    np.testing.assert_array_equal(np.isinf(found[known]), np.isinf(rounded[known]))
    np.testing.assert_array_equal(np.signbit(found[known]), np.signbit(exact[known]))
    finite = np.isfinite(rounded)
    assert ulps(found[finite], exact[finite]).max() <= MOST
    assert (np.abs(found[known]) <= np.abs(rounded[known]).max()).all()
    tiny = np.abs(x) < 1e-30
    assert ulps(found[tiny & finite], exact[tiny & finite]).max() <= 1.0


@pytest.mark.parametrize("name", OWN)
def test_the_rest_of_a_loop_computes_the_same(name: str) -> None:
    x = np.random.default_rng(3).normal(size=61).astype("float32")
    (many,) = run_c(graph_of(name, 61), [x])
    one = [run_c(graph_of(name, 1), [x[k : k + 1]])[0][0] for k in range(0, 61, 20)]
    np.testing.assert_array_equal(many[::20], one)


def test_wide_ones_are_the_library_s() -> None:
    for name in OWN:
        (step,) = steps_of(graph_of(name, 8, "float64"))
        text = c_text([step.cpu])
        assert " exp(" in text if name == "sigmoid" else f" {name}(" in text
        assert "pirol_math" not in text and f"pr_{name}" not in text
