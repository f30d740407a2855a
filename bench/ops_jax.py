"""The workloads' ops in JAX. `workloads.py` names them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

EPSILON = 1e-5

abs = jnp.abs
cos = jnp.cos
exp = jnp.exp
neg = jnp.negative
sin = jnp.sin
square = jnp.square
tanh = jnp.tanh
relu = jax.nn.relu
sigmoid = jax.nn.sigmoid
silu = jax.nn.silu
softmax = jax.nn.softmax
log_softmax = jax.nn.log_softmax


def result(x: Any) -> Any:
    return x


def add(x: Any, y: Any) -> Any:
    return x + y


bias = column_bias = add


def mul(x: Any, y: Any) -> Any:
    return x * y


def scale(x: Any) -> Any:
    return x * 0.5 + 1.0


def gelu(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


def softmax_rows(x: Any) -> Any:
    return jax.nn.softmax(x, axis=0)


def layer_norm(x: Any, w: Any, b: Any) -> Any:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * w + b


def rms_norm(x: Any, w: Any) -> Any:
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + EPSILON) * w


def batch_norm(x: Any, m: Any, v: Any, w: Any, b: Any) -> Any:
    m, v, w, b = (t[:, None, None] for t in (m, v, w, b))
    return (x - m) * jax.lax.rsqrt(v + EPSILON) * w + b


def linear(x: Any, w: Any, b: Any) -> Any:
    return x @ w + b


def transpose(x: Any) -> Any:
    return x.T


def sum_rows(x: Any) -> Any:
    return x.sum(axis=0)


def sum_columns(x: Any) -> Any:
    return x.sum(axis=1)
