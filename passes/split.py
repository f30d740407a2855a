"""split: long reductions to few results as two, so that many CUDA blocks share them.

x [.., n, ..] is padded to slices * m, reduced within each slice, and then over those.
How many slices depends on the shape alone, so sums have one order on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.compiler.ir import DTYPES, Graph, Op, Value
from pirol.prim import Builder
from pirol.prim.builder import rewritten
from pirol.prim.reduce import highest, lowest

BLOCKS = 512  # that a reduction along memory should keep busy; across, twice as many
FEW = 128  # blocks; where there are more, they are shared out
LANES, SIDE = (
    32,
    128,
)  # results for a warp's lanes, and those that a block has where memory runs along them
LONG = 1 << 14  # terms along memory that are worth a second kernel
HIGH, LEAST = 1 << 10, 1 << 7  # the same across, and terms that a slice has


def split_reductions(graph: Graph) -> Graph:
    """The graph with its long reductions in two steps; sizes that are not known count
    as long."""
    return rewritten(graph, _halves)


def _axis(op: Op) -> tuple[int, int] | None:
    """The axis to cut, the longest of those reduced, and how many slices, if that
    pays."""
    if op.name not in IDENTITY:
        return None
    shape, axes = op.operands[0].shape, op.attrs["axes"]
    kept = product(d for k, d in enumerate(shape) if k not in axes)
    terms = product(shape[k] for k in axes)
    if not isinstance(kept, int):
        return None
    across = len(shape) - 1 not in axes and kept >= LANES
    blocks, wanted, long = kept, BLOCKS, LONG
    if across:
        blocks, wanted, long = -(-kept // SIDE), 2 * BLOCKS, HIGH
    if not 0 < blocks < FEW or (isinstance(terms, int) and terms < long):
        return None
    slices = wanted // blocks
    if across and isinstance(terms, int):
        slices = min(slices, terms // LEAST)
    lengths = {k: d if isinstance(d, int) else LONG for k, d in enumerate(shape)}
    longest: int = max(axes, key=lengths.__getitem__)
    return longest, min(slices, max(lengths[longest], 1))


def _halves(b: Builder, op: Op) -> Value | None:
    """The op in two steps, if that pays."""
    found = _axis(op)
    if found is None:
        return None
    axis, slices = found
    x, axes = op.operands[0], op.attrs["axes"]
    each = dims.ceildiv(x.shape[axis], slices)
    cut = _cut(b, op, axis, dims.mul(slices, each), (slices, each))
    reduce = getattr(b, op.name)
    inner = tuple(k + (k >= axis) for k in axes)
    part = reduce(cut, axes=inner)
    place = sum(k not in axes for k in range(axis))
    return reduce(part, axes=(place,))  # type: ignore[no-any-return]


def _cut(b: Builder, op: Op, axis: int, whole: Dim, parts: Sequence[Dim]) -> Value:
    """The operand with its axis padded to `whole` and then as two axes."""
    x = op.operands[0]
    missing = dims.sub(whole, x.shape[axis])
    if dims.equal(missing, 0) is not True:
        none = (0,) * x.type.rank
        high = tuple(missing if k == axis else 0 for k in range(x.type.rank))
        value = IDENTITY[op.name](DTYPES[x.dtype][1])
        x = b.pad(x, low=none, high=high, interior=none, value=value)
    shape = (*x.shape[:axis], *parts, *x.shape[axis + 1 :])
    return b.reshape(x, shape=shape)  # type: ignore[no-any-return]


IDENTITY = {
    "reduce_sum": lambda kind: 0,
    "reduce_prod": lambda kind: 1,
    "reduce_max": lowest,
    "reduce_min": highest,
}
