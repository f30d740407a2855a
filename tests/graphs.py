"""Random graphs with inputs and what they should give, drawn in two ways.

`cases()` is for hypothesis: small graphs, which shrink. `rolled(seed, number)` is for
many graphs: larger ones, each told by its two numbers, that meet all pairs in turn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from graph_case import Case, fixed, named
from graph_choices import Drawn, Rolled
from graph_meaning import ALL_KINDS, Sizes
from graph_pairs import legal_pairs
from graph_pool import EXTENTS
from graph_steps import ANY, STEPS, Steps, Want, step_about
from hypothesis import strategies as st

VALUES = {"n": (0, 1, 2, 3, 5, 8, 17), "m": (0, 1, 2, 3, 7, 13)}
PAIRS = 4  # that each rolled graph has to meet


def symbol_sizes() -> st.SearchStrategy[dict[str, int]]:
    """Values for the symbols."""
    return st.fixed_dictionaries({k: st.sampled_from(v) for k, v in VALUES.items()})


def first_inputs(steps: Steps) -> None:
    """Inputs; each symbol is a dim of some, so that a call's sizes tell its value."""
    choices, make = steps.choices, steps.sketch
    if steps.static:
        steps.add(make.input([steps.size(), steps.size()], choices.one(ALL_KINDS)))
        steps.input()
        return
    first = [named("n"), named("m")][: choices.number(1, 2)]
    extra = [fixed(choices.one(EXTENTS[1:]))] * choices.number(0, 1)
    steps.add(make.input(choices.order([*first, *extra]), choices.one(ALL_KINDS)))
    if len(first) == 1:
        steps.add(make.input([named("m")], choices.one(ALL_KINDS)))
    if choices.flag():
        steps.input()


@st.composite
def cases(draw: Any, most: int = 7) -> Case:
    """A random graph of up to `most` steps with one to three outputs."""
    steps = Steps(Drawn(draw))
    choices = steps.choices
    first_inputs(steps)
    inputs = len(steps.items)
    for _ in range(choices.number(1, most)):
        choices.one(STEPS)(steps, ANY)
    made = steps.items[inputs:] or steps.items
    outputs = [made[-1]]
    for _ in range(choices.number(0, 2)):
        outputs.append(choices.one(made))
    return steps.sketch.case(outputs)


def rolled(seed: int, number: int) -> Case:
    """Graph `number` of a seed: every second has no symbols, each some of the pairs.

    All that nothing reads is an output, so that every step is seen.
    """
    steps = Steps(Rolled(f"graph {seed} {number}"), static=number % 2 == 0, most=3000)
    choices, pairs = steps.choices, legal_pairs()
    first_inputs(steps)
    # Each round of graphs takes the pairs in another order.
    wanted = [number * PAIRS + k for k in range(PAIRS)]
    todo = [_pair(seed, k // len(pairs), k % len(pairs)) for k in wanted]
    plan = [(step_about(p), Want(*p)) for p in todo]
    plan += [(choices.one(STEPS), ANY) for _ in range(choices.number(0, 4))]
    for step, want in choices.order(plan):
        step(steps, want)
    made = steps.unread() or steps.items[-1:]
    return steps.sketch.case(made)


def _pair(seed: int, turn: int, k: int) -> tuple[str, str]:
    pairs = legal_pairs()
    order = random.Random(f"pairs {seed} {turn}").sample(range(len(pairs)), len(pairs))
    return pairs[order[k]]


def rolled_sizes(seed: int, number: int, count: int) -> list[dict[str, int]]:
    """Values for the symbols of a rolled graph."""
    chosen = random.Random(f"sizes {seed} {number}")
    return [{k: chosen.choice(v) for k, v in VALUES.items()} for _ in range(count)]


def walk_sizes(case: Case, drawn: Sequence[Sizes]) -> Iterator[Sizes]:
    """The drawn sizes that differ in the symbols that the case has."""
    seen = set()
    for sizes in drawn:
        key = tuple(sizes[s] for s in case.symbols())
        if key not in seen:
            seen.add(key)
            yield sizes
