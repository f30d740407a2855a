"""CUDA text -> cubins on disk, by architecture; no driver is needed.

A program's kernels are one text, and one cubin: `KEY.cubin` with its SHA-256 in
`KEY.sum`, in the cache folder of kernels/build.py.
"""

from __future__ import annotations

import hashlib
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


def name_of(sources: Mapping[str, str], arch: str) -> str:
    """The name of the kernels' cubin among those of a file: by its text."""
    return f"{arch}/{hashlib.sha256(together(sources).encode()).hexdigest()}"


def build_cubin(
    sources: Mapping[str, str], arch: str, given: Mapping[str, bytes] | None = None
) -> str:
    """The key of the cubin of kernels by name: the one given, if there is one of their
    text, or else compiled unless it is on disk.

    Raises:
        NvrtcError: NVRTC refuses the text or the architecture.
        ImportError: NVRTC is not installed.
    """
    image = given.get(name_of(sources, arch)) if given else None
    if image is not None:
        key = short_key(f"{arch}\n{hashlib.sha256(image).hexdigest()}")
    else:
        key = short_key(f"{arch}\n{nvrtc.version()}\n{together(sources)}")
    path = cache_folder() / f"{key}.cubin"
    if not valid(path):
        keep(path, image or nvrtc.compile_cubin(together(sources), arch=arch).image)
    return key


def image_of(key: str) -> bytes:
    """A cubin from the cache folder."""
    return (cache_folder() / f"{key}.cubin").read_bytes()
