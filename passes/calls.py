"""claim and inline: which calls a library takes, and what becomes of the rest.

claim marks calls (`claimed` = who runs them); inline expands all others.
"""

from __future__ import annotations

from dataclasses import replace

from pirol.compiler.ir import Graph, Op, Value, rename
from pirol.prim import PRIMS
from pirol.prim.contract import COMPILED, COMPILED_IN


def claim(graph: Graph) -> Graph:
    """Mark the calls whose bodies hold a contraction that Paddle's library runs."""
    return graph.with_ops(_claimed(op) for op in graph.ops)


def _claimed(op: Op) -> Op:
    if op.name != "call" or op.body is None or "claimed" in op.attrs:
        return op
    library = any(map(_needs_library, op.body.walk()))
    return replace(op, attrs={**op.attrs, "claimed": "paddle"}) if library else op


def _needs_library(op: Op) -> bool:
    contracts = op.name in PRIMS and PRIMS[op.name].kind == "contract"
    return contracts and (
        op.operands[0].dtype not in COMPILED_IN or not _has_kernel(op)
    )


def _has_kernel(op: Op) -> bool:
    """Whether kernels compute it, or `conv_grads` makes of it what they do."""
    if op.name == "conv_input_grad":
        return all(isinstance(k, int) for k in op.operands[1].shape[2:])
    return op.name in (*COMPILED, "conv_weight_grad")


def inline(graph: Graph) -> Graph:
    """Expand every call that nobody claimed; its ops keep the call's source line."""
    ops: list[Op] = []
    replaced: dict[Value, Value] = {}
    for op in graph.ops:
        operands = tuple(replaced.get(v, v) for v in op.operands)
        if op.name != "call" or op.body is None or "claimed" in op.attrs:
            ops.append(replace(op, operands=operands))
            continue
        inner = inline(op.body)
        env = dict(zip(inner.inputs, operands))
        for step in inner.ops:
            ops.append(_copy(step, env, op.line))
        outputs = [env.get(v, v) for v in inner.outputs]
        replaced.update(zip(op.results, outputs))
    return rename(graph.with_ops(ops), replaced)


def _copy(op: Op, env: dict[Value, Value], line: str) -> Op:
    """The op with fresh results: one body may stand behind several calls."""
    results = tuple(Value(r.type) for r in op.results)
    operands = tuple(env.get(v, v) for v in op.operands)
    env.update(zip(op.results, results))
    return replace(op, operands=operands, results=results, line=line or op.line)
