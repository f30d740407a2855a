"""Sorts as graphs of the primitive, and their meaning by plain Python."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pirol.compiler.archive import Archive, Source
from pirol.compiler.ir import DTYPES, FLOATS, Graph, TensorType
from pirol.prim import Builder

FORM = ["tuple", [["output", 0], ["output", 1]]]


@dataclass(frozen=True)
class Sort:
    """Of rows of a dtype; count: how many of each, -1: all."""

    shape: tuple[Any, ...]
    dtype: str = "float32"
    descending: bool = False
    count: int = -1

    @property
    def few(self) -> Any:
        """How many elements of a row there are in the results."""
        return self.shape[-1] if self.count < 0 else self.count

    def graph(self) -> Graph:
        """The primitive alone."""
        b = Builder()
        x = b.input(TensorType(self.shape, self.dtype))
        found = b.sort(x, descending=self.descending, count=self.few)
        return b.graph("sort", list(found))

    def archive(self) -> Archive:
        """As a file has it."""
        return Archive(self.graph(), (Source("x", False),), FORM, {}, ())

    def data(self, seed: int) -> Any:
        """Few numbers, so that many are equal; of floats special ones among them."""
        rng = np.random.default_rng(seed)
        kind = DTYPES[self.dtype][1]
        x = np.asarray(rng.integers(-40, 41, self.shape))
        if self.dtype in FLOATS:
            special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45])
            place = rng.random(self.shape)
            some = special[rng.integers(0, len(special), self.shape)]
            x = np.where(place < 0.2, some, np.where(place < 0.6, x, x / 7))
        elif self.dtype == "bool":
            x = x > 30
        elif seed % 2:
            x = x * (1 << 8 * np.dtype(kind).itemsize - 8)
        return x.astype(kind)

    def expected(self, x: Any) -> tuple[Any, Any]:
        """By Python's sort, which is stable both ways."""
        rows = x.reshape(-1, self.shape[-1]) if x.size else np.zeros((0, 1), x.dtype)
        at = np.zeros((len(rows), self.few), np.int64)
        for k, row in enumerate(rows.astype(object) if x.dtype.kind == "V" else rows):
            keys = [_key(v) for v in row.tolist()]
            order = sorted(
                range(len(keys)), key=keys.__getitem__, reverse=self.descending
            )
            at[k] = order[: self.few]
        values = np.take_along_axis(rows, at, axis=-1) if len(rows) else rows
        shape = (*self.shape[:-1], self.few)
        return values.reshape(shape), at.reshape(shape)

    def check(self, x: Any, found: Any) -> None:
        """AssertionError where a bit differs."""
        for one, wanted in zip(found, self.expected(x), strict=True):
            one = np.asarray(one)
            assert one.dtype == wanted.dtype and one.shape == wanted.shape
            assert one.tobytes() == wanted.tobytes()


def _key(value: Any) -> tuple[bool, Any]:
    """NaN behind all; 0.0 is -0.0."""
    nan = isinstance(value, float) and math.isnan(value)
    return nan, 0 if nan else value


CASES = (
    Sort((3, 1)),
    Sort((5, 2), descending=True),
    Sort((7, 37)),
    Sort((37, 33), "bfloat16", True),
    Sort((9, 130), "float16"),
    Sort((3, 1024), "float32", True),
    Sort((2, 1500), "float64"),
    Sort((2, 2048), "int64", True),
    Sort((4, 700), "bool", True),
    Sort((4, 700), "uint8"),
    Sort((4, 700), "int8", True),
    Sort((4, 700), "int16"),
    Sort((2, 2049)),
    Sort((3, 5000), "int32", True),
    Sort((1, 10000), "float64", True),
    Sort((2, 9000), "float32", True, 7),
    Sort((1, 14000), "float16", False, 5000),
    Sort((3, 100), "float32", True, 1),
    Sort((3, 100), "int64", False, 40),
    Sort((70, 32)),
    Sort((130, 16), "bfloat16", True, 3),
    Sort((17, 64), "float64", False, 33),
    Sort((3, 2048), "float32", True, 100),
    Sort((0, 5)),
    Sort((3, 0)),
    Sort((3, 5), count=0),
)
# Rows that threads share out, or few elements of many; on a device, many runs.
LARGE = (
    Sort((1, 70_001)),
    Sort((3, 40_000), "float64", True),
    Sort((1, 100_000), "int64", False, 60_000),
    Sort((2, 30_000), "float32", True, 400),
)
