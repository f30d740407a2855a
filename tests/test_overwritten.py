"""paddle.grad in a program, behind a write in place: each value has its own gradient.

The oracle writes nothing in place: y is kept where a mask is 0, and rows of v are put
by a matrix of zeros and ones. (Eager's own gradients behind a list or mask are those of
uninitialised memory.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.compiler.capture import differentiated, orders, overwritten

MASK = [True, False, True, False, True]
POINTS = [[k in (0, 6, 7, 17) for k in range(n, n + 4)] for n in range(0, 20, 4)]


def at_int(y: Any, v: Any) -> None:
    y[1] = v[1]


def at_slice(y: Any, v: Any) -> None:
    y[1:4] = v


def at_steps(y: Any, v: Any) -> None:
    y[-1::-2] = v


def at_column(y: Any, v: Any) -> None:
    y[1:4, 2] = v[:, 2]


def at_list(y: Any, v: Any) -> None:
    y[[3, 0, -1]] = v


def at_one_place(y: Any, v: Any) -> None:
    y[[3, 1, 3]] = v


def at_mask(y: Any, v: Any) -> None:
    y[paddle.to_tensor(MASK)] = v


def row_at_mask(y: Any, v: Any) -> None:
    y[paddle.to_tensor(MASK)] = v[0]


def column_at_mask(y: Any, v: Any) -> None:
    y[paddle.to_tensor(MASK)] = v[:, :1]


def at_points(y: Any, v: Any) -> None:
    y[paddle.to_tensor(POINTS)] = v[1]


def one_at_mask(y: Any, v: Any) -> None:
    y[paddle.to_tensor(MASK)] = v[0, 0]


def numbers(y: Any, v: Any) -> None:
    y[1:3] = 0.1


def twice(y: Any, v: Any) -> None:
    y[0] = v[0]
    y[2] = y[0] * v[2]


def numbers_first(y: Any, v: Any) -> None:
    y[1:3] = 0.1
    y[0] = v[0]


def puts(*rows: int, columns: Any = slice(None)) -> Callable[[Any, Any], Any]:
    """The k-th row of v at the k-th of the rows, if that is not -1."""
    places, kept = np.zeros((5, 3)), np.ones((5, 4))
    for k, row in enumerate(rows):
        if row >= 0:
            places[row, k], kept[row, columns] = 1, 0

    def put(y: Any, v: Any) -> Any:
        keep = paddle.to_tensor(kept)
        return y * keep + paddle.matmul(paddle.to_tensor(places), v) * (1 - keep)

    return put


def all_at_mask(y: Any, v: Any) -> Any:
    inside = paddle.to_tensor(MASK).astype("float64")[:, None]
    return y * (1 - inside) + inside * v[0, 0]


def rows_at_mask(y: Any, v: Any) -> Any:
    return puts(0, 2, 4)(y, paddle.broadcast_to(v[:1], v.shape))


def columns_at_mask(y: Any, v: Any) -> Any:
    return puts(0, 2, 4)(y, paddle.broadcast_to(v[:, :1], v.shape))


def row_at_points(y: Any, v: Any) -> Any:
    places, order = np.zeros((20, 4)), [0, 6, 7, 17]
    places[order, range(4)] = 1
    kept = paddle.to_tensor(1 - np.array(POINTS, "float64"))
    put = paddle.matmul(paddle.to_tensor(places), v[1, :, None]).reshape([5, 4])
    return y * kept + put


def some_numbers(y: Any, v: Any) -> Any:
    inside = paddle.to_tensor([[0.0], [1], [1], [0], [0]], dtype="float64")
    return y * (1 - inside) + inside * paddle.to_tensor(0.1, "float64")


def one_then_one(y: Any, v: Any) -> Any:
    y = puts(0)(y, v)
    inside = paddle.to_tensor([[0.0], [0], [1], [0], [0]], dtype="float64")
    return y * (1 - inside) + inside * (y[0] * v[2])


WRITES: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
    "int": (at_int, puts(-1, 1)),
    "slice": (at_slice, puts(1, 2, 3)),
    "steps": (at_steps, puts(4, 2, 0)),
    "column": (at_column, puts(1, 2, 3, columns=2)),
    "list": (at_list, puts(3, 0, 4)),
    "list with one twice": (at_one_place, puts(-1, 1, 3)),
    "mask": (at_mask, puts(0, 2, 4)),
    "row at a mask": (row_at_mask, rows_at_mask),
    "column at a mask": (column_at_mask, columns_at_mask),
    "points": (at_points, row_at_points),
    "one at a mask": (one_at_mask, all_at_mask),
    "numbers": (numbers, some_numbers),
    "numbers first": (numbers_first, lambda y, v: puts(0)(some_numbers(y, v), v)),
    "twice": (twice, one_then_one),
}


def gradients(found: Any, given: Any, order: int) -> Any:
    """`found` and its gradients, up to this order."""
    results = [found]
    for _ in range(order):
        grads = paddle.grad(found, given, create_graph=True, allow_unused=True)
        results += [g for g in grads if g is not None]
        found = sum((g * g).sum() for g in grads if g is not None)
    return results


def written(put: Any, order: int, hidden: bool) -> tuple[Any, Any]:
    """Functions of x and w: y is read, written, and read again; and without writes. In
    a hidden helper Paddle's capture does not see that y is another value."""
    put_in_place, oracle = put
    cube = paddle.jit.not_to_static(lambda y: (y**3).sum())

    def helper(y: Any, v: Any) -> Any:
        put_in_place(y, v)
        return cube(y)

    if hidden:
        helper = paddle.jit.not_to_static(helper)

    def run(x: Any, w: Any) -> Any:
        y = x * 2.0
        before = (y * y).sum()
        found = gradients(helper(y, w * 3.0) * before, [x, w], order)
        return [*found, cube(y)]

    def plain(x: Any, w: Any) -> Any:
        y = x * 2.0
        before = (y * y).sum()
        after = cube(oracle(y, w * 3.0))
        return [*gradients(after * before, [x, w], order), after]

    return run, plain


