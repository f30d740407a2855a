"""Pointwise ops, reductions, norms and losses against eager Paddle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.incubate.nn.functional as fused
import paddle.nn.functional as F
import pytest
from decomposition_runs import SEEN, SHAPES, check, data
from paddle.static import InputSpec

import pirol

INF = float("inf")
Function = Callable[..., Any]


def plain(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    """Random numbers, and among floats a zero."""
    if not dtype.startswith("float"):
        return data(shape, dtype, seed)
    values = np.random.default_rng(seed).normal(size=shape).astype(dtype) * 3
    values.reshape(-1)[1:2] = 0.0
    return values.astype(dtype)


def agree(function: Function, specs: list[Any], calls: list[list[Any]]) -> None:
    """Compiled once, all in kernels, and as eager for each call's arrays."""
    fast = pirol.to_static(function, input_spec=specs, strict=True)
    for arrays in calls:
        check(fast, function, arrays)
        covered, ops = pirol.explain(fast).coverage
        assert covered == ops
    assert pirol.explain(fast).compiles == 1


def open_specs(rank: int, *dtypes: str) -> list[Any]:
    return [InputSpec([None] * rank, d) for d in dtypes]


# Pointwise -----------------------------------------------------------------------


def functions(x: Any) -> Any:
    return (
        paddle.sin(x), paddle.cos(x), paddle.log1p(x), paddle.expm1(x), paddle.ceil(x),
        paddle.trunc(x), paddle.round(x), paddle.round(x, 1), paddle.round(x, -1),
        paddle.sign(x), paddle.reciprocal(x), paddle.isnan(x), paddle.isinf(x),
        paddle.isfinite(x), paddle.logical_not(x), paddle.clip(x, -1.5, 6.0),
        3.0 / x,
        2.0 ** paddle.clip(x, -9, 9),
    )  # fmt: skip


def activations(x: Any) -> Any:
    return (
        F.leaky_relu(x), F.leaky_relu(x, -0.5), F.leaky_relu(x, 2.0), F.elu(x),
        F.elu(x, 0.3), F.celu(x, 1.7), F.selu(x), F.hardtanh(x), F.hardtanh(x, -2, 3.5),
        F.hardsigmoid(x), F.hardsigmoid(x, 0.3, 0.1), F.hardswish(x), F.mish(x),
        F.softplus(x), F.softplus(x, 2.5, 4.0), F.softsign(x), F.swish(x), F.silu(x),
    )  # fmt: skip


def tame(x: Any) -> Any:
    """Where eager's NaN, zeros' signs or infinities are not to be had."""
    return (
        F.relu6(x), F.log_sigmoid(x), x**2, x**3, x**4, x**0, x**1, x**0.5, x**-0.5,
        x**-1, x**1.5, paddle.pow(x, 3), paddle.pow(paddle.abs(x), 0.3), x**-2,
        F.log_softmax(x), F.log_softmax(x, axis=0), paddle.logsumexp(x),
        paddle.logsumexp(x, axis=1, keepdim=True), x.prod(axis=1), paddle.mean(x),
        paddle.clip(x, min=0.25), paddle.clip(x, max=-2.0),
    )  # fmt: skip


def pairs(x: Any, y: Any) -> Any:
    return (
        x % y, x // y, paddle.logical_and(x, y), paddle.logical_or(x, y),
        paddle.logical_xor(x, y), paddle.masked_fill(x, y > x, -2.5),
        paddle.masked_fill(x, x > 0, y.max()), paddle.add_n([x, y, x]),
        paddle.add_n([y]), x % 3.0, x // -2.5, fused.swiglu(x, y), F.swish(x) * y,
        paddle.reduce_as(x, y.max(0, keepdim=True)), paddle.reduce_as(x, y[0, 0]),
        paddle.where(x > y, x, paddle.zeros_like(y)), paddle.abs(x) ** y,
    )  # fmt: skip


