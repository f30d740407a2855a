"""Calls that need gradients: a forward and a backward plan, joined by hooks.

`Trained` is a flat graph, differentiated and cut in two (passes/partition.py). Where
its backward must be differentiable itself (create_graph), that is the graph of
gradients over inputs, Trained in its turn, so that nothing differentiates through what
a forward plan kept.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import paddle

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
from pirol.compiler.capture import native
from pirol.compiler.capture.options import Options
from pirol.compiler.capture.plans import LOCK, Plans, Prepared, as_given, built
from pirol.compiler.capture.reader import Program
from pirol.compiler.capture.walks import current
from pirol.compiler.dims import known
from pirol.compiler.errors import PirolError, message
from pirol.compiler.ir import BITS, INEXACT, Graph, prune
from pirol.compiler.pipeline import Run, finish, flatten
from pirol.compiler.runtime import Compiled, generate
from pirol.passes.partition import partition
from pirol.prim import Facts

Some = tuple[int, ...]
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

    def backward(self, some: Some) -> Graph:
        """The graph of some gradients, by their places in `wrt`."""
        outputs = tuple(self.gradients.outputs[k] for k in some)
        return prune(replace(self.gradients, outputs=outputs))


class Trained:
    """A graph and its gradient as a plan that Plans can run: its results have a
    gradient."""

    passed_on: Sequence[int] = ()
    own: Any = staticmethod(lambda found, given: found)

    def __init__(self, make: Maker, cut: Cut, original: Graph, name: str = "") -> None:
        self.make, self.cut, self.name, self.alone = make, cut, name, cut.alone
        self.active, self.wrt, self.kept = cut.active, cut.wrt, cut.kept
        self.drawn = cut.drawn
        self.forward = make(cut.forward, original, name)
        self.backwards: dict[Some, Compiled] = {}
        self.agains: dict[Some, Trained] = {}
        if not name:  # else Paddle may have no gradient for it, nor the user need one
            self.backward(cut.all)
        self.miss, self.learned = self.forward.miss, self.forward.learned
        self.native = self.forward.native
        self.count = len(cut.flat.outputs)
        self.private = self.keeps_apart()
        self.kinds = [cut.flat.inputs[k].dtype for k in cut.wrt]
        self.floats = [v.dtype if v.dtype in INEXACT else "" for v in cut.flat.outputs]

    def keeps_apart(self) -> bool:
        """Whether each output is a tensor of its own, and nothing kept is one: what is
        kept is then given ones, or nobody else's."""
        numbers = self.forward.plan.outputs
        own, kept = numbers[: self.count], numbers[self.count :]
        given = any(k < self.count for k in self.forward.passed_on)
        alone = len({*own}) == len(own) and {*own}.isdisjoint(kept)
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
                graph = vjp(alone, wrt=[self.wrt[k] for k in some])
                wrt = [*self.wrt, *range(len(alone.inputs), len(graph.inputs))]
                make, name = self.make, f"{self.name}gradient-"
                cut = Cut(graph, graph, wrt, make.hints, make.plans.options.recompute)
                self.agains[some] = Trained(make, cut, as_given(graph), name)
            return self.agains[some]

    def run(self, tensors: Sequence[Any]) -> list[Any] | None:
        """The outputs, joined to the tensors `wrt`; None where no plan fits."""
        before = list(tensors)
        for k in self.cut.written:
            before[k] = tensors[k].detach().clone()
        found = _run(self.forward, tensors)
        if found is None:
            return None
        outputs = self.forward.own(found[: self.count], tensors)
        kept = found[self.count :]
        if not self.private:
            outputs, kept = detached(tensors, outputs, kept)
        if not self.wrt:
            return outputs
        for j, k in self.cut.old.items():
            kept[j] = before[k]
        return Call(self, before, kept).joined(outputs)


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


def _run(plan: Compiled, tensors: Sequence[Any]) -> list[Any] | None:
    """A plan's outputs, which have no gradient."""
    if plan.native:
        return plan.run(tensors)
    with paddle.no_grad(), native.library_threads():
        return plan.run(tensors)


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


