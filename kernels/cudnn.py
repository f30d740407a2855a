"""Where cuDNN may be.

libraries()    # ["libcudnn.so.9", .., ".../nvidia/cudnn/lib/libcudnn.so.9"]
"""

from __future__ import annotations

from pirol.kernels.libraries import places

NAMES = ("libcudnn.so.9", "libcudnn.so.8")


def libraries() -> list[str]:
    """Names for dlopen, the best first."""
    return places(NAMES)
