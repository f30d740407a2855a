"""Connects the native runtime to this process's Paddle: DLPack, and its OpenMP."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paddle
from paddle.base import core

from pirol.compiler.process import keep_memory, native_module, threads

OPENMP = Path(paddle.__file__).parent / "libs" / "libiomp5.so"


@functools.lru_cache(maxsize=1)
def start() -> None:
    """Load the native runtime; raises BuildError where it was not built."""
    _native = native_module()
    capsule = paddle.Tensor.__c_dlpack_exchange_api__
    _native.init(capsule)
    if OPENMP.exists():
        _native.open_threads(str(OPENMP))
    _native.set_threads(threads())
    keep_memory()


@functools.lru_cache(maxsize=1)
def _openmp() -> ctypes.CDLL | None:
    return ctypes.CDLL(str(OPENMP)) if OPENMP.exists() else None


@contextmanager
def library_threads(ordered: bool = False) -> Iterator[None]:
    """Let Paddle's matmul and conv use as many threads as the kernels do; not where
    their sums are `ordered`, since that depends on it."""
    library = _openmp()
    if library is None or ordered:
        yield
        return
    before = library.omp_get_max_threads()
    core.set_num_threads(threads())
    try:
        yield
    finally:
        core.set_num_threads(before)
