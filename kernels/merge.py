"""Merge neighbouring loop axes that every access walks as one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pirol.compiler import dims
from pirol.kernels import affine
from pirol.kernels.affine import Affine
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
    for index in _indices(nest):
        if not (index.plain(outer.name) and index.plain(inner.name)):
            return False
        step = dims.mul(index.coefficient(inner.name), inner.extent)
        if dims.equal(index.coefficient(outer.name), step) is not True:
            return False
    return True


def _merge(nest: Nest, outer: Axis, inner: Axis) -> Nest:
    """One axis in place of two; it keeps the inner axis's name."""
    gone = {outer.name: affine.ZERO}
    merged = replace(inner, extent=dims.mul(outer.extent, inner.extent))
    axes = [merged if a is inner else a for a in nest.axes if a is not outer]

    nodes = (with_index(n, affine.substitute(index_of(n), gone)) for n in nest.nodes)
    stores = tuple(
        replace(s, index=affine.substitute(s.index, gone)) for s in nest.stores
    )
    return replace(nest, axes=tuple(axes), nodes=tuple(nodes), stores=stores)
