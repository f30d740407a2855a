"""rows: the first operand of a product of bfloat16 with its terms one behind the other.

A kernel multiplies such halves in pairs of terms, which it reads as they lie. Where
they lie apart, as in a gradient of weights, a transposed copy is made first.
"""

from __future__ import annotations

from collections.abc import Sequence

from pirol.compiler import dims
from pirol.compiler.dims import product
from pirol.compiler.ir import Graph, Op, Value, prune
from pirol.prim import Builder
from pirol.prim.builder import rewritten
from pirol.prim.prim import PAIRED, WIDE

WORTH = 64  # columns that pay for the copy


def rows(graph: Graph) -> Graph:
    """The graph with such products of transposed copies."""

    def rule(b: Builder, op: Op) -> Value | None:
        if op.name != "dot_general":
            return None
        x, y = (_half(b, v) for v in op.operands)
        return _turned(b, op, x) if x is not None and y is not None else None

    return prune(rewritten(graph, rule))


def _half(b: Builder, value: Value) -> Value | None:
    """What was widened, if it was bfloat16."""
    op = b.producers.get(value)
    if op is None or op.name != "cast" or value.dtype != WIDE:
        return None
    return op.operands[0] if op.operands[0].dtype == PAIRED else None


def _turned(b: Builder, op: Op, half: Value) -> Value | None:
    at, y = op.attrs, op.operands[1]
    batch, summed = at["x_batch"], at["x_sum"]
    rank, taken = half.type.rank, (*batch, *summed)
    free = tuple(k for k in range(rank) if k not in taken)
    if _is_last(half, summed) or not free:
        return None
    columns = product(
        d for k, d in enumerate(y.shape) if k not in (*at["y_batch"], *at["y_sum"])
    )
    if isinstance(columns, int) and columns < WORTH:
        return None
    turned = b.transpose(half, perm=(*batch, *free, *summed))
    ends = len(batch), rank - len(summed)
    where = {"x_batch": tuple(range(ends[0])), "x_sum": tuple(range(ends[1], rank))}
    made: Value = b.dot_general(b.cast(turned, dtype=WIDE), y, **{**at, **where})
    return made


def _is_last(value: Value, axes: Sequence[int]) -> bool:
    """Whether the last of the axes is the last that has more than one place."""
    long = [k for k, d in enumerate(value.shape) if dims.equal(d, 1) is not True]
    return not long or bool(axes) and axes[-1] == long[-1]
