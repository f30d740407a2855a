"""Kernels on a GPU, in the place of the simulator: the same text, arguments and checks
of what is written, by NVRTC and the CUDA driver.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from cuda_simulator import Argument, Array, InOut, ReadOnly, Shape3

from pirol.kernels.nvrtc import compile_cubin

MARGIN, POISON = 256, 0xA5  # bytes around each buffer that must stay as they are


def has_gpu() -> bool:
    """Is there a driver, and a device?"""
    try:
        return int(_context()[1]) >= 0
    except (ImportError, OSError, RuntimeError):
        return False


@functools.cache
def _context() -> tuple[Any, int]:
    """The driver, and a device whose context is current."""
    from cuda.bindings import driver

    _done(driver.cuInit(0))
    device = _done(driver.cuDeviceGet(0))
    _done(driver.cuCtxSetCurrent(_done(driver.cuDevicePrimaryCtxRetain(device))))
    return driver, device


def _done(answer: Any) -> Any:
    result, *values = answer
    if result.value:
        raise RuntimeError(f"CUDA: {result.name}")
    return values[0] if values else None


class Gpu:
    """A text on a GPU; launched as a Simulator is."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.driver, device = _context()
        kind = self.driver.CUdevice_attribute
        major = kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        numbers = [
            _done(self.driver.cuDeviceGetAttribute(k, device)) for k in (major, minor)
        ]
        image = compile_cubin(text, arch="sm_{}{}".format(*numbers)).image
        module = _done(self.driver.cuModuleLoadData(image))
        self.functions = {
            name: _done(self.driver.cuModuleGetFunction(module, name.encode()))
            for name in names
        }

    def launch(
        self, name: str, grid: Shape3, block: Shape3, arguments: Sequence[Argument]
    ) -> None:
        """Run a kernel; AssertionError where it writes beside what it is to write."""
        buffers: list[tuple[Array, int, bool]] = []
        values: list[Any] = []
        kinds: list[Any] = []
        for given in arguments:
            if isinstance(given, (int, np.integer)):
                values.append(int(given))
                kinds.append(ctypes.c_longlong)
                continue
            array = given.array if isinstance(given, (ReadOnly, InOut)) else given
            address = self._copied(array, isinstance(given, (ReadOnly, InOut)))
            buffers.append((array, address, not isinstance(given, ReadOnly)))
            values.append(address + MARGIN)
            kinds.append(ctypes.c_void_p)
        packed = (tuple(values), tuple(kinds))
        function = self.functions[name]
        _done(self.driver.cuLaunchKernel(function, *grid, *block, 0, 0, packed, 0))
        _done(self.driver.cuCtxSynchronize())
        for array, address, written in buffers:
            self._back(name, array, address, written)

    def _copied(self, array: Array, defined: bool) -> int:
        """A copy between margins; of an output, poison."""
        whole = np.full(array.nbytes + 2 * MARGIN, POISON, np.uint8)
        if defined:
            whole[MARGIN : MARGIN + array.nbytes] = array.reshape(-1).view(np.uint8)
        address = _done(self.driver.cuMemAlloc(whole.nbytes))
        _done(self.driver.cuMemcpyHtoD(address, whole.ctypes.data, whole.nbytes))
        return int(address)

    def _back(self, name: str, array: Array, address: int, written: bool) -> None:
        whole = np.empty(array.nbytes + 2 * MARGIN, np.uint8)
        _done(self.driver.cuMemcpyDtoH(whole.ctypes.data, address, whole.nbytes))
        _done(self.driver.cuMemFree(address))
        inside = whole[MARGIN : MARGIN + array.nbytes]
        around = (whole[:MARGIN], whole[MARGIN + array.nbytes :])
        assert all((part == POISON).all() for part in around), f"{name} writes outside"
        if written:
            array.reshape(-1).view(np.uint8)[:] = inside
        else:
            same = (inside == array.reshape(-1).view(np.uint8)).all()
            assert same, f"{name} writes to an input"
