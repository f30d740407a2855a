"""Schedule for pointwise work on CUDA: a thread takes 16 bytes' worth of neighbours.

What lies in line along the last axis is loaded and stored as one access each; what does
not, one by one. Buffers begin at multiples of 16 bytes: the runtime sees to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.cuda_rows import over_rows
from pirol.kernels.emit import Emitter, axes_of, closure, unravel
from pirol.kernels.kernel import (
    Apply,
    Array,
    At,
    Expr,
    If,
    Kernel,
    Let,
    Loop,
    Move,
    Offset,
    Put,
    Stmt,
)
from pirol.kernels.nest import Axis, Load, Nest, Store

BYTES = 16  # an access
TURNS = 2  # accesses of a thread to each buffer, the loads one behind the other
MOST = 48  # registers for what is loaded and stored in one access
LONG = 2048  # statements; a longer text is not worth its compilation


@dataclass(frozen=True)
class Wide:
    """The accesses of a nest that take `width` elements along an axis at a time."""

    nest: Nest
    along: str
    width: int
    loads: tuple[int, ...]  # node numbers
    stores: tuple[Store, ...]

    def at(self, index: Affine, place: Affine) -> Affine:
        """An index where the axis is at a place."""
        return affine.substitute(index, {self.along: place})

    def fetch(self, k: int, array: str, to: Affine, place: Affine) -> Stmt:
        """Load a node's elements from `place` on into an array."""
        load = self.nest.nodes[k]
        assert isinstance(load, Load)
        source = (f"in{load.buffer}", self.at(load.index, place))
        return Move(load.dtype, self.width, (array, to), source)

    def put(self, store: Store, place: Affine) -> Stmt:
        """Store the elements from `place` on that an array holds."""
        dtype = self.nest.nodes[store.node].dtype
        to = (f"out{store.output}", self.at(store.index, place))
        return Move(dtype, self.width, to, (kept(store), affine.ZERO))

    def arrays(self, loads: Iterable[int], stores: Iterable[Store]) -> list[Stmt]:
        """Room for what these load and store."""
        nodes = self.nest.nodes
        found = [(f"x{k}", nodes[k].dtype) for k in loads]
        found += [(kept(s), nodes[s.node].dtype) for s in stores]
        return [Array(name, dtype, self.width, "local") for name, dtype in found]

    def base(self) -> list[int]:
        """The nodes that the loads' places need."""
        nodes = self.nest.nodes
        needed = [a for k in self.loads for a in self.nest.arguments(nodes[k])]
        return closure(self.nest, needed, ())


def kept(store: Store) -> str:
    """The array of what a store is to write."""
    return f"y{store.output}"


def wide(
    nest: Nest, last: Axis, open_end: bool = False, most: int = BYTES
) -> Wide | None:
    """The accesses that may go several elements at a time, `most` of them, if any;
    `open_end`: the axis may end within them."""
    loads = {
        k: n
        for k, n in enumerate(nest.nodes)
        if isinstance(n, Load) and n.guard is None and _in_line(n.index, last.name)
    }
    loads = {k: n for k, n in loads.items() if _steady(nest, n, last.name)}
    stores = [s for s in nest.stores if _in_line(s.index, last.name)]
    bits = [BITS[n.dtype] for n in loads.values()]
    bits += [BITS[nest.nodes[s.node].dtype] for s in stores]
    width = min(most, BYTES * 8 // max(bits, default=128))
    while width > 1:
        some = tuple(k for k, n in loads.items() if is_even(n.index, last.name, width))
        puts = tuple(s for s in stores if is_even(s.index, last.name, width))
        words = sum(BITS[nest.nodes[k].dtype] for k in some)
        words += sum(BITS[nest.nodes[s.node].dtype] for s in puts)
        whole = open_end or dims.multiple(last.extent, width)
        small = words * width <= MOST * 32 and len(nest.nodes) * width <= LONG
        if whole and small and (some or puts):
            return Wide(nest, last.name, width, some, puts)
        width //= 2
    return None


def _in_line(index: Affine, along: str) -> bool:
    return dims.equal(index.coefficient(along), 1) is True and index.plain(along)


def _steady(nest: Nest, load: Load, along: str) -> bool:
    """Whether what names the load's place is the same all along the axis."""
    return all(along not in axes_of(nest, k) for k in load.index.data())


def is_even(index: Affine, along: str, width: int) -> bool:
    """Whether the index is a multiple of the width where the axis is at one."""
    steps = [c for atom, c in index.terms if atom != along]
    return all(dims.multiple(c, width) for c in (*steps, index.const))


def vectors(nest: Nest) -> Kernel | None:
    """The kernel of a nest that reduces nothing, where some access is worth it."""
    if nest.reduces or len(nest.rows) < 1:
        return None
    last = nest.rows[-1]
    found = wide(nest, last, open_end=len(nest.rows) == 1)
    return None if found is None else _kernel(found, last)


def _kernel(found: Wide, last: Axis) -> Kernel:
    nest, width = found.nest, found.width
    units = Axis("unit", dims.ceildiv(last.extent, width), False)
    axes = (*nest.rows[:-1], units)
    body = unravel([a.name for a in axes], replace(nest, axes=axes), "r")
    first = affine.scale(axis("unit"), width)
    whole = several(found, first)
    if dims.multiple(last.extent, width):
        body += whole
    else:
        end = affine.add(first, constant(width))
        body.append(If(_compare("le", end, last.extent), tuple(whole)))
        rest = Loop(last.name, first, constant(last.extent), tuple(_each(nest)))
        body.append(If(_compare("gt", end, last.extent), (rest,)))
    return over_rows(nest, body, product(a.extent for a in axes), turns=TURNS)


def _compare(prim: str, value: Affine, bound: Dim) -> Expr:
    return Apply(prim, (Offset(value), Offset(constant(bound))), "int64", "bool")


def several(
    found: Wide, first: Affine, more: Mapping[int, Expr] = MappingProxyType({})
) -> list[Stmt]:
    """The elements from `first` on: loads, the work on each, stores; `more`: nodes that
    have been loaded already."""
    nest, base = found.nest, found.base()
    have: dict[int, Expr] = {k: At(f"x{k}", axis("e")) for k in found.loads}
    have |= more
    place = affine.add(first, axis("e"))
    one: list[Stmt] = [Let(found.along, "index", Offset(place))]
    one += _each(nest, have, base, found.stores)
    each = Loop("e", affine.ZERO, constant(found.width), tuple(one), unroll=found.width)
    return [
        *Emitter(nest).lets(base),
        *found.arrays(found.loads, found.stores),
        *(found.fetch(k, f"x{k}", affine.ZERO, first) for k in found.loads),
        each,
        *(found.put(s, first) for s in found.stores),
    ]


def _each(
    nest: Nest,
    have: dict[int, Expr] | None = None,
    done: Iterable[int] = (),
    apart: Sequence[Store] = (),
) -> list[Stmt]:
    """The work on an element; what the stores `apart` take is put into arrays."""
    emitter = Emitter(nest, have or {}, set(done))
    targets = [s.node for s in nest.stores]
    found = emitter.lets(closure(nest, targets, [*emitter.have, *done]))
    for store in nest.stores:
        if store in apart:
            found.append(Put(kept(store), axis("e"), emitter.ref(store.node)))
        else:
            found.append(emitter.put(store))
    return found
