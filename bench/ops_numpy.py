"""The workloads' ops in NumPy: the oracle, on float64. `workloads.py` names them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

EPSILON = 1e-5
DIFFERENCES, STEP = 10_000, 1e-5

abs = np.abs
cos = np.cos
exp = np.exp
neg = np.negative
sin = np.sin
square = np.square
tanh = np.tanh


def result(x: Any) -> Any:
    return x


def add(x: Any, y: Any) -> Any:
    return x + y


bias = column_bias = add


def mul(x: Any, y: Any) -> Any:
    return x * y


def scale(x: Any) -> Any:
    return x * 0.5 + 1.0


def relu(x: Any) -> Any:
    return np.maximum(x, 0)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def silu(x: Any) -> Any:
    return x * sigmoid(x)


def gelu(x: Any) -> Any:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_rows(x: Any) -> Any:
    return softmax(x.T).T


def log_softmax(x: Any) -> Any:
    y = x - x.max(-1, keepdims=True)
    return y - np.log(np.exp(y).sum(-1, keepdims=True))


def layer_norm(x: Any, w: Any, b: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + EPSILON) * w + b


def rms_norm(x: Any, w: Any) -> Any:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * w


def batch_norm(x: Any, m: Any, v: Any, w: Any, b: Any) -> Any:
    m, v, w, b = (t[:, None, None] for t in (m, v, w, b))
    return (x - m) / np.sqrt(v + EPSILON) * w + b


def linear(x: Any, w: Any, b: Any) -> Any:
    return x @ w + b


def transpose(x: Any) -> Any:
    return x.T


def sum_rows(x: Any) -> Any:
    return x.sum(0)


def sum_columns(x: Any) -> Any:
    return x.sum(1)


def sum_all(x: Any) -> Any:
    return x.sum()


conj = np.conj
fft = np.fft.fft
ifft = np.fft.ifft


def divide(x: Any, y: Any) -> Any:
    return x / y


def modulus(x: Any) -> Any:
    """Complex numbers made shorter than 1, in their direction."""
    return x / (1.0 + np.abs(x))


def crelu(x: Any) -> Any:
    return np.maximum(x.real, 0) + 1j * np.maximum(x.imag, 0)


def modrelu(x: Any) -> Any:
    size = np.abs(x)
    return x * (np.maximum(size - 0.1, 0) / (size + EPSILON))


def _windows(x: Any, k: int, pad: int, dilation: int, fill: float) -> Any:
    """The windows of all spatial dims, their taps last."""
    rank = x.ndim - 2
    wide = np.pad(x, [(0, 0)] * 2 + [(pad, pad)] * rank, constant_values=fill)
    reach = (dilation * (k - 1) + 1,) * rank
    axes = tuple(range(2, x.ndim))
    found = np.lib.stride_tricks.sliding_window_view(wide, reach, axes)
    taps = (..., *(slice(None, None, dilation),) * rank)
    return found[taps]


def conv(x: Any, w: Any, b: Any) -> Any:
    taps = _windows(x, 3, 1, 1, 0)
    found = np.einsum("nchwij,ocij->nohw", taps, w, optimize=True)
    return found + b[:, None, None]


def pool(x: Any, k: int, stride: int, pad: int, dilation: int) -> Any:
    rank = x.ndim - 2
    taps = _strided(_windows(x, k, pad, dilation, -np.inf), rank, stride)
    return taps.max(tuple(range(-rank, 0)))


def _strided(taps: Any, rank: int, stride: int) -> Any:
    return taps[(slice(None),) * 2 + (slice(None, None, stride),) * rank]


def _places(x: Any, k: int, stride: int, pad: int, dilation: int) -> Any:
    """The place in its plane of each window's largest."""
    rank = x.ndim - 2
    taps = _strided(_windows(x, k, pad, dilation, -np.inf), rank, stride)
    best = taps.reshape(*taps.shape[:-rank], -1).argmax(-1)
    plane = np.arange(math.prod(x.shape[2:])).reshape(1, 1, *x.shape[2:])
    plane = _strided(_windows(plane, k, pad, dilation, -1), rank, stride)
    plane = np.broadcast_to(plane, taps.shape).reshape(*best.shape, -1)
    return np.take_along_axis(plane, best[..., None], -1)[..., 0]


def pool_mask(x: Any, *sizes: int) -> Any:
    """The values and what tells a wrong place, of which not all digits are kept."""
    return pool(x, *sizes) + _places(x, *sizes) % 64


def pool_back(x: Any, *sizes: int) -> Any:
    """Zeros but for each window's largest, at its place."""
    places = _places(x, *sizes).reshape(*x.shape[:2], -1)
    found = np.zeros((*x.shape[:2], math.prod(x.shape[2:])), x.dtype)
    np.put_along_axis(found, places, pool(x, *sizes).reshape(places.shape), -1)
    return found.reshape(x.shape)


