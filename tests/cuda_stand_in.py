"""A CUDA device for tests: the driver that cusim/driver.c stands in for, and kernels
that the simulator runs in the place of cubins, of the very text that NVRTC takes.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cuda_simulator_build import build_kernels, build_runtime, load_runtime, wrap

from pirol.compiler import _native, loaded
from pirol.kernels import cublas, cudnn, cufft, nvrtc, sorting
from pirol.kernels.build import cache_folder

FOLDER = Path(__file__).parent / "cusim"
SOURCES = [FOLDER / f"driver{name}" for name in (".c", "_graphs.c", ".h")]
FLAGS = ("-O1", "-Wall", "-shared", "-fPIC", "-pthread")
NAMES = re.compile(r"__launch_bounds__\([\d, ]+\)\s+(\w+)\(")
COPIES = tuple(f"pirol_copy_{size}" for size in (1, 2, 4, 8))
SORTS = re.compile(r"^PR_SORT\((\d),", re.MULTILINE)


@functools.cache
def driver(*flags: str) -> str:
    """The path of the stand-in driver, built once; -DNO_GRAPHS: one that is old."""
    return str(built("libcuda", SOURCES, flags))


@functools.cache
def cublaslt() -> str:
    """The path of the stand-in for cuBLASLt, built once."""
    return str(built("libcublaslt", _of_library("cublaslt.c")))


@functools.cache
def cufft_library() -> str:
    """The path of the stand-in for cuFFT, built once."""
    return str(built("libcufft", _of_library("cufft.c")))


@functools.cache
def cudnn_library() -> str:
    """The path of the stand-in for cuDNN, built once, with its parts beside it."""
    path = built("libcudnn", [FOLDER / "cudnn_graph.c", *_of_library("cudnn.c")])
    engines = (f"engines_{kind}compiled" for kind in ("pre", "runtime_"))
    for name in ("cnn", "graph", "heuristic", *engines):
        part = path.with_name(f"{path.stem}_{name}.so")
        if not part.exists():
            part.symlink_to(path)
    return str(path)


def _of_library(source: str) -> list[Path]:
    return [FOLDER / source, FOLDER / "library.h"]


def built(name: str, sources: Sequence[Path], flags: Sequence[str] = ()) -> Path:
    """A shared library of C files; headers only count for its key."""
    texts = b"".join(path.read_bytes() for path in sources) + repr(flags).encode()
    digest = hashlib.sha256(texts).hexdigest()[:16]
    target = cache_folder() / "cusim" / f"{name}-{digest}.so"
    target.parent.mkdir(mode=0o700, exist_ok=True)
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            made = Path(work) / target.name
            files = [str(path) for path in sources if path.suffix == ".c"]
            command = ["gcc", *FLAGS, *flags, *files, "-o", str(made), "-ldl", "-lm"]
            subprocess.run(command, check=True)
            made.replace(target)
    return target


class Counts(ctypes.Structure):
    """As in cusim/driver.h."""

    _fields_ = (
        ("launches", ctypes.c_long),
        ("waits", ctypes.c_long),
        ("depth", ctypes.c_long),
        ("captured", ctypes.c_long),
        ("graphs", ctypes.c_long),
        ("replayed", ctypes.c_long),
        ("refused", ctypes.c_long),
        ("freed_on", ctypes.c_void_p),
    )


class Library:
    """What the stand-in for cuBLASLt or cuDNN counts."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.library = ctypes.CDLL(self.path)
        assert self.library.stand_in_driver(driver().encode())

    def count(self, what: str) -> int:
        """How many "products" so far, of them "with_row", "batched" or the "slow" way;
        "convolutions", of them "grouped" or by the "simplest" algorithm or "explicit"
        ones; "transforms"; "attentions", of them "masked"; the plans "built" for those
        two; how often it was "asked" for the best way; what is still "described"."""
        return int(getattr(self.library, f"stand_in_{what}")())

    def refuse(self, much: int) -> None:
        """Whether to know no way for anything; 2: not even the simplest; 3: and to be
        too old for attention."""
        self.library.stand_in_refuse(ctypes.c_long(much))

    def turn(self, on: bool) -> None:
        """Whether cuDNN convolves with the window turned round."""
        self.library.stand_in_turn(ctypes.c_long(on))

    def on_stream(self, number: int) -> int:
        """How many convolutions so far on a stream, told by its lowest byte."""
        return int(self.library.stand_in_on_stream(ctypes.c_long(number)))


