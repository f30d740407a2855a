"""Connects the native runtime to this process's Paddle: DLPack, and its OpenMP."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import paddle

from pirol.compiler.errors import BuildError


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
    library = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    capsule = paddle.Tensor.__c_dlpack_exchange_api__
    _native.init(capsule, str(library) if library.exists() else None)
    _native.set_threads(threads())


def threads() -> int:
    """PIROL_THREADS, else the CPUs that this process may use."""
    named = os.environ.get("PIROL_THREADS", "")
    if named.isdigit() and int(named) > 0:
        return int(named)
    return len(os.sched_getaffinity(0))
