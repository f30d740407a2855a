"""The reference interpreter: a graph on NumPy arrays, op by op.

`interpret(graph, [x]) -> [outputs]`; bodies of calls and groups are run in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pirol.compiler.autodiff import Level, branch_gradient
from pirol.compiler.dims import evaluate
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import DTYPES, HALVES, Graph, Op, Value
from pirol.compiler.loops import loop, loop_gradient
from pirol.prim import PRIMS
from pirol.prim.prim import widened

Opaque = Callable[[Op, Sequence[Any]], Sequence[Any]]


def interpret(
    graph: Graph,
    inputs: Sequence[Any],
    *,
    opaque: Opaque | None = None,
    results: bool = False,
) -> list[Any]:
    """The graph's outputs (with `results`, its written values behind them).

    Inputs are arrays of the inputs' dtypes; symbols are read off their shapes.
    `opaque` runs the ops that have no NumPy meaning here.
    """
    run = _Run(opaque, bind_symbols(graph, [np.shape(x) for x in inputs]))
    with np.errstate(all="ignore"):
        env = run.graph(graph, inputs)
    return [env[v] for v in (graph.results if results else graph.outputs)]


def bind_symbols(graph: Graph, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """Each symbol's value, from the inputs whose dim it is."""
    found: dict[str, int] = {}
    for value, shape in zip(graph.inputs, shapes):
        for dim, size in zip(value.shape, shape):
            if not isinstance(dim, int) and dim.is_Symbol:
                found.setdefault(dim.name, int(size))
    return found


class _Run:
    def __init__(self, opaque: Opaque | None, symbols: dict[str, int]) -> None:
        self.opaque = opaque
        self.symbols = symbols

    def graph(self, graph: Graph, inputs: Sequence[Any]) -> dict[Value, Any]:
        env: dict[Value, Any] = dict(zip(graph.inputs, inputs))
        for op in graph.ops:
            results = self.op(op, [env[v] for v in op.operands])
            self.bind(op, results)
            env.update(zip(op.results, results))
        return env

    def op(self, op: Op, operands: Sequence[Any]) -> Sequence[Any]:
        if op.body is not None:
            env = self.graph(op.body, operands)
            return [env[v] for v in op.body.outputs]
        if op.branches:
            return self.control(op, operands)
        if op.name not in PRIMS or op.attrs.get("effect"):
            if self.opaque is None:
                raise Unsupported(f"{op.title} has no NumPy meaning here")
            return self.opaque(op, operands)
        if op.name == "bind":
            self.bind_items(op, operands[0])
        attrs = {k: self.attr(v) for k, v in op.attrs.items()}
        if widened(op.name):
            operands = [
                np.asarray(x, np.float32) if v.dtype in HALVES else x
                for x, v in zip(operands, op.operands)
            ]
        found = PRIMS[op.name].numpy(*operands, **attrs)
        found = found if isinstance(found, tuple) else (found,)
        return [
            np.asarray(x, dtype=DTYPES[r.dtype][1]) for x, r in zip(found, op.results)
        ]

    def control(self, op: Op, operands: Sequence[Any]) -> Sequence[Any]:
        goes, *values = operands
        if op.name == "pd_op.if":
            branch = op.branches[0 if goes else 1]
            levels = op.attrs.get("gradient", ())
            return self.branch(branch_gradient(branch, levels), values)
        (body,) = op.branches

        def bodies(levels: Sequence[Level]) -> Any:
            return functools.partial(self.branch, branch_gradient(body, levels))

        if "gradient" not in op.attrs:
            return loop(op, bodies(()))(*operands)
        return loop_gradient(op, bodies, np.zeros_like)(*operands)

    def branch(self, graph: Graph, operands: Sequence[Any]) -> list[Any]:
        """A branch's outputs; its symbols are its own."""
        inner = _Run(self.opaque, bind_symbols(graph, [np.shape(x) for x in operands]))
        env = inner.graph(graph, operands)
        return [env[v] for v in graph.outputs]

    def bind(self, op: Op, results: Sequence[Any]) -> None:
        for value, array in zip(op.results, results):
            for dim, size in zip(value.shape, np.shape(array)):
                if not isinstance(dim, int) and dim.is_Symbol:
                    self.symbols.setdefault(dim.name, int(size))

    def bind_items(self, op: Op, array: Any) -> None:
        for item, number in zip(op.attrs["items"], np.reshape(array, -1).tolist()):
            if not isinstance(item, int):
                self.symbols.setdefault(item.name, max(number, 0))

    def attr(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(map(self.attr, value))
        if isinstance(value, (int, float, str, bool, complex)) or value is None:
            return value
        return evaluate(value, self.symbols)


Symbols = Mapping[str, int]
