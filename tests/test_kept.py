"""What is kept for backward: Pirol's bytes, Paddle's, and what eager Paddle saves."""

from __future__ import annotations

from typing import Any

import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

import pirol
from pirol.bench.training import KEPT, Encoder
from pirol.compiler.errors import PirolError


def encoder() -> tuple[Any, Any]:
    paddle.seed(0)
    return Encoder(2, 64, 100), paddle.randint(0, 100, [4, 64])


def saved(layer: Any, x: Any) -> int:
    """The bytes that eager's own nodes save, but for the layer's."""
    held: dict[int, Any] = {}
    there = {p.data_ptr() for p in layer.parameters()} | {x.data_ptr()}

    def pack(tensor: Any) -> Any:
        if tensor.data_ptr() not in there:
            held[tensor.data_ptr()] = tensor
        return tensor

    with paddle.autograd.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x)
    held.pop(out.data_ptr(), None)
    return sum(t.size * t.element_size() for t in held.values())


def test_a_transformer_keeps_less_than_paddle() -> None:
    """Paddle's figure is what eager saves, too, to the last few bytes."""
    layer, words = encoder()
    eager = saved(layer, words)
    fast = pirol.to_static(layer, strict=True)
    fast(words).sum().backward()
    ours, paddles = pirol.explain(fast).kept
    assert abs(paddles / eager - 1) < 0.02
    assert 0 < ours <= KEPT * paddles
    assert f"{100 * ours / paddles:.0f}% of Paddle's" in str(pirol.explain(fast))


def test_sizes_that_a_call_has() -> None:
    """Those of the first call, dims that only ops compute among them."""

    def f(x: Any, w: Any) -> Any:
        y = paddle.nn.functional.gelu(paddle.matmul(x, w)).flatten()
        return (y * paddle.tanh(y)).sum()

    found = []
    for rows in (None, 24):
        fast = pirol.to_static(f, input_spec=[InputSpec([rows, 8]), InputSpec([8, 4])])
        x, w = paddle.randn([24, 8]), paddle.randn([8, 4])
        w.stop_gradient = False
        fast(x, w).backward()
        found.append(pirol.explain(fast).kept)
    assert found[0] == found[1] == (24 * 4 * 4, 3 * 24 * 4 * 4)


def test_keeping_all() -> None:
    layer = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 1))
    x, kept, grads = paddle.randn([64, 8]), list[int](), list[Any]()
    for recompute in ("auto", "none"):
        fast = pirol.to_static(layer, recompute=recompute)
        fast(x).square().mean().backward()
        kept.append(pirol.explain(fast).kept[0])
        grads.append(layer[0].weight.grad.clone())
        layer.clear_gradients()
    assert kept[0] < kept[1]
    assert float((grads[0] - grads[1]).abs().max()) < 1e-6
    with pytest.raises(PirolError, match="recompute 'all', expected none or auto"):
        pirol.to_static(layer, recompute="all")


def test_what_paddle_has_no_backward_of() -> None:
    def f(x: Any) -> Any:
        (g,) = paddle.grad(
            paddle.nn.functional.softmax(x)[:, 0].sum(), [x], None, True, True
        )
        return g.exp()

    fast, x = pirol.to_static(f), paddle.randn([3, 4])
    x.stop_gradient = False
    fast(x).sum().backward()
    ours, paddles = pirol.explain(fast).kept
    assert ours > 0 and paddles is None
    assert "kept for backward: " in str(pirol.explain(fast))


def blocks(x: Any) -> Any:
    """Zeros are joined to x, of which concat's gradient makes nothing."""
    (g,) = paddle.grad(paddle.block_diag([x, x * 2]).sin().sum(), [x], None, True, True)
    return g.tanh()


def test_where_paddles_backward_would_end_the_process() -> None:
    fast, x = pirol.to_static(blocks), paddle.randn([3, 4])
    x.stop_gradient = False
    fast(x).sum().backward()
    assert pirol.explain(fast).kept[1] is None
