"""Hoisting: what all lanes of a loop compute alike is computed once, before the loop.

A C compiler leaves much of it there, since it does not know how often the lanes run. A
vector's root or quotient takes as long as some twenty of its sums: of a batch_norm
behind a conv, one of each for a channel is enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pirol.kernels.kernel import (
    Apply,
    At,
    Guarded,
    If,
    Kernel,
    Let,
    Loop,
    Stmt,
    Var,
    buffers_read,
    names_read,
    statements_of,
)


def hoisted(kernel: Kernel) -> Kernel:
    """The kernel with each loop's lanes relieved of what they share."""
    inputs = {f"in{k}" for k in range(len(kernel.inputs))}
    changing = {s.name for s in statements_of(kernel) if isinstance(s, Var)}
    hoist = _Hoist(inputs, changing)
    return replace(kernel, body=tuple(hoist.statements(kernel.body)))


@dataclass(frozen=True)
class _Hoist:
    """`inputs`: the buffers that nothing stores to, `changing`: variables that vary."""

    inputs: set[str]
    changing: set[str]

    def statements(self, body: Iterable[Stmt]) -> list[Stmt]:
        """Statements, what a loop's lanes share before each loop."""
        body = list(body)
        own = {s.name for s in body if isinstance(s, Let)}
        there: dict[str, Let] = {}
        found: list[Stmt] = []
        for stmt in body:
            if isinstance(stmt, (Loop, If)):
                stmt = replace(stmt, body=tuple(self.statements(stmt.body)))
            if isinstance(stmt, Loop) and stmt.kind == "lanes":
                shared = self.shared(stmt, own, there)
                found += [s for s in shared if s.name not in there]
                there |= {s.name: s for s in shared}
                rest = (s for s in stmt.body if s not in shared)
                stmt = replace(stmt, body=tuple(rest))
            elif isinstance(stmt, Let):
                there[stmt.name] = stmt
            found.append(stmt)
        return found

    def shared(self, loop: Loop, own: set[str], there: dict[str, Let]) -> list[Let]:
        """What all of a loop's lanes load or compute alike, and numbers for that. A
        name that means something else around the loop stays in it."""
        inside = {loop.var, *self.changing}
        free: list[Let] = []
        for stmt in loop.body:
            if not isinstance(stmt, Let):
                continue
            meant = there.get(stmt.name, None if stmt.name in own else stmt)
            alike = inside.isdisjoint(names_read(stmt))
            if meant == stmt and alike and self.inputs.issuperset(buffers_read(stmt)):
                free.append(stmt)
            else:
                inside.add(stmt.name)
        needed = set[str]()
        for let in reversed(free):
            if let.name in needed or isinstance(let.value, (Apply, At, Guarded)):
                needed |= {let.name, *names_read(let)}
        return [s for s in free if s.name in needed]
