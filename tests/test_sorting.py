"""Sorts and top-k of exported programs: by counting, on the CPU and on CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import planted
import pytest
from cuda_simulator import Simulator
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, device, tidy
from graph_meaning import same_bits
from graph_runs import cuda_text, launch_cuda, run_c, steps_of

import pirol
from pirol.compiler.errors import PirolError
from pirol.compiler.ir import Graph, TensorType
from pirol.prim import Builder
from pirol.prim.decomp.sorting import MOST, places

__all__ = ["device", "tidy"]  # fixtures
needs_simulator = pytest.mark.skipif(not has_compiler(), reason="the simulator: g++")
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, np.nan, 1.0, 1.0, -np.inf, 1e-45]
Array = Any


def ordered(x: Any) -> Any:
    return paddle.sort(x, axis=-1), paddle.argsort(x, axis=-1, descending=True)


def columns(x: Any) -> Any:
    return paddle.sort(x * 2, axis=0, descending=True) + 1, paddle.argsort(x, axis=0)


def tops(x: Any) -> Any:
    return paddle.topk(x, 3, axis=1), paddle.topk(x, 1, axis=0, largest=False)


def data(shape: tuple[int, ...], dtype: str) -> Array:
    """Each number once, so that there is one order."""
    rng = np.random.default_rng(3)
    size = int(np.prod(shape))
    return (rng.permutation(size).reshape(shape) - size // 2).astype(dtype)


def ties(shape: tuple[int, ...]) -> Array:
    """Few numbers, and special ones."""
    found = np.random.default_rng(4).integers(-2, 3, shape).astype("float32")
    found.reshape(-1)[: len(SPECIAL)] = SPECIAL
    return found


def flat(found: Any) -> list[Array]:
    if not isinstance(found, (list, tuple)):
        return [np.asarray(found)]
    return [leaf for part in found for leaf in flat(part)]


def exported(function: Any, x: Array, path: Path) -> list[Array]:
    """The file of a function that was called for this; what the call gave."""
    with pytest.warns(UserWarning, match="Paddle"):
        made = pirol.to_static(function)
        expected = flat([np.asarray(v) for v in flat(made(paddle.to_tensor(x)))])
    pirol.export(made, path)
    return expected


def agree(found: Any, expected: list[Array]) -> None:
    results = flat(found)
    assert len(results) == len(expected)
    for one, other in zip(results, expected):
        assert one.dtype == other.dtype and same_bits(one, other)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32"])
@pytest.mark.parametrize("function", [ordered, columns, tops])
def test_exported_on_the_cpu(function: Any, dtype: str, tmp_path: Path) -> None:
    x = data((13, 37), dtype)
    expected = exported(function, x, tmp_path / "f")
    agree(pirol.load(tmp_path / "f")(x), expected)


@needs_simulator
@pytest.mark.full
@pytest.mark.parametrize("function", [ordered, columns, tops])
def test_exported_on_a_device(function: Any, device: Device, tmp_path: Path) -> None:
    x, before = data((13, 37), "float32"), device.launches
    expected = exported(function, x, tmp_path / "f")
    agree(pirol.load(tmp_path / "f", device="cuda")(x), expected)
    assert device.launches > before


@pytest.mark.parametrize("descending", [False, True])
def test_equal_numbers_stay_in_order_and_nan_are_largest(
    descending: bool, tmp_path: Path
) -> None:
    def both(x: Any) -> Any:
        return (
            paddle.sort(x, descending=descending, stable=True),
            paddle.argsort(x, descending=descending, stable=True),
        )

    x = ties((5, 40))
    expected = exported(both, x, tmp_path / "f")
    agree(pirol.load(tmp_path / "f")(x), expected)


def places_of(width: int, descending: bool = False) -> Graph:
    b = Builder()
    x = b.input(TensorType((4, width), "float32"))
    return b.graph("f", [places(b, x, descending)])


def test_comparisons_are_kept_nowhere() -> None:
    (step,) = steps_of(places_of(100))
    assert step.cuda.team >= 32 and not step.cuda.scratch


@needs_simulator
@pytest.mark.parametrize(
    "old, new",
    [(r"\(v\d+ < v\d+\)", "(true)"), (r"\(v(\d+) == v\1\)", "(true)")],
    ids=["equal ones", "NaN"],
)
def test_faults_are_found(old: str, new: str) -> None:
    graph, x = places_of(40), ties((4, 40))
    (step,) = steps_of(graph)
    (wanted,) = run_c(graph, [x])
    assert (np.sort(wanted) == np.arange(40)).all()

    def run(source: str) -> Array:
        made = Simulator(source, [step.cuda.name])
        return launch_cuda(made, step.cuda, [x], {}, 2)[0]

    source = cuda_text([step.cuda])
    assert same_bits(run(source), wanted)
    assert not same_bits(run(planted.text(old, new)(source)), wanted)


def test_a_row_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="argsort"):
        made = pirol.to_static(ordered)
        made(paddle.ones([2, MOST + 1]))
    with pytest.raises(PirolError, match="only Paddle runs: pd_op.argsort"):
        pirol.export(made, tmp_path / "f")
