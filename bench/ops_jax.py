"""The workloads' ops in JAX. `workloads.py` names them."""

from __future__ import annotations

import itertools
import math
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


def sum_all(x: Any) -> Any:
    return x.sum()


conj = jnp.conj
fft = jnp.fft.fft
ifft = jnp.fft.ifft


def divide(x: Any, y: Any) -> Any:
    return x / y


def modulus(x: Any) -> Any:
    return x / (1.0 + jnp.abs(x))


def crelu(x: Any) -> Any:
    return jax.lax.complex(relu(x.real), relu(x.imag))


def modrelu(x: Any) -> Any:
    size = jnp.abs(x)
    return x * (relu(size - 0.1) / (size + EPSILON))


def conv(x: Any, w: Any, b: Any) -> Any:
    found = jax.lax.conv_general_dilated(x, w, (1, 1), ((1, 1), (1, 1)))
    return found + b[:, None, None]


def pool(x: Any, k: int, stride: int, pad: int, dilation: int) -> Any:
    return _windows(x, -jnp.inf, jax.lax.max, (k, stride, pad, dilation), x.ndim - 2)


def _windows(x: Any, start: Any, join: Any, sizes: tuple[int, ...], rank: int) -> Any:
    k, stride, pad, dilation = sizes
    return jax.lax.reduce_window(
        x,
        start,
        join,
        (1, 1, *(k,) * rank),
        (1, 1, *(stride,) * rank),
        ((0, 0), (0, 0), *((pad, pad),) * rank),
        window_dilation=(1, 1, *(dilation,) * rank),
    )


def pool_mask(x: Any, *sizes: int) -> Any:
    value, mask = _of_pairs(x, *sizes)
    return value + mask % 64


def pool_back(x: Any, *sizes: int) -> Any:
    value, mask = (a.reshape(*x.shape[:2], -1) for a in _of_pairs(x, *sizes))
    none = jnp.zeros((*x.shape[:2], math.prod(x.shape[2:])), x.dtype)
    return jnp.put_along_axis(none, mask, value, -1, inplace=False).reshape(x.shape)


def _of_pairs(x: Any, *sizes: int) -> Any:
    """Values and mask: jax.lax has no mask of its own."""
    plane = jnp.arange(math.prod(x.shape[2:])).reshape(x.shape[2:])

    def larger(a: Any, b: Any) -> Any:
        first = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
        return tuple(jnp.where(first, u, v) for u, v in zip(a, b))

    pairs = (x, jnp.broadcast_to(plane, x.shape))
    start = (-jnp.inf, jnp.iinfo(plane.dtype).max)
    return _windows(pairs, start, larger, sizes, x.ndim - 2)


def pool_gradient(x: Any, *sizes: int) -> Any:
    """Tap by tap where there is a dilation: jax.lax has no gradient of such windows."""
    run = pool if sizes[-1] == 1 else _by_taps
    return jax.grad(lambda x: square(run(x, *sizes)).sum())(x)


def gradients(run: Any, given: Any, ct: Any) -> Any:
    return jax.vjp(run, *given)[1](ct)


def _by_taps(x: Any, k: int, stride: int, pad: int, dilation: int) -> Any:
    pads = ((0, 0), (0, 0), *((pad, pad),) * (x.ndim - 2))
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    found = None
    for tap in itertools.product(range(k), repeat=x.ndim - 2):
        starts = [t * dilation for t in tap]
        ends = [n - (k - 1 - t) * dilation for n, t in zip(x.shape[2:], tap)]
        at = [slice(a, z, stride) for a, z in zip(starts, ends)]
        part = x[tuple([slice(None)] * 2 + at)]
        found = part if found is None else jnp.maximum(found, part)
    return found


def spectral(x: Any, re: Any, im: Any, way: Any) -> Any:
    spectrum = jnp.fft.rfft(x)
    modes = re.shape[-1]
    weights = jax.lax.complex(re, im)
    low = jnp.einsum("bix,iox->box", spectrum[..., 1 : modes + 1], weights)
    none = jnp.zeros_like(spectrum)
    kept = jnp.concatenate([none[..., :1], low, none[..., modes + 1 :]], -1)
    back = jnp.fft.irfft(kept, n=x.shape[-1])
    return back + jnp.einsum("bix,io->box", x, way)


hardswish = jax.nn.hard_swish
hardsigmoid = jax.nn.hard_sigmoid


def dense(x: Any, w: Any, b: Any, out: int) -> Any:
    return x @ w + b


def convolve(
    x: Any, w: Any, out: int, k: int, stride: int, pad: int, groups: int
) -> Any:
    pads = ((pad, pad), (pad, pad))
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), pads, feature_group_count=groups
    )


def input_gradient(x: Any, w: Any, ct: Any, *numbers: int) -> Any:
    return jax.vjp(lambda x: convolve(x, w, *numbers), x)[1](ct)[0]


def weight_gradient(x: Any, w: Any, ct: Any, *numbers: int) -> Any:
    return jax.vjp(lambda w: convolve(x, w, *numbers), w)[1](ct)[0]


def attention(x: Any, heads: int) -> Any:
    batch, tokens, width = x.shape
    parts = x.reshape(batch, tokens, 3, heads, width // 3 // heads)
    q, k, v = (parts[:, :, n] for n in range(3))
    found = jax.nn.dot_product_attention(q, k, v)
    return found.reshape(batch, tokens, width // 3)


def tokens(x: Any) -> Any:
    return x.reshape(*x.shape[:2], -1).swapaxes(1, 2)


def mean_space(x: Any) -> Any:
    return x.mean((2, 3))


def mean_tokens(x: Any) -> Any:
    return x.mean(1)


def squeeze(x: Any) -> Any:
    return x.mean((2, 3), keepdims=True)


def sort(x: Any) -> Any:
    return jnp.sort(x, axis=-1)


def sort_places(x: Any) -> Any:
    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    value, place = jax.lax.sort((x, place), num_keys=1, is_stable=True)
    return value + (place % 64).astype(x.dtype)


def topk(x: Any, k: int) -> Any:
    return jax.lax.top_k(x, k)[0]
