"""Compile CUDA C++ text to a cubin with NVRTC; no driver and no GPU is needed.

Input: header-free kernel text and an architecture. Output: the cubin and its log::

    cubin = compile_cubin('extern "C" __global__ void one(int* y) { *y = 1; }')
    print(cubin.log)    # registers, spills, stack and shared memory of each kernel
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# Contraction is off and no option relaxes arithmetic: a kernel computes what its
# text says. ptxas -v puts the use of registers and memory into the log.
_OPTIONS = ("--std=c++17", "--fmad=false", "--ptxas-options=-v")


@dataclass(frozen=True)
class Cubin:
    """A loadable binary for one architecture.

    `log` holds the compiler's warnings and, for each kernel, ptxas' resource usage.
    """

    image: bytes = field(repr=False)
    log: str
    arch: str


class NvrtcError(RuntimeError):
    """NVRTC refused the text; `log` says why, `source` is the text."""

    def __init__(self, message: str, log: str, source: str) -> None:
        self.log = log
        self.source = source
        super().__init__(f"{message}\n{log.strip()}\n{_numbered(source)}")


def available() -> bool:
    """Are the bindings and the NVRTC library installed?"""
    try:
        nvrtc = _bindings()
        return bool(nvrtc.nvrtcVersion()[0] == nvrtc.nvrtcResult.NVRTC_SUCCESS)
    except (ImportError, RuntimeError, OSError):
        return False


def version() -> str:
    """NVRTC's version, "13.0"; ImportError where it is not installed."""
    return ".".join(map(str, _expect(_bindings().nvrtcVersion(), pair=True)))


def compile_cubin(
    source: str, *, arch: str = "sm_90", options: Sequence[str] = ()
) -> Cubin:
    """Compile `source` for `arch` (a real one, "sm_90"); `options` come last.

    Raises NvrtcError, with the log and the numbered source, where NVRTC refuses the
    text, the architecture or an option; ImportError where it is not installed.
    """
    nvrtc = _bindings()
    flags = [*_OPTIONS, f"--gpu-architecture={arch}", *options]
    program = _expect(
        nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, [], []), source
    )
    try:
        encoded = [flag.encode() for flag in flags]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        log = _read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        text = log.rstrip(b"\0").decode(errors="replace")
        if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            message = f"NVRTC: {result.name} for {arch}, options {' '.join(flags)}"
            raise NvrtcError(message, text, source)
        image = _read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
        return Cubin(image, text, arch)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _bindings() -> Any:
    """cuda.bindings.nvrtc, imported when first needed."""
    try:
        return importlib.import_module("cuda.bindings.nvrtc")
    except ImportError as error:
        raise ImportError(
            f"NVRTC is not installed ({error}); pip install pirol[cuda]"
        ) from error


def _expect(answer: tuple[Any, ...], source: str = "", pair: bool = False) -> Any:
    """The value (or pair) of a call's answer; NvrtcError where the call failed."""
    result, *values = answer
    if result.value:
        raise NvrtcError(f"NVRTC: {result.name}", "", source)
    return values if pair else values[0] if values else None


def _read(size_of: Any, fill: Any, program: Any) -> bytes:
    """Fetch one of a program's results with its pair of C functions."""
    data = bytes(_expect(size_of(program)))
    _expect(fill(program, data))
    return data


def _numbered(source: str) -> str:
    lines = source.splitlines()
    width = len(str(len(lines)))
    return "\n".join(f"{i:>{width}} | {line}" for i, line in enumerate(lines, 1))
