"""Mixed precision: which ops are of halves, values, gradients, training, export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import paddle
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import Library, device, library
from paddle.static import InputSpec

import pirol
from pirol.compiler.errors import PirolError
from pirol.passes import products

__all__ = ["device", "library"]  # fixtures
F, NN = paddle.nn.functional, paddle.nn
Function = Callable[..., Any]
ULP = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # half of it, of 1
OPTIONS = [(half, level) for half in ULP for level in ("O1", "O2")]


class Block(NN.Layer):
    """A layer of a transformer, with a convolution over what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = NN.TransformerEncoderLayer(
            32, 2, 64, dropout=0.0, activation="gelu"
        )
        self.conv, self.norm = NN.Conv2D(1, 4, 3, padding=1), NN.BatchNorm2D(4)

    def forward(self, x: Any) -> Any:
        mixed = self.layer(x)
        image = F.relu(self.norm(self.conv(mixed.unsqueeze(1))))
        return F.softmax(image.mean(axis=1)), mixed, mixed > 0


def twins(**options: Any) -> tuple[Any, Any]:
    paddle.seed(1)
    eager = Block()
    return pirol.to_static(copy.deepcopy(eager), strict=True, **options), eager


def distance(found: Any, exact: Any) -> float:
    """Relative, by 2-norms."""
    return float((found - exact).norm() / exact.norm())


def ops(function: Any) -> list[tuple[str, str]]:
    """Of primitives and calls as decomposed: the op, the dtype of its first operand."""
    graph = pirol.explain(function).stages["canonicalize"]
    return [
        (op.attrs.get("callee", op.name), op.operands[0].dtype)
        for op in graph.ops
        if op.operands
    ]


def dtypes(function: Any, name: str) -> set[str]:
    return {dtype for op, dtype in ops(function) if op == f"pd_op.{name}"}


@pytest.mark.parametrize("half, level", OPTIONS)
def test_values(half: str, level: str) -> None:
    spec = [InputSpec([None, 16, 32])]
    fast, eager = twins(amp=half, amp_level=level, input_spec=spec)
    for part in (fast, eager):
        part.eval()
    with paddle.no_grad():
        for n in (2, 5):
            x = paddle.randn([n, 16, 32])
            chances, mixed, signs = fast(x)
            exact = eager(x)
            assert chances.dtype == mixed.dtype == paddle.float32
            assert 0 < distance(mixed, exact[1]) < 4 * ULP[half]
            assert 0 < distance(chances, exact[0]) < 4 * ULP[half]
            assert signs.dtype == paddle.bool
    assert dtypes(fast, "matmul") == dtypes(fast, "conv2d") == {half}
    assert dtypes(fast, "gelu") == dtypes(fast, "relu") == {half}
    inner = {half} if level == "O2" else {"float32"}
    assert dtypes(fast, "softmax") == inner
    assert dtypes(fast, "batch_norm_") == {half}  # of the conv's own result
    assert pirol.explain(fast).compiles == 1


@pytest.mark.parametrize("half, level", OPTIONS)
def test_gradients(half: str, level: str) -> None:
    fast, eager = twins(amp=half, amp_level=level)
    x = paddle.randn([4, 16, 32])
    weight = paddle.randn([4, 16, 32])
    for part in (fast, eager):
        chances, mixed, _ = part(x)
        ((chances + mixed) * weight).sum().backward()
    pairs = [
        (mine.grad, other.grad)
        for mine, other in zip(fast.parameters(), eager.parameters())
        if other.grad is not None
    ]
    assert all(mine.dtype == paddle.float32 for mine, _ in pairs)
    found, exact = (paddle.concat([g.flatten() for g in gs]) for gs in zip(*pairs))
    assert distance(found, exact) < 8 * ULP[half]
    np.testing.assert_allclose(
        fast.norm._mean.numpy(), eager.norm._mean.numpy(), rtol=0, atol=1e-2
    )


@pytest.mark.parametrize("half", ULP)
def test_training_reaches_the_same_loss(half: str) -> None:
    """With a scaler, as float16 wants it; steps that overflow are left out."""
    losses = []
    for amp in (None, half):
        paddle.seed(2)
        net = NN.Sequential(NN.Linear(8, 32), NN.GELU(), NN.LayerNorm(32))
        net = pirol.to_static(
            NN.Sequential(net, NN.Linear(32, 1)), strict=True, amp=amp
        )
        adam = paddle.optimizer.AdamW(1e-2, parameters=net.parameters())
        scaler = paddle.amp.GradScaler(init_loss_scaling=1024.0)
        x = paddle.randn([64, 8])
        for _ in range(60):
            loss = (net(x) - x.square().sum(1, keepdim=True)).square().mean()
            scaler.scale(loss).backward()
            scaler.step(adam)
            scaler.update()
            adam.clear_grad()
        losses.append(float(loss))
    assert losses[1] < 1.2 * losses[0] < 20


