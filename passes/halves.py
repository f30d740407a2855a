"""halves: what is computed of float16 and bfloat16 is computed in float32.

Each primitive's operands are widened, and its results rounded to nearest: its own
meaning, so that a value is the same whichever kernel computes it. What only moves,
chooses or names elements takes halves as they are. Behind the pass a kernel loads,
stores and converts halves, and a library's product reads what has been widened.
"""

from __future__ import annotations

from collections.abc import Sequence

from pirol.compiler.ir import HALVES, Graph, Op, Value
from pirol.prim import Builder
from pirol.prim.builder import rewritten
from pirol.prim.prim import WIDE, widened


def halves(graph: Graph) -> Graph:
    """The graph with no primitive on halves but casts from and to float32, constants
    and what moves them."""
    values = (*graph.inputs, *(r for op in graph.ops for r in op.results))
    return rewritten(graph, _wide) if any(map(_half, values)) else graph


def _wide(b: Builder, op: Op) -> Sequence[Value] | None:
    ends = (*op.operands, *op.results)
    if not any(map(_half, ends)) or not widened(op.name):
        return None
    if op.name == "cast" and WIDE in (v.dtype for v in ends):
        return None
    if op.name == "const" and isinstance(op.attrs["value"], (int, float)):
        return None
    wide = [_widened(b, v) if _half(v) else v for v in op.operands]
    attrs = {k: WIDE if v in HALVES else v for k, v in op.attrs.items()}
    pairs = zip(b.emit(op.name, wide, attrs).results, op.results)
    return [b.cast(v, dtype=r.dtype) if _half(r) else v for v, r in pairs]


def _widened(b: Builder, value: Value) -> Value:
    """The half as float32; what is repeated is widened once."""
    source = b.producers.get(value)
    if source is None or source.name != "broadcast":
        found: Value = b.cast(value, dtype=WIDE)
        return found
    return b.one("broadcast", _widened(b, source.operands[0]), **source.attrs)


def _half(value: Value) -> bool:
    return value.dtype in HALVES
