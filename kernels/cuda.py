"""Schedules for CUDA: Nest -> Kernel.

In the order in which they are tried: what goes to places that data name (cuda_put.py,
cuda_sums.py, scatter.py), tiles of contractions (cuda_contract.py), transposes through
shared memory (cuda_turn.py); 16 bytes at a time pointwise work (cuda_vector.py), rows
in registers (cuda_held.py) and sums across memory (cuda_lanes.py); what takes elements
one by one (cuda_rows.py).
"""

from __future__ import annotations

from dataclasses import replace

from pirol.compiler.dims import product
from pirol.kernels import affine
from pirol.kernels.cuda_contract import tiles
from pirol.kernels.cuda_held import held
from pirol.kernels.cuda_lanes import has_room, lanes
from pirol.kernels.cuda_put import put_by_blocks
from pirol.kernels.cuda_rows import BLOCK, LANES, Lanes, Rows
from pirol.kernels.cuda_sums import sums_by_warps
from pirol.kernels.cuda_turn import turned
from pirol.kernels.cuda_vector import vectors
from pirol.kernels.kernel import Kernel
from pirol.kernels.nest import Load, Nest, index_of, plain_sums
from pirol.kernels.scatter import scatter_by_threads

FEW = 32  # a row of fewer elements is one thread's work
NARROW = 1 << 30  # what 32 bits hold, with room for what a schedule adds


def schedule(nest: Nest) -> Kernel:
    """The CUDA kernel of a nest."""
    return replace(_schedule(nest), narrow=narrow(nest))


def _schedule(nest: Nest) -> Kernel:
    placed = put_by_blocks(nest) or sums_by_warps(nest)
    placed = placed or scatter_by_threads(nest, BLOCK)
    if placed is not None:
        return placed
    tiled = tiles(nest)
    if tiled is not None:
        return tiled
    nest = plain_sums(nest)
    if not _block_a_row(nest):
        return turned(nest) or vectors(nest) or Rows(nest).kernel()
    along = _rows_along_memory(nest)
    if along is not None and has_room(along):
        return lanes(along) or Lanes(along).kernel()
    return held(nest)


def narrow(nest: Nest) -> bool:
    """Whether all indices are sure to fit in 32 bits."""
    extents = {a.name: a.extent for a in nest.axes}
    counts = [product(extents.values())]
    counts += [product(t.shape) for t in (*nest.inputs, *nest.outputs)]
    indices = [index_of(n) for n in nest.nodes] + [s.index for s in nest.stores]
    reaches = [affine.reach(i, extents, NARROW) for i in indices]
    few = all(isinstance(n, int) and n < NARROW for n in counts)
    return few and None not in reaches


def _rows_along_memory(nest: Nest) -> Nest | None:
    """The nest with the row axis last that loads of most of the elements run along, if
    there is one, and 32 rows or more."""
    loads = [
        (n.index, nest.reads(n))
        for n, element in zip(nest.nodes, nest.per_element)
        if isinstance(n, Load) and element
    ]
    last = nest.columns[-1].name
    across = [(i, size) for i, size in loads if not i.along(last)]
    votes = [sum(s for i, s in across if i.along(a.name)) for a in nest.rows]
    count = product(a.extent for a in nest.rows)
    few = isinstance(count, int) and count < LANES
    if few or 2 * max(votes, default=0) <= sum(size for _, size in loads):
        return None
    lane = nest.rows[votes.index(max(votes))]
    others = [a for a in nest.axes if a is not lane]
    rows = [*(a for a in others if not a.column), lane]
    return replace(nest, axes=(*rows, *nest.columns))


def _block_a_row(nest: Nest) -> bool:
    if not nest.columns or nest.in_order:
        return False
    extent = nest.columns[-1].extent
    return not isinstance(extent, int) or extent >= FEW
