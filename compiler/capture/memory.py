"""Which of a program's values share memory, since one was written over the other.

x[0] = 1; if c: x[1] = 2; x[2] = 3: three values and the result of an `if`, all in x's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from paddle.autograd.backward_utils import ValueDict


@dataclass
class Memory:
    """The PIR values in the memory of each that shares its own, the first one first."""

    shared: Any = field(default_factory=ValueDict)

    def names(self, value: Any) -> list[Any]:
        """All values in the memory of this one."""
        found: list[Any] = self.shared.get(value, [value])
        return found

    def take(self, new: Any, old: Any) -> None:
        """`new` is in the memory of `old`."""
        names = self.names(old)
        names.append(new)
        self.shared[old] = self.shared[new] = names

    def same(self, values: list[Any]) -> bool:
        """Whether values are in one memory."""
        first = self.names(values[0])[0]
        return all(first.is_same(self.names(v)[0]) for v in values)
