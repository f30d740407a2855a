"""What `pirol.explain` shows: how a program was compiled, and what was not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pirol.compiler.costs import LAUNCH, this_machine
from pirol.compiler.dims import Dim, add, equal, mul, product, to_text
from pirol.compiler.ir import BITS, Graph, Op, Value
from pirol.compiler.pipeline import Lowered
from pirol.compiler.runtime import Built, Compiled
from pirol.compiler.traffic import touches, traffic
from pirol.kernels.work import Work, work
from pirol.passes.fuse import Refused
from pirol.passes.ordered import sums
from pirol.passes.plan import Launch
from pirol.prim import PRIMS


@dataclass(frozen=True)
class Fallback:
    """An op, or a whole call, that Paddle ran, and why."""

    op: str
    why: str
    line: str = ""

    def __str__(self) -> str:
        return f"{self.op}{f' ({self.line})' if self.line else ''}: {self.why}"


@dataclass(frozen=True)
class GroupInfo:
    """One fused group: its kernel, its primitives, the user's line.

    rows, read and written (bytes a call) are numbers, or formulas of the sizes;
    predicted: seconds of the first call's sizes on one thread, by `costs.Machine`;
    measured: seconds in the last call that was measured, if one was (of groups that
    take turns, a part of their rows at a time, its share of the time of all).
    """

    kernel: str
    ops: tuple[str, ...]
    rows: str
    line: str
    read: str = ""
    written: str = ""
    predicted: float = 0.0
    measured: float | None = None

    def __str__(self) -> str:
        times = f"{1e6 * self.predicted:.3g} us"
        if self.measured is not None:
            times += f", measured {1e6 * self.measured:.3g} us"
        return f"{self.kernel} [{self.rows} rows, {times}] {' '.join(self.ops)}"


@dataclass
class Report:
    """All about one compiled function or Layer; `print` it, or read its parts, once it
    is settled.

    coverage: (ops that Pirol compiled or gave to a library, all ops); kernels: name ->
    source text; refusals: edges not fused; fallbacks: what Paddle ran instead;
    sized: why a program is made for each call's sizes by itself, None dims or not;
    compiles: how many plans were made (one a broadcast class, not one a size); ahead:
    how many are being made in the background;
    traffic: bytes that the groups read and write in a first call, and what one kernel
    for each op (views left out) would; factors: the part of both that is operands of
    products (matmul, conv), which no fusion can spare; kept: of the last plan with a
    gradient, bytes kept from a first call for its backward, and what Paddle keeps (None
    where it has no backward), inputs, parameters and outputs left out.
    """

    coverage: tuple[int, int] = (0, 0)
    groups: list[GroupInfo] = field(default_factory=list)
    kernels: dict[str, str] = field(default_factory=dict)
    library: list[str] = field(default_factory=list)
    sorts: list[str] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    fallbacks: list[Fallback] = field(default_factory=list)
    sized: list[str] = field(default_factory=list)
    compiles: int = 0
    ahead: int = 0
    traffic: tuple[int, int] = (0, 0)
    factors: tuple[int, int] = (0, 0)
    kept: tuple[int, int | None] | None = None
    stages: dict[str, Graph] = field(default_factory=dict)
    unseen: list[Callable[[], None]] = field(default_factory=list)
    plans: list[tuple[Compiled, int]] = field(default_factory=list)  # and first group
    measuring: bool = False

    def settled(self) -> Report:
        """The report with the plans that came from disk looked into, and the times of
        the last call."""
        while self.unseen:
            self.unseen.pop(0)()
        for made, first in self.plans if self.measuring else ():
            steps = enumerate(made.plan.steps)
            launches = [number for number, step in steps if isinstance(step, Launch)]
            groups = dict(zip(launches, self.groups[first:]))
            took = _shared_out(made, groups)
            for at, number in enumerate(launches, first):
                if number in took:
                    self.groups[at] = replace(self.groups[at], measured=took[number])
        return self

    def measure(self) -> None:
        """From here on, calls (one at a time) note when their kernels run."""
        self.measuring = True
        for made, _ in self.settled().plans:
            made.watch(True)

    def begun(self, made: Compiled) -> None:
        """Take note of a new plan, before its first call."""
        if self.measuring:
            made.watch(True)

    def add(
        self,
        lowered: Lowered,
        kernels: Sequence[Built],
        made: Compiled,
        sizes: Mapping[str, int],
        whole: bool = True,
    ) -> None:
        """Take in one more plan, of a whole program or of a branch in one.

        `sizes` are the symbols' values in its first call.
        """
        program = lowered.stages["capture"]
        fused = lowered.stages["fuse"]
        opaque = [op for op in fused.ops if op.name == "opaque"]
        total = self.coverage[1] + len(program.ops)
        self.coverage = (self.coverage[0] + len(program.ops) - len(opaque), total)
        if whole:
            self.stages = lowered.stages
        self.refusals += lowered.refused
        self.library += [op.title for op in fused.ops if _by_library(op)]
        self.sorts += [_sort(op) for op in fused.ops if op.name == "sort"]
        for op in opaque:
            self.fall_back(op.title, str(op.attrs.get("why", "")), op.line)
        self.plans.append((made, len(self.groups)))
        does: dict[str, Work] = {}  # by kernel: many groups may have one
        for built, (read, written) in zip(kernels, touches(lowered.plan, sizes)):
            name = built.kernel.name
            if name not in does:
                does[name] = {LAUNCH: 1.0, **work(built.kernel, sizes)}
            seconds = this_machine().seconds(does[name], read, written)
            self.kernels[name] = built.source
            self.groups.append(_group(built, seconds))
        moved, factors = traffic(lowered, sizes)
        self.traffic = _sum(self.traffic, moved)
        self.factors = _sum(self.factors, factors)

    def fall_back(self, op: str, why: str, line: str = "") -> bool:
        """Note something that Paddle runs; False where it was noted before."""
        entry = Fallback(op, why, line)
        if entry in self.fallbacks:
            return False
        self.fallbacks.append(entry)
        return True

    def __str__(self) -> str:
        done, total = self.coverage
        lines = [f"{done} of {total} ops compiled, {self.compiles} plan(s)"]
        if self.ahead:
            lines.append(f"in the background: {self.ahead} plan(s)")
        ours, apart = self.traffic
        if apart:
            share = f"{ours / 1e6:.1f} MB, {100 * ours / apart:.0f}% of"
            lines.append(f"memory traffic a call: {share} one kernel an op")
        ours, apart = (a - b for a, b in zip(self.traffic, self.factors))
        if apart and any(self.factors):
            share = f"{ours / 1e6:.1f} MB, {100 * ours / apart:.0f}%"
            lines.append(f"  but for operands of products: {share}")
        if self.kept is not None:
            lines.append(f"kept for backward: {_share(*self.kept)}")
        others = sum(any(map(sums, g.ops)) for g in self.groups)
        if others:
            kept = 'numerics="strict" keeps it'
            lines.append(f"sums in an order of their own: {others} group(s); {kept}")
        lines += _section("groups", self.groups)
        lines += _section("library steps", self.library)
        lines += _section("sorts", self.sorts)
        lines += _section("edges not fused", self.refusals)
        lines += _section("captured for each size", self.sized)
        lines += _section("run by Paddle", self.fallbacks)
        return "\n".join(lines)


def _shared_out(made: Compiled, groups: Mapping[int, GroupInfo]) -> dict[int, float]:
    """Seconds that each step of a plan took; those that take turns, a part of their
    rows at a time, share the time of all as it was predicted."""
    spans = {k: (begin / 1e6, end / 1e6) for k, begin, end in made.times()}
    found = {k: end - begin for k, (begin, end) in spans.items()}
    for strip in made.plan.strips:
        steps = [k for k in range(strip.begin, strip.end) if k in spans and k in groups]
        whole = sum(groups[k].predicted for k in steps)
        if whole:
            first, last = spans[steps[0]][0], max(spans[k][1] for k in steps)
            shares = {k: groups[k].predicted / whole for k in steps}
            found |= {k: (last - first) * share for k, share in shares.items()}
    return found


def _by_library(op: Op) -> bool:
    """Whether a library runs it: a claimed call, or a primitive without kernels."""
    prim = PRIMS.get(op.name)
    return op.name == "call" or (prim is not None and prim.kind == "library")


def _sort(op: Op) -> str:
    x, count = op.operands[0].type, op.attrs["count"]
    few = equal(count, x.shape[-1]) is not True
    part = f", the first {to_text(count)}" if few else ""
    way = "down" if op.attrs["descending"] else "up"
    return f"{x} {way}{part} {op.line}".rstrip()


def _share(ours: int, paddles: int | None) -> str:
    text = f"{ours / 1e6:.1f} MB"
    return f"{text}, {100 * ours / paddles:.0f}% of Paddle's" if paddles else text


def _sum(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]


def _group(built: Built, predicted: float) -> GroupInfo:
    op = built.op
    rows, read, written = (
        to_text(d) for d in (_rows(built), _bytes(op.operands), _bytes(op.results))
    )
    name, ops = built.kernel.name, _names(op)
    return GroupInfo(name, ops, rows, op.line, read, written, predicted)


def _rows(built: Built) -> Dim:
    return product(a.extent for a in built.nest.rows)


def _bytes(values: Iterable[Value]) -> Any:
    """The size of some values' memory, a Dim."""
    total: Any = 0
    for value in dict.fromkeys(values):
        total = add(total, mul(value.type.size, BITS[value.dtype] // 8))
    return total


def _names(op: Op) -> tuple[str, ...]:
    assert op.body is not None
    return tuple(inner.name for inner in op.body.ops)


def _section(title: str, items: list[Any]) -> list[str]:
    counted: dict[str, int] = {}
    for item in items:
        counted[str(item)] = counted.get(str(item), 0) + 1
    lines = [f"  {n} x {text}" if n > 1 else f"  {text}" for text, n in counted.items()]
    return [f"{title}: {len(items)}", *lines] if items else []
