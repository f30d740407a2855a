"""The workloads' ops in Paddle, and so in Pirol. `workloads.py` names them."""

from __future__ import annotations

from typing import Any

import paddle

import pirol.complex
import pirol.nn

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


def sum_all(x: Any) -> Any:
    return x.sum()


conj = paddle.conj
fft = paddle.fft.fft
ifft = paddle.fft.ifft


def divide(x: Any, y: Any) -> Any:
    return x / y


def modulus(x: Any) -> Any:
    return x / (1.0 + x.abs())


def crelu(x: Any) -> Any:
    return paddle.complex(relu(x.real()), relu(x.imag()))


def modrelu(x: Any) -> Any:
    size = x.abs()
    return x * (relu(size - 0.1) / (size + EPSILON))


def conv(x: Any, w: Any, b: Any) -> Any:
    return pirol.complex.conv2d(x, w, b, padding=1)


def pool(x: Any, k: int, stride: int, pad: int, dilation: int) -> Any:
    return _pooled(x, k, stride, pad, dilation, False)


def _pooled(x: Any, k: int, stride: int, pad: int, dilation: int, mask: bool) -> Any:
    """Paddle's own where it has one."""
    name, more = f"max_pool{x.ndim - 2}d", {"return_mask": mask}
    if dilation > 1:
        run = getattr(pirol.nn.functional, name)
        return run(x, k, stride, pad, dilation=dilation, **more)
    return getattr(paddle.nn.functional, name)(x, k, stride, pad, **more)


def pool_mask(x: Any, k: int, stride: int, pad: int, dilation: int) -> Any:
    value, mask = _pooled(x, k, stride, pad, dilation, True)
    return value + (mask % 64).astype(x.dtype)


def pool_back(x: Any, k: int, stride: int, pad: int, dilation: int) -> Any:
    value, mask = _pooled(x, k, stride, pad, dilation, True)
    run = getattr(paddle.nn.functional, f"max_unpool{x.ndim - 2}d")
    return run(value, mask, k, stride, pad, output_size=list(x.shape))


def pool_gradient(x: Any, k: int, stride: int, pad: int, dilation: int) -> Any:
    with paddle.enable_grad():
        x = x.detach()
        x.stop_gradient = False
        loss = square(pool(x, k, stride, pad, dilation)).sum()
        return paddle.grad(loss, x)[0]


def gradients(run: Any, given: Any, ct: Any) -> Any:
    with paddle.enable_grad():
        given = [x.detach() for x in given]
        for x in given:
            x.stop_gradient = False
        return tuple(paddle.grad(run(*given), given, ct))


def spectral(x: Any, re: Any, im: Any, way: Any) -> Any:
    spectrum = paddle.fft.rfft(x)
    modes = re.shape[-1]
    weights = paddle.complex(re, im)
    low = paddle.einsum("bix,iox->box", spectrum[:, :, 1 : modes + 1], weights)
    none = paddle.zeros_like(spectrum)
    kept = paddle.concat([none[:, :, :1], low, none[:, :, modes + 1 :]], -1)
    back = paddle.fft.irfft(kept, n=x.shape[-1])
    return back + paddle.einsum("bix,io->box", x, way)


hardswish = paddle.nn.functional.hardswish
hardsigmoid = paddle.nn.functional.hardsigmoid


def dense(x: Any, w: Any, b: Any, out: int) -> Any:
    return paddle.nn.functional.linear(x, w, b)


def convolve(
    x: Any, w: Any, out: int, k: int, stride: int, pad: int, groups: int
) -> Any:
    return paddle.nn.functional.conv2d(x, w, None, stride, pad, groups=groups)


def input_gradient(x: Any, w: Any, ct: Any, *numbers: int) -> Any:
    return _gradient(0, ct, (x, w), *numbers)


def weight_gradient(x: Any, w: Any, ct: Any, *numbers: int) -> Any:
    return _gradient(1, ct, (x, w), *numbers)


def _gradient(wanted: int, ct: Any, given: Any, *numbers: int) -> Any:
    with paddle.enable_grad():
        x, w = (v.detach() for v in given)
        (x, w)[wanted].stop_gradient = False
        return paddle.grad(convolve(x, w, *numbers), (x, w)[wanted], ct)[0]


def attention(x: Any, heads: int) -> Any:
    batch, tokens, width = x.shape
    parts = x.reshape([batch, tokens, 3, heads, width // 3 // heads])
    q, k, v = parts.unbind(2)
    found = paddle.nn.functional.scaled_dot_product_attention(q, k, v)
    return found.reshape([batch, tokens, width // 3])


def tokens(x: Any) -> Any:
    return x.flatten(2).transpose([0, 2, 1])


def mean_space(x: Any) -> Any:
    return x.mean([2, 3])


def mean_tokens(x: Any) -> Any:
    return x.mean(1)


def squeeze(x: Any) -> Any:
    return paddle.nn.functional.adaptive_avg_pool2d(x, 1)


def sort(x: Any) -> Any:
    return paddle.sort(x, axis=-1)


def sort_places(x: Any) -> Any:
    place = paddle.argsort(x, axis=-1, stable=True)
    return paddle.sort(x, axis=-1) + (place % 64).astype(x.dtype)


def topk(x: Any, k: int) -> Any:
    return paddle.topk(x, k, axis=-1)[0]
