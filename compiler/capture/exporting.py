"""A compiled function or Layer -> Archive, which is compiled without Paddle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pirol.compiler.archive import RANDOM, Archive, Source
from pirol.compiler.capture.library import key_number
from pirol.compiler.capture.options import Options
from pirol.compiler.capture.saved import plain_name
from pirol.compiler.capture.seam import Slot
from pirol.compiler.dims import equal, substitute, symbols_of
from pirol.compiler.errors import PirolError, message
from pirol.compiler.ir import DTYPES, HALVES, Graph, Guard, Op, Value, rename
from pirol.compiler.pipeline import lower
from pirol.passes.counted import from_state
from pirol.prim import Facts

NATIVE = ("group", "sort", "check", "bind")
NEXT = "export a part of the program without them"


def archive(options: Options, targets: tuple[str, ...]) -> Archive:
    """The program of the last call, for the sizes' class that it was made for.

    Raises:
        PirolError: there was no call that a plan served, or the program has ops that
            only Paddle runs, or outputs that are no tensors.
    """
    layer = options.latest
    state = None if layer is None else layer._state((), layer.mixed)
    if layer is None or state is None or state.program is None or not state.variants:
        raise PirolError(
            "export: got a program that Pirol has not run; call it once, in eval mode "
            "or under paddle.no_grad(), and see pirol.explain"
        )
    hints, own = state.hints, options.passes
    program = from_state(state.program.graph)
    lowered = lower(program, hints, own=own, target="cpu+alone")
    left = [op for op in lowered.stages["fuse"].ops if op.name not in NATIVE]
    if left:
        raise PirolError(_refused(left))
    graph = _closed(lowered.stages["canonicalize"])
    given = len(layer.origin_runnable_program.x_values)
    held = [k for k, place in enumerate(state.program.inputs) if place >= given]
    graph = _rounded_weights(graph, held)
    sources, weights = _sources(layer, graph, state.program.inputs, given)
    return Archive(graph, sources, _form(layer), weights, targets)


def _closed(graph: Graph) -> Graph:
    """The graph with guards on what its inputs show: their types hold the facts that
    stand for other symbols."""
    shown = symbols_of(*(d for v in graph.inputs for d in v.shape))
    facts = Facts(guards=list(graph.guards)).substitution()
    known = {name: dim for name, dim in facts.items() if name not in shown}
    guards = [
        Guard(g.kind, substitute(g.a, known), substitute(g.b, known))
        for g in graph.guards
    ]
    told = [g for g in guards if g.kind != "eq" or equal(g.a, g.b) is not True]
    return replace(graph, guards=tuple(told))


def _rounded_weights(graph: Graph, held: list[int]) -> Graph:
    """The graph with weights that are read as halves only being such in the file."""
    users, inputs, replaced = graph.users(), [*graph.inputs], dict[Value, Value]()
    kept = {*graph.outputs, *(graph.inputs[k] for k, _ in graph.writes)}
    for k in held:
        value = graph.inputs[k]
        casts = [op.result for op in users[value] if op.name == "cast"]
        kinds = {v.dtype for v in casts}
        lone = len(casts) == len(users[value]) and len(kinds) == 1
        if value not in kept and lone and kinds <= {*HALVES}:
            inputs[k] = Value(replace(value.type, dtype=casts[0].dtype))
            replaced |= dict.fromkeys(casts, inputs[k])
    ops = [op for op in graph.ops if not replaced.keys() & {*op.results}]
    return rename(replace(graph, inputs=tuple(inputs), ops=tuple(ops)), replaced)


def _refused(ops: list[Op]) -> str:
    what = [f"{op.title}{f' ({op.line})' if op.line else ''}" for op in ops]
    got = ", ".join(dict.fromkeys(what))
    return message("export", got=f"ops that only Paddle runs: {got}", expected=NEXT)


def _sources(
    layer: Any, graph: Graph, places: list[int], given: int
) -> tuple[tuple[Source, ...], dict[str, Any]]:
    """Of each graph input, of which the caller gives so many; the weights by name."""
    runnable = layer.origin_runnable_program
    sources: list[Source] = []
    weights: dict[str, Any] = {}
    for value, place in zip(graph.inputs, places):
        if place < given:
            maker = runnable.x_values[place].get_defining_op()
            sources.append(Source(plain_name(maker.attrs()["name"]), False))
            continue
        parameter = layer._params[place - given]
        weights[parameter.name] = _weight(parameter, DTYPES[value.dtype][1])
        sources.append(Source(parameter.name, True))
    if len(graph.inputs) > len(places):
        weights[RANDOM] = np.array(key_number(), np.int64)
        sources.append(Source(RANDOM, True))
    names = [s.name for s in sources]
    if len(set(names)) < len(names):
        raise PirolError(f"export: two inputs have one name, of {', '.join(names)}")
    return tuple(sources), weights


def _weight(parameter: Any, dtype: Any) -> Any:
    """Its contents; NumPy's bfloat16 are bits to Paddle."""
    found = parameter.numpy()
    return found.view(dtype) if found.dtype == np.uint16 else found.astype(dtype)


def _form(layer: Any) -> Any:
    """How the outputs are nested, as in Archive."""
    slots = [Slot(k) for k in range(len(layer.origin_runnable_program.out_values))]
    return _nesting(layer._restore_out(slots))


def _nesting(item: Any) -> Any:
    if isinstance(item, Slot):
        return ["output", item.number]
    if isinstance(item, dict) and all(isinstance(k, str) for k in item):
        return ["dict", {k: _nesting(v) for k, v in item.items()}]
    if isinstance(item, (list, tuple)):  # a named one is a plain one to who loads it
        kind = "list" if isinstance(item, list) else "tuple"
        return [kind, [_nesting(v) for v in item]]
    if item is None or isinstance(item, (bool, int, float, str)):
        return ["value", item]
    raise PirolError(
        message(
            "export",
            got=f"an output of {type(item).__name__}",
            expected="tensors, numbers, lists, tuples and dicts of them",
        )
    )