def integers(x: Any, y: Any) -> Any:
    return (
        x // y, x % y, x // 7, x % -7, x**3, x**0, paddle.pow(x, 2), x & y, x | y,
        x ^ y, ~x, paddle.logical_and(x, y), paddle.logical_or(x, y),
        paddle.logical_xor(x, y), paddle.logical_not(x), paddle.sign(x), x.ceil(),
        paddle.floor(x), paddle.round(x), paddle.trunc(x), paddle.isnan(x),
        paddle.isinf(x), paddle.isfinite(x), paddle.clip(x, -3, 11),
        paddle.clip(x, min=2), paddle.add_n([x, y]), x.prod(), x.prod(axis=1),
        x.prod(axis=[0, 1], keepdim=True), x.max(axis=0), paddle.amin(x, axis=1),
        paddle.masked_fill(x, x > y, 5),
    )  # fmt: skip


def booleans(x: Any, y: Any) -> Any:
    return (
        x & y, x | y, x ^ y, ~x, paddle.logical_xor(x, y), x + y, x * y, x.any(),
        x.any(axis=0), x.any(axis=[1], keepdim=True), x.all(), x.all(axis=-1),
        paddle.where(x, y, paddle.logical_not(y)), paddle.masked_fill(x, y, True),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("function", "draw"), [(functions, data), (activations, data), (tame, plain)]
)
def test_unary(function: Function, draw: Any, dtype: str) -> None:
    shapes = [s for s in SHAPES if function is not tame or 0 not in s]
    agree(function, open_specs(2, dtype), [[draw(s, dtype)] for s in shapes])


@pytest.mark.parametrize(
    ("function", "dtype"),
    [(pairs, "float32"), (pairs, "float64"), (integers, "int64"), (integers, "int32"),
     (booleans, "bool")],
)  # fmt: skip
def test_binary(function: Function, dtype: str) -> None:
    calls = []
    for shape in SHAPES[:2] + SHAPES[3:]:
        x, y = plain(shape, dtype), plain(shape, dtype, 1)
        if dtype != "bool":
            y[y == 0] = 5
        calls.append([x, y])
    agree(function, open_specs(2, dtype, dtype), calls)


def combined(x: Any, y: Any) -> Any:
    mask = y > 0
    return (
        x % y, x // y, paddle.masked_fill(x, mask, 1.5), paddle.where(mask, x, y),
        paddle.logical_xor(x, y), x**2 + y, paddle.where(mask, x, 0.0 * x),
    )  # fmt: skip


def test_broadcasting() -> None:
    x, y = plain((5, 1, 3), "float32"), plain((4, 1), "float32", 1)
    y[y == 0] = 5
    agree(combined, [InputSpec([None, 1, 3]), InputSpec([4, 1])], [[x, y]])


def scalars(x: Any) -> Any:
    return (
        x**2, x % 2.5, F.hardswish(x), paddle.clip(x, 0, 1), x.prod(), paddle.mean(x),
        paddle.logsumexp(x), F.log_softmax(x), paddle.linalg.norm(x), x.max(),
    )  # fmt: skip


def test_no_dims() -> None:
    agree(scalars, [InputSpec([])], [[np.array(-3.25, "f")]])


def clipped(x: Any, low: Any, high: Any) -> Any:
    return paddle.clip(x, low, high), paddle.clip(x, low, 6.0)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_clip_by_tensors(dtype: str) -> None:
    ends = [np.array([n], dtype) for n in (-2, 3)]
    specs = [InputSpec([None, 5], dtype), *(InputSpec([1], dtype),) * 2]
    agree(clipped, specs, [[data((7, 5), dtype), *ends]])
    fast = pirol.to_static(clipped, input_spec=specs)
    with pytest.raises(ValueError, match="max should be greater"):
        fast(*map(paddle.to_tensor, [data((7, 5), dtype), ends[1], ends[0]]))


