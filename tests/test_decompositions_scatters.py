"""What is put at places that indices name: against eager Paddle and NumPy, values and
gradients, at sizes known and unknown to the capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from decomposition_runs import SPECIAL, of_tensors
from paddle.static import InputSpec

import pirol

SEEN: set[str] = set()
LISTED = (
    "fill_diagonal fill_diagonal_tensor fractional_max_pool2d fractional_max_pool3d "
    "index_put put_along_axis scatter unpool unpool3d"
)
OPS = frozenset(LISTED.split())


def floats(*shape: int, seed: int = 0) -> Any:
    """Random numbers, all apart, and the special ones where there is room."""
    values = np.random.default_rng(seed).permutation(int(np.prod(shape))) * 0.37 - 2
    if values.size > 2 * len(SPECIAL):
        values[: len(SPECIAL)] = SPECIAL
    return values.reshape(shape)


def pooled(x: Any, **kind: Any) -> list[Any]:
    """The plain numbers of pooling that unpooling is given."""
    found = F.max_pool2d(paddle.to_tensor(x), **kind, return_mask=True)
    return [part.numpy() for part in found]


def setting(put: Callable[..., None]) -> Callable[..., Any]:
    def run(x: Any, *rest: Any) -> Any:
        y = x * 1.0
        put(y, *rest)
        return y

    return run


def rows(y: Any, i: Any, u: Any) -> None:
    y[i] = u


def columns(y: Any, i: Any, u: Any) -> None:
    y[:, i] = u[:, : i.shape[0]]


def points(y: Any, i: Any, u: Any) -> None:
    y[i, i + 1] = u[:, 0]


def one(y: Any, i: Any, u: Any) -> None:
    y[i] = u[0]


def masked(y: Any, u: Any) -> None:
    y[y > 0] = u


ROWS, MORE = floats(5, 6), floats(3, 6, seed=1)
TO, COLUMN = np.array([3, 0, -1]), floats(5, 3, seed=2)
UP = TO + 1  # of a place < 0 eager put_along_axis writes its gradient out of bounds
MASK = np.array([True, False, True, False, True])
PLANES = np.random.default_rng(3).normal(size=(2, 3, 7, 9))
VOLUMES = np.random.default_rng(4).normal(size=(1, 2, 6, 5, 7))
HALVED = pooled(PLANES, kernel_size=2)
LAPPED = pooled(PLANES, kernel_size=3, stride=2, padding=1)
LINES = [
    part.numpy() for part in
    F.max_pool1d(paddle.to_tensor(PLANES[:, :, 0]), 3, return_mask=True)
]  # fmt: skip
BLOCKS = [
    part.numpy() for part in
    F.max_pool3d(paddle.to_tensor(VOLUMES), 2, return_mask=True)
]  # fmt: skip
Run = Callable[..., Any]
CASES: dict[str, tuple[Run, list[Any]]] = {
    "scatter": (paddle.scatter, [ROWS, TO, MORE]),
    "scatter of numbers": (paddle.scatter, [ROWS[0], TO, MORE[0, :3]]),
    "scatter to a column": (paddle.scatter, [ROWS, TO[:, None], MORE]),
    "scatter to one": (paddle.scatter, [ROWS, np.array(2), MORE[0]]),
    "scatter of nothing": (paddle.scatter, [ROWS, TO[:0], MORE[:0]]),
    "index_put": (lambda x, i, u: paddle.index_put(x, (i,), u), [ROWS, TO, MORE]),
    "index_put of a number": (
        lambda x, i, u: paddle.index_put(x, (i,), u[0, 0]), [ROWS, TO, MORE],
    ),
    "index_put by two": (
        lambda x, i, u: paddle.index_put(x, (i, i.flip(0)), u[:, 0]),
        [ROWS, TO, MORE],
    ),
    "index_put by crossed ones": (
        lambda x, i, u: paddle.index_put(x, (i[:, None], i[None] + 1), u[:, :3]),
        [ROWS, TO, MORE],
    ),
    "index_put at a mask": (
        lambda x, m, u: paddle.index_put(x, (m,), u), [ROWS, MASK, MORE],
    ),
    "index_put at a mask of all dims": (
        lambda x, m, u: paddle.index_put(x, (m,), u[:, 0]), [ROWS[:, 0], MASK, MORE],
    ),
    "index_put of one at a mask": (
        lambda x, m, u: paddle.index_put(x, (m,), u[:1]), [ROWS, MASK, MORE],
    ),
    "put_along_axis": (
        lambda x, i, u: paddle.put_along_axis(x, i[:, None], u, 0, broadcast=False),
        [ROWS, UP, MORE[:, :1]],
    ),
    "put_along_axis of more": (
        lambda x, i, u: paddle.put_along_axis(x, i[:, None], u, 0, broadcast=False),
        [ROWS, UP, MORE],
    ),
    "put_along_axis of a number": (
        lambda x, i: paddle.put_along_axis(x, i[:, None], 2.5, 1), [ROWS[:3], UP],
    ),
    "rows": (setting(rows), [ROWS, TO, MORE]),
    "columns": (setting(columns), [ROWS, TO, COLUMN]),
    "points": (setting(points), [ROWS, TO, MORE]),
    "one": (setting(one), [ROWS, TO, MORE]),
    "masked": (setting(lambda y: masked(y, 7.0)), [ROWS]),
    "unpool": (lambda x, i: F.max_unpool2d(x, i, 2, output_size=[7, 9]), HALVED),
    "unpool lapped": (lambda x, i: F.max_unpool2d(x, i, 3, 2, 1), LAPPED),
    "unpool lines": (lambda x, i: F.max_unpool1d(x, i, 3), LINES),
    "unpool volumes": (
        lambda x, i: F.max_unpool3d(x, i, 2, output_size=[6, 5, 7]), BLOCKS,
    ),
    "fractional": (
        lambda x: F.fractional_max_pool2d(x, [3, 5], random_u=0.3), [PLANES],
    ),
    "fractional by a size": (
        lambda x: F.fractional_max_pool2d(x, [3, 4], [3, 2], random_u=0.71), [PLANES],
    ),
    "fractional of all": (
        lambda x: F.fractional_max_pool2d(x, [7, 9], random_u=0.5), [PLANES],
    ),
    "fractional volumes": (
        lambda x: F.fractional_max_pool3d(x, [2, 3, 4], random_u=0.9), [VOLUMES],
    ),
    "fractional volumes by a size": (
        lambda x: F.fractional_max_pool3d(x, 3, 2, random_u=0.1), [VOLUMES],
    ),
    "diagonal": (
        lambda x, y: paddle.diagonal_scatter(x, y[0, :5]), [ROWS, MORE],
    ),
    "diagonal above": (
        lambda x, y: paddle.diagonal_scatter(x, y[:2, :4], 2, 1, 2),
        [floats(2, 5, 6), MORE],
    ),
    "diagonal below": (
        lambda x, y: paddle.diagonal_scatter(x, y[:3, :4], -1, 0, 2),
        [floats(5, 3, 6), MORE],
    ),
}  # fmt: skip
# Eager's gradient has a wrong shape, or goes to all that were put at one place.
OWN = ("put_along_axis of more", "unpool lapped")
# Capture needs the sizes: Paddle's own shape rules and functions ask for them.
FIXED = ("put_along_axis", "diagonal above", "diagonal below", "unpool", "columns")
FIXED += ("scatter to a column",)


def tensors(arrays: list[Any], dtype: str) -> list[Any]:
    found = []
    for a in arrays:
        whole = a.dtype.kind in "ib"
        given = a if whole else a.astype(dtype)
        found.append(paddle.to_tensor(given, stop_gradient=whole))
    return found


def results(run: Run, given: list[Any]) -> list[Any]:
    """The result, and the gradients of a weighting of it."""
    out = run(*given)
    out.backward(
        paddle.linspace(0.5, 1.5, out.size).reshape(out.shape).astype(out.dtype)
    )
    return [out.detach(), *(t.grad for t in given)]


def agree(name: str, dtype: str, dynamic: bool) -> None:
    run, arrays = CASES[name]
    specs = [
        InputSpec([None] * a.ndim, str(t.dtype).removeprefix("paddle."))
        for a, t in zip(arrays, tensors(arrays, dtype))
    ]
    inner = of_tensors(run, len(arrays))
    fast = pirol.to_static(inner, input_spec=specs if dynamic else None, strict=True)
    ours = results(fast, tensors(arrays, dtype))
    report = pirol.explain(fast)
    assert not report.fallbacks and report.compiles == 1, report.fallbacks
    stages = report.stages["capture"].ops
    SEEN.update(op.name.removeprefix("pd_op.") for op in stages)
    theirs = results(run, tensors(arrays, dtype))
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a is None or b is None:  # eager may say 0 of what does not depend
            assert a is None and (b is None or not b.any()), (name, k)
            continue
        assert a.dtype == b.dtype, (name, k)
        if not b.size or (k and name in OWN):
            continue
        assert a.shape == b.shape, (name, k)
        room = 0.0 if k == 0 else 1e-6
        np.testing.assert_allclose(a.numpy(), b.numpy(), room, err_msg=f"{name} {k}")
        if k == 0:
            assert (np.signbit(a.numpy()) == np.signbit(b.numpy())).all(), name


@pytest.mark.parametrize("name", CASES)
def test_as_eager(name: str) -> None:
    agree(name, "float32", dynamic=False)


@pytest.mark.full
@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith(FIXED)])
def test_as_eager_at_any_size(name: str) -> None:
    agree(name, "float32", dynamic=True)


# Of what it cannot differentiate twice, or, where it is set in a function of its own,
# takes for what it was before, Paddle's own program is wrong.
WRONG = ("unpool volumes", "diagonal", "rows", "columns", "points", "one", "masked")
APPENDED = [n for n in CASES if not n.startswith(WRONG) and n not in OWN]


@pytest.mark.full
@pytest.mark.parametrize("name", APPENDED)
def test_gradients_that_paddle_appends(name: str) -> None:
    """`paddle.grad` inside a compiled function goes by the same rules."""
    run, arrays = CASES[name]

    def slope(*given: Any) -> Any:
        out = run(given[0] * 1.0, *given[1:])
        return paddle.grad((out * out).sum(), [given[0]])[0]

    fast = pirol.to_static(of_tensors(slope, len(arrays)), strict=True)
    ours, theirs = (f(*tensors(arrays, "float32")) for f in (fast, slope))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), 1e-6)


def test_what_is_set_is_put_at_once() -> None:
    """Paddle puts the rows and then sets all of y to that."""
    fast = pirol.to_static(of_tensors(setting(rows), 3), strict=True)
    with paddle.no_grad():
        fast(*tensors([ROWS, TO, MORE], "float32"))
    groups = pirol.explain(fast).groups
    assert [g.ops[-1] for g in groups] == ["add", "reduce_min", "put"]


AGAIN = np.array([1, 3, 1, 0, 3])
LAST = np.array([False, False, True, True, True])
DOUBLED: dict[str, Run] = {
    "scatter": paddle.scatter,
    "index_put": lambda x, i, u: paddle.index_put(x, (i,), u),
    "setitem": setting(rows),
    "put_along_axis": lambda x, i, u: paddle.put_along_axis(
        x, i[:, None].expand([5, 6]), u, 0, broadcast=False
    ),
}


@pytest.mark.parametrize("name", DOUBLED)
def test_the_last_one_at_a_place_stays(name: str) -> None:
    """And it alone has a gradient, which eager gives all of them."""
    x, u = floats(5, 6), floats(5, 6, seed=1)
    fast = pirol.to_static(of_tensors(DOUBLED[name], 3), strict=True)
    given = tensors([x, AGAIN, u], "float64")
    out, of_x, _, of_u = results(fast, given)
    wanted = x.copy()
    for k, row in zip(AGAIN, u):
        wanted[k] = row
    weights = np.linspace(0.5, 1.5, 30).reshape(5, 6)
    np.testing.assert_array_equal(out.numpy(), wanted)
    none = np.isin(np.arange(5), AGAIN)[:, None]
    np.testing.assert_allclose(of_x.numpy(), np.where(none, 0, weights))
    wanted = np.where(LAST[:, None], weights[AGAIN], 0)
    np.testing.assert_allclose(of_u.numpy(), wanted)


DTYPES = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float64 complex64"


@pytest.mark.parametrize("dtype", [*DTYPES.split(), "complex128"])
def test_dtypes(dtype: str) -> None:
    def put(x: Any, i: Any, u: Any) -> Any:
        y = paddle.index_put(x, (i,), u)
        y[i, 0] = u[:, 1]
        return y

    rng = np.random.default_rng(0)
    x, u = (paddle.to_tensor(rng.normal(size=s) * 3) for s in ((5, 6), (3, 6)))
    if dtype.startswith("complex"):
        x, u = (paddle.complex(v, v * 2) for v in (x, u))
    given = [x.astype(dtype), paddle.to_tensor(TO), u.astype(dtype)]
    fast = pirol.to_static(put, strict=True)
    ours, theirs = fast(*given), put(*given)
    assert not pirol.explain(fast).fallbacks and ours.dtype == theirs.dtype
    wide = "complex128" if dtype.startswith("complex") else "float64"
    ours, theirs = (v.astype(wide).numpy() for v in (ours, theirs))
    np.testing.assert_array_equal(ours, theirs)


def at_rows(x: Any, i: Any, u: Any) -> Any:
    return paddle.scatter(x, i, u)


@pytest.mark.parametrize("place", [5, -6])
def test_a_place_outside_is_refused_as_by_paddle(place: int) -> None:
    fast = pirol.to_static(at_rows)
    x, i, u = tensors([ROWS, np.array([0, 1, place]), MORE], "float32")
    with pytest.raises((ValueError, IndexError), match="Expected|index"):
        fast(x, i, u)
    good = paddle.to_tensor([0, 1, 4])
    np.testing.assert_array_equal(fast(x, good, u).numpy(), at_rows(x, good, u).numpy())


def at_mask(x: Any, m: Any, u: Any) -> Any:
    return paddle.index_put(x, (m,), u)


def test_masks_of_any_count() -> None:
    kinds = [("float32", [None, 6]), ("bool", [None]), ("float32", [None, 6])]
    fast = pirol.to_static(at_mask, input_spec=[InputSpec(s, d) for d, s in kinds])
    for count in (0, 1, 3, 5):
        mask = np.arange(5) < count
        x, m, u = tensors([ROWS, mask, floats(count, 6)], "float32")
        found, wanted = fast(x, m, u).numpy(), np.array(ROWS, "float32")
        wanted[mask] = u.numpy()
        np.testing.assert_array_equal(found, wanted)
    assert pirol.explain(fast).compiles <= 2
    x, m, u = tensors([ROWS, np.arange(5) < 3, floats(2, 6)], "float32")
    with pytest.raises(ValueError, match="Expected"):
        fast(x, m, u)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("shape", [(3, 3), (9, 2), (3, 7), (1, 3), (4, 4, 4)])
def test_a_filled_diagonal(shape: tuple[int, ...], wrap: bool) -> None:
    """By hand, and as eager: each of a step's elements that stays in its line."""
    offsets = (0, 1, -1)

    def each(x: Any) -> Any:
        return [run_one(x, offset) for offset in offsets]

    def run_one(x: Any, offset: int) -> Any:
        return (x * 1.0).fill_diagonal_(3.5, offset, wrap)

    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    fast = pirol.to_static(each, strict=True)
    for offset, found in zip(offsets, fast(paddle.to_tensor(x))):
        wanted, width = x.copy(), shape[1]
        step = sum(x.strides) // 4
        last = x.size if wrap or len(shape) > 2 else width * width
        for at in range(0, min(x.size, last), step):
            if 0 <= at % width + offset < width:
                wanted.reshape(-1)[at + offset] = 3.5
        np.testing.assert_array_equal(found.numpy(), wanted)
        np.testing.assert_array_equal(run_one(paddle.to_tensor(x), offset), wanted)
    SEEN.update(
        op.name.removeprefix("pd_op.")
        for op in pirol.explain(fast).stages["capture"].ops
    )


def test_nan_in_fractional_windows() -> None:
    """A window with NaN gives it, and its place (eager: the largest number)."""
    x = PLANES.copy()
    x[0, 0, 0, 0], x[0, 0, 6, 8], x[1, 2] = np.nan, np.nan, -np.inf

    def run(x: Any) -> Any:
        return F.fractional_max_pool2d(x, [3, 5], random_u=0.3, return_mask=True)

    found = pirol.to_static(run, strict=True)(paddle.to_tensor(x))
    value, place = (v.numpy() for v in found)
    assert np.isnan(value[0, 0, [0, 2], [0, 4]]).all() and np.isnan(value).sum() == 2
    assert (value[1, 2] == -np.inf).all() and place[0, 0, 2, 4] == 62
    flat = np.take_along_axis(x.reshape(2, 3, -1), place.reshape(2, 3, -1), -1)
    np.testing.assert_array_equal(flat.reshape(value.shape), value)


def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN
