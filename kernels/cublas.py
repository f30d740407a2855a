"""Where cuBLASLt may be: names for dlopen, the best first.

libraries()    # ["libcublasLt.so.13", "libcublasLt.so.12", ".../nvidia/cu13/lib/.."]
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

NAMES = ("libcublasLt.so.13", "libcublasLt.so.12")


def libraries() -> list[str]:
    """What the process has loaded already (PyTorch's, for one), what the system has,
    what NVIDIA's packages for pip have."""
    return [*_loaded(), *NAMES, *_installed()]


def _loaded() -> list[str]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = dict.fromkeys(line.split()[-1] for line in lines if line)
    return [p for p in paths if Path(p).name.startswith(NAMES)]


def _installed() -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    folders = (spec.submodule_search_locations if spec else None) or ()
    return [str(p) for n in NAMES for f in folders for p in Path(f).glob(f"*/lib/{n}")]