def given() -> list[Any]:
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(5, 4)), rng.normal(size=(3, 4))
    return [paddle.to_tensor(a, stop_gradient=False) for a in arrays]


def compare(name: str, order: int, hidden: bool = False) -> None:
    run, plain = written(WRITES[name], order, hidden)
    fast = pirol.to_static(run)
    ours, exact = (list(f(*given())) for f in (fast, plain))
    assert not pirol.explain(fast).fallbacks and len(ours) == len(exact)
    for got, wanted in zip(ours, exact):
        scale = float(wanted.abs().max())
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), 1e-12, 1e-12 * scale)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("name", WRITES)
def test_first_order(name: str, hidden: bool) -> None:
    compare(name, 1, hidden)


@pytest.mark.parametrize("name", WRITES)
def test_second_order(name: str) -> None:
    """By Paddle neither in eager mode nor in a program."""
    compare(name, 2)


def test_gradients_of_what_is_captured() -> None:
    """A backward walk through a program that has gradients in it."""
    run, plain = written(WRITES["list"], 1, True)
    found = []
    for function in (pirol.to_static(run), plain):
        tensors = given()
        sum((g * g).sum() for g in function(*tensors)).backward()
        found.append([t.grad.numpy() for t in tensors])
    for got, wanted in zip(*found):
        np.testing.assert_allclose(got, wanted, 1e-11, 1e-11 * np.abs(wanted).max())


def into_input(x: Any, w: Any) -> Any:
    x[1:] = w[0] * 2.0
    (of_w,) = paddle.grad((x**3).sum(), [w])
    return of_w


def test_an_input_without_a_gradient_is_written() -> None:
    """The program's gradient op says nothing of it."""
    found = []
    for function in (pirol.to_static(into_input, strict=True), into_input):
        x, w = given()
        x = x.detach()
        found.append([function(x, w).numpy(), x.numpy()])
    for ours, exact in zip(*found):
        np.testing.assert_allclose(ours, exact, 1e-14)


def test_paddles_own_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fail = pytest.fail
    monkeypatch.setattr(differentiated, "tell_apart", lambda block: fail("called"))
    run, _ = written(WRITES["slice"], 1, False)
    paddle.jit.to_static(run, full_graph=True, backend=None).get_concrete_program(
        *given()
    )


FAULTS: dict[str, tuple[Any, str, Any, tuple[str, int]]] = {
    "no names": (differentiated, "tell_apart", lambda block: None, ("slice", 1)),
    "not told": (overwritten, "reads", lambda value, users: (), ("slice", 1)),
    "not in order": (orders, "_at_mask", lambda ct, at, like: ct[:3], ("mask", 2)),
    "no share": (orders, "_summed", lambda v, like: like * 0, ("slice", 2)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, wrong, (case, order) = FAULTS[fault]
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        compare(case, order, order == 1)
