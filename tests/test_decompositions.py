"""Every decomposition against eager Paddle, whole programs of them at once."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from decomposition_runs import SEEN, SHAPES, check, data, run
from paddle.static import InputSpec

import pirol
from pirol.compiler.interpreter import interpret
from pirol.prim.decomp import DECOMPOSITIONS


def unary(x: Any) -> Any:
    return (
        paddle.exp(x), paddle.log(x), paddle.sqrt(x), paddle.rsqrt(x), paddle.tanh(x),
        paddle.erf(x), paddle.floor(x), paddle.abs(x), paddle.square(x), F.sigmoid(x),
        F.silu(x), F.relu(x), F.gelu(x), F.gelu(x, approximate=True), x * 2.5 - 1.0,
        paddle.scale(x, 3.0, 2.0, bias_after_scale=False), -x,
        F.dropout(x, 0.3, training=False),
        F.dropout(x, 0.3, training=False, mode="downscale_in_infer"),
        x.astype("float64"), x.astype("bool"), paddle.full_like(x, 7.0),
    )  # fmt: skip


def binary(x: Any, y: Any) -> Any:
    return (
        x + y, x - y, x * y, x / y, paddle.maximum(x, y), paddle.minimum(x, y),
        x == y, x != y, x < y, x <= y, x > y, x >= y,
    )  # fmt: skip


def chosen(x: Any, y: Any) -> Any:
    return (paddle.where(x > y, x, y),)


def integers(x: Any, y: Any) -> Any:
    return (
        x + y, x - y, x * y, paddle.maximum(x, y), paddle.minimum(x, y), x == y, x < y,
        paddle.abs(x), x * 3 + 1, x.astype("float32"), x.astype("bool"), x.sum(),
        x.sum(axis=0), paddle.where(x > y, x, y),
    )  # fmt: skip


def booleans(x: Any, y: Any) -> Any:
    return (
        paddle.logical_and(x, y), paddle.logical_or(x, y), paddle.logical_not(x),
        x == y, x.astype("int64"), x.astype("float32"), x.sum(axis=1),
    )  # fmt: skip


def moving(x: Any) -> Any:
    rows = x.shape[0]
    left, right = paddle.split(x, [2, 4], axis=1)
    return (
        x.reshape([-1]), x.reshape([0, 3, 2]), x.reshape([rows * 2, -1]), x.flatten(),
        x.transpose([1, 0]), x.unsqueeze([0, -1]), x.unsqueeze(1).squeeze(1),
        paddle.concat([x, x * 2.0], axis=0), paddle.concat([left, right, x], axis=1),
        paddle.stack([x, x + 1.0], axis=1), *paddle.split(x, 3, axis=1), x[:, 1:4],
        x[1:], x[:-1, 2], x[:, -2:], x.expand([2, rows, 6]), paddle.shape(x),
        paddle.full([2, 3], -1.5), paddle.to_tensor([1.0, 2.0, 3.0]),
        paddle.full([1], 5, dtype="int64"),
    )  # fmt: skip


def reducing(x: Any) -> Any:
    return (
        x.sum(), x.sum(axis=1), x.sum(axis=[0, 2]), x.sum(axis=-1, keepdim=True),
        x.mean(), x.mean(axis=[1, 2], keepdim=True), x.mean(axis=0), x.max(axis=1),
        x.min(axis=-1, keepdim=True), F.softmax(x), F.softmax(x, axis=1),
        F.layer_norm(x, x.shape[2:]), F.layer_norm(x, x.shape[1:]),
    )  # fmt: skip


class Norms(paddle.nn.Layer):
    """Norms, convolution, pooling and matmul of an image, in inference."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 6, 3, stride=2, padding=1, dilation=1)
        self.depth = paddle.nn.Conv2D(6, 6, 3, padding=[1, 2], groups=6)
        self.norm = paddle.nn.BatchNorm2D(6)
        self.norm._mean.set_value(paddle.randn([6]))
        self.norm._variance.set_value(paddle.rand([6]) + 0.5)
        self.layer = paddle.nn.LayerNorm([6])
        self.linear = paddle.nn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        y = self.norm(self.depth(self.conv(x)))
        pooled = F.max_pool2d(y, 3, stride=2, padding=1)
        plain = F.max_pool2d(y, 2, stride=1)
        mean = F.adaptive_avg_pool2d(y, 1).flatten(1)
        row = paddle.matmul(mean, mean, transpose_y=True)
        vector = paddle.matmul(mean, mean[0])
        outer = paddle.matmul(mean.unsqueeze(2), mean.unsqueeze(1))
        return y, pooled, plain, self.linear(self.layer(mean)), row, vector, outer


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_unary(dtype: str) -> None:
    specs = [InputSpec([None, None], dtype)]
    fast = pirol.to_static(unary, input_spec=specs, strict=True)
    for shape in SHAPES:
        check(fast, unary, [data(shape, dtype)])
    assert pirol.explain(fast).compiles == 1


@pytest.mark.parametrize("function", [binary, chosen, integers, booleans])
def test_binary(function: Any) -> None:
    dtype = {
        "binary": "float32",
        "chosen": "float32",
        "integers": "int64",
        "booleans": "bool",
    }
    kind = dtype[function.__name__]
    specs = [InputSpec([None, None], kind), InputSpec([None, None], kind)]
    fast = pirol.to_static(function, input_spec=specs, strict=True)
    for shape in SHAPES:
        if 0 not in shape:
            arrays = [data(shape, kind, 0), data(shape, kind, 1)]
            if kind == "float32":
                arrays[1] = np.random.default_rng(2).permuted(arrays[1]).reshape(shape)
            check(fast, function, arrays)


def test_binary_broadcast() -> None:
    run(
        binary,
        [data((5, 1, 3), "float32"), data((4, 1), "float32", 1)],
        [[5, 1, 3], [4, 1]],
    )


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_moving(rows: int) -> None:
    run(
        moving,
        [np.random.default_rng(0).normal(size=(rows, 6)).astype("f")],
        [[None, 6]],
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reducing(dtype: str) -> None:
    specs = [InputSpec([None, 5, 37], dtype)]
    fast = pirol.to_static(reducing, input_spec=specs, strict=True)
    for rows in (1, 2, 31):
        array = np.random.default_rng(rows).normal(size=(rows, 5, 37)).astype(dtype)
        check(fast, reducing, [array * 10])


def test_reductions_keep_nan_and_inf() -> None:
    """Against float64: eager float32 loses the NaN of a row longer than its vectors."""
    array = np.random.default_rng(0).normal(size=(4, 5, 37)).astype("f")
    array[0, 0, 3], array[1, 2, 36], array[2, 1, 0] = np.nan, np.inf, -np.inf
    tensor = paddle.to_tensor(array)
    fast = pirol.to_static(reducing, input_spec=[InputSpec([None, 5, 37])], strict=True)
    exact = reducing(tensor.astype("float64"))
    for k, (ours, theirs) in enumerate(zip(fast(tensor), exact)):
        a, c = ours.numpy(), theirs.numpy()
        np.testing.assert_array_equal(np.isnan(a), np.isnan(c), err_msg=f"output {k}")
        np.testing.assert_array_equal(np.isinf(a), np.isinf(c), err_msg=f"output {k}")


def test_layers_of_an_image() -> None:
    model = Norms()
    model.eval()
    eager = copy.deepcopy(model)
    fast = pirol.to_static(
        model, input_spec=[InputSpec([None, 3, None, None])], strict=True
    )
    fast(paddle.randn([1, 3, 8, 8]))
    ops = pirol.explain(fast).stages["capture"].ops
    SEEN.update(op.name.removeprefix("pd_op.") for op in ops)
    for batch, height, width in ((2, 17, 12), (1, 9, 31), (3, 8, 8)):
        image = paddle.randn([batch, 3, height, width])
        for k, (a, b) in enumerate(zip(fast(image), eager(image))):
            assert list(a.shape) == list(b.shape)
            error = np.linalg.norm(a.numpy() - b.numpy()) / np.linalg.norm(b.numpy())
            assert error < 1e-5, f"output {k}"
    assert pirol.explain(fast).compiles == 1


# Ops that these programs hold; each test_decompositions*.py file lists its own.
LISTED = (
    "abs add assign_value batch_norm_ cast concat conv2d conv3d bmm "
    "conv2d_transpose conv3d_transpose depthwise_conv2d depthwise_conv2d_transpose "
    "divide "
    "dropout equal erf exp expand flatten floor full full_int_array full_like gelu "
    "greater_equal greater_than layer_norm less_equal less_than log logical_and "
    "logical_not logical_or matmul max maximum mean min minimum multiply not_equal "
    "pool2d relu reshape rsqrt scale shape64 sigmoid silu slice softmax split "
    "split_with_num sqrt square squeeze stack subtract sum tanh transpose unsqueeze "
    "where"
)
OPS = frozenset(LISTED.split())


def convolved(x: Any, w: Any, v: Any, u: Any) -> Any:
    return (
        F.conv2d(x, w, stride=2, padding="SAME"), F.conv2d(x, w, padding="VALID"),
        F.conv2d(x, w, stride=[1, 2], padding=[1, 0, 2, 1], dilation=2),
        F.conv2d(x.transpose([0, 2, 3, 1]), w, padding=1, data_format="NHWC"),
        F.conv3d(v, u, stride=2, padding=1, groups=2), F.conv1d(x[:, :, 0], w[:, :, 0]),
        paddle.bmm(x[:, 0], x[:, 1].transpose([0, 2, 1])),
    )  # fmt: skip


def transposed(x: Any, w: Any, v: Any, u: Any) -> Any:
    """w takes three channels to three, u four to six in two groups."""
    y, run = x.transpose([0, 2, 3, 1]), F.conv2d_transpose
    return (
        run(x, w, stride=2, padding="VALID"), run(x, w, stride=[3, 2], padding="SAME"),
        run(x, w, None, [1, 2], [1, 0, 2, 1], [0, 1], dilation=[2, 1]),
        run(x, w, stride=4, padding=6), run(x, w, stride=2, dilation=3, padding=1),
        run(x, w, stride=2, padding=1, output_size=[18, 15]),
        run(y, w, stride=2, padding=1, data_format="NHWC"),
        run(x, w[:, :1], stride=2, groups=3), run(x, w[:, :, :1, :2], stride=3),
        F.conv3d_transpose(v, u, stride=[1, 2, 3], padding=1, groups=2),
        F.conv1d_transpose(x[:, :, 0], w[:, :, 0], stride=2),
    )  # fmt: skip


@pytest.mark.parametrize("function", [convolved, transposed])
def test_convolutions(function: Any) -> None:
    """As eager's; and by the interpreter of their bodies."""
    w = [4, 3, 3, 3] if function is convolved else [3, 3, 3, 3]
    u = [2, 2, 3, 3, 3] if function is convolved else [4, 3, 3, 3, 3]
    shapes: list[Any] = [[2, 3, 9, 8], w, [1, 4, 5, 6, 7], u]
    specs = [InputSpec([None, *shapes[0][1:]]), *map(InputSpec, shapes[1:])]
    fast = pirol.to_static(function, input_spec=specs, strict=True)
    tensors = [paddle.randn(s) for s in shapes]
    ours, theirs = fast(*tensors), function(*tensors)
    stages = pirol.explain(fast).stages
    SEEN.update(op.name.removeprefix("pd_op.") for op in stages["capture"].ops)
    bodies = interpret(stages["decompose"], [t.numpy() for t in tensors])
    for k, (a, b, c) in enumerate(zip(ours, theirs, bodies)):
        assert a.shape == b.shape, k
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(c, b.numpy(), rtol=1e-4, atol=1e-4, err_msg=str(k))


LAYERS = (
    (paddle.nn.LayerNorm(8), (3, 8), (2, 8)), (paddle.nn.Linear(8, 5), (2, 3, 8)),
    (paddle.nn.GroupNorm(4, 8), (2, 8, 5, 3)), (paddle.nn.BatchNorm1D(8), (5, 8)),
    (paddle.nn.Conv2D(8, 4, 3), (2, 8, 5, 6), (1, 8, 3, 3)),
    (paddle.nn.Conv2D(8, 8, 3, groups=8), (2, 8, 5, 5)),
    (paddle.nn.Conv2D(8, 4, 3, data_format="NHWC"), (2, 5, 5, 8)),
)  # fmt: skip


@pytest.mark.parametrize("layer, shapes", [(f, s) for f, *s in LAYERS], ids=str)
def test_weights_tell_how_many_channels(layer: Any, shapes: Any) -> None:
    """No size is told of the inputs."""
    layer.eval()
    spec = [InputSpec([None] * len(shapes[0]))]
    fast = pirol.to_static(layer.forward, input_spec=spec, strict=True)
    for shape in shapes:
        x = paddle.randn(shape)
        np.testing.assert_allclose(fast(x), layer(x), rtol=1e-4, atol=1e-5)


def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN


def test_every_decomposition_is_tested() -> None:
    """Each decomposition is in the list of one of the files."""
    # Names that paddle.jit does not write itself, or another test's subject.
    listed = {"batch_norm", "shape", "share_data", "assign", "mean_all", "log_loss"}
    listed |= {"bitwise_and", "bitwise_or", "bitwise_not"}
    folder = Path(__file__).parent
    for path in (*folder.glob("test_decompositions*.py"), folder / "test_complex.py"):
        listed |= importlib.import_module(path.stem).OPS
    paddles = {n for n in DECOMPOSITIONS if n.startswith("pd_op.")}  # not our own ops
    assert not {n.removeprefix("pd_op.") for n in paddles} - listed
