"""A whole training step as one program: loss, gradients, clip and update.

`TrainStep` is the callable that `pirol.train_step` returns. For each program that is
captured of layer and loss it has a `_Step`: the parameters that the program trains, the
optimizer's state, and plans that update both in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import paddle
from paddle import nn

from pirol.compiler import stored
from pirol.compiler.autodiff import drawn_apart, reaching, without_stops
from pirol.compiler.capture import native, optimizers
from pirol.compiler.capture.autocast import asked, refused
from pirol.compiler.capture.optimizers import Trained
from pirol.compiler.capture.options import Options
from pirol.compiler.capture.orders import captured
from pirol.compiler.capture.plans import LOCK, Left, Plans, Prepared, built
from pirol.compiler.capture.quick import TENSORS
from pirol.compiler.capture.reader import Program, dtype_name
from pirol.compiler.capture.seam import CompiledLayer
from pirol.compiler.capture.training import try_branches
from pirol.compiler.donate import Donated, donate
from pirol.compiler.errors import PirolError, Unsupported
from pirol.compiler.ir import Graph, TensorType, Value
from pirol.compiler.pipeline import Lowered, Run, finish, flatten
from pirol.compiler.runtime import Compiled, generate
from pirol.compiler.stored import Ready
from pirol.passes.amp import Mixed
from pirol.passes.update import Update, train_step
from pirol.prim import Facts

MOST = 4  # programs tried one after the other for inputs of one kind


class WithLoss(nn.Layer):  # type: ignore[misc]
    """A layer and what is minimised of it, as one layer."""

    def __init__(self, layer: Any, loss: Any) -> None:
        super().__init__()
        self.layer = layer
        self.loss = loss

    def forward(self, inputs: Sequence[Any], labels: Sequence[Any]) -> Any:
        """The loss, or what begins with it."""
        found = self.layer(*inputs)
        if self.loss is None:
            return found
        outputs = found if isinstance(found, (list, tuple)) else [found]
        return self.loss(*outputs, *labels)


class TrainStep:
    """See pirol.train_step."""

    def __init__(
        self,
        layer: Any,
        loss: Any,
        optimizer: Any,
        labels: int,
        compiled: Callable[[Any], Any],
        options: Options,
    ) -> None:
        self.layer, self.optimizer, self.labels = layer, optimizer, labels
        self._eager, self._compiled = WithLoss(layer, loss), compiled
        self._pirol_options = options
        self._asked: list[Any] = []  # the optimizer's options
        self._trained: list[Trained] | str = ""  # or why it must not be compiled
        self._numbers = Numbers()
        self._whole: Any = None
        self._steps: dict[Any, _Step | PirolError] = {}  # by program; or why not
        self._known: dict[Any, list[_Step]] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Train on one batch: inputs of the layer, then labels."""
        trained = self._look()
        if self._whole is None:
            self._whole = self._compiled(WithLoss(self.layer, self._eager.loss))
        whole = self._whole
        whole.training = self.layer.training
        mixed = asked()
        why = trained if isinstance(trained, str) else refused(mixed)
        if why:
            return self._plainly(whole, inputs, why)
        if not all(type(t) in TENSORS for t in inputs):
            return self._newly(whole, inputs, [], mixed)
        state = whole.forward.settled()
        if state is None:
            return self._plainly(self._eager, inputs)
        key = (state, mixed, *(t.stop_gradient for t in inputs))
        steps = self._known.setdefault(key, [])
        for step in steps:
            found = step.known(inputs)
            if found is not None:
                return found
        return self._newly(whole, inputs, steps, mixed)

    def _look(self) -> list[Trained] | str:
        """What is trained and how, or why that cannot be compiled. What was captured
        and compiled for other options, but for their numbers, is forgotten: which
        parameters stop gradients is part of a captured program."""
        now: list[Trained] | str
        try:
            asked = optimizers.options(self.optimizer)
            if asked == self._asked:
                return self._trained
            self._asked = asked
            now, self._numbers.values = optimizers.trained(self.optimizer)
        except Unsupported as error:
            now = str(error)
        if now != self._trained:
            self._trained = now
            self._whole, self._steps, self._known = None, {}, {}
        return now

    def _newly(
        self,
        whole: Any,
        inputs: Sequence[Any],
        steps: list[_Step],
        mixed: Mixed | None,
    ) -> Any:
        """The way through Paddle's own key, compiling where that is needed."""
        given = self._split(inputs)
        with paddle.enable_grad():
            program = whole.forward.get_concrete_program
            training = whole.training
            _, layer = captured(lambda: program(*given, is_train=training))
        if not isinstance(layer, CompiledLayer):
            return self._plainly(whole, inputs, "the program was not captured")
        step = self._step(layer, mixed)
        if isinstance(step, PirolError):
            run = self._eager if isinstance(step, Sparse) else whole
            return self._plainly(run, inputs, str(step))
        tensors = layer._prepare_inputs(given)
        found = step.run(tensors)
        if isinstance(found, Left):
            result = self._plainly(whole, inputs)
            step.plans.broken = step.plans.broken or found is not Left.REFUSED
            return result
        if step not in steps and len(steps) < MOST:  # of tensors alone
            steps.append(step)
        return found

    def _step(self, layer: CompiledLayer, mixed: Mixed | None) -> _Step | PirolError:
        """What trains by a program, or why that cannot be compiled."""
        key = layer, mixed
        if key not in self._steps:
            with LOCK:
                options, trained = self._pirol_options, self._trained
                assert not isinstance(trained, str)
                try:
                    rest = self.optimizer, trained, self._numbers, mixed
                    made = _Step(options, layer, *rest)
                    self._steps[key] = made
                except PirolError as error:
                    self._steps[key] = error
        return self._steps[key]

    def _split(self, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        count = len(inputs) - self.labels
        if count < 0:
            expected = f"{self.labels} label(s) behind the layer's inputs"
            raise TypeError(f"step: got {len(inputs)} tensors, expected {expected}")
        return [*inputs[:count]], [*inputs[count:]]

    def _plainly(self, whole: Any, inputs: Sequence[Any], why: str = "") -> Any:
        """The whole's forward and backward, and the optimizer's own step."""
        if why:
            self._pirol_options.fall_back("the update", why)
        with paddle.enable_grad():
            found = whole(*self._split(inputs))
            self.optimizer.clear_grad()
            _first(found).backward()
            self.optimizer.step()
            self.optimizer.clear_grad()
        return paddle.utils.map_structure(_detached, found)


def _first(found: Any) -> Any:
    return found[0] if isinstance(found, (list, tuple)) else found


def _detached(found: Any) -> Any:
    return found.detach() if isinstance(found, paddle.Tensor) else found


class Numbers:
    """What the updates' Numbers are now."""

    def __init__(self) -> None:
        self.values: list[tuple[float, str]] = []
        self._made: list[tuple[tuple[float, str], Any]] = []

    def tensors(self) -> list[Any]:
        """As tensors, each made when its number changes."""
        if [v for v, _ in self._made] != self.values:
            known = dict(self._made)
            self._made = [(v, known.get(v, _scalar(*v))) for v in self.values]
        return [t for _, t in self._made]


def _scalar(value: float, dtype: str) -> Any:
    return paddle.to_tensor(value, dtype, "cpu")


class _Step:
    """The plans of one captured program, and what their calls are given."""

    def __init__(
        self,
        options: Options,
        layer: CompiledLayer,
        optimizer: Any,
        trained: Sequence[Trained],
        numbers: Numbers,
        mixed: Mixed | None,
    ) -> None:
        self.layer, self.optimizer, self.options = layer, optimizer, options
        self.numbers = numbers
        program = layer._read(mixed or options.amp, stops=True)
        places = {p.name: k for k, p in enumerate(layer._params)}
        count = len(layer.origin_runnable_program.x_values)
        inputs = {n: k for k, n in enumerate(program.inputs)}
        found, reached = [], reaching(program.graph, [0])
        for name, update in trained:
            at = inputs.get(count + places.get(name, -1 - count))
            if at is not None and program.graph.inputs[at] in reached:
                found.append((name, replace(update, parameter=at)))
        if not found:
            raise Unsupported("the loss depends on no parameter of the optimizer")
        _refuse_sparse(program)
        optimizers.create_states(optimizer, {name for name, _ in found})
        self.states = [(s, name) for name, u in found for s in u.rule.states]
        whole, updates = self.extended(program, [u for _, u in found])
        self.plans = StepPlans(options, whole, updates, len(numbers.values))

    def extended(
        self, program: Program, updates: Sequence[Update]
    ) -> tuple[Program, list[Update]]:
        """The program with further inputs, states, learning rate and numbers, and the
        updates with the places of those."""
        more = [Value(_type(t)) for t in self.rest()]
        at, found = len(program.graph.inputs), []
        for update in updates:
            after = at + len(update.rule.states)
            found.append(replace(update, states=tuple(range(at, after))))
            at = after
        graph = replace(program.graph, inputs=(*program.graph.inputs, *more))
        first = len(self.layer.origin_runnable_program.x_values)
        first += len(self.layer._params)
        numbers = [*program.inputs, *range(first, first + len(more))]
        return replace(program, graph=graph, inputs=numbers), found

    def rest(self) -> list[Any]:
        """The optimizer's state, learning rate and further numbers."""
        optimizer = self.optimizer
        found = [optimizers.state(optimizer, *which) for which in self.states]
        rate = optimizers.learning_rate(optimizer)
        return [*found, rate, *self.numbers.tensors()]

    def tensors(self, inputs: Sequence[Any]) -> list[Any]:
        """All that a plan takes."""
        return [*inputs, *self.layer._params, *self.rest()]

    def known(self, inputs: Sequence[Any]) -> Any:
        """The outputs, nested as the loss returned them, by a plan that there is; None
        where there is none, or where one failed."""
        try:
            with paddle.no_grad(), native.library_threads():
                found, _ = self.plans.tried(self.tensors(inputs))
        except self.plans.final:
            raise
        except Exception:
            return None
        return None if found is None else self.layer._form(found)

    def run(self, inputs: Sequence[Any]) -> Any:
        """The outputs, by a plan that is made first if need be, or why Paddle must run
        the call."""
        if self.plans.broken:
            return Left.REFUSED
        with paddle.no_grad(), native.library_threads():
            found = self.plans.run(self.tensors(inputs))
        return found if isinstance(found, Left) else self.layer._form(found)


class StepPlans(Plans):
    """The plans of a program with its updates, which write to inputs in place."""

    final = (MemoryError,)  # some parameters may be updated then, and must not be again

    def __init__(
        self,
        options: Options,
        program: Program,
        updates: Sequence[Update],
        numbers: int,
    ) -> None:
        super().__init__(options, lambda: program)
        self.updates, self.also = updates, f"train_step {updates!r}"
        self.numbers = numbers  # how many of the last inputs are

    def newly(self, program: Program, hints: dict[str, int], key: str) -> Compiled:
        """One plan for all of it, by all passes."""
        lowered, graph, taken = self.lowered(program, hints)
        kernels, whole = generate(lowered.plan), replace(program, graph=graph)

        def use(ready: Ready) -> Compiled:
            return self.assembled(ready, whole, program.graph)

        ready, made = built(Prepared(lowered, kernels), use)
        if key and made.native:  # else other graphs than the program's are needed
            stored.keep(key, replace(ready, donated=taken))
        self.options.report.add(lowered, kernels, made, hints)
        return made

    def lowered(
        self, program: Program, hints: dict[str, int]
    ) -> tuple[Lowered, Graph, Donated]:
        """The program of a whole step, lowered and not, and what of it is donated."""
        run = Run(self.options.progress, self.options.passes)
        flat = drawn_apart(flatten(program.graph, Facts(hints), run))
        end = len(program.graph.inputs)
        numbers = range(end - self.numbers, end)
        graph = train_step(flat, self.updates, numbers.start - 1, numbers)
        run.stages["train_step"] = graph
        try_branches(graph, hints)
        lowered = finish(without_stops(graph), run)
        plan, taken = donate(lowered.plan)
        return replace(lowered, plan=plan), graph, taken

    def look_into(self, hints: dict[str, int], made: Compiled) -> None:
        """Tell the report of a plan that came from disk."""
        assert self.program is not None
        with LOCK:
            lowered, _, _ = self.lowered(self.program, hints)
            kernels = generate(lowered.plan)
            self.options.report.add(lowered, kernels, made, hints)


def _type(tensor: Any) -> TensorType:
    return TensorType(tuple(tensor.shape), dtype_name(tensor.dtype))


class Sparse(Unsupported):
    """A gradient is sparse, which those of compiled programs are not."""


def _refuse_sparse(program: Program) -> None:
    for op in program.graph.walk():
        if op.attrs.get("sparse"):
            where = f" ({op.line})" if op.line else ""
            raise Sparse(f"{op.title}{where} has a sparse gradient")
