"""CUDA text -> cubins on disk, by architecture; no driver is needed.

A program's kernels are one text, and one cubin: `KEY.cubin` with its SHA-256 in
`KEY.sum`, in the cache folder of kernels/build.py.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pirol.kernels import nvrtc
from pirol.kernels.build import cache_folder, place, valid
from pirol.kernels.render import CUDA, HEADERS

PRELUDE = (HEADERS / CUDA.header).read_text()
COPIES = (HEADERS / "pirol_copy.cu").read_text()


def together(sources: Mapping[str, str]) -> str:
    """One text of kernels' texts, with what they all begin with once; and the kernels
    that copy strided memory."""
    rest = (text.removeprefix(PRELUDE) for text in sources.values())
    return "\n".join([PRELUDE, COPIES, *rest])


def build_cubin(sources: Mapping[str, str], arch: str) -> str:
    """The key of the cubin of kernels by name, compiled unless it is on disk.

    Raises:
        NvrtcError: NVRTC refuses the text or the architecture.
        ImportError: NVRTC is not installed.
    """
    text = together(sources)
    facts = f"{arch}\n{nvrtc.version()}\n{text}"
    key = hashlib.sha256(facts.encode()).hexdigest()[:32]
    folder = cache_folder()
    path = folder / f"{key}.cubin"
    if not valid(path):
        image = nvrtc.compile_cubin(text, arch=arch).image
        digest = hashlib.sha256(image).hexdigest()
        with tempfile.TemporaryDirectory(dir=folder) as work:
            place(path, Path(work), image)
            place(folder / f"{key}.sum", Path(work), digest.encode())
    return key


def image_of(key: str) -> bytes:
    """A cubin from the cache folder."""
    return (cache_folder() / f"{key}.cubin").read_bytes()
