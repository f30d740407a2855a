"""Where cuFFT may be.

libraries()    # ["libcufft.so.12", .., ".../nvidia/cufft/lib/libcufft.so.11"]
"""

from __future__ import annotations

from pirol.kernels.libraries import places

NAMES = ("libcufft.so.12", "libcufft.so.11")


def libraries() -> list[str]:
    """Names for dlopen, the best first."""
    return places(NAMES)
