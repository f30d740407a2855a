"""Paddle's sorts, and what is found in sorted rows: in its process, in files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, device, tidy
from graph_meaning import same_bits
from paddle.static import InputSpec

import pirol
from pirol.compiler.errors import PirolWarning

__all__ = ["device", "tidy"]  # fixtures
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place'")
needs_simulator = pytest.mark.skipif(not has_compiler(), reason="the simulator: g++")
OPS = {"argsort", "topk", "kthvalue", "mode", "median", "nanmedian", "searchsorted"}
NAN, INF = np.nan, np.inf
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, NAN, 1.0, 1.0, -INF, 1e-45]
Array = Any


def ordered(x: Any) -> Any:
    return (
        paddle.sort(x, axis=-1), paddle.sort(x * 2, axis=0, descending=True) + 1,
        paddle.argsort(x, axis=-1, descending=True, stable=True),
        paddle.argsort(x, axis=0, stable=True),
    )  # fmt: skip


def tops(x: Any) -> Any:
    return paddle.topk(x, 3, axis=1)[0], paddle.topk(x, 1, axis=0, largest=False)[0]


def middles(x: Any) -> Any:
    return (
        paddle.kthvalue(x, 5, axis=1)[0], paddle.kthvalue(x, 2, 0, keepdim=True)[0],
        paddle.mode(x % 7, axis=0, keepdim=True)[0], paddle.mode(x)[0],
    )  # fmt: skip


def medians(x: Any) -> Any:
    return (
        paddle.median(x, axis=1), paddle.median(x[:, 2:], axis=-1, keepdim=True),
        paddle.median(x, axis=0, mode="min")[0], paddle.nanmedian(x, axis=[0, 1]),
        paddle.nanmedian(x, axis=1, mode="min")[0],
    )  # fmt: skip


def quantiles(x: Any) -> Any:
    return paddle.quantile(x, 0.3, axis=1), paddle.nanquantile(x, 0.7, axis=0)


def found(x: Any) -> Any:
    rows = paddle.sort(x, axis=1)
    return (
        paddle.searchsorted(rows, x), paddle.searchsorted(rows, x + 1, right=True),
        paddle.searchsorted(rows[0], x, out_int32=True), paddle.bucketize(x, rows[1]),
    )  # fmt: skip


def places(x: Any) -> Any:
    """That are up to Paddle's library where elements are equal."""
    return (
        paddle.argsort(x, axis=0), *paddle.topk(x, 3, axis=1),
        paddle.topk(x, 1, axis=0, largest=False)[1], *paddle.kthvalue(x, 5, axis=1),
        paddle.kthvalue(x, 2, axis=0, keepdim=True)[1], paddle.mode(x)[1],
        paddle.median(x, axis=0, mode="min")[1],
        paddle.nanmedian(x, axis=1, mode="min")[1],
    )  # fmt: skip


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


def flat(found: Any) -> list[Any]:
    if not isinstance(found, (list, tuple)):
        return [found]
    return [leaf for part in found for leaf in flat(part)]


def agree(found: Any, expected: Any) -> None:
    results, wanted = ([np.asarray(v) for v in flat(f)] for f in (found, expected))
    for one, other in zip(results, wanted, strict=True):
        assert one.dtype == other.dtype and same_bits(one, other)


FUNCTIONS = [ordered, tops, middles]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32"])
@pytest.mark.parametrize("function", [*FUNCTIONS, medians, quantiles, found])
def test_as_eager(function: Any, dtype: str) -> None:
    if function in (medians, places) and "int" in dtype:
        pytest.skip("means of integers")
    if function is quantiles and dtype != "float32":
        pytest.skip("places that Paddle computes in float32")
    made = pirol.to_static(function, strict=True)
    x = paddle.to_tensor(data((13, 37), dtype))
    agree(made(x), function(x))


@pytest.mark.parametrize("function", [*FUNCTIONS, medians])
def test_sizes_that_are_not_known(function: Any) -> None:
    spec = [InputSpec([None, None], "float32")]
    made = pirol.to_static(function, input_spec=spec, strict=True)
    for shape in ((13, 37), (4, 700), (2, 5)):
        x = paddle.to_tensor(data(shape, "float32"))
        agree(made(x), function(x))


@pytest.mark.parametrize("function", [*FUNCTIONS, medians, quantiles])
def test_gradients(function: Any) -> None:
    """Of numbers that are all different, and NaN."""
    x = data((9, 17), "float32")
    x[0, 3] = NAN
    if function is medians:
        x[4, 5:8] = x[7] = NAN
    made, grads = pirol.to_static(function, strict=True), []
    for run in (made, function):
        given = paddle.to_tensor(x, stop_gradient=False)
        values = [v for v in flat(run(given)) if v.dtype == given.dtype]
        scales = np.random.default_rng(1).normal(size=len(values)).tolist()
        total = sum(s * v.sum() for s, v in zip(scales, values))
        grads.append(paddle.grad(total, given)[0])
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-5, equal_nan=True)


