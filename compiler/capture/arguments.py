"""A block's arguments as values of their own.

Paddle's `Block.args` hands out references into the block's vector. They outlive it
(`while_loop` holds one while it adds arguments), and pybind11 finds such a stale
object again for whatever value comes to lie at its address: a result of the loop
then reads memory that is gone.
"""

from __future__ import annotations

import functools
from typing import Any

from paddle.base.libpaddle import pir


@functools.cache
def own() -> None:
    """Put copies in the place of the references, once."""
    block: Any = pir.Block
    args = block.args

    @functools.wraps(args)
    def copies(of: Any) -> list[Any]:
        return [value._clone() for value in args(of)]

    block.args = copies
