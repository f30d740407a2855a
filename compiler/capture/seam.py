"""The seam with to_static: Paddle's own program layer, run by Pirol where it can.

Options travel as a BuildStrategy through StaticFunction and SOT to the one factory
that makes program layers; there ours takes the place of Paddle's.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import paddle
from paddle.jit.dy2static import pir_partial_program as partial
from paddle.jit.dy2static.utils import RETURN_NO_VALUE_MAGIC_NUM as NO_VALUE

from pirol.compiler.capture import (
    arguments,
    arrays,
    autocast,
    differentiated,
    eagers,
    ends,
    gumbel,
    in_place,
    matrices,
    native,
    numbers,
    operators,
    orders,
    scalars,
    sizes,
    stacked,
    turning,
    undone,
    unrolled,
    unsized,
    views,
)
from pirol.compiler.capture.attributes import attributes
from pirol.compiler.capture.autocast import asked, refused
from pirol.compiler.capture.kept import kept_by_paddle
from pirol.compiler.capture.late import Late
from pirol.compiler.capture.options import Options
from pirol.compiler.capture.owned import memories
from pirol.compiler.capture.plans import LOCK, Left, Plans
from pirol.compiler.capture.reader import Program, read
from pirol.compiler.capture.records import restored
from pirol.compiler.capture.training import TrainingPlans
from pirol.compiler.capture.walks import follow
from pirol.compiler.errors import Unsupported
from pirol.passes.amp import Mixed, amp
from pirol.passes.counted import counted
from pirol.passes.ordered import WHY, ordered


class ForEager(Exception):
    """A call that Paddle's program must not run: an input is in the memory of one that
    it writes, or Paddle's gradient of it may end the process."""


