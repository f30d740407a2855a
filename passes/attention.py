"""attention: softmax(q k' * scale + what is added) v of halves, for a library to run as
one step that keeps the scores out of memory.

The scores may be masked by what is added to them, or by a select of -inf. A row that
is masked altogether gives NaN, as the softmax of nothing but -inf does: the library
gives zeros, so its row of what is added becomes NaN. Other numbers are held above
LEAST, beside which a score of a float32 is nothing either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from pirol.compiler import dims
from pirol.compiler.dims import Dim
from pirol.compiler.ir import HALVES, Graph, Op, Value, prune
from pirol.passes.canonicalize import canonicalize, cast_back
from pirol.passes.products import lone_readers, rounded
from pirol.passes.views import Lies, Scaled, places
from pirol.prim import Builder
from pirol.prim.builder import rewritten
from pirol.prim.prim import WIDE

LEAST = -1e30
MASKED = -1e8  # what is no more than this instead of a score hides it
ITEMS, WIDEST = 8, 128  # of 16 bytes; terms and columns at most


def attention(graph: Graph) -> Graph:
    """The graph with `attention` for each that the library takes."""
    reader, users = lone_readers(graph), graph.users()

    def rule(b: Builder, op: Op) -> Value | None:
        if op.name == "cast":
            return cast_back(b, op)
        half = rounded(reader.get(op.result)) if op.name == "dot_general" else ""
        if not half:
            return None
        found = _Match(b.producers, half).match(op)
        if found is None or not found.is_closed(op, users, graph.results):
            return None
        readers = users.get(reader[op.result].result, ())
        return found.made(b, op, turns=any(r.name == "transpose" for r in readers))

    made = prune(rewritten(graph, rule))
    return (
        canonicalize(made) if any(op.name == "attention" for op in made.ops) else graph
    )


@dataclass
class _Match:
    """The parts of an attention, found from its last product backwards."""

    producers: Mapping[Value, Op]
    half: str
    inside: set[Value] = field(default_factory=set)  # results on the way
    scale: float = 1.0
    added: Value | None = None  # to the scores
    chosen: Op | None = None  # or the select that masks them
    operands: tuple[Lies, ...] = ()
    sizes: tuple[Dim, ...] = ()  # batch, heads, rows, keys, terms, width

    def match(self, last: Op) -> _Match | None:
        """Itself, where the op is an attention's last product."""
        scores = self.softmax(last.operands[0])
        first = None if scores is None else self.scores(scores)
        return self if first is not None and self.axes(first, last) else None

    def behind(self, value: Value) -> Value:
        """The half or float32 that what is on the way is a rounding of, or itself."""
        op = self.producers.get(value)
        while op is not None and op.name == "cast" and _rounds(op):
            self.inside.add(value)
            value = op.operands[0]
            op = self.producers.get(value)
        return value

    def narrow(self, value: Value) -> Value:
        """The half that this was widened from, or itself."""
        op = self.producers.get(value)
        widened = op is not None and op.name == "cast" and _rounds(op)
        return op.operands[0] if op and widened and value.dtype == WIDE else value

    def source(self, value: Value, *names: str) -> Op | None:
        """What makes a value on the way, if that is one of these."""
        value = self.behind(value)
        op = self.producers.get(value)
        if op is None or op.name not in names:
            return None
        self.inside.add(value)
        return op

    def softmax(self, shares: Value) -> Value | None:
        """What the shares are the softmax of, along the last axis."""
        ratio = self.source(shares, "div")
        power = ratio and self.source(ratio.operands[0], "exp")
        total = ratio and self.reduced(ratio.operands[1], "reduce_sum")
        less = power and self.source(power.operands[0], "sub")
        most = less and self.reduced(less.operands[1], "reduce_max")
        if not (power and total and less and most):
            return None
        summed, scores, largest = (
            self.behind(op.operands[0]) for op in (total, less, most)
        )
        return scores if summed is power.result and largest is scores else None

    def reduced(self, value: Value, name: str) -> Op | None:
        """The reduction along the last axis that is repeated along it."""
        spread = self.source(value, "broadcast")
        op = spread and self.source(spread.operands[0], name)
        if not spread or not op:
            return None
        last = op.operands[0].type.rank - 1
        along = tuple(op.attrs["axes"]) == (last,)
        kept = tuple(spread.attrs["dims"]) == tuple(range(last))
        return op if along and kept else None

    def scores(self, value: Value) -> Op | None:
        """The product whose scaled and masked results these are."""
        op = self.source(value, "add", "mul", "div", "select", "dot_general")
        if op is None or op.name == "dot_general":
            return op
        if op.name == "select":
            return self.selected(op)
        for k in (0,) if op.name == "div" else (0, 1):
            number = self.number(op.operands[1 - k])
            if number is not None:
                return self.counted(op.name, number, op.operands[k])
        return self.plus(op) if op.name == "add" and not self.masks else None

    @property
    def masks(self) -> bool:
        """Whether what is nearer to the product may be no mask: one was found, or its
        sum is scaled."""
        return self.added is not None or self.chosen is not None or self.scale != 1

    def counted(self, name: str, number: float, rest: Value) -> Op | None:
        """The product, where its results are combined with a number; a sum with one
        has the same softmax."""
        if not math.isfinite(number) or (name != "add" and number == 0):
            return None
        if name != "add":
            self.scale *= number if name == "mul" else 1 / number
        return self.scores(rest)

    def plus(self, op: Op) -> Op | None:
        """The product, where something is added to its results."""
        for k in (0, 1):
            tried = _Match(self.producers, self.half, added=op.operands[1 - k])
            found = tried.scores(op.operands[k])
            if found is not None:
                self.scale, self.added = tried.scale, tried.added
                self.inside |= tried.inside
                return found
        return None

    def selected(self, op: Op) -> Op | None:
        """The product, where a number that hides them may stand for its results."""
        for k in (1, 2):
            number = self.number(op.operands[k])
            if number is not None and number <= MASKED and not self.masks:
                self.chosen = op
                return self.scores(op.operands[3 - k])
        return None

    def number(self, value: Value) -> float | None:
        """The number that a value is everywhere."""
        op = self.producers.get(self.narrow(value))
        if op is not None and op.name == "broadcast":
            return self.number(op.operands[0])
        return (
            float(op.attrs["value"]) if op is not None and op.name == "const" else None
        )

    def axes(self, first: Op, last: Op) -> bool:
        """Whether the operands of both products are matrices that the library takes;
        how they lie then."""
        (q, k), v = first.operands, last.operands[1]
        one, two = first.attrs, last.attrs
        count = len(one["x_batch"])
        if count > 2 or not q.type.rank == k.type.rank == v.type.rank == count + 2:
            return False
        if [*two["x_batch"]] != [*range(count)] or [*two["x_sum"]] != [count + 1]:
            return False
        order = (
            _order(one["x_batch"], one["x_sum"], rows_first=True),
            _order(one["y_batch"], one["y_sum"], rows_first=True),
            _order(two["y_batch"], two["y_sum"], rows_first=False),
        )
        known = (self.unscaled, self.unscaled, _none)
        found = [self.lies(*each) for each in zip((q, k, v), order, known)]
        self.operands = tuple(lies for lies in found if lies is not None)
        self.scale *= math.prod(lies.times for lies in self.operands)
        rows, values = _sizes(q, order[0]), _sizes(v, order[2])
        self.sizes = (*rows[:3], *values[2:3], *rows[3:], *values[3:])
        ends = (rows[3], values[3])
        small = all(isinstance(n, int) and _fits(n) and n <= WIDEST for n in ends)
        return small and len(self.operands) == len(found)

    def lies(
        self, value: Value, axes: Sequence[int | None], scaled: Scaled
    ) -> Lies | None:
        """How the half that was widened to a value lies, as far back as 16 bytes of it
        lie in a row."""
        best = None
        for lies in places(self.producers, self.narrow(value), scaled):
            rows = cast(int, axes[2])
            lone = dims.mul(value.shape[rows], lies.steps[rows])
            steps = [lone if k is None else lies.steps[k] for k in axes]
            even = all(map(_fits, (lies.start, *steps[:-1])))
            used = all(dims.equal(step, 0) is not True for step in steps)
            if lies.value.dtype == self.half and even and used and steps[-1] == 1:
                best = replace(lies, steps=tuple(steps))
        return best

    def unscaled(self, value: Value) -> tuple[Value, float] | None:
        """The half, and the number, whose rounded product a half is."""
        op = self.producers.get(value)
        if op is None or op.name != "cast" or value.dtype != self.half:
            return None
        found, times = op.operands[0], 1.0
        while (op := self.producers.get(found)) and op.name in ("add", "mul", "div"):
            number = self.number(op.operands[1])
            if number is None or (op.name == "add") != (number == 0):
                return None
            if op.name != "add":
                times *= number if op.name == "mul" else 1 / number
            found = op.operands[0]
        inner = self.narrow(found)
        finite = math.isfinite(times) and times != 0
        return (inner, times) if inner is not found and finite else None

    def is_closed(
        self,
        last: Op,
        users: Mapping[Value, Sequence[Op]],
        results: Sequence[Value],
    ) -> bool:
        """Whether nobody else reads what is on the way."""
        reads = {op.results for v in self.inside for op in users.get(v, ())}
        inner = {(v,) for v in (*self.inside, last.result)}
        return reads <= inner and self.inside.isdisjoint(results)

    def made(self, b: Builder, last: Op, turns: bool) -> Value | None:
        """The attention, as the last product's result; with the rows of all heads side
        by side where a reader turns them."""
        batch, heads, rows, keys, terms, width = self.sizes
        operands = list(self.operands)
        if self.added is not None or self.chosen is not None:
            mask = self.mask(b)
            if mask is None:
                return None
            operands.append(mask)
        made = b.attention(
            *(x.value for x in operands),
            shape=(batch, rows, heads, width) if turns else (batch, heads, rows, width),
            turns=turns,
            keys=keys,
            terms=terms,
            lies=tuple((x.start, x.steps) for x in operands),
            scale=self.scale,
        )
        made = b.transpose(made, perm=(0, 2, 1, 3)) if turns else made
        whole: Value = b.reshape(made, shape=last.result.shape)
        found: Value = b.cast(whole, dtype=WIDE)
        return found

    def mask(self, b: Builder) -> Lies | None:
        """What is added to scores, and how it lies along their four axes."""
        full = self.added if self.chosen is None else self.chosen.operands[0]
        assert full is not None
        rank, value = full.type.rank, self.narrow(full)
        source, at = self.producers.get(value), tuple(range(rank))
        if source is not None and source.name == "broadcast":
            value, at = self.narrow(source.operands[0]), tuple(source.attrs["dims"])
        if not at or at[-1] != rank - 1:
            return None
        if dims.equal(value.shape[-1], full.shape[-1]) is not True:
            return None
        steps = dict(zip(at, zip(value.shape, dims.strides(value.shape))))
        lies = [
            step if dims.equal(size, full.shape[k]) is True else 0
            for k, (size, step) in ((k, steps.get(k, (0, 0))) for k in range(rank))
        ]
        lies[rank - 2 : rank - 2] = [0] * (4 - rank)
        if self.chosen is not None:
            value = self.hidden(b, value, self.chosen)
        return Lies(_clean(b, value), 0, tuple(lies))

    def hidden(self, b: Builder, which: Value, chosen: Op) -> Value:
        """0 where scores are chosen, the other number elsewhere."""
        numbers = [self.number(v) for v in chosen.operands[1:]]
        parts = [
            _filled(b, which, 0.0 if n is None else n if math.isinf(n) else LEAST)
            for n in numbers
        ]
        found: Value = b.select(which, *parts)
        return found


