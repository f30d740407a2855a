"""Lanes whose loads lie apart: a tile's are first brought together, one by one.

gcc makes vectors of what is done with the elements then, whether or not the target has
gathers. Loads at places that data name come in levels: what names the places of one may
itself be loaded by the level before.
"""

from __future__ import annotations

from collections.abc import Sequence

from pirol.kernels import affine
from pirol.kernels.affine import constant
from pirol.kernels.emit import Emitter, Passes, axes_of, closure
from pirol.kernels.kernel import Array, At, Expr, Let, Put, Ref, Stmt
from pirol.kernels.nest import Load, Nest, Scalar, index_of
from pirol.kernels.tile import Tile, row_stores
from pirol.prim import PRIMS

WORTH = 3  # the cost of what is done with each load that is worth bringing it near


def with_gaps(nest: Nest, lane: str) -> list[int]:
    """The loads at a step: so as not to read beyond, gcc does their last ones in the
    rest of a loop, where library functions may give other bits."""
    loads = {k: n for k, n in enumerate(nest.nodes) if isinstance(n, Load)}
    places = {(n.buffer, n.index) for n in loads.values() if n.guard is None}
    found = []
    for k, load in loads.items():
        step = load.index.coefficient(lane)
        beside = [affine.add(load.index, constant(by)) for by in (1, -1)]
        pair = step == 2 and any((load.buffer, at) in places for at in beside)
        if isinstance(step, int) and abs(step) > 1 and load.guard is None and not pair:
            found.append(k)
    return found


def lines(nest: Nest, lane: str) -> list[int]:
    """The nodes that say which lines are loaded along the lanes: the same for all."""
    named = {d for n in nest.nodes for d in index_of(n).data()}
    return closure(nest, [d for d in named if lane not in axes_of(nest, d)], ())


def scattered(nest: Nest, lane: str) -> list[int]:
    """The loads at places that data name for each lane, if enough is done with them."""
    found = [
        k
        for k, n in enumerate(nest.nodes)
        if isinstance(n, Load) and any(lane in axes_of(nest, d) for d in n.index.data())
    ]
    after, work = {*found}, 0
    for k, n in enumerate(nest.nodes):
        if isinstance(n, Scalar) and not after.isdisjoint(n.args):
            after.add(k)
            work += PRIMS[n.prim].cost
    return found if work >= WORTH * len(found) else []


def needed(nest: Nest, loads: Sequence[int]) -> list[int]:
    """The nodes that say where the loads lie, and whether they are there."""
    nodes = [nest.nodes[k] for k in loads]
    guards = [n.guard for n in nodes if isinstance(n, Load) and n.guard is not None]
    return [*dict.fromkeys([d for n in nodes for d in index_of(n).data()] + guards)]


def brought_together(
    nest: Nest, passes: Passes, loads: Sequence[int], tile: Tile
) -> list[Stmt]:
    """The row stores of a tile."""
    nodes, place, have = nest.nodes, tile.place(), dict[int, Expr]()
    found: list[Stmt] = []

    def put(kept: Sequence[int]) -> None:
        """What is computed of these nodes, into arrays."""
        emitter, names = Emitter(nest, dict(have)), [f"lane{k}" for k in kept]
        body = emitter.lets(closure(nest, kept, have))
        body += [Put(name, place, emitter.ref(k)) for name, k in zip(names, kept)]
        found.extend(
            Array(n, nodes[k].dtype, tile.size, "local") for n, k in zip(names, kept)
        )
        found.append(tile.lanes(body))
        have.update({k: At(name, place) for name, k in zip(names, kept)})

    for level in levels(nest, loads):
        named = needed(nest, level)
        kept = [k for k in named if k not in have]
        if kept:
            put(kept)
        emitter = Emitter(nest, {d: Ref(f"v{d}") for d in named})
        body: list[Stmt] = [Let(f"v{d}", nodes[d].dtype, have[d]) for d in named]
        body += [Put(f"near{k}", place, emitter.value(nodes[k])) for k in level]
        found += [Array(f"near{k}", nodes[k].dtype, tile.size, "local") for k in level]
        found.append(tile.lanes(body))
        have |= {k: At(f"near{k}", place) for k in level}
    return [*found, tile.lanes(row_stores(nest, passes, have))]


def levels(nest: Nest, loads: Sequence[int]) -> list[list[int]]:
    """The loads, those first that need none of the others."""
    level: dict[int, int] = {}
    for k in sorted(loads):
        behind = closure(nest, needed(nest, [k]), ())
        level[k] = max((level[d] + 1 for d in behind if d in level), default=0)
    return [[k for k in level if level[k] == n] for n in sorted({*level.values()})]
