"""F.gumbel_softmax, while Pirol captures: softmax((x + noise) / temperature).

Paddle has one op for it, which draws the noise itself, so that no other can compute
its gradient. Here the same numbers are drawn apart. Of a hard one, which is 1 at the
largest and 0 elsewhere, the gradient is that of the soft one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from pirol.compiler.capture.overwritten import capturing

LEAST = float(np.float32(1e-5))  # of the numbers that Paddle draws


@functools.cache
def follow() -> None:
    """Put ours before Paddle's function, once."""
    ops: Any = paddle._C_ops
    ops.gumbel_softmax = _drawn_apart(ops.gumbel_softmax)


def _drawn_apart(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def run(
        x: Any, temperature: float = 1.0, hard: bool = False, axis: int = -1
    ) -> Any:
        if not capturing.now or not isinstance(x, paddle.pir.Value):
            return plain(x, temperature, hard, axis)
        shape = paddle.shape(x) if -1 in x.shape else x.shape
        noise = -paddle.log(-paddle.log(paddle.uniform(shape, x.dtype, LEAST, 1.0)))
        soft = F.softmax((x + noise) / temperature, axis)
        return _hard(soft, axis) if hard else soft

    return run


def _hard(soft: Any, axis: int) -> Any:
    place = paddle.argmax(soft, axis, keepdim=True)
    places = paddle.cumsum(paddle.ones_like(soft, "int64"), axis) - 1
    return (places == place).astype(soft.dtype) + (soft - soft.detach())
