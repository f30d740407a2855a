"""Globals and variables of outer functions: each call computes with what they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest

import pirol

SCALE: Any = 1.0
COUNT = 0
TABLE: dict[str, Any] = {"factors": [1.0], "more": 2.0}
ONES = paddle.ones([3])


def times(x: Any) -> Any:
    return x * SCALE


def by_another(x: Any) -> Any:
    return times(x) + 1.0


def in_a_branch(x: Any) -> Any:
    if x.sum() > 0:
        return x * SCALE
    return x - SCALE


class Times(paddle.nn.Layer):
    def forward(self, x: Any) -> Any:
        return times(x)


def set_scale(value: Any) -> None:
    global SCALE
    SCALE = value


@pytest.fixture(autouse=True)
def restored() -> Any:
    set_scale(1.0)
    yield
    set_scale(1.0)


READERS = [times, by_another, in_a_branch, Times(), lambda x: x * SCALE]


@pytest.mark.parametrize("function", READERS)
def test_globals(function: Any) -> None:
    """One capture a value, and none for one that was there before."""
    fast = pirol.to_static(function)
    captures = []
    for value in (1.0, 5.0, 2, 5.0, 1.0, 2):
        set_scale(value)
        for x in (ONES, ONES[:2]):
            np.testing.assert_array_equal(fast(x).numpy(), function(x).numpy())
        captures.append(len(pirol.explain(fast).plans))
    assert captures[2:] == [captures[2]] * 4
    assert not pirol.explain(fast).fallbacks


def by_table(x: Any) -> Any:
    return x * TABLE["factors"][0] + TABLE["more"]


def test_what_lists_and_dicts_hold() -> None:
    fast = pirol.to_static(by_table)
    for first, more in ((1.0, 2.0), (3.0, 2.0), (1.0, 2.0), (1.0, 5.0)):
        TABLE["factors"][0], TABLE["more"] = first, more
        assert fast(ONES).tolist() == [first + more] * 3
    assert not pirol.explain(fast).fallbacks


def test_a_tensor_put_in_another_s_place() -> None:
    fast = pirol.to_static(times)
    for value in (paddle.full([1], 2.0), paddle.full([1], 3.0)):
        set_scale(value)
        assert fast(ONES).tolist() == [value.item()] * 3
    SCALE.set_value(paddle.full([1], 4.0))
    assert fast(ONES).tolist() == [4.0] * 3


def test_gradients() -> None:
    fast, x = pirol.to_static(by_another), paddle.ones([3])
    x.stop_gradient = False
    for value in (2.0, 7.0, 2.0):
        set_scale(value)
        x.clear_grad()
        fast(x).sum().backward()
        assert x.grad.tolist() == [value] * 3


def closure() -> tuple[Callable[..., Any], Callable[..., None]]:
    factor = 1.0

    def inner(x: Any) -> Any:
        return x * factor

    def put(value: float) -> None:
        nonlocal factor
        factor = value

    return inner, put


def test_outer_variables() -> None:
    inner, put = closure()
    fast = pirol.to_static(inner)
    for value in (1.0, 4.0, 1.0):
        put(value)
        assert fast(ONES).tolist() == [value] * 3


def counting(x: Any) -> Any:
    global COUNT
    COUNT += 1
    return x * COUNT


def counter() -> Callable[..., Any]:
    count = 0

    def inner(x: Any) -> Any:
        nonlocal count
        count += 1
        return x * count

    return inner


@pytest.mark.parametrize("make", [lambda: counting, counter])
def test_what_is_set_outside_is_set_in_each_call(make: Any) -> None:
    fast = pirol.to_static(make())
    with pytest.warns(pirol.PirolWarning, match="a variable outside of it"):
        first = fast(ONES)
    assert [first.tolist()[0], *(fast(ONES).tolist()[0] for _ in range(2))] == [1, 2, 3]


def test_a_variable_of_its_own_may_be_set() -> None:
    def function(x: Any) -> Any:
        total = 1.0

        def more() -> None:
            nonlocal total
            total += 1.0

        more()
        return x * total

    fast = pirol.to_static(function)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pirol.PirolWarning)
        assert fast(ONES).tolist() == [2.0] * 3


def test_another_value_in_each_call() -> None:
    fast = pirol.to_static(times)
    with pytest.warns(pirol.PirolWarning, match="SCALE is another number"):
        for value in range(20):
            set_scale(float(value))
            assert fast(ONES).tolist() == [float(value)] * 3


class Settings:
    scale = 1.0


SETTINGS = SimpleNamespace(scale=1.0, inner=SimpleNamespace(shift=0.0), text="on")
MODULE: Any = ModuleType("settings")
MODULE.scale = 1.0


def by_settings(x: Any) -> Any:
    return x * SETTINGS.scale


def by_a_helper(x: Any) -> Any:
    return by_settings(x) * 2.0


class Owner:
    def __init__(self) -> None:
        self.scale, self.held = 1.0, SimpleNamespace(shift=0.0)

    def times(self, x: Any) -> Any:
        return x * self.scale

    def further(self, x: Any) -> Any:
        return self.times(x) + self.held.shift


class Holder(paddle.nn.Layer):
    """Of an object that is no Layer."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = SimpleNamespace(scale=1.0)

    def forward(self, x: Any) -> Any:
        return x * self.settings.scale


class Outside(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.inside = Holder()

    def forward(self, x: Any) -> Any:
        return self.inside(x) + 1.0


def held() -> tuple[Callable[..., Any], Any]:
    settings = SimpleNamespace(scale=1.0)
    return lambda x: x * settings.scale, settings


OWNER, HOLDER, OUTSIDE = Owner(), Holder(), Outside()
INNER, HELD = held()
OBJECTS: list[tuple[Callable[..., Any], Any, str]] = [
    (by_settings, SETTINGS, "scale"),
    (by_a_helper, SETTINGS, "scale"),
    (lambda x: x + SETTINGS.inner.shift, SETTINGS.inner, "shift"),
    (lambda x: x * Settings.scale, Settings, "scale"),
    (lambda x: x * MODULE.scale, MODULE, "scale"),
    (OWNER.times, OWNER, "scale"),
    (OWNER.further, OWNER, "scale"),
    (OWNER.further, OWNER.held, "shift"),
    (INNER, HELD, "scale"),
    (HOLDER, HOLDER.settings, "scale"),
    (OUTSIDE, OUTSIDE.inside.settings, "scale"),
]


@pytest.mark.parametrize("function, place, name", OBJECTS)
def test_attributes_of_objects(function: Any, place: Any, name: str) -> None:
    """One capture a value, and none for one that was there before."""
    plain = function.forward if isinstance(function, paddle.nn.Layer) else function
    before = getattr(place, name)
    setattr(place, name, 1.0)
    expected = []
    for value in (1.0, 3.0, 1.0):
        setattr(place, name, value)
        expected.append(plain(ONES).tolist())
    setattr(place, name, 1.0)
    fast, found = pirol.to_static(function), []
    for value in (1.0, 3.0, 1.0):
        setattr(place, name, value)
        found.append(fast(ONES).tolist())
    setattr(place, name, before)
    assert found == expected and expected[0] != expected[1]
    assert len(pirol.explain(fast).plans) == 2 and not pirol.explain(fast).fallbacks