def divided(x: Any, y: Any) -> Any:
    return x // y, x % y


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integer_division_does_not_trap(dtype: str) -> None:
    low = np.iinfo(dtype).min
    x = np.array([low, low, low + 1, 7, -7, 7, -7, -1, 0, 0], dtype)
    y = np.array([-1, 1, -1, -2, 2, 2, -2, low, low, -1], dtype)
    fast = pirol.to_static(divided, input_spec=open_specs(1, dtype, dtype))
    quotient, rest = (v.numpy() for v in fast(*map(paddle.to_tensor, (x, y))))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(quotient, x // y)
    np.testing.assert_array_equal(rest, x % y)
    with pytest.raises(Exception, match="division by zero"):
        fast(paddle.to_tensor(x), paddle.to_tensor(y * 0))


def raised(x: Any) -> Any:
    return x**2, x**3, x**4, x**0.5, x**-0.5, x**-1, x**0, x**2.5, x**-3


def test_powers_of_special_numbers() -> None:
    """As C's pow; eager takes -0.0 and -inf for 0.0 and inf."""
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, -1.0, 1e-20, 3e38, -2.0], "f")
    fast = pirol.to_static(raised, input_spec=[InputSpec([9])], strict=True)
    with np.errstate(all="ignore"):
        for exponent, ours in zip(
            (2, 3, 4, 0.5, -0.5, -1, 0, 2.5, -3), fast(paddle.to_tensor(x))
        ):
            wanted = np.power(x.astype("longdouble"), exponent).astype("f")
            np.testing.assert_allclose(ours.numpy(), wanted, 5e-7, 1e-45)
            signs = np.signbit(ours.numpy()) == np.signbit(wanted)
            assert (signs | np.isnan(wanted)).all(), exponent


def kinked(x: Any) -> Any:
    return F.relu6(x), F.log_sigmoid(x)


def test_where_pirol_differs() -> None:
    x = paddle.to_tensor(np.array([-0.0, np.nan, -np.inf, 7.0], "f"))
    fast = pirol.to_static(kinked, input_spec=[InputSpec([4])], strict=True)
    six, logs = (v.numpy() for v in fast(x))
    np.testing.assert_array_equal(six, np.array([0, np.nan, 0, 6], "f"))
    assert not np.signbit(six[0]) and logs[2] == -np.inf and np.isnan(logs[1])


def slopes(x: Any, one: Any, each: Any, every: Any) -> Any:
    element = paddle._C_ops.prelu(x, every, "NCHW", "element")
    return F.prelu(x, one), F.prelu(x, each), element


def slopes_last(x: Any, one: Any, each: Any, every: Any) -> Any:
    return F.prelu(x, one), F.prelu(x, each, data_format="NHWC")


@pytest.mark.parametrize(("function", "channels"), [(slopes, 3), (slopes_last, 5)])
def test_prelu(function: Function, channels: int) -> None:
    shapes: list[Any] = [[None, 3, 4, 5], [1], [channels], [1, 3, 4, 5]]
    arrays = [plain((2, 3, 4, 5), "float32")]
    arrays += [plain(tuple(s), "float32", 1) for s in shapes[1:]]
    agree(function, [InputSpec(s) for s in shapes], [arrays])


def halves(x: Any) -> Any:
    return (fused.swiglu(x),)


def test_swiglu_of_one_operand() -> None:
    agree(halves, [InputSpec([None, 14])], [[data((9, 14), "float32")]])


# Reductions and norms ---------------------------------------------------------------