# ---- what goes where ----


def line(x: Any, w: Any, b: Any) -> Any:
    return F.relu(F.linear(x, w, b)) * 2.0 + 1.0


def residual(x: Any, w: Any, b: Any) -> Any:
    return F.linear(x, w, b) + x


def constants(x: Any, w: Any, b: Any) -> Any:
    return paddle.clip(x @ w, -0.3, 0.7), paddle.where(b > 0, x @ w, b)


def nothing(x: Any, w: Any, b: Any) -> Any:
    return F.gelu(x) * b


def ordered(x: Any, w: Any, b: Any) -> Any:
    """An op that Paddle runs, of what would be a half: logcumsumexp."""
    return paddle.logcumsumexp(F.relu(x @ w), axis=-1) * 2.0


def nested(x: Any, w: Any, b: Any) -> Any:
    y = x @ w
    if y.mean() > 0:
        return y * 2.0
    return y - b


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize(
    "function", [line, residual, constants, nothing, ordered, nested]
)
def test_programs(function: Function, level: str) -> None:
    fast = pirol.to_static(function, amp="bfloat16", amp_level=level)
    given = [paddle.randn(shape) for shape in ([6, 8], [8, 8], [8])]
    found, exact = fast(*given), function(*given)
    for one, other in zip(
        *(r if isinstance(r, tuple) else (r,) for r in (found, exact))
    ):
        assert one.dtype == paddle.float32
        assert distance(one, other) < (0.02 if function is not nothing else 1e-6)
    whys = [f.op for f in pirol.explain(fast).fallbacks]
    assert whys == (["pd_op.logcumsumexp"] if function is ordered else [])


def test_a_bias_is_a_part_and_a_residual_is_not() -> None:
    given = [paddle.randn(shape) for shape in ([6, 8], [8, 8], [8])]
    fast = [pirol.to_static(f, amp="float16") for f in (line, residual)]
    for function in fast:
        function(*given)
    assert dtypes(fast[0], "add") == dtypes(fast[0], "scale") == {"float16"}
    assert ("pd_op.add", "float32") in ops(fast[1])


def test_what_is_no_half_or_level() -> None:
    with pytest.raises(PirolError, match="amp: got float32, expected float16 or"):
        pirol.to_static(line, amp="float32")
    with pytest.raises(PirolError, match="amp_level: got O3, expected O1 or O2"):
        pirol.to_static(line, amp="float16", amp_level="O3")


def test_one_function_with_and_without() -> None:
    """Two options on one function are two programs, in memory and on disk."""
    given = [paddle.randn(shape) for shape in ([6, 8], [8, 8], [8])]
    plain, mixed = pirol.to_static(line), pirol.to_static(line, amp="bfloat16")
    for _ in range(2):
        found, other = plain(*given), mixed(*given)
        assert distance(found, line(*given)) < 1e-6 < distance(other, found)


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")
def test_exported(library: Library, tmp_path: Path, monkeypatch: Any) -> None:
    """Weights that only contractions read are halves in the file; on CUDA the library
    takes them as they are."""
    monkeypatch.setattr(products, "WORTH", 1 << 12)
    fast, _ = twins(amp="bfloat16")
    fast.eval()
    x = paddle.randn([2, 16, 32])
    with paddle.no_grad():
        expected = fast(x)[1].numpy()
    pirol.export(fast, tmp_path / "f")
    held = pirol.load(tmp_path / "f")
    kinds = [(w.shape[0], w.dtype[:2]) for w in held._weights.values()]
    assert sum(kind == (4, 16) for _, kind in kinds) == 13
    np.testing.assert_allclose(held(x.numpy())[1], expected, rtol=0, atol=1e-6)
    before = library.count("products")
    found = pirol.load(tmp_path / "f", device="cuda")(x.numpy())[1]
    assert library.count("products") - before == 8
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * scale)
    assert found.dtype == np.float32 and ml_dtypes.bfloat16(1) == 1
