"""Which loops a reduction runs over, and which of them are its rows."""

from __future__ import annotations

from dataclasses import dataclass

from pirol.compiler import dims
from pirol.compiler.dims import Shape, same_shape
from pirol.compiler.ir import Op
from pirol.prim.contract import COMPILED

REDUCTIONS = {
    "reduce_sum": "sum",
    "reduce_prod": "prod",
    "reduce_max": "max",
    "reduce_min": "min",
}
SCANS = {"cumsum": "sum", "cumprod": "prod", "cummax": "max", "cummin": "min"}
WINDOWS = {"window_sum": "sum", "window_max": "max"}
# What writes at places that data name: which operand has the elements.
SCATTERS = {"scatter_add": 0, "put": 1}


@dataclass(frozen=True)
class Domain:
    """The shapes that the loops run over: one point a row, one per element."""

    rows: Shape
    full: Shape
    columns: tuple[int, ...]  # the dims of `full` that are reduced


def reduced(op: Op) -> Domain | None:
    """The loops of an op that reduces; None of another."""
    if op.name in REDUCTIONS:
        full, columns = op.operands[0].shape, tuple(op.attrs["axes"])
        return Domain(op.result.shape, full, columns)
    if op.name in WINDOWS:
        rows, window = op.results[0].shape, tuple(op.attrs["window"])
        columns = tuple(range(len(rows), len(rows) + len(window)))
        return Domain(rows, rows + window, columns)
    if op.name in SCANS:
        full, axis = op.result.shape, op.attrs["axis"]
        return Domain((*full[:axis], *full[axis + 1 :]), full, (axis,))
    if op.name in SCATTERS:
        full, kept = op.operands[SCATTERS[op.name]].shape, op.attrs["dims"]
        columns = tuple(k for k in range(len(full)) if k not in kept)
        return Domain(
            tuple(full[k] for k in range(len(full)) if k in kept), full, columns
        )
    if op.name in COMPILED:
        rows, summed = contracted(op)
        columns = tuple(range(len(rows), len(rows) + len(summed)))
        return Domain(rows, rows + summed, columns)
    return None


def contracted(op: Op) -> tuple[Shape, Shape]:
    """The dims that a contraction's loops run over: its rows, and what is summed.

    The rows of a conv are [N, groups, O / groups, ...].
    """
    x, w = (v.shape for v in op.operands)
    if op.name == "dot_general":
        return op.result.shape, tuple(x[k] for k in op.attrs["x_sum"])
    groups, (n, out, *rest) = op.attrs["groups"], op.result.shape
    return (n, groups, dims.floordiv(out, groups), *rest), w[1:]


def same_domain(a: Domain, b: Domain) -> bool:
    """Whether two are proved equal."""
    return a.columns == b.columns and same_shape(a.full, b.full)
