"""Second derivatives within a program of what Paddle differentiates once: inverses,
determinants, solutions and factors of matrices; against differences of float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import linalg

import pirol
from pirol.prim.decomp import linalg_gradients
from pirol.prim.decomp.products import chained

Of = Callable[[Any, Any], Any]


def positive(x: Any) -> Any:
    return x @ x.mT + 3.0 * paddle.eye(x.shape[-1], dtype=x.dtype)


def lower(x: Any, y: Any) -> Any:
    return linalg.triangular_solve(x, y, upper=False).sin()


def transposed(x: Any, y: Any) -> Any:
    return linalg.triangular_solve(x, y, transpose=True).sin()


def of_unit(x: Any, y: Any) -> Any:
    """Of what is below the diagonal; to the rest eager gives gradients, too."""
    x = paddle.tril(x, -1)
    return linalg.triangular_solve(x, y, upper=False, unitriangular=True).sin()


def eigen(x: Any, y: Any) -> Any:
    values, vectors = linalg.eigh(positive(x))
    return values.sin() + (vectors * vectors).sum(-1) * values.cos()


def factors(x: Any, y: Any) -> Any:
    q, r = linalg.qr(paddle.concat([x, y], -2))
    return q.sin().sum(-2, keepdim=True) + r.cos()


def singular(x: Any, y: Any) -> Any:
    """Signs of singular vectors are the library's choice."""
    u, s, vh = linalg.svd(paddle.concat([x, y[..., :2, :]], -2))
    return (u**4).sum() + s.sin().sum() + (vh**4 * y).sum()


def unpacked(x: Any, y: Any) -> Any:
    _, low, high = linalg.lu_unpack(*linalg.lu(x)[:2])
    return low.sin() + high.cos()


def solved(x: Any, y: Any) -> Any:
    return linalg.cholesky_solve(y[..., :2], linalg.cholesky(positive(x))).sin()


def solved_upper(x: Any, y: Any) -> Any:
    factor = linalg.cholesky(positive(x), upper=True)
    return linalg.cholesky_solve(y, factor, upper=True).sin()


CASES: dict[str, Of] = {
    "inverse": lambda x, y: paddle.inverse(x).sin() * y,
    "det": lambda x, y: linalg.det(x).sin(),
    "solve": lambda x, y: linalg.solve(x, y).sin(),
    "solve, one column": lambda x, y: linalg.solve(x, y[..., 0]).sin(),
    "triangular_solve": lower,
    "triangular_solve, transposed": transposed,
    "triangular_solve, unit": of_unit,
    "cholesky": lambda x, y: linalg.cholesky(positive(x)).sin() * y,
    "cholesky, upper": lambda x, y: linalg.cholesky(positive(x), upper=True).sin() * y,
    "eigh": eigen,
    "qr": factors,
    "svd": singular,
    "pinv": lambda x, y: linalg.pinv(x).sin() * y,
    "nuclear norm": lambda x, y: linalg.norm(x * y, "nuc", axis=[0, 1]).sin(),
    "matrix_power": lambda x, y: linalg.matrix_power(x, 3).sin() * y,
    "matrix_power, below 0": lambda x, y: linalg.matrix_power(x, -2).sin() * y,
    "slogdet": lambda x, y: linalg.slogdet(x)[1].sin(),
    "eigvalsh": lambda x, y: linalg.eigvalsh(positive(x)).sin(),
    "eigvalsh, upper": lambda x, y: linalg.eigvalsh(positive(x), UPLO="U").sin(),
    "svdvals": lambda x, y: linalg.svdvals(x).sin(),
    "pinv, hermitian": lambda x, y: linalg.pinv(positive(x), hermitian=True).sin() * y,
    "lu": lambda x, y: linalg.lu(x)[0].sin() * y,
    "lu, wide": lambda x, y: linalg.lu(x[..., :2, :])[0].sin() * y[..., :2, :],
    "lu_unpack": unpacked,
    "cholesky_solve": solved,
    "cholesky_solve, upper": solved_upper,
    "multi_dot": lambda x, y: linalg.multi_dot([x[:2], y, x[:, :1], y[:1]]).sin(),
    "multi_dot, ends": lambda x, y: linalg.multi_dot([x[0], y, x, y[:, 0]]).sin(),
    "norm": lambda x, y: linalg.norm(x * y, "fro", axis=[0, 1]).sin(),
    "max_pool2d": lambda x, y: pooled(x * y),
}


