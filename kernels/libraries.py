"""Where NVIDIA's libraries may be: names for dlopen, the best first.

places(("libcublasLt.so.13",))   # [.., ".../nvidia/cu13/lib/libcublasLt.so.13"]
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path


def places(names: Sequence[str]) -> list[str]:
    """What the process has loaded already (PyTorch's, for one), what the system has,
    what NVIDIA's packages for pip have."""
    return [*_loaded(names), *names, *_installed(names)]


def _loaded(names: Sequence[str]) -> list[str]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = dict.fromkeys(line.split()[-1] for line in lines if line)
    return [p for p in paths if Path(p).name.startswith(tuple(names))]


def _installed(names: Sequence[str]) -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    folders = (spec.submodule_search_locations if spec else None) or ()
    return [str(p) for n in names for f in folders for p in Path(f).glob(f"*/lib/{n}")]
