"""convolutions: large convs, for a library to run, as steps of their own.

conv(x, w) -> convolution(x, w), of as much padding before as behind; what is more on
one side becomes part of x. What is fused around a conv otherwise is kernels before and
after it. Of widened halves, its result rounded to such, it is one of the halves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pirol.compiler import dims
from pirol.compiler.dims import floordiv, product
from pirol.compiler.ir import Graph, Op, Value, prune
from pirol.passes.canonicalize import cast_back
from pirol.passes.products import FLOATS, lone_readers, narrowed, rounded
from pirol.prim import Builder
from pirol.prim.builder import rewritten
from pirol.prim.prim import WIDE

LEAST = 8  # channels of a group's result, its places in all images, terms
TAPS = 128  # the most of a window; a longer one is an image, of a weight's gradient
WORTH = 1 << 24  # operations that pay for a step and memory around it
UNKNOWN = 32  # what a size counts as that is not known
MOST = 1 << 31  # elements, and more, are not for the library
RANKS = (3, 4, 5)


def convolutions(graph: Graph) -> Graph:
    """The graph with `convolution` for each conv that is worth it."""

    reader = lone_readers(graph)

    def rule(b: Builder, op: Op) -> Value | None:
        if op.name == "cast":
            return cast_back(b, op)
        if op.name != "conv" or not _can(op) or not _pays(op):
            return None
        x, w = narrowed(b, *op.operands)
        if x.dtype != rounded(reader.get(op.result)):
            return _even(b, op)
        made: Value = b.cast(_even(b, replace(op, operands=(x, w))), dtype=WIDE)
        return made

    return prune(rewritten(graph, rule))


def _can(op: Op) -> bool:
    """Whether the library takes it: all of the window is numbers."""
    x, w = op.operands
    numbers = [*w.shape[2:], *(n for pair in op.attrs["padding"] for n in pair)]
    if x.dtype not in FLOATS or x.type.rank not in RANKS:
        return False
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        return False
    sizes = [v.type.size for v in (x, w, op.result)]
    return not any(isinstance(n, int) and n >= MOST for n in sizes)


def _pays(op: Op) -> bool:
    """Whether there are enough channels, places and terms, and of all together."""
    (_, w), groups = op.operands, op.attrs["groups"]
    batch, _, *places = op.result.shape
    sizes = (floordiv(w.shape[0], groups), product((batch, *places)), w.shape[1])
    out, many, channels = (dims.about(n, UNKNOWN) for n in sizes)
    taps = math.prod(w.shape[2:])
    enough = min(out, many, channels * taps) >= LEAST and taps <= TAPS
    return enough and 2 * groups * out * many * channels * taps >= WORTH


def _even(b: Builder, op: Op) -> Value:
    """The convolution, of x with what one side is padded with more than the other."""
    (x, w), at = op.operands, op.attrs
    both = [min(pair) for pair in at["padding"]]
    low, high = (
        (0, 0, *(pair[k] - n for pair, n in zip(at["padding"], both))) for k in (0, 1)
    )
    if any((*low, *high)):
        x = b.pad(x, low=low, high=high, interior=(0,) * x.type.rank, value=0)
    even = {**at, "padding": tuple((n, n) for n in both)}
    made: Value = b.convolution(x, w, **even)
    return made


def window(op: Op) -> tuple[Sequence[int], Sequence[int], Sequence[int], int]:
    """A convolution's strides, padding, dilation and groups."""
    at = op.attrs
    padding = [low for low, _ in at["padding"]]
    return list(at["strides"]), padding, list(at["dilation"]), at["groups"]
