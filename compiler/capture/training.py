"""Calls that need gradients: a forward and a backward plan, joined by hooks.

`Trained` is a flat graph, differentiated and cut in two (passes/partition.py). Where
its backward must be differentiable itself (create_graph), that is the graph of
gradients over inputs, Trained in its turn, so that nothing differentiates through what
a forward plan kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pirol.compiler.autodiff import (
    branch_gradient,
    dependent,
    drawn,
    drawn_apart,
    joint,
    lifted,
    loop_level,
    reaching,
    vjp,
    without_stops,
)
from pirol.compiler.capture.joined import AXES, Some, joined, run_plan
from pirol.compiler.capture.options import Options
from pirol.compiler.capture.plans import LOCK, Plans, Prepared, as_given, built
from pirol.compiler.capture.reader import Program
from pirol.compiler.dims import known, symbols_of
from pirol.compiler.ir import BITS, INEXACT, Graph, Value, prune
from pirol.compiler.pipeline import Run, finish, flatten
from pirol.compiler.runtime import Compiled, generate
from pirol.passes.partition import partition
from pirol.prim import Facts

BACKWARD = "backward"  # the plan of all gradients


class TrainingPlans(Plans):
    """The plans of a program for calls in which the tensors `wrt` need gradients;
    `kept_by_paddle` tells the bytes."""

    def __init__(
        self,
        options: Options,
        read: Callable[[], Program],
        wrt: Sequence[int],
        kept_by_paddle: Callable[[Program, Mapping[str, int]], int],
    ) -> None:
        super().__init__(options, read)
        self.wrt, self.kept_by_paddle = wrt, kept_by_paddle

    def made(self, program: Program, hints: dict[str, int]) -> Any:
        """A plan, and that of its gradient."""
        prepared: _Prepared = self.prepared(program, hints)
        made = Trained(prepared.make, prepared.cut, program.graph)
        run = prepared.make.run
        self.assumed.append(self.accept(made.forward.plan, run.facts))
        self.options.report.kept = made.kept, None
        self.options.report.unseen.append(lambda: self.compare_kept(made.kept, hints))
        return made

    def prepare(self, program: Program, hints: dict[str, int]) -> _Prepared:
        """Both graphs' passes, and their kernels' texts."""
        run = Run(self.options.progress, self.options.passes)
        flat = drawn_apart(flatten(program.graph, Facts(hints), run))
        wrt = [at for at, k in enumerate(program.inputs) if k in self.wrt]
        cut = Cut(flat, program.graph, wrt, hints, self.options.recompute)
        make = Maker(self, program, hints, run)
        make.prepare(cut.forward, "")
        try_branches(cut.gradients, hints)
        make.prepare(cut.backward(cut.all), BACKWARD)
        return _Prepared(make, cut)

    def compare_kept(self, ours: int, hints: Mapping[str, int]) -> None:
        """Tell the report what Paddle keeps, if it has a backward at all."""
        assert self.program is not None
        with LOCK, contextlib.suppress(Exception):
            self.options.report.kept = ours, self.kept_by_paddle(self.program, hints)


@dataclass(frozen=True)
class Maker:
    """Makes plans of flat graphs that a program led to; `ready` are those prepared."""

    plans: TrainingPlans
    program: Program
    hints: dict[str, int]
    run: Run
    ready: dict[str, Prepared] = field(default_factory=dict)

    def prepare(self, graph: Graph, name: str) -> None:
        """Do to a graph what needs nothing of Paddle's."""
        stages = {"capture": graph} if name else self.run.stages
        run = Run(None, self.run.own, stages, self.run.facts)
        lowered = finish(without_stops(graph), run)
        self.ready[name] = Prepared(lowered, generate(lowered.plan))

    def __call__(self, graph: Graph, original: Graph, name: str = "") -> Compiled:
        """The plan of a graph; a `name` says that it is not the program's own."""
        if name not in self.ready:
            self.prepare(graph, name)
        prepared = self.ready.pop(name)
        memories = () if name else self.program.memories
        program = replace(self.program, graph=graph, memories=memories)
        _, made = built(prepared, lambda r: self.plans.connected(r, program, original))
        lowered, kernels = prepared.lowered, prepared.kernels
        report = self.plans.options.report
        report.add(lowered, kernels, made, self.hints, whole=not name)
        return made


@dataclass(frozen=True)
class _Prepared:
    """A program cut in two, its plans prepared."""

    make: Maker
    cut: Cut

    def built(self) -> _Prepared:
        """Itself, with the kernels on disk."""
        for prepared in self.make.ready.values():
            prepared.built()
        return self


