"""Connects the native runtime to this process's Paddle: DLPack, and its OpenMP."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paddle
from paddle.base import core

from pirol.compiler.runtime import native_module, threads

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
MAPPED_FROM = 48 << 20  # bytes from which on a block is a mapping of its own
KEPT_BYTES = 128 << 20  # freed bytes kept at the heap's end

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
    _keep_memory()


def _keep_memory() -> None:
    """Let glibc keep freed blocks: a fresh result then needs no new pages.

    As glibc is set up, each large result is a mapping of its own, and touching its
    pages for the first time takes longer than most kernels. A threshold that the
    user set in the environment is left as it is.
    """
    named = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in named):
        return
    mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


@functools.lru_cache(maxsize=1)
def _openmp() -> ctypes.CDLL | None:
    return ctypes.CDLL(str(OPENMP)) if OPENMP.exists() else None


@contextmanager
def library_threads() -> Iterator[None]:
    """Let Paddle's matmul and conv use as many threads as the kernels do."""
    library = _openmp()
    if library is None:
        yield
        return
    before = library.omp_get_max_threads()
    core.set_num_threads(threads())
    try:
        yield
    finally:
        core.set_num_threads(before)
