"""What `pirol.explain` shows: how a program was compiled, and what was not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pirol.compiler.costs import PRODUCT, roofline
from pirol.compiler.dims import Dim, add, evaluate, mul, product, to_text
from pirol.compiler.ir import BITS, Graph, Op, Value, symbols_in
from pirol.compiler.pipeline import Lowered
from pirol.compiler.runtime import Built, Compiled
from pirol.kernels.nest import Nest, Reduce
from pirol.passes.fuse import Refused
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
    predicted: seconds of the first call's sizes on one thread, by `costs.roofline`.
    """

    kernel: str
    ops: tuple[str, ...]
    rows: str
    line: str
    read: str = ""
    written: str = ""
    predicted: float = 0.0

    def __str__(self) -> str:
        head = f"{self.kernel} [{self.rows} rows, {1e6 * self.predicted:.3g} us]"
        return f"{head} {' '.join(self.ops)}"


@dataclass
class Report:
    """All about one compiled function or Layer; `print` it, or read its parts.

    coverage: (ops that Pirol compiled or gave to a library, all ops); kernels: name ->
    source text; refusals: edges not fused; fallbacks: what Paddle ran instead;
    compiles: how many plans were made (one a broadcast class, not one a size);
    traffic: bytes that the groups read and write in a first call, and what one kernel
    for each op (views left out) would.
    """

    coverage: tuple[int, int] = (0, 0)
    groups: list[GroupInfo] = field(default_factory=list)
    kernels: dict[str, str] = field(default_factory=dict)
    library: list[str] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    fallbacks: list[Fallback] = field(default_factory=list)
    compiles: int = 0
    traffic: tuple[int, int] = (0, 0)
    stages: dict[str, Graph] = field(default_factory=dict)

    def add(
        self,
        lowered: Lowered,
        compiled: Compiled,
        sizes: Mapping[str, int],
        whole: bool = True,
    ) -> None:
        """Take in one more compiled plan, of a whole program or of a branch in one.

        `sizes` are the symbols' values in its first call.
        """
        program = lowered.stages["capture"]
        fused = lowered.stages["fuse"]
        opaque = [op for op in fused.ops if op.name == "opaque"]
        total = self.coverage[1] + len(program.ops)
        self.coverage = (self.coverage[0] + len(program.ops) - len(opaque), total)
        if whole:
            self.compiles += 1
            self.stages = lowered.stages
        self.refusals += lowered.refused
        self.library += [op.title for op in fused.ops if op.name == "call"]
        for op in opaque:
            self.fall_back(op.title, str(op.attrs.get("why", "")), op.line)
        for built in compiled.kernels:
            self.kernels[built.kernel.name] = built.source
            self.groups.append(_group(built, sizes))
        ours, apart = _traffic(lowered, sizes)
        self.traffic = (self.traffic[0] + ours, self.traffic[1] + apart)

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
        ours, apart = self.traffic
        if apart:
            share = f"{ours / 1e6:.1f} MB, {100 * ours / apart:.0f}% of"
            lines.append(f"memory traffic a call: {share} one kernel an op")
        lines += _section("groups", self.groups)
        lines += _section("library steps", self.library)
        lines += _section("edges not fused", self.refusals)
        lines += _section("run by Paddle", self.fallbacks)
        return "\n".join(lines)


def _group(built: Built, sizes: Mapping[str, int]) -> GroupInfo:
    op = built.op
    work = _work(op, sizes) + PRODUCT * _products(built.nest, sizes)
    seconds = roofline(_moved([op], sizes), work)
    rows, read, written = (
        to_text(d) for d in (_rows(built), _bytes(op.operands), _bytes(op.results))
    )
    name, ops = built.kernel.name, _names(op)
    return GroupInfo(name, ops, rows, op.line, read, written, seconds)


def _rows(built: Built) -> Dim:
    return product(a.extent for a in built.nest.rows)