class Cut:
    """A flat graph, of the `whole` program, and its gradient with respect to the inputs
    `wrt`, as two graphs."""

    def __init__(
        self,
        flat: Graph,
        whole: Graph,
        wrt: Sequence[int],
        hints: dict[str, int],
        recompute: str,
    ) -> None:
        self.flat = flat
        wrt = depended(flat, whole, wrt)
        both = joint(flat, wrt, unused=True)
        self.active = tuple(sorted({*both.active, *dependent(whole, wrt)}))
        self.wrt = both.wrt
        self.alone, places = lifted(flat)
        at = drawn(both.graph)
        parts = partition(
            both.graph,
            len(flat.inputs),
            len(flat.outputs),
            hints,
            [at[k] for k in places],
            recompute,
        )
        there = {*both.graph.inputs, *both.graph.outputs[: len(flat.outputs)]}
        left = [v for v in parts.kept if v not in there]
        self.kept = sum(  # in bytes, but for what is there in any case
            known(v.type.size, hints) * BITS[v.dtype] // 8 for v in left
        )
        self.drawn = [parts.kept.index(at[k]) for k in places]
        # Inputs that the outputs depend on, and a run writes; and what is kept of them.
        alone = prune(replace(flat, writes=()))
        read = {*alone.outputs, *(v for op in alone.ops for v in op.operands)}
        self.written = [k for k, _ in flat.writes if flat.inputs[k] in read]
        own = {both.graph.inputs[k]: k for k in self.written}
        self.old = {j: own[v] for j, v in enumerate(parts.kept) if v in own}
        self.forward, self.gradients = parts.forward, parts.backward
        self.all = tuple(range(len(self.wrt)))
        self.whole = whole

    def reached(self, output: int) -> frozenset[int]:
        """Those of `wrt`, by their places there, that an output depends on."""
        flat, whole = (reaching(g, [output]) for g in (self.flat, self.whole))
        return frozenset(
            place
            for place, k in enumerate(self.wrt)
            if self.flat.inputs[k] in flat or self.whole.inputs[k] in whole
        )

    def backward(self, some: Some) -> Graph:
        """The graph of some gradients, by their places in `wrt`."""
        outputs = tuple(self.gradients.outputs[k] for k in some)
        return prune(replace(self.gradients, outputs=outputs))