class Device:
    """What the stand-in driver counts, and the texts that kernels were built from."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        self.library.stand_in_counts.restype = ctypes.POINTER(Counts)
        self.library.stand_in_threshold.restype = ctypes.c_uint64
        self.counts = self.library.stand_in_counts().contents
        self.texts: list[str] = []

    @property
    def launches(self) -> int:
        """Kernels run so far, those of graphs too."""
        return int(self.counts.launches)

    @property
    def replayed(self) -> int:
        """Graphs launched so far."""
        return int(self.counts.replayed)

    @property
    def waits(self) -> int:
        """Times that a stream was waited for."""
        return int(self.counts.waits)

    @property
    def live(self) -> int:
        """Allocations that were not given back."""
        return int(self.library.stand_in_live())

    @property
    def depth(self) -> int:
        """Contexts pushed and not popped."""
        return int(self.counts.depth)

    def threshold(self, device: int) -> int:
        """Bytes that the device's pool keeps."""
        return int(self.library.stand_in_threshold(device))

    def capture(self, stream: int) -> None:
        """From now on this stream is being captured; 0: none is."""
        self.library.stand_in_capture(ctypes.c_void_p(stream))

    def fresh(self, on: bool) -> None:
        """Whether every allocation has another address."""
        self.library.stand_in_fresh(ctypes.c_bool(on))

    def fail(self, what: str) -> None:
        """From now on this of graphs fails: "instantiate" or "launch"; "": nothing."""
        self.library.stand_in_fail(["", "instantiate", "launch"].index(what))

    def limit(self, size: int) -> None:
        """How many bytes there are."""
        self.library.stand_in_limit(ctypes.c_size_t(size))

    def compile(self, source: str, *, arch: str = "sm_90") -> nvrtc.Cubin:
        """In the place of compile_cubin: NVRTC must take the text, the simulator runs
        it."""
        self.texts.append(source)
        log = COMPILE(source, arch=arch).log if nvrtc.available() else ""
        runtime = build_runtime()
        load_runtime(runtime)
        sizes = map(int, SORTS.findall(source))
        sorts = [name for size in sizes for name in sorting.names(size)]
        text = wrap(source, [*NAMES.findall(source), *COPIES, *sorts])
        image = f"CUSIM:{build_kernels(text, runtime, checked=True)}".encode()
        return nvrtc.Cubin(image, log, arch)


COMPILE = nvrtc.compile_cubin


def stand_in(path: str, set: Callable[[object, str, Any], object]) -> Device:
    """The device, with `pirol.load(.., device="cuda")` leading to it."""
    found = Device(path)
    set(loaded, "DRIVER", path)
    set(nvrtc, "compile_cubin", found.compile)
    # Its images are none for a GPU, and must not be found by their keys.
    set(nvrtc, "version", lambda: "stand-in")
    set(cublas, "libraries", list)
    set(cudnn, "libraries", list)
    set(cufft, "libraries", list)
    return found


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """The stand-in device, of this process for good."""
    found = stand_in(driver(), monkeypatch.setattr)
    _native.open_cuda(driver())
    return found


@pytest.fixture(autouse=True)
def tidy(device: Device) -> Iterator[None]:
    """Each test gives back what it took, leaves no context behind, breaks no rule."""
    gc.collect()
    before = device.live
    yield
    gc.collect()
    counts = device.counts
    assert (device.live, counts.depth, counts.graphs) == (before, 0, 0)
    assert counts.refused == 0


@pytest.fixture
def library(device: Device, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The stand-in for cuBLASLt, which programs loaded on the device find."""
    found = Library(cublaslt())
    monkeypatch.setattr(cublas, "libraries", lambda: [found.path])
    monkeypatch.setenv("PIROL_AUTOTUNE", "0")
    return found


@pytest.fixture
def fft(device: Device, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The stand-in for cuFFT, which programs loaded on the device find."""
    found = Library(cufft_library())
    monkeypatch.setattr(cufft, "libraries", lambda: [found.path])
    return found


@pytest.fixture
def dnn(device: Device, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The stand-in for cuDNN, which programs loaded on the device find."""
    found = Library(cudnn_library())
    monkeypatch.setattr(cudnn, "libraries", lambda: [found.path])
    monkeypatch.setenv("PIROL_AUTOTUNE", "0")
    return found
