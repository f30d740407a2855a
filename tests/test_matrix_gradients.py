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
    "norm": lambda x, y: linalg.norm(x * y, "fro", axis=[0, 1]).sin(),
    "max_pool2d": lambda x, y: pooled(x * y),
}


def pooled(x: Any) -> Any:
    kind = paddle.nn.functional.max_pool2d
    return kind(x.sin()[None, None], 2, 1, return_mask=True)[0].exp()


# Of several matrices eager has other gradients of eigh than differences have.
BATCHED = ["inverse", "det", "solve", "triangular_solve", "cholesky", "qr"]


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
    rng, step, slope = np.random.default_rng(9), 1e-6, 0.0
    ways = [rng.normal(size=shape) for _ in "xy"]
    for sign in (1.0, -1.0):
        moved = [t.detach() + sign * step * way for t, way in zip((x, y), ways)]
        for tensor in moved:
            tensor.stop_gradient = False
        slope += sign * float(size(gradients(run, *moved, False))) / (2 * step)
    grads = [np.zeros(shape) if t.grad is None else t.grad.numpy() for t in (x, y)]
    got = sum((g * way).sum() for g, way in zip(grads, ways))
    np.testing.assert_allclose(got, slope, 2e-5, 1e-5)


@pytest.mark.parametrize("rows", [3, 6])
@pytest.mark.parametrize("name", CASES)
def test_second_derivatives(name: str, rows: int) -> None:
    checked(name, rows, rows)


@pytest.mark.parametrize("name", BATCHED)
def test_of_several_matrices(name: str) -> None:
    checked(name, 2, 5, 5)


@pytest.mark.parametrize("name", ["_side", "_diagonal"])
def test_faults_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linalg_gradients, name, lambda b, x, *rest, **more: x)
    with pytest.raises(AssertionError, match="Not equal"):
        checked("cholesky", 5, 5)
