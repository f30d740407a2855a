"""Where a random graph's choices come from: hypothesis, or a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hypothesis import strategies as st


class Choices(Protocol):
    """What is asked while a graph is drawn."""

    def one(self, options: Sequence[Any]) -> Any:
        """One of the options."""

    def number(self, low: int, high: int) -> int:
        """A number from low to high, both included."""

    def flag(self) -> bool:
        """True or False."""

    def some(self, count: int) -> list[int]:
        """At least one of the numbers below count, in order."""

    def order(self, items: Sequence[Any]) -> list[Any]:
        """The items in any order."""


@dataclass
class Drawn:
    """By hypothesis, which can shrink what it drew."""

    draw: Any

    def one(self, options: Sequence[Any]) -> Any:
        """One of the options."""
        return self.draw(st.sampled_from(list(options)))

    def number(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return int(self.draw(st.integers(low, high)))

    def flag(self) -> bool:
        """True or False."""
        return bool(self.draw(st.booleans()))

    def some(self, count: int) -> list[int]:
        """At least one of the numbers below count, in order."""
        return sorted(self.draw(st.sets(st.integers(0, count - 1), min_size=1)))

    def order(self, items: Sequence[Any]) -> list[Any]:
        """The items in any order."""
        return list(self.draw(st.permutations(list(items))))


class Rolled:
    """By a generator, of which a seed tells all."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def one(self, options: Sequence[Any]) -> Any:
        """One of the options."""
        return self.random.choice(options)

    def number(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        return self.random.randint(low, high)

    def flag(self) -> bool:
        """True or False."""
        return self.random.random() < 0.5

    def some(self, count: int) -> list[int]:
        """At least one of the numbers below count, in order."""
        found = [k for k in range(count) if self.flag()]
        return found or [self.number(0, count - 1)]

    def order(self, items: Sequence[Any]) -> list[Any]:
        """The items in any order."""
        return self.random.sample(items, len(items))
