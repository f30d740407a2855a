"""Merge neighbouring loop axes that every access walks as one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pirol.compiler import dims
from pirol.kernels import affine
from pirol.kernels.affine import Affine, Quotient, Remainder
from pirol.kernels.nest import Axis, Nest, index_of, with_index


def merge_axes(nest: Nest, apart: Collection[str] = ()) -> Nest:
    """The nest with as few axes as its accesses allow; none of those named merges with
    one that is not."""
    while True:
        pairs = (p for p in _neighbours(nest) if _alike(p, apart))
        pair = next((p for p in pairs if _mergeable(nest, *p)), None)
        if pair is None:
            return nest
        nest = _merge(nest, *pair)


def join_short(nest: Nest, least: int) -> Nest:
    """The nest with at least so many of its last row axis, where that axis and the one
    before are one for all stores: what loads need of either is then computed."""
    while len(nest.rows) > 1:
        outer, inner = nest.rows[-2:]
        if not isinstance(inner.extent, int) or inner.extent >= least:
            break
        if not all(_as_one(s.index, outer, inner) for s in nest.stores):
            break
        nest = _merge(nest, outer, inner)
    return nest


def _neighbours(nest: Nest) -> list[tuple[Axis, Axis]]:
    pairs = []
    for axes in (nest.rows, nest.columns):
        pairs += list(zip(axes, axes[1:]))
    return pairs


def _alike(pair: tuple[Axis, Axis], apart: Collection[str]) -> bool:
    outer, inner = (a.name in apart for a in pair)
    return outer == inner


def _indices(nest: Nest) -> list[Affine]:
    return [s.index for s in nest.stores] + [index_of(n) for n in nest.nodes]


def _mergeable(nest: Nest, outer: Axis, inner: Axis) -> bool:
    return all(_as_one(index, outer, inner) for index in _indices(nest))


def _as_one(index: Affine, outer: Axis, inner: Axis) -> bool:
    """Whether it goes by both axes as by one."""
    if not (index.plain(outer.name) and index.plain(inner.name)):
        return False
    step = dims.mul(index.coefficient(inner.name), inner.extent)
    return dims.equal(index.coefficient(outer.name), step) is True


def _merge(nest: Nest, outer: Axis, inner: Axis) -> Nest:
    """One axis in place of two; it keeps the inner axis's name."""
    merged = replace(inner, extent=dims.mul(outer.extent, inner.extent))
    axes = [merged if a is inner else a for a in nest.axes if a is not outer]
    both = affine.axis(inner.name)
    parts = {
        outer.name: Affine(((Quotient(both, inner.extent), 1),)),
        inner.name: Affine(((Remainder(both, inner.extent), 1),)),
    }

    def joined(index: Affine) -> Affine:
        one = _as_one(index, outer, inner)
        return affine.substitute(index, {outer.name: affine.ZERO} if one else parts)

    nodes = (with_index(n, joined(index_of(n))) for n in nest.nodes)
    stores = tuple(replace(s, index=joined(s.index)) for s in nest.stores)
    return replace(nest, axes=tuple(axes), nodes=tuple(nodes), stores=stores)
