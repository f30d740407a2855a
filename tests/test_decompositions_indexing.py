"""Ops that look elements up by index tensors, and resizing of images."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from decomposition_runs import SEEN, check, data
from paddle.static import InputSpec
from test_decompositions_shape import DTYPES, compiled, identical

import pirol


def rows_of(x: Any, i: Any) -> Any:
    return (
        paddle.gather(x, i), paddle.index_select(x, i), x[i], paddle.gather(x, i[:1]),
        paddle.gather(x, i.unsqueeze(1)), paddle.gather_nd(x, i.unsqueeze(1)),
        paddle.gather_nd(x, i.reshape([-1, 1, 1])),
        paddle.gather_nd(x, paddle.stack([i, i * 0], -1)),
    )  # fmt: skip


def columns_of(x: Any, i: Any) -> Any:
    return (
        paddle.gather(x, i, 1), paddle.index_select(x, i, -1), x[:, i], x[i * 0, i],
        paddle.take_along_axis(x, i.unsqueeze(0), 1, broadcast=False),
        paddle.gather(x, i, -1),
    )  # fmt: skip


def along(x: Any, i: Any) -> Any:
    return (
        paddle.take_along_axis(x, i, 1), paddle.take_along_axis(x, i, -1),
        paddle.take_along_axis(x, i[:1], 1, broadcast=False),
    )  # fmt: skip


def sampled(x: Any, i: Any) -> Any:
    return (paddle.index_sample(x, i),)


def embedded(table: Any, i: Any) -> Any:
    return (
        F.embedding(i, table), F.embedding(i, table, padding_idx=2),
        F.embedding(i.unsqueeze(0), table),
    )  # fmt: skip


def at_place(x: Any, i: Any) -> Any:
    return x[i], x[:, i], x[i, i], x[i + 1], paddle.gather(x, i), x[-i]


def put_at_place(x: Any, i: Any) -> Any:
    ys = [x + 0 for _ in range(4)]
    ys[0][i] = 5.0
    ys[1][:, i] = x[:, 0]
    ys[2][i, i] = x[0, 1]
    ys[3][i - 1] = x[:1]
    return tuple(ys)


INDEX = ["int32", "int64"]


def indices(shape: Any, low: int, high: int, dtype: str, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows(dtype: str) -> None:
    fast = compiled(rows_of, [dtype, "int64"], [None, None], [None])
    for shape, count in (((5, 7), 3), ((1, 1), 4), ((13, 2), 1), ((4, 3), 31)):
        index = indices(count, -shape[0], shape[0], "int64")
        identical(fast, rows_of, [data(shape, dtype), index])
    assert pirol.explain(fast).compiles == 1


@pytest.mark.parametrize("index", INDEX)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_columns(dtype: str, index: str) -> None:
    fast = compiled(columns_of, [dtype, index], [None, None], [None])
    for shape, count in (((5, 7), 3), ((2, 1), 4), ((13, 2), 1), ((4, 30), 31)):
        chosen = indices(count, -shape[1], shape[1], index)
        identical(fast, columns_of, [data(shape, dtype), chosen])
    assert pirol.explain(fast).compiles == 1


def test_no_index() -> None:
    fast = compiled(sampled, ["float32", "int64"], [None, None], [None, None])
    identical(fast, sampled, [data((3, 4), "float32"), np.zeros((3, 0), "int64")])
    lookup = compiled(embedded, ["float32", "int64"], [9, None], [None])
    identical(lookup, embedded, [data((9, 4), "float32"), np.zeros(0, "int64")])


@pytest.mark.parametrize("index", INDEX)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_along(dtype: str, index: str) -> None:
    fast = compiled(along, [dtype, index], [None, None], [None, None])
    for shape, count in (((5, 7), 3), ((1, 1), 4), ((13, 2), 1), ((4, 3), 31)):
        chosen = indices((shape[0], count), -shape[1], shape[1], index)
        identical(fast, along, [data(shape, dtype), chosen])
    assert pirol.explain(fast).compiles == 1


@pytest.mark.parametrize("index", INDEX)
def test_sampled(index: str) -> None:
    fast = compiled(sampled, ["float32", index], [None, None], [None, None])
    for shape, count in (((5, 7), 3), ((1, 1), 4), ((13, 2), 1)):
        chosen = indices((shape[0], count), 0, shape[1], index)
        identical(fast, sampled, [data(shape, "float32"), chosen])
    assert pirol.explain(fast).compiles == 1


@pytest.mark.parametrize("index", INDEX)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_embedded(dtype: str, index: str) -> None:
    fast = compiled(embedded, [dtype, index], [9, None], [None])
    for width, count in ((5, 7), (1, 1), (13, 0), (4, 31)):
        chosen = indices(count, 0, 9, index)
        identical(fast, embedded, [data((9, width), dtype), chosen])
    assert pirol.explain(fast).compiles == 1


def test_at_place() -> None:
    fast = compiled(at_place, ["float32", "int64"], [None, None], [])
    for place in (0, 2, -3):
        identical(fast, at_place, [data((4, 5), "float32"), np.array(place)])
    put = compiled(put_at_place, ["float32", "int64"], [None, None], [])
    for place in (0, 2, -3):
        identical(put, put_at_place, [data((4, 5), "float32"), np.array(place)])


OUTSIDE = [
    (rows_of, [data((4, 5), "float32"), np.array([0, 4])], [[None, 5], [None]]),
    (rows_of, [data((4, 5), "float32"), np.array([-5, 0])], [[None, 5], [None]]),
    (along, [data((2, 5), "float32"), np.array([[0], [5]])], [[2, None], [2, None]]),
    (sampled, [data((2, 5), "float32"), np.array([[0], [-1]])], [[2, None], [2, None]]),
    (embedded, [data((4, 5), "float32"), np.array([0, 4])], [[4, 5], [None]]),
]


@pytest.mark.parametrize("function, arrays, dims", OUTSIDE)
def test_indices_outside_are_refused_as_by_paddle(
    function: Any, arrays: Any, dims: Any
) -> None:
    specs = [InputSpec(d, str(a.dtype)) for d, a in zip(dims, arrays)]
    fast = pirol.to_static(function, input_spec=specs)
    tensors = [paddle.to_tensor(a) for a in arrays]
    with pytest.raises((ValueError, IndexError), match="Expected|out of|index"):
        fast(*tensors)
    good = [tensors[0], tensors[1] * 0]
    for a, b in zip(fast(*good), function(*good)):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def nearest(x: Any) -> Any:
    height, width = x.shape[2], x.shape[3]
    return (
        F.interpolate(x, scale_factor=2), F.interpolate(x, scale_factor=[3, 1]),
        F.interpolate(x, scale_factor=1.5), F.interpolate(x, size=[7, 9]),
        F.interpolate(x, scale_factor=[1, 0.75]),
        F.interpolate(x, size=[height * 2, width]), F.interpolate(x, size=[5, 1]),
        F.interpolate(x, size=paddle.shape(x)[2:] + 3),
        F.interpolate(x, size=[height, width * 4]), F.interpolate(x, size=[1, 77]),
    )  # fmt: skip


def linear(x: Any) -> Any:
    height, width = x.shape[2], x.shape[3]
    kinds = (
        {"scale_factor": 2},
        {"size": [7, 9]},
        {"size": [height + 2, width * 3]},
        {"scale_factor": [1.5, 2.25]},
    )
    found = []
    for kind in kinds:
        found.append(F.interpolate(x, mode="bilinear", **kind))
        found.append(F.interpolate(x, mode="bilinear", align_mode=1, **kind))
        found.append(F.interpolate(x, mode="bilinear", align_corners=True, **kind))
        found.append(F.interpolate(x, mode="bicubic", **kind))
        found.append(F.interpolate(x, mode="bicubic", align_corners=True, **kind))
    return tuple(found)


def channels_last(x: Any) -> Any:
    return (
        F.interpolate(x, size=[5, 6], mode="bilinear", data_format="NHWC"),
        F.interpolate(x, scale_factor=2, data_format="NHWC"),
        F.interpolate(x, size=[5, 6], mode="bicubic", data_format="NHWC"),
    )  # fmt: skip


def lines(x: Any) -> Any:
    return (
        F.interpolate(x, scale_factor=2, mode="linear", data_format="NCW"),
        F.interpolate(x, None, 1.5, "linear", True, data_format="NCW"),
        F.interpolate(x, size=[1], mode="linear", data_format="NCW"),
    )  # fmt: skip


def volumes(x: Any) -> Any:
    kind = {"data_format": "NCDHW"}
    return (
        F.interpolate(x, scale_factor=2, mode="trilinear", **kind),
        F.interpolate(x, size=[3, 4, 2], mode="trilinear", align_corners=True, **kind),
        F.interpolate(x, size=[2, 6, 4], **kind),
        F.interpolate(x, scale_factor=3, **kind),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_nearest(dtype: str) -> None:
    fast = compiled(nearest, [dtype], [None, 3, None, None])
    for shape in ((2, 3, 5, 7), (1, 3, 2, 2), (2, 3, 13, 31), (0, 3, 4, 4)):
        identical(fast, nearest, [data(shape, dtype)])
    assert pirol.explain(fast).compiles == 1


def test_nearest_reads_the_same_places() -> None:
    """Sizes at which float32 rounds a ratio up or down."""
    for old, new in ((41, 41 * 41), (7, 49), (10, 7), (100, 61), (3, 300), (25, 625)):
        fast = compiled(nearest_to(new), ["float32"], [1, 1, 1, None])
        identical(
            fast, nearest_to(new), [np.arange(old, dtype="f").reshape(1, 1, 1, -1)]
        )


@functools.cache
def nearest_to(size: int) -> Any:
    def resized(x: Any) -> Any:
        return F.interpolate(x, size=[1, size]), F.interpolate(x, size=[2, size])

    return resized


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear(dtype: str) -> None:
    fast = compiled(linear, [dtype], [None, 2, None, None])
    for shape in ((2, 2, 5, 7), (1, 2, 2, 2), (1, 2, 13, 31), (0, 2, 4, 4)):
        check(fast, linear, [np.random.default_rng(0).normal(size=shape).astype(dtype)])
    assert pirol.explain(fast).compiles == 1


@pytest.mark.parametrize(
    "function, dims, shapes",
    [
        (channels_last, [None, None, None, 3], [(2, 4, 5, 3), (1, 2, 2, 3)]),
        (lines, [None, 3, None], [(2, 3, 7), (1, 3, 2), (4, 3, 31)]),
        (volumes, [None, 2, None, None, None], [(1, 2, 3, 4, 5), (2, 2, 2, 2, 7)]),
    ],
)
def test_other_ranks(function: Any, dims: Any, shapes: Any) -> None:
    fast = compiled(function, ["float32"], dims)
    for shape in shapes:
        check(fast, function, [np.random.default_rng(0).normal(size=shape).astype("f")])
    assert pirol.explain(fast).compiles == 1


LISTED = (
    "bicubic_interp bilinear_interp embedding gather gather_nd index_sample "
    "index_select linear_interp nearest_interp take_along_axis trilinear_interp"
)
OPS = frozenset(LISTED.split())


def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN
