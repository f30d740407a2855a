"""Gradients of calls in eval mode: made when first asked for.

Eager gives the results of a Layer in eval mode a gradient to its parameters, and hardly
anyone asks for it: the plan is the one for inference, which keeps nothing, and the
gradient, compiled by the first backward, is one over the call's inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pirol.compiler.autodiff import dependent, lifted, vjp, without_stops
from pirol.compiler.capture.joined import Some, joined
from pirol.compiler.capture.plans import LOCK, as_given, hints_of
from pirol.compiler.capture.training import (
    BACKWARD,
    Maker,
    Trained,
    TrainingPlans,
    depended,
    detached,
)
from pirol.compiler.errors import PirolError, Unsupported, message
from pirol.compiler.ir import Graph
from pirol.compiler.pipeline import Run, flatten
from pirol.compiler.runtime import Compiled
from pirol.prim import Facts


class Late(Trained):
    """The gradient of a program whose plan keeps nothing, for the tensors that
    `plans.wrt` names."""

    def __init__(self, plans: TrainingPlans, tensors: Sequence[Any]) -> None:
        self.name, self.drawn, self.private = "", [], True
        self.backwards, self.agains = {}, {}
        self.program = plans.program = plans.read()
        graph = self.program.graph
        self.hints = hints_of(graph, [tensors[k] for k in self.program.inputs])
        self.make = Maker(plans, self.program, self.hints, Run())
        wrt = [at for at, k in enumerate(self.program.inputs) if k in plans.wrt]
        self.wrt = tuple(depended(graph, graph, wrt))
        self.active = tuple(sorted(dependent(graph, self.wrt)))
        self.know_types(graph)

    @property
    def fits(self) -> bool:
        """Whether the inputs tell all: nothing is drawn at random or written."""
        graph = self.program.graph
        if any(op.attrs.get("effect") for op in graph.walk()):
            return False
        if not graph.writes:
            return True
        # A batch norm writes statistics, which in eval mode are those that it has.
        flat = without_stops(self.flat)
        return all(value is flat.inputs[k] for k, value in flat.writes)

    def joined(self, tensors: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
        """A call's outputs, with a gradient to the tensors."""
        used = [tensors[k] for k in self.program.inputs]
        own, _ = detached(used, outputs, ())
        return joined(self, used, used, own) if self.wrt else own

    @cached_property
    def flat(self) -> Graph:
        return flatten(self.program.graph, Facts(self.hints), self.make.run)

    @cached_property
    def alone(self) -> Graph:  # type: ignore[override]
        return lifted(self.flat)[0]

    def backward(self, some: Some) -> Compiled:
        """The plan of some gradients, over the inputs and the cotangents."""
        with LOCK:
            if some not in self.backwards:
                try:
                    graph = vjp(self.alone, wrt=[self.wrt[k] for k in some])
                    self.backwards[some] = self.make(graph, as_given(graph), BACKWARD)
                except Unsupported as error:
                    raise PirolError(
                        message(
                            "backward in eval mode",
                            got=str(error),
                            expected="ops that have gradients",
                            next_step="in train mode Paddle runs such a program",
                        )
                    ) from error
            return self.backwards[some]
