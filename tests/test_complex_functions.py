"""pirol.complex: on tensors and compiled, against NumPy's and PyTorch's definitions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from decomposition_runs import of_tensors

import pirol
import pirol.complex as pc


def numbers(shape: Any, seed: int = 0, dtype: str = "complex64") -> Any:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)


X, Y = numbers((2, 4, 5)), numbers((2, 5, 3), 1)
IMAGE, WEIGHT, BIAS = numbers((2, 3, 7, 6)), numbers((4, 3, 3, 2), 1), numbers(4, 2)
AT = np.array([[[1], [0], [3], [2]]])


def conv(x: Any, w: Any, b: Any, stride: int = 1, pad: int = 0) -> Any:
    """[N, C, H, W] with [O, C, h, w]."""
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    h, v = w.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(x, (h, v), (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, w) + b.reshape(-1, 1, 1)


def spread_var(x: Any, axis: Any = None, ddof: int = 1) -> Any:
    return np.var(x.astype("complex128"), axis=axis, ddof=ddof)


def put(x: Any, at: Any, value: Any) -> Any:
    found = x.copy()
    found[0, at[0, :, 0], 0] = value[0, :, 0]
    return found


def added(x: Any, rows: Any, values: Any) -> Any:
    found = x.copy()
    np.add.at(found, rows, values)
    return found


def summed(x: Any, axis: Any) -> Any:
    """log(sum(exp(x))) of complex numbers."""
    wide = x.astype("complex256")
    return np.log(np.exp(wide).sum(axis)).astype("complex128")


def over_none(x: Any) -> Any:
    """x with infinities and NaN, in one part or both."""
    found = x.copy()
    found.real[:, 0], found.imag[:, 1:3], found.real[0, 2] = np.inf, -np.inf, np.nan
    return found


ROWS = np.array([1, 0])
LARGE = numbers((5, 5), 7)
# What is called, on which arrays, and what it should be.
CASES: dict[str, tuple[Callable[..., Any], list[Any], Any]] = {
    "bmm": (pc.bmm, [X, Y], X @ Y),
    "mv": (pc.mv, [X[0], Y[0, :, 0]], X[0] @ Y[0, :, 0]),
    "addmm": (
        lambda a, x, y: pc.addmm(a, x, y, 0.5, 2.0),
        [numbers((4, 3), 3), X[0], Y[0]],
        0.5 * numbers((4, 3), 3) + 2 * (X[0] @ Y[0]),
    ),
    "baddbmm": (
        lambda x, y: pc.baddbmm(x @ y, x, y, 0.5, 2.0),
        [X, Y],
        2.5 * (X @ Y),
    ),
    "multi_dot": (
        lambda x, y: pc.multi_dot([x[0], y[0], x[0, :3]]),
        [X, Y],
        X[0] @ Y[0] @ X[0, :3],
    ),
    "inner": (pc.inner, [X, X[0]], np.inner(X, X[0])),
    "inner with real": (pc.inner, [X, X[0].real.copy()], np.inner(X, X[0].real)),
    "tensordot": (
        lambda x, y: pc.tensordot(x, y, [[0, 2], [0, 1]]),
        [X, Y],
        np.tensordot(X, Y, ((0, 2), (0, 1))),
    ),
    "solve": (pc.solve, [X[:, :, :4], X], np.linalg.solve(X[:, :, :4], X)),
    "solve for one": (
        pc.solve,
        [X[0, :, :4], Y[0, :4, 0]],
        np.linalg.solve(X[0, :, :4], Y[0, :4, 0]),
    ),
    "solve for many": (pc.solve, [LARGE, X[0, 0]], np.linalg.solve(LARGE, X[0, 0])),
    "logsumexp": (
        lambda x: pc.logsumexp(x * 100, [0, 2]) / 100,
        [X],
        summed(X * 100, (0, 2)) / 100,
    ),
    "logsumexp of all": (pc.logsumexp, [X], summed(X, None)),
    "logsumexp kept": (
        lambda x: pc.logsumexp(x, 1, True),
        [X],
        summed(X, 1)[:, None],
    ),
    "softmax": (
        lambda x: pc.softmax(x, 1),
        [X],
        np.exp(X) / np.exp(X).sum(1, keepdims=True),
    ),
    "softmax of large ones": (
        lambda x: pc.softmax(x + 200.0),
        [X],
        np.exp(X) / np.exp(X).sum(-1, keepdims=True),
    ),
    "cov": (pc.cov, [X[0]], np.cov(X[0])),
    "cov of columns": (
        lambda x: pc.cov(x, False, False),
        [X[0]],
        np.cov(X[0].T, ddof=0),
    ),
    "cov of a line": (pc.cov, [X[0, 0]], np.cov(X[0, 0])),
    "rot90": (lambda x: pc.rot90(x, 3, [1, 2]), [X], np.rot90(X, 3, (1, 2))),
    "trapezoid": (
        lambda x: pc.trapezoid(x, dx=0.5, axis=1),
        [X],
        np.trapezoid(X, dx=0.5, axis=1),
    ),
    "nan_to_num": (
        lambda x: pc.nan_to_num(x, posinf=9.0, neginf=-9.0),
        [over_none(X)],
        np.nan_to_num(over_none(X), posinf=9.0, neginf=-9.0),
    ),
    "rsqrt": (pc.rsqrt, [X], X**-0.5),
    "lerp": (lambda x: pc.lerp(x, x * 2j, 0.25), [X], X + 0.25 * (2j * X - X)),
    "var": (pc.var, [X], spread_var(X)),
    "var of rows": (lambda x: pc.var(x, [0, 2]), [X], spread_var(X, (0, 2))),
    "var of all": (lambda x: pc.var(x, 1, False), [X], spread_var(X, 1, 0)),
    "std": (lambda x: pc.std(x, -1), [X], np.sqrt(spread_var(X, -1))),
    "split": (lambda x: pc.split(x, [1, 3], 1)[1], [X], X[:, 1:]),
    "chunk": (lambda x: pc.chunk(x, 2, 1)[0], [X], X[:, :2]),
    "take_along_axis": (
        lambda x, at: pc.take_along_axis(x, at, 1),
        [X, AT],
        np.take_along_axis(X, AT, 1),
    ),
    "put_along_axis": (
        lambda x, at, v: pc.put_along_axis(x, at, v, 1, broadcast=False),
        [X[:1], AT, numbers((1, 4, 1), 5)],
        put(X[:1], AT, numbers((1, 4, 1), 5)),
    ),
    "scatter": (pc.scatter, [X, ROWS, X], X[ROWS]),
    "scatter_nd_add": (
        pc.scatter_nd_add,
        [X, ROWS[:, None], X],
        added(X, ROWS, X),
    ),
    "index_add": (
        lambda x, at, v: pc.index_add(x, at, 0, v),
        [X, ROWS, X],
        added(X, ROWS, X),
    ),
    "repeat_interleave": (
        lambda x: pc.repeat_interleave(x, 2, 1),
        [X],
        np.repeat(X, 2, 1),
    ),
    "diag_embed": (pc.diag_embed, [X[0, 0]], np.diag(X[0, 0])),
    "avg_pool2d": (
        lambda x: pc.avg_pool2d(x, 2, 1),
        [IMAGE],
        conv(IMAGE, np.eye(3)[:, :, None, None] * np.full((2, 2), 0.25), np.zeros(3)),
    ),
    "interpolate": (
        lambda x: pc.interpolate(x, scale_factor=2, mode="nearest"),
        [IMAGE],
        np.repeat(np.repeat(IMAGE, 2, 2), 2, 3),
    ),
    "conv2d": (pc.conv2d, [IMAGE, WEIGHT, BIAS], conv(IMAGE, WEIGHT, BIAS)),
    "conv2d with strides": (
        lambda x, w, b: pc.conv2d(x, w, b, stride=2, padding=1),
        [IMAGE, WEIGHT, BIAS],
        conv(IMAGE, WEIGHT, BIAS, 2, 1),
    ),
    "conv2d last": (
        lambda x, w, b: pc.conv2d(x, w, b, data_format="NHWC"),
        [IMAGE.transpose(0, 2, 3, 1), WEIGHT, BIAS],
        conv(IMAGE, WEIGHT, BIAS).transpose(0, 2, 3, 1),
    ),
    "conv2d by real weights": (
        pc.conv2d,
        [IMAGE, WEIGHT.real.copy(), BIAS],
        conv(IMAGE, WEIGHT.real, BIAS),
    ),
    "conv2d of a real image": (
        pc.conv2d,
        [IMAGE.real.copy(), WEIGHT, BIAS],
        conv(IMAGE.real, WEIGHT, BIAS),
    ),
    "conv1d": (
        pc.conv1d,
        [IMAGE[:, :, :, 0], WEIGHT[:, :, :, 0], BIAS],
        conv(IMAGE[:, :, :, :1], WEIGHT[:, :, :, :1], BIAS)[..., 0],
    ),
    "conv3d": (
        pc.conv3d,
        [IMAGE[:, :, None], WEIGHT[:, :, None], BIAS],
        conv(IMAGE, WEIGHT, BIAS)[:, :, None],
    ),
    "conv2d_transpose": (
        pc.conv2d_transpose,
        [IMAGE, WEIGHT.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1].copy()],
        conv(np.pad(IMAGE, [(0, 0), (0, 0), (2, 2), (1, 1)]), WEIGHT, np.zeros(4)),
    ),
    "crelu": (pc.crelu, [X], np.maximum(X.real, 0) + 1j * np.maximum(X.imag, 0)),
    "zrelu": (pc.zrelu, [X], np.where((X.real > 0) & (X.imag > 0), X, 0)),
    "modrelu": (
        lambda x: pc.modrelu(x, -0.7),
        [X],
        np.maximum(abs(X) - 0.7, 0) * X / abs(X),
    ),
    "dropout in inference": (lambda x: pc.dropout(x, 0.5, training=False), [X], X),
}


@pytest.mark.parametrize("name", CASES)
def test_on_tensors(name: str) -> None:
    run, arrays, wanted = CASES[name]
    got = run(*map(paddle.to_tensor, arrays)).numpy()
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


BOTH = [(name, True) for name in CASES] + [(name, False) for name in [*CASES][::4]]


@pytest.mark.full
@pytest.mark.parametrize("name, full_graph", BOTH)
def test_compiled(name: str, full_graph: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIN_GRAPH_SIZE", "0")  # else SOT runs small graphs eagerly
    run, arrays, wanted = CASES[name]
    inner = paddle.jit.not_to_static(run) if full_graph else run
    fast = pirol.to_static(of_tensors(inner, len(arrays)), full_graph=full_graph)
    got = fast(*map(paddle.to_tensor, arrays)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    report = pirol.explain(fast)
    assert report.compiles == 1 and not any(
        f.op in ("the program", "the call") for f in report.fallbacks
    ), report


@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_in_groups(transposed: bool) -> None:
    """Of any batch: each group's is that of its channels alone."""
    run = pc.conv2d_transpose if transposed else pc.conv2d
    given = numbers((3, 4, 6, 5), 1), numbers((4, 2, 3, 2), 2)
    shapes = [None, 4, 6, 5], given[1].shape
    spec = [paddle.static.InputSpec(shape, "complex64") for shape in shapes]
    grouped = functools.partial(run, groups=2, stride=2, padding=1)
    fast = pirol.to_static(of_tensors(grouped, 2), input_spec=spec, strict=True)
    whole = fast(*map(paddle.to_tensor, given)).numpy()
    for k, part in enumerate(np.split(whole, 2, 1)):
        own = given[0][:, 2 * k : 2 * k + 2], given[1][2 * k : 2 * k + 2]
        alone = run(*map(paddle.to_tensor, own), stride=2, padding=1).numpy()
        np.testing.assert_allclose(part, alone, rtol=1e-4, atol=1e-5)


def test_gradients_of_a_convolution() -> None:
    """By differences of the function on tensors."""
    arrays = [a.astype("complex128") for a in (IMAGE, WEIGHT, BIAS)]

    def run(x: Any, w: Any, b: Any) -> Any:
        return pc.conv2d(x, w, b, stride=2, padding=1)

    weight = numbers(conv(*arrays, 2, 1).shape, 9, "complex128")  # type: ignore[arg-type]

    def loss(*given: Any) -> float:
        out = conv(*given, 2, 1)  # type: ignore[arg-type]
        return float((out.real * weight.real + out.imag * weight.imag).sum())

    fast = pirol.to_static(run)
    tensors = [paddle.to_tensor(a, stop_gradient=False) for a in arrays]
    out = fast(*tensors)
    total = (out * paddle.to_tensor(weight).conj()).real().sum()
    found = paddle.grad(total, tensors)
    assert not pirol.explain(fast).fallbacks
    for k, grad in enumerate(found):
        at = tuple(n // 2 for n in arrays[k].shape)
        for unit in (1, 1j):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [a.copy() for a in arrays]
                moved[k][at] += step * unit
                sides.append(loss(*moved))
            slope = (sides[0] - sides[1]) / 2e-6
            part = grad.numpy()[at]
            assert abs((part.real if unit == 1 else part.imag) - slope) < 1e-6


def test_dropout_keeps_numbers_whole() -> None:
    paddle.seed(3)
    x = paddle.to_tensor(numbers((100, 100)))
    y = pc.dropout(x, 0.25).numpy()
    kept = y != 0
    assert 0.72 < kept.mean() < 0.78
    np.testing.assert_allclose(y[kept], x.numpy()[kept] / 0.75, rtol=1e-5)


def test_real_tensors_are_paddles() -> None:
    x = paddle.to_tensor(X.real.copy())
    for ours, theirs in ((pc.var, paddle.var), (pc.std, paddle.std)):
        np.testing.assert_array_equal(ours(x, 1).numpy(), theirs(x, 1).numpy())
    parts = zip(pc.split(x, 2, 1), paddle.split(x, 2, 1))
    assert all((a == b).all() for a, b in parts)


def test_products_of_numbers_put_are_refused() -> None:
    x, at = paddle.to_tensor(X[:1]), paddle.to_tensor(AT)
    with pytest.raises(pirol.PirolError, match="put_along_axis: got reduce='mul'"):
        pc.put_along_axis(x, at, x[:, :, :1], 1, reduce="mul")


def test_all_are_tested() -> None:
    tested = {name.split(" ")[0] for name in CASES} | {"dropout"}
    same = {"avg_pool1d", "avg_pool3d", "conv1d_transpose", "conv3d_transpose"}
    assert tested | same == set(pc.__all__)
