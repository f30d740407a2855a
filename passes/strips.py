"""Strips: groups that are run one after the other for each item of a batch in turn.

Where what one group makes of an item is read by others for that item alone, as the
scores of a head of attention are, or the largest of a window's lines, a thread can keep
it in its cache. Such groups come to stand next to each other, with the attributes
`strip`, a number, and `items`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from pirol.compiler.dims import Dim, equal, product
from pirol.compiler.ir import BITS, Graph, Op, Value
from pirol.passes.plan import is_reshape

LARGE = 1 << 20  # bytes that a core's own cache has no room for
PART = 1 << 17  # that it has room for, with what is read and made along
TRIED = 4  # numbers of parts


class Batches(Protocol):
    """What is known of a group's kernel; see kernels/batches.py."""

    @property
    def items(self) -> Dim: ...

    def apart(self, items: Dim) -> frozenset[int] | None: ...


def strips(graph: Graph, batches: Callable[[Graph], Batches | None]) -> Graph:
    """The graph (level "fused") with its strips marked, and each in a row."""
    return _Strips(graph, batches).run()


class _Strips:
    def __init__(
        self, graph: Graph, batches: Callable[[Graph], Batches | None]
    ) -> None:
        self.graph = graph
        self.batches = batches
        self.known: dict[Op, Batches | None] = {}
        self.parts: dict[tuple[Op, Dim], frozenset[int] | None] = {}
        self.order = list(graph.ops)
        self.number = {op: k for k, op in enumerate(graph.ops)}
        self.batched = set(filter(_multiplies_batches, graph.ops))
        self.looking = set(filter(_looks_up, graph.ops))
        self.producers, self.users = graph.producers(), graph.users()
        self.members: dict[Op, tuple[Op, ...]] = {}  # a strip's, by each of them
        self.items: dict[tuple[Op, ...], Dim] = {}
        self.views = {op for op in graph.ops if op.name == "group" and is_reshape(op)}
        self.readers: dict[Value, list[Op]] = {}
        for op in graph.ops:
            if op not in self.views:
                for value in op.operands:
                    self.readers.setdefault(self.root(value), []).append(op)
        self.returned = {self.root(v) for v in graph.results}

    def run(self) -> Graph:
        if not self.batched | self.looking:
            return self.graph
        for op in self.graph.ops:
            for value in op.results:
                readers = self.readers.get(value, [])
                if op not in self.views and readers and value not in self.returned:
                    self.join({op, *readers})
        numbers = {strip: k for k, strip in enumerate(self.items)}

        def marked(op: Op) -> Op:
            strip = self.members.get(op)
            if strip is None:
                return op
            found = {"strip": numbers[strip], "items": self.items[strip]}
            return replace(op, attrs={**op.attrs, **found})

        return self.graph.with_ops(map(marked, self.order))

    def root(self, value: Value) -> Value:
        """What a value is a view of."""
        while (op := self.producers.get(value)) in self.views and op is not None:
            value = op.operands[0]
        return value

    def of(self, op: Op) -> Batches | None:
        if op not in self.known:
            self.known[op] = None if op.body is None else self.batches(op.body)
        return self.known[op]

    def apart(self, op: Op, items: Dim) -> frozenset[int] | None:
        """What each of `items` parts of a group's rows touches of its own."""
        if (op, items) not in self.parts:
            known = self.of(op)
            self.parts[op, items] = None if known is None else known.apart(items)
        return self.parts[op, items]

    def join(self, ops: Iterable[Op]) -> None:
        """Make ops one strip, with the strips they are in, if that may be."""
        found = {member for op in ops for member in self.members.get(op, (op,))}
        if not all(op.name == "group" for op in found):
            return
        strip = tuple(sorted(found, key=self.number.__getitem__))
        items = self.common(strip)
        order = None if items is None else self.in_a_row(found)
        if items is None or order is None:
            return
        for op in strip:
            self.items.pop(self.members.get(op, ()), None)
            self.members[op] = strip
        self.items[strip], self.order = items, order

    def common(self, strip: tuple[Op, ...]) -> Dim | None:
        """The items of a batch by which all may be run."""
        asked: list[Dim] = []
        for op in filter(self.batched.__contains__, strip):
            known = self.of(op)
            items = 1 if known is None else known.items
            if items != 1 and not any(equal(items, other) for other in asked):
                asked.append(items)
        asked = asked or [*self.by_size(strip)]
        return next((n for n in asked if self.fits(strip, n)), None)

    def by_size(self, strip: tuple[Op, ...]) -> list[int]:
        """Where what one makes is looked up by another, and is more than a core's cache
        has room for: by how many parts it has."""
        members = {*strip}
        made = [v for op in strip for v in op.results if self.inside(v, members)]
        sizes = [v.type.size for v in made]
        if self.looking.isdisjoint(strip) or not all(isinstance(n, int) for n in sizes):
            return []
        whole = sum(int(n) * BITS[v.dtype] // 8 for n, v in zip(sizes, made))
        if whole <= LARGE:
            return []
        least = -(-whole // PART)
        rows = [int(product(v.shape[:-1])) for v in made]
        found = [n for n in range(least, 4 * least) if not any(k % n for k in rows)]
        return found[:TRIED]

    def fits(self, strip: tuple[Op, ...], items: Dim) -> bool:
        """Whether what one makes and others read is made and read by items."""
        members = set(strip)
        made = {v for op in strip for v in op.results}
        for op in strip:
            apart = self.apart(op, items)
            if apart is None:
                return False
            passed = [self.root(v) in made for v in op.operands]
            passed += [self.inside(v, members) for v in op.results]
            if not apart.issuperset(k for k, p in enumerate(passed) if p):
                return False
        return True

    def inside(self, value: Value, members: set[Op]) -> bool:
        """Whether one of a strip reads what another makes."""
        return not members.isdisjoint(self.readers.get(value, ()))

    def in_a_row(self, strip: set[Op]) -> list[Op] | None:
        """The order of ops in which a strip's come in a row; None: there is none, or
        ops other than groups are in between."""
        at = [k for k, op in enumerate(self.order) if op in strip]
        begin, end = at[0], at[-1] + 1
        region = self.order[begin:end]
        if not all(op.name == "group" for op in region):
            return None
        after, before = set(strip), set(strip)
        for op in region:
            if any(self.producers.get(v) in after for v in op.operands):
                after.add(op)
        for op in reversed(region):
            if before & self.feeds(op):
                before.add(op)
        between = after & before
        if not between - strip <= self.views:
            return None
        rows: list[list[Op]] = [[], [], []]
        for op in region:
            rows[1 if op in between else 2 if op in after else 0].append(op)
        return [*self.order[:begin], *rows[0], *rows[1], *rows[2], *self.order[end:]]

    def feeds(self, op: Op) -> set[Op]:
        return {user for v in op.results for user in self.users[v]}


def _looks_up(op: Op) -> bool:
    """Whether it is a group that reads at places that data name."""
    return op.body is not None and any(inner.name == "gather" for inner in op.body.ops)


def _multiplies_batches(op: Op) -> bool:
    """Whether it is a group with a contraction of a batch."""
    return op.body is not None and any(
        inner.attrs.get("x_batch") for inner in op.body.ops
    )
