"""Ops that make tensors or move elements: bit for bit as eager Paddle, any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from decomposition_runs import SEEN, check, data
from paddle.static import InputSpec

import pirol

DTYPES = ["bool", "int32", "int64", "float32", "float64"]


def identical(fast: Callable[..., Any], function: Any, arrays: list[Any]) -> None:
    """The same bits as eager: NaN and the signs of zeros included."""
    tensors = [paddle.to_tensor(a) for a in arrays]
    theirs, ours = function(*tensors), fast(*tensors)
    ops = pirol.explain(fast).stages["capture"].ops
    SEEN.update(op.name.removeprefix("pd_op.") for op in ops)
    assert len(ours) == len(theirs)
    for k, (a, b) in enumerate(zip(ours, theirs)):
        what = f"{function.__name__} output {k} of {[t.shape for t in tensors]}"
        assert a.dtype == b.dtype, what
        assert list(a.shape) == list(b.shape), what
        x, y = (np.ascontiguousarray(v.numpy()) for v in (a, b))
        assert x.tobytes() == y.tobytes(), f"{what}:\n{x}\nexpected\n{y}"


def compiled(function: Any, dtypes: Sequence[str], *dims: Any) -> Any:
    specs = [InputSpec(list(d), t) for d, t in zip(dims, dtypes)]
    return pirol.to_static(function, input_spec=specs, strict=True)


def for_all(function: Any, dtype: str, dims: Sequence[Any], shapes: Any) -> None:
    """One compile serves all the shapes."""
    fast = compiled(function, [dtype], dims)
    for k, shape in enumerate(shapes):
        identical(fast, function, [data(shape, dtype, k)])
    assert pirol.explain(fast).compiles == 1


SIZES = [(5, 7), (0, 3), (1, 1), (2, 13), (31, 0), (1, 4)]


def creating(x: Any) -> Any:
    rows, columns = x.shape
    return (
        paddle.full([rows, 2], float("inf")), paddle.full([2], x.sum()),
        paddle.zeros([columns], dtype="int32"), paddle.ones_like(x),
        paddle.full_like(x, 5), paddle.eye(rows), paddle.eye(3, 5, "int32"),
        paddle.eye(rows, columns), paddle.numel(x), paddle.is_empty(x),
        paddle.full([3], True), paddle.zeros([2, 0]),
        paddle.numel(paddle.empty_like(x)),
        paddle.to_tensor(np.arange(100, dtype="float32")),
        paddle.to_tensor(np.arange(200).reshape(10, 20) * -3),
        paddle.to_tensor(np.arange(150) ** 2), paddle.to_tensor([[True, False]]),
        paddle.to_tensor(np.full([9, 9, 9], 2.5)), paddle.tril_indices(4, 3, 0),
        paddle.triu_indices(3, 4, 1), paddle.shape(x), paddle.rank(x),
    )  # fmt: skip


def ranges(x: Any) -> Any:
    rows, columns = x.shape
    return (
        paddle.arange(rows), paddle.arange(1, columns, 2), paddle.arange(rows, -3, -2),
        paddle.arange(0, rows, 2, dtype="float32"), paddle.arange(5),
        paddle.arange(3, 3),
        paddle.arange(columns, dtype="int32"), paddle.arange(rows, rows + 4),
        paddle.arange(0, 2, 0.25), paddle.arange(rows * columns, dtype="float64"),
        paddle.arange(7.5, 2.0, -1.25, dtype="float64"), paddle.arange(4, 1),
        paddle.arange(rows - 1, -1, -1),
        *paddle.meshgrid(paddle.arange(rows), paddle.arange(columns), paddle.arange(2)),
    )  # fmt: skip


def spaces(x: Any) -> Any:
    rows = x.shape[0]
    return (
        paddle.linspace(0, 1, 5), paddle.linspace(-3, 8, rows),
        paddle.linspace(0, 10, 4, dtype="int32"), paddle.linspace(3, 10, 1),
        paddle.linspace(2, 1, 0), paddle.linspace(0, rows, rows + 1, dtype="float64"),
        paddle.arange(0.1, 3, 0.1), paddle.increment(x.sum() * 1.0, 2.5),
    )  # fmt: skip


def by_name(x: Any) -> Any:
    """Ops that no function of Paddle's own makes while it traces."""
    ops = paddle._C_ops
    return ops.fill(x, 3.0), ops.shape(x), paddle.zeros(ops.shape(x) * 2)


