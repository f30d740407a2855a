"""Graph@PIR -> fused graph -> Plan: the passes in order, dumped and verified.

result = lower(graph, hints={"s0": 8}); result.plan
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pirol.compiler.ir import Graph
from pirol.compiler.verify import verify
from pirol.kernels.lower import Refusal, build_nest
from pirol.kernels.profit import unprofitable
from pirol.passes.calls import claim, inline
from pirol.passes.canonicalize import canonicalize
from pirol.passes.decompose import decompose
from pirol.passes.fuse import Refused, fuse
from pirol.passes.plan import Plan, plan
from pirol.prim import Facts

Progress = Callable[[str, float], None]


@dataclass
class Lowered:
    """The plan, what led to it, and the graph after each pass, by the pass's name."""

    plan: Plan
    refused: list[Refused]
    stages: dict[str, Graph] = field(default_factory=dict)


def lower(
    graph: Graph, hints: Mapping[str, int], progress: Progress | None = None
) -> Lowered:
    """Run the passes on a captured graph; `hints` are the first call's sizes."""
    stages: dict[str, Graph] = {"capture": graph}
    verify(graph, "pir")
    refused: list[Refused] = []

    def fuse_all(g: Graph) -> Graph:
        fused, found = fuse(g, fusible)
        refused.extend(found)
        return fused

    passes: tuple[tuple[str, Callable[[Graph], Graph], str], ...] = (
        ("decompose", lambda g: decompose(g, Facts(hints)), "calls"),
        ("canonicalize", canonicalize, "calls"),
        ("claim", claim, "calls"),
        ("inline", inline, "flat"),
        ("canonicalize-2", canonicalize, "flat"),
        ("fuse", fuse_all, "fused"),
    )
    for at, (name, run, level) in enumerate(passes):
        graph = run(graph)
        verify(graph, level)
        stages[name] = graph
        if progress is not None:
            progress(name, (at + 1) / (len(passes) + 1))
    _dump(stages)
    return Lowered(plan(graph), refused, stages)


def fusible(body: Graph) -> Refusal | None:
    """Fusion's question: may these ops be one kernel?"""
    nest = build_nest(body)
    return nest if isinstance(nest, Refusal) else unprofitable(body, nest)


def dump_folder(name: str) -> Path | None:
    """A fresh folder for a dump under PIROL_DUMP, or None where it is not set."""
    base = os.environ.get("PIROL_DUMP")
    if not base:
        return None
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
