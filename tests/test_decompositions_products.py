"""einsum, kron, trace, mv and sums at places as primitives, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from decomposition_runs import of_tensors
from paddle.static import InputSpec

import pirol
import pirol.complex

OPS = {"einsum", "kron", "trace", "mv", "scatter_nd_add", "index_add", "multi_dot"}
SEEN: set[str] = set()
SIZES = dict(zip("abcdhijkl", (4, 3, 2, 5, 2, 3, 4, 5, 6)))
EQUATIONS = (
    *("ij,jk->ik", "bij,bjk->bik", "ii->i", "ii", "ij->ji", "ij->", "i,j->ij"),
    *("bij,bjk,kl->il", "bhid,bhjd->bhij", "ijk,ijk->", "ij,ij->i", "abc,cd->abd"),
    *("...ij,...jk->...ik", "i,i", "bij,kj->bik", "ij,k->jk", "iij,jk->k", "ab,ba"),
)


def drawn(shape: Any, dtype: str, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(2, *shape))
    whole = parts[0] + 1j * parts[1] if dtype.startswith("complex") else parts[0]
    return whole.astype(dtype)


def compiled(run: Callable[..., Any], arrays: list[Any], dynamic: bool) -> Any:
    """The compiled result; with `dynamic`, of sizes that no capture knew."""

    function = of_tensors(run, len(arrays))
    specs = [InputSpec([None] * a.ndim, str(a.dtype)) for a in arrays]
    fast = pirol.to_static(function, input_spec=specs if dynamic else None, strict=True)
    found = fast(*map(paddle.to_tensor, arrays))
    report = pirol.explain(fast)
    assert report.coverage[0] == report.coverage[1], report
    SEEN.update(op.name.removeprefix("pd_op.") for op in report.stages["capture"].ops)
    return found.numpy()


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation: str, dtype: str) -> None:
    names = equation.split("->")[0].replace("...", "b").split(",")
    shapes = [[SIZES[label] for label in name] for name in names]
    if equation == "ab,ba":
        shapes = [[4, 1], [3, 4]]  # a dim of 1 is every size
    arrays = [drawn(s, dtype, k) for k, s in enumerate(shapes)]
    wide = "complex128" if dtype == "complex128" else "float64"
    wanted = np.einsum(equation, *(a.astype(wide) for a in arrays))
    fixed = paddle.jit.not_to_static(lambda *x: paddle.einsum(equation, *x))
    got = compiled(fixed, arrays, dynamic=False)
    assert got.shape == wanted.shape and got.dtype == dtype
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("equation", ["ij,jk->ik", "bij,kj->bik", "ij->j"])
def test_einsum_of_any_sizes(equation: str) -> None:
    names = equation.split("->")[0].split(",")
    arrays = [drawn([SIZES[c] for c in n], "float32", 0) for n in names]
    fixed = paddle.jit.not_to_static(lambda *x: paddle.einsum(equation, *x))
    got = compiled(fixed, arrays, dynamic=True)
    np.testing.assert_allclose(got, np.einsum(equation, *arrays), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int64"])
@pytest.mark.parametrize("shapes", [((2, 3), (4, 1)), ((3,), (2, 2)), ((2, 0), (3, 2))])
def test_kron(shapes: Any, dtype: str) -> None:
    x, y = (drawn(s, dtype, k) * 3 for k, s in enumerate(shapes))
    x, y = x.astype(dtype), y.astype(dtype)
    got = compiled(paddle.jit.not_to_static(paddle.kron), [x, y], dynamic=False)
    np.testing.assert_allclose(got, np.kron(x, y), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "int64"])
@pytest.mark.parametrize("offset", [0, 1, -2])
def test_trace(offset: int, dtype: str) -> None:
    x = (drawn((3, 2, 5), dtype, 0) * 3).astype(dtype)
    run = paddle.jit.not_to_static(lambda x: paddle.trace(x, offset, 2, 0))
    wanted = np.trace(x, offset, 2, 0)
    np.testing.assert_allclose(compiled(run, [x], dynamic=False), wanted, rtol=1e-5)


def test_mv() -> None:
    x, y = drawn((3, 4), "float32", 0), drawn((4,), "float32", 1)
    got = compiled(paddle.jit.not_to_static(paddle.mv), [x, y], dynamic=False)
    np.testing.assert_allclose(got, x @ y, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "complex64"])
def test_scatter_nd_add(dtype: str) -> None:
    """Rows, and elements, some of them at one place."""
    x = (drawn((4, 3, 2), dtype, 0) * 9).astype(dtype)
    for index in ([[0], [3], [0]], [[1, 2], [1, 2], [0, 0]], [[3, 1, 1]]):
        at = np.array(index)
        shape = (len(index), *x.shape[at.shape[1] :])
        updates = (drawn(shape, dtype, 1) * 9).astype(dtype)
        wanted = x.copy()
        np.add.at(wanted, tuple(at.T), updates)
        run = paddle.jit.not_to_static(paddle.scatter_nd_add)
        if dtype == "complex64":
            run = paddle.jit.not_to_static(pirol.complex.scatter_nd_add)
        got = compiled(run, [x, at, updates], dynamic=False)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_index_add(axis: int) -> None:
    x, at = drawn((4, 3, 5), "float32", 0), np.array([2, 0, 2])
    shape = [3 if k == axis % 3 else d for k, d in enumerate(x.shape)]
    value = drawn(shape, "float32", 1)
    wanted = np.moveaxis(x.copy(), axis, 0)
    np.add.at(wanted, at, np.moveaxis(value, axis, 0))
    run = paddle.jit.not_to_static(lambda x, i, v: paddle.index_add(x, i, axis, v))
    got = compiled(run, [x, at, value], dynamic=False)
    np.testing.assert_allclose(got, np.moveaxis(wanted, 0, axis), rtol=1e-5)


def together(*x: Any) -> Any:
    return paddle.linalg.multi_dot(x)


def as_saved(*x: Any) -> Any:
    op: Any = paddle._C_ops.multi_dot
    return getattr(op, "__wrapped__", op)([*x])


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("saved", [False, True])
def test_multi_dot(saved: bool, dtype: str, dynamic: bool) -> None:
    """The ends may be a row and a column; the order costs the fewest products. Saved
    programs have the op itself."""
    for shapes in (
        [(7, 2), (2, 9), (9, 3)], [(5,), (5, 4), (4,)], [(3, 4), (4, 2)],
        [(6,), (6, 2), (2, 3)], [(2, 5), (5, 3), (3,)],
    ):  # fmt: skip
        arrays = [drawn(s, dtype, k) for k, s in enumerate(shapes)]
        wanted = np.linalg.multi_dot(arrays)
        run = paddle.jit.not_to_static(as_saved if saved else together)
        got = compiled(run, arrays, dynamic=dynamic)
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-5)


def chained(x: Any, y: Any, z: Any) -> Any:
    return paddle.linalg.multi_dot([x, y, z, x[:2]])


def test_gradients_of_multi_dot() -> None:
    arrays = [drawn(s, "float64", k) for k, s in enumerate([(3, 4), (4, 5), (5, 2)])]
    found = []
    for run in (chained, pirol.to_static(chained, strict=True)):
        given = [paddle.to_tensor(a, stop_gradient=False) for a in arrays]
        (run(*given) ** 2).sum().backward()
        found.append([t.grad.numpy() for t in given])
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-12)


def test_places_outside_are_paddles_to_refuse() -> None:
    def run(x: Any, at: Any, v: Any) -> Any:
        return paddle.scatter_nd_add(x, at, v)

    fast = pirol.to_static(run)
    x, v = paddle.zeros([3, 2]), paddle.ones([1, 2])
    fast(x, paddle.to_tensor([[1]]), v)
    with pytest.raises(Exception, match="(?i)index"):
        fast(x, paddle.to_tensor([[3]]), v)


@pytest.mark.full
def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN
