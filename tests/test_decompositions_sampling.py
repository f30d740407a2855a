"""Sampling, windows as columns, sums at places, norms' gradients at 0: against eager
float64, values and gradients, at sizes known and unknown to the capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from decomposition_runs import of_tensors
from paddle.static import InputSpec

import pirol

SEEN: set[str] = set()
LISTED = (
    "affine_grid bilinear copysign dist equal_all frobenius_norm grid_sample index_put "
    "maxout multiplex nll_loss put_along_axis renorm scatter send_u_recv send_ue_recv "
    "send_uv shard_index "
    "temporal_shift unfold fold rrelu"
)
OPS = frozenset(LISTED.split())


def floats(*shape: int, scale: float = 1.0, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape) * scale


IMAGE, VOLUME = floats(2, 4, 6, 5), floats(2, 3, 4, 5, 3)
GRID, GRID3 = floats(2, 3, 4, 2, seed=1), floats(2, 2, 3, 4, 3, seed=1)
EDGES = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 2), -1)[None].repeat(2, 0)
ROWS, MORE = floats(5, 6), floats(4, 6, seed=1)
TO, FROM = np.array([3, 0, 3, 1]), np.array([4, 2, 0, 2])
LABELS = np.array([2, 0, 1, 5, 2])
MASKS = np.random.default_rng(2).integers(0, 4, (2, 6, 5))
Run = Callable[..., Any]


def sampled(mode: str, padding: str, align: bool) -> Run:
    return lambda x, grid: F.grid_sample(x, grid, mode, padding, align)


GRIDS: dict[str, tuple[Run, list[Any]]] = {
    f"grid_sample {mode} {padding} {align} {what}": (
        sampled(mode, padding, align), [image, grid],
    )
    for mode in ("bilinear", "nearest")
    for padding in ("zeros", "border", "reflection")
    for align in (True, False)
    for what, image, grid in (
        ("plane", IMAGE, GRID), ("edges", IMAGE, EDGES), ("volume", VOLUME, GRID3),
    )
}  # fmt: skip
CASES: dict[str, tuple[Run, list[Any]]] = {
    "grid_sample": (F.grid_sample, [IMAGE, GRID]),
    "affine_grid": (lambda x: F.affine_grid(x, [2, 3, 4, 5]), [floats(2, 2, 3)]),
    "affine_grid of parts": (
        lambda x: F.affine_grid(x, [2, 1, 3, 4, 5], False), [floats(2, 3, 4)],
    ),
    "unfold": (lambda x: F.unfold(x, 3), [IMAGE]),
    "rrelu": (lambda x: F.rrelu(x, 0.25, 0.5, training=False), [IMAGE]),
    "fold": (lambda x: F.fold(x, [4, 5], 2), [floats(2, 12, 12)]),
    "fold much": (
        lambda x: F.fold(x, [7, 4], [2, 3], [3, 1], [1, 2], [1, 2]),
        [floats(2, 12, 12)],
    ),
    "unfold much": (
        lambda x: F.unfold(x, [2, 3], [2, 1], [1, 0, 2, 1], [1, 2]), [IMAGE],
    ),
    "maxout": (lambda x: F.maxout(x, 2), [IMAGE]),
    "maxout last": (lambda x: F.maxout(x, 5, -1), [IMAGE]),
    "temporal_shift": (lambda x: F.temporal_shift(x, 2, 0.25), [IMAGE]),
    "temporal_shift last": (
        lambda x: F.temporal_shift(x, 2, 0.4, data_format="NHWC"), [IMAGE],
    ),
    "bilinear": (F.bilinear, [ROWS, floats(5, 3, seed=1), floats(2, 6, 3, seed=2)]),
    "nll_loss": (F.nll_loss, [ROWS, LABELS]),
    "nll_loss summed": (
        lambda x, y, w: F.nll_loss(x, y, w, reduction="sum"),
        [ROWS, LABELS, np.abs(floats(6, seed=3))],
    ),
    "nll_loss weighted": (F.nll_loss, [ROWS, LABELS, np.abs(floats(6, seed=3))]),
    "nll_loss of planes": (
        lambda x, y: F.nll_loss(x, y, reduction="none"), [IMAGE, MASKS],
    ),
    "copysign": (lambda x, y: paddle.copysign(x, y[:, None]), [ROWS, floats(5)]),
    "renorm": (lambda x: paddle.renorm(x, 2.0, 0, 1.5), [IMAGE * 0.2]),
    "renorm by 1": (lambda x: paddle.renorm(x, 1.0, -1, 9.0), [IMAGE]),
    "frobenius_norm": (lambda x: paddle.norm(x, "fro", [1, 3], True), [IMAGE]),
    "frobenius_norm of all": (lambda x: paddle.norm(x, "fro"), [ROWS]),
    "norm of zeros": (lambda x: paddle.norm(x * 0.0, 2, 1) + x[:, 0], [ROWS]),
    "norm by 3 of zeros": (lambda x: paddle.norm(x * 0.0, 3, 1) + x[:, 0], [ROWS]),
    "dist": (lambda x, y: paddle.dist(x, y[0], 4), [ROWS, MORE]),
    "dist of one": (lambda x: paddle.dist(x, x * 1.0, 2) + x, [ROWS]),
    "index_put": (
        lambda x, to, y: paddle.index_put(x, (to,), y, True), [ROWS, TO - 2, MORE],
    ),
    "index_put by two": (
        lambda x, to, y: paddle.index_put(x, (to, to.flip(0)), y[:, 0], True),
        [ROWS, TO, MORE],
    ),
    "put_along_axis": (
        lambda x, to, y: paddle.put_along_axis(
            x, to[:, None], y, 0, "add", broadcast=False
        ),
        [ROWS, TO, MORE[:, :1]],
    ),
    "scatter": (lambda x, to, y: paddle.scatter(x, to, y, False), [ROWS, TO, MORE]),
    "send_u_recv": (
        lambda x, a, z: paddle.geometric.send_u_recv(x, a, z), [ROWS, FROM, TO],
    ),
    "send_u_recv mean": (
        lambda x, a, z: paddle.geometric.send_u_recv(x, a, z, "mean", 6),
        [ROWS, FROM, TO],
    ),
    "send_ue_recv": (
        lambda x, y, a, z: paddle.geometric.send_ue_recv(x, y, a, z, "sub", "mean"),
        [ROWS, MORE, FROM, TO],
    ),
    "send_ue_recv by one": (
        lambda x, y, a, z: paddle.geometric.send_ue_recv(x, y, a, z, "div", "sum"),
        [ROWS, MORE[:, :1], FROM, TO],
    ),
    "send_uv": (
        lambda x, y, a, z: paddle.geometric.send_uv(x, y, a, z, "mul"),
        [ROWS, ROWS[::-1].copy(), FROM, TO],
    ),
    "multiplex": (
        lambda x, y, to: paddle.multiplex([x, y, x * y], to[:, None].cast("int32") % 3),
        [MORE, MORE * 0.5, TO],
    ),
}  # fmt: skip
ALL = GRIDS | CASES
# Capture needs the sizes: Paddle's own shape rules and functions ask for them.
FIXED = (
    "put_along_axis",
    "renorm",
    "maxout",
    "temporal_shift",
    "index_put",
    "bilinear",
)
FIXED += ("affine_grid", "nll_loss", "dist", "frobenius", "copysign")


def tensors(arrays: list[Any], dtype: str) -> list[Any]:
    found = []
    for a in arrays:
        whole = a.dtype.kind == "i"
        kind = "int64" if whole else dtype
        found.append(paddle.to_tensor(a.astype(kind), stop_gradient=whole))
    return found


def results(run: Run, arrays: list[Any], dtype: str) -> list[Any]:
    """The result, and the gradients of a weighting of it."""
    given = tensors(arrays, dtype)
    out = run(*given)
    weights = np.linspace(0.5, 1.5, out.size).reshape(out.shape)
    (out * paddle.to_tensor(weights.astype(dtype))).sum().backward()
    return [out.detach(), *(t.grad for t in given)]


def agree(name: str, dtype: str, dynamic: bool) -> None:
    run, arrays = ALL[name]
    specs = [
        InputSpec([None] * a.ndim, "int64" if a.dtype.kind == "i" else dtype)
        for a in arrays
    ]
    inner = of_tensors(paddle.jit.not_to_static(run), len(arrays))
    fast = pirol.to_static(inner, input_spec=specs if dynamic else None, strict=True)
    ours = results(fast, arrays, dtype)
    report = pirol.explain(fast)
    assert not report.fallbacks and report.compiles == 1, report.fallbacks
    stages = report.stages["capture"].ops
    SEEN.update(op.name.removeprefix("pd_op.") for op in stages)
    room = 1e-4 if dtype == "float32" else 1e-9
    for k, (a, b) in enumerate(zip(ours, results(run, arrays, "float64"), strict=True)):
        if a is None or b is None:  # eager may say 0 of what does not depend
            assert a is None and (b is None or not b.any()), (name, k)
            continue
        assert str(a.dtype).endswith(dtype) and a.shape == b.shape, (name, k)
        scale = max(1.0, np.abs(b.numpy()).max())
        np.testing.assert_allclose(
            a.numpy(), b.numpy(), room, room * scale, err_msg=f"{name} {k}"
        )


@pytest.mark.parametrize("name", CASES)
def test_as_eager(name: str) -> None:
    agree(name, "float64", dynamic=False)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_as_eager_at_any_size(name: str, dynamic: bool, dtype: str) -> None:
    if dynamic and name.startswith(FIXED):
        pytest.skip("Paddle captures it at fixed sizes alone")
    if dtype == "float32" and name.startswith("grid_sample nearest"):
        pytest.skip("a place between two pixels may become either of them")
    agree(name, dtype, dynamic)


def test_integers() -> None:
    def shards(x: Any, y: Any) -> Any:
        same = paddle.equal_all(x, y).astype("int64")
        whole = paddle.equal_all(x, x).astype("int64")
        return paddle.shard_index(x, 20, 3, 1), same, whole, paddle.equal_all(x, y[:2])

    x, y = (np.random.default_rng(k).integers(0, 20, (4, 1)) for k in (0, 1))
    fast = pirol.to_static(shards, strict=True)
    given = tensors([x, y], "float32")
    for a, b in zip(fast(*given), shards(*given), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    ops = pirol.explain(fast).stages["capture"].ops
    SEEN.update(op.name.removeprefix("pd_op.") for op in ops)


def test_a_place_that_is_not_a_number() -> None:
    """Weights of NaN make the result NaN, at any element."""
    fast = pirol.to_static(by_grid, strict=True)
    grid = GRID.astype("float32")
    grid[0, 0, 0, 0] = np.nan
    out = fast(*map(paddle.to_tensor, (IMAGE.astype("float32"), grid))).numpy()
    assert np.isnan(out[0, :, 0, 0]).all() and np.isfinite(out[1]).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("labels", [[2, 0, -100, 5, 2], [-100] * 5])
def test_ignored_labels(labels: list[int], reduction: str) -> None:
    """Against NumPy: for each ignored one Paddle's kernel writes beyond its result."""

    def loss(x: Any, label: Any, weight: Any) -> Any:
        return F.nll_loss(x, label, weight, reduction=reduction)

    weight, label = np.abs(floats(6, seed=3)), np.array(labels)
    x, *rest = tensors([ROWS, label, weight], "float64")
    out = pirol.to_static(loss, strict=True)(x, *rest)
    out.sum().backward()
    each = np.where(label < 0, 0.0, weight[label.clip(0)])
    whole = max(each.sum(), 1e-30) if reduction == "mean" else 1.0
    slope = np.zeros_like(ROWS)
    slope[np.arange(5), label.clip(0)] = -each / whole
    wanted = (slope * ROWS).sum(1)
    wanted = wanted if reduction == "none" else wanted.sum()
    np.testing.assert_allclose(out.numpy(), wanted, 1e-9, 1e-9)
    np.testing.assert_allclose(x.grad.numpy(), slope, 1e-9, 1e-9)


def by_grid(x: Any, grid: Any) -> Any:
    return F.grid_sample(x, grid)


def test_a_label_that_is_no_class_is_refused() -> None:
    fast = pirol.to_static(loss)
    with pytest.raises(Exception, match=r"(?i)label"):
        fast(paddle.to_tensor(ROWS), paddle.to_tensor(np.full(5, 6)))


def loss(x: Any, label: Any) -> Any:
    return F.nll_loss(x, label)


def test_bilinear_of_any_batch() -> None:
    """Of the two first sizes the call tells that they are one."""
    x, y, w = CASES["bilinear"][1]
    specs = [InputSpec([None, a.shape[1]], "float64") for a in (x, y)]
    weight = paddle.to_tensor(w)

    def run(x: Any, y: Any) -> Any:
        return F.bilinear(x, y, weight)

    fast = pirol.to_static(run, input_spec=specs, strict=True)
    for count in (5, 2):
        found = fast(*map(paddle.to_tensor, (x[:count], y[:count]))).numpy()
        wanted = np.einsum("ni,oij,nj->no", x[:count], w, y[:count])
        np.testing.assert_allclose(found, wanted, 1e-12, 1e-12)


def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN
