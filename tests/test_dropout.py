"""Dropout in training: its masks are counted, fused, computed again, never stored.

`masks` says which they are, apart from Pirol: of each dropout's key, drawn in the
program's order, and of the elements' places.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from dropout_masks import (
    SEED,
    block,
    dropped,
    eager_block,
    is_kept,
    masks,
    numbers,
    twice,
)
from paddle.static import InputSpec

import pirol
from pirol.compiler import pipeline
from pirol.compiler.ir import Op, Value
from pirol.kernels.lower import Refusal
from pirol.passes.fuse import FREE

# What a mask is -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 65)])
def test_masks_scale_and_gradient(shape: tuple[int, ...], dtype: str) -> None:
    for mode, scale in (("upscale_in_train", 1 / 0.7), ("downscale_in_infer", 1.0)):
        fast = pirol.to_static(dropped(0.3, mode), strict=True)
        x = numbers(*shape, dtype=dtype)
        paddle.seed(SEED)
        y = fast(x)
        y.backward(paddle.ones_like(y))
        paddle.seed(SEED)
        (mask,) = masks([0.3], shape)
        is_kept(y, mask)
        wide, part = x.astype("float64").numpy(), x.grad.astype("float64").numpy()
        rtol = {"float32": 1e-6, "float64": 1e-7, "bfloat16": 1e-2}[dtype]
        got = y.astype("float64").numpy()
        np.testing.assert_allclose(got, wide * mask * scale, rtol=rtol)
        np.testing.assert_allclose(part, mask * scale, rtol=rtol)
        assert y.dtype == x.dtype and x.grad.dtype == x.dtype


@pytest.mark.parametrize("p", [1e-9, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4])
def test_rate(p: float) -> None:
    """Within five standard deviations; each key, and each row of its own."""
    fast, count = pirol.to_static(dropped(p), strict=True), 1 << 20
    x = paddle.ones([1024, count // 1024])
    paddle.seed(SEED)
    for _ in range(3):
        lost = fast(x).numpy() == 0
        spread = np.sqrt(p * (1 - p) / count)
        assert abs(lost.mean() - p) <= 5 * spread + 1e-9
        for axis in (0, 1):
            apart = (lost.mean(axis) - p) / (np.sqrt(p * (1 - p) / 1024) + 1e-12)
            assert p < 1e-3 or p > 0.99 or abs(apart).max() < 6


@pytest.mark.parametrize("mode", ["upscale_in_train", "downscale_in_infer"])
def test_none_and_all(mode: str) -> None:
    x = numbers(4, 1000)
    nothing = pirol.to_static(dropped(1.0, mode), strict=True)(x)
    assert not nothing.numpy().any()
    nothing.sum().backward()
    assert not x.grad.numpy().any()
    whole = pirol.to_static(dropped(0.0, mode), strict=True)(x)
    np.testing.assert_array_equal(whole.numpy(), x.numpy())


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_a_rate_that_only_the_run_tells(p: float) -> None:
    def f(x: Any, p: Any) -> Any:
        return F.dropout(x, p)

    fast, x = pirol.to_static(f, strict=True), numbers(30, 40)
    paddle.seed(SEED)
    y = fast(x, paddle.to_tensor([p], "float32"))
    y.sum().backward()
    paddle.seed(SEED)
    (mask,) = masks([p], x.shape)
    is_kept(y, mask)
    np.testing.assert_allclose(
        x.grad.numpy(), mask / (1 - p) if p < 1 else 0 * mask, rtol=1e-6
    )


def test_what_is_dropped_is_zero_whatever_it_was() -> None:
    special = np.array([np.nan, np.inf, -np.inf, -0.0] * 100, np.float32)
    y = pirol.to_static(dropped(0.5), strict=True)(paddle.to_tensor(special)).numpy()
    lost = (y == 0) & ~np.signbit(y)
    assert 100 < lost.sum() < 300
    np.testing.assert_array_equal(y[~lost], special[~lost])


# Whose they are -----------------------------------------------------------------------


def test_sites_and_calls_are_apart_and_repeat_with_the_seed() -> None:
    fast, x = pirol.to_static(twice, strict=True), paddle.ones([100, 100])
    found = []
    for _ in range(2):
        paddle.seed(SEED)
        found.append([y.numpy() != 0 for _ in range(3) for y in fast(x)])
        paddle.seed(SEED)
        for got, mask in zip(found[-1], masks([0.5] * 6, *[x.shape] * 6)):
            np.testing.assert_array_equal(got, mask)
    for k, one in enumerate(found[0]):
        for other in found[0][k + 1 :]:
            assert 0.47 < (one == other).mean() < 0.53


def test_what_is_drawn_behind_it_repeats_too() -> None:
    def f(x: Any) -> Any:
        y = F.dropout(x, 0.5)
        return y, paddle.rand([4]), F.dropout(x, 0.5)

    fast, found = pirol.to_static(f), []
    for _ in range(2):
        paddle.seed(SEED)
        first, drawn, last = fast(paddle.ones([50]))
        found.append([first.numpy(), drawn.numpy(), last.numpy(), paddle.rand([3])])
        paddle.seed(SEED)
        (mask,) = masks([0.5], [50])
        np.testing.assert_array_equal(drawn.numpy(), paddle.rand([4]).numpy())
        is_kept(first, mask)
        is_kept(last, masks([0.5], [50])[0])
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)


def alone(fusible: Any) -> Any:
    """Fusion's question, to which each op is a kernel, but for views."""

    def run(body: Any) -> Any:
        computed = sum(op.name not in FREE for op in body.ops)
        return Refusal("never", "alone") if computed > 1 else fusible(body)

    return run


@pytest.mark.parametrize("fused", [True, False])
def test_layouts_and_fusion_change_nothing(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read transposed, in a row's reduction, in a column's, alone."""
    if not fused:
        monkeypatch.setattr(pipeline, "fusible", alone(pipeline.fusible))

    def f(x: Any) -> Any:
        y = F.dropout(x, 0.4)
        z = F.dropout(x.transpose([1, 0]), 0.4)
        return y.transpose([1, 0]) * 2.0, F.softmax(z), z.sum(0), paddle.exp(y)

    x = numbers(70, 130)
    for options in ({"passes": (lambda g: g,)}, {"recompute": "none"}):
        fast = pirol.to_static(f, **options)
        paddle.seed(SEED)
        turned, soft, total, plain = fast(x)
        paddle.seed(SEED)
        first, second = masks([0.4, 0.4], [70, 130], [130, 70])
        is_kept(turned, first.T)
        is_kept(plain - 1.0, first)
        z = x.numpy().T * second / float(np.float32(1) - np.float32(0.4))
        np.testing.assert_allclose(total.numpy(), z.sum(0), rtol=1e-4)
        close = F.softmax(paddle.to_tensor(z)).numpy()
        np.testing.assert_allclose(soft.numpy(), close, rtol=1e-4)
        report = pirol.explain(fast)
        assert (len(report.groups) > 10) == (not fused)
        assert not report.fallbacks


def test_every_size_has_one_plan() -> None:
    spec = [InputSpec([None, None])]
    fast = pirol.to_static(dropped(0.2), input_spec=spec, strict=True)
    for shape in ([3, 4], [1, 1], [0, 5], [513, 7], [1, 300]):
        paddle.seed(SEED)
        y = fast(paddle.ones(shape))
        paddle.seed(SEED)
        is_kept(y, masks([0.2], shape)[0])
    assert pirol.explain(fast).compiles == 1


# Gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("recompute", ["auto", "none"])
def test_nothing_is_kept_but_the_key(recompute: str) -> None:
    fast = pirol.to_static(dropped(0.3), recompute=recompute, strict=True)
    x = numbers(1000, 1000)
    y = fast(x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy() != 0, y.numpy() != 0)
    ours, paddles = pirol.explain(fast).kept
    assert ours == (8 if recompute == "auto" else 8 + 10**6) and paddles == 10**6
    assert not pirol.explain(fast).fallbacks


def test_fused_with_what_is_around_it() -> None:
    fast = pirol.to_static(block, strict=True)
    x, w, rest = numbers(64, 256), numbers(256), numbers(64, 256)
    for _ in range(2):
        for t in (x, w, rest):
            t.clear_gradient()
        paddle.seed(SEED)
        y = fast(x, w, rest)
        (y * y * rest.detach()).sum().backward()
        ours = [y, x.grad, w.grad, rest.grad]
        others = [t.detach() for t in (x, w, rest)]
        for t in others:
            t.stop_gradient = False
        paddle.seed(SEED)
        (mask,) = masks([0.3], x.shape)
        y = eager_block(*others, mask)
        (y * y * others[2].detach()).sum().backward()
        for a, b in zip(ours, [y, *(t.grad for t in others)]):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-3, atol=2e-4)
    report = pirol.explain(fast)
    first = report.groups[0].ops
    assert "random_bits" in first and "reduce_sum" in first and "rsqrt" in first
    assert not report.fallbacks and report.kept[0] < 10**4


def test_calls_before_their_backwards() -> None:
    """Each with its own key, in any order, and twice."""
    fast, x = pirol.to_static(dropped(0.5), strict=True), numbers(40, 50)
    found = [fast(x) for _ in range(3)]
    for y in (found[1], found[2], found[0], found[1]):
        (grad,) = paddle.grad(y.sum(), [x], retain_graph=True)
        np.testing.assert_array_equal(grad.numpy(), 2.0 * (y.numpy() != 0))
    assert (found[0].numpy() != found[1].numpy()).any()


def test_further_derivatives() -> None:
    def f(x: Any) -> Any:
        return F.dropout(x * x * x, 0.5)

    fast, x = pirol.to_static(f, strict=True), numbers(5, 60)
    y = fast(x)
    (g,) = paddle.grad(y.sum(), [x], create_graph=True)
    (h,) = paddle.grad(g.sum(), [x], create_graph=True)
    (t,) = paddle.grad(h.sum(), [x])
    mask = 2.0 * (y.numpy() != 0)
    assert 0.2 < mask.mean() / 2 < 0.8
    for order, found in ((3 * x * x, g), (6 * x, h), (6 + 0 * x, t)):
        np.testing.assert_allclose(found.numpy(), order.numpy() * mask, rtol=1e-5)


@pytest.mark.parametrize("random", ["counter", "eager"])
@pytest.mark.filterwarnings("ignore::pirol.PirolWarning")
def test_a_gradient_within_the_program(random: str) -> None:
    def f(x: Any) -> Any:
        y = F.dropout(x * x, 0.5)
        return y, paddle.grad(y, [x], create_graph=True)[0]

    fast, x = pirol.to_static(f, random=random), numbers(30, 30)
    y, g = fast(x)
    mask = 2.0 * (y.numpy() != 0)
    np.testing.assert_allclose(g.numpy(), 2 * x.numpy() * mask, rtol=1e-6)
    g.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * mask, rtol=1e-6)
    eager = {"pd_op.dropout"} if random == "eager" else set()
    assert {f.op for f in pirol.explain(fast).fallbacks} == eager


def test_nothing_at_all() -> None:
    fast, x = pirol.to_static(dropped(0.3), strict=True), numbers(7, 0)
    fast(x).sum().backward()
    assert x.grad.shape == [7, 0]


# Faults -------------------------------------------------------------------------------


def shifted(graph: Any) -> Any:
    """A place too far."""
    ops = []
    for op in graph.ops:
        if op.name == "random_bits":
            key, place = op.operands
            one = Value(place.type)
            const = {"value": 1, "shape": place.shape, "dtype": "int64"}
            ops.append(Op("const", (), const, (one,)))
            more = Value(place.type)
            ops.append(Op("add", (place, one), {}, (more,)))
            op = replace(op, operands=(key, more))
        ops.append(op)
    return graph.with_ops(ops)


def inverted(graph: Any) -> Any:
    """What is to be dropped is kept."""
    return graph.with_ops(
        replace(op, name="ge") if op.name == "lt" else op for op in graph.ops
    )


@pytest.mark.parametrize("fault", [shifted, inverted])
def test_a_fault_is_found(fault: Any) -> None:
    fast = pirol.to_static(dropped(0.3), passes=(fault,))
    paddle.seed(SEED)
    y = fast(paddle.ones([100]))
    assert not pirol.explain(fast).fallbacks
    paddle.seed(SEED)
    with pytest.raises(AssertionError):
        is_kept(y, masks([0.3], [100])[0])


def test_a_fault_in_backward_is_found() -> None:
    graphs = []

    def later(graph: Any) -> Any:
        """In the second graph, that of the gradient."""
        graphs.append(graph)
        return shifted(graph) if len(graphs) > 1 else graph

    fast, x = pirol.to_static(dropped(0.3), passes=(later,)), numbers(100)
    y = fast(x)
    y.sum().backward()
    assert len(graphs) == 2 and not pirol.explain(fast).fallbacks
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(x.grad.numpy() != 0, y.numpy() != 0)
