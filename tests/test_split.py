"""Reductions in two steps: equal results, where it pays and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, device
from test_export import exported

import pirol
from pirol.compiler.dims import symbol
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.compiler.verify import verify
from pirol.passes.split import split_reductions
from pirol.prim import Builder

__all__ = ["device"]  # a fixture
KINDS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min")
N = symbol("n")
FULL = partial(pytest.param, marks=pytest.mark.full)
rng = np.random.default_rng(3)


def graph(kind: str, shape: Any, axes: tuple[int, ...], dtype: str) -> Graph:
    b = Builder()
    x = b.input(TensorType(shape, dtype))
    return b.graph("g", [getattr(b, kind)(x, axes=axes)])


def values(kind: str, shape: tuple[int, ...], dtype: str) -> Any:
    """Whole numbers, whose sums and products are exact in any order."""
    if kind == "reduce_prod":
        return rng.choice([-1, 1], shape).astype(dtype)
    return rng.integers(-9, 9, shape).astype(dtype)


LONG: tuple[tuple[Any, tuple[int, ...], Any], ...] = (
    ((40_000,), (0,), [(40_000,)]),
    ((3, 17, 1021), (0, 1, 2), [(3, 17, 1021)]),
    ((2, 20_011), (1,), [(2, 20_011)]),
    ((20_011, 5), (0,), [(20_011, 5)]),
    ((40, 100, 700), (0, 2), [(40, 100, 700)]),
    ((N,), (0,), [(0,), (1,), (511,), (512,), (5003,)]),
    ((N, 7), (0,), [(0, 7), (1, 7), (1031, 7)]),
    ((2, N, 3), (0, 1), [(2, 0, 3), (2, 700, 3)]),
)


@pytest.mark.parametrize("dtype", ["float32", *map(FULL, ("float64", "int32"))])
@pytest.mark.parametrize("kind", ["reduce_sum", *map(FULL, KINDS[1:])])
@pytest.mark.parametrize("shape, axes, sizes", LONG, ids=lambda v: str(v)[:18])
def test_long_ones(kind: str, shape: Any, axes: Any, sizes: Any, dtype: str) -> None:
    whole = graph(kind, shape, axes, dtype)
    cut = split_reductions(whole)
    verify(cut, "flat")
    assert sum(op.name == kind for op in cut.ops) == 2
    for size in sizes:
        x = values(kind, size, dtype)
        (found,), (expected,) = (interpret(g, [x]) for g in (cut, whole))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_special_values_go_through() -> None:
    x = values("reduce_max", (40_000,), "float32")
    for special in (np.nan, np.inf, -np.inf):
        x[31_111] = special
        for kind in KINDS:
            whole = graph(kind, x.shape, (0,), "float32")
            with np.errstate(all="ignore"):
                (found,), (expected,) = (
                    interpret(g, [x]) for g in (split_reductions(whole), whole)
                )
            np.testing.assert_array_equal(found, expected)


SHORT: tuple[tuple[Any, tuple[int, ...]], ...] = (
    ((1000,), (0,)),
    ((4096, 1024), (1,)),
    ((N, 40_000), (1,)),
    ((0, 40_000), (1,)),
)


@pytest.mark.parametrize("shape, axes", SHORT, ids=str)
def test_others_stay(shape: Any, axes: tuple[int, ...]) -> None:
    whole = graph("reduce_sum", shape, axes, "float32")
    assert [op.name for op in split_reductions(whole).ops] == ["reduce_sum"]


def mean(x: Any) -> Any:
    return paddle.tanh(x).mean() * 2.0


def extremes(x: Any) -> Any:
    return x.max(0), (x * x).sum([0])


CASES: tuple[Callable[..., Any], ...] = (mean, extremes)


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")
@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_on_the_device(function: Any, device: Device, tmp_path: Path) -> None:
    x = rng.normal(size=(20_011, 3)).astype("float32")
    _, expected = exported(function, tmp_path / "f", x)
    run, before = pirol.load(tmp_path / "f", device="cuda"), device.launches
    found = run(x)
    assert device.launches - before >= 2
    pairs = zip(paddle.utils.flatten(found), paddle.utils.flatten(expected))
    for one, other in pairs:
        np.testing.assert_allclose(one, other.numpy(), rtol=2e-6)