def pool_gradient(x: Any, *sizes: int) -> Any:
    """The gradient of the sum of squares."""
    places = _places(x, *sizes).reshape(*x.shape[:2], -1)
    image, channel, _ = np.indices(places.shape)
    found = np.zeros((*x.shape[:2], math.prod(x.shape[2:])), x.dtype)
    ct = 2 * pool(x, *sizes).reshape(places.shape)
    np.add.at(found, (image, channel, places), ct)
    return found.reshape(x.shape)


def gradients(run: Any, given: Any, ct: Any) -> Any:
    """By central differences, of each element; so of few alone."""
    if sum(x.size for x in given) > DIFFERENCES:
        raise ValueError(f"gradients of over {DIFFERENCES} elements need torch")
    found = [np.zeros_like(x) for x in given]
    for x, into in zip(given, found):
        for at in np.ndindex(x.shape):
            before, ends = x[at], []
            for step in (STEP, -STEP):
                x[at] = before + step
                ends.append((run(*given) * ct).sum())
            x[at] = before
            into[at] = (ends[0] - ends[1]) / (2 * STEP)
    return tuple(found)


def spectral(x: Any, re: Any, im: Any, way: Any) -> Any:
    """A layer of a Fourier neural operator: the first modes but the mean, which must be
    real, mixed; and x itself."""
    spectrum = np.fft.rfft(x)
    low = slice(1, re.shape[-1] + 1)
    kept = np.zeros_like(spectrum)
    kept[..., low] = np.einsum("bix,iox->box", spectrum[..., low], re + 1j * im)
    return np.fft.irfft(kept, n=x.shape[-1]) + np.einsum("bix,io->box", x, way)


def dense(x: Any, w: Any, b: Any, out: int) -> Any:
    return x @ w + b


def convolve(
    x: Any, w: Any, out: int, k: int, stride: int, pad: int, groups: int
) -> Any:
    taps = _strided(_windows(x, k, pad, 1, 0), 2, stride)
    parts = [
        np.einsum("nchwij,ocij->nohw", *pair, optimize=True)
        for pair in zip(np.split(taps, groups, 1), np.split(w, groups))
    ]
    return np.concatenate(parts, 1)


def input_gradient(
    x: Any, w: Any, ct: Any, out: int, k: int, stride: int, pad: int, groups: int
) -> Any:
    """Tap by tap, each where it lies in the padded image."""
    found = np.zeros_like(np.pad(x, [(0, 0)] * 2 + [(pad, pad)] * 2))
    inside = np.split(found, groups, 1)
    parts = [*zip(inside, np.split(ct, groups, 1), np.split(w, groups))]
    high, wide = (stride * n for n in ct.shape[2:])
    for i in range(k):
        for j in range(k):
            for to, c, v in parts:
                at = to[:, :, i : i + high : stride, j : j + wide : stride]
                at += np.einsum("nohw,oc->nchw", c, v[:, :, i, j], optimize=True)
    return found[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]]


def weight_gradient(
    x: Any, w: Any, ct: Any, out: int, k: int, stride: int, pad: int, groups: int
) -> Any:
    taps = _strided(_windows(x, k, pad, 1, 0), 2, stride)
    parts = [
        np.einsum("nchwij,nohw->ocij", *pair, optimize=True)
        for pair in zip(np.split(taps, groups, 1), np.split(ct, groups, 1))
    ]
    return np.concatenate(parts)


def attention(x: Any, heads: int) -> Any:
    """Of queries, keys and values side by side, [batch, tokens, 3 * width]."""
    batch, tokens, width = x.shape
    parts = x.reshape(batch, tokens, 3, heads, width // 3 // heads)
    q, k, v = parts.transpose(2, 0, 3, 1, 4)
    weights = softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]))
    return (weights @ v).swapaxes(1, 2).reshape(batch, tokens, width // 3)


def tokens(x: Any) -> Any:
    return x.reshape(*x.shape[:2], -1).swapaxes(1, 2)


def mean_space(x: Any) -> Any:
    return x.mean((2, 3))


def mean_tokens(x: Any) -> Any:
    return x.mean(1)


def squeeze(x: Any) -> Any:
    return x.mean((2, 3), keepdims=True)


def hardsigmoid(x: Any) -> Any:
    return np.clip(x / 6 + 0.5, 0, 1)


def hardswish(x: Any) -> Any:
    return x * hardsigmoid(x)


def sort(x: Any) -> Any:
    return np.sort(x, axis=-1)


def sort_places(x: Any) -> Any:
    place = np.argsort(x, axis=-1, kind="stable")
    return np.take_along_axis(x, place, axis=-1) + place % 64


def topk(x: Any, k: int) -> Any:
    return -np.sort(-x, axis=-1)[..., :k]
