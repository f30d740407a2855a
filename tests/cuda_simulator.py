"""Run CUDA C++ kernel text on the CPU and check what it does to memory.

Input: the text given to NVRTC and the names of its kernels. Output: the arrays that
the kernels wrote, or a SimulatorError that lists each fault::

    text = 'extern "C" __global__ void twice(const float* x, float* y) { ... }'
    simulator = Simulator(text, ["twice"])
    simulator.launch("twice", (4, 1, 1), (64, 1, 1), [ReadOnly(x), y])

The folder cusim/ beside this file holds the C++ side and says what is checked.
"""

import ctypes
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
from cuda_simulator_build import (
    SimulatorBuildError,
    SimulatorError,
    build_kernels,
    build_runtime,
    has_compiler,
    load_runtime,
    wrap,
)

__all__ = ["Simulator", "SimulatorBuildError", "SimulatorError", "has_compiler"]

Array: TypeAlias = npt.NDArray[Any]
Shape3: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class ReadOnly:
    """An argument that the kernel may read and must not write."""

    array: Array


@dataclass(frozen=True, eq=False)
class InOut:
    """An argument with defined contents that the kernel may read and write."""

    array: Array


# A plain array is an output: uninitialised, and each of its bytes must be written.
Argument: TypeAlias = Array | ReadOnly | InOut | int | np.generic


_BLOCK_LIMITS = (1024, 1024, 64)
_GRID_LIMITS = (2**31 - 1, 65535, 65535)
_MAX_SHARED_BYTES = 227 * 1024
_RED_ZONE = 4096  # unused bytes between two arguments
_LAUNCHING = threading.Lock()  # the runtime has one set of fibers


@dataclass
class _Buffer:
    """One array argument and its place in the launch's memory."""

    array: Array
    name: str
    initialised: bool
    writable: bool
    address: int = 0

    @property
    def extent(self) -> tuple[int, int]:
        """Address and size in bytes of the caller's array."""
        return self.array.ctypes.data, self.array.nbytes


def _is_array(value: Argument) -> TypeGuard[Array | ReadOnly | InOut]:
    return isinstance(value, np.ndarray | ReadOnly | InOut)


def _buffer(value: ReadOnly | InOut | Array, position: int) -> _Buffer:
    array = value if isinstance(value, np.ndarray) else value.array
    output = isinstance(value, np.ndarray)
    if not array.flags.c_contiguous:
        raise ValueError(f"argument {position} is not C-contiguous; pass a copy")
    writable = not isinstance(value, ReadOnly)
    if writable and not array.flags.writeable:
        raise ValueError(f"argument {position} is written but its array is read-only")
    return _Buffer(array, f"argument {position}", not output, writable)


def _merge(buffers: Sequence[_Buffer]) -> dict[tuple[int, int], _Buffer]:
    """One buffer for each memory; ValueError where two overlap in part only."""
    merged: dict[tuple[int, int], _Buffer] = {}
    for buffer in buffers:
        other = merged.setdefault(buffer.extent, buffer)
        other.initialised |= buffer.initialised
        other.writable |= buffer.writable
    spans = sorted((start, start + size) for start, size in merged if size)
    for (_, end), (start, _) in zip(spans, spans[1:], strict=False):
        if start < end:
            raise ValueError("two arguments overlap in part; pass the same array")
    return merged