def narrow(x: Any) -> Any:
    return (
        x[::2], x.reshape([-1]), x.t(), x[1:], x[:, 2],
        paddle.stack([x, x]), *paddle.split(x, 2, 1), x.expand([2, -1, 4]),
        *paddle.unbind(x, 1), paddle.full_like(x, 3),
    )  # fmt: skip


def triangles(x: Any) -> Any:
    return (
        paddle.tril(x), paddle.triu(x, 1), paddle.tril(x, -2), paddle.triu(x, -3),
        paddle.triu(x.reshape([1, x.shape[0], -1]), 2),
    )  # fmt: skip


def diagonals(x: Any) -> Any:
    return (
        paddle.diag(x), paddle.diag(x, 2), paddle.diag(x, -1), paddle.diagonal(x),
        paddle.diagonal(x.unsqueeze(1), 1, 2, 0), paddle.diag_embed(x, -1),
        paddle.diag_embed(x, 2, 0, 1),
    )  # fmt: skip


def vectors(x: Any) -> Any:
    return (
        paddle.diag(x), paddle.diag(x, 1, 3.0), paddle.diag(x, -2),
    )  # fmt: skip


def repeating(x: Any) -> Any:
    rows, columns = x.shape
    return (
        paddle.tile(x, [2, 1]), x.tile([3]), x.tile([2, 1, 3]), x.tile([rows, 2]),
        x.tile([0, 1]), x.expand_as(paddle.zeros([3, rows, columns])),
        x.expand([2, -1, columns]), paddle.broadcast_to(x, [rows, columns]),
        *paddle.broadcast_tensors([x, x.unsqueeze(1)]),
        x.unsqueeze(1).expand([-1, 4, -1]),
        x.unsqueeze([0, 2]).expand([rows, -1, 2, -1]),
    )  # fmt: skip


def scalars(x: Any) -> Any:
    return (
        x.expand([2, 3]), x.tile([2, 2]), x.reshape([1, 1]), x.unsqueeze(0),
        paddle.stack([x, x]), x.flatten(), paddle.full_like(x, 3),
        *paddle.meshgrid(x, x), paddle.assign(x).squeeze(), F.one_hot(x, 5),
    )  # fmt: skip


def turning(x: Any) -> Any:
    rows = x.shape[0]
    return (
        paddle.flip(x, [0]), paddle.flip(x, [0, -1]), paddle.flip(x, -1),
        paddle.roll(x, 1), paddle.roll(x, -2, 0), paddle.roll(x, [1, -3], [0, 1]),
        paddle.roll(x, rows, 1), paddle.roll(x, 100, -1), paddle.rot90(x),
        x.t(), paddle.moveaxis(x, 0, 1), x.unsqueeze(0).squeeze([0]),
    )  # fmt: skip


def slicing(x: Any) -> Any:
    rows = x.shape[0]
    return (
        x[::2], x[::-1], x[1:-1:2, ::-2], x[-2:], x[:-3], x[5:2:-1], x[-100:100],
        x[rows - 1:], x[: rows - 1], x[rows - 3 :], x[-3:-1], x[4:2], x[..., 1:],
        x[:, ::3], x[10:-10:-2], x[None, ::-3],
        paddle.strided_slice(x, [0, 1], [-1, 0], [-100, 9], [-2, 4]),
        paddle.slice(x, [0, 1], [-3, 1], [rows, 2]),
        paddle.expand_as(x[1:], x[:-1]),
    )  # fmt: skip


def picking(x: Any) -> Any:
    rows = x.shape[0]
    return (
        x[0], x[-1], x[:, 1], x[rows - 1], x[0, -1], x[1:, -2],
        *paddle.unbind(x, 1),
    )  # fmt: skip


def putting(x: Any) -> Any:
    rows = x.shape[0]
    ys = []
    for _ in range(9):
        ys.append(x + 0 if x.dtype != paddle.bool else paddle.logical_or(x, x))
    ys[0][0] = 1
    ys[1][:, 1:2] = x[:, 0:1]
    ys[2][::-2, 0] = 1
    ys[3][rows - 1 :, :] = x[0]
    ys[4][None, 0] = 1
    ys[5][-2:, 1:4] = 0
    ys[6][1::3, ::-1] = x[:1]
    ys[7][:] = x[-1:]
    ys[8][0, -1] = x[0, 0]
    return tuple(ys)


