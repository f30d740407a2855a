"""turns: a product that is only read transposed -> the product of its operands, turned.

transpose(dot_general(x, y)) -> dot_general(y, x)

So its elements lie as their reader takes them, and what is kept for backward as well.
"""

from __future__ import annotations

from dataclasses import replace

from pirol.compiler.ir import Graph, Op, Value


def turns(graph: Graph) -> Graph:
    """The graph with such products turned; the same object where there are none."""
    users, ends = graph.users(), set(graph.results)
    makers = {op.result: op for op in graph.ops if op.name == "dot_general"}
    gone: set[Value] = set()
    ops = []
    for op in graph.ops:
        dot = makers.get(op.operands[0]) if op.name == "transpose" else None
        if dot is not None and (dot.result in ends or len(users[dot.result]) > 1):
            dot = None
        if dot is not None and tuple(op.attrs["perm"]) == _exchange(dot):
            gone.add(dot.result)
            op = _turned(dot, op)
        ops.append(op)
    if not gone:
        return graph
    return graph.with_ops(op for op in ops if gone.isdisjoint(op.results))


def _exchange(dot: Op) -> tuple[int, ...]:
    """The permutation of a product's dims that puts y's own before x's."""
    batch, count = len(dot.attrs["x_batch"]), dot.result.type.rank
    own = dot.operands[0].type.rank - batch - len(dot.attrs["x_sum"])
    first, second = range(batch, batch + own), range(batch + own, count)
    return (*range(batch), *second, *first)


def _turned(dot: Op, transpose: Op) -> Op:
    """The product of y and x, in the transpose's place."""
    attrs = {
        **{f"x_{part}": dot.attrs[f"y_{part}"] for part in ("batch", "sum")},
        **{f"y_{part}": dot.attrs[f"x_{part}"] for part in ("batch", "sum")},
    }
    x, y = dot.operands
    return replace(dot, operands=(y, x), attrs=attrs, results=transpose.results)
