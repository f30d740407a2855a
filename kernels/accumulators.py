"""Accumulators of lanes that are one row's elements.

The larger value so far is NaN once one was. To keep to that at each step takes three
operations that wait for each other; so the lanes note beside it that there was a NaN,
and the larger of what is none takes one.
"""

from __future__ import annotations

from dataclasses import dataclass

from pirol.compiler.ir import BITS, FLOATS
from pirol.kernels.emit import identity, join
from pirol.kernels.kernel import Apply, Expr, Num, Ref, Set, Var

BETTER = {"max": "gt", "min": "lt"}
WORDS = {32: "int32", 64: "int64"}  # as wide as what they go with


@dataclass(frozen=True)
class Accumulator:
    """Of a reduction, node `k` of its nest."""

    k: int
    kind: str
    dtype: str

    @property
    def name(self) -> str:
        """The variable that the lanes add up in."""
        return f"part{self.k}"

    @property
    def word(self) -> str:
        """The dtype of the note that there was a NaN; "" where there is none."""
        noted = self.kind in BETTER and self.dtype in FLOATS
        return WORDS.get(BITS[self.dtype], "") if noted else ""

    def begin(self) -> list[Var]:
        """Its variables."""
        found = [Var(self.name, self.dtype, identity(self.kind, self.dtype))]
        if self.word:
            found.append(Var(f"odd{self.k}", self.word, Num(0, self.word)))
        return found

    def step(self, value: Expr) -> list[Set]:
        """What a value does."""
        old, dtype, word = Ref(self.name), self.dtype, self.word
        if not word:
            return [Set(self.name, join(self.kind, old, value, dtype))]
        note = Ref(f"odd{self.k}")
        odd = Apply("cast", (Apply("ne", (value, value), dtype, "bool"),), "bool", word)
        better = Apply(BETTER[self.kind], (value, old), dtype, "bool")
        return [
            Set(note.name, Apply("or", (note, odd), word, word)),
            Set(self.name, Apply("select", (better, value, old), dtype, dtype)),
        ]

    def combine(self) -> list[tuple[str, str, str]]:
        """How the lanes' copies are joined (see Loop)."""
        if not self.word:
            return [(self.name, self.kind, self.dtype)]
        note = f"odd{self.k}", "or", self.word
        return [(self.name, BETTER[self.kind], self.dtype), note]

    def end(self) -> Expr:
        """What came of the values."""
        if not self.word:
            return Ref(self.name)
        odd = Apply("ne", (Ref(f"odd{self.k}"), Num(0, self.word)), self.word, "bool")
        nan = Num(float("nan"), self.dtype)
        return Apply("select", (odd, nan, Ref(self.name)), self.dtype, self.dtype)
