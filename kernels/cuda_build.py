"""CUDA text -> cubins on disk, by architecture; no driver is needed.

A program's kernels are one text, and one cubin: `KEY.cubin` with its SHA-256 in
`KEY.sum`, in the cache folder of kernels/build.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from pirol.kernels import nvrtc
from pirol.kernels.build import cache_folder, keep, short_key, valid
from pirol.kernels.render import HEADERS, PRELUDE

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
    key = short_key(f"{arch}\n{nvrtc.version()}\n{text}")
    path = cache_folder() / f"{key}.cubin"
    if not valid(path):
        keep(path, nvrtc.compile_cubin(text, arch=arch).image)
    return key


def image_of(key: str) -> bytes:
    """A cubin from the cache folder."""
    return (cache_folder() / f"{key}.cubin").read_bytes()
