"""What this process gives the native runtime: the module itself, threads, memory."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from typing import Any

from pirol.compiler.errors import BuildError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
MAPPED_FROM = 48 << 20  # bytes from which on a block is a mapping of its own
KEPT_BYTES = 128 << 20  # freed bytes kept at the heap's end


def native_module() -> Any:
    """pirol.compiler._native; raises BuildError where it was not built."""
    try:
        from pirol.compiler import _native
    except ImportError as error:
        raise BuildError(
            "the native runtime was not built (no C compiler when Pirol was "
            "installed); install one and reinstall Pirol"
        ) from error
    return _native


@lru_cache(maxsize=1)
def threads() -> int:
    """PIROL_THREADS, else the CPUs that this process may use."""
    named = os.environ.get("PIROL_THREADS", "")
    if named.isdigit() and int(named) > 0:
        return int(named)
    return len(os.sched_getaffinity(0))


def keep_memory() -> None:
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