def test_the_gradient_of_a_mean_of_two() -> None:
    """Eager gives it to other elements now and then."""
    x, function = data((9, 16), "float32"), pirol.to_static(medians, strict=True)
    given = paddle.to_tensor(x, stop_gradient=False)
    (found,) = paddle.grad(function(given)[0].sum(), given)
    places = np.argsort(np.argsort(x, axis=1), axis=1)
    wanted = np.where((places == 7) | (places == 8), 0.5, 0.0)
    assert (found.numpy() == wanted).all()


def cubes(x: Any) -> Any:
    top, _ = paddle.topk(x, 3, axis=1)
    return (top**3 * paddle.sort(x, axis=0)[:, :3]).sum()


def test_second_derivatives() -> None:
    """Against differences of the first; eager has none."""
    x = data((5, 8), "float64") / 7
    made, along = pirol.to_static(cubes, strict=True), 1e-5
    direction = np.random.default_rng(2).normal(size=x.shape)

    def first(x: Array, again: bool = False) -> Any:
        given = paddle.to_tensor(x, stop_gradient=False)
        (found,) = paddle.grad(made(given), given, create_graph=again)
        if not again:
            return found.numpy()
        total = (found * paddle.to_tensor(direction)).sum()
        return paddle.grad(total, given)[0].numpy()

    step = along * direction
    wanted = (first(x + step) - first(x - step)) / (2 * along)
    np.testing.assert_allclose(first(x, again=True), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("descending", [False, True])
def test_equal_numbers_stay_in_order_and_nan_are_largest(descending: bool) -> None:
    def both(x: Any) -> Any:
        return (
            paddle.sort(x, descending=descending, stable=True),
            paddle.argsort(x, descending=descending, stable=True),
        )

    x = paddle.to_tensor(ties((5, 40)))
    agree(pirol.to_static(both, strict=True)(x), both(x))


def test_special_numbers() -> None:
    """Values; of which of several equal ones Paddle tells the place is up to chance."""

    def values(x: Any) -> Any:
        rows = paddle.sort(x[:, 3:] + 0.0, axis=1)
        return (
            paddle.median(x, axis=1), paddle.nanmedian(x, axis=1), paddle.median(x),
            paddle.nanmedian(x, axis=0, mode="min")[0] + 0.0, paddle.mode(x)[0] + 0.0,
            paddle.searchsorted(rows, x), paddle.searchsorted(rows, x, right=True),
        )  # fmt: skip

    x = ties((5, 40))
    x[2] = NAN
    x = paddle.to_tensor(x)
    agree(pirol.to_static(values, strict=True)(x), values(x))


@pytest.mark.parametrize("function", [*FUNCTIONS, medians, found, places])
def test_exported_on_the_cpu(function: Any, tmp_path: Path) -> None:
    made, x = exported(function, tmp_path / "f")
    agree(pirol.load(tmp_path / "f")(x), function(paddle.to_tensor(x)))


@needs_simulator
@pytest.mark.full
@pytest.mark.parametrize("function", [*FUNCTIONS, medians, found, places])
def test_exported_on_a_device(function: Any, device: Device, tmp_path: Path) -> None:
    before = device.launches
    made, x = exported(function, tmp_path / "f", target="cuda:sm_90")
    found = pirol.load(tmp_path / "f", device="cuda")(x)
    agree(found, function(paddle.to_tensor(x)))
    assert device.launches > before


def exported(function: Any, path: Path, **options: Any) -> tuple[Any, Array]:
    """A function's file, and numbers that are all different for it."""
    made, x = pirol.to_static(function), data((13, 37), "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PirolWarning)
        made(paddle.to_tensor(x))
    pirol.export(made, path, **options)
    return made, x


def test_places_of_equal_ones_are_paddles() -> None:
    """In its process, where values alone are ours; in a file the first comes first."""
    made, x = pirol.to_static(places), paddle.to_tensor(ties((5, 40)))
    with pytest.warns(PirolWarning, match="argsort"):
        agree(made(x), places(x))
    named = {f.op for f in pirol.explain(made).fallbacks}
    names = ("argsort", "topk", "kthvalue", "mode", "median", "nanmedian")
    assert named == {f"pd_op.{n}" for n in names}


def test_explain_names_sorts() -> None:
    made = pirol.to_static(tops)
    made(paddle.to_tensor(data((13, 37), "float32")))
    report = pirol.explain(made)
    assert report.coverage[0] == report.coverage[1] and not report.fallbacks
    assert [text.partition(" test_")[0] for text in report.sorts] == [
        "f32[13, 37] down, the first 3", "f32[37, 13] up, the first 1",
    ]  # fmt: skip
    assert "sorts: 2\n" in str(report)