class CompiledLayer(partial.PartialProgramLayer):  # type: ignore[misc]
    """A program layer whose calls Pirol's plans serve; Paddle's own run is the rest."""

    mixed: Mixed | None  # the auto_cast of the last call
    training: bool

    def __call__(self, inputs: Any) -> Any:
        """Run on the (nested) inputs of an AST program."""
        plans, found = self._serve(self._prepare_inputs(inputs))
        if isinstance(found, Left):
            if found is Left.SHARED or self._may_end:
                raise ForEager
            run = self._differentiable(super().__call__)
            try:
                return plans.paddles(run, inputs, found)
            except Exception:
                harmless = plans.only_reads or not self._is_made()
                last_served.failed = found is not Left.CHECKED and harmless
                raise
        last_served.layer = plans.options.latest = self
        return self._remove_no_value(self._restore_out(found))

    def quick(self, args: tuple[Any, ...], gradients: bool) -> tuple[Any] | None:
        """(The outputs as the function returns them,); None: go Paddle's way.

        gradients: whether an input that does not stop them needs them.
        """
        mixed = asked()
        if refused(mixed):
            return None
        tensors = [*args, *self._params]
        wanted = _needing(tensors) if gradients else ()
        late = None if self.training else self._late(args, wanted, mixed)
        plans = self._state(() if late else wanted, mixed)
        if plans.broken:
            return None
        found = plans.quick(tensors)
        if found is None:
            return None
        if late is not None:
            found = late.joined(tensors, found)
        plans.options.latest, self.mixed = self, mixed
        return (self._form(found),)

    @cached_property
    def _form(self) -> Callable[[list[Any]], Any]:
        """Tensors -> what the function returns of them; looked into once."""
        runnable = self.origin_runnable_program
        slots = [Slot(k) for k in range(len(runnable.out_values))]
        form = self._restore_out(slots)
        if _makes_no_value(runnable.program.global_block()):
            return lambda found: self._remove_no_value(self._restore_out(found))
        if isinstance(form, Slot):
            number = form.number
            return lambda found: found[number]
        if type(form) in (list, tuple) and all(type(s) is Slot for s in form):
            kind, order = type(form), [s.number for s in form]
            return lambda found: kind([found[k] for k in order])
        return self._restore_out

    def sot_call(self, inputs: Any) -> Any:
        """Run on the flat inputs of an SOT program."""
        plans, found = self._serve(list(inputs))
        if isinstance(found, Left):
            return plans.paddles(self._differentiable(super().sot_call), inputs, found)
        return self._outputs.quick_restore(found)

    def _is_made(self) -> bool:
        """Whether Paddle can make a program to run, and so may have run it."""
        try:
            with undone.kept():
                return self.program_id is not None
        except Exception:
            return False

    @cached_property
    def _may_end(self) -> bool:
        return views.may_end(self.origin_runnable_program.program)

    def _differentiable(self, run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Paddle's run, in eval mode too with the gradients that eager has, where
        Paddle can make such a program."""
        if self.training or not paddle.is_grad_enabled():
            return run

        def call(inputs: Any) -> Any:
            self.training = True
            try:
                return run(inputs)
            except Exception:
                self.training = False
                return run(inputs)
            finally:
                self.training = False

        return call

    def _restore_out(self, found: Any) -> Any:
        """As Paddle's; the function's dataclasses too."""
        return restored(super()._restore_out(found))

    def _remove_no_value(self, found: Any) -> Any:
        """As Paddle's; a named tuple from which nothing is missing stays what it is."""
        rest = super()._remove_no_value(found)
        named = type(rest) is tuple and hasattr(found, "_fields")
        return found if named and len(rest) == len(found) else rest

    def _serve(self, tensors: list[Any]) -> tuple[Plans, list[Any] | Left]:
        """The plans for such calls; the outputs, or why Paddle must run the call."""
        given = [*tensors, *self._params]
        mixed = self.mixed = asked()
        wanted = _needing(given) if paddle.is_grad_enabled() else ()
        late = self._late(tensors, wanted, mixed)
        plans = self._state(() if late else wanted, mixed)
        why = refused(mixed)
        if why:
            plans.options.fall_back("the call", why)
        if why or plans.broken:
            return plans, Left.REFUSED
        with paddle.no_grad(), native.library_threads(self._build_strategy.ordered):
            found = plans.run(given)
        if late is None or isinstance(found, Left):
            return plans, found
        return plans, late.joined(given, found)

    def _late(
        self, inputs: Sequence[Any], wanted: tuple[int, ...], mixed: Mixed | None
    ) -> Late | None:
        """How results of inference get a gradient, where no input asks for one."""
        if not wanted or self.training or _needing(inputs):
            return None
        found: dict[Any, Late | None] = self.__dict__.setdefault("_pirol_late", {})
        key = wanted, mixed
        if key not in found:
            with LOCK:
                if key not in found:
                    given = [*inputs, *self._params]
                    found[key] = self._made_late(given, wanted, mixed)
        return found[key]

    def _made_late(
        self, given: Sequence[Any], wanted: tuple[int, ...], mixed: Mixed | None
    ) -> Late | None:
        plans = self._plans(wanted, mixed)
        assert isinstance(plans, TrainingPlans)
        try:
            late = Late(plans, given)
            return late if late.fits else None
        except Exception:  # Paddle runs such a program, as its plans will tell
            return None

    def _state(self, wanted: tuple[int, ...] = (), mixed: Mixed | None = None) -> Plans:
        """The plans for calls in which these tensors need gradients, under such an
        auto_cast."""
        states: dict[Any, Plans] = self.__dict__.setdefault("_pirol_states", {})
        key = wanted, mixed
        if key not in states:
            with LOCK:
                states.setdefault(key, self._plans(wanted, mixed))
        return states[key]

    def _plans(self, wanted: tuple[int, ...], mixed: Mixed | None) -> Plans:
        options = self._build_strategy
        read = functools.partial(self._read, mixed or options.amp, stops=bool(wanted))
        if not wanted:
            return Plans(options, read)
        return TrainingPlans(
            options, read, wanted, functools.partial(kept_by_paddle, self)
        )

    def _read(self, mixed: Mixed | None, stops: bool) -> Program:
        runnable = self.origin_runnable_program
        inputs = [*runnable.x_values, *runnable.param_values]
        program = read(runnable.program, inputs, runnable.out_values, stops)
        graph = program.graph if mixed is None else amp(program.graph, mixed)
        if self._build_strategy.counted:
            graph = counted(graph)
        if self._build_strategy.ordered and stops:
            raise Unsupported(f"{WHY}, and so do its gradients")
        if self._build_strategy.ordered:
            graph = ordered(graph)
        return replace(
            program, graph=graph, memories=memories(inputs, runnable.out_values)
        )


MAKERS = ("pd_op.full", "pd_op.assign_value", "pd_op.assign_value_")


def _is_no_value(number: Any) -> bool:
    return isinstance(number, float) and math.isclose(number, NO_VALUE, rel_tol=1e-6)


def _makes_no_value(block: Any) -> bool:
    """Whether a program holds the number that to Paddle is a missing return value."""
    for op in block.ops:
        if op.name() in MAKERS:
            attrs = attributes(op)
            numbers = attrs["values"] if "values" in attrs else [attrs["value"]]
            if any(map(_is_no_value, numbers)):
                return True
        if any(map(_makes_no_value, op.blocks())):
            return True
    return False


def _needing(tensors: Sequence[Any]) -> tuple[int, ...]:
    """The numbers of those that do not stop gradients."""
    return tuple([k for k, t in enumerate(tensors) if not t.stop_gradient])


@dataclass(frozen=True)
class Slot:
    """Stands for an output."""

    number: int


class _LastServed(threading.local):
    """The program layer of this thread's last call that a plan served; whether Paddle's
    run of the program failed, though no check of the data did."""

    layer: CompiledLayer | None = None
    failed = False

    def forget(self) -> None:
        self.layer, self.failed = None, False


last_served = _LastServed()


def _partial_program_from(concrete: Any, from_method: bool = False) -> Any:
    layer = _PADDLES(concrete, from_method)
    if isinstance(concrete.kwargs.get("build_strategy"), Options):
        layer.__class__ = CompiledLayer
    return layer


NEEDED = ("_prepare_inputs", "_restore_out", "_remove_no_value", "sot_call")


def connect() -> str:
    """Put our factory in the place of Paddle's; what this Paddle lacks, or ""."""
    missing = [n for n in NEEDED if not hasattr(partial.PartialProgramLayer, n)]
    if missing:
        return f"this Paddle has no {', '.join(missing)}; Pirol needs paddlepaddle 3.3"
    partial.partial_program_from = _partial_program_from
    arguments.own()
    arrays.follow()
    follow()
    autocast.follow()
    differentiated.follow()
    in_place.follow()
    matrices.follow()
    eagers.follow()
    operators.follow()
    numbers.follow()
    orders.follow()
    scalars.follow()
    sizes.follow()
    unsized.follow()
    ends.follow()
    turning.follow()
    unrolled.follow()
    stacked.follow()
    gumbel.follow()
    return ""


_PADDLES = partial.partial_program_from
