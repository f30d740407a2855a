"""Schedule for sums across memory on CUDA: a block takes 32 times 16 bytes of rows.

Each lane of a warp adds up some neighbouring rows, which it loads as one access; the
block's warps share out the elements, and are joined through shared memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pirol.compiler import dims
from pirol.compiler.dims import product
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.cuda_contract import below, both
from pirol.kernels.cuda_rows import BLOCK, LANES, ROOM, WARPS, join, over_rows
from pirol.kernels.cuda_vector import Wide, wide
from pirol.kernels.emit import (
    Emitter,
    Passes,
    closure,
    column_loops,
    identity,
    unravel,
)
from pirol.kernels.kernel import (
    Array,
    At,
    Barrier,
    Expr,
    If,
    Kernel,
    Let,
    Loop,
    Num,
    Offset,
    Put,
    Ref,
    Set,
    Stmt,
    Var,
)
from pirol.kernels.nest import Axis, Nest, Reduce

RESIDENT = 2048  # threads at once: as many as there may be, for their loads
AHEAD = 4  # elements whose loads come one behind the other


def lanes(nest: Nest) -> Kernel | None:
    """The kernel of a nest whose rows lie in line along the last row axis, if it goes
    over its elements once and stores rows alone."""
    passes, last = Passes(nest), nest.rows[-1]
    if len(passes.passes) != 1 or len(passes.row_stores) < len(nest.stores):
        return None
    found = wide(nest, last)
    if found is None or not found.loads:
        return None
    if not has_room(nest, found.width):
        return None
    return _Lanes(replace(found, stores=()), last, passes).kernel()


def has_room(nest: Nest, width: int = 1) -> bool:
    """Whether shared memory holds so many parts a thread of all reductions."""
    sums = sum(BITS[n.dtype] for n in nest.nodes if isinstance(n, Reduce))
    return bool(sums // 8 * width * BLOCK <= ROOM)


@dataclass(frozen=True)
class _Lanes:
    wide: Wide
    last: Axis
    passes: Passes

    @property
    def nest(self) -> Nest:
        """What is computed."""
        return self.wide.nest

    @property
    def side(self) -> int:
        """How many rows a block takes."""
        return LANES * self.wide.width

    @property
    def reduces(self) -> list[int]:
        """The node numbers of the reductions."""
        return self.passes.passes[0][0]

    def kernel(self) -> Kernel:
        """The whole kernel."""
        nest = self.nest
        blocks = Axis("block", dims.ceildiv(self.last.extent, self.side), False)
        axes = (*nest.rows[:-1], blocks)
        nodes = nest.nodes
        body = [
            *unravel([a.name for a in axes], replace(nest, axes=axes), "r"),
            *(
                Array(f"acc{k}", nodes[k].dtype, self.wide.width, "local")
                for k in self.reduces
            ),
            self.every(
                [Put(f"acc{k}", axis("e"), self.start(k)) for k in self.reduces]
            ),
            Let("first", "index", Offset(self.place(self.own))),
            If(below(axis("first"), self.last.extent), (self.columns(),)),
            self.every([self.share(k) for k in self.reduces]),
            Barrier(),
            Let("row", "index", Offset(self.place(axis("thread")))),
            If(self.whole(), tuple(self.finish())),
            Barrier(),
        ]
        shared = [
            Array(f"shared{k}", nodes[k].dtype, WARPS * self.side, "shared")
            for k in self.reduces
        ]
        kernel = over_rows(nest, body, product(a.extent for a in axes), shared)
        return replace(kernel, team=BLOCK, resident=RESIDENT // BLOCK)

    @property
    def own(self) -> Affine:
        """A lane's first row in its block."""
        return affine.scale(axis("lane"), self.wide.width)

    def place(self, within: Affine) -> Affine:
        """A place of the block on the last row axis."""
        return affine.add(affine.scale(axis("block"), self.side), within)

    def whole(self) -> Expr:
        """Whether the thread has a row."""
        inside = below(axis("thread"), self.side), below(axis("row"), self.last.extent)
        return both(*inside)

    def reduce(self, k: int) -> Reduce:
        """A reduction."""
        node = self.nest.nodes[k]
        assert isinstance(node, Reduce)
        return node

    def start(self, k: int) -> Num:
        """What a reduction begins with."""
        return identity(self.reduce(k).kind, self.reduce(k).dtype)

    def every(self, body: Iterable[Stmt]) -> Stmt:
        """Statements for each of a lane's rows."""
        width = self.wide.width
        return Loop("e", affine.ZERO, constant(width), tuple(body), unroll=width)

    def columns(self) -> Stmt:
        """The loops over a row's elements."""
        nest, found = self.nest, self.wide
        have: dict[int, Expr] = {k: At(f"x{k}", axis("e")) for k in found.loads}
        base, targets = found.base(), self.passes.targets(0)
        emitter = Emitter(nest, have, set(base))
        needed = closure(nest, targets, [*have, *base])
        at = affine.add(axis("first"), axis("e"))
        one: list[Stmt] = [Let(self.last.name, "index", Offset(at))]
        one += emitter.lets(needed)
        one += [self.update(k, emitter) for k in self.reduces]
        read = closure(nest, targets, ())
        loads = [k for k in found.loads if k in read]
        several = [
            *Emitter(nest).lets(base),
            *found.arrays(loads, ()),
            *(found.fetch(k, f"x{k}", affine.ZERO, axis("first")) for k in loads),
            self.every(one),
        ]
        inner = nest.columns[-1]
        stop = constant(inner.extent)
        loop = Loop(
            inner.name, axis("warp"), stop, tuple(several), step=WARPS, unroll=AHEAD
        )
        return column_loops(nest, [loop], [a.name for a in nest.columns[:-1]])

    def update(self, k: int, emitter: Emitter) -> Stmt:
        """A lane's sum after one more element."""
        node, place = self.reduce(k), axis("e")
        value = emitter.ref(node.args[0])
        total = join(node.kind, At(f"acc{k}", place), value, node.dtype)
        return Put(f"acc{k}", place, total)

    def share(self, k: int) -> Stmt:
        """A warp's sum into shared memory."""
        own = affine.add(self.own, axis("e"))
        to = affine.add(affine.scale(axis("warp"), self.side), own)
        return Put(f"shared{k}", to, At(f"acc{k}", axis("e")))

    def finish(self) -> list[Stmt]:
        """A row's sums, the warps' in order, and what is done with them."""
        found: list[Stmt] = [Let(self.last.name, "index", Ref("row"))]
        for k in self.reduces:
            node, name = self.reduce(k), f"total{k}"
            parts = [
                At(f"shared{k}", affine.add(axis("thread"), constant(w * self.side)))
                for w in range(WARPS)
            ]
            found.append(Var(name, node.dtype, parts[0]))
            for part in parts[1:]:
                total = join(node.kind, Ref(name), part, node.dtype)
                found.append(Set(name, total))
            found.append(Let(f"v{k}", node.dtype, Ref(name)))
        emitter = Emitter(self.nest, done=set(self.reduces))
        stores = self.passes.row_stores
        found += emitter.row_level([s.node for s in stores])
        found += [emitter.put(s) for s in stores]
        return found
