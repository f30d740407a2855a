"""float16 and bfloat16: their conversions, bit for bit, and programs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import paddle
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, Library, device, dnn, library
from graph_meaning import same_bits
from graph_runs import run_c, run_cuda
from half_data import cast, every_half, near_every_half
from test_export import exported

import pirol
from pirol.compiler.archive import Archive, Source, write
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import DTYPES, HALVES, Graph, TensorType
from pirol.passes import convolutions, products
from pirol.passes.canonicalize import canonicalize
from pirol.passes.halves import halves
from pirol.prim import Builder

__all__ = ["device", "dnn", "library"]  # fixtures
F = paddle.nn.functional
BFLOAT16 = ml_dtypes.bfloat16
Function = Callable[..., Any]
needs_simulator = pytest.mark.skipif(not has_compiler(), reason="the simulator: g++")
RUNS = [run_c, pytest.param(run_cuda, marks=needs_simulator)]
rng = np.random.default_rng(5)


# ---- conversions ----


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", HALVES)
def test_every_half_is_widened(dtype: str, run: Function) -> None:
    x = every_half(dtype)
    (found,) = run(cast(dtype, "float32", x.size), [x])
    assert same_bits(found, x.astype(np.float32))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", HALVES)
def test_floats_are_rounded_to_nearest_even(dtype: str, run: Function) -> None:
    x = near_every_half(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(DTYPES[dtype][1])
    (found,) = run(cast("float32", dtype, x.size), [x])
    assert same_bits(found, expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_what_moves_stays_half(dtype: str) -> None:
    b = Builder()
    x = b.input(TensorType((4, 6), dtype))
    index = b.input(TensorType((3, 4), "int64"))
    moved = b.pad(b.transpose(x, perm=(1, 0)), low=(1, 0), high=(0, 0),
                  interior=(0, 0), value=2.5)  # fmt: skip
    found = b.gather(moved, index, shape=(3, 4), dims=(-1, 1))
    graph = b.graph("f", [b.select(b.ne(found, found), found, found)])
    kinds = [op.result.dtype for op in halves(graph).ops if op.name != "cast"]
    assert kinds.count("float32") == 0 and kinds.count(dtype) == 4


def test_rounded_once_and_widened_again_is_not_folded() -> None:
    """Only a half that is widened and rounded back is itself."""
    b = Builder()
    x = b.input(TensorType((3,), "float32"))
    y = b.input(TensorType((3,), "bfloat16"))
    there = b.cast(b.cast(x, dtype="bfloat16"), dtype="float32")
    back = b.cast(b.cast(y, dtype="float32"), dtype="bfloat16")
    other = b.cast(b.cast(y, dtype="float32"), dtype="float16")
    graph = canonicalize(b.graph("f", [there, back, other]))
    assert [op.name for op in graph.ops] == ["cast"] * 4
    assert graph.outputs[1] is graph.inputs[1]


# ---- programs of bfloat16, which plain Paddle cannot run on a CPU ----


def pointwise(x: Any, y: Any) -> Any:
    return F.relu(x) * y - paddle.exp(x * 0.5) / (y * y + 1.0)


def norms(x: Any, y: Any) -> Any:
    return F.softmax(x), F.layer_norm(x + y, [12], y[0], y[1]), F.gelu(x)


def totals(x: Any, y: Any) -> Any:
    return (
        x.sum(axis=1),
        y.mean(),
        x.max(axis=0),
        paddle.concat([x, y]).transpose([1, 0]),
    )


def contractions(x: Any, y: Any) -> Any:
    image = x.reshape([1, 2, 8, 12]), y.reshape([4, 2, 2, 12])[:, :, :, :3]
    return F.linear(x, y.transpose([1, 0]), y[0, 0]), F.conv2d(*image, padding=1)


def choices(x: Any, y: Any) -> Any:
    return x > y, (x < y).astype("bfloat16"), x.astype("float32"), x.astype("int32")


PROGRAMS: tuple[Function, ...] = (pointwise, norms, totals, contractions, choices)


def half(*shape: int) -> Any:
    return rng.normal(size=shape).astype(BFLOAT16)


def tensor(x: Any) -> Any:
    """A tensor of a NumPy array, of bfloat16 too."""
    if x.dtype != BFLOAT16:
        return paddle.to_tensor(x)
    return paddle.to_tensor(x.view(np.uint16), dtype="bfloat16")


def array(x: Any) -> Any:
    """Its contents; Paddle's own of bfloat16 are their bits."""
    found = x.numpy()
    return found.view(BFLOAT16) if x.dtype == paddle.bfloat16 else found


def flat(found: Any) -> Sequence[Any]:
    return found if isinstance(found, (list, tuple)) else (found,)


