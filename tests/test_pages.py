"""Large pages: under large results, and under inputs that stay where they are."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from cuda_simulator import has_compiler

import pirol

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
COLLAPSE = 25  # Linux's MADV_COLLAPSE
SIDE = 1280  # of float32: 6.5 MB
APART = 4096  # 64 MB, which malloc maps apart: nothing else is counted
LEAST = SIDE * SIDE * 4 - (4 << 20)  # without what lies around whole pages


def moved() -> bool:
    """Whether the system moves what is in small pages to large ones."""
    if not SETTING.exists() or "[never]" in SETTING.read_text():
        return False
    memory = mmap.mmap(-1, 8 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = bytes(8 << 20)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.madvise(COLLAPSE)
    except (AttributeError, OSError):
        return False
    return True


pytestmark = [
    pytest.mark.skipif(not has_compiler(), reason="no C compiler"),
    pytest.mark.skipif(not moved(), reason="the system moves no pages"),
]


def large(tensor: Any) -> int:
    """Bytes in large pages, of the mappings that a tensor lies in."""
    first = tensor.data_ptr()
    last = first + tensor.size * tensor.element_size()
    inside, found = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            low, high = (int(n, 16) for n in span.groups())
            inside = low < last and high > first
        elif inside and line.startswith("AnonHugePages"):
            found += int(line.split()[1]) << 10
    return found


def drawn(side: int = SIDE) -> Any:
    return paddle.to_tensor(np.random.default_rng(1).random((side, side), "float32"))


def test_inputs_that_stay() -> None:
    fast = pirol.to_static(lambda x, y: x + y)
    stays, own = drawn(APART), drawn(APART).numpy()
    before = large(stays)
    for call in range(4):
        if call == 2 and large(stays) > before:
            pytest.fail("moved before it was seen three times")
        comes = paddle.to_tensor(own)
        found = fast(stays, comes)
        np.testing.assert_array_equal(found.numpy(), stays.numpy() + own)
    assert large(stays) >= max(APART * APART * 4 - (4 << 20), before)


def test_results_where_small_pages_were() -> None:
    """Memory that ops filled before and gave back."""
    fast = pirol.to_static(lambda x: x * 2.0)
    x = drawn()
    kept = [paddle.ones([SIDE, SIDE]) for _ in range(8)]
    above = paddle.ones([64, 64])  # so that the heap stays as high as it is
    del kept
    results = [fast(x) for _ in range(4)]
    for found in results:
        np.testing.assert_array_equal(found.numpy(), x.numpy() * 2)
        assert large(found) >= LEAST
    assert float(above.sum()) == 64 * 64
