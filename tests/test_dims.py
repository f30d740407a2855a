"""Dims calculate as Python does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pirol.compiler import dims
from pirol.compiler.errors import TextError

OPTIONS: dict[str, Any] = {"deadline": None, "print_blob": True}

# Dims against Python ------------------------------------------------------------------

Sizes: TypeAlias = Mapping[str, int]
Pair: TypeAlias = "tuple[Any, Callable[[Sizes], int]]"  # a Dim, and its value


class Undefined(Exception):
    """The divisor is 0."""


def divided(rule: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def run(a: int, b: int) -> int:
        if b == 0:
            raise Undefined
        return rule(a, b)

    return run


RULES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[int, int], int]]] = {
    "add": (dims.add, lambda a, b: a + b),
    "sub": (dims.sub, lambda a, b: a - b),
    "mul": (dims.mul, lambda a, b: a * b),
    "floordiv": (dims.floordiv, divided(lambda a, b: a // b)),
    "mod": (dims.mod, divided(lambda a, b: a % b)),
    "max": (dims.maximum, max),
    "min": (dims.minimum, min),
}


def leaf() -> st.SearchStrategy[Pair]:
    number = st.integers(-5, 9).map(lambda k: (k, lambda s: k))
    name = st.sampled_from("nmk").map(lambda w: (dims.symbol(w), lambda s: s[w]))
    return st.one_of(number, name)


def joined(parts: tuple[str, Pair, Pair]) -> Pair:
    name, (a, f), (b, g) = parts
    dim, plain = RULES[name]
    return dim(a, b), lambda s: plain(f(s), g(s))


def pairs() -> st.SearchStrategy[Pair]:
    """Random dims, each with its meaning in Python."""
    return st.recursive(
        leaf(),
        lambda inner: st.tuples(st.sampled_from(list(RULES)), inner, inner).map(joined),
        max_leaves=6,
    )


def values() -> st.SearchStrategy[dict[str, int]]:
    few = st.integers(0, 12)
    return st.fixed_dictionaries({"n": few, "m": few, "k": few})


def value_of(pair: Pair, sizes: Sizes) -> int | None:
    try:
        return pair[1](sizes)
    except Undefined:
        return None


@settings(max_examples=150, **OPTIONS)
@given(pairs(), st.lists(values(), min_size=3, max_size=3))
def test_dims_print_parse_and_evaluate(pair: Pair, drawn: list[Sizes]) -> None:
    text = dims.to_text(pair[0])
    again = dims.parse(text)
    assert dims.to_text(again) == text
    assert dims.equal(again, pair[0]) is True
    for sizes in drawn:
        wanted = value_of(pair, sizes)
        if wanted is not None:
            assert dims.evaluate(pair[0], sizes) == wanted
            assert dims.evaluate(again, sizes) == wanted


@settings(max_examples=150, **OPTIONS)
@given(pairs(), pairs(), st.lists(values(), min_size=8, max_size=8))
def test_equal_is_never_wrong(a: Pair, b: Pair, drawn: list[Sizes]) -> None:
    answer = dims.equal(a[0], b[0])
    for sizes in drawn:
        x, y = value_of(a, sizes), value_of(b, sizes)
        if x is not None and y is not None and answer is not None:
            assert (x == y) is answer, f"{a[0]} and {b[0]} at {sizes}"


N, M = dims.symbol("n"), dims.symbol("m")


@pytest.mark.parametrize(
    ("a", "b", "answer"),
    [
        (dims.mul(dims.add(N, 1), M), dims.add(dims.mul(N, M), M), True),
        (dims.floordiv(dims.mul(N, 64), 64), N, True),
        (dims.add(dims.floordiv(dims.sub(dims.mul(N, 3), 1), 3), 1), N, True),
        (
            dims.floordiv(dims.add(N, 5), 4),
            dims.add(dims.floordiv(dims.add(N, 1), 4), 1),
            True,
        ),
        (dims.add(N, 1), 0, False),
        (N, dims.add(dims.mul(N, 2), 1), False),
        (N, M, None),
        (N, 0, None),
        (dims.mod(N, -3), -1, None),
        (dims.floordiv(N, 2), dims.floordiv(dims.add(N, 1), 2), None),
        (4, 4, True),
        (4, 5, False),
    ],
)
def test_equal_has_three_answers(a: Any, b: Any, answer: bool | None) -> None:
    assert dims.equal(a, b) is answer
    assert dims.equal(b, a) is answer


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (dims.mul(N, N), "n*n"),
        (dims.add(dims.mul(N, N), 1), "n*n+1"),
        (dims.floordiv(dims.add(N, 255), 256), "(n+255)//256"),
        (dims.mod(dims.mul(N, 3), M), "3*n%m"),
        (dims.maximum(dims.sub(N, 2), 0), "max(n+(-2), 0)"),
        (-7, "-7"),
    ],
)
def test_text_of_a_dim(dim: Any, text: str) -> None:
    assert dims.to_text(dim) == text
    assert dims.parse(text) == dim


@pytest.mark.parametrize("rule", [dims.floordiv, dims.mod])
def test_division_by_zero_is_zero(rule: Any) -> None:
    assert rule(7, 0) == 0
    assert dims.evaluate(rule(dims.add(N, 1), M), {"n": 3, "m": 0}) == 0


@pytest.mark.parametrize(
    "text", ["", "n +", "n m", "max n", "(n", "n)", "n // ", "2 ** n", "n.m", "max(n"]
)
def test_bad_dims_are_text_errors(text: str) -> None:
    with pytest.raises(TextError):
        dims.parse(text)
