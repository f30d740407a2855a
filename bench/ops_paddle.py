"""The workloads' ops in Paddle, and so in Pirol. `workloads.py` names them."""

from __future__ import annotations

from typing import Any

import paddle

EPSILON = 1e-5

abs = paddle.abs
cos = paddle.cos
exp = paddle.exp
neg = paddle.neg
sin = paddle.sin
square = paddle.square
tanh = paddle.tanh
relu = paddle.nn.functional.relu
sigmoid = paddle.nn.functional.sigmoid
silu = paddle.nn.functional.silu
gelu = paddle.nn.functional.gelu
softmax = paddle.nn.functional.softmax
log_softmax = paddle.nn.functional.log_softmax


def result(x: Any) -> Any:
    return x


def add(x: Any, y: Any) -> Any:
    return x + y


bias = column_bias = add


def mul(x: Any, y: Any) -> Any:
    return x * y


def scale(x: Any) -> Any:
    return x * 0.5 + 1.0


def softmax_rows(x: Any) -> Any:
    return paddle.nn.functional.softmax(x, axis=0)


def layer_norm(x: Any, w: Any, b: Any) -> Any:
    return paddle.nn.functional.layer_norm(x, x.shape[-1:], w, b, EPSILON)


def rms_norm(x: Any, w: Any) -> Any:
    return x * paddle.rsqrt((x * x).mean(-1, keepdim=True) + EPSILON) * w


def batch_norm(x: Any, m: Any, v: Any, w: Any, b: Any) -> Any:
    return paddle.nn.functional.batch_norm(x, m, v, w, b, epsilon=EPSILON)


def linear(x: Any, w: Any, b: Any) -> Any:
    return x @ w + b


def transpose(x: Any) -> Any:
    return x.transpose([1, 0])


def sum_rows(x: Any) -> Any:
    return x.sum(axis=0)


def sum_columns(x: Any) -> Any:
    return x.sum(axis=1)