class Trained:
    """A graph and its gradient as a plan that Plans can run: its results have a
    gradient."""

    passed_on: Sequence[int] = ()
    own = None

    def __init__(self, make: Maker, cut: Cut, original: Graph, name: str = "") -> None:
        self.make, self.cut, self.name, self.alone = make, cut, name, cut.alone
        self.active, self.wrt, self.kept = cut.active, cut.wrt, cut.kept
        self.drawn = cut.drawn
        self.forward = make(cut.forward, original, name)
        self.backwards: dict[Some, Compiled] = {}
        self.agains: dict[Some, Trained] = {}
        self.reaches: dict[int, frozenset[int]] = {}
        if not name:  # else Paddle may have no gradient for it, nor the user need one
            self.backward(cut.all)
        self.miss, self.learned = self.forward.miss, self.forward.learned
        self.native = self.forward.native
        self.count = len(cut.flat.outputs)
        self.private = self.keeps_apart()
        self.apart = self.private or self.keeps_apart(self.active)
        # What a run does besides is nothing.
        self.plain = self.apart and not (cut.written or cut.old or self.forward.own)
        self.know_types(cut.flat)

    @cached_property
    def is_pair(self) -> bool:
        """Whether one tensor leads to one output, of one dtype, and no other output
        could have a cotangent."""
        if len(self.wrt) != 1 or len(self.active) != 1:
            return False
        return [k for k in self.floats if k] == [self.kinds[0]] and bool(
            self.floats[self.active[0]]
        )

    def know_types(self, graph: Graph) -> None:
        """What the graph tells of tensors: dtypes, and axes of those never empty."""
        self.kinds = [graph.inputs[k].dtype for k in self.wrt]
        self.floats = [v.dtype if v.dtype in INEXACT else "" for v in graph.outputs]
        wide = len(self.active) == 1 and self.floats[self.active[0]] == "float64"
        self.token = "float64" if wide else "float32"  # of what joins them
        self.axes = [_axes(v) for v in graph.inputs]
        self.ends = [_axes(v) for v in graph.outputs]

    def reached(self, output: int) -> frozenset[int]:
        """Those of `wrt`, by their places there, that an output depends on."""
        if output not in self.reaches:
            self.reaches[output] = self.cut.reached(output)
        return self.reaches[output]

    def keeps_apart(self, but: Sequence[int] = ()) -> bool:
        """Whether each output is a tensor of its own, and nothing kept is one, `but`
        for some: what is kept is then given ones, or nobody else's."""
        numbers = self.forward.plan.outputs
        own, kept = numbers[: self.count], numbers[self.count :]
        given = any(k < self.count for k in self.forward.passed_on)
        others = [n for k, n in enumerate(own) if k not in but]
        alone = len({*own}) == len(own) and {*others}.isdisjoint(kept)
        return self.native and alone and not given

    def backward(self, some: Some) -> Compiled:
        """The plan of some gradients, by their places in `wrt`."""
        if some in self.backwards:  # without a wait for what others compile
            return self.backwards[some]
        with LOCK:
            if some not in self.backwards:
                graph, name = self.cut.backward(some), f"{self.name}{BACKWARD}"
                self.backwards[some] = self.make(graph, as_given(graph), name)
            return self.backwards[some]

    def again(self, some: Some) -> Trained:
        """Some gradients as a graph over inputs, what was drawn, and cotangents."""
        if some in self.agains:
            return self.agains[some]
        with LOCK:
            if some not in self.agains:
                alone = self.alone
                graph = told(vjp(alone, wrt=[self.wrt[k] for k in some]))
                wrt = [*self.wrt, *range(len(alone.inputs), len(graph.inputs))]
                make, name = self.make, f"{self.name}gradient-"
                cut = Cut(graph, graph, wrt, make.hints, make.plans.options.recompute)
                self.agains[some] = Trained(make, cut, as_given(graph), name)
            return self.agains[some]

    def run(self, tensors: Sequence[Any]) -> list[Any] | None:
        """The outputs, joined to the tensors `wrt`; None where no plan fits."""
        if self.plain:
            found = self.forward.run(tensors)
            if found is None:
                return None
            outputs, kept = found[: self.count], found[self.count :]
            return joined(self, [*tensors], kept, outputs) if self.wrt else outputs
        before = list(tensors)
        for k in self.cut.written:
            before[k] = tensors[k].detach().clone()
        found = run_plan(self.forward, tensors)
        if found is None:
            return None
        outputs, kept = found[: self.count], found[self.count :]
        if self.forward.own:
            outputs = self.forward.own(outputs, tensors)
        if not self.apart:
            outputs, kept = detached(tensors, outputs, kept)
        if not self.wrt:
            return outputs
        for j, k in self.cut.old.items():
            kept[j] = before[k]
        return joined(self, before, kept, outputs)


def _axes(value: Value) -> list[int] | None:
    """The axes of what is never empty."""
    some = all(isinstance(d, int) and d for d in value.shape)
    return AXES[value.type.rank] if some else None


def told(graph: Graph) -> Graph:
    """The graph without guards on sizes that its inputs do not tell: the run that it is
    the gradient of has checked them."""
    dims = (d for v in graph.inputs for d in v.shape if not isinstance(d, int))
    sizes = {d.name for d in dims if d.is_Symbol}
    guards = (g for g in graph.guards if symbols_of(g.a, g.b) <= sizes)
    return replace(graph, guards=tuple(guards))


def depended(flat: Graph, whole: Graph, wrt: Sequence[int]) -> list[int]:
    """Those of the inputs that have a gradient: zeros where the whole program depends
    on one that its primitives do not read (softmax of no dims)."""
    every = range(len(flat.outputs))
    reached, needed, users = reaching(flat, every), reaching(whole, every), flat.users()
    return [
        k
        for k in wrt
        if flat.inputs[k] in reached
        or (whole.inputs[k] in needed and not users[flat.inputs[k]])
    ]


def detached(
    tensors: Sequence[Any], outputs: Sequence[Any], kept: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """Outputs that are tensors of their own, and what is kept none of these."""
    seen, made = {id(t) for t in tensors}, []
    for tensor in outputs:
        apart = id(tensor) in seen or not tensor.stop_gradient
        made.append(tensor.detach() if apart else tensor)
        seen.add(id(made[-1]))
    own = {id(t) for t in made}
    return made, [t.detach() if id(t) in own else t for t in kept]


def try_branches(graph: Graph, hints: Mapping[str, int]) -> None:
    """Raise Unsupported where a branch has no gradient, whose plan a walk will make."""
    for op in graph.ops:
        for branch in op.branches if "gradient" in op.attrs else ():
            flat = flatten(branch, Facts(dict(hints)), Run())
            loop = op.name == "pd_op.while"
            levels = [loop_level(op)] if loop else op.attrs["gradient"]
            try_branches(branch_gradient(flat, levels), hints)
