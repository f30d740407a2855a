"""Work: what one run of a CPU kernel does, counted from its loops, for the cost model.

A piece of work is named by words: an operation and its operands' dtype ("mul float32"),
"load", "store" or "turn" and an element's bytes, "dot" or "along" and a dtype, "lanes"
or "serial" (the start of such a loop, and an iteration of one). " apart" behind it says
that it goes element by element: outside of lanes, or at places that lie apart; and
" joined" that each lane waits for what it did before, as in a reduction.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import known
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import Affine
from pirol.kernels.kernel import (
    Along,
    Apply,
    Array,
    At,
    Dot,
    Fetch,
    Guarded,
    If,
    Kernel,
    Let,
    Loop,
    Num,
    Offset,
    Pairs,
    Put,
    Ref,
    Set,
    Stmt,
    Stream,
    Turn,
    Var,
)

Work = dict[str, float]
APART, JOINED = " apart", " joined"
FOLLOWED: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "max": max,
    "min": min,
}


def work(kernel: Kernel, sizes: Mapping[str, int]) -> Work:
    """What a run of all rows does; `sizes` are the values of the shapes' symbols, one
    that is not there counts as 0."""
    buffers = {f"in{k}": t.dtype for k, t in enumerate(kernel.inputs)}
    buffers |= {f"out{k}": t.dtype for k, t in enumerate(kernel.outputs)}
    symbols = dims.symbols_of(kernel.rows, *kernel.params)
    walk = _Walk(buffers, {name: sizes.get(name, 0) for name in symbols})
    walk.places["end"] = known(kernel.rows, sizes)
    walk.statements(kernel.body, 1.0, "")
    return dict(walk.found)


class _Places(dict[str, Any]):
    """Where the loops are: at their start, and at 0 what is not followed."""

    def __missing__(self, name: str) -> int:
        return 0


@dataclass
class _Walk:
    buffers: dict[str, str]
    sizes: Mapping[str, int]
    places: _Places = field(default_factory=_Places)
    joined: frozenset[str] = frozenset()  # variables that the lanes add up in
    found: defaultdict[str, float] = field(
        default_factory=lambda: defaultdict[str, float](float)
    )

    def statements(self, body: Iterable[Stmt], times: float, lane: str) -> None:
        """What they do so many times, in lanes along `lane` if that is not ""."""
        for stmt in body:
            match stmt:
                case Let(name, dtype, value) | Var(name, dtype, value):
                    self.expression(value, times, lane)
                    if dtype in ("index", "int64"):
                        self.places[name] = self.number(value)
                case Set(name, value):
                    joined = JOINED if name in self.joined else ""
                    self.expression(value, times, lane, joined)
                case Array(name, dtype):
                    self.buffers[name] = dtype
                case Put(buffer, index, value):
                    self.expression(value, times, lane)
                    self.access("store", buffer, index, times, lane)
                case If(condition, inner):
                    self.expression(condition, times, lane)
                    self.statements(inner, times, lane)
                case Loop():
                    self.loop(stmt, times, lane)
                case Dot() | Along() | Turn() | Pairs():
                    self.block(stmt, times)
                case Stream(dtype, _, _, (rest, most)):
                    count = min(self.at(rest), most)
                    self.found[f"store {BITS[dtype] // 8}"] += times * count
                case Fetch():
                    self.found["fetch"] += times
                case _:
                    raise TypeError(f"{type(stmt).__name__} is no statement of a CPU's")

    def loop(self, loop: Loop, times: float, lane: str) -> None:
        """All iterations; of whole tiles only the part that is not beyond the end."""
        start, stop = self.at(loop.start), self.at(loop.stop)
        if loop.limit is not None:
            stop = min(stop, self.at(loop.limit))
        if stop <= start:
            return
        self.places[loop.var] = start
        trips = max(1.0, (stop - start) / loop.step)
        if loop.kind == "lanes":
            self.found["lanes"] += times
            lane, self.joined = loop.var, frozenset(name for name, *_ in loop.combine)
        elif not lane:
            self.found["serial"] += times * trips
        self.statements(loop.body, times * trips, lane)

    def block(self, stmt: Dot | Along | Turn | Pairs, times: float) -> None:
        """What a function of the headers does."""
        match stmt:
            case Dot(dtype):
                extents = [self.at(n) for n in (stmt.rows, stmt.columns, stmt.terms)]
                self.found[f"dot {dtype}"] += times * _product(extents)
                self.found["dot"] += times
            case Along(dtype):
                dims_of = (stmt.rows, stmt.lines, stmt.length)
                extents = [known(n, self.sizes) for n in dims_of]
                self.found[f"along {dtype}"] += times * _product(extents)
            case Turn(dtype):
                sides = [min(self.at(n), most) for n, most in (stmt.wide, stmt.high)]
                self.found[f"turn {BITS[dtype] // 8}"] += times * _product(sides)
            case Pairs():
                extents = [self.at(stmt.columns), self.at(stmt.terms)]
                self.found["load 2"] += times * _product(extents)

    def expression(self, expr: Any, times: float, lane: str, how: str = "") -> None:
        """What an expression computes and loads; `how` its last operation is done."""
        match expr:
            case Apply(prim, args, of, _):
                for arg in args:
                    self.expression(arg, times, lane)
                self.found[f"{prim} {of}{how if lane else APART}"] += times
            case At(buffer, index):
                self.access("load", buffer, index, times, lane)
            case Guarded(condition, value, _):
                self.expression(condition, times, lane)
                self.expression(value, times, lane)
            case Offset() if not lane:
                self.found["offset"] += times

    def access(
        self, what: str, buffer: str, index: Affine, times: float, lane: str
    ) -> None:
        """Of one element; what all lanes read is read before them."""
        plain = lane and not index.data() and index.plain(lane)
        step = known(index.coefficient(lane), self.sizes) if plain else None
        if step == 0 and what == "load":
            return
        together = step is not None and abs(step) == 1
        size = BITS[self.buffers.get(buffer, "float32")] // 8
        self.found[f"{what} {size}{'' if together else APART}"] += times

    def number(self, expr: Any) -> int:
        """An expression's value where the loops begin; 0 where it is not followed."""
        match expr:
            case Offset(value):
                return self.at(value)
            case Num(value, _):
                return known(value, self.sizes)
            case Ref(name):
                return int(self.places[name])
            case Apply(prim, args, _, _) if prim in FOLLOWED:
                return FOLLOWED[prim](*map(self.number, args))
        return 0

    def at(self, value: Affine) -> int:
        """Its value where the loops begin."""
        return int(affine.evaluate(value, self.places, self.sizes))


def _product(extents: Iterable[int]) -> float:
    return float(math.prod(max(n, 0) for n in extents))
