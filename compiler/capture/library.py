"""Primitives that Paddle runs, as callables of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle.base import core

from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import Op
from pirol.prim.fourier import normalized

_HERE = paddle.CPUPlace()


def library(op: Op) -> Callable[..., Any]:
    """The callable of a primitive of the kind "library", or of random_key."""
    if op.name == "random_key":
        return _key
    if op.name == "inverse":
        return paddle._C_ops.inverse  # type: ignore[no-any-return]
    axes, forward = list(op.attrs["axes"]), op.attrs["forward"]
    norm = normalized(forward, op.attrs["scale"])
    ops = paddle._C_ops
    if op.name == "fft":
        return lambda x: ops.fft_c2c(x, axes, norm, forward)
    if op.name == "rfft":
        return lambda x: ops.fft_r2c(x, axes, norm, forward, True)
    last = axes[-1]
    size, given = op.result.shape[last], op.operands[0].shape[last]
    if isinstance(size, int):
        return lambda x: ops.fft_c2r(x, axes, norm, forward, size)
    odd = size - 2 * (given - 1)
    if not odd.is_Integer:
        raise Unsupported("a transform to a size of which it is not known if it is odd")
    return lambda x: ops.fft_c2r(
        x, axes, norm, forward, 2 * (x.shape[last] - 1) + int(odd)
    )


def _key() -> Any:
    return paddle._C_ops.full([], key_number(), paddle.int64, _HERE)


def key_number() -> int:
    """64 bits of Paddle's generator, which goes on by one draw."""
    number: int = core.default_cpu_generator().random()
    return number - 2**64 if number >= 2**63 else number