def padding(x: Any) -> Any:
    return (
        F.pad(x, [1, 2]), F.pad(x, [1, 2, 3, 0], value=2.0),
        F.pad(x, [0, 0, 0, 0, 1, 1, 2, 2], value=-1.0),
        F.pad(x, [1, 2, 3, 1], mode="constant", data_format="NHWC"),
        F.pad(x, [-1, 2, 0, -1]), F.pad(x, [1, 0, x.shape[2], 0]),
    )  # fmt: skip


def mirrored(x: Any) -> Any:
    return (
        F.pad(x, [1, 2, 2, 0], mode="reflect"),
        F.pad(x, [1, 2, 3, 4], mode="replicate"),
        F.pad(x, [3, 2, 1, 3], mode="circular"),
        F.pad(x, [1, 2, 1, 0], mode="reflect", data_format="NHWC"),
    )  # fmt: skip


def joining(x: Any) -> Any:
    rows = x.shape[0]
    a, b = paddle.split(x, 2, 1)
    c, d, e = paddle.split(x, [1, -1, 2], axis=-1)
    f, g = paddle.split(x, [rows - 1, 1])
    return (
        a, b, c, d, e, f, g, *paddle.chunk(x, 3, -1), *paddle.tensor_split(x, 4, 1),
        paddle.concat([x, x[1:], x[:0]]), paddle.stack([x, x], -1),
        paddle.hstack([x, a]),
        paddle.unstack(x[:, :2].astype("float32"), axis=1)[1],
    )  # fmt: skip


def shuffling(x: Any) -> Any:
    return (
        F.pixel_shuffle(x, 2), F.channel_shuffle(x, 4), F.channel_shuffle(x, 2),
        paddle.crop(x, [1, -1, 2, -1]),
        paddle.crop(x, [-1, 3, 2, 1], [0, 2, 0, 0]),
        paddle.repeat_interleave(x, 3, 0), paddle.repeat_interleave(x, 2),
        paddle.repeat_interleave(x, 2, -1),
    )  # fmt: skip


def shapes(x: Any) -> Any:
    """Sizes computed by the program itself."""
    s = paddle.shape(x)
    rows, columns = x.shape
    half, rest = rows // 2, rows % 2
    pair = paddle.concat([s[1:], s[:1]])
    return (
        x.reshape([s[0] * s[1], -1]), paddle.zeros(s), paddle.full(s, 2),
        paddle.zeros([half + rest, columns]), paddle.zeros([half * 2 + 1]),
        paddle.ones(pair), x.reshape(pair), paddle.zeros([s.max()]),
        paddle.zeros([s.min() + 1, 1]), paddle.zeros([paddle.prod(s)]),
        paddle.zeros([s.sum()]), x.expand([s[0], *x.shape]),
        paddle.zeros([paddle.maximum(s[0], s[1])]), paddle.arange(s[0] * 2 - s[1]),
        paddle.zeros(s.astype("int32")), x.reshape(paddle.flip(s, 0)),
        paddle.zeros([paddle.minimum(s[0], paddle.full([], 3, "int64"))]),
        paddle.arange(s[0].astype("float32")), paddle.zeros(paddle.stack([s[1], s[0]])),
        paddle.numel(x) + rows,
    )  # fmt: skip


def halves(x: Any) -> Any:
    """Sizes computed by way of floats."""
    s = paddle.shape(x)
    rows, columns = x.shape
    high = s[0].astype("float32")
    return (
        paddle.zeros([int(rows * 0.5), int(columns / 4)]),
        paddle.zeros([int(rows * 2.0)]),
        paddle.zeros([paddle.floor(high * 1.5).astype("int32")]),
        paddle.zeros([paddle.ceil(high * 0.75 + 0.25).astype("int64")]),
        paddle.arange(int(rows / 2 - 1.5) + 2), x[: int(rows * 0.5)],
        F.interpolate(x.unsqueeze([0, 1]), size=[int(rows * 1.5), int(columns * 2.0)]),
    )  # fmt: skip


