"""Where cuBLASLt may be.

libraries()    # ["libcublasLt.so.13", "libcublasLt.so.12", ".../nvidia/cu13/lib/.."]
"""

from __future__ import annotations

from pirol.kernels.libraries import places

NAMES = ("libcublasLt.so.13", "libcublasLt.so.12")


def libraries() -> list[str]:
    """Names for dlopen, the best first."""
    return places(NAMES)