def near(found: Any, exact: Any, ulps: float = 1.0) -> None:
    """Within half of the last place of what float32 gives, and of the largest."""
    assert found.shape == exact.shape
    wide = found.astype(np.float32)
    error = np.abs(wide - exact) - ulps * 2.0**-8 * np.abs(exact)
    assert (error <= ulps * 2.0**-9 * np.abs(exact).max(initial=0)).all()


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("function", PROGRAMS, ids=lambda f: f.__name__)
def test_programs(function: Function, symbolic: bool) -> None:
    spec = paddle.static.InputSpec([None if symbolic else 16, 12], "bfloat16")
    if function is contractions:
        spec = paddle.static.InputSpec([16, 12], "bfloat16")
    made = pirol.to_static(function, input_spec=[spec, spec], strict=True)
    x, y = half(16, 12), half(16, 12)
    found = flat(made(tensor(x), tensor(y)))
    plain = function(*(paddle.to_tensor(v.astype(np.float32)) for v in (x, y)))
    for one, other in zip(found, flat(plain), strict=True):
        if one.dtype == paddle.bfloat16:
            near(
                array(one),
                other.astype("float32").numpy(),
                4 if function is pointwise else 1,
            )
        else:
            np.testing.assert_array_equal(one.numpy(), other.numpy())


class Block(paddle.nn.Layer):
    """Linear layers around a norm; as captured, all of it in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = paddle.nn.Linear(12, 24), paddle.nn.Linear(24, 6)
        self.norm = paddle.nn.LayerNorm(24)

    def forward(self, x: Any) -> Any:
        return F.softmax(self.last(F.gelu(self.norm(self.first(x)))))


def test_training() -> None:
    paddle.seed(3)
    block, plain = Block(), Block()
    block.to(dtype="bfloat16")
    for mine, other in zip(plain.parameters(), block.parameters()):
        mine.set_value(other.astype("float32"))
    fast = pirol.to_static(block, strict=True)
    x, ct = half(5, 12), half(5, 6)
    fast(tensor(x)).backward(tensor(ct))
    plain(paddle.to_tensor(x.astype("float32"))).backward(
        paddle.to_tensor(ct.astype("float32"))
    )
    for mine, other in zip(block.parameters(), plain.parameters()):
        assert mine.grad.dtype == paddle.bfloat16
        near(array(mine.grad), other.grad.numpy(), 6)


def test_exported(tmp_path: Path) -> None:
    """Weights of bfloat16 in the file; NumPy's arrays, and Paddle's, in and out."""
    block = Block()
    block.to(dtype="bfloat16")
    block.eval()
    run, expected = exported(block, tmp_path / "f", tensor(x := half(5, 12)))
    for found in (run(x), array(run(tensor(x))), run(x[:, ::-1][:, ::-1])):
        assert found.dtype == BFLOAT16
        assert same_bits(found, array(expected))


# ---- CUDA: the libraries take halves as they are ----


def contraction(dtype: str, last: str) -> Graph:
    """A product and a convolution of halves, rounded to `last` or as they are."""
    b = Builder()
    x, y = (b.input(TensorType((40, 32), dtype)) for _ in range(2))
    image = b.input(TensorType((2, 16, 9, 10), dtype))
    w = b.input(TensorType((16, 16, 3, 3), dtype))
    wide = [b.cast(v, dtype="float32") for v in (x, y, image, w)]
    product = b.dot_general(*wide[:2], x_batch=(), y_batch=(), x_sum=(1,), y_sum=(1,))
    at = dict(strides=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1)
    found = [product, b.conv(*wide[2:], **at)]
    if last != "float32":
        found = [b.cast(v, dtype=last) for v in found]
    return b.graph("f", found)


@pytest.mark.full
@needs_simulator
@pytest.mark.parametrize("last", ["float32", *HALVES])
@pytest.mark.parametrize("dtype", HALVES)
def test_libraries(
    dtype: str, last: str, library: Library, dnn: Library, device: Device,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for part in (products, convolutions):
        monkeypatch.setattr(part, "WORTH", 1 << 10)
    graph = contraction(dtype, last)
    sources = tuple(Source(f"x{k}", False) for k in range(4))
    form = ("tuple", [("output", 0), ("output", 1)])
    write(tmp_path / "f", Archive(graph, sources, form, {}, ("cuda",)))
    given = [rng.normal(size=v.shape).astype(DTYPES[dtype][1]) for v in graph.inputs]
    run = pirol.load(tmp_path / "f", device="cuda")
    before = library.count("products"), dnn.count("convolutions")
    found = run(*given)
    counts = library.count("products"), dnn.count("convolutions")
    assert [n - m for n, m in zip(counts, before)] == [1, 1]
    for one, exact in zip(found, interpret(graph, given), strict=True):
        assert one.dtype == exact.dtype == DTYPES[last][1]
        wide = exact.astype(np.float32)
        bound = {"float32": 1e-5, "float16": 2.0**-10, "bfloat16": 2.0**-7}[last]
        np.testing.assert_allclose(one.astype(np.float32), wide, bound, bound)


def test_sums_are_added_up_in_float32() -> None:
    """In bfloat16 256 ones and one more are 256."""
    b = Builder()
    x = b.input(TensorType((4096,), "bfloat16"))
    graph = b.graph("f", [b.reduce_sum(x, axes=(0,)), b.cumsum(x, axis=0)])
    total, running = run_c(graph, [np.ones(4096, BFLOAT16)])
    assert (float(total), float(running[-1])) == (4096, 4096)
