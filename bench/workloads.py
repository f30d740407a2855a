"""The workloads that Pirol is timed on against its peers: one record each.

A record has the inputs' shapes, a NumPy reference (float64), and the same function in
Paddle, torch and JAX. Nothing of Pirol is imported here, and a framework only when
`Workload.function` asks for it: each peer's worker loads this file by itself.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Function = Callable[..., Any]
# The frameworks' modules, set by `Workload.function`: real globals, so that a
# compiled function reads them as it would in a user's file.
paddle: Any = None
torch: Any = None
jax: Any = None

EPSILON = 1e-5


@dataclass(frozen=True)
class Workload:
    """One function in four frameworks, on float32 inputs of the given shapes."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    numpy: Function
    paddle: Function
    torch: Function
    jax: Function
    positive: tuple[int, ...] = ()  # the inputs that must be > 0, as a variance

    def inputs(self, scale: int = 1, seed: int = 0) -> list[Any]:
        """Inputs with every dim divided by `scale`, at least 2."""
        rng = np.random.default_rng(seed)
        found = []
        for k, shape in enumerate(self.shapes):
            small = tuple(min(d, max(2, d // scale)) for d in shape)
            values = rng.standard_normal(small)
            values = np.abs(values) + 0.5 if k in self.positive else values
            found.append(values.astype("float32"))
        return found

    def reference(self, inputs: list[Any]) -> Any:
        """The result in float64."""
        return self.numpy(*(x.astype("float64") for x in inputs))

    def function(self, framework: str) -> Function:
        """The workload's function in "paddle", "torch" or "jax", which is imported."""
        globals()[framework] = importlib.import_module(framework)
        found: Function = getattr(self, framework)
        return found


def _normal_rows(x: Any, w: Any, b: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + EPSILON) * w + b


# softmax


def softmax_numpy(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_paddle(x: Any) -> Any:
    return paddle.nn.functional.softmax(x, axis=-1)


def softmax_torch(x: Any) -> Any:
    return torch.nn.functional.softmax(x, dim=-1)


def softmax_jax(x: Any) -> Any:
    return jax.nn.softmax(x, axis=-1)


# layer_norm, with scale and bias


def layer_norm_numpy(x: Any, w: Any, b: Any) -> Any:
    return _normal_rows(x, w, b)


def layer_norm_paddle(x: Any, w: Any, b: Any) -> Any:
    return paddle.nn.functional.layer_norm(x, x.shape[-1:], w, b, EPSILON)


def layer_norm_torch(x: Any, w: Any, b: Any) -> Any:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], w, b, EPSILON)


def layer_norm_jax(x: Any, w: Any, b: Any) -> Any:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * w + b


# bias + gelu, the exact one


def bias_gelu_numpy(x: Any, b: Any) -> Any:
    y = x + b
    return y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))


def bias_gelu_paddle(x: Any, b: Any) -> Any:
    return paddle.nn.functional.gelu(x + b)


def bias_gelu_torch(x: Any, b: Any) -> Any:
    return torch.nn.functional.gelu(x + b)


def bias_gelu_jax(x: Any, b: Any) -> Any:
    return jax.nn.gelu(x + b, approximate=False)


# residual + layer_norm


def residual_norm_numpy(x: Any, r: Any, w: Any, b: Any) -> Any:
    return _normal_rows(x + r, w, b)


def residual_norm_paddle(x: Any, r: Any, w: Any, b: Any) -> Any:
    return paddle.nn.functional.layer_norm(x + r, x.shape[-1:], w, b, EPSILON)


def residual_norm_torch(x: Any, r: Any, w: Any, b: Any) -> Any:
    return torch.nn.functional.layer_norm(x + r, x.shape[-1:], w, b, EPSILON)


def residual_norm_jax(x: Any, r: Any, w: Any, b: Any) -> Any:
    return layer_norm_jax(x + r, w, b)


# batch_norm (inference) + add + relu


def batch_norm_numpy(x: Any, r: Any, m: Any, v: Any, w: Any, b: Any) -> Any:
    m, v, w, b = (t[:, None, None] for t in (m, v, w, b))
    return np.maximum((x - m) / np.sqrt(v + EPSILON) * w + b, 0) + r


def batch_norm_paddle(x: Any, r: Any, m: Any, v: Any, w: Any, b: Any) -> Any:
    y = paddle.nn.functional.batch_norm(x, m, v, w, b, epsilon=EPSILON)
    return paddle.nn.functional.relu(y) + r


def batch_norm_torch(x: Any, r: Any, m: Any, v: Any, w: Any, b: Any) -> Any:
    y = torch.nn.functional.batch_norm(x, m, v, w, b, eps=EPSILON)
    return torch.nn.functional.relu(y) + r


def batch_norm_jax(x: Any, r: Any, m: Any, v: Any, w: Any, b: Any) -> Any:
    m, v, w, b = (t[:, None, None] for t in (m, v, w, b))
    return jax.nn.relu((x - m) * jax.lax.rsqrt(v + EPSILON) * w + b) + r


# column sum of squares


def column_squares_numpy(x: Any) -> Any:
    return (x * x).sum(0)


def column_squares_paddle(x: Any) -> Any:
    return (x * x).sum(axis=0)


def column_squares_torch(x: Any) -> Any:
    return (x * x).sum(dim=0)


def column_squares_jax(x: Any) -> Any:
    return (x * x).sum(axis=0)


# transpose + add


def transpose_add_numpy(x: Any, y: Any) -> Any:
    return x.T + y


def transpose_add_paddle(x: Any, y: Any) -> Any:
    return x.transpose([1, 0]) + y


def transpose_add_torch(x: Any, y: Any) -> Any:
    return x.t() + y


def transpose_add_jax(x: Any, y: Any) -> Any:
    return x.T + y


# bias + relu, so small that the call is all there is to time


def small_bias_relu_numpy(x: Any, b: Any) -> Any:
    return np.maximum(x + b, 0)


def small_bias_relu_paddle(x: Any, b: Any) -> Any:
    return paddle.nn.functional.relu(x + b)


def small_bias_relu_torch(x: Any, b: Any) -> Any:
    return torch.nn.functional.relu(x + b)


def small_bias_relu_jax(x: Any, b: Any) -> Any:
    return jax.nn.relu(x + b)


def _workload(
    name: str, *shapes: tuple[int, ...], positive: tuple[int, ...] = ()
) -> Workload:
    """The record of the functions NAME_numpy, NAME_paddle, NAME_torch, NAME_jax."""
    kinds = ("numpy", "paddle", "torch", "jax")
    in_numpy, in_paddle, in_torch, in_jax = (globals()[f"{name}_{k}"] for k in kinds)
    return Workload(name, shapes, in_numpy, in_paddle, in_torch, in_jax, positive)


ROWS, IMAGE, CHANNELS = (4096, 1024), (8, 64, 56, 56), (64,)
TABLE = (
    _workload("softmax", ROWS),
    _workload("layer_norm", ROWS, (1024,), (1024,)),
    _workload("bias_gelu", ROWS, (1024,)),
    _workload("residual_norm", ROWS, ROWS, (1024,), (1024,)),
    _workload("batch_norm", IMAGE, IMAGE, *[CHANNELS] * 4, positive=(3,)),
    _workload("column_squares", ROWS),
    _workload("transpose_add", (2048, 2048), (2048, 2048)),
    _workload("small_bias_relu", (32, 64), (64,)),
)
WORKLOADS = {w.name: w for w in TABLE}
