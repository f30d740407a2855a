"""An exported program, compiled on this machine and run on DLPack tensors."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pirol.compiler import stored
from pirol.compiler.archive import Archive, nested
from pirol.compiler.errors import BuildError, PirolError, Unsupported, message
from pirol.compiler.ir import Graph, Op
from pirol.compiler.pipeline import lower
from pirol.compiler.runtime import Compiled, assemble, compile_kernels, generate
from pirol.compiler.stored import Ready

OPENMP = ("libgomp.so.1", "libomp.so.5", "libiomp5.so")


class Program:
    """A loaded program. Call it with tensors that have `__dlpack__`, by position or by
    name; it returns tensors of the library that the first of them is from.

    input_names: in the order of the positions.
    """

    def __init__(self, archive: Archive) -> None:
        native = start()
        self.form = archive.form
        self.sources = archive.sources
        self.input_names = tuple(s.name for s in archive.sources if not s.weight)
        self.written = {i for i, _ in archive.graph.writes}
        self._array = native.Array
        self._weights = {k: native.Array(w) for k, w in archive.weights.items()}
        self._compiled = compiled(archive.graph)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The outputs, nested as the exported function returned them.

        Raises:
            TypeError: too few or too many inputs, or one that is no tensor.
            ValueError: a dtype or shape that the program was not exported for.
            PirolError: an input on another device, or not to be written.
        """
        given = self._in_order(inputs, named)
        arrays = [self._held(k, given) for k in range(len(self.sources))]
        found = self._compiled.run(arrays)
        if found is None:
            raise ValueError(self._named(self._compiled.miss()))
        back = importer(next(iter(given.values()), None))
        return nested(self.form, [back(a) for a in found])

    def _in_order(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Any:
        given = {**dict(zip(self.input_names, inputs)), **named}
        count = len(inputs) + len(named)
        if count != len(self.input_names) or given.keys() != set(self.input_names):
            got = f"{len(inputs)} by position" + "".join(f", {n!r}" for n in named)
            expected = ", ".join(self.input_names) or "none"
            raise TypeError(message("inputs", got=got, expected=expected))
        return given

    def _held(self, k: int, given: Mapping[str, Any]) -> Any:
        source = self.sources[k]
        if source.weight:
            return self._weights[source.name]
        try:
            array = self._array(given[source.name])
        except TypeError as error:
            raise TypeError(f"input {source.name}: {error}") from None
        if array.read_only and k in self.written:
            expected = "memory that the program may write to"
            raise PirolError(
                message(source.name, got="read-only memory", expected=expected)
            )
        return array

    def _named(self, missed: str) -> str:
        """What the plan says of a miss, with the input's name."""
        head, _, rest = missed.partition(":")
        word, _, number = head.partition(" ")
        if word == "input" and number.isdecimal():
            return f"input {self.sources[int(number)].name}:{rest}"
        return missed


def compiled(graph: Graph) -> Compiled:
    """The plan of a graph at level "calls", from disk or by the passes."""
    key = stored.key_of(graph, {})
    ready = stored.find(key)
    if ready is None:
        lowered = lower(graph, {}, level="calls")
        codes = compile_kernels(generate(lowered.plan))
        ready = Ready(lowered.plan, lowered.facts, codes)
        stored.keep(key, ready)
    return assemble(ready.plan, graph, refuse, ready.codes, arrays=True)


def refuse(op: Op) -> Callable[..., Any]:
    """For steps of Paddle's, which no exported program has."""
    raise Unsupported(f"{op.title} needs Paddle")


@functools.lru_cache(maxsize=1)
def start() -> Any:
    """The native runtime with threads; raises BuildError where it was not built."""
    try:
        from pirol.compiler import _native
    except ImportError as error:
        raise BuildError(
            "the native runtime was not built (no C compiler when Pirol was "
            "installed); install one and reinstall Pirol"
        ) from error
    any(map(_native.open_threads, _openmp()))
    named = os.environ.get("PIROL_THREADS", "")
    if named.isdigit() and int(named) > 0:
        _native.set_threads(int(named))
    return _native


def _openmp() -> list[str]:
    """OpenMP libraries to try: one that the process has already is best."""
    found = []
    try:
        with open("/proc/self/maps") as maps:
            paths = dict.fromkeys(line.split()[-1] for line in maps)
        stems = ("libgomp", "libiomp5", "libomp")
        found = [p for p in paths if os.path.basename(p).startswith(stems)]
    except OSError:
        pass
    return [*found, *OPENMP]


def importer(like: Any) -> Callable[[Any], Any]:
    """How an Array becomes a tensor of the library that `like` is from."""
    root = type(like).__module__.partition(".")[0]
    if root in ("torch", "cupy"):
        return sys.modules[root].from_dlpack  # type: ignore[no-any-return]
    if root in ("jax", "jaxlib"):
        return sys.modules["jax"].dlpack.from_dlpack  # type: ignore[no-any-return]
    if root == "paddle":
        # A copy: Paddle 3.3 hangs on freeing a view of an imported tensor.
        paddle = sys.modules["paddle"]
        return lambda array: paddle.to_tensor(np.from_dlpack(array))
    if root in ("numpy", "builtins"):
        return np.from_dlpack
    return lambda array: array
