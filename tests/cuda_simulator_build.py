"""Compile CUDA C++ kernel text for the CPU: the building half of cuda_simulator.

Input: the text given to NVRTC and the names of its kernels. Output: the path of a
shared library in the cache, whose key is the SHA-256 of text, flags and simulator.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


class SimulatorError(RuntimeError):
    """A launch broke a rule; `findings` has one line for each fault (20 at most)."""

    def __init__(self, message: str, findings: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([message, *findings]))
        self.findings = list(findings)


class SimulatorBuildError(SimulatorError):
    """The host compiler refused the kernel text; the message is its log."""


_FOLDER = Path(__file__).parent / "cusim"
_RUNTIME = ("cusim.cpp", "checks.cpp")
_HEADERS = ("cusim.h", "internal.h", "runtime.h")
_FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-w", "-ffp-contract=off", "-fno-math-errno"),
    *("-fno-strict-aliasing", f"-I{_FOLDER}"),
)
_CHECKS = (
    "-fsanitize=thread,alignment,bounds,integer-divide-by-zero",
    *("--param", "tsan-instrument-func-entry-exit=0"),
)
# extern __shared__ [__align__(n)] T name[];
_DYNAMIC_SHARED = re.compile(
    r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*)?"
    r"([\w ]*\w)\s+(\w+)\s*\[\s*\]\s*;"
)


def has_compiler() -> bool:
    """Is g++, which the simulator needs, on the PATH?"""
    return shutil.which("g++") is not None


def _cache_folder() -> Path:
    """PIROL_CACHE_DIR (or ~/.cache/pirol) / cusim, created for this user only."""
    base = os.environ.get("PIROL_CACHE_DIR")
    folder = (Path(base) if base else Path.home() / ".cache" / "pirol") / "cusim"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _key(*texts: str) -> str:
    files = [(_FOLDER / name).read_text() for name in (*_RUNTIME, *_HEADERS)]
    return hashlib.sha256("\0".join([*files, *_FLAGS, *texts]).encode()).hexdigest()


def _run_compiler(*arguments: str | Path) -> None:
    command = ["g++", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SimulatorBuildError(f"g++ failed\n{done.stderr}")


def build_runtime() -> Path:
    """The library of fibers and checks that every kernel library links with."""
    target = _cache_folder() / f"libcusim-{_key()[:32]}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            out = Path(work) / target.name
            sources = [_FOLDER / name for name in _RUNTIME]
            _run_compiler(*_FLAGS, "-shared", f"-Wl,-soname={target.name}",
                          "-o", out, *sources)  # fmt: skip
            out.replace(target)
    return target


_loaded: dict[str, ctypes.CDLL] = {}


def load_runtime(path: Path) -> ctypes.CDLL:
    """The runtime, once a process: the linker too knows it by its name, not folder,
    and has it already where the stand-in driver loaded kernels that were on disk."""
    if path.name not in _loaded:
        try:
            _loaded[path.name] = ctypes.CDLL(path.name, mode=os.RTLD_NOLOAD)
        except OSError:
            _loaded[path.name] = ctypes.CDLL(str(path))
        _loaded[path.name].cusim_unwritten.restype = ctypes.c_size_t
    return _loaded[path.name]


def build_kernels(text: str, runtime: Path, checked: bool) -> Path:
    """Compile the wrapped kernel text. Linking without -fsanitize keeps libtsan out."""
    flags = _CHECKS if checked else ()
    target = _cache_folder() / f"kernels-{_key(text, *flags)[:32]}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            source, out = Path(work) / "kernels.cpp", Path(work) / "kernels.so"
            source.write_text(text)
            _run_compiler(*_FLAGS, *flags, "-c", source, "-o", f"{source}.o")
            _run_compiler("-shared", "-Wl,-Bsymbolic", "-Wl,-rpath,$ORIGIN",
                          "-o", out, f"{source}.o", runtime, "-lm")  # fmt: skip
            out.replace(target)
    return target


def wrap(source: str, names: Sequence[str]) -> str:
    """The text that g++ takes; messages keep the line numbers of `source`."""
    body = _DYNAMIC_SHARED.sub(r"CUSIM_DYNAMIC_SHARED(\1, \2);", source)
    exports = "".join(f"CUSIM_EXPORT({name})\n" for name in names)
    return f'#include "cusim.h"\n#line 1 "kernel.cu"\n{body}\n{exports}'