def _place(buffers: Sequence[_Buffer]) -> Array:
    """Give each buffer an address of its own, as far apart as cudaMalloc's would be.

    An address keeps its array's remainder modulo 16, so a misaligned view stays so.
    Outputs hold 0xff bytes (NaN). Returns the memory, to be kept alive.
    """
    total = sum(b.array.nbytes + _RED_ZONE + 512 for b in buffers)
    memory = np.full(total + _RED_ZONE, 0xFF, np.uint8)
    cursor = memory.ctypes.data + _RED_ZONE
    for buffer in buffers:
        buffer.address = -(-cursor // 256) * 256 + buffer.array.ctypes.data % 16
        cursor = buffer.address + buffer.array.nbytes + _RED_ZONE
        if buffer.initialised:
            ctypes.memmove(buffer.address, *buffer.extent)
    return memory


def _scalar(value: Argument) -> Array:
    """A 0-d array: an int as int64, a NumPy scalar as it is."""
    if type(value) is int:
        return np.array(value, np.int64)
    if isinstance(value, np.generic):
        return np.array(value)
    raise TypeError(f"{value!r}: pass a NumPy scalar, whose type says its width")


def _code(value: Argument) -> str:
    """The parameter that takes this argument, as name__params writes it: f4, p8."""
    if _is_array(value):
        return "p8"
    dtype = _scalar(value).dtype
    return f"{dtype.kind}{dtype.itemsize}"


def _check_shape(what: str, shape: Shape3, limits: Shape3) -> None:
    if any(not 1 <= n <= most for n, most in zip(shape, limits, strict=True)):
        raise ValueError(f"{what} {shape} is outside 1 to {limits}")


class Simulator:
    """The kernels `names` of `source`, built for the CPU.

    `checked=False` runs about 5 times faster, checks barriers and warps only.
    Raises SimulatorBuildError where g++ refuses the text.
    """

    def __init__(
        self, source: str, names: Sequence[str], *, checked: bool = True
    ) -> None:
        runtime = build_runtime()
        library = build_kernels(wrap(source, names), runtime, checked)
        self._runtime = load_runtime(runtime)
        self._kernels = ctypes.CDLL(str(library))
        self._checked = checked
        self._parameters = {name: self._read_parameters(name) for name in names}

    def _read_parameters(self, name: str) -> list[str]:
        symbol = ctypes.c_char.in_dll(self._kernels, f"{name}__params")
        text = ctypes.string_at(ctypes.addressof(symbol)).decode()
        return [text[i : i + 2] for i in range(0, len(text), 2)]

    def launch(
        self,
        name: str,
        grid: Shape3,
        block: Shape3,
        args: Sequence[Argument],
        shared_bytes: int = 0,
    ) -> None:
        """Run the kernel to its end; `shared_bytes` is its dynamic shared memory.

        Arrays must be C-contiguous. An int is passed as long long, a NumPy scalar as
        its own type; TypeError where the kernel's parameters differ. SimulatorError
        where the kernel broke a rule; the arrays then keep their contents.
        """
        self._check_launch(name, grid, block, args, shared_bytes)
        arrays = {i: _buffer(a, i) for i, a in enumerate(args) if _is_array(a)}
        merged = _merge(list(arrays.values()))
        memory = _place(list(merged.values()))
        words: list[Any] = []
        for i, arg in enumerate(args):
            if i in arrays:
                words.append(ctypes.c_void_p(merged[arrays[i].extent].address))
            else:
                words.append(ctypes.create_string_buffer(_scalar(arg).tobytes(), 16))
        with _LAUNCHING:
            findings = self._run(name, (*grid, *block), shared_bytes, words, merged)
        if findings:
            raise SimulatorError(f"kernel {name} broke a rule", findings)
        for buffer in merged.values():
            if buffer.writable:
                ctypes.memmove(buffer.extent[0], buffer.address, buffer.extent[1])
        del memory  # alive until here

    def _check_launch(
        self, name: str, grid: Shape3, block: Shape3, args: Sequence[Any], shared: int
    ) -> None:
        _check_shape("grid", grid, _GRID_LIMITS)
        _check_shape("block", block, _BLOCK_LIMITS)
        if block[0] * block[1] * block[2] > 1024:
            raise ValueError(f"block {block} has more than 1024 threads")
        if not 0 <= shared <= _MAX_SHARED_BYTES:
            raise ValueError(f"shared_bytes {shared} is over {_MAX_SHARED_BYTES}")
        wanted, got = self._parameters[name], [_code(a) for a in args]
        if len(wanted) != len(got) or any(
            w != g and w[0] != "?" for w, g in zip(wanted, got, strict=True)
        ):
            raise TypeError(f"kernel {name} takes {wanted}, got {got}")

    def _run(
        self,
        name: str,
        shape: tuple[int, ...],
        shared: int,
        words: Sequence[Any],
        buffers: Mapping[Any, _Buffer],
    ) -> list[str]:
        runtime = self._runtime
        runtime.cusim_reset()
        for b in buffers.values() if self._checked else ():
            runtime.cusim_buffer(
                ctypes.c_void_p(b.address), ctypes.c_size_t(b.array.nbytes),
                b.initialised, not b.writable, b.name.encode(),
            )  # fmt: skip
        pointers = (ctypes.c_void_p * len(words))(*map(ctypes.addressof, words))
        launch, grid_block = self._kernels[f"{name}__cpu"], (ctypes.c_uint * 6)(*shape)
        launch(grid_block, ctypes.c_size_t(shared), pointers)
        text = ctypes.create_string_buffer(1 << 15)
        count = runtime.cusim_errors(text, ctypes.c_size_t(len(text)))
        findings = text.value.decode(errors="replace").splitlines()
        if count > len(findings):
            findings.append(f"... and {count - len(findings)} more")
        if count == 0 and self._checked:
            findings = [f for b in buffers.values() if (f := self._unwritten(b))]
        return findings

    def _unwritten(self, buffer: _Buffer) -> str:
        """One line if the kernel left bytes of an output unwritten, else ""."""
        first = ctypes.c_size_t()
        count = self._runtime.cusim_unwritten(
            ctypes.c_void_p(buffer.address), ctypes.byref(first)
        )
        what = f"of {buffer.array.nbytes} bytes of {buffer.name} never written"
        return f"initcheck: {count} {what}, the first at {first.value}" if count else ""
