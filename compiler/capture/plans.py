"""A program's plans: one for each class of inputs, made when a call first needs it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import paddle

from pirol.compiler import cache, stored
from pirol.compiler.autodiff import Level
from pirol.compiler.capture import native, undone
from pirol.compiler.capture.ahead import Ahead, Later
from pirol.compiler.capture.handed import with_copies
from pirol.compiler.capture.ops import caller
from pirol.compiler.capture.options import Options
from pirol.compiler.capture.owned import owned
from pirol.compiler.capture.reader import Program
from pirol.compiler.dims import symbol
from pirol.compiler.errors import BuildError, PirolError, StrictError, Unsupported
from pirol.compiler.interpreter import bind_symbols
from pirol.compiler.ir import Graph, Guard, TensorType, Value
from pirol.compiler.pipeline import Lowered, dump_folder, dumping, lower
from pirol.compiler.runtime import (
    Built,
    Compiled,
    assemble,
    compile_kernels,
    generate,
)
from pirol.compiler.stored import Ready
from pirol.passes.ordered import WHY
from pirol.passes.plan import Bind, Plan
from pirol.prim.builder import item_name, readable

MAX_VARIANTS = 16  # plans kept for one program; a call beyond them is Paddle's
MAX_TRIES = 4  # plans made for one call
LOCK = threading.RLock()  # tracing and compiling use Paddle's process-wide state
# A fork waits for a compile to end: its child would find the lock taken for ever.
os.register_at_fork(
    before=LOCK.acquire,
    after_in_parent=LOCK.release,
    after_in_child=LOCK.release,
)


class Left(Enum):
    """A call that is left to Paddle: no plan serves it, a step of one raised, a check
    of the data failed, or an input is in the memory of one that is written."""

    REFUSED = 0
    FAILED = 1
    CHECKED = 2
    SHARED = 3


class Plans:
    """The plans of one program, made as calls ask for them; `read` imports it."""

    final: tuple[type[Exception], ...] = ()  # errors after which nothing else may run
    also = ""  # what is done to the program besides, as part of a plan's key

    def __init__(
        self,
        options: Options,
        read: Callable[[], Program],
        whole: bool = True,
        levels: Sequence[Level] = (),
    ) -> None:
        self.options = options
        self.whole = whole  # not a branch of a control op
        self.levels = levels  # of a branch: which gradient of it runs in its place
        self.read = read
        self.program: Program | None = None
        self.variants: list[Compiled] = []
        self.assumed: list[Any] = []  # the facts that each variant is for
        self.native = False  # no plan has steps of Paddle's
        self.draws = False  # random numbers
        self.broken = False  # Paddle runs every call from now on
        self.why = ""  # the last plan could not be made
        self.hints: dict[str, int] = {}  # the sizes that the last plan was made for
        self.ahead: Ahead | None = None  # the next plan, made in the background
        # Its executor runs a program for one thread at a time.
        self.paddle_lock = threading.RLock()

    def run(self, tensors: list[Any]) -> list[Any] | Left:
        """The outputs, or why Paddle must run the call."""
        try:
            found = self.attempt(tensors)
        except self.final:
            raise
        except Exception as error:
            if self.options.strict:
                raise
            self.options.fall_back("the call", f"a step failed: {error}")
            paddles = str(error).startswith("(")  # (PreconditionNotMet) ..
            checked = isinstance(error, RuntimeError) and not paddles
            return Left.CHECKED if checked else Left.FAILED
        if found is not None:
            return found
        return Left.SHARED if self.misses_by_memory() else Left.REFUSED

    def paddles(self, run: Any, inputs: Any, why: Left) -> Any:
        """Paddle's own run. Where a step of ours failed and Paddle's run does not, the
        fault is the plan's; where both do, it is the input's, and Paddle names it."""
        with self.paddle_lock, undone.kept():
            result = run(inputs)
        self.broken = self.broken or why in (Left.FAILED, Left.CHECKED)
        return result

    @property
    def only_reads(self) -> bool:
        """Whether the program is known to write to no input, and to draw no numbers."""
        program = self.program
        return program is not None and not program.graph.writes and not self.draws

    def attempt(self, tensors: list[Any]) -> list[Any] | None:
        """Run a plan that fits, made first if need be. Each run that ends on its way
        has come upon sizes that the next plan is made for."""
        found, learned = self.tried(tensors)
        if found is not None:
            return found
        for _ in range(MAX_TRIES):
            with LOCK:
                found, learned = self.tried(tensors)
                if found is not None or not self.compile(tensors, learned):
                    return found
            found, learned = self.tried(tensors)
            if not learned:
                break
        if found is None and self.variants:
            why = f"the inputs fit no plan: {self.variants[-1].miss()}"
            self.options.fall_back("the call", why)
        return found

    def tried(self, tensors: list[Any]) -> tuple[list[Any] | None, dict[str, int]]:
        """The outputs by a plan that takes the tensors, or None; and the sizes that
        runs came upon. The random draws of a run that ended on its way are undone."""
        learned: dict[str, int] = {}
        if self.program is None:
            return None, learned
        used = [tensors[k] for k in self.program.inputs]
        if self.program.copies:
            for place in range(len(used) - self.program.copies, len(used)):
                used[place] = used[place].detach().clone()
        for variant in self.variants:
            found = _undone(variant.run, used) if self.draws else variant.run(used)
            if found is not None:
                for k in variant.passed_on:
                    found[k] = found[k].detach()
                return variant.own(found, used) if variant.own else found, {}
            learned |= variant.learned()
        return None, learned

    def quick(self, tensors: list[Any]) -> list[Any] | None:
        """A plan's outputs; None where no plan takes the tensors, or where one fails
        (the call's next way meets the failure again, and tells of it)."""
        try:
            if self.native:
                return self.tried(tensors)[0]
            with paddle.no_grad(), native.library_threads(self.options.ordered):
                return self.tried(tensors)[0]
        except Exception:
            return None

    def compile(self, tensors: list[Any], learned: dict[str, int]) -> bool:
        """Make a plan for inputs like these; False where Paddle must run the call."""
        if len(self.variants) >= MAX_VARIANTS:
            self.options.fall_back("the call", f"more than {MAX_VARIANTS} plans")
            return False
        if self.variants and not self.misses_facts():
            return True
        try:
            self.variants.append(self.compiled(tensors, learned))
            self.native = all(v.native for v in self.variants)
        except StrictError:
            raise
        except Later:
            return False
        except Exception as error:  # whatever it is, the user's program still runs
            self.broken = self.broken or not self.variants
            known = isinstance(error, (PirolError, OSError))
            why = str(error) if known else f"internal error, {error!r}"
            self.why = why
            self.options.fall_back("the program", why)
            return False
        return True

    def misses_facts(self) -> bool:
        """Whether another plan could serve what the last one refused."""
        return self.variants[-1].miss().startswith("guard")

    def misses_by_memory(self) -> bool:
        """Whether the last plan refused an input that shares memory with one that it
        writes: of the order of Paddle's reads and writes nothing is known either."""
        return bool(self.variants) and "shares memory" in self.variants[-1].miss()

    def compiled(self, tensors: list[Any], learned: dict[str, int]) -> Compiled:
        program = self.program = self.program or self.read()
        _give_memory(tensors)
        given = hints_of(program.graph, [tensors[k] for k in program.inputs])
        program = self.program = with_copies(program, given)
        self.draws = any(op.attrs.get("effect") for op in program.graph.walk())
        hints = hints_of(program.graph, [tensors[k] for k in program.inputs]) | learned
        if self.ahead is not None:
            hints = self.ahead.hints
        made = self.made(program, hints)
        self.hints = hints
        self.options.report.compiles += self.whole
        if self.options.progress is not None:
            self.options.progress("kernels", 1.0)
        return made

    def made(self, program: Program, hints: dict[str, int]) -> Compiled:
        """A plan for inputs of these sizes, from disk if it is there."""
        key = self.key_of(program.graph, hints)
        ready = stored.find(key) if key else None
        if ready is not None:
            with contextlib.suppress(OSError):  # it was trimmed just now
                made = self.assembled(ready, program, program.graph)
                self.options.report.unseen.append(lambda: self.look_into(hints, made))
                return made
        return self.newly(program, hints, key)

    def key_of(self, graph: Graph, hints: dict[str, int]) -> str:
        """The plan's key on disk; "" where it is to be made in any case."""
        if self.options.passes or self.levels or dumping():
            return ""
        try:
            return stored.key_of(graph, hints, also=self.also)
        except (BuildError, OSError):  # as the building of kernels will tell
            return ""

    def newly(self, program: Program, hints: dict[str, int], key: str) -> Compiled:
        """A plan by all passes, kept on disk if it has a key."""
        prepared: Prepared = self.prepared(program, hints)
        options, original, lowered = self.options, program.graph, prepared.lowered
        if self.levels:
            program, original = _of_gradient(program, lowered.stages["gradient"])
        ready, made = built(prepared, lambda r: self.assembled(r, program, original))
        if key:
            stored.keep(key, ready)
        options.report.add(lowered, prepared.kernels, made, hints, self.whole)
        return made

    def prepared(self, program: Program, hints: dict[str, int]) -> Any:
        """What `prepare` gives; raises Later where that is asked for in the background
        and not yet done."""
        if not (self.options.later and self.whole):
            return self.prepare(program, hints)
        report, ahead = self.options.report, self.ahead
        if ahead is None:
            make = functools.partial(self.prepare, program, hints)
            self.ahead = Ahead(lambda: make().built(), hints)
            report.ahead += 1
            raise Later
        if not ahead.done:
            raise Later
        self.ahead, report.ahead = None, report.ahead - 1
        return ahead.result()

    def prepare(self, program: Program, hints: dict[str, int]) -> Any:
        """What of a plan needs nothing of Paddle's."""
        options = self.options
        lowered = lower(
            program.graph, hints, options.progress, options.passes, levels=self.levels
        )
        return Prepared(lowered, generate(lowered.plan))

    def look_into(self, hints: dict[str, int], made: Compiled) -> None:
        """Tell the report of a plan that came from disk."""
        assert self.program is not None
        with LOCK:
            lowered = lower(self.program.graph, hints)
            kernels = generate(lowered.plan)
            self.options.report.add(lowered, kernels, made, hints, self.whole)

    def accept(self, plan: Plan, facts: tuple[Guard, ...]) -> tuple[Any, ...]:
        """What a new plan is for, and its opaque ops made known; raises where there
        was such a plan, and it did not fit."""
        made_for = _made_for(plan, facts)
        if made_for in self.assumed:
            self.broken = True
            raise Unsupported("its sizes are not those that Paddle declares")
        for op in plan.graph.ops:
            if op.name == "opaque" and op.attrs["why"] != WHY:  # that was asked for
                self.options.fall_back(op.title, str(op.attrs["why"]), op.line)
        return made_for

    def assembled(self, ready: Ready, program: Program, original: Graph) -> Compiled:
        made_for = self.accept(ready.plan, ready.facts)
        made = self.connected(ready, program, original)
        self.assumed.append(made_for)
        return made

    def connected(self, ready: Ready, program: Program, original: Graph) -> Compiled:
        """The plan, ready to run; `original` has the input types as captured."""
        native.start()
        call = caller(program, functools.partial(self.branch, program))
        made = assemble(ready.plan, original, call, ready.codes)
        made.own = owned(ready.plan, program) or None
        self.options.report.begun(made)
        with contextlib.suppress(OSError):
            cache.used({c.key for c in ready.codes})
        return made

    def branch(
        self, program: Program, graph: Graph, levels: Sequence[Level]
    ) -> Callable[..., list[Any]]:
        """A graph within a control op, or a gradient of it, as a callable, compiled
        when first called."""
        count = len(graph.inputs) + sum(len(given) for _, given in levels)
        places = list(range(count))
        inner = replace(program, graph=graph, inputs=places, memories=())
        plans = Plans(self.options, lambda: inner, whole=False, levels=levels)

        def run(tensors: Sequence[Any]) -> list[Any]:
            found = plans.attempt(list(tensors))
            if found is None:
                raise PirolError(f"a branch has no plan: {plans.why or 'no size fits'}")
            return found

        return run


def _of_gradient(program: Program, gradient: Graph) -> tuple[Program, Graph]:
    """The program of a branch's gradient, and that with the branch's own inputs."""
    own = program.graph.inputs
    inputs = (*own, *as_given(gradient).inputs[len(own) :])
    return replace(program, graph=gradient), replace(gradient, inputs=inputs)


def as_given(graph: Graph) -> Graph:
    """The graph whose inputs' computed dims are symbols, which a call may then set."""
    names = itertools.count()

    def loose(dim: Any) -> Any:
        plain = isinstance(dim, int) or dim.is_Symbol
        return dim if plain else symbol(f"given{next(names)}")

    kinds = [TensorType(tuple(map(loose, v.shape)), v.dtype) for v in graph.inputs]
    return replace(graph, inputs=tuple(map(Value, kinds)))


@dataclass(frozen=True)
class Prepared:
    """A plan before it is connected, and its kernels' texts."""

    lowered: Lowered
    kernels: Sequence[Built]

    def built(self) -> Prepared:
        """Itself, with the kernels on disk."""
        compile_kernels(self.kernels)
        return self


def built(
    prepared: Prepared, use: Callable[[Ready], Compiled]
) -> tuple[Ready, Compiled]:
    """A plan with its kernels built, and what `use` makes of it; once more where
    another process trimmed the cache just now."""
    lowered, kernels = prepared.lowered, prepared.kernels
    _dump(kernels)
    for last in (False, True):
        try:
            ready = Ready(lowered.plan, lowered.facts, compile_kernels(kernels))
            return ready, use(ready)
        except OSError:
            if last:
                raise
    raise AssertionError


def _undone(
    run: Callable[[list[Any]], list[Any] | None], tensors: list[Any]
) -> list[Any] | None:
    """A run; what it drew at random, where it does not come to its end, is put back."""
    before, found = paddle.get_rng_state(), None
    try:
        found = run(tensors)
    finally:
        if found is None:
            paddle.set_rng_state(before)
    return found


def _give_memory(tensors: Sequence[Any]) -> None:
    """Zeros for what Paddle made without memory, and a kernel of its is to fill."""
    for tensor in tensors:
        if not tensor._is_initialized() and tensor.size:
            with paddle.no_grad():
                paddle.assign(paddle.zeros(tensor.shape, tensor.dtype), tensor)


def _made_for(plan: Plan, facts: tuple[Guard, ...]) -> tuple[Any, ...]:
    """What a plan is made for: facts about dims, and numbers that must be so."""
    binds = [s.reads for s in plan.steps if isinstance(s, Bind)]
    return facts, plan.contents, tuple(binds)


def hints_of(graph: Graph, tensors: Sequence[Any]) -> dict[str, int]:
    """The symbols' values in a call, small integer inputs' items among them."""
    found = bind_symbols(graph, [t.shape for t in tensors])
    for k, (value, tensor) in enumerate(zip(graph.inputs, tensors)):
        if readable(value):
            for place, item in enumerate(tensor.numpy().reshape(-1).tolist()):
                found[item_name(k, place)] = item
    return found


def _dump(kernels: Sequence[Built]) -> None:
    folder = dump_folder("kernels")
    if folder is not None:
        for number, built in enumerate(kernels):
            (folder / f"{number:03}-{built.kernel.name}.c").write_text(built.source)
