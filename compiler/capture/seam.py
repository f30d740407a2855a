"""The seam with to_static: Paddle's own program layer, run by Pirol where it can.

Options travel as a BuildStrategy through StaticFunction and SOT to the one factory
that makes program layers; there ours takes the place of Paddle's.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from enum import Enum
from typing import Any

import paddle
from paddle.jit.dy2static import pir_partial_program as partial

from pirol.compiler.capture import native
from pirol.compiler.capture.ops import caller
from pirol.compiler.capture.reader import Program, read
from pirol.compiler.errors import PirolError, StrictError
from pirol.compiler.interpreter import bind_symbols
from pirol.compiler.pipeline import Progress, dump_folder, lower
from pirol.compiler.report import Report
from pirol.compiler.runtime import Compiled, assemble

MAX_VARIANTS = 16  # plans kept for one program; a call beyond them is Paddle's
_LOCK = threading.RLock()  # tracing and compiling use Paddle's process-wide state


class PirolWarning(UserWarning):
    """Something runs as Paddle runs it, and not compiled by Pirol."""


class Options(paddle.static.BuildStrategy):  # type: ignore[misc]
    """What a user asked of `pirol.to_static`, and the report of what came of it."""

    def __init__(
        self, *, strict: bool = False, progress: Progress | None = None
    ) -> None:
        super().__init__()
        self.strict = strict or os.environ.get("PIROL_STRICT", "") not in ("", "0")
        self.progress = progress
        self.report = Report()

    def fall_back(self, op: str, why: str, line: str = "") -> None:
        """Note that Paddle runs something: raise if strict, else warn once."""
        first = self.report.fall_back(op, why, line)
        if self.strict:
            where = f" at {line}" if line else ""
            raise StrictError(
                f"{op}{where}: Pirol cannot compile it ({why}); expected a compiled "
                "program under strict; drop strict=True to let Paddle run it"
            )
        if first and len(self.report.fallbacks) == 1:
            text = f"Paddle runs {op}: {why}; pirol.explain(...) lists all such"
            warnings.warn(text, PirolWarning, stacklevel=2)


class Left(Enum):
    """A call that is left to Paddle: no plan serves it, or a step of one raised."""

    REFUSED = 0
    FAILED = 1


class CompiledLayer(partial.PartialProgramLayer):  # type: ignore[misc]
    """A program layer whose calls Pirol's plans serve; Paddle's own run is the rest."""

    def __call__(self, inputs: Any) -> Any:
        """Run on the (nested) inputs of an AST program."""
        found = self._serve(self._prepare_inputs(inputs))
        if isinstance(found, Left):
            return self._state().paddles(super().__call__, inputs, found)
        return self._remove_no_value(self._restore_out(found))

    def sot_call(self, inputs: Any) -> Any:
        """Run on the flat inputs of an SOT program."""
        found = self._serve(list(inputs))
        if isinstance(found, Left):
            return self._state().paddles(super().sot_call, inputs, found)
        return self._outputs.quick_restore(found)

    def _serve(self, tensors: list[Any]) -> list[Any] | Left:
        """The outputs, or why Paddle must run the call."""
        state = self._state()
        given = [*tensors, *self._params]
        if state.broken:
            return Left.REFUSED
        if self._needs_gradients(given):
            state.options.fall_back("the call", "gradients are needed")
            return Left.REFUSED
        with paddle.no_grad(), native.library_threads():
            return state.run(given)

    def _state(self) -> _State:
        state = self.__dict__.get("_pirol_state")
        if state is None:
            with _LOCK:
                state = self.__dict__.setdefault("_pirol_state", _State(self))
        return state  # type: ignore[no-any-return]

    def _needs_gradients(self, tensors: Sequence[Any]) -> bool:
        if not (self.training and paddle.is_grad_enabled()):
            return False
        return any(not t.stop_gradient for t in tensors)


class _State:
    """The plans of one program."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.options: Options = layer._build_strategy
        self.program: Program | None = None
        self.variants: list[Compiled] = []
        self.broken = False  # Paddle runs every call from now on

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
        result = run(inputs)
        self.broken = self.broken or why is Left.FAILED
        return result

    def attempt(self, tensors: list[Any]) -> list[Any] | None:
        """Run a plan that fits, made first if need be."""
        found = self.try_variants(tensors)
        if found is not None:
            return found
        with _LOCK:
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
                for k in variant.passed_on:
                    found[k] = found[k].detach()
                return found
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
        lowered = lower(program.graph, hints, self.options.progress)
        opaque = [op for op in lowered.plan.graph.ops if op.name == "opaque"]
        for op in opaque:
            self.options.fall_back(op.title, str(op.attrs["why"]), op.line)
        native.start()
        made = assemble(lowered.plan, program.graph, caller(program))
        if self.options.progress is not None:
            self.options.progress("kernels", 1.0)
        self.options.report.add(lowered, made)
        _dump(made)
        return made

    def read(self) -> Program:
        runnable = self.layer.origin_runnable_program
        inputs = [*runnable.x_values, *runnable.param_values]
        return read(runnable.program, inputs, runnable.out_values)


def _dump(made: Compiled) -> None:
    folder = dump_folder("kernels")
    if folder is not None:
        for number, built in enumerate(made.kernels):
            (folder / f"{number:03}-{built.kernel.name}.c").write_text(built.source)


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
    return ""


_PADDLES = partial.partial_program_from
