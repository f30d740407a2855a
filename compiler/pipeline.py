"""Graph@PIR -> fused graph -> Plan: the passes in order, dumped and verified.

result = lower(graph, hints={"s0": 8}); result.plan
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pirol.compiler.autodiff import Level, branch_gradient, without_stops
from pirol.compiler.errors import PirolError, message
from pirol.compiler.ir import Graph, Guard
from pirol.compiler.verify import verify
from pirol.kernels.batches import batches
from pirol.kernels.lower import Refusal, build_nest
from pirol.kernels.profit import unprofitable
from pirol.passes.attention import attention
from pirol.passes.calls import claim, inline
from pirol.passes.canonicalize import canonicalize
from pirol.passes.complex_parts import complex_parts
from pirol.passes.conv_grads import conv_grads
from pirol.passes.convolutions import convolutions
from pirol.passes.decompose import decompose
from pirol.passes.fuse import Refused, fuse
from pirol.passes.halves import halves
from pirol.passes.neighbours import neighbours
from pirol.passes.paddings import paddings
from pirol.passes.plan import Plan, plan
from pirol.passes.products import products
from pirol.passes.rows import rows
from pirol.passes.siblings import siblings
from pirol.passes.sink import sink
from pirol.passes.split import split_reductions
from pirol.passes.strips import strips
from pirol.passes.transforms import lines, transforms
from pirol.passes.turns import turns
from pirol.passes.windows import windows
from pirol.prim import Facts

Progress = Callable[[str, float], None]
Pass = Callable[[Graph], Graph]


@dataclass
class Lowered:
    """The plan, what led to it, and the graph after each pass, by the pass's name."""

    plan: Plan
    refused: list[Refused]
    facts: tuple[Guard, ...]  # what was assumed of dims
    stages: dict[str, Graph] = field(default_factory=dict)


def lower(
    graph: Graph,
    hints: Mapping[str, int],
    progress: Progress | None = None,
    own: Sequence[Pass] = (),
    level: str = "pir",
    target: str = "cpu",
    levels: Sequence[Level] = (),
) -> Lowered:
    """Run the passes on a graph as captured, or as decomposed and exported ("calls"),
    for a target, keys of FOR with "+" between; `hints` are the first call's sizes,
    `levels` say which gradient of a branch is wanted in its place.

    The user's `own` passes run on primitives ("flat"), before those are fused; one with
    the attribute `level = "calls"` runs while composite ops are still calls.
    """
    run = Run(progress, tuple(own))
    alone = "alone" in target.split("+")
    flat = flatten(graph, Facts(hints), run, level, alone)
    if levels:
        flat = run.stages["gradient"] = branch_gradient(flat, levels)
    return finish(without_stops(flat), run, target)


@dataclass
class Run:
    """What passes ran so far: the graph after each, and what was assumed of dims."""

    progress: Progress | None = None
    own: tuple[Pass, ...] = ()
    stages: dict[str, Graph] = field(default_factory=dict)
    facts: tuple[Guard, ...] = ()

    def through(self, passes: Sequence[tuple[str, Pass, str]], graph: Graph) -> Graph:
        """The graph after these passes: (name, pass, level that it leads to)."""
        for name, run, level in passes:
            before, graph = graph, run(graph)
            if run in self.own:
                graph = _checked(name, before, graph, level)
            verify(graph, level)
            self.stages[name] = graph
            if self.progress is not None:
                self.progress(name, len(self.stages) / (PASSES + len(self.own)))
        return graph


PASSES = 17  # at most, but for the user's own


def flatten(
    graph: Graph, facts: Facts, run: Run, level: str = "pir", alone: bool = False
) -> Graph:
    """The graph in primitives alone, but for what libraries or Paddle run."""
    run.stages["capture"] = graph
    verify(graph, level)
    captured: tuple[tuple[str, Pass, str], ...] = (
        ("decompose", lambda g: decompose(g, facts, alone), "calls"),
        ("canonicalize", canonicalize, "calls"),
    )
    passes: tuple[tuple[str, Pass, str], ...] = (
        *(captured if level == "pir" else ()),
        *_named(run.own, "calls"),
        ("claim", claim, "calls"),
        ("inline", inline, "flat"),
        ("turns", turns, "flat"),
    )
    graph = run.through(passes, graph)
    run.facts = tuple(facts.guards)
    return graph


def finish(graph: Graph, run: Run, target: str = "cpu") -> Lowered:
    """A flat graph's plan."""
    refused: list[Refused] = []

    kind, *_ = parts = target.split("+")

    def fuse_all(g: Graph) -> Graph:
        fused, found = fuse(g, fusible)
        refused.extend(found)
        return siblings(neighbours(sink(fused, fusible, kind), fusible), fusible)

    def strip(g: Graph) -> Graph:
        return strips(g, batches)

    alone = ("transforms", lines if "cufft" in parts else transforms, "flat")
    passes: tuple[tuple[str, Pass, str], ...] = (
        *([] if target == "cpu" else [alone]),
        ("complex_parts", complex_parts, "flat"),
        ("conv_grads", lambda g: conv_grads(g, apart=kind == "cpu"), "flat"),
        ("halves", halves, "flat"),
        ("canonicalize-2", canonicalize, "flat"),
        ("turns-2", turns, "flat"),
        *_named(run.own, "flat"),
        ("windows", windows, "flat"),
        *(run for part in parts for run in FOR[part]),
        ("fuse", fuse_all, "fused"),
        *((("strips", strip, "fused"),) if kind == "cpu" else ()),
    )
    graph = run.through(passes, graph)
    _dump(run.stages)
    return Lowered(plan(graph), refused, run.facts, run.stages)


# Passes on primitives that only some target wants: a device, then libraries in order;
# "alone": no Paddle.
FOR: dict[str, tuple[tuple[str, Pass, str], ...]] = {
    "cpu": (("paddings", paddings, "flat"), ("rows", rows, "flat")),
    "alone": (),
    "cufft": (),
    "cuda": (("split", split_reductions, "flat"),),
    "attention": (("attention", attention, "flat"),),
    "cublas": (("products", products, "flat"),),
    "cudnn": (("convolutions", convolutions, "flat"),),
}


def _named(own: Sequence[Pass], level: str) -> list[tuple[str, Pass, str]]:
    """The passes of a level with their names; equal names are numbered."""
    found: dict[str, Pass] = {}
    for run in own:
        if getattr(run, "level", "flat") == level:
            name = getattr(run, "__name__", type(run).__name__)
            found[name if name not in found else f"{name}-{len(found)}"] = run
    return [(name, run, level) for name, run in found.items()]


def _checked(name: str, before: Graph, after: object, level: str) -> Graph:
    """What a user's pass made: a valid graph of the same inputs and result types."""
    if not isinstance(after, Graph):
        got = type(after).__name__
        raise PirolError(message(f"pass {name}", got=got, expected="a Graph"))
    ends = [(g.inputs, [v.type for v in g.results]) for g in (before, after)]
    if ends[0] != ends[1]:
        raise PirolError(
            message(
                f"pass {name}",
                got="other inputs, or results of other types",
                expected="the inputs and result types that it was given",
            )
        )
    try:
        verify(after, level)
    except PirolError as error:
        raise PirolError(f"pass {name} made an invalid graph: {error}") from error
    return canonicalize(after)


def fusible(body: Graph) -> Refusal | None:
    """Fusion's question: may these ops be one kernel?"""
    nest = build_nest(body)
    return nest if isinstance(nest, Refusal) else unprofitable(body, nest)


def dumping() -> bool:
    """Whether PIROL_DUMP asks for dumps."""
    return bool(os.environ.get("PIROL_DUMP"))


def dump_folder(name: str) -> Path | None:
    """A fresh folder for a dump under PIROL_DUMP, or None where it is not set."""
    if not dumping():
        return None
    base = os.environ["PIROL_DUMP"]
    for number in range(10_000):
        folder = Path(base) / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    return None


def _dump(stages: Mapping[str, Graph]) -> None:
    folder = dump_folder("program")
    if folder is None:
        return
    for number, (name, graph) in enumerate(stages.items()):
        (folder / f"{number:02}-{name}.ir").write_text(str(graph))
