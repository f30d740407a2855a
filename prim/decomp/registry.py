"""The decompositions by Paddle op name, and how one is run.

A decomposition takes the Builder, the op's operands in Paddle's order (None for a
null one, a list for a vector), and as keywords those attributes that it names. It
returns the op's results in order (None for one that it does not compute), or raises
Unsupported with the reason why this op stays Paddle's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import HALVES, Value
from pirol.prim.builder import Builder


@dataclass(frozen=True)
class Decomposition:
    """`composite`: it becomes a call with a body; else its ops stand for it.
    `operands` are named as by Paddle."""

    name: str
    run: Callable[..., Any]
    operands: tuple[str, ...]
    keywords: frozenset[str]
    composite: bool
    compute_in: str | None

    def __call__(
        self,
        b: Builder,
        operands: Sequence[Any],
        given: Mapping[str, Any],
        dtypes: Sequence[str] = (),
    ) -> tuple[Value | None, ...]:
        """The results; `given` are the op's attributes, of which it takes its own.

        Halves are widened to compute_in; results of it are rounded to what `dtypes`
        say, and as the first half operand where they say nothing.
        """
        attrs = {k: v for k, v in given.items() if k in self.keywords}
        half = next((v.dtype for v in operands if _half(v)), None)
        kind = self.compute_in
        if half is None or kind is None:
            found = self.run(b, *operands, **attrs)
            return found if isinstance(found, tuple) else (found,)
        wide = [b.cast(v, dtype=kind) if _half(v) else v for v in operands]
        found = self.run(b, *wide, **attrs)
        many = found if isinstance(found, tuple) else (found,)
        wanted = dtypes or [half] * len(many)
        return tuple(
            b.cast(v, dtype=to) if _is(v, kind) and to in HALVES else v
            for v, to in zip(many, wanted)
        )


DECOMPOSITIONS: dict[str, Decomposition] = {}
ALONE: dict[str, Decomposition] = {}  # of programs that run without Paddle alone


def decomposes(
    *names: str,
    compute_in: str | None = None,
    composite: bool = True,
    keywords: Sequence[str] = (),
    operands: str = "",
    alone: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a decomposition; a second one of an op is an error.

    compute_in: the dtype in which float16 and bfloat16 operands are computed;
    keywords: attributes to pass besides those that the function names; operands: their
    names by Paddle, where the function has others; alone: for programs that run
    without Paddle, in the place of another one, if there is one.
    """
    table = ALONE if alone else DECOMPOSITIONS

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            if name in table:
                raise ValueError(f"{name} is decomposed twice")
            entry = described(name, run, compute_in)
            table[name] = replace(
                entry,
                operands=tuple(operands.split()) or entry.operands,
                keywords=entry.keywords | {*keywords},
                composite=composite,
            )
        return run

    return register


def described(
    name: str, run: Callable[..., Any], compute_in: str | None = None
) -> Decomposition:
    """A decomposition as its function's parameters tell of it."""
    kinds = inspect.signature(run).parameters.values()
    words = frozenset(p.name for p in kinds if p.kind is p.KEYWORD_ONLY)
    plain = tuple(p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD)
    return Decomposition(name, run, plain[1:], words, True, compute_in)


def _half(value: Any) -> bool:
    return isinstance(value, Value) and value.dtype in HALVES


def _is(value: Any, dtype: str) -> bool:
    return isinstance(value, Value) and value.dtype == dtype


def need(ok: bool, why: str) -> None:
    """Decline with a reason unless `ok`."""
    if not ok:
        raise Unsupported(why)


def ints(b: Builder, value: Any, what: str) -> list[Any]:
    """The contents (Dims) of a shape-like operand: a tensor, or a list of scalars."""
    if isinstance(value, list):
        return [item for part in value for item in ints(b, part, what)]
    found = b.read(value) if isinstance(value, Value) else list(value)
    need(found is not None, f"{what} is known only when the program runs")
    assert found is not None
    return [int(d) if isinstance(d, float) else d for d in found]


def number(b: Builder, value: Value, what: str) -> Any:
    """The only element of a scalar operand."""
    found = b.read(value)
    need(found is not None and len(found) == 1, f"{what} is not a known scalar")
    assert found is not None
    return found[0]


def fixed(b: Builder, item: Any, what: str) -> int:
    """A number as an int; one that a tensor tells must be what the first call has."""
    if not isinstance(item, (int, float)):
        seen = b.facts.value(item)
        need(seen is not None, f"{what} is known only when the program runs")
        b.require_equal(item, seen, what)
        item = seen
    return int(item)


def axes_of(b: Builder, value: Any) -> list[int]:
    """The contents of an operand that names axes."""
    return [fixed(b, item, "an axis") for item in ints(b, value, "axis")]


def axis_of(b: Builder, value: Value, rank: int, op: str) -> int:
    """The axis that a scalar operand names, counted from the front."""
    return axis_in(fixed(b, number(b, value, "axis"), "an axis"), rank, op)


def axis_in(axis: int, rank: int, op: str) -> int:
    """The axis counted from the front; declines one out of range."""
    need(-rank <= axis < max(rank, 1), f"{op}: axis {axis} is outside rank {rank}")
    return axis + rank if axis < 0 else axis
