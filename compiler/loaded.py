"""An exported program, compiled on this machine and run on DLPack tensors."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from pirol.compiler import stored
from pirol.compiler.archive import RANDOM, Archive, nested
from pirol.compiler.errors import PirolError, Unsupported, message
from pirol.compiler.ir import HALVES, Graph, Op
from pirol.compiler.pipeline import lower
from pirol.compiler.process import keep_memory, native_module, threads
from pirol.compiler.runtime import (
    Code,
    Compiled,
    assemble,
    compile_cuda,
    compile_kernels,
    connect,
    generate,
    sorts_of,
    sources_of,
)
from pirol.compiler.stored import Ready
from pirol.kernels import cublas, cudnn, cufft, nvrtc, sorting
from pirol.kernels.cuda_build import build_cubin, image_of, name_of
from pirol.kernels.render import CUDA
from pirol.passes.plan import Plan

DRIVER = "libcuda.so.1"
DEFAULT_STREAM = 1  # as DLPack numbers it
CONVS = ("conv", "conv_input_grad", "conv_weight_grad")
OPENMP = ("libgomp.so.1", "libomp.so.5", "libiomp5.so")


class Program:
    """A loaded program. Call it with tensors that have `__dlpack__`, by position or by
    name; it returns tensors of the library that the first of them is from. For a CUDA
    device NumPy arrays may be given, too: they go there and the results come back.

    input_names: in the order of the positions.
    """

    def __init__(
        self,
        archive: Archive,
        device: int = -1,
        graphs: bool = True,
        trusted: bool = False,
    ) -> None:
        native = start()
        self.device = device  # of CUDA; -1: the CPU
        self.form = archive.form
        self.sources = archive.sources
        self.input_names = tuple(s.name for s in archive.sources if not s.weight)
        self.written = {i for i, _ in archive.graph.writes}
        self._array = native.Array
        if device >= 0:
            native.open_cuda(DRIVER)
            native.open_profiler(os.environ.get("NVTX_INJECTION64_PATH", ""))
        self._weights = {k: self._placed(w) for k, w in archive.weights.items()}
        graph, cubins = archive.graph, archive.cubins if trusted else {}
        graphs = graphs and os.environ.get("PIROL_CUDA_GRAPHS", "") != "0"
        if device < 0:
            self._compiled = on_cpu(graph)
            return
        try:
            self._compiled = on_cuda(graph, device, graphs, cubins)
        except ImportError as error:
            raise _without_nvrtc(error, archive, trusted) from error

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The outputs, nested as the exported function returned them.

        Raises:
            TypeError: too few or too many inputs, or one that is no tensor.
            ValueError: a dtype or shape that the program was not exported for.
            PirolError: an input on another device, or not to be written.
        """
        given = self._in_order(inputs, named)
        first = next(iter(given.values()), None)
        stream = current_stream(first, self.device)
        arrays = [self._held(k, given, stream) for k in range(len(self.sources))]
        if self.device < 0:
            found = self._compiled.run(arrays)
        else:
            found = self._compiled.run_on(arrays, stream)
        if found is None:
            raise ValueError(self._named(self._compiled.miss()))
        return nested(self.form, list(map(self._importer(first), found)))

    def seed(self, number: int) -> None:
        """Set what the masks of dropout follow from, in the calls from here on.

        Raises:
            PirolError: the program has no dropout in training.
        """
        if RANDOM not in self._weights:
            raise PirolError("seed: got a program that draws nothing")
        state = np.array(number % 2**64, np.uint64).view(np.int64)
        self._weights[RANDOM] = self._placed(state)

    def watch(self, on: bool = True) -> None:
        """From here on, calls (one at a time) note when their steps begin and end."""
        self._compiled.watch(on)

    def times(self) -> list[tuple[str, float, float]]:
        """What the last call that was watched ran: a name, and from when to when, in
        microseconds from its start; on CUDA by the device's own clock."""
        found = self._compiled.times()
        return [(self._compiled.label(k), begin, end) for k, begin, end in found]

    def _importer(self, like: Any) -> Callable[[Any], Any]:
        back = importer(like)
        if self.device >= 0 and back is to_numpy:
            return lambda array: to_numpy(array.to(-1))
        return back

    def _in_order(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Any:
        given = {**dict(zip(self.input_names, inputs)), **named}
        count = len(inputs) + len(named)
        if count != len(self.input_names) or given.keys() != set(self.input_names):
            got = f"{len(inputs)} by position" + "".join(f", {n!r}" for n in named)
            expected = ", ".join(self.input_names) or "none"
            raise TypeError(message("inputs", got=got, expected=expected))
        return given

    def _placed(self, tensor: Any, stream: int = 0) -> Any:
        """An Array over the tensor's memory; of NumPy's over a copy on the device."""
        if isinstance(tensor, np.ndarray):
            if self.device < 0:
                return of_numpy(tensor)
            dense = of_numpy(np.asarray(tensor, order="C"))
            return dense.to(self.device, stream)
        if self.device < 0:
            return self._array(tensor)
        return self._array(tensor, stream or DEFAULT_STREAM)

    def _held(self, k: int, given: Mapping[str, Any], stream: int) -> Any:
        source = self.sources[k]
        if source.weight:
            return self._weights[source.name]
        try:
            array = self._placed(given[source.name], stream)
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


def on_cpu(graph: Graph) -> Compiled:
    """The plan of a graph at level "calls", from disk or by the passes."""
    ready = _ready(
        graph, target_on(graph, -1), ".so", lambda p: compile_kernels(generate(p))
    )
    return assemble(ready.plan, graph, refuse, ready.codes, {"arrays": True})


def on_cuda(
    graph: Graph,
    device: int,
    graphs: bool,
    cubins: Mapping[str, bytes] | None = None,
) -> Compiled:
    """The same on a CUDA device, its kernels one cubin; what is large goes to libraries
    where they are found. `graphs`: launches that come again are replayed as CUDA
    graphs; `cubins` are taken where they are of the kernels' text."""
    native, cubins = start(), cubins or {}
    arch = native.cuda_arch(device)

    def codes(plan: Plan) -> tuple[Code, ...]:
        return compile_cuda(generate(plan, CUDA), arch, cubins, sorts_of(plan))

    kind = target_on(graph, device, arch)
    if nvrtc.available():
        maker = f"NVRTC {nvrtc.version()}"
    else:
        maker = f"cubins {sorted(cubins)}"
    try:
        ready = _ready(graph, f"{kind}:{arch} {maker}", ".cubin", codes)
    except ImportError:
        if not cubins:
            raise
        ready = _ready(graph, f"cuda:{arch} {maker}", ".cubin", codes)
    sorts = sorts_of(ready.plan)
    if ready.codes:
        key = ready.codes[0].key
    else:
        key = build_cubin(sources_of((), sorts), arch, cubins)
    module = native.Module(image_of(key), device)
    sorters = {n: tuple(map(module.function, sorting.names(n))) for n in sorts}
    kernels = [(code, module.function(code.name)) for code in ready.codes]
    copies = (module.function(f"pirol_copy_{size}") for size in (1, 2, 4, 8))
    home = {"arrays": True, "cuda": (device, *copies), "keep": module}
    home = home | {"graphs": graphs}
    return connect(ready.plan, graph, refuse, kernels, home, sorters)


def target_on(graph: Graph, device: int, arch: str = "") -> str:
    """What the graph is lowered for on a device: CUDA, with the libraries found."""
    if device < 0:
        return "cpu+alone"
    return "+".join(("cuda", *libraries_on(device, _wanted(graph, arch))))


def libraries_on(device: int, wanted: Sequence[str]) -> list[str]:
    """Those of these libraries, as pipeline.FOR names them, that a device can use."""
    native = start()
    tune = os.environ.get("PIROL_AUTOTUNE", "") != "0"
    ways: dict[str, tuple[Callable[[], list[str]], Callable[..., bool]]] = {
        "attention": (cudnn.libraries, native.open_attention),
        "cublas": (cublas.libraries, native.open_blas),
        "cudnn": (cudnn.libraries, native.open_dnn),
        "cufft": (cufft.libraries, lambda p, device, _: native.open_fft(p, device)),
    }
    named = ((name, *ways[name]) for name in wanted)
    return [
        n for n, places, may in named if any(may(p, device, tune) for p in places())
    ]


def _wanted(graph: Graph, arch: str) -> list[str]:
    """The libraries that the graph may want, as pipeline.FOR names them, in order."""
    ops = {op.name for op in graph.walk()}
    halves = any(v.dtype in HALVES for op in graph.walk() for v in op.results)
    able = halves and int(arch.removeprefix("sm_")) >= 80
    wanted = {
        "attention": ("dot_general",) if able else (),
        "cublas": ("dot_general", *CONVS),
        "cudnn": CONVS,
        "cufft": ("fft", "rfft", "irfft"),
    }
    return [name for name, some in wanted.items() if not ops.isdisjoint(some)]


def cubins_for(graph: Graph, targets: Sequence[str]) -> dict[str, bytes]:
    """The cubins of a graph's kernels for targets "cuda:sm_NN", by their names in a
    file: with all libraries, and with none.

    Raises:
        ImportError, NvrtcError: no NVRTC, or one that knows no such device.
    """
    found: dict[str, bytes] = {}
    for arch in (t.partition(":")[2] for t in targets if t.startswith("cuda:")):
        for kind in ("cuda", "+".join(("cuda", *_wanted(graph, arch)))):
            lowered = lower(graph, {}, level="calls", target=kind)
            plan = lowered.plan
            sources = sources_of(generate(plan, CUDA), sorts_of(plan))
            found[name_of(sources, arch)] = image_of(build_cubin(sources, arch))
    return found


def _without_nvrtc(error: ImportError, archive: Archive, trusted: bool) -> ImportError:
    """What to do where a device's kernels cannot be compiled."""
    if not archive.cubins:
        return error
    held = ", ".join(sorted({name.partition("/")[0] for name in archive.cubins}))
    if trusted:
        return ImportError(f"{error}; the file's cubins, for {held}, are of other text")
    return ImportError(f"{error}; or trusted=True, if you trust its cubins for {held}")


def _ready(
    graph: Graph, target: str, suffix: str, codes: Callable[[Plan], tuple[Code, ...]]
) -> Ready:
    key = stored.key_of(graph, {}, target)
    ready = stored.find(key, suffix)
    if ready is None:
        kind = target.partition(":")[0]
        lowered = lower(graph, {}, level="calls", target=kind)
        ready = Ready(lowered.plan, lowered.facts, codes(lowered.plan))
        stored.keep(key, ready)
    return ready


def refuse(op: Op) -> Callable[..., Any]:
    """For steps of Paddle's, which no exported program has."""
    raise Unsupported(f"{op.title} needs Paddle")


@functools.lru_cache(maxsize=1)
def start() -> Any:
    """The native runtime with threads; raises BuildError where it was not built."""
    _native = native_module()
    any(map(_native.open_threads, _openmp()))
    _native.set_threads(threads())
    keep_memory()
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


def current_stream(like: Any, device: int) -> int:
    """The CUstream that work on the device is to be ordered by: torch's current one
    for its tensors, else the default stream."""
    if device < 0:
        return 0
    stream = native_module().work_stream(like, device)
    if stream is not None:
        return int(stream)
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(like, torch.Tensor):
        return 0
    return int(torch.cuda.current_stream(device).cuda_stream)


def importer(like: Any) -> Callable[[Any], Any]:
    """How an Array becomes a tensor of the library that `like` is from."""
    root = type(like).__module__.partition(".")[0]
    if root in ("torch", "cupy"):
        library = sys.modules[root]

        def back(array: Any) -> Any:
            made = array.like(like)
            return library.from_dlpack(array) if made is None else made

        return back
    if root in ("jax", "jaxlib"):
        return sys.modules["jax"].dlpack.from_dlpack  # type: ignore[no-any-return]
    if root == "paddle":
        # A copy: Paddle 3.3 hangs on freeing a view of an imported tensor.
        paddle = sys.modules["paddle"]
        return lambda array: _to_paddle(paddle, array)
    if root in ("numpy", "ml_dtypes", "builtins"):
        return to_numpy
    return lambda array: array


# NumPy's bfloat16 comes from ml_dtypes, and its DLPack does not know of it.
BFLOAT16 = (4, 16, 1)


def of_numpy(array: Any) -> Any:
    """NumPy's array as an Array over the same memory."""
    make = native_module().Array
    if array.dtype != ml_dtypes.bfloat16:
        return make(array)
    return make(array.view(np.uint16)).as_type(*BFLOAT16[:2])


def to_numpy(array: Any) -> Any:
    """An Array of the CPU as NumPy's, over the same memory."""
    if array.dtype != BFLOAT16:
        return np.from_dlpack(array)
    return np.from_dlpack(array.as_type(1, 16)).view(ml_dtypes.bfloat16)


def _to_paddle(paddle: Any, array: Any) -> Any:
    if array.dtype != BFLOAT16:
        return paddle.to_tensor(np.from_dlpack(array))
    bits = np.from_dlpack(array.as_type(1, 16))
    return paddle.to_tensor(bits, dtype="bfloat16")