def masks(x: Any) -> Any:
    return (
        F.one_hot(x, 5), F.one_hot(x, x.shape[0] + 5), F.one_hot(x.unsqueeze(0), 7),
        F.sequence_mask(x, 4), F.sequence_mask(x, x.shape[0], dtype="float32"),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_creating(dtype: str) -> None:
    for_all(creating, dtype, [None, None], SIZES)


def test_ranges() -> None:
    for_all(ranges, "float32", [None, None], SIZES)


def test_spaces() -> None:
    fast = compiled(spaces, ["float32"], [None])
    for size in (4, 1, 2, 13, 0):
        check(fast, spaces, [np.arange(size, dtype="f")])
    assert pirol.explain(fast).compiles == 1


def test_ops_by_name() -> None:
    for_all(by_name, "float32", [None, None], SIZES)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_narrow_integers(dtype: str) -> None:
    fast = compiled(narrow, [dtype], [None, 4])
    for rows in (3, 1, 0, 13):
        identical(fast, narrow, [np.arange(rows * 4).reshape(rows, 4).astype(dtype)])
    assert pirol.explain(fast).compiles == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_triangles(dtype: str) -> None:
    for_all(triangles, dtype, [None, None], [(5, 7), (1, 1), (2, 13), (8, 3)])


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_diagonals(dtype: str) -> None:
    for_all(diagonals, dtype, [None, None], [(5, 7), (4, 3), (2, 13), (1, 3)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_repeating(dtype: str) -> None:
    for_all(repeating, dtype, [None, None], SIZES)


def test_scalars() -> None:
    fast = compiled(scalars, ["int64"], [])
    identical(fast, scalars, [np.array(3)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_turning(dtype: str) -> None:
    for_all(turning, dtype, [None, None], SIZES)


@pytest.mark.parametrize("dtype", DTYPES)
def test_slicing(dtype: str) -> None:
    for_all(slicing, dtype, [None, None], SIZES)


def test_slicing_of_static_dims() -> None:
    for size in (0, 1, 2, 5):
        for_all(slicing, "float32", [size, 6], [(size, 6)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_picking(dtype: str) -> None:
    for_all(picking, dtype, [None, 5], [(4, 5), (1, 5), (13, 5)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_putting(dtype: str) -> None:
    shapes = [(5, 7), (1, 4), (2, 13), (31, 2)]
    for_all(putting, dtype, [None, None], shapes)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_padding(dtype: str) -> None:
    shapes = [(2, 3, 5, 4), (1, 1, 3, 2), (3, 2, 7, 13)]
    for_all(padding, dtype, [None, None, None, None], shapes)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_mirrored(dtype: str) -> None:
    shapes = [(2, 3, 5, 4), (1, 2, 3, 5), (3, 2, 7, 13)]
    for_all(mirrored, dtype, [None, None, None, None], shapes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_joining(dtype: str) -> None:
    for_all(joining, dtype, [None, 6], [(4, 6), (2, 6), (8, 6)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shuffling(dtype: str) -> None:
    shapes = [(2, 8, 5, 4), (1, 8, 2, 1), (3, 8, 3, 13)]
    for_all(shuffling, dtype, [None, 8, None, None], shapes)


def unshuffling(x: Any) -> Any:
    return F.pixel_unshuffle(x, 3), F.pixel_unshuffle(x[:, :, :2], 2)


def test_unshuffling() -> None:
    for_all(unshuffling, "float32", [None, 2, 6, 12], [(2, 2, 6, 12), (1, 2, 6, 12)])


def test_diag_of_a_static_vector() -> None:
    for size in (0, 1, 5):
        for_all(vectors, "float32", [size], [(size,)])


def test_shapes() -> None:
    for_all(shapes, "float32", [None, None], [(5, 7), (1, 1), (2, 13), (6, 5)])


def test_halves() -> None:
    for_all(halves, "float32", [None, None], [(5, 7), (2, 4), (13, 1), (6, 5)])


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_masks(dtype: str) -> None:
    fast = compiled(masks, [dtype], [None])
    for size in (4, 1, 13):
        identical(fast, masks, [(np.arange(size) % 5).astype(dtype)])
    assert pirol.explain(fast).compiles == 1


LISTED = (
    "arange assign_value broadcast_tensors channel_shuffle concat crop diag diag_embed "
    "diagonal expand expand_as eye empty fill flatten flip full full_int_array "
    "full_like full_with_tensor increment is_empty linspace meshgrid numel one_hot "
    "pad pad3d "
    "pixel_shuffle pixel_unshuffle repeat_interleave reshape roll sequence_mask "
    "set_value set_value_with_tensor shape shape64 slice split split_with_num squeeze "
    "stack strided_slice tile transpose tril tril_indices triu triu_indices unbind "
    "unsqueeze unstack"
)
OPS = frozenset(LISTED.split())


def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN
