"""The cache's size on disk: what was used last stays, the oldest goes.

kernels/build.py fills the folder: KEY.so, KEY.sum and KEY.c for each kernel; so do
compiler/stored.py (KEY.plan) and kernels/cuda_build.py (KEY.cubin). All that is here
may run in several processes at once; each file may be gone at any time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pirol.kernels.build import cache_folder

DEFAULT_MB = 1024
EACH = 60.0  # seconds from one look at the folder to the next
ABANDONED = 3600.0  # seconds after which a build's own folder is left over
PARTS = (".so", ".sum", ".c", ".plan", ".cubin")
_LOCK = threading.Lock()
_looked = -EACH


def limit() -> int:
    """PIROL_CACHE_MB in bytes; the default where it is no number."""
    named = os.environ.get("PIROL_CACHE_MB", "")
    return (int(named) if named.isdigit() else DEFAULT_MB) << 20


def used(keys: Iterable[str]) -> None:
    """Note that kernels of these keys are in use, and trim the folder at times."""
    global _looked
    folder = cache_folder()
    for key in keys:
        with contextlib.suppress(OSError):
            os.utime(folder / f"{key}.so")
    with _LOCK:
        now = time.monotonic()
        due = now - _looked >= EACH
        _looked = now if due else _looked
    if due:
        trim(folder, limit())


def trim(folder: Path, most: int) -> int:
    """Remove what was used longest ago until `most` bytes are left; how many keys."""
    found = sorted(_entries(folder))
    total = size_of(found)
    removed = 0
    for _, size, key in found:
        if total <= most:
            break
        _remove(folder, key)
        total -= size
        removed += 1
    return removed


def size() -> int:
    """Bytes of all kernels and plans in the cache folder."""
    return size_of(_entries(cache_folder()))


def size_of(entries: Iterable[tuple[float, int, str]]) -> int:
    return sum(size for _, size, _ in entries)


def clear() -> int:
    """Remove all kernels and plans from the cache folder; how many there were."""
    return trim(cache_folder(), -1)


def _entries(folder: Path) -> Iterator[tuple[float, int, str]]:
    """(time of last use, bytes, key) of each entry; removes what a build left."""
    sizes: dict[str, int] = {}
    times: dict[str, float] = {}
    for entry in os.scandir(folder):
        key, suffix = os.path.splitext(entry.name)
        try:
            info = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(info.st_mode):
            _remove_abandoned(entry, info.st_mtime)
        elif suffix in PARTS:
            links = max(info.st_nlink, 1)  # 0 while another process removes it
            sizes[key] = sizes.get(key, 0) + info.st_size // links
            times[key] = max(times.get(key, 0.0), info.st_mtime)
    for key, size in sizes.items():
        yield times[key], size, key


def _remove_abandoned(entry: os.DirEntry[str], changed: float) -> None:
    if entry.name.startswith("tmp") and time.time() - changed > ABANDONED:
        shutil.rmtree(entry.path, ignore_errors=True)


def _remove(folder: Path, key: str) -> None:
    for suffix in PARTS:
        (folder / f"{key}{suffix}").unlink(missing_ok=True)
