"""transforms: Fourier transforms of a library's, or as products where there is none.

A transform of n1 n2 terms is n2 of n1 terms, turned by roots of unity, and n1 of n2
terms (Cooley and Tukey, 1965); one of few terms is a product with its matrix. One of
many terms of which the number has no small factor is a convolution, made by transforms
of a power of two (Bluestein, 1970). The lengths must be known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pirol.compiler.dims import product
from pirol.compiler.ir import PART, Graph, Op, Value
from pirol.prim import Builder
from pirol.prim.builder import rewritten
from pirol.prim.complexes import WHOLE
from pirol.prim.decomp.bounds import cut

SHORT = 64  # terms of a transform that is a product; a factor of others
DIRECT = 512  # and of one that has no such factor


def transforms(graph: Graph) -> Graph:
    """The graph without fft, rfft and irfft of known lengths."""
    return rewritten(graph, _products)


def lines(graph: Graph) -> Graph:
    """The graph with a `transform` of cuFFT's for each dim of each fft, rfft, irfft."""
    return rewritten(graph, _by_library)


def _by_library(b: Builder, op: Op) -> Sequence[Value] | None:
    if op.name not in ("fft", "rfft", "irfft"):
        return None
    x, forward, (*others, last) = op.operands[0], op.attrs["forward"], op.attrs["axes"]
    real = op.result if op.name == "irfft" else x
    size = product(real.shape[a] for a in op.attrs["axes"])
    if op.name == "rfft":
        x = _line(b, x, last, kind="r2c", forward=True)
        x = x if forward else b.conj(x)
    for axis in others if op.name != "fft" else op.attrs["axes"]:
        x = _line(b, x, axis, kind="c2c", forward=forward)
    if op.name == "irfft":
        x = _as_of_reals(b, b.conj(x) if forward else x, last, op.attrs["size"])
        x = _line(b, x, last, kind="c2r", forward=False, size=op.attrs["size"])
    scale = op.attrs["scale"]
    if scale == "none":
        return [x]
    count = b.cast(b.dim(size), dtype="float64")
    factor = b.div(1.0, count if scale == "n" else b.sqrt(count))
    return [b.mul(x, b.cast(factor, dtype=x.dtype))]


def _line(b: Builder, x: Value, axis: int, **attrs: Any) -> Value:
    """Along an axis, which goes to the end for that."""
    last = x.type.rank - 1
    places = {axis: last, last: axis}
    perm = tuple(places.get(k, k) for k in range(last + 1))
    if axis != last:
        x = b.transpose(x, perm=perm)
    x = b.transform(x, **attrs)
    return b.transpose(x, perm=perm) if axis != last else x


def _as_of_reals(b: Builder, x: Value, axis: int, size: Any) -> Value:
    """Without the imaginary parts that numbers have which are their own conjugates: the
    library would not leave them out."""
    place = b.iota(axis=axis, shape=x.shape, dtype="int64")
    own = b.or_(b.eq(place, 0), b.eq(b.mul(place, 2), b.dim(size)))
    found: Value = b.complex(b.real(x), b.select(own, 0.0, b.imag(x)))
    return found


def _products(b: Builder, op: Op) -> Sequence[Value] | None:
    if op.name not in ("fft", "rfft", "irfft"):
        return None
    x, axes = op.operands[0], op.attrs["axes"]
    real = op.result if op.name == "irfft" else x  # of as many terms as are turned
    lengths = [real.shape[a] for a in axes]
    known = [n for n in lengths if isinstance(n, int)]
    if len(known) < len(lengths):
        return None
    turn = _Turn(b, op.attrs["forward"])
    *others, last = axes
    if op.name == "rfft":
        x = turn.along(b.cast(x, dtype=WHOLE[x.dtype]), last)
        x = cut(b, x, last, 0, op.result.shape[last])
    for axis in others if op.name != "fft" else axes:
        x = turn.along(x, axis)
    if op.name == "irfft":
        x = b.real(turn.along(_whole(b, x, last, known[-1]), last))
    scale = {"none": 1.0, "n": 1.0 / product(known), "sqrt": product(known) ** -0.5}
    return [b.mul(x, scale[op.attrs["scale"]])]


