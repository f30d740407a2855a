"""Schedule for transposes on CUDA: through square tiles in shared memory.

A block reads a tile along the axis that the loads are contiguous along, and then works
and stores along the last axis. What is of 16 bits, and of even sizes, goes
four elements at a time (cuda_quads.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pirol.compiler import dims
from pirol.compiler.dims import product
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.cuda_contract import below
from pirol.kernels.cuda_quads import quads
from pirol.kernels.cuda_rows import BLOCK, ROOM, over_rows
from pirol.kernels.emit import Emitter, closure, unravel
from pirol.kernels.kernel import (
    Array,
    At,
    Barrier,
    Expr,
    If,
    Kernel,
    Let,
    Loop,
    Offset,
    Put,
    Stmt,
)
from pirol.kernels.nest import Axis, Nest
from pirol.kernels.turn import is_long, read_along

SIDES = (64, 32)  # elements of a tile's side, the first for which there is room


def turned(nest: Nest) -> Kernel | None:
    """The kernel of a nest that reduces nothing and has loads to be turned."""
    if nest.reduces or len(nest.rows) < 2:
        return None
    inner = nest.rows[-1]
    straight = all(s.index.coefficient(inner.name) == 1 for s in nest.stores)
    if not straight or not is_long(inner):
        return None
    found = {a: read_along(nest, a, inner) for a in nest.rows[:-1]}
    along = max(found, key=lambda a: len(found[a]))
    loads = found[along]
    bits = sum(BITS[nest.nodes[k].dtype] for k in loads)
    sides = [n for n in SIDES if n * (n + 1) * bits // 8 <= ROOM]
    if not loads or not sides:
        return None
    four = quads(nest, inner, along, loads)
    return four or _kernel(nest, inner, along, loads, sides[0])


def _kernel(
    nest: Nest, inner: Axis, along: Axis, loads: Sequence[int], side: int
) -> Kernel:
    outer = [a for a in nest.rows if a not in (inner, along)]
    blocks = [
        Axis(name, dims.ceildiv(of.extent, side), False)
        for name, of in (("high", along), ("wide", inner))
    ]
    axes = (*outer, *blocks)
    body = unravel([a.name for a in axes], replace(nest, axes=axes), "r")
    turns = side * side // BLOCK
    item = affine.add(affine.scale(axis("k"), BLOCK), axis("thread"))
    down, across = affine.divide(item, side, {"k": turns, "thread": BLOCK})

    def each(high: Affine, wide: Affine, stmts: Sequence[Stmt]) -> Stmt:
        """Statements for a tile's elements, each at a place along and across."""
        ends = ((along, "high", high), (inner, "wide", wide))
        lets, inside = [], []
        for of, block, place in ends:
            at = affine.add(affine.scale(axis(block), side), place)
            lets.append(Let(of.name, "index", Offset(at)))
            if not (isinstance(of.extent, int) and of.extent % side == 0):
                inside.append(below(axis(of.name), of.extent))
        work = tuple(stmts)
        for condition in inside:
            work = (If(condition, work),)
        loop = (*lets, *work)
        return Loop("k", affine.ZERO, constant(turns), loop, unroll=turns)

    def slot(high: Affine, wide: Affine) -> Affine:
        return affine.add(affine.scale(wide, side + 1), high)

    nodes = nest.nodes
    fill = [
        Put(f"t{k}", slot(across, down), Emitter(nest).value(nodes[k])) for k in loads
    ]
    have: dict[int, Expr] = {k: At(f"t{k}", slot(down, across)) for k in loads}
    emitter = Emitter(nest, have)
    needed = closure(nest, [s.node for s in nest.stores], have)
    work = [*emitter.lets(needed), *map(emitter.put, nest.stores)]
    body += [
        each(across, down, fill),
        Barrier(),
        each(down, across, work),
        Barrier(),
    ]
    size = side * (side + 1)
    shared = [Array(f"t{k}", nodes[k].dtype, size, "shared") for k in loads]
    count = product(a.extent for a in axes)
    return replace(over_rows(nest, body, count, shared), team=BLOCK)
