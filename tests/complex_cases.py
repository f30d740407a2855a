"""Functions of complex tensors [3, 4] that eager Paddle has on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

_SAME = (
    "abs angle conj real imag exp expm1 log log2 log10 log1p sqrt sin cos tan sinh cosh"
    " tanh asin acos atan asinh acosh atanh square reciprocal neg sum mean prod cumsum"
    " isnan isinf isfinite all any trace tril triu t flatten as_real logical_not sgn"
)
_PAIRS = (
    "add subtract multiply divide pow equal not_equal logical_and kron isclose outer"
)
UNARY: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(paddle, name) for name in _SAME.split()},
    "sigmoid": F.sigmoid,
    "silu": F.silu,
    "sum of columns": lambda x: x.sum(0),
    "mean kept": lambda x: x.mean(1, keepdim=True),
    "prod of rows": lambda x: paddle.prod(x, 1),
    "pad": lambda x: F.pad(x, [1, 1, 2, 0]),
    "roll": lambda x: paddle.roll(x, 1),
    "flip": lambda x: paddle.flip(x, [0]),
    "tile": lambda x: paddle.tile(x, [2, 1]),
    "expand": lambda x: paddle.expand(x.unsqueeze(0), [2, 3, 4]),
    "slices": lambda x: x[1:, ::2],
    "transpose": lambda x: paddle.transpose(x, [1, 0]),
    "reshape": lambda x: paddle.reshape(x, [-1]),
    "diag": lambda x: paddle.diag(x[0]),
    "diagonal": lambda x: paddle.diagonal(x),
    "stack": lambda x: paddle.stack([x, x * 2]),
    "unbind": lambda x: paddle.unbind(x)[0],
    "concat": lambda x: paddle.concat([x, x * 1j]),
    "full": lambda x: x + paddle.full([1, 1], 1 + 2j, "complex64").astype(x.dtype),
    "full_like": lambda x: paddle.full_like(x, 1.5) + x,
    "zeros_like": lambda x: paddle.zeros_like(x) + x,
    "a constant": lambda x: x[:, :2] * paddle.to_tensor([1 + 2j, -3j]).astype(x.dtype),
    "an array": lambda x: (
        x[0, :2] + paddle.assign(np.array([1 + 2j, 0])).astype(x.dtype)
    ),
    "to 128": lambda x: x.astype("complex128"),
    "from real": lambda x: x.real().astype("complex64").astype(x.dtype) * x,
    "to bool": lambda x: x.astype("bool"),
    "to real": lambda x: x.astype("float32"),
    "scale": lambda x: x * 2.0 + 1.0,
    "times j": lambda x: x * (1 + 2j),
    "from a number": lambda x: 1.0 - x,
    "number over": lambda x: 2.0 / x,
    "j over": lambda x: 2j / x,
    "power of 2": lambda x: x**2,
    "power of a half": lambda x: x**0.5,
    "power of -1": lambda x: x**-1,
    "power": lambda x: x**3.7,
    "power of j": lambda x: x ** (1 + 2j),
    "power of a number": lambda x: 2.0**x,
    "as_complex": lambda x: paddle.as_complex(paddle.as_real(x) * 2.0),
    "norm": lambda x: paddle.norm(x),
    "fft": lambda x: paddle.fft.fft(x * 2.0) * 2.0,
    "ifft": lambda x: paddle.fft.ifft(x, norm="ortho"),
    "rfft": lambda x: paddle.fft.rfft(x.real()),
    "rfft of planes": lambda x: paddle.fft.rfft2(x.real(), norm="forward"),
    "irfft": lambda x: paddle.fft.irfft(x),
    "irfft to 5": lambda x: paddle.fft.irfft2(x[:, :3], s=[3, 5]),
    "hfft": lambda x: paddle.fft.hfft(x),
    "ihfft": lambda x: paddle.fft.ihfft(x.real()),
    "fft of planes": lambda x: paddle.fft.fft2(x).abs(),
    "fftshift": lambda x: paddle.fft.fftshift(x),
    "gather": lambda x: paddle.gather(x, paddle.to_tensor([0, 2])),
    "index_select": lambda x: paddle.index_select(x, paddle.to_tensor([0, 2])),
    "gather_nd": lambda x: paddle.gather_nd(x, paddle.to_tensor([[0, 1]])),
    "where": lambda x: paddle.where(x.real() > 0, x, x * 1j),
    "polar": lambda x: paddle.polar(x.abs(), x.angle()),
    "diff": lambda x: paddle.diff(x),
    "set": lambda x: put(x),
    "modReLU": lambda x: F.relu(x.abs() - 0.5) * x / (x.abs() + 1e-6),
    "isreal": paddle.isreal,
}
PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    **{name: getattr(paddle, name) for name in _PAIRS.split()},
    "matmul": lambda x, y: paddle.matmul(x, y.t()),
    "matmul of conjugates": lambda x, y: paddle.matmul(x.conj(), y, transpose_x=True),
    "dot": lambda x, y: paddle.dot(x[0], y[0]),
    "linear": lambda x, y: F.linear(x, y.t(), y[0, :3]),
    "einsum": lambda x, y: paddle.einsum("ij,kj->ik", x, y),
    "times real": lambda x, y: x * y.real(),
    "and real": lambda x, y: x + y.real(),
    "matmul with real": lambda x, y: paddle.matmul(x, y.real().t().astype(x.dtype)),
    "add_n": lambda x, y: paddle.add_n([x, y]),
    "broadcast": lambda x, y: x * y[:1] + y[:, :1],
    "vecdot": paddle.linalg.vecdot,
    "chain": lambda x, y: paddle.tanh(x * y) + paddle.exp(x * 1j) / (1.5 + y.abs()),
    "polynomial": lambda x, y: ((x * y + 1.0) * x - y) * x + 2j,
    "of parts": lambda x, y: paddle.complex(x.real(), y.imag()),
    "two outputs": lambda x, y: (x * y, (x - y).abs()),
}


def put(x: Any) -> Any:
    """x with a number in it."""
    y = x * 1.0
    y[0, 0] = 1 + 1j
    return y
