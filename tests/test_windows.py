"""The windows pass: the same values, signs of zeros and places, in few steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pirol.compiler.dims import symbol
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType, prune
from pirol.compiler.verify import verify
from pirol.passes.windows import windows
from pirol.prim import Builder

KINDS = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8")


def graph(shape: Any, dtype: str, asked: Any, **sizes: Any) -> Graph:
    b = Builder()
    x = b.input(TensorType(shape, dtype))
    found = b.window_max(x, **sizes)
    return b.graph("g", [found[k] for k in asked])


def taps(cut: Graph) -> int:
    """The elements that are compared for each result, along all dims."""
    return sum(sum(op.attrs["window"]) for op in cut.ops if op.name == "window_max")


@st.composite
def cases(draw: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Windows over the middle dims of an array with many ties."""
    rank = draw(st.integers(1, 2))
    sizes: list[tuple[int, int, tuple[int, int], int]] = []
    shape = [draw(st.integers(0, 2))]
    for _ in range(rank):
        n, k = draw(st.integers(1, 40)), draw(st.integers(1, 40))
        d, low = draw(st.integers(1, 3)), draw(st.integers(0, 9))
        high = max(d * (k - 1) + 1 - n - low, 0) + draw(st.integers(0, 9))
        sizes.append((k, draw(st.integers(1, 4)), (low, high), d))
        shape.append(n)
    shape.append(draw(st.integers(1, 3)))
    alone = (1, 1, (0, 0), 1)
    names = ("window", "strides", "padding", "dilation")
    given = dict(zip(names, zip(alone, *sizes, alone)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = np.dtype(draw(st.sampled_from(KINDS)))
    x = rng.integers(0 if kind.kind == "u" else -2, 3, shape).astype(kind)
    if kind.kind == "f":
        x *= rng.choice([1, -1], shape)  # zeros of both signs
        for special in draw(st.sampled_from([(), (np.nan, np.inf), (-np.inf,)])):
            x[rng.random(shape) < 0.4] = special
    elif draw(st.booleans()):
        x[rng.random(shape) < 0.8] = np.iinfo(kind).min
    return (
        x,
        draw(st.sampled_from([(0,), (1,), (0, 1)])),
        given | {"plane": (1, 1 + rank)},
    )


@settings(max_examples=60)
@given(cases())
def test_the_same_results(case: Any) -> None:
    x, asked, sizes = case
    whole = graph(x.shape, str(x.dtype), asked, **sizes)
    cut = windows(whole)
    verify(cut, "flat")
    for got, expected in zip(interpret(cut, [x]), interpret(whole, [x])):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(expected))


@pytest.mark.parametrize("asked", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("k", [8, 17, 64, 1000])
def test_wide_windows_take_few_compares(k: int, asked: Any) -> None:
    """A few along each dim, dilated too; not k, or k * k."""
    n, m = symbol("n"), symbol("m")
    whole = graph(
        (n, m), "float32", asked, window=(k, k), strides=(1, 1),
        padding=((3, k), (0, k)), dilation=(1, 2), plane=(0, 2),
    )  # fmt: skip
    cut = prune(windows(whole))
    verify(cut, "flat")
    assert taps(cut) <= 2 * 16 * math.ceil(math.log(k, 16))
    packed = [op for op in cut.ops if op.name == "window_max"]
    assert all((op.operands[0].dtype == "int64") == (1 in asked) for op in packed)


def test_windows_far_apart_stay_whole() -> None:
    """Where narrower windows would be taken at places that no window begins at."""
    whole = graph(
        (4000,), "float32", (0,), window=(20,), strides=(40,),
        padding=((0, 0),), dilation=(1,), plane=(0, 1),
    )  # fmt: skip
    assert taps(windows(whole)) == 20
