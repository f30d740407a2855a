"""Ways to run a graph: the C kernels by gcc, the CUDA kernels by the simulator.

A Program builds many graphs with one run of gcc and one of the simulator.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from cuda_simulator import ReadOnly, Simulator
from graph_meaning import Array, Sizes, dtype_of, same_bits

from pirol.compiler import dims
from pirol.compiler.interpreter import bind_symbols
from pirol.compiler.ir import HALVES, Graph, Value
from pirol.compiler.pipeline import fusible
from pirol.kernels import cpu, cuda
from pirol.kernels.build import build, load
from pirol.kernels.kernel import Kernel
from pirol.kernels.lower import Refusal, build_nest
from pirol.kernels.nest import Nest, interpret_nest
from pirol.kernels.render import CPU, CUDA, PRELUDE, render
from pirol.passes.fuse import fuse
from pirol.passes.halves import halves

# Ways to run -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel of a graph: what it reads and writes, its ops, and its forms."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    body: Graph
    nest: Nest
    cpu: Kernel
    cuda: Kernel


def _nest(graph: Graph, name: str) -> Nest:
    nest = build_nest(graph)
    assert not isinstance(nest, Refusal), f"{nest}\n{graph}"
    return replace(nest, name=name)


def steps_of(graph: Graph, prefix: str = "k", whole: bool = False) -> list[Step]:
    """The graph's kernels: fused groups, or (`whole`) one for all if it can be."""
    if whole and not isinstance(build_nest(graph), Refusal):
        parts = [(graph, graph.inputs, graph.outputs)]
    else:
        groups = fuse(graph, fusible)[0].ops
        parts = [(g.body, g.operands, g.results) for g in groups]  # type: ignore[misc]
    found = []
    for k, (body, inputs, outputs) in enumerate(parts):
        nest = _nest(body, f"{prefix}{k}")
        found.append(
            Step(inputs, outputs, body, nest, cpu.schedule(nest), cuda.schedule(nest))
        )
    return found


def c_text(kernels: Sequence[Kernel]) -> str:
    """The C text of many kernels."""
    return "\n".join(render(k, CPU) for k in kernels)


def cuda_text(kernels: Sequence[Kernel]) -> str:
    """The CUDA text of many kernels, with the common head once."""
    return PRELUDE + "\n".join(render(k, CUDA).replace(PRELUDE, "") for k in kernels)


@functools.cache
def built(device: Device, text: str, names: tuple[str, ...]) -> Any:
    """The simulator of a text, or what else runs it, made once."""
    return device(text, names)


Device: TypeAlias = Callable[[str, Sequence[str]], Any]
Launch: TypeAlias = Callable[[Step, Sequence[Array], Sizes], list[Array]]


class Program:
    """Graphs built together: `units` C libraries and one simulator for all kernels.

    device: what runs CUDA text, if not the simulator.
    """

    def __init__(
        self,
        graphs: Sequence[Graph],
        *,
        whole: bool = False,
        units: int = 1,
        device: Device = Simulator,
    ) -> None:
        self.graphs, self.units, self.device = [*map(halves, graphs)], units, device
        self.steps = [steps_of(g, f"g{k}_", whole) for k, g in enumerate(self.graphs)]
        self.kernels = [s for steps in self.steps for s in steps]

    @functools.cached_property
    def libraries(self) -> dict[str, str]:
        """The path of each C kernel."""
        parts = [self.kernels[k :: self.units] for k in range(self.units)]
        paths = build([c_text([s.cpu for s in part]) for part in parts])
        return {s.nest.name: str(p) for part, p in zip(parts, paths) for s in part}

    @functools.cached_property
    def simulator(self) -> Any:
        """The CUDA kernels on the simulator."""
        names = tuple(s.nest.name for s in self.kernels)
        return built(self.device, cuda_text([s.cuda for s in self.kernels]), names)

    def run(self, number: int, arrays: Sequence[Array], launch: Launch) -> list[Array]:
        """The outputs of a graph, kernel by kernel."""
        graph = self.graphs[number]
        sizes = bind_symbols(graph, [a.shape for a in arrays])
        env: dict[Value, Array] = dict(zip(graph.inputs, arrays))
        for step in self.steps[number]:
            results = launch(step, [env[v] for v in step.inputs], sizes)
            env.update(zip(step.outputs, results))
        return [env[v] for v in graph.outputs]

    def nests(self, number: int, arrays: Sequence[Array]) -> list[Array]:
        """On NumPy, nest by nest, every access checked."""
        return self.run(
            number, arrays, lambda s, given, sizes: interpret_nest(s.nest, given, sizes)
        )

    def c(
        self, number: int, arrays: Sequence[Array], seed: int | None = 0
    ) -> list[Array]:
        """On the CPU; with a seed, random chunks must give the same bits."""
        rng = None if seed is None else np.random.default_rng(seed)

        def launch(step: Step, given: Sequence[Array], sizes: Sizes) -> list[Array]:
            name = step.nest.name
            address = load(self.libraries[name], name)
            return launch_c(address, step.cpu, given, sizes, rng)

        return self.run(number, arrays, launch)

    def cuda(
        self, number: int, arrays: Sequence[Array], blocks: int = 3
    ) -> list[Array]:
        """On the CUDA simulator."""

        def launch(step: Step, given: Sequence[Array], sizes: Sizes) -> list[Array]:
            return launch_cuda(self.simulator, step.cuda, given, sizes, blocks)

        return self.run(number, arrays, launch)


