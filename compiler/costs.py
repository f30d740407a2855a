"""What the work of kernels costs, for predictions: figures of one core.

They are those of a common server core with AVX2 on a quiet machine, not measured where
Pirol runs.
"""

from __future__ import annotations

BANDWIDTH = 10e9  # bytes a second, read and written
UNIT = 1e-10  # seconds of a vectorised operation of cost 1 (see Prim) on one element
PRODUCT = 0.25  # the cost of one product of a contraction and its sum
LAUNCH = 5e-7  # seconds of starting a kernel


def roofline(moved: float, work: float) -> float:
    """Seconds on one thread of a kernel that moves so many bytes and does so much work
    (operations weighted by cost): whichever takes longer."""
    return LAUNCH + max(moved / BANDWIDTH, work * UNIT)
