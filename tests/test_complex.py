"""Compiled functions of complex tensors, and their gradients, against eager Paddle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from complex_cases import PAIRS, UNARY
from decomposition_runs import of_tensors
from paddle.static import InputSpec

import pirol

CASES = {**UNARY, **PAIRS}
OPS = {"real", "imag", "conj", "complex", "angle", "as_complex", "as_real"}
OPS |= {"fft_c2c", "fft_r2c", "fft_c2r"}
SEEN: set[str] = set()
# Whose gradients Paddle 3.3 gives without the conjugate, or otherwise wrong.
WRONG = ("acosh", "prod", "prod of rows", "pow", "power of j", "power of a number")


def some(names: Any) -> list[Any]:
    """All, every twelfth of them in the quick suite too."""
    full = pytest.mark.full
    return [
        pytest.param(n, marks=[full] if k % 12 else []) for k, n in enumerate(names)
    ]


def numbers(shape: Sequence[int], dtype: str, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)


def traced(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Traced as it is: it may be a lambda."""
    return of_tensors(paddle.jit.not_to_static(function), count)


def listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, (list, tuple)) else [found]


def drawn(name: str, dtype: str) -> list[Any]:
    return [numbers((3, 4), dtype, k) for k in range(2 if name in PAIRS else 1)]


@pytest.mark.parametrize("name", some(CASES))
def test_values(name: str) -> None:
    arrays = drawn(name, "complex64")
    fast = pirol.to_static(traced(CASES[name], len(arrays)), strict=True)
    ours = listed(fast(*map(paddle.to_tensor, arrays)))
    report = pirol.explain(fast)
    assert report.coverage[0] == report.coverage[1], report
    SEEN.update(op.name.removeprefix("pd_op.") for op in report.stages["capture"].ops)
    theirs = listed(CASES[name](*map(paddle.to_tensor, arrays)))
    wide = [paddle.to_tensor(a.astype("complex128")) for a in arrays]
    exact = listed(CASES[name](*wide))
    for a, b, c in zip(ours, theirs, exact):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if "bool" in str(a.dtype):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        else:
            np.testing.assert_allclose(a.numpy(), c.numpy(), rtol=3e-6, atol=3e-6)


@pytest.mark.full
def test_the_ops_listed_were_run() -> None:
    assert not OPS - SEEN


def loss(outputs: list[Any]) -> Any:
    """Real and imaginary parts, each weighted."""
    total, rng = paddle.zeros([], "float64"), np.random.default_rng(1)
    for out in outputs:
        parts = (out.real(), out.imag()) if paddle.is_complex(out) else (out,)
        for part in parts:
            weight = paddle.to_tensor(rng.uniform(0.5, 1.5, part.shape))
            total = total + (part.astype("float64") * weight).sum()
    return total


def gradients(function: Callable[..., Any], arrays: list[Any]) -> list[Any]:
    tensors = [paddle.to_tensor(a, stop_gradient=False) for a in arrays]
    total = loss(listed(function(*tensors)))
    if total.stop_gradient:
        return [None for _ in tensors]
    return list(paddle.grad(total, tensors, allow_unused=True))


def differences(function: Callable[..., Any], arrays: list[Any]) -> list[Any]:
    """dL/dx + j dL/dy by central differences."""
    found = [np.zeros_like(a) for a in arrays]
    for k, array in enumerate(arrays):
        for at in np.ndindex(*array.shape):
            for unit in (1, 1j):
                sides = []
                for step in (1e-6, -1e-6):
                    moved = [a.copy() for a in arrays]
                    moved[k][at] += step * unit
                    outs = listed(function(*map(paddle.to_tensor, moved)))
                    sides.append(float(loss(outs)))
                found[k][at] += unit * (sides[0] - sides[1]) / 2e-6
    return found


@pytest.mark.parametrize("name", some(n for n in CASES if n != "to bool"))
def test_gradients(name: str) -> None:
    arrays = drawn(name, "complex128")
    fast = pirol.to_static(traced(CASES[name], len(arrays)))
    ours = gradients(fast, arrays)
    report = pirol.explain(fast)
    assert not report.fallbacks, report
    if name in WRONG:
        theirs = differences(CASES[name], arrays)
    else:
        theirs = [g if g is None else g.numpy() for g in gradients(CASES[name], arrays)]
    for a, b in zip(ours, theirs):
        assert (a is None) == (b is None), name
        if a is not None:
            # Eager rounds some numbers of complex128 (exp's, a scalar's) to float32.
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-6, atol=1e-6)