def run_c(graph: Graph, arrays: Sequence[Array], seed: int | None = 0) -> list[Array]:
    """A graph's outputs by its C kernels."""
    return Program([graph]).c(0, arrays, seed)


def run_cuda(graph: Graph, arrays: Sequence[Array], blocks: int = 3) -> list[Array]:
    """A graph's outputs by its CUDA kernels on the simulator."""
    return Program([graph]).cuda(0, arrays, blocks)


def _outputs(kernel: Kernel, sizes: Sizes) -> list[tuple[tuple[int, ...], Any]]:
    return [
        (tuple(dims.evaluate(d, sizes) for d in t.shape), dtype_of(t.dtype))
        for t in kernel.outputs
    ]


def launch_cuda(
    simulator: Any,
    kernel: Kernel,
    inputs: Sequence[Array],
    sizes: Sizes,
    blocks: int = 3,
) -> list[Array]:
    """One CUDA kernel on the simulator; SimulatorError where it breaks a rule."""
    given = [ReadOnly(np.ascontiguousarray(x)) for x in inputs]
    outputs = [np.empty(shape, kind) for shape, kind in _outputs(kernel, sizes)]
    numbers = [dims.evaluate(d, sizes) for d in (*kernel.params, kernel.rows)]
    simulator.launch(
        kernel.name, (blocks, 1, 1), (kernel.block, 1, 1), [*given, *outputs, *numbers]
    )
    return outputs


POISON, OTHER = 0xA5, 0x5A
SHORT = ("int8", "uint8", *HALVES)
END = -1  # where a buffer may be
MARGIN = 256  # bytes around each buffer that must stay as they are
_KERNEL = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_void_p,
)


