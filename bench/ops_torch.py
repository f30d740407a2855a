"""The workloads' ops in torch. `workloads.py` names them."""

from __future__ import annotations

from typing import Any

import torch

EPSILON = 1e-5

abs = torch.abs
cos = torch.cos
exp = torch.exp
neg = torch.neg
sin = torch.sin
square = torch.square
tanh = torch.tanh
relu = torch.nn.functional.relu
sigmoid = torch.sigmoid
silu = torch.nn.functional.silu
gelu = torch.nn.functional.gelu


def result(x: Any) -> Any:
    """Row-major, as others return it; torch's may be a view that moved no memory."""
    return x.contiguous()


def add(x: Any, y: Any) -> Any:
    return x + y


bias = column_bias = add


def mul(x: Any, y: Any) -> Any:
    return x * y


def scale(x: Any) -> Any:
    return x * 0.5 + 1.0


def softmax(x: Any) -> Any:
    return torch.nn.functional.softmax(x, dim=-1)


def softmax_rows(x: Any) -> Any:
    return torch.nn.functional.softmax(x, dim=0)


def log_softmax(x: Any) -> Any:
    return torch.nn.functional.log_softmax(x, dim=-1)


def layer_norm(x: Any, w: Any, b: Any) -> Any:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], w, b, EPSILON)


def rms_norm(x: Any, w: Any) -> Any:
    return torch.nn.functional.rms_norm(x, x.shape[-1:], w, EPSILON)


def batch_norm(x: Any, m: Any, v: Any, w: Any, b: Any) -> Any:
    return torch.nn.functional.batch_norm(x, m, v, w, b, eps=EPSILON)


def linear(x: Any, w: Any, b: Any) -> Any:
    return x @ w + b


def transpose(x: Any) -> Any:
    return x.t()


def sum_rows(x: Any) -> Any:
    return x.sum(dim=0)


def sum_columns(x: Any) -> Any:
    return x.sum(dim=1)


def sum_all(x: Any) -> Any:
    return x.sum()


conj = torch.conj
fft = torch.fft.fft
ifft = torch.fft.ifft


def divide(x: Any, y: Any) -> Any:
    return x / y


def modulus(x: Any) -> Any:
    return x / (1.0 + x.abs())


def crelu(x: Any) -> Any:
    return torch.complex(relu(x.real), relu(x.imag))


def modrelu(x: Any) -> Any:
    size = x.abs()
    return x * (relu(size - 0.1) / (size + EPSILON))


def conv(x: Any, w: Any, b: Any) -> Any:
    return torch.nn.functional.conv2d(x, w, b, padding=1)


def pool(x: Any, k: int, stride: int, pad: int, dilation: int) -> Any:
    run = getattr(torch.nn.functional, f"max_pool{x.ndim - 2}d")
    return run(x, k, stride, pad, dilation)


def pool_mask(x: Any, k: int, stride: int, pad: int, dilation: int) -> Any:
    run = getattr(torch.nn.functional, f"max_pool{x.ndim - 2}d")
    value, mask = run(x, k, stride, pad, dilation, return_indices=True)
    return value + mask % 64


def pool_back(x: Any, k: int, stride: int, pad: int, dilation: int) -> Any:
    pooled = getattr(torch.nn.functional, f"max_pool{x.ndim - 2}d")
    value, mask = pooled(x, k, stride, pad, dilation, return_indices=True)
    run = getattr(torch.nn.functional, f"max_unpool{x.ndim - 2}d")
    return run(value, mask, k, stride, pad, output_size=x.shape)


def pool_gradient(x: Any, *sizes: int) -> Any:
    return torch.func.grad(lambda x: square(pool(x, *sizes)).sum())(x)


def gradients(run: Any, given: Any, ct: Any) -> Any:
    return torch.func.vjp(run, *given)[1](ct)


def spectral(x: Any, re: Any, im: Any, way: Any) -> Any:
    spectrum = torch.fft.rfft(x)
    modes = re.shape[-1]
    weights = torch.complex(re, im)
    low = torch.einsum("bix,iox->box", spectrum[..., 1 : modes + 1], weights)
    none = torch.zeros_like(spectrum)
    kept = torch.cat([none[..., :1], low, none[..., modes + 1 :]], -1)
    back = torch.fft.irfft(kept, n=x.shape[-1])
    return back + torch.einsum("bix,io->box", x, way)


hardswish = torch.nn.functional.hardswish
hardsigmoid = torch.nn.functional.hardsigmoid


def dense(x: Any, w: Any, b: Any, out: int) -> Any:
    """The weight as torch's layers keep it: [out, in], here a view."""
    return torch.nn.functional.linear(x, w.t(), b)


def convolve(
    x: Any, w: Any, out: int, k: int, stride: int, pad: int, groups: int
) -> Any:
    return torch.nn.functional.conv2d(x, w, None, stride, pad, groups=groups)


def input_gradient(x: Any, w: Any, ct: Any, *numbers: int) -> Any:
    return _gradients(x, w, ct, *numbers, wanted=0)


def weight_gradient(x: Any, w: Any, ct: Any, *numbers: int) -> Any:
    return _gradients(x, w, ct, *numbers, wanted=1)


def _gradients(x: Any, w: Any, ct: Any, *numbers: int, wanted: int) -> Any:
    _, _, stride, pad, groups = numbers
    mask = [wanted == n for n in range(3)]
    sizes = ([stride] * 2, [pad] * 2, [1, 1], False, [0, 0], groups)
    return torch.ops.aten.convolution_backward(ct, x, w, None, *sizes, mask)[wanted]


def attention(x: Any, heads: int) -> Any:
    batch, tokens, width = x.shape
    parts = x.view(batch, tokens, 3, heads, width // 3 // heads)
    q, k, v = parts.permute(2, 0, 3, 1, 4).unbind()
    found = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return found.transpose(1, 2).reshape(batch, tokens, width // 3)


def tokens(x: Any) -> Any:
    return x.flatten(2).transpose(1, 2)


def mean_space(x: Any) -> Any:
    return x.mean((2, 3))


def mean_tokens(x: Any) -> Any:
    return x.mean(1)


def squeeze(x: Any) -> Any:
    return torch.nn.functional.adaptive_avg_pool2d(x, 1)


def sort(x: Any) -> Any:
    return torch.sort(x, dim=-1).values


def sort_places(x: Any) -> Any:
    value, place = torch.sort(x, dim=-1, stable=True)
    return value + place % 64


def topk(x: Any, k: int) -> Any:
    return torch.topk(x, k, dim=-1).values