def _whole(b: Builder, x: Value, axis: int, size: int) -> Value:
    """What is the transform of real numbers, from its first half."""
    rest = b.reverse(cut(b, x, axis, 1, (size + 1) // 2 - 1), axes=(axis,))
    found: Value = b.concat(x, b.conj(rest), axis=axis)
    return found


@dataclass
class _Turn:
    """Transforms of one direction."""

    b: Builder
    forward: bool

    def along(self, x: Value, axis: int) -> Value:
        """Of lines along an axis."""
        shape, b = x.shape, self.b
        lines = (product(shape[:axis]), shape[axis], product(shape[axis + 1 :]))
        found: Value = b.reshape(self.lines(b.reshape(x, shape=lines)), shape=shape)
        return found

    def lines(self, x: Value) -> Value:
        """Of x[i, :, j] for all i and j."""
        length = x.shape[1]
        assert isinstance(length, int)
        if length == 1:
            return x
        some = [k for k in range(1, SHORT + 1) if length % k == 0]
        factor = min(some, key=lambda k: k + length // k)
        if length <= SHORT or (factor == 1 and length <= DIRECT):
            factor = length
        return self.convolved(x) if factor == 1 else self.stepwise(x, length, factor)

    def stepwise(self, x: Value, length: int, factor: int) -> Value:
        """First of `factor` terms, which lie evenly in the length, then of the rest."""
        b, (before, _, behind) = self.b, x.shape
        rest = length // factor
        x = b.reshape(x, shape=(before, factor, product((rest, behind))))
        matrix = self.roots(b.rem(_places(b, factor, factor), factor), factor, x.dtype)
        sums = {"x_sum": (1,), "y_sum": (0,), "x_batch": (), "y_batch": ()}
        x = b.transpose(b.dot_general(x, matrix, **sums), perm=(0, 2, 1))
        if rest > 1:
            x = b.reshape(x, shape=(before, factor, rest, behind))
            roots = self.roots(_places(b, factor, rest), length, x.dtype)
            x = b.mul(x, b.reshape(roots, shape=(1, factor, rest, 1)))
            lines = (product((before, factor)), rest, behind)
            x = self.lines(b.reshape(x, shape=lines))
            x = b.reshape(x, shape=(before, factor, rest, behind))
            x = b.transpose(x, perm=(0, 2, 1, 3))
        found: Value = b.reshape(x, shape=(before, length, behind))
        return found

    def convolved(self, x: Value) -> Value:
        """As 2 j k = j^2 + k^2 - (k - j)^2: products with roots around a convolution
        with their conjugates, of lines that are long enough to be round."""
        b, length = self.b, x.shape[1]
        assert isinstance(length, int)
        size = 1 << (2 * length - 2).bit_length()
        place = b.iota(axis=1, shape=(1, size, 1), dtype="int64")
        place = b.min(place, b.sub(size, place))
        roots = self.roots(b.rem(b.mul(place, place), 2 * length), 2 * length, x.dtype)
        zero = b.const(value=0.0, shape=(), dtype=x.dtype)
        wave = self.lines(b.select(b.lt(place, length), b.conj(roots), zero))
        roots = cut(b, roots, 1, 0, length)
        low, high = (0, 0, 0), (0, size - length, 0)
        x = b.pad(b.mul(x, roots), low=low, high=high, interior=low, value=0.0)
        x = _Turn(b, not self.forward).lines(b.mul(self.lines(x), wave))
        found: Value = b.mul(b.mul(cut(b, x, 1, 0, length), roots), 1.0 / size)
        return found

    def roots(self, powers: Value, order: int, dtype: str) -> Value:
        """exp(-2 pi j p / order), or its conjugate; 0 <= p < order."""
        b = self.b
        turn = -2 * math.pi / order if self.forward else 2 * math.pi / order
        angle = b.mul(b.cast(powers, dtype="float64"), turn)
        parts = (b.cast(f(angle), dtype=PART[dtype]) for f in (b.cos, b.sin))
        found: Value = b.complex(*parts)
        return found


def _places(b: Builder, rows: int, columns: int) -> Value:
    """Each row's number times each column's."""
    row, column = (
        b.iota(axis=axis, shape=(rows, columns), dtype="int64") for axis in (0, 1)
    )
    found: Value = b.mul(row, column)
    return found