def _none(_: Value) -> None:
    """Of values, it is a product with a number."""


def _rounds(op: Op) -> bool:
    """Whether a cast is from a half or float32 to another of them."""
    return {op.operands[0].dtype, op.result.dtype} <= {*HALVES, WIDE}


def _order(
    batch: Sequence[int], summed: Sequence[int], *, rows_first: bool
) -> tuple[int | None, ...]:
    """A matrix's axes: batch, heads, the other, and the one summed; or that first."""
    (term,) = summed
    (free,) = {*range(len(batch) + 2)} - {*batch, term}
    lead = (*batch, *(None,) * (2 - len(batch)))
    return (*lead, free, term) if rows_first else (*lead, term, free)


def _sizes(value: Value, axes: Sequence[int | None]) -> list[Dim]:
    return [1 if k is None else value.shape[k] for k in axes]


def _fits(step: Dim) -> bool:
    """Whether it is a number of 16 bytes."""
    return dims.multiple(step, ITEMS)


def _filled(b: Builder, like: Value, number: float) -> Value:
    found: Value = b.const(value=number, shape=like.shape, dtype=WIDE)
    return found


def _clean(b: Builder, added: Value) -> Value:
    """What is added to scores, of numbers that the library can take; NaN where a row is
    -inf altogether."""
    wide = b.cast(added, dtype=WIDE) if added.dtype != WIDE else added
    last = wide.type.rank - 1
    most = b.reduce_max(wide, axes=(last,))
    nothing = b.eq(most, _filled(b, most, -math.inf))
    nothing = b.broadcast(nothing, shape=wide.shape, dims=tuple(range(last)))
    held = b.max(wide, _filled(b, wide, LEAST))
    found = b.select(nothing, _filled(b, wide, math.nan), held)
    short = added.dtype == "bfloat16"
    made: Value = b.cast(found, dtype=added.dtype) if short else found
    return made
