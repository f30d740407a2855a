"""Losses with derivatives in them, as one program, against eager Paddle in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.bench import derivatives
from pirol.bench.derivatives import flat, relative_l2
from pirol.bench.derivatives_eager import LOSSES, draw
from pirol.bench.derivatives_paddle import Loss, results, tensors

QUICK = ("burgers", "kuramoto_sivashinsky", "deepmd")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in LOSSES],
)
def test_loss_and_gradients(name: str) -> None:
    drawn = draw(name, small=True, dtype="float64")
    fast = pirol.to_static(Loss(name, drawn), strict=True)
    eager = Loss(name, drawn)
    found, exact = (results(layer, tensors(drawn)) for layer in (fast, eager))
    for one, other in zip(found, exact):
        assert relative_l2(one, other) < 1e-12 or not np.any(other)
    assert float(found[0]) > 0 and pirol.explain(fast).compiles == 1


SHAPES = {
    "matrices": ((3, 3), (3, 3)),
    "batches": ((2, 3, 3), (2, 3, 3)),
    "rows of a batch": ((2, 4, 3), (3, 3)),
}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("turns", [(False, False), (True, False), (False, True)])
def test_the_fourth_derivative_of_products(shapes: Any, turns: Any) -> None:
    """Paddle has no grad op of matmul_triple_grad: the program is captured again."""
    if turns[0] and shapes[0][-1] != shapes[0][-2]:
        pytest.skip("it is not square")

    def f(x: Any, w: Any) -> Any:
        y = paddle.tanh(paddle.matmul(x, w, *turns))
        for _ in range(4):
            (y,) = paddle.grad((y * y).sum(), [x], create_graph=True)
        return y.sum()

    found = []
    for one in (pirol.to_static(f, strict=True), f):
        rng = np.random.default_rng(0)
        x, w = (
            paddle.to_tensor(0.3 * rng.normal(size=s), stop_gradient=False)
            for s in shapes
        )
        one(x, w).backward()
        found.append((x.grad.numpy(), w.grad.numpy()))
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, 1e-9, 1e-12)


def test_bench(capsys: pytest.CaptureFixture[str]) -> None:
    """A run without peers, and one that finds a wrong result."""
    assert derivatives.main(["--small", "--rounds", "1", "--names", "burgers"]) == 0
    text = capsys.readouterr().out
    assert "burgers" in text and "paddle / Pirol, geometric mean" in text
    exact = flat(results(Loss("burgers", d := draw("burgers", True)), tensors(d)))
    with pytest.raises(SystemExit, match="torch is"):
        derivatives.checked("burgers", "torch", exact * 1.01, exact)
