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

from pirol.compiler.errors import BuildError

OPENMP = Path(paddle.__file__).parent / "libs" / "libiomp5.so"


@functools.lru_cache(maxsize=1)
def start() -> None:
    """Load the native runtime; raises BuildError where it was not built."""
    try:
        from pirol.compiler import _native
    except ImportError as error:
        raise BuildError(
            "the native runtime was not built (no C compiler when Pirol was "
            "installed); install one and reinstall Pirol"
        ) from error
    capsule = paddle.Tensor.__c_dlpack_exchange_api__
    _native.init(capsule, str(OPENMP) if OPENMP.exists() else None)
    _native.set_threads(threads())


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


@functools.lru_cache(maxsize=1)
def threads() -> int:
    """PIROL_THREADS, else the CPUs that this process may use."""
    named = os.environ.get("PIROL_THREADS", "")
    if named.isdigit() and int(named) > 0:
        return int(named)
    return len(os.sched_getaffinity(0))