def vector_norms(x: Any) -> Any:
    n = paddle.linalg.norm
    return (
        n(x), n(x, p=1, axis=1), n(x, p=0, axis=-1, keepdim=True), n(x, p=INF, axis=0),
        n(x, p=-INF, axis=1), n(x, p=4.0, axis=2), n(x, p=0.5, axis=1),
        n(x, p=2, axis=1),
        n(x, p=-1, axis=1, keepdim=True), F.normalize(x, axis=-1),
        paddle._C_ops.squared_l2_norm(x), paddle.amax(x, axis=[0, 2]), paddle.amin(x),
        x.prod(axis=-1, keepdim=True), x.prod(axis=[0, 2]),
        paddle.logsumexp(x, axis=[0, 2]), x.min(axis=1), paddle.all(x > 0, axis=2),
        F.cosine_similarity(x, x * x, axis=1), paddle.nn.functional.mse_loss(x, x + 1),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_vector_norms(dtype: str) -> None:
    calls = [[plain((n, 5, 37), dtype, n)] for n in (1, 2, 31)]
    agree(vector_norms, [InputSpec([None, 5, 37], dtype)], calls)


def layers(x: Any, each: Any) -> Any:
    return (
        F.group_norm(x, 3), F.group_norm(x, 6, weight=each, bias=each * 0.5),
        F.group_norm(x, 1, epsilon=0.1, bias=each), F.instance_norm(x),
        F.instance_norm(x, weight=each, bias=each, eps=1e-3),
    )  # fmt: skip


def channels_last(x: Any, each: Any) -> Any:
    return (
        F.group_norm(x, 3, data_format="NHWC"),
        F.group_norm(x, 2, weight=each, bias=each, data_format="NHWC"),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layers(dtype: str) -> None:
    each = plain((6,), dtype, 3)
    for function, shape in (
        (layers, [None, 6, None, 5]),
        (channels_last, [None, 4, 5, 6]),
    ):
        specs = [InputSpec(list(shape), dtype), InputSpec([6], dtype)]
        sizes = [[n or s for n in shape] for s in (1, 3)]
        calls = [[plain(tuple(s), dtype) + 5, each] for s in sizes]
        agree(function, specs, calls)


def root_mean_square(x: Any, each: Any) -> Any:
    return (
        fused.fused_rms_norm(x, each, None, 1e-6, 2)[0],
        fused.fused_rms_norm(x, each, each, 1e-6, 2)[0],
    )


def test_rms_norm() -> None:
    each = plain((33,), "float32", 1)
    calls = [[plain((n, 5, 33), "float32"), each] for n in (1, 4)]
    fast = pirol.to_static(
        root_mean_square, input_spec=[InputSpec([None, 5, 33]), InputSpec([33])],
        strict=True,
    )  # fmt: skip
    for arrays in calls:
        tensors = list(map(paddle.to_tensor, arrays))
        for ours, theirs in zip(fast(*tensors), root_mean_square(*tensors)):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), 2e-6, 1e-6)
    ops = pirol.explain(fast).stages["capture"].ops
    SEEN.update(op.name.removeprefix("pd_op.") for op in ops)


def test_norm_of_a_large_mean() -> None:
    """Centred before it is squared: 1e4 + noise keeps its variance."""
    x = (np.random.default_rng(0).normal(size=(2, 6, 7, 5)) + 1e4).astype("f")
    fast = pirol.to_static(
        layers, input_spec=[InputSpec([2, 6, 7, 5]), InputSpec([6])], strict=True
    )
    first = fast(paddle.to_tensor(x), paddle.ones([6]))[0].numpy()
    wide = x.astype("float64").reshape(2, 3, -1)
    exact = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    np.testing.assert_allclose(first.reshape(2, 3, -1), exact, 0, 2e-3)


# Losses ------------------------------------------------------------------------


def of_logits(x: Any, y: Any, weight: Any) -> Any:
    loss = F.binary_cross_entropy_with_logits
    none = paddle._C_ops.sigmoid_cross_entropy_with_logits
    return (
        loss(x, y), loss(x, y, reduction="none"), loss(x, y, pos_weight=weight),
        none(x, y, None, True, -1), none(x, y, weight, True, 1),
        F.smooth_l1_loss(x, y), F.smooth_l1_loss(x, y, delta=0.3, reduction="none"),
        F.kl_div(x, y), F.kl_div(x, y, log_target=True), F.l1_loss(x, y),
        F.label_smooth(y),
    )  # fmt: skip