class Call:
    """What a walk back through a run needs of it; a walk gives the cotangents of the
    outputs first, and then asks for gradients."""

    def __init__(self, trained: Trained, tensors: list[Any], kept: list[Any]) -> None:
        self.trained, self.tensors, self.kept = trained, tensors, kept
        self.shapes: list[Any] = []
        self.watched = tensors if trained.private else [*tensors, *kept]
        self.versions = [t._inplace_version() for t in self.watched]
        self.cts: dict[int, Any] = {}
        self.found: dict[int, Any] = {}

    def take(self, output: int, ct: Any) -> None:
        """The cotangent of an output; the first one begins a walk."""
        if self.found:
            self.cts, self.found = {}, {}
        self.cts[output] = ct

    def gradient(self, k: int) -> Any:
        """The gradient of the k-th tensor of `wrt`; zeros where the walk has come to a
        leaf that it is not to reach."""
        if self.tensors and current.targets:
            tensor = self.tensors[self.trained.wrt[k]]
            if tensor.is_leaf and id(tensor) not in current.targets:
                return paddle.zeros(tensor.shape, tensor.dtype)
        if not self.found:
            current.after.append(self.end if current.retained else self.release)
        if k not in self.found:
            some = self.asked_for(k)
            self.found |= zip(some, self.gradients(some))
        return self.found[k]

    def asked_for(self, k: int) -> Some:
        """Places in `wrt` that a walk may ask for at once: the tensors that it is to
        reach, if they are among them; else all that are left."""
        at = self.trained.wrt
        left = [j for j in range(len(at)) if j not in self.found]
        if not current.targets:
            return tuple(left)
        reached = [j for j in left if id(self.tensors[at[j]]) in current.targets]
        return tuple(reached if k in reached else left)

    def gradients(self, some: Some) -> list[Any]:
        """Some gradients for the cotangents of the outputs."""
        trained, given = self.trained, self.cotangents()
        self.check_versions()
        plan: Any
        if current.differentiable:
            drawn = [self.kept[k] for k in trained.drawn]
            plan = trained.again(some)
            found = plan.run([*self.tensors, *drawn, *given])
        else:
            plan, used = trained.backward(some), [*self.kept, *given]
            found = _run(plan, used)
            if found and not (plan.native and not plan.repeated):
                found = _apart(found, used)
        if found is None:
            got, expected = plan.miss(), "cotangents of the outputs' types"
            raise PirolError(message("backward", got=got, expected=expected))
        return list(found)

    def cotangents(self) -> list[Any]:
        """Of all float outputs; zeros for those that the walk did not come through."""
        found = []
        for k, (dtype, shape) in enumerate(zip(self.trained.floats, self.shapes)):
            if dtype:
                ct = self.cts.get(k)
                found.append(paddle.zeros(shape, dtype) if ct is None else ct)
        return found

    def check_versions(self) -> None:
        """Raise as eager does where what the gradient needs is gone or was written."""
        if not self.versions:
            raise RuntimeError(
                message(
                    "backward",
                    got="a second walk through what the first one gave back",
                    expected="retain_graph=True at the first one",
                )
            )
        for tensor, version in zip(self.watched, self.versions):
            if tensor._inplace_version() != version:
                expected = f"version {version}: it was written since the forward run"
                got = f"{tensor.name} at version {tensor.inplace_version}"
                raise RuntimeError(message("backward", got=got, expected=expected))

    def end(self) -> None:
        """Give back what belongs to the walk."""
        self.cts, self.found = {}, {}

    def release(self) -> None:
        """Give back all that was kept."""
        self.end()
        self.tensors, self.kept, self.watched, self.versions = [], [], [], []

    def joined(self, outputs: Sequence[Any]) -> list[Any]:
        """The outputs with a gradient to the tensors `wrt`.

        By Paddle's own nodes: tensor -> view -> stack of all, unless it is the only one
        -> scale -> view, an output. Hooks take cotangents off the way and put gradients
        on it; in between are tokens, of one number each. Of one tensor to one output
        of its dtype: tensor -> view -> view, with one hook for both. (A PyLayer is not
        told which gradients are asked for, fails where it gives more, and crashes when
        it is walked a second time.)
        """
        self.shapes = [t.shape for t in outputs]
        ops, tokens, found = paddle._C_ops, [], list(outputs)
        only = self.only_pair()
        if only is not None:
            k, output = only
            with paddle.enable_grad():
                inner = _view(self.tensors[self.trained.wrt[k]])
                inner.data = outputs[output]
                through = functools.partial(_through, self, k, output)
                inner._register_grad_hook(through)
                found[output] = _view(inner)
            return found
        zero = _zeros(paddle.float32)
        with paddle.enable_grad():
            for k, at in enumerate(self.trained.wrt):
                tensor = self.tensors[at]
                if not tensor.stop_gradient:
                    token = _view(tensor)
                    token.data = zero
                    token._register_grad_hook(functools.partial(_gradient, self, k))
                    tokens.append(token)
            alone = len(tokens) == 1
            whole = tokens[0] if alone else ops.stack(tokens, 0)
            shape = () if alone else (len(tokens),)
            for k in self.trained.active:
                inner = ops.scale(whole, 1.0, 0.0, True)
                if self.trained.floats[k] != "float32":  # to which a cotangent is cast
                    inner = ops.cast(inner, outputs[k].dtype)
                inner.data = outputs[k]
                take = functools.partial(_take, self, k, shape)
                inner._register_grad_hook(take)
                found[k] = _view(inner)
        return found

    def only_pair(self) -> tuple[int, int] | None:
        """The place in `wrt` and the output, where these are all that are joined, and
        of one dtype."""
        at, active = self.trained.wrt, self.trained.active
        needing = [k for k, n in enumerate(at) if not self.tensors[n].stop_gradient]
        if len(needing) != 1 or len(active) != 1:
            return None
        k, output = needing[0], active[0]
        same = self.trained.kinds[k] == self.trained.floats[output]
        return (k, output) if same and 0 not in self.tensors[at[k]].shape else None


def _through(call: Call, k: int, output: int, ct: Any) -> Any:
    call.take(output, ct)
    return _gradient(call, k, ct)


def _gradient(call: Call, k: int, token: Any) -> Any:
    try:
        return call.gradient(k)
    except Exception as error:
        current.failed = error
        raise


def _take(call: Call, k: int, shape: Some, ct: Any) -> Any:
    call.take(k, ct)
    return _zeros(ct.dtype, *shape).detach()  # Paddle asks for the same dtype again


def _view(tensor: Any) -> Any:
    """The tensor behind a node of its own; Paddle has no views of nothing, and of the
    nodes instead concat's gives a gradient of the tensor's shape."""
    shape = tensor.shape
    if 0 in shape:
        return paddle._C_ops.concat([tensor], 0)
    return paddle._C_ops.view_shape(tensor, shape)


@functools.lru_cache
def _zeros(dtype: Any, *shape: int) -> Any:
    return paddle.zeros(shape, dtype)


def _apart(found: list[Any], given: Sequence[Any]) -> list[Any]:
    """The tensors, those copied that are given ones or occur twice: Paddle adds to
    gradients in place."""
    seen = {id(t) for t in given}
    for k, tensor in enumerate(found):
        if id(tensor) in seen:
            found[k] = tensor.clone()
        seen.add(id(tensor))
    return found
