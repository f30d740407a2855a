"""A program's plans: one for each class of inputs, made when a call first needs it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import paddle

from pirol.compiler import cache
from pirol.compiler.capture import native
from pirol.compiler.capture.ops import caller
from pirol.compiler.capture.options import Options
from pirol.compiler.capture.reader import Program
from pirol.compiler.errors import PirolError, StrictError
from pirol.compiler.interpreter import bind_symbols
from pirol.compiler.ir import Graph
from pirol.compiler.pipeline import dump_folder, lower
from pirol.compiler.runtime import Compiled, assemble
from pirol.passes.plan import Plan

MAX_VARIANTS = 16  # plans kept for one program; a call beyond them is Paddle's
LOCK = threading.RLock()  # tracing and compiling use Paddle's process-wide state
# A fork waits for a compile to end: its child would find the lock taken for ever.
os.register_at_fork(
    before=LOCK.acquire,
    after_in_parent=LOCK.release,
    after_in_child=LOCK.release,
)


class Left(Enum):
    """A call that is left to Paddle: no plan serves it, or a step of one raised."""

    REFUSED = 0
    FAILED = 1


class Plans:
    """The plans of one program, made as calls ask for them; `read` imports it."""

    def __init__(
        self, options: Options, read: Callable[[], Program], whole: bool = True
    ) -> None:
        self.options = options
        self.whole = whole  # not a branch of a control op
        self.read = read
        self.program: Program | None = None
        self.variants: list[Compiled] = []
        self.broken = False  # Paddle runs every call from now on
        # Its executor runs a program for one thread at a time.
        self.paddle_lock = threading.RLock()

    def run(self, tensors: list[Any]) -> list[Any] | Left:
        """The outputs, or why Paddle must run the call."""
        try:
            found = self.attempt(tensors)
        except Exception as error:
            if self.options.strict:
                raise
            self.options.fall_back("the call", f"a step failed: {error}")
            return Left.FAILED
        return Left.REFUSED if found is None else found

    def paddles(self, run: Any, inputs: Any, why: Left) -> Any:
        """Paddle's own run. Where a step of ours failed and Paddle's run does not, the
        fault is the plan's; where both do, it is the input's, and Paddle names it."""
        with self.paddle_lock:
            result = run(inputs)
        self.broken = self.broken or why is Left.FAILED
        return result

    def attempt(self, tensors: list[Any]) -> list[Any] | None:
        """Run a plan that fits, made first if need be."""
        found = self.try_variants(tensors)
        if found is not None:
            return found
        with LOCK:
            found = self.try_variants(tensors)
            if found is not None or not self.compile(tensors):
                return found
        found = self.try_variants(tensors)
        if found is None and self.variants:
            why = f"the inputs fit no plan: {self.variants[-1].miss()}"
            self.options.fall_back("the call", why)
        return found

    def try_variants(self, tensors: list[Any]) -> list[Any] | None:
        if self.program is None:
            return None
        used = [tensors[k] for k in self.program.inputs]
        for variant in self.variants:
            found = variant.run(used)
            if found is not None:
                return _detached(variant, found)
        return None

    def quick(self, tensors: list[Any]) -> list[Any] | None:
        """A plan's outputs; None where no plan takes the tensors, or where one fails
        (the call's next way meets the failure again, and tells of it)."""
        if self.program is None:
            return None
        used = [tensors[k] for k in self.program.inputs]
        for variant in self.variants:
            try:
                if variant.native:
                    found = variant.run(used)
                else:
                    with paddle.no_grad(), native.library_threads():
                        found = variant.run(used)
            except Exception:
                return None
            if found is not None:
                return _detached(variant, found)
        return None

    def compile(self, tensors: list[Any]) -> bool:
        """Make a plan for inputs like these; False where Paddle must run the call."""
        if len(self.variants) >= MAX_VARIANTS:
            self.options.fall_back("the call", f"more than {MAX_VARIANTS} plans")
            return False
        if self.variants and not self.misses_facts():
            return True
        try:
            self.variants.append(self.compiled(tensors))
        except StrictError:
            raise
        except Exception as error:  # whatever it is, the user's program still runs
            self.broken = not self.variants
            known = isinstance(error, (PirolError, OSError))
            why = str(error) if known else f"internal error, {error!r}"
            self.options.fall_back("the program", why)
            return False
        return True

    def misses_facts(self) -> bool:
        """Whether another plan could serve what the last one refused."""
        return self.variants[-1].miss().startswith("guard")

    def compiled(self, tensors: list[Any]) -> Compiled:
        program = self.program or self.read()
        self.program = program
        shapes = [tensors[k].shape for k in program.inputs]
        hints = bind_symbols(program.graph, shapes)
        lowered = lower(
            program.graph, hints, self.options.progress, self.options.passes
        )
        opaque = [op for op in lowered.plan.graph.ops if op.name == "opaque"]
        for op in opaque:
            self.options.fall_back(op.title, str(op.attrs["why"]), op.line)
        native.start()
        made = self.assembled(lowered.plan, program)
        if self.options.progress is not None:
            self.options.progress("kernels", 1.0)
        self.options.report.add(lowered, made, hints, self.whole)
        _dump(made)
        return made

    def assembled(self, plan: Plan, program: Program) -> Compiled:
        call = caller(program, lambda graph: self.branch(program, graph))
        try:
            made = assemble(plan, program.graph, call)
        except OSError:  # another process may have trimmed the cache just now
            made = assemble(plan, program.graph, call)
        with contextlib.suppress(OSError):
            cache.used([k.source for k in made.kernels])
        return made

    def branch(self, program: Program, graph: Graph) -> Callable[..., list[Any]]:
        """A graph within a control op as a callable, compiled when first called."""
        inputs = list(range(len(graph.inputs)))
        inner = replace(program, graph=graph, inputs=inputs)
        plans = Plans(self.options, lambda: inner, whole=False)

        def run(tensors: Sequence[Any]) -> list[Any]:
            found = plans.attempt(list(tensors))
            if found is None:
                raise PirolError("a branch fits no plan")
            return found

        return run


def _detached(variant: Compiled, found: list[Any]) -> list[Any]:
    for k in variant.passed_on:
        found[k] = found[k].detach()
    return found


def _dump(made: Compiled) -> None:
    folder = dump_folder("kernels")
    if folder is not None:
        for number, built in enumerate(made.kernels):
            (folder / f"{number:03}-{built.kernel.name}.c").write_text(built.source)
