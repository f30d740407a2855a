"""Gradients of graphs with symbolic shapes, and of whole decompositions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from vjp_checks import (
    assert_dtype,
    check_both_orders,
    drawn,
    graph_of,
    numbers,
    products_of,
)
from vjp_samples import SAMPLES, Sample, f64, samples

from pirol.compiler import dims
from pirol.compiler.autodiff import vjp
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, Guard, TensorType, Value
from pirol.prim import Builder
from pirol.prim.decomp import activations, nn, norms, pooling, reductions

Shape = tuple[int, ...]

# Symbolic shapes ----------------------------------------------------------------

N, M = dims.symbol("n"), dims.symbol("m")


def strided(b: Builder, x: Value) -> Any:
    sizes = (dims.floordiv(dims.add(N, 1), 2), dims.sub(M, dims.floordiv(M, 2)))
    return b.slice(x, starts=(0, dims.floordiv(M, 2)), sizes=sizes, steps=(2, 1))


def padded(b: Builder, x: Value, y: Value) -> Any:
    wide = b.pad(x, low=(M,), high=(1,), interior=(2,), value=0)
    return wide, b.pad(y, low=(0,), high=(N,), interior=(0,), value=1.0)


def pooled(b: Builder, x: Value) -> Any:
    at = dict(window=(1, 3), strides=(1, 2), padding=((0, 0), (1, 1)), dilation=(1, 1))
    return b.window_max(x, **at, plane=(1, 2))[0]


def convolved(b: Builder, x: Value, w: Value) -> Any:
    at = dict(strides=(2,), padding=((1, 1),), dilation=(1,), groups=2)
    return b.conv(x, w, **at)


def spread_out(b: Builder, x: Value, y: Value, z: Value) -> Any:
    line = b.broadcast(x, shape=(M, N), dims=(1,))
    return b.mul(line, y), b.broadcast(z, shape=(N,), dims=(0,))


SYMBOLIC: list[tuple[str, Callable[..., Any], list[TensorType]]] = [
    ("broadcast", spread_out, [f64(N), f64(M, N), f64(1)]),
    ("add", lambda b, x, y: b.add(x, y), [f64(M, N), f64(1, N)]),
    ("mean", lambda b, x: reductions.mean_of(b, x, (0, 2)), [f64(N, 3, M)]),
    ("reduce_sum", lambda b, x: b.reduce_sum(x, axes=(1,)), [f64(M, N)]),
    ("reduce_max", lambda b, x: b.reduce_max(x, axes=(1,)), [f64(M, N)]),
    ("slice", strided, [f64(N, M)]),
    ("pad", padded, [f64(N), f64(M)]),
    ("concat", lambda b, x, y, z: b.concat(x, y, z, axis=0),
     [f64(N, 2), f64(M, 2), f64(3, 2)]),
    ("reshape", lambda b, x: b.reshape(x, shape=(N * M * 2,)), [f64(N, 2, M)]),
    ("transpose", lambda b, x: b.transpose(x, perm=(1, 0)), [f64(N, M)]),
    ("dot_general", products_of, [f64(N, 3), f64(3, M)]),
    ("window_max", pooled, [f64(M, N)]),
    ("conv", convolved, [f64(M, 4, N), f64(2, 2, 3)]),
    ("softmax", lambda b, x: norms.softmax(b, x, axis=-1), [f64(M, N)]),
    ("unused", lambda b, x, y: b.exp(x), [f64(N), f64(M, N)]),
]  # fmt: skip


@pytest.mark.parametrize("name", [row[0] for row in SYMBOLIC])
def test_symbolic_shapes(name: str) -> None:
    build, kinds = next(row[1:] for row in SYMBOLIC if row[0] == name)
    graph = graph_of(kinds, build)
    for n, m in ((4, 3), (1, 1), (7, 2), (5, 5)):
        sizes = {"n": n, "m": m}
        shapes = [
            (tuple(dims.evaluate(d, sizes) for d in k.shape), k.dtype) for k in kinds
        ]
        check_both_orders(graph, numbers(shapes, "apart"), "apart")


def test_symbolic_sizes_of_zero() -> None:
    names = ("broadcast", "mean", "slice", "pad", "concat", "reduce_sum")
    for _, build, kinds in (row for row in SYMBOLIC if row[0] in names):
        for sizes in ({"n": 0, "m": 2}, {"n": 2, "m": 0}, {"n": 0, "m": 0}):
            shapes = [
                (tuple(dims.evaluate(d, sizes) for d in k.shape), k.dtype)
                for k in kinds
            ]
            graph = graph_of(kinds, build)
            arrays = numbers(shapes, "normal")
            outs = interpret(graph, arrays)
            grads = interpret(vjp(graph), [*arrays, *outs])
            assert [g.shape for g in grads] == [a.shape for a in arrays]


def test_guards_stay_with_the_graph() -> None:
    guards = (Guard("eq", N, M),)
    graph = replace(graph_of([f64(N)], lambda b, x: b.exp(x)), guards=guards)
    assert vjp(graph).guards == guards and vjp(vjp(graph)).guards == guards


# Decompositions -----------------------------------------------------------------


def normed(b: Builder, x: Value, scale: Value, bias: Value) -> Any:
    return norms.layer_norm(b, x, scale, bias, epsilon=1e-5, begin_norm_axis=1)[0]


def batch_normed(training: bool) -> Callable[..., Any]:
    """Of x, scale and bias: the running statistics have no gradient."""
    how = dict(is_test=not training, use_global_stats=False, momentum=0.9)
    how |= dict(trainable_statistics=False, epsilon=1e-5, data_format="NCHW")

    def run(b: Builder, x: Value, scale: Value, bias: Value) -> Any:
        mean, variance = (
            b.const(value=n, shape=scale.shape, dtype=x.dtype) for n in (0.2, 0.7)
        )
        return norms.batch_norm(b, x, mean, variance, scale, bias, **how)[0]

    return run


def multiplied(x: bool = False, y: bool = False) -> Callable[..., Any]:
    return lambda b, p, q: nn.matmul(b, p, q, transpose_x=x, transpose_y=y)


def convolution(b: Builder, x: Value, w: Value) -> Any:
    return nn.conv(
        b, x, w, strides=(2, 1), paddings=(1, 2), padding_algorithm="EXPLICIT",
        dilations=(1, 2), groups=2, data_format="NCHW",
    )  # fmt: skip


def pool(kind: str, whole: bool) -> Callable[..., Any]:
    return lambda b, x: pooling.pool2d(
        b, x, (3, 2), strides=(2, 1), paddings=(1, 1), ceil_mode=False,
        exclusive=True, data_format="NCHW", pooling_type=kind, global_pooling=whole,
        adaptive=False,
        padding_algorithm="EXPLICIT",
    )  # fmt: skip


NORMED = ((2, 3, 2, 5), (3,), (3,))
DECOMPOSED: dict[str, list[Sample]] = {
    "softmax": [
        *samples(lambda b, x: norms.softmax(b, x, axis=-1), ((3, 7),), ((1, 1),)),
        *samples(lambda b, x: norms.softmax(b, x, axis=0), ((5, 1, 2),), ((3, 0),)),
    ],
    "layer_norm": samples(
        normed, ((3, 7), (7,), (7,)), ((2, 3, 5), (15,), (15,)), ((0, 3), (3,), (3,))
    ),
    "gelu": samples(lambda b, x: activations.gelu(b, x, approximate=False), ((3, 7),)),
    "gelu_tanh": samples(
        lambda b, x: activations.gelu(b, x, approximate=True), ((3, 7),), ((1,),)
    ),
    "sigmoid": samples(activations.sigmoid, ((7,),)),
    "silu": samples(activations.silu, ((7,),)),
    "relu": samples(activations.relu, ((7,),), draw="apart"),
    "batch_norm": [
        *samples(batch_normed(False), NORMED, draw="positive"),
        *samples(batch_normed(True), NORMED, draw="positive"),
    ],
    "matmul": [
        *samples(
            multiplied(),
            ((3, 5), (5, 7)), ((5,), (5,)), ((5,), (5, 7)), ((3, 5), (5,)),
            ((2, 3, 5), (5, 7)), ((4, 1, 3, 5), (2, 5, 1)), ((2, 3, 5), (5,)),
            ((0, 5), (5, 7)),
        ),
        *samples(multiplied(x=True), ((5, 3), (5, 7)), ((2, 5, 3), (1, 5, 7))),
        *samples(multiplied(y=True), ((3, 5), (7, 5)), ((2, 3, 5), (7, 5))),
    ],
    "conv2d": samples(convolution, ((2, 4, 5, 7), (6, 2, 3, 2))),
    "pool2d": [
        *samples(pool("max", False), ((2, 2, 7, 5),), draw="apart"),
        *samples(pool("max", True), ((2, 3, 4, 5),), draw="apart"),
        *samples(pool("avg", True), ((2, 3, 4, 5),)),
    ],
    "mean": [
        *samples(lambda b, x: reductions.mean_(b, x, (0,), keepdim=True), ((3, 5),)),
        *samples(lambda b, x: reductions.mean_(b, x, (), keepdim=False), ((3, 1, 5),)),
    ],
    "sum": [
        *samples(
            lambda b, x: reductions.sum_(b, x, (-1,), keepdim=True, dtype="undefined"),
            ((3, 5),), ((1, 0),),
        ),
        *samples(
            lambda b, x: reductions.sum_(b, x, (), keepdim=False, dtype="undefined"),
            ((2, 5),),
        ),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", DECOMPOSED)
def test_decompositions(name: str) -> None:
    for sample in DECOMPOSED[name]:
        check_both_orders(sample.graph(), drawn(sample), sample.draw)
        assert_dtype(vjp(sample.graph("float32")), "float32")


def pool_eagerly(x: Any) -> Any:
    return F.max_pool2d(x, (3, 2), (2, 1), 1)


def conv_eagerly(x: Any, w: Any) -> Any:
    return F.conv2d(x, w, None, (2, 1), (1, 2), (1, 2), 2)


EAGER: dict[str, Callable[..., Any]] = {
    "softmax": lambda x: F.softmax(x, axis=-1),
    "layer_norm": lambda x, s, c: F.layer_norm(x, x.shape[1:], s, c),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate=True),
    "relu": F.relu,
    "matmul": paddle.matmul,
    "conv2d": conv_eagerly,
    "pool2d": pool_eagerly,
}


@pytest.mark.parametrize("name", EAGER)
def test_as_paddle_eager(name: str) -> None:
    sample = DECOMPOSED[name][0]
    eagerly_equal(sample.graph(), EAGER[name], drawn(sample))


TIES: dict[str, Callable[..., Any]] = {
    "max": paddle.maximum,
    "min": paddle.minimum,
    "abs": paddle.abs,
    "floor": paddle.floor,
    "select": lambda c, x, y: paddle.where(c, x, y),
    "reduce_max": lambda x: paddle.max(x, axis=1),
    "reduce_min": lambda x: paddle.min(x, axis=1),
}


@pytest.mark.parametrize("name", TIES)
def test_ties_as_paddle_eager(name: str) -> None:
    sample = SAMPLES[name][2]
    arrays = numbers([(k.shape, k.dtype) for k in sample.kinds], "ties", seed=4)
    eagerly_equal(sample.graph(), TIES[name], arrays)


def eagerly_equal(graph: Graph, run: Callable[..., Any], arrays: list[Any]) -> None:
    tensors = [paddle.to_tensor(a, stop_gradient=a.dtype == bool) for a in arrays]
    y = run(*tensors)
    (ct,) = numbers([(tuple(y.shape), "float64")], "normal", seed=5)
    floats = [t for t in tensors if not t.stop_gradient]
    expected = paddle.grad(y, floats, paddle.to_tensor(ct))
    found = interpret(vjp(graph), [*arrays, ct])
    for got, wanted in zip(found, expected):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=1e-11, atol=1e-11)
