"""NumPy arrays of tensors within a function: x.numpy(), np.asarray(x).

From the functions that it transforms Paddle takes `.numpy()` away: x is then itself,
with its gradient and by Paddle's rules for dtypes; and np.asarray(x) is an array of an
object, which no call ever sets. What NumPy computes is no part of a program: here both
end the capture, and eager runs the call.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np
import paddle
from paddle.jit.dy2static.transformers.ifelse_transformer import IfElseTransformer

from pirol.compiler.capture.overwritten import capturing
from pirol.compiler.capture.sizes import LIBRARY


@functools.cache
def follow() -> None:
    """Put ours where NumPy and users ask Paddle's static values for arrays, once."""
    value: Any = paddle.pir.Value
    transformed: Any = IfElseTransformer
    without = transformed.visit_Call

    def kept(self: Any, node: Any) -> Any:
        return self.generic_visit(node) if capturing.depth else without(self, node)

    def taken(self: Any, *args: Any, **kwargs: Any) -> Any:
        if capturing.depth:
            raise TypeError("x.numpy() is of a call's data, which no program has")
        return self  # as without the call

    def array(self: Any, *args: Any, **kwargs: Any) -> Any:
        users = not sys._getframe(1).f_code.co_filename.startswith(LIBRARY)
        if capturing.depth and users:
            raise TypeError("NumPy asks for a call's data, which no program has")
        whole = np.empty((), object)  # as NumPy has what it does not know
        whole[()] = self
        return whole

    transformed.visit_Call = kept
    value.numpy, value.__array__ = taken, array