# Whose gradient ops are no functions of the operand, and some that are.
INSIDE = (
    *("exp", "expm1", "sigmoid", "tanh", "sqrt", "reciprocal", "divide", "reshape"),
    *("log", "multiply", "matmul", "sin", "abs", "sum", "fft", "silu"),
)


@pytest.mark.full
@pytest.mark.parametrize("name", INSIDE)
def test_gradients_inside(name: str) -> None:
    """paddle.grad in the compiled function, as Paddle's gradient ops."""
    count = 2 if name in PAIRS else 1

    def slope(*tensors: Any) -> Any:
        found = listed(CASES[name](*tensors))[0]
        size = found.abs() if "complex" in str(found.dtype).lower() else found
        return paddle.grad((size * size).sum(), list(tensors))

    arrays = drawn(name, "complex128")
    tensors = [paddle.to_tensor(a, stop_gradient=False) for a in arrays]
    fast = pirol.to_static(traced(slope, count))
    ours, theirs = fast(*tensors), slope(*tensors)
    report = pirol.explain(fast)
    assert report.compiles and not report.fallbacks, report
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["acosh", "pow", "prod"])
def test_paddles_own_gradients_are_wrong(name: str) -> None:
    """If this fails, take the name out of WRONG."""
    arrays = drawn(name, "complex128")
    theirs = gradients(CASES[name], arrays)
    exact = differences(CASES[name], arrays)
    assert any(abs(a.numpy() - b).max() > 1e-2 for a, b in zip(theirs, exact))


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (2, 131), (1031,)])
def test_any_sizes_and_strides(shape: tuple[int, ...]) -> None:
    def run(x: Any, y: Any) -> Any:
        return paddle.exp(x * y).sum(-1), (x / y).abs(), x.conj() * y.real()

    specs = [InputSpec([None] * len(shape), "complex64") for _ in range(2)]
    fast = pirol.to_static(run, input_spec=specs, strict=True)
    x, y = (numbers(shape, "complex64", k) for k in range(2))
    turned = [paddle.to_tensor(a.T.copy()).T for a in (x, y)]  # strided
    for tensors in ([*map(paddle.to_tensor, (x, y))], turned):
        wide = [t.numpy().astype("complex128") for t in tensors]
        found = fast(*tensors)
        assert pirol.explain(fast).compiles == 1
        for a, b in zip(found, run(*map(paddle.to_tensor, wide))):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5)


def test_a_real_factor_leaves_infinities_alone() -> None:
    """C99's product of a real and a complex number; Paddle's gives NaN."""
    fast = pirol.to_static(traced(lambda x: x * 2.0, 1), strict=True)
    x = np.array([complex(np.inf, 1.0), complex(1.0, -np.inf)], "complex64")
    np.testing.assert_array_equal(
        fast(paddle.to_tensor(x)).numpy(), [complex(np.inf, 2), complex(2, -np.inf)]
    )


class Spectral(paddle.nn.Layer):
    """A layer of a Fourier neural operator, with a complex and a real way."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        shape = [width, width, modes]
        scale = 1 / width
        self.re = self.create_parameter(
            shape, default_initializer=paddle.nn.initializer.Uniform(-scale, scale)
        )
        self.im = self.create_parameter(
            shape, default_initializer=paddle.nn.initializer.Uniform(-scale, scale)
        )
        self.way = paddle.nn.Conv1D(width, width, 1)

    def forward(self, x: Any) -> Any:
        spectrum = paddle.fft.rfft(x)
        weights = paddle.complex(self.re, self.im)
        low = paddle.einsum("bix,iox->box", spectrum[:, :, : self.modes], weights)
        rest = paddle.zeros_like(spectrum[:, :, self.modes :])
        back = paddle.fft.irfft(paddle.concat([low, rest], -1), n=x.shape[-1])
        return paddle.nn.functional.gelu(back + self.way(x))


class Operator(paddle.nn.Layer):
    """Two spectral layers between two linear maps of channels."""

    def __init__(self, width: int = 8, modes: int = 5) -> None:
        super().__init__()
        self.up = paddle.nn.Conv1D(1, width, 1)
        self.layers = paddle.nn.LayerList([Spectral(width, modes) for _ in range(2)])
        self.down = paddle.nn.Conv1D(width, 1, 1)

    def forward(self, x: Any) -> Any:
        x = self.up(x)
        for layer in self.layers:
            x = layer(x)
        return self.down(x)


def parameter(start: Any) -> Any:
    """A complex parameter, which no initializer of Paddle's makes."""
    made = paddle.create_parameter(list(start.shape), "float32").astype("complex64")
    weight = paddle.base.framework.EagerParamBase.from_tensor(made)
    weight.set_value(start)
    return weight


