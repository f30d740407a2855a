"""The CUDA text of sorts: kernels by the size of what is sorted.

text((4,))         # pirol_sort.cu, and PR_SORT(4, unsigned, PrPacked, unsigned, 4)
names(4)           # ("pirol_sort_4", "pirol_merge_4"), which sort_cuda.c launches
"""

from __future__ import annotations

from collections.abc import Sequence

from pirol.kernels.render import HEADERS

TEXT = (HEADERS / "pirol_sort.cu").read_text()
ITEMS = {  # by their bytes: types, of an entry and a key too, blocks that are resident
    1: "unsigned char, PrPacked, unsigned, 4",
    2: "unsigned short, PrPacked, unsigned, 4",
    4: "unsigned, PrPacked, unsigned, 4",
    8: "unsigned long long, PrWide, unsigned long long, 3",
}


def text(sizes: Sequence[int]) -> str:
    """The kernels for items of these sizes; none for none."""
    made = [f"PR_SORT({size}, {ITEMS[size]})\n" for size in sizes]
    return "".join([TEXT, *made]) if made else ""


def names(size: int) -> tuple[str, str]:
    """Those for items of a size, in the order in which a step has them."""
    return f"pirol_sort_{size}", f"pirol_merge_{size}"
