"""Functions whose gradients are held against eager, and what their inputs are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn.functional as F

# Of one tensor [3, 5]; where a name ends in "+", of numbers in (0.1, 0.9).
UNARY: dict[str, Callable[[Any], Any]] = {
    **{
        name: getattr(F, name)
        for name in [
            "relu",
            "relu6",
            "leaky_relu",
            "elu",
            "gelu",
            "silu",
            "swish",
            "hardswish",
            "hardsigmoid",
            "softmax",
            "log_softmax",
            "sigmoid",
            "softplus",
            "softsign",
            "mish",
            "celu",
            "selu",
            "hardtanh",
            "hardshrink",
            "softshrink",
            "tanhshrink",
            "thresholded_relu",
            "log_sigmoid",
        ]
    },
    **{
        name: getattr(paddle, name)
        for name in [
            "abs",
            "square",
            "exp",
            "tanh",
            "sin",
            "cos",
            "erf",
            "floor",
            "ceil",
            "round",
            "sign",
            "sum",
            "mean",
            "max",
            "min",
            "prod",
            "logsumexp",
            "cumsum",
            "std",
            "var",
            "sinh",
            "cosh",
            "asinh",
            "atan",
            "stanh",
            "expm1",
            "neg",
            "trunc",
        ]
    },
    **{
        f"{name}+": getattr(paddle, name)
        for name in [
            "sqrt",
            "rsqrt",
            "reciprocal",
            "log",
            "log1p",
            "log2",
            "log10",
            "asin",
            "acos",
            "atanh",
            "tan",
            "logit",
        ]
    },
    "acosh": lambda x: paddle.acosh(x.abs() + 1.5),
    "power": lambda x: x**3,
    "power of half+": lambda x: x**0.5,
    "scale": lambda x: 3.0 * x + 1.0,
    "clip": lambda x: paddle.clip(x, -0.7, 0.9),
    "gelu by tanh": lambda x: F.gelu(x, approximate=True),
    "max of rows": lambda x: paddle.max(x, axis=1),
    "min kept": lambda x: paddle.min(x, axis=0, keepdim=True),
    "mean of columns": lambda x: paddle.mean(x, axis=0),
    "prod of rows": lambda x: paddle.prod(x, axis=1),
    "norm": lambda x: paddle.norm(x, p=2, axis=1),
    "norm of 1": lambda x: paddle.norm(x, p=1, axis=0),
    "norm of 3": lambda x: paddle.norm(x, p=3, axis=1),
    "softmax of columns": lambda x: F.softmax(x, axis=0),
    "reshape": lambda x: x.reshape([5, 3]) * 2.0,
    "transpose": lambda x: x.transpose([1, 0]) * x.transpose([1, 0]),
    "flatten": lambda x: x.flatten().exp(),
    "slices": lambda x: x[1:, ::2].sin(),
    "concat": lambda x: paddle.concat([x, x * x, x[:1]], axis=0),
    "stack": lambda x: paddle.stack([x, x.sin()], axis=1),
    "split": lambda x: paddle.split(x * x, [1, 2], axis=0)[1],
    "tile": lambda x: paddle.tile(x, [2, 3]).square(),
    "expand": lambda x: paddle.expand(x.unsqueeze(1), [3, 4, 5]).square(),
    "pad": lambda x: F.pad(x, [1, 2, 0, 3], value=2.0).square(),
    "roll": lambda x: paddle.roll(x, 1, 1) * x,
    "flip": lambda x: paddle.flip(x, [0, 1]) * x,
    "tril": lambda x: paddle.tril(x).square(),
    "triu": lambda x: paddle.triu(x, 1).square(),
    "where": lambda x: paddle.where(x > 0, x.sin(), x.square()),
    "masked_fill": lambda x: paddle.masked_fill(x, x < 0, 3.0).square(),
    "cast": lambda x: x.astype("float64").sin().astype(x.dtype),
    "diag": lambda x: paddle.diag(x[0]).square(),
    "used twice": lambda x: x.sin() * x + x,
    "none": lambda x: x.detach().sin() * x,
    "no_grad": lambda x: under_no_grad(x) * x,
    "p_norm of inf": lambda x: paddle.norm(x, p=float("inf"), axis=1),
    "normalize": F.normalize,
    "layer_norm": lambda x: F.layer_norm(x, 5),
    "std of rows": lambda x: paddle.std(x, axis=1),
    "glu": lambda x: F.glu(x[:, :4]),
    "outer": lambda x: paddle.outer(x[0], x[1]),
    "cumsum reversed": lambda x: paddle.cumsum(x, axis=1).square(),
    "label smoothing": lambda x: F.label_smooth(F.softmax(x)),
    "unstack": lambda x: sum(paddle.unstack(x.square())),
    "meshgrid": lambda x: sum(paddle.meshgrid(x[0], x[1])).square(),
    "logcumsum": lambda x: paddle.log(paddle.cumsum(paddle.exp(x), axis=0)),
}


def under_no_grad(x: Any) -> Any:
    """A factor that has no gradient."""
    with paddle.no_grad():
        return x.sin()


PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    "copysign": paddle.copysign,
    "heaviside": lambda x, y: paddle.heaviside(paddle.where(x > 0.5, 0.0 * x, x), y),
    **{
        name: getattr(paddle, name)
        for name in [
            "add",
            "subtract",
            "multiply",
            "divide",
            "maximum",
            "minimum",
            "atan2",
            "fmax",
            "fmin",
        ]
    },
    "pow": lambda x, y: paddle.pow(x.abs() + 0.1, y),
    "remainder": lambda x, y: paddle.remainder(x, y.abs() + 0.5),
    "broadcast": lambda x, y: x * y[:1] + y[:, :1],
    "lerp": lambda x, y: paddle.lerp(x, y, 0.3),
    "matmul": lambda x, y: paddle.matmul(x, y, transpose_y=True),
    "matmul transposed": lambda x, y: paddle.matmul(x, y, transpose_x=True),
    "vectors": lambda x, y: paddle.dot(x[0], y[1]),
    "batched": lambda x, y: paddle.matmul(x.unsqueeze(0), y.t().unsqueeze(0)),
    "addmm": lambda x, y: paddle.addmm(x[:, :3], x, y.t(), 0.5, 2.0),
    "prelu": lambda x, y: F.prelu(x, y[0, :1].abs()),
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "kl": lambda x, y: F.kl_div(F.log_softmax(x), F.softmax(y)),
    "bce": lambda x, y: F.binary_cross_entropy(F.sigmoid(x), F.sigmoid(y)),
    "bce of logits": F.binary_cross_entropy_with_logits,
    "cross_entropy": lambda x, y: F.cross_entropy(x, paddle.argmax(y, axis=1)),
    "cross_entropy of soft": lambda x, y: F.cross_entropy(
        x, F.softmax(y), soft_label=True
    ),
    "cosine": lambda x, y: F.cosine_similarity(x, y, axis=1),
    "rms_norm": lambda x, y: x * paddle.rsqrt((x * x).mean(-1, keepdim=True)) * y[0],
    "scaled layer_norm": lambda x, y: F.layer_norm(x, 5, y[0], y[1]),
    "where of two": lambda x, y: paddle.where(x > y, x, y),
    "set": lambda x, y: put(x, y),
    "attention": lambda x, y: paddle.matmul(
        F.softmax(paddle.matmul(x, y, transpose_y=True)), y
    ),
    "two outputs": lambda x, y: (x * y, (x + y).sin()),
    "one unused": lambda x, y: x.sin(),
    "swiglu": lambda x, y: F.silu(x) * y,
}


def put(x: Any, y: Any) -> Any:
    """x with a block of y in it."""
    z = x * 1.0
    z[1:, 2] = y[:2, 0]
    return z


# Of an image [2, 4, 7, 6] and weights [6, 4, 3, 3].
IMAGES: dict[str, Callable[[Any, Any], Any]] = {
    "conv": F.conv2d,
    "conv with strides": lambda x, w: F.conv2d(x, w, stride=2, padding=1),
    "conv with unlike strides": lambda x, w: F.conv2d(x, w, stride=[3, 2], padding=2),
    "conv with dilation": lambda x, w: F.conv2d(x, w, padding=3, dilation=2),
    "conv much padded": lambda x, w: F.conv2d(x, w, padding=4),
    "conv in groups": lambda x, w: F.conv2d(x, w[:, :2], padding=1, groups=2),
    "conv by channel": lambda x, w: F.conv2d(x, w[:4, :1], stride=2, groups=4),
    "conv of lines": lambda x, w: F.conv1d(x[:, :, 0], w[:, :, 0], padding=1),
    "conv of volumes": lambda x, w: F.conv3d(
        x.unsqueeze(2), w.unsqueeze(2), padding=[0, 1, 1]
    ),
    "conv last": lambda x, w: F.conv2d(
        x.transpose([0, 2, 3, 1]), w, data_format="NHWC"
    ),
    "transposed conv": lambda x, w: F.conv2d_transpose(x, w[:4], padding=1),
    "transposed conv with strides": lambda x, w: F.conv2d_transpose(
        x, w[:4], stride=[3, 2], padding=[1, 0, 2, 1], output_padding=[1, 0]
    ),
    "transposed conv with dilation": lambda x, w: F.conv2d_transpose(
        x, w[:4], stride=2, dilation=[2, 1]
    ),
    "transposed conv with gaps": lambda x, w: F.conv2d_transpose(
        x, w[:4, :, :2], stride=4, groups=2
    ),
    "transposed conv of volumes": lambda x, w: F.conv3d_transpose(
        x.unsqueeze(2), w[:4].unsqueeze(2), stride=[1, 2, 2], padding=[0, 1, 1]
    ),
    "max_pool": lambda x, w: F.max_pool2d(x, 2),
    "max_pool overlapping": lambda x, w: F.max_pool2d(x, 3, 2, 1),
    "avg_pool": lambda x, w: F.avg_pool2d(x, 3, 2, 1),
    "lp_pool": lambda x, w: F.lp_pool2d(x, 2.0, 3, 2, 1),
    "avg_pool of all": lambda x, w: F.adaptive_avg_pool2d(x, 1),
    "adaptive avg_pool": lambda x, w: F.adaptive_avg_pool2d(x, 3),
    "group_norm": lambda x, w: F.group_norm(
        x, 2, weight=w[0, :, 0, 0], bias=w[1, :, 0, 0]
    ),
    "instance_norm": lambda x, w: F.instance_norm(x),
    "batch_norm": lambda x, w: F.batch_norm(
        x, x[0, :, 0, 0].detach() * 1.0, x[1, :, 0, 0].detach().abs(), training=True
    ),
    "pixel_shuffle": lambda x, w: F.pixel_shuffle(x.square(), 2),
    "bilinear": lambda x, w: F.interpolate(x, [9, 5], mode="bilinear"),
}
