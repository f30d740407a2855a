"""Plans on disk: what a later process needs to run a program without a pass.

A plan is `KEY.plan` with its SHA-256 in `KEY.sum`, beside the kernels that it launches
(kernels/build.py). The key is of all that decides it: the program as captured, the
sizes that it was made for, Pirol's own text, the machine. Groups are kept without
their bodies, since their kernels are built.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pirol.compiler.dims import parse, symbol, to_text
from pirol.compiler.donate import Donated, donated
from pirol.compiler.errors import PirolError
from pirol.compiler.ir import Graph, Guard, Op, symbols_in
from pirol.compiler.runtime import Code
from pirol.compiler.text import parse_graph, print_graph
from pirol.kernels import build
from pirol.kernels.build import cache_folder, short_key, valid
from pirol.kernels.build import key_of as key_of_text
from pirol.passes.plan import Launch, Plan, is_reshape, plan


@dataclass(frozen=True)
class Ready:
    """A plan, the facts about dims that it was made under, its launches' kernels, and
    what of it was donated."""

    plan: Plan
    facts: tuple[Guard, ...]
    codes: tuple[Code, ...]
    donated: Donated | None = None


def key_of(
    graph: Graph, sizes: Mapping[str, int], target: str = "cpu", also: str = ""
) -> str:
    """The key of the plan of a graph for a first call of these sizes on a target; also:
    what else is done to the graph."""
    numbers = f"{target}\n{also}\n{sorted(sizes.items())}"
    facts = f"{_package()}\n{numbers}\n{print_graph(graph)}"
    return key_of_text(facts) if target.startswith("cpu") else short_key(facts)


@functools.lru_cache(maxsize=1)
def _package() -> str:
    """A digest of Pirol's own text."""
    digest = hashlib.sha256()
    for part in ("compiler", "prim", "passes", "kernels"):
        found = importlib.import_module(f"pirol.{part}").__file__
        for path in sorted(Path(str(found)).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def find(key: str, suffix: str = ".so") -> Ready | None:
    """The plan of a key, if it is whole and all its kernels' files are there."""
    with contextlib.suppress(OSError, PirolError, ValueError):
        folder = cache_folder()
        path = folder / f"{key}.plan"
        if valid(path):
            found = _read(path.read_text())
            os.utime(path)
            keys = {c.key for c in found.codes}
            if all(valid(folder / f"{k}{suffix}") for k in keys):
                return found
    return None


def keep(key: str, ready: Ready) -> None:
    """Write a plan to disk; where that is not possible, nothing is."""
    with contextlib.suppress(OSError, PirolError):
        build.keep(cache_folder() / f"{key}.plan", _text(ready).encode())


def _text(ready: Ready) -> str:
    ops = map(_bare, ready.plan.graph.ops)
    entry = {
        "facts": [[g.kind, to_text(g.a), to_text(g.b)] for g in ready.facts],
        "codes": list(map(_code_text, ready.codes)),
        "graph": print_graph(ready.plan.graph.with_ops(ops)),
    }
    if ready.donated is not None:
        parts = ready.donated.memory, ready.donated.places
        entry["donated"] = [list(part.items()) for part in parts]
    return json.dumps(entry)


def _bare(op: Op) -> Op:
    """The op without its body, but with the sizes that are read there."""
    if op.body is None or is_reshape(op):
        return op
    names = set().union(*(symbols_in(tuple(o.attrs.values())) for o in op.body.walk()))
    sizes = {"sizes": tuple(map(symbol, sorted(names)))} if names else {}
    return replace(op, body=None, attrs={**op.attrs, **sizes})


def _code_text(c: Code) -> list[Any]:
    sizes = map(to_text, (c.rows, c.grain, c.scratch))
    return [c.name, c.key, list(map(to_text, c.params)), *sizes]


def _read(text: str) -> Ready:
    entry = json.loads(text)
    found = plan(parse_graph(entry["graph"]))
    facts = tuple(Guard(kind, parse(a), parse(b)) for kind, a, b in entry["facts"])
    codes = tuple(map(_code, entry["codes"]))
    if len(codes) != sum(isinstance(s, Launch) for s in found.steps):
        raise ValueError("not a kernel for each launch")
    if "donated" not in entry:
        return Ready(found, facts, codes)
    memory, places = entry["donated"]
    again = Donated(dict(memory), {k: (a, b, c) for k, (a, b, c) in places})
    return Ready(donated(found, again), facts, codes, again)


def _code(parts: list[Any]) -> Code:
    name, key, params, *sizes = parts
    rows, grain, scratch = map(parse, sizes)
    return Code(name, key, tuple(map(parse, params)), rows, grain, scratch)
