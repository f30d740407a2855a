"""What a kernel's rows touch of its buffers, if they are run by parts of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pirol.compiler import dims
from pirol.compiler.dims import Dim, product
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels.affine import Affine
from pirol.kernels.cpu import schedule
from pirol.kernels.kernel import Kernel
from pirol.kernels.lower import Refusal, build_nest
from pirol.kernels.nest import Load, Nest


@dataclass(frozen=True)
class Batches:
    """A group's nest and kernel on the CPU."""

    nest: Nest
    kernel: Kernel

    @cached_property
    def items(self) -> Dim:
        """The items of the batch that a contraction is of; 1: of none."""
        return product(n for _, n in self.kernel.lead) if self.kernel.dots else 1

    def apart(self, items: Dim) -> frozenset[int] | None:
        """The operands, and behind them the results, of which each of `items` equal
        parts of the rows touches just its own of as many equal parts; None: the rows
        have no such parts."""
        lead, each = self.lead(items)
        if each is None:
            return None
        ends = (*self.nest.inputs, *self.nest.outputs)
        count = len(self.nest.inputs)
        places: list[list[Affine | None]] = [[] for _ in ends]
        for node in self.nest.nodes:
            if isinstance(node, Load):
                places[node.buffer].append(node.index if node.guard is None else None)
        for store in self.nest.stores:
            plain = store.among is None and not store.index.data()
            places[count + store.output].append(store.index if plain else None)
        return frozenset(
            k
            for k, (kind, found) in enumerate(zip(ends, places))
            if all(at is not None and _leads(at, lead, kind) for at in found)
        )

    def lead(self, items: Dim) -> tuple[tuple[tuple[str, Dim], ...], Dim | None]:
        """The fewest leading axes that `items` divides, and how often."""
        lead = self.kernel.lead
        for count in range(1, len(lead) + 1):
            whole = product(n for _, n in lead[:count])
            if dims.multiple(whole, items):
                return lead[:count], dims.floordiv(whole, items)
        return (), None


def _leads(at: Affine, lead: tuple[tuple[str, Dim], ...], kind: TensorType) -> bool:
    """Whether a place has the row-major number of the leading axes as its own leading
    digit. The rest of it is less than one, as it is within the buffer for each, and for
    all that data may name."""
    whole = product(n for _, n in lead)
    size = product(kind.shape)
    if not dims.multiple(size, whole):
        return False
    step = dims.floordiv(size, whole)
    for name, extent in reversed(lead):
        same = dims.equal(at.coefficient(name), step) is True
        if extent != 1 and not (same and at.plain(name)):
            return False
        step = dims.mul(step, extent)
    return True


def batches(body: Graph) -> Batches | None:
    """What is known of a group; None: it has no kernel."""
    nest = build_nest(body)
    return None if isinstance(nest, Refusal) else Batches(nest, schedule(nest))
