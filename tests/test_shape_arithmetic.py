"""Bounds of slices, and contents of shape tensors, for dims that are symbols."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pirol.compiler import dims
from pirol.compiler.errors import Unsupported
from pirol.prim import Builder, Facts, Unify
from pirol.prim.decomp.bounds import FAR, Interval, interval

N = dims.symbol("n")
PLACES = [-7, -3, -1, 0, 1, 2, 5, FAR, -FAR - 1]


def taken(part: Interval, n: int) -> list[int]:
    """The places of range(n) that the interval takes."""
    line = list(range(n))[:: -1 if part.reverse else 1]
    start, size = (dims.evaluate(v, {"n": n}) for v in (part.start, part.size))
    assert 0 <= start <= n and size >= 0
    return [line[start + k * part.step] for k in range(size)]


@pytest.mark.parametrize("step", [1, 2, 3, -1, -2, -3])
def test_intervals_are_pythons_slices(step: int) -> None:
    """With bounds that are numbers, for known and unknown dims."""
    for start, end in itertools.product(PLACES, PLACES):
        unknown = interval(start, end, step, N)
        for n in range(7):
            expected = list(range(n))[start:end:step]
            assert taken(interval(start, end, step, n), n) == expected
            assert taken(unknown, n) == expected


@pytest.mark.parametrize("step", [1, -1, 2, -3])
def test_intervals_of_bounds_that_are_dims(step: int) -> None:
    """n + k may be negative, and then counts from the end."""
    near = [k for k in PLACES if abs(k) < FAR]
    for low, high in itertools.product(near[::2], near[::3]):
        part = interval(dims.add(N, low), dims.add(N, high), step, N)
        for n in range(7):
            expected = list(range(n))[n + low : n + high : step]
            assert taken(part, n) == expected


def test_equal_slices_have_equal_sizes() -> None:
    """x[1:] and x[:-1] and x[:n-1], by one expression."""
    sizes = [interval(1, FAR, 1, N).size, interval(0, -1, 1, N).size]
    sizes.append(interval(0, dims.sub(N, 1), 1, N).size)
    assert len({dims.to_text(s) for s in sizes}) == 1


Steps = Callable[[Any, Any], Any]


def as_float(b: Any, n: Any) -> Any:
    return b.cast(n, dtype="float32")


COMPUTED: list[tuple[Steps, Callable[[int], int]]] = [
    (lambda b, n: b.idiv(n, 2), lambda n: n // 2),
    (lambda b, n: b.rem(b.sub(n, 5), 3), lambda n: (n - 5) % 3),
    (lambda b, n: b.max(b.min(n, 4), 2), lambda n: max(min(n, 4), 2)),
    (lambda b, n: b.neg(b.mul(n, n)), lambda n: -n * n),
    (lambda b, n: b.mul(as_float(b, n), 0.5), lambda n: int(n * 0.5)),
    (
        lambda b, n: b.sub(b.mul(as_float(b, n), 0.75), 3.5),
        lambda n: int(n * 0.75 - 3.5),
    ),
    (
        lambda b, n: b.floor(b.mul(as_float(b, n), -0.5)),
        lambda n: int(np.floor(-n / 2)),
    ),
    (
        lambda b, n: b.ceil(b.mul(as_float(b, n), 0.375)),
        lambda n: int(np.ceil(n * 0.375)),
    ),
    (lambda b, n: b.mul(b.mul(as_float(b, n), 0.25), 8.0), lambda n: 2 * n),
]


@pytest.mark.parametrize("steps, expected", COMPUTED)
def test_contents_of_computed_sizes(
    steps: Steps, expected: Callable[[int], int]
) -> None:
    b = Builder()
    found = b.known(b.cast(steps(b, b.dim(N)), dtype="int64"))
    assert found is not None
    for n in range(20):
        assert dims.evaluate(found[0], {"n": n}) == expected(n)


def test_contents_of_vectors() -> None:
    b = Builder()
    sizes = b.vector([N, 3, dims.add(N, 1), 4])
    turned = b.reverse(b.slice(sizes, starts=(1,), sizes=(3,), steps=(1,)), axes=(0,))
    assert b.known(turned) == [4, N + 1, 3]
    assert b.known(b.reduce_prod(sizes, axes=(0,))) == [dims.normal(12 * N * (N + 1))]
    picked = b.gather(sizes, b.vector([2, 0]), shape=(2,), dims=(-1,))
    assert b.known(picked) == [N + 1, N]
    assert b.known(b.add(b.iota(axis=0, shape=(3,), dtype="int64"), 2)) == [2, 3, 4]


def test_what_is_not_followed() -> None:
    b = Builder()
    third = b.mul(as_float(b, b.dim(N)), 1 / 3)
    assert b.known(b.cast(third, dtype="int64")) is None
    assert b.known(b.mul(as_float(b, b.dim(N)), 0.5)) is None
    assert b.known(b.iota(axis=0, shape=(65,), dtype="int64")) is None


def test_a_size_that_must_be_large_enough() -> None:
    b = Builder(Facts({"n": 3}))
    b.require_at_least(dims.add(N, 2), 1, "sure")
    with pytest.raises(Unify) as wish:
        b.require_at_least(N, 2, "assumed")
    assert str(wish.value.guard) == "ge(n, 2)"
    assert b.facts.substitution() == {}
    with pytest.raises(Unsupported, match="below"):
        b.require_at_least(N, 4, "not so")