def pooled(x: Any) -> Any:
    kind = paddle.nn.functional.max_pool2d
    return kind(x.sin()[None, None], 2, 1, return_mask=True)[0].exp()


# Of several matrices eager has other gradients of eigh than differences have.
BATCHED = ["inverse", "det", "solve", "triangular_solve", "cholesky", "qr"]
BATCHED += ["slogdet", "svdvals", "lu", "lu_unpack", "cholesky_solve"]
BATCHED += ["matrix_power, below 0"]


def gradients(run: Of, x: Any, y: Any, again: bool) -> list[Any]:
    found = paddle.grad(run(x, y).sum(), [x, y], create_graph=again, allow_unused=True)
    return [g for g in found if g is not None]


def size(found: list[Any]) -> Any:
    """A number that gradients lead to, of another weight for each."""
    return sum((g.tanh() * (k + 1.0)).sum() for k, g in enumerate(found))


def leaves(*shape: int) -> list[Any]:
    rng = np.random.default_rng(shape[-1])
    given = [rng.normal(size=shape) + 2.0 * np.eye(shape[-1]), rng.normal(size=shape)]
    tensors = [paddle.to_tensor(v) for v in given]
    for tensor in tensors:
        tensor.stop_gradient = False
    return tensors


def checked(name: str, *shape: int) -> None:
    """The first gradients against eager's, and what they lead to against differences
    of these along a direction."""
    run = CASES[name]
    inner = paddle.jit.not_to_static(run)
    fast = pirol.to_static(lambda x, y: size(gradients(inner, x, y, True)))
    x, y = leaves(*shape)
    found = fast(x, y)
    np.testing.assert_allclose(
        float(found), float(size(gradients(run, x, y, False))), 1e-8, 1e-9
    )
    found.backward()
    grads = [t.grad for t in (x, y)]
    along(grads, x, y, lambda x, y: size(gradients(run, x, y, False)))


def along(grads: list[Any], x: Any, y: Any, of: Of) -> None:
    """Gradients of a number against its differences along a direction."""
    rng, step, slope = np.random.default_rng(9), 1e-6, 0.0
    ways = [rng.normal(size=x.shape) for _ in "xy"]
    for sign in (1.0, -1.0):
        moved = [t.detach() + sign * step * way for t, way in zip((x, y), ways)]
        for tensor in moved:
            tensor.stop_gradient = False
        slope += sign * float(of(*moved)) / (2 * step)
    found = [np.zeros(x.shape) if g is None else g.numpy() for g in grads]
    got = sum((g * way).sum() for g, way in zip(found, ways))
    np.testing.assert_allclose(got, slope, 2e-5, 1e-5)


def outside(name: str, *shape: int) -> list[str]:
    """The first and second gradients, asked for outside the compiled function, against
    differences; what was not compiled."""
    run = CASES[name]
    fast = pirol.to_static(lambda x, y: run(x, y).sum())
    x, y = leaves(*shape)

    def first(x: Any, y: Any) -> Any:
        return size(gradients(fast, x, y, True))

    along(paddle.grad(fast(x, y), [x, y], allow_unused=True), x, y, fast)
    along(paddle.grad(first(x, y), [x, y], allow_unused=True), x, y, first)
    return [f.op for f in pirol.explain(fast).fallbacks]


@pytest.mark.parametrize("rows", [3, 6])
@pytest.mark.parametrize("name", CASES)
def test_second_derivatives(name: str, rows: int) -> None:
    checked(name, rows, rows)


@pytest.mark.parametrize("name", BATCHED)
def test_of_several_matrices(name: str) -> None:
    checked(name, 2, 5, 5)


@pytest.mark.parametrize("name", sorted({*BATCHED, "eigh", "eigvalsh", "svd", "pinv"}))
@pytest.mark.parametrize("shape", [(5, 5), (2, 5, 5)])
def test_outside_the_program(name: str, shape: tuple[int, ...]) -> None:
    """The forward op is Paddle's, no gradient of it is."""
    fallbacks = outside(name, *shape)
    assert not [op for op in fallbacks if op.endswith("_grad") or "call" in op]


@pytest.mark.parametrize("name", ["slogdet", "eigvalsh", "svdvals", "inverse"])
def test_sizes_that_are_not_known(name: str) -> None:
    spec = [paddle.static.InputSpec([None, 5, 5], "float64")] * 2
    run = CASES[name]
    fast = pirol.to_static(lambda x, y: run(x, y).sum(), input_spec=spec)
    for count in (2, 1, 3):
        x, y = leaves(count, 5, 5)
        along(paddle.grad(fast(x, y), [x, y], allow_unused=True), x, y, fast)
    report = pirol.explain(fast)
    assert report.compiles == 1 and len(report.fallbacks) == 1, report


def test_a_matrix_without_inverse() -> None:
    """Its determinant's gradient is Paddle's, zeros."""
    x = paddle.ones([5, 5], "float64")
    x.stop_gradient = False
    found = pirol.to_static(linalg.det)(x)
    assert not paddle.grad(found, [x])[0].any()


@pytest.mark.parametrize("sizes", [[10, 2, 30, 3, 4], [1, 5, 5, 1], [3, 7]])
def test_the_best_order_of_products(sizes: list[int]) -> None:
    def cost(first: int, last: int) -> int:
        if first == last:
            return 0
        ends = sizes[first] * sizes[last + 1]
        halves = range(first, last)
        return min(
            cost(first, k) + cost(k + 1, last) + ends * sizes[k + 1] for k in halves
        )

    def times(x: tuple[int, int, int], y: tuple[int, int, int]) -> Any:
        """(rows, columns, multiplications so far) of two."""
        assert x[1] == y[0]
        return x[0], y[1], x[2] + y[2] + x[0] * x[1] * y[1]

    parts = [(rows, columns, 0) for rows, columns in zip(sizes, sizes[1:])]
    *ends, taken = chained(parts, sizes, times)
    assert ends == [sizes[0], sizes[-1]]
    assert taken == cost(0, len(sizes) - 2)


@pytest.mark.parametrize("name", ["_side", "_diagonal"])
def test_faults_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linalg_gradients, name, lambda b, x, *rest, **more: x)
    with pytest.raises(AssertionError, match="Not equal"):
        checked("cholesky", 5, 5)


@pytest.mark.parametrize("shapes", [([2, 1, 3, 4], [5, 4, 2]), ([1, 3, 4], [6, 4, 2])])
def test_batches_that_are_both_broadcast(shapes: tuple[list[int], list[int]]) -> None:
    """Eager fails in the gradients of the first, whose shape it also tells wrong."""

    def f(x: Any, y: Any) -> Any:
        return paddle.matmul(x, y).sin()

    fast = pirol.to_static(f, strict=True)
    x, y = (paddle.rand(shape, "float64") for shape in shapes)
    x.stop_gradient = y.stop_gradient = False
    np.testing.assert_allclose(fast(x, y), f(x, y), 1e-12)
    found = paddle.grad(fast(x, y).sum(), [x, y])
    ct = x.detach() @ y.detach()
    rows = (ct.cos().matmul(y.detach(), transpose_y=True), x.detach().mT @ ct.cos())
    for got, part, tensor in zip(found, rows, (x, y)):
        extra = list(range(len(part.shape) - len(tensor.shape)))
        whole = part.sum(extra) if extra else part
        ones = [k for k, d in enumerate(tensor.shape) if d == 1 != whole.shape[k]]
        whole = whole.sum(ones, keepdim=True) if ones else whole
        np.testing.assert_allclose(got.numpy(), whole.numpy(), 1e-10)