def of_chances(x: Any, y: Any) -> Any:
    return (
        F.binary_cross_entropy(x, y), F.binary_cross_entropy(x, y, reduction="none"),
        F.label_smooth(y, paddle.full([1, 7], 0.25, y.dtype), 0.2),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses(dtype: str) -> None:
    calls = []
    for shape in ((3, 5), (1, 7), (64, 33)):
        x, y = plain(shape, dtype), plain(shape, dtype, 1)
        y[y < 0.5] = -1.0
        y[y > 2.0] = 1.0
        calls.append([x, y, np.abs(plain(shape, dtype, 2))])
    agree(of_logits, open_specs(2, dtype, dtype, dtype), calls)


def test_bce_loss() -> None:
    chances = np.random.default_rng(0).random((13, 7)).astype("f")
    chances[0, :4] = [0.0, 1.0, 1e-20, 1 - 1e-7]
    labels = (np.random.default_rng(1).random((13, 7)) > 0.5).astype("f")
    agree(of_chances, open_specs(2, "float32", "float32"), [[chances, labels]])
    fast = pirol.to_static(of_chances, input_spec=open_specs(2, "float32", "float32"))
    with pytest.raises(Exception, match="Illegal input"):
        fast(paddle.to_tensor(chances * 2), paddle.to_tensor(labels))


def classes(x: Any, label: Any) -> Any:
    whole = F.softmax_with_cross_entropy(x, label, return_softmax=True)
    return (
        F.cross_entropy(x, label), F.cross_entropy(x, label, reduction="sum"), *whole,
        F.cross_entropy(x, paddle.clip(label, min=0), ignore_index=2),
    )  # fmt: skip


def planes(x: Any, label: Any) -> Any:
    return F.cross_entropy(x, label, axis=1), F.log_softmax(x, axis=1)


def mixed(x: Any, label: Any) -> Any:
    whole = F.softmax_with_cross_entropy(x, label, soft_label=True, return_softmax=True)
    return F.cross_entropy(x, label, soft_label=True), *whole


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_cross_entropy(dtype: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    calls = []
    for rows in (1, 5, 33):
        label = rng.integers(0, 11, (rows, 1)).astype(kind)
        label[3:5] = -100
        calls.append([plain((rows, 11), dtype), label])
    specs = [InputSpec([None, 11], dtype), InputSpec([None, 1], kind)]
    agree(classes, specs, calls)
    fast = pirol.to_static(classes, input_spec=specs)
    with pytest.raises(Exception, match="label"):
        fast(paddle.to_tensor(calls[1][0]), paddle.to_tensor(calls[1][1] + 50))


def test_cross_entropy_of_planes() -> None:
    label = np.random.default_rng(0).integers(0, 4, (2, 1, 3, 5))
    specs = [InputSpec([None, 4, None, 5]), InputSpec([None, 1, None, 5], "int64")]
    agree(planes, specs, [[plain((2, 4, 3, 5), "float32"), label]])


def test_cross_entropy_of_soft_labels() -> None:
    label = np.abs(plain((7, 5), "float32", 1))
    agree(
        mixed, open_specs(2, "float32", "float32"), [[plain((7, 5), "float32"), label]]
    )


LISTED = (
    "add_n all amax amin any bce_loss bitwise_and bitwise_not bitwise_or bitwise_xor "
    "ceil celu clip cos cross_entropy_with_softmax elementwise_pow elu expm1 "
    "floor_divide full_batch_size_like fused_rms_norm_quant group_norm hardsigmoid "
    "hardswish hardtanh "
    "huber_loss instance_norm isfinite isinf isnan kldiv_loss label_smooth leaky_relu "
    "log1p log_softmax logical_xor logsigmoid logsumexp masked_fill mean_all mish "
    "p_norm pow prelu prod reciprocal reduce_as relu6 remainder round selu "
    "sigmoid_cross_entropy_with_logits sign sin softplus softsign squared_l2_norm "
    "swiglu swish trunc"
)
OPS = frozenset(LISTED.split())


def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN
