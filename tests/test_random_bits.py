"""Random bits by counting: known answers, every target, and how random they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_meaning import random_word
from graph_runs import run_c, run_cuda

from pirol.compiler.dims import symbol
from pirol.compiler.errors import ShapeError, Unsupported
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.compiler.pipeline import Run, finish
from pirol.prim import PRIMS, Builder
from pirol.prim.random import threefry

ONES, KEY = 0xFFFFFFFF, 0x123456789ABCDEF
PI = (0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344)
# Random123's known answers: rounds, counter, key, words.
ANSWERS: list[tuple[int, Any, Any, str]] = [
    (13, (0, 0), (0, 0), "9d1c5ec6 8bd50731"),
    (13, (ONES, ONES), (ONES, ONES), "fd36d048 2d17272c"),
    (13, *PI, "ba3e4725 f27d669e"),
    (20, (0, 0), (0, 0), "6b200159 99ba4efe"),
    (20, (ONES, ONES), (ONES, ONES), "1cb996fc bb002be7"),
    (20, *PI, "c4923a9c 483df7a0"),
]
ENDS = [0, 1, -1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, -(2**63), KEY]


@pytest.mark.parametrize(("rounds", "counter", "key", "words"), ANSWERS)
def test_known_answers(rounds: int, counter: Any, key: Any, words: str) -> None:
    found = [f"{int(w):08x}" for w in threefry(counter, key, rounds)]
    assert " ".join(found) == words


def bits(key: int, places: Any) -> Any:
    places = np.asarray(places, np.int64)
    return PRIMS["random_bits"].numpy(np.full(places.shape, key, np.int64), places)


def test_the_first_word_of_a_place() -> None:
    words = [0x9D1C5EC6, 0xFD36D048, 0xBA3E4725]
    places = [0, -1, 0x85A308D3243F6A88 - 2**64]
    for key, place, word in zip([0, -1, 0x0370734413198A2E], places, words):
        assert bits(key, [place]).view(np.uint32)[0] == word
    keys, places = np.array(np.meshgrid(ENDS, ENDS), np.int64)
    found = PRIMS["random_bits"].numpy(keys, places)
    np.testing.assert_array_equal(found, random_word(keys, places).value)


def pair() -> tuple[Graph, list[Any]]:
    b = Builder()
    key, place = (b.input(TensorType((symbol("n"),), "int64")) for _ in range(2))
    graph = b.graph("bits", [b.random_bits(key, place)])
    rng = np.random.default_rng(3)
    low, high = -(2**63), 2**63 - 1
    keys, places = (rng.integers(low, high, 300, endpoint=True) for _ in range(2))
    every = np.array(np.meshgrid(ENDS, ENDS), np.int64).reshape(2, -1)
    return graph, [np.concatenate([keys, every[0]]), np.concatenate([places, every[1]])]


@pytest.mark.parametrize("run", [interpret, run_c, run_cuda])
def test_every_target_has_the_same(run: Any) -> None:
    if run is run_cuda and not has_compiler():
        pytest.skip("no C++ compiler")
    graph, arrays = pair()
    (found,) = run(graph, arrays)
    np.testing.assert_array_equal(found, random_word(*arrays).value)


def chi_square(counts: Any) -> float:
    """In standard deviations, of equally likely cells."""
    counts = np.asarray(counts, np.float64).reshape(-1)
    mean, free = counts.mean(), counts.size - 1
    return float(((counts - mean) ** 2 / mean).sum() - free) / np.sqrt(2 * free)


@pytest.mark.parametrize("shift", [24, 16, 8, 0])
def test_all_bits_are_even(shift: int) -> None:
    found = bits(KEY, np.arange(1 << 18)).view(np.uint32) >> np.uint32(shift) & 255
    assert abs(chi_square(np.bincount(found, minlength=256))) < 4


def high(key: int, places: Any) -> Any:
    return bits(key, places).view(np.uint32) >> np.uint32(28)


COUNT = np.arange(1 << 17)


@pytest.mark.parametrize(
    "pairs",
    {
        "neighbours": lambda: (high(KEY, COUNT), high(KEY, COUNT + 1)),
        "rows": lambda: (high(KEY, COUNT), high(KEY, COUNT + 1024)),
        "far": lambda: (high(KEY, COUNT), high(KEY, COUNT + 2**32)),
        "keys": lambda: (high(KEY, COUNT), high(KEY + 1, COUNT)),
        "upper keys": lambda: (high(KEY, COUNT), high(KEY + 2**32, COUNT)),
        "key and place": lambda: (high(KEY, COUNT), high(KEY + 1, COUNT - 1)),
        "places, of keys": lambda: (high(0, COUNT), bits(1, COUNT) & 15),
    }.values(),
)
def test_pairs_are_independent(pairs: Any) -> None:
    one, other = (np.asarray(v, np.int64) for v in pairs())
    assert abs(chi_square(np.bincount(16 * one + other, minlength=256))) < 4


def test_types() -> None:
    b = Builder()
    key = b.random_key(effect=True)
    assert str(key.type) == "i64[]"
    assert b.random_bits(key, b.iota(axis=0, shape=(3,), dtype="int64")).shape == (3,)
    with pytest.raises(ShapeError, match="random_bits"):
        b.random_bits(key, b.iota(axis=0, shape=(3,), dtype="int32"))
    with pytest.raises(ShapeError, match="random_key"):
        b.random_key()
    with pytest.raises(Unsupported, match="random_key"):
        interpret(b.graph("key", [key]), [])
    drawn = interpret(b.graph("key", [key]), [], opaque=lambda op, _: [np.int64(KEY)])
    assert drawn[0] == KEY


def test_keys_are_never_joined() -> None:
    """Two draws are two, in the program's order, needed or not."""
    b = Builder()
    keys = [b.random_key(effect=True) for _ in range(3)]
    place = b.iota(axis=0, shape=(5,), dtype="int64")
    outs = [b.random_bits(k, place) for k in (keys[0], keys[2])]
    graph = b.graph("keys", outs)
    numbers = iter([11, 12, 13])
    fused = finish(graph, Run()).stages["fuse"]
    found = interpret(fused, [], opaque=lambda op, _: [np.int64(next(numbers))])
    for key, out in zip((11, 13), found):
        np.testing.assert_array_equal(out, bits(key, np.arange(5)))
