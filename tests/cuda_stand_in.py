"""A CUDA device for tests: the driver that cusim/driver.c stands in for, and kernels
that the simulator runs in the place of cubins, of the very text that NVRTC takes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from cuda_simulator_build import build_kernels, build_runtime, load_runtime, wrap

from pirol.compiler import _native, loaded
from pirol.kernels import cublas, nvrtc
from pirol.kernels.build import cache_folder

SOURCES = Path(__file__).parent / "cusim"
NAMES = re.compile(r"__launch_bounds__\([\d, ]+\)\s+(\w+)\(")
COPIES = tuple(f"pirol_copy_{size}" for size in (1, 2, 4, 8))


@functools.cache
def built(name: str) -> str:
    """The path of a library of cusim/, built once."""
    source = SOURCES / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    target = cache_folder() / "cusim" / f"lib{name}-{digest}.so"
    target.parent.mkdir(mode=0o700, exist_ok=True)
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            made = Path(work) / target.name
            command = ["gcc", "-O2", "-Wall", "-shared", "-fPIC", str(source)]
            subprocess.run([*command, "-o", str(made), "-ldl"], check=True)
            made.replace(target)
    return str(target)


def driver() -> str:
    """The path of the stand-in driver."""
    return built("driver")


class Library:
    """What the stand-in for cuBLASLt counts."""

    def __init__(self) -> None:
        self.path = built("cublaslt")
        self.library = ctypes.CDLL(self.path)
        assert self.library.stand_in_driver(driver().encode())

    def count(self, what: str) -> int:
        """How many "products" so far, how many of them "with_row" or "batched", how
        often it was "asked" for the best way; descriptors that are still "described".
        """
        return int(getattr(self.library, f"stand_in_{what}")())

    def refuse(self, on: bool) -> None:
        """Whether to know no way for any product."""
        self.library.stand_in_refuse(ctypes.c_long(on))


class Device:
    """What the stand-in driver counts, and the texts that kernels were built from."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(driver())
        self.texts: list[str] = []

    @property
    def launches(self) -> int:
        """Kernels launched so far."""
        return int(self.library.stand_in_launches())

    @property
    def waits(self) -> int:
        """Times that a stream was waited for."""
        return int(self.library.stand_in_waits())

    @property
    def live(self) -> int:
        """Allocations that were not given back."""
        return int(self.library.stand_in_live())

    @property
    def depth(self) -> int:
        """Contexts pushed and not popped."""
        return int(self.library.stand_in_depth())

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
        text = wrap(source, [*NAMES.findall(source), *COPIES])
        image = f"CUSIM:{build_kernels(text, runtime, checked=True)}".encode()
        return nvrtc.Cubin(image, log, arch)


COMPILE = nvrtc.compile_cubin


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """The stand-in device, with `pirol.load(.., device="cuda")` leading to it."""
    found = Device()
    monkeypatch.setattr(loaded, "DRIVER", driver())
    monkeypatch.setattr(nvrtc, "compile_cubin", found.compile)
    # Its images are none for a GPU, and must not be found by their keys.
    monkeypatch.setattr(nvrtc, "version", lambda: "stand-in")
    monkeypatch.setattr(cublas, "libraries", list)
    _native.open_cuda(driver())
    return found


@pytest.fixture
def library(device: Device, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The stand-in for cuBLASLt, which programs loaded on the device find."""
    found = Library()
    monkeypatch.setattr(cublas, "libraries", lambda: [found.path])
    return found
