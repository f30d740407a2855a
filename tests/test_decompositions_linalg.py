"""Small matrices, real and complex: inverses, determinants, solutions and powers, and
cross products; values and gradients against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from decomposition_runs import of_tensors
from paddle.static import InputSpec

import pirol

SEEN: set[str] = set()
OPS = frozenset(["inverse", "solve", "det", "matrix_power", "cross"])
Run = Callable[..., Any]


def numbers(*shape: int, dtype: str, seed: int = 0) -> Any:
    parts = np.random.default_rng(seed).normal(size=(2, *shape))
    return (parts[0] + 1j * parts[1] if dtype[0] == "c" else parts[0]).astype(dtype)


def turned(x: Any) -> Any:
    """The conjugate of each matrix's transpose."""
    return np.conj(np.swapaxes(x, -1, -2))


def compiled(run: Run, arrays: list[Any], ct: Any = None) -> tuple[Any, list[Any]]:
    """The result and the gradients, all by kernels."""
    given = [paddle.to_tensor(a, stop_gradient=ct is None) for a in arrays]
    fast = pirol.to_static(of_tensors(run, len(given)), strict=True)
    out = fast(*given)
    report = pirol.explain(fast)
    assert not report.fallbacks and not report.library
    ops = report.stages["capture"].ops
    SEEN.update(op.name.removeprefix("pd_op.") for op in ops)
    if ct is not None:
        out.backward(paddle.to_tensor(ct))
    return out.numpy(), [t.grad for t in given]


def close(found: Any, wanted: Any, room: float) -> None:
    scale = np.abs(wanted).max(initial=1e-300)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max(initial=0) <= room * scale


KINDS = [("float64", 1e-11), ("complex128", 1e-11), ("float32", 2e-3)]


@pytest.mark.parametrize("rows", [1, 2, 3, pytest.param(4, marks=pytest.mark.full)])
@pytest.mark.parametrize("dtype, room", KINDS)
def test_inverses(dtype: str, room: float, rows: int) -> None:
    x, ct = (numbers(5, rows, rows, dtype=dtype, seed=k) for k in (rows, 9))
    out, (grad,) = compiled(paddle.linalg.inv, [x], ct)
    wide = np.linalg.inv(x.astype("complex128"))
    close(out, wide, room)
    close(grad.numpy(), -turned(wide) @ ct @ turned(wide), room)


@pytest.mark.parametrize("rows", [1, 2, pytest.param(4, marks=pytest.mark.full)])
@pytest.mark.parametrize("dtype, room", KINDS)
def test_determinants(dtype: str, room: float, rows: int) -> None:
    x, ct = numbers(5, rows, rows, dtype=dtype, seed=rows), numbers(5, dtype=dtype)
    out, (grad,) = compiled(paddle.linalg.det, [x], ct)
    wide = x.astype("complex128")
    exact = np.linalg.det(wide)
    close(out, exact, room)
    slope = (np.conj(exact) * ct)[:, None, None] * turned(np.linalg.inv(wide))
    close(grad.numpy(), slope, room)


@pytest.mark.parametrize("shape", [(3, 2), (3,), (4, 3, 2)])
def test_solutions(shape: tuple[int, ...]) -> None:
    """Of a matrix, of one column, and of several matrices."""
    batch = shape[:1] if shape[0] == 4 else ()
    x, y = numbers(*batch, 3, 3, dtype="float64"), numbers(*shape, dtype="float64")
    alone = len(shape) == 1
    columns = y[..., None] if alone else y
    ct = numbers(*shape, dtype="float64", seed=3)
    out, (of_x, of_y) = compiled(paddle.linalg.solve, [x, y], ct)
    over = np.linalg.inv(x)
    exact = over @ columns
    close(out, exact.reshape(shape), 1e-11)
    back = turned(over) @ (ct[..., None] if alone else ct)
    close(of_y.numpy(), back.reshape(shape), 1e-11)
    close(of_x.numpy(), -back @ turned(exact), 1e-11)


@pytest.mark.parametrize("power", [0, 1, 2, 7, -1, -3])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_powers(dtype: str, power: int) -> None:
    x = numbers(2, 3, 3, dtype=dtype)
    out, _ = compiled(lambda x: paddle.linalg.matrix_power(x, power), [x])
    close(out, np.linalg.matrix_power(x, power), 1e-9)


@pytest.mark.parametrize("dtype", ["float64", "complex128", "int64"])
def test_cross_products(dtype: str) -> None:
    x, y = (numbers(3, 4, 3, dtype=dtype, seed=k) for k in (1, 2))
    for axis in (0, 2):
        out, _ = compiled(lambda x, y, a=axis: paddle.cross(x, y, a), [x, y])
        close(out, np.cross(x, y, axis=axis), 1e-12)
    out, _ = compiled(paddle.cross, [x, y])
    close(out, np.cross(x, y, axis=0), 1e-12)


def test_cross_products_of_sizes_that_are_not_known() -> None:
    """Which axis is the first of three, the call tells."""
    spec = [paddle.static.InputSpec([None, None, 3])] * 2
    fast = pirol.to_static(lambda x, y: paddle.cross(x, y) * 2.0, input_spec=spec)
    for shape in ((2, 5, 3), (4, 1, 3), (3, 4, 3), (2, 3, 3), (3, 3, 3), (6, 5, 3)):
        x, y = (numbers(*shape, dtype="float32", seed=k) for k in (1, 2))
        found = fast(paddle.to_tensor(x), paddle.to_tensor(y))
        close(found.numpy(), np.cross(x, y, axis=shape.index(3)) * 2.0, 1e-5)
    report = pirol.explain(fast)
    assert report.compiles <= 4 and not report.fallbacks


def test_pivots_are_sought() -> None:
    """Zeros on the diagonal, and a matrix of rows in another order."""
    x = np.array([[[0, 2, 1], [1e-30, 0, 3], [4, 1, 0]], np.eye(3)[[2, 0, 1]]])
    out, _ = compiled(paddle.linalg.inv, [x])
    close(out, np.linalg.inv(x), 1e-13)
    out, _ = compiled(paddle.linalg.det, [x])
    close(out, np.linalg.det(x), 1e-13)


def inverse(x: Any) -> Any:
    return paddle.linalg.inv(x)


def test_a_matrix_without_an_inverse_is_refused_as_by_paddle() -> None:
    spec = [InputSpec([None, 2, 2], "float64")]
    fast = pirol.to_static(inverse, input_spec=spec)
    x = numbers(3, 2, 2, dtype="float64")
    close(fast(paddle.to_tensor(x)).numpy(), np.linalg.inv(x), 1e-12)
    assert fast(paddle.to_tensor(x[:0])).shape == [0, 2, 2]
    for wrong in (0.0, np.nan):
        with pytest.raises(ValueError, match="min_abs_pivot"):
            fast(paddle.to_tensor(np.full((1, 2, 2), wrong)))
    out, _ = compiled(paddle.linalg.det, [np.ones((2, 3, 3))])
    close(out, np.zeros(2), 1e-12)


def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN
