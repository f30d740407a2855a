"""Gradients of decomposed activations and losses against eager Paddle's, kinks too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from test_autodiff_programs import eagerly_equal
from vjp_checks import check, graph_of
from vjp_samples import f64

from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import TensorType
from pirol.prim import Builder
from pirol.prim.decomp import DECOMPOSITIONS

POINTS = np.array([-1000.0, -3, -2.5, -1, -0.3, 0, 0.4, 1, 2, 3, 5.5, 6, 7, 15, 1000])


def rule(name: str) -> Callable[..., Any]:
    """The decomposition of a Paddle op."""
    return DECOMPOSITIONS[f"pd_op.{name}"].run


# name, its attributes, the eager function
UNARY: list[tuple[str, dict[str, Any], Callable[..., Any]]] = [
    ("relu6", {}, F.relu6),
    ("hardtanh", {"t_min": -1.0, "t_max": 2.0}, lambda x: F.hardtanh(x, -1.0, 2.0)),
    ("hardsigmoid", {"slope": 0.25, "offset": 0.5}, lambda x: F.hardsigmoid(x, 0.25)),
    ("hardswish", {}, F.hardswish),
    ("leaky_relu", {"negative_slope": 0.3}, lambda x: F.leaky_relu(x, 0.3)),
    ("elu", {"alpha": 0.5}, lambda x: F.elu(x, 0.5)),
    ("celu", {"alpha": 0.5}, lambda x: F.celu(x, 0.5)),
    ("mish", {}, F.mish),
    ("softsign", {}, F.softsign),
    ("sigmoid", {}, F.sigmoid),
    ("swish", {}, F.swish),
    ("sin", {}, paddle.sin),
    ("expm1", {}, lambda x: paddle.expm1(x)),
    ("round", {"decimals": 0}, paddle.round),
    ("pow", {"y": 3.0}, lambda x: x**3.0),
]


@pytest.mark.parametrize(("name", "attrs", "eager"), UNARY, ids=lambda v: str(v)[:12])
def test_activation(name: str, attrs: Any, eager: Callable[..., Any]) -> None:
    points = (
        POINTS[np.abs(POINTS) < 100] if name in ("expm1", "mish", "celu") else POINTS
    )
    graph = graph_of([f64(len(points))], lambda b, x: rule(name)(b, x, **attrs))
    eagerly_equal(graph, eager, [points])


def clip(b: Builder, x: Any) -> Any:
    ends = [b.const(value=v, shape=(1,), dtype="float64") for v in (-1.0, 3.0)]
    return rule("clip")(b, x, *ends)


def logits(b: Builder, x: Any) -> Any:
    label = b.const(value=0.3, shape=x.shape, dtype="float64")
    attrs = {"normalize": False, "ignore_index": -100}
    return rule("sigmoid_cross_entropy_with_logits")(b, x, label, None, **attrs)


def cross_entropy(b: Builder, x: Any) -> Any:
    label = b.const(value=2, shape=(3, 1), dtype="int64")
    attrs = {"soft_label": False, "use_softmax": True, "ignore_index": -100, "axis": -1}
    return rule("cross_entropy_with_softmax")(b, x, label, **attrs)[1]


def eager_cross_entropy(x: Any) -> Any:
    return F.cross_entropy(x, paddle.full([3, 1], 2, "int64"), reduction="none")


def group_norm(b: Builder, x: Any, scale: Any, bias: Any) -> Any:
    attrs = {"epsilon": 1e-5, "groups": 2, "data_format": "NCHW"}
    return rule("group_norm")(b, x, scale, bias, **attrs)[0]


def p_norm(b: Builder, x: Any) -> Any:
    attrs = {"axis": 1, "keepdim": False, "asvector": False}
    return rule("p_norm")(b, x, porder=2.0, **attrs)


def normal(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).normal(size=shape)


PROGRAMS: dict[str, tuple[Any, Any, list[Any]]] = {
    "clip": (clip, lambda x: paddle.clip(x, -1.0, 3.0), [POINTS]),
    "prelu": (
        lambda b, x, a: rule("prelu")(b, x, a, data_format="NCHW", mode="channel"),
        F.prelu,
        [np.arange(-6.0, 6).reshape(2, 3, 2), np.array([0.5, -0.2, 2.0])],
    ),
    "logits": (
        logits,
        lambda x: F.binary_cross_entropy_with_logits(
            x, paddle.full_like(x, 0.3), reduction="none"
        ),
        [POINTS[POINTS != 0]],  # eager is off by 1 at 0
    ),
    "cross_entropy": (
        cross_entropy, eager_cross_entropy, [normal(3, 5)],
    ),
    "group_norm": (
        group_norm,
        lambda x, s, c: F.group_norm(x, 2, weight=s, bias=c),
        [normal(2, 4, 3), normal(4), normal(4)],
    ),
    "p_norm": (
        p_norm,
        lambda x: paddle.linalg.norm(x, 2, axis=1),
        [normal(3, 5)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    build, eager, arrays = PROGRAMS[name]
    graph = graph_of([TensorType(a.shape, "float64") for a in arrays], build)
    eagerly_equal(graph, eager, arrays)


def test_product_with_zeros() -> None:
    """The others' product at a single zero of a row; Paddle's is NaN there."""
    rows = np.array([[2.0, 0.0, -3.0], [0.0, 0.0, 5.0], [1.0, 4.0, 0.5]])
    graph = graph_of([f64(3, 3)], lambda b, x: b.reduce_prod(x, axes=(1,)))
    back = check(graph, [rows], "normal")
    (found,) = interpret(back, [rows, np.ones(3)])
    wanted = [[0, -6, 0], [0, 0, 0], [2, 0.5, 4]]
    np.testing.assert_array_equal(found, np.array(wanted, float))
