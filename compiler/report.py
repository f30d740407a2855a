"""What `pirol.explain` shows: how a program was compiled, and what was not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pirol.compiler.dims import to_text
from pirol.compiler.ir import Graph, Op
from pirol.compiler.pipeline import Lowered
from pirol.compiler.runtime import Compiled
from pirol.passes.fuse import Refused


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
    """One fused group: its kernel, its primitives, the user's line."""

    kernel: str
    ops: tuple[str, ...]
    rows: str
    line: str

    def __str__(self) -> str:
        return f"{self.kernel} [{self.rows} rows] {' '.join(self.ops)}"


@dataclass
class Report:
    """All about one compiled function or Layer; `print` it, or read its parts.

    coverage: (ops that Pirol compiled or gave to a library, all ops); kernels: name ->
    source text; refusals: edges not fused; fallbacks: what Paddle ran instead;
    compiles: how many plans were made (one a broadcast class, not one a size).
    """

    coverage: tuple[int, int] = (0, 0)
    groups: list[GroupInfo] = field(default_factory=list)
    kernels: dict[str, str] = field(default_factory=dict)
    library: list[str] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    fallbacks: list[Fallback] = field(default_factory=list)
    compiles: int = 0
    stages: dict[str, Graph] = field(default_factory=dict)

    def add(self, lowered: Lowered, compiled: Compiled, whole: bool = True) -> None:
        """Take in one more compiled plan, of a whole program or of a branch in one."""
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
            rows = to_text(built.kernel.rows)
            name = built.kernel.name
            self.groups.append(GroupInfo(name, _names(built.op), rows, built.op.line))

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
        lines += _section("groups", self.groups)
        lines += _section("library steps", self.library)
        lines += _section("edges not fused", self.refusals)
        lines += _section("run by Paddle", self.fallbacks)
        return "\n".join(lines)


def _names(op: Op) -> tuple[str, ...]:
    assert op.body is not None
    return tuple(inner.name for inner in op.body.ops)


def _section(title: str, items: list[Any]) -> list[str]:
    counted: dict[str, int] = {}
    for item in items:
        counted[str(item)] = counted.get(str(item), 0) + 1
    lines = [f"  {n} x {text}" if n > 1 else f"  {text}" for text, n in counted.items()]
    return [f"{title}: {len(items)}", *lines] if items else []