def _products(nest: Nest, sizes: Mapping[str, int]) -> int:
    """How many products the group's contraction adds up."""
    dots = [n for n in nest.nodes if isinstance(n, Reduce) and n.kind == "dot"]
    return _number(product(a.extent for a in nest.axes), sizes) if dots else 0


def _work(op: Op, sizes: Mapping[str, int]) -> int:
    """The group's other operations, each on as many elements as it reads or makes."""
    assert op.body is not None
    total = 0
    for inner in op.body.ops:
        if inner.name not in VIEWS and PRIMS[inner.name].kind != "contract":
            values = (*inner.operands, *inner.results)
            most = max(_size(v, sizes) for v in values)
            total += PRIMS[inner.name].cost * most
    return total


def _bytes(values: Iterable[Value]) -> Any:
    """The size of some values' memory, a Dim."""
    total: Any = 0
    for value in dict.fromkeys(values):
        total = add(total, mul(value.type.size, BITS[value.dtype] // 8))
    return total


# Primitives that compute nothing: constants, and what is folded into loads.
VIEWS = ("broadcast", "check", "const", "iota", "reshape", "slice")
# Paddle's ops that move none: literals, shapes, and another shape of the same memory.
STILL = tuple(
    f"pd_op.{name}"
    for name in (
        *("assign", "assign_value", "data", "flatten", "full", "full_int_array"),
        *("numel", "reshape", "shape", "shape64", "share_data", "squeeze", "unsqueeze"),
    )
)


def _traffic(lowered: Lowered, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Bytes read and written by the kernels, and by one for each op as captured, those
    left out that Paddle runs in both; nothing where only a run tells sizes."""
    fused = lowered.stages["fuse"]
    elsewhere = {op.attrs["site"] for op in fused.ops if "site" in op.attrs}
    ours = [step.op for step in lowered.plan.steps if isinstance(step, Launch)]
    alone = [
        op
        for op in lowered.stages["capture"].ops
        if op.name not in STILL and op.attrs.get("site") not in elsewhere
    ]
    shapes = [v.shape for op in alone for v in (*op.operands, *op.results)]
    if not symbols_in(shapes) <= sizes.keys():
        return 0, 0
    return _moved(ours, sizes), _moved(alone, sizes)


def _moved(ops: Iterable[Op], sizes: Mapping[str, int]) -> int:
    """The ops' bytes; sizes that only data tell count as nothing.

    Of a table whose elements are looked up, as many as the op makes are read.
    """
    total = 0
    for op in ops:
        looked = _tables(op)
        most = sum(_size(v, sizes) for v in op.results)
        for value in (*op.operands, *op.results):
            size = _size(value, sizes)
            size = min(size, most) if value in looked else size
            total += size * BITS[value.dtype] // 8
    return total


LOOKUPS = ("pd_op.embedding", "pd_op.gather", "pd_op.gather_nd", "pd_op.index_select")


def _tables(op: Op) -> set[Value]:
    """The operands that are read at places which data name."""
    if op.name in LOOKUPS:
        return set(op.operands)
    if op.body is None:
        return set()
    pairs = zip(op.body.inputs, op.operands)
    users = op.body.users()
    return {
        value
        for inner, value in pairs
        if users[inner]
        and all(u.name == "gather" and u.operands[0] is inner for u in users[inner])
    }


def _size(value: Value, sizes: Mapping[str, int]) -> int:
    return _number(value.type.size, sizes)


def _number(dim: Dim, sizes: Mapping[str, int]) -> int:
    try:
        return evaluate(dim, sizes)
    except KeyError:
        return 0


def _names(op: Op) -> tuple[str, ...]:
    assert op.body is not None
    return tuple(inner.name for inner in op.body.ops)


def _section(title: str, items: list[Any]) -> list[str]:
    counted: dict[str, int] = {}
    for item in items:
        counted[str(item)] = counted.get(str(item), 0) + 1
    lines = [f"  {n} x {text}" if n > 1 else f"  {text}" for text, n in counted.items()]
    return [f"{title}: {len(items)}", *lines] if items else []