class _Memory:
    """A buffer within poisoned memory, `shift` bytes off a multiple of 64; or at the
    END of memory: to read beyond it is a segmentation fault."""

    def __init__(self, nbytes: int, shift: int = 0, fill: int = POISON) -> None:
        if shift == END:
            self.all = _before_nothing(nbytes + MARGIN)
            start = self.all.size - nbytes
        else:
            self.all = np.empty(nbytes + 2 * MARGIN + 128, np.uint8)
            base = self.all.ctypes.data + MARGIN
            start = -(-base // 64) * 64 + shift - self.all.ctypes.data
        self.all[:] = POISON
        self.bytes = self.all[start : start + nbytes]
        self.bytes[:] = fill
        self.address = self.all.ctypes.data + start
        self.around = (self.all[:start], self.all[start + nbytes :])

    def intact(self) -> bool:
        return all(bool((part == POISON).all()) for part in self.around)


def _before_nothing(nbytes: int) -> Array:
    """At least so many bytes, behind which nothing may be read."""
    pages = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = np.frombuffer(mmap.mmap(-1, pages + mmap.PAGESIZE), np.uint8)
    end = ctypes.c_void_p(whole.ctypes.data + pages)
    if ctypes.CDLL(None).mprotect(end, ctypes.c_size_t(mmap.PAGESIZE), 0):
        raise OSError("mprotect")
    return whole[:pages]


def launch_c(
    address: int,
    kernel: Kernel,
    inputs: Sequence[Array],
    sizes: Sizes,
    rng: Any = None,
    place: int = END,
) -> list[Array]:
    """One C kernel; AssertionError where it writes outside, too little, or twice.

    With `rng` the rows are also run in chunks, in any order and in buffers at another
    `place` (the END of memory), which must write disjoint parts of the same bits.
    """
    rows = dims.evaluate(kernel.rows, sizes)
    kinds = _outputs(kernel, sizes)
    whole, written = _run_rows(address, kernel, inputs, sizes, (0, rows), 0)
    for k, done in enumerate(written):
        assert done.all(), f"{kernel.name}: output {k} is not fully written"
    if rng is not None:
        cuts = sorted({0, rows, *(int(c) for c in rng.integers(0, rows + 1, 3))})
        spans = list(zip(cuts, cuts[1:]))
        rng.shuffle(spans)
        given = (address, kernel, inputs, sizes, [(a, b) for a, b in spans], whole)
        _check_chunks(*given, place)
    return [w.view(kind).reshape(shape) for w, (shape, kind) in zip(whole, kinds)]


def _check_chunks(
    address: int,
    kernel: Kernel,
    inputs: Sequence[Array],
    sizes: Sizes,
    spans: Sequence[tuple[int, int]],
    whole: Sequence[Array],
    place: int,
) -> None:
    kinds = [kind for _, kind in _outputs(kernel, sizes)]
    seen = [np.zeros(w.size // kind.itemsize, bool) for w, kind in zip(whole, kinds)]
    for span in spans:
        parts, written = _run_rows(address, kernel, inputs, sizes, span, place)
        for k, (part, done) in enumerate(zip(parts, written)):
            what = f"{kernel.name}: output {k}, rows {span}"
            assert not (seen[k] & done).any(), f"{what} writes another chunk's part"
            seen[k] |= done
            a, b = (x.view(kinds[k])[done] for x in (part, whole[k]))
            assert same_bits(a, b), f"{what}: other bits than all rows at once"
    for k, done in enumerate(seen):
        assert done.all(), f"{kernel.name}: output {k} is not fully written by chunks"


def _run_rows(
    address: int,
    kernel: Kernel,
    inputs: Sequence[Array],
    sizes: Sizes,
    span: tuple[int, int],
    place: int,
) -> tuple[list[Array], list[Array]]:
    """The outputs' bytes, and which elements were written, of the rows in `span`."""
    given = (address, kernel, inputs, sizes, span, place)
    outs, written = _run_once(*given, POISON)
    if any(t.dtype in SHORT for t in kernel.outputs):  # the poison may be a result
        again = _run_once(*given, OTHER)[1]
        written = [a | b for a, b in zip(written, again)]
    return outs, written


def _run_once(
    address: int,
    kernel: Kernel,
    inputs: Sequence[Array],
    sizes: Sizes,
    span: tuple[int, int],
    place: int,
    poison: int,
) -> tuple[list[Array], list[Array]]:
    memories = []
    for x in inputs:
        memories.append(_Memory(x.nbytes, place))
        memories[-1].bytes[:] = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    kinds = _outputs(kernel, sizes)
    outs = [_Memory(math.prod(s) * k.itemsize, place, poison) for s, k in kinds]
    scratch = _Memory(dims.evaluate(kernel.scratch, sizes))
    pointers = [m.address for m in (*memories, *outs)]
    buffers = (ctypes.c_void_p * max(len(pointers), 1))(*pointers)
    numbers = [dims.evaluate(d, sizes) for d in kernel.params]
    params = (ctypes.c_int64 * max(len(numbers), 1))(*numbers)
    _KERNEL(address)(
        ctypes.addressof(buffers), ctypes.addressof(params), *span, scratch.address
    )
    for memory in (*memories, *outs, scratch):
        assert memory.intact(), f"{kernel.name} writes outside its buffers"
    written = [
        (m.bytes.reshape(-1, kind.itemsize) != poison).any(axis=1)
        for m, (_, kind) in zip(outs, kinds)
    ]
    return [m.bytes for m in outs], written
