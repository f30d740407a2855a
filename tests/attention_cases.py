"""Attention of halves as a graph of primitives, and its meaning in NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from pirol.compiler.archive import Archive, Source
from pirol.compiler.ir import Graph, TensorType
from pirol.prim import Builder

HALF = {"float16": np.dtype("float16"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class Case:
    """Sizes, a half, and a mask: the axes it has, "" for none; what hides a key."""

    batch: int
    heads: int
    rows: int
    keys: int
    terms: int
    width: int
    dtype: str = "bfloat16"
    mask: str = ""  # of b, h, r, k
    low: float = -math.inf

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of queries, keys, values and the mask."""
        lead = self.batch, self.heads
        found = [(*lead, self.rows, self.terms), (*lead, self.keys, self.terms)]
        found.append((*lead, self.keys, self.width))
        sizes = zip("bhrk", (*lead, self.rows, self.keys))
        mask = tuple(n if axis in self.mask else 1 for axis, n in sizes)
        return [*found, mask] if self.mask else found

    def graph(self) -> Graph:
        """softmax(q k' * 0.25 + mask) v, each op's result rounded."""
        b, dtype = Builder(), self.dtype
        q, k, v, *mask = (b.input(TensorType(s, dtype)) for s in self.shapes)

        def wide(x: Any) -> Any:
            return b.cast(x, dtype="float32")

        def rounded(x: Any) -> Any:
            return wide(b.cast(x, dtype=dtype))

        both = dict(x_batch=(0, 1), y_batch=(0, 1), x_sum=(3,))
        scores = rounded(b.dot_general(wide(q), wide(k), y_sum=(3,), **both))
        scores = rounded(b.mul(scores, 0.25))
        for m in mask:
            scores = rounded(b.add(scores, wide(m)))

        def spread(x: Any) -> Any:
            return b.broadcast(x, shape=scores.shape, dims=(0, 1, 2))

        powers = b.exp(b.sub(scores, spread(b.reduce_max(scores, axes=(3,)))))
        total = spread(b.reduce_sum(powers, axes=(3,)))
        shares = rounded(b.div(powers, total))
        found = b.dot_general(shares, wide(v), y_sum=(2,), **both)
        return b.graph("attention", [b.cast(found, dtype=dtype)])

    def archive(self) -> Archive:
        """The graph as an exported program."""
        names = ("q", "k", "v", "mask")[: len(self.shapes)]
        sources = tuple(Source(name, False) for name in names)
        return Archive(self.graph(), sources, ["output", 0], {}, ("cuda",))

    def data(self, seed: int) -> list[Any]:
        """Inputs; a mask hides keys here and there, and all of one row."""
        rng = np.random.default_rng(seed)
        found = [rng.standard_normal(shape) for shape in self.shapes]
        if self.mask:
            hidden = rng.random(self.shapes[3]) < 0.3
            if "r" in self.mask and self.low < -1e30:  # as halves, all would be equal
                hidden[..., -1, :] = True
            found[3] = np.where(hidden, self.low, found[3])
        return [x.astype(HALF[self.dtype]) for x in found]

    def expected(self, q: Any, k: Any, v: Any, *mask: Any) -> Any:
        """In float64; scores and the mask added up in float32, beside a large number
        of which a score is nothing."""
        q, k, v = (x.astype("float64") for x in (q, k, v))
        scores = (q @ k.swapaxes(2, 3) * 0.25).astype("float32")
        for m in mask:
            scores = scores + m.astype("float32")
        with np.errstate(invalid="ignore"):
            powers = np.exp(scores - scores.max(3, keepdims=True))
            return powers / powers.sum(3, keepdims=True) @ v


CASES = (
    Case(2, 3, 5, 7, 16, 24),
    Case(1, 2, 70, 197, 64, 64, "float16"),
    Case(2, 2, 1, 33, 80, 40),
    Case(3, 1, 9, 1, 8, 128),
    Case(2, 3, 5, 7, 16, 16, mask="bk"),
    Case(2, 3, 65, 77, 16, 16, mask="rk"),
    Case(2, 3, 5, 7, 16, 16, "float16", mask="bhrk"),
    Case(2, 3, 5, 7, 16, 16, mask="rk", low=-3.3e38),
    Case(2, 3, 130, 65, 64, 64, mask="bhrk", low=-1e4),
)


def near(found: Any, expected: Any) -> None:
    """NaN where it is; numbers as near as halves allow."""
    found = np.asarray(found).astype("float64")
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.06)
