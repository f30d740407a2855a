"""ordered: what adds numbers up stays an op of Paddle's, so that it adds them in eager
mode's order (`numerics="strict"`); decompose.py asks here of each op that it takes
apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pirol.compiler.ir import COMPLEX, FLOATS, Graph, Op
from pirol.prim import PRIMS

ORDERED = "ordered"  # the attribute of an op that is to keep eager's order
WHY = "numerics='strict': it adds up in eager mode's order"
SUMS = ("reduce_sum", "reduce_prod", "cumsum", "cumprod", "scatter_add", "window_sum")


def ordered(graph: Graph) -> Graph:
    """The graph, at level "pir", with its ops told to keep the order, in branches
    too."""
    return graph.with_ops(_told(op) for op in graph.ops)


def _told(op: Op) -> Op:
    branches = tuple(ordered(branch) for branch in op.branches)
    return replace(op, attrs={**op.attrs, ORDERED: True}, branches=branches)


def adds_up(ops: Iterable[Op]) -> bool:
    """Whether primitives, or those in calls, add up numbers that are rounded."""
    return any(
        _adds(op) or (op.body is not None and adds_up(op.body.ops)) for op in ops
    )


def sums(name: str) -> bool:
    """Whether a primitive adds numbers up, or multiplies many."""
    prim = PRIMS.get(name)
    return name in SUMS or (prim is not None and prim.kind == "contract")


def _adds(op: Op) -> bool:
    return sums(op.name) and op.results[0].dtype in (*FLOATS, *COMPLEX)