class ComplexNet(paddle.nn.Layer):
    """Complex convolutions as sums of real ones, modReLU, and complex parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.re = paddle.nn.Conv1D(1, 6, 3, padding=1)
        self.im = paddle.nn.Conv1D(1, 6, 3, padding=1)
        self.weight = parameter(numbers((6, 4), "complex64", 5) * 0.3)
        self.bias = self.create_parameter([6])

    def forward(self, z: Any) -> Any:
        a, b = z.real(), z.imag()
        conv = paddle.complex(self.re(a) - self.im(b), self.re(b) + self.im(a))
        size = conv.abs()
        kept = paddle.nn.functional.relu(size - self.bias.unsqueeze(-1).abs())
        active = conv * (kept / (size + 1e-6))
        pooled = active.mean(-1)
        return paddle.matmul(pooled, self.weight)


def trained(net: Any, forward: Any, batches: Any, steps: int) -> list[float]:
    """Real parameters by Adam, complex ones, which it refuses, by plain steps."""
    real = [w for w in net.parameters() if not paddle.is_complex(w)]
    whole = [w for w in net.parameters() if paddle.is_complex(w)]
    adam = paddle.optimizer.Adam(3e-3, parameters=real)
    losses = []
    for k in range(steps):
        x, y = batches(k)
        error = forward(x) - y
        size = (error * error.conj()).real() if paddle.is_complex(error) else error**2
        total = size.mean()
        total.backward()
        adam.step()
        for weight in whole:
            weight.set_value(weight.detach() - 0.05 * weight.grad)
        net.clear_gradients()
        losses.append(float(total))
    return losses


def waves(k: int) -> Any:
    rng = np.random.default_rng(k)
    x = rng.normal(size=(4, 1, 32)).astype("float32")
    y = np.cumsum(x, -1) / 6 - np.roll(x, 1, -1)
    return paddle.to_tensor(x), paddle.to_tensor(y.astype("float32"))


def signals(k: int) -> Any:
    z = numbers((8, 1, 16), "complex64", k)
    wanted = np.stack([z.mean((1, 2)), z[:, 0, 0], z[:, 0, 1] * 1j, z.sum((1, 2))], 1)
    return paddle.to_tensor(z), paddle.to_tensor(wanted.astype("complex64") * 0.5)


def same_curve(make: Any, batches: Any, steps: int) -> None:
    curves = []
    for compiled in (True, False):
        paddle.seed(7)
        net = make()
        forward = pirol.to_static(net) if compiled else net
        curves.append(trained(net, forward, batches, steps))
        if compiled:
            report = pirol.explain(forward)
            assert report.compiles and not report.fallbacks, report
    ours, theirs = map(np.array, curves)
    np.testing.assert_allclose(ours[:20], theirs[:20], rtol=1e-3)
    tails = [c[-20:].mean() for c in (ours, theirs)]
    assert abs(tails[0] - tails[1]) < 0.1 * tails[1]
    assert tails[0] < 0.9 * ours[:10].mean()


@pytest.mark.full
def test_an_operator_trains_as_in_eager() -> None:
    same_curve(Operator, waves, 200)


@pytest.mark.full
def test_a_complex_network_trains_as_in_eager() -> None:
    """With a complex parameter."""
    same_curve(ComplexNet, signals, 200)


def test_export(tmp_path: Path) -> None:
    """Weights and results that are complex, without Paddle's help."""

    class Net(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.weight = parameter(numbers((4, 2), "complex64", 3))

        def forward(self, x: Any) -> Any:
            return paddle.tanh(paddle.matmul(x, self.weight)) * (2 - 1j)

    net = Net()
    fast = pirol.to_static(net, strict=True)
    x = numbers((3, 4), "complex64", 0)
    with paddle.no_grad():
        wanted = fast(paddle.to_tensor(x)).numpy()
        pirol.export(fast, tmp_path / "net.pirol")
    loaded = pirol.load(tmp_path / "net.pirol")
    np.testing.assert_allclose(np.asarray(loaded(x)), wanted, rtol=1e-6)


def constants(z: Any) -> Any:
    return paddle.zeros_like(z), paddle.full_like(z, 2.5), paddle.to_tensor([1 + 2j])


def test_constants_are_returned() -> None:
    z = paddle.to_tensor([1j, 2.0])
    found = pirol.to_static(constants, strict=True)(z)
    assert [v.tolist() for v in found] == [[0, 0], [2.5, 2.5], [1 + 2j]]
    assert [v.dtype for v in found[:2]] == [z.dtype] * 2
