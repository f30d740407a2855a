"""Fourier transforms as products: against NumPy's, in files, on the stand-in device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, Library, device, fft
from hypothesis import given, settings
from hypothesis import strategies as st
from test_export import exported
from transform_cases import CASES, Transform

import pirol
from pirol.compiler import loaded
from pirol.compiler.interpreter import interpret
from pirol.passes.transforms import _Turn, transforms
from pirol.prim.fourier import NORMS

__all__ = ["device", "fft"]  # fixtures
LENGTHS = (
    *(1, 2, 3, 5, 7, 12, 16, 17, 60, 64, 65, 67, 96, 100, 127, 134, 257, 512),
    *(521, 1000, 1024, 1021, 2042),
)


@st.composite
def transforms_of(draw: Any) -> Transform:
    """Any of them."""
    name = draw(st.sampled_from(["fft", "rfft", "irfft"]))
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    order = draw(st.permutations(range(len(shape))))
    axes = tuple(order[: draw(st.integers(1, len(shape)))])
    shape[axes[0]] = draw(st.sampled_from(LENGTHS))
    half = shape[axes[-1]]
    size = draw(st.sampled_from([2 * half - 2, 2 * half - 1])) or 1
    return Transform(
        name,
        tuple(shape),
        draw(st.sampled_from(["float32", "float64"])),
        axes,
        draw(st.booleans()),
        draw(st.sampled_from(sorted(NORMS))),
        size if name == "irfft" else 0,
    )


def check(case: Transform, seed: int) -> None:
    made = transforms(case.graph())
    assert all(op.name not in ("fft", "rfft", "irfft") for op in made.ops)
    x = case.data(seed)
    case.check(x, *interpret(made, [x]))


@settings(max_examples=60)
@given(transforms_of(), st.integers(0, 2**32 - 1))
def test_as_numpy(case: Transform, seed: int) -> None:
    check(case, seed)


@pytest.mark.slow
@settings(max_examples=1500)
@given(transforms_of(), st.integers(0, 2**32 - 1))
def test_many_as_numpy(case: Transform, seed: int) -> None:
    check(case, seed)


@pytest.mark.parametrize("length", LENGTHS)
def test_each_length(length: int) -> None:
    check(Transform("fft", (2, length, 2), "float64", (1,), True, "n"), length)


def test_a_planted_fault_is_found(monkeypatch: Any) -> None:
    """Roots of the other direction, and a twiddle that is left out."""
    roots = _Turn.roots
    for fault in (
        lambda self, *given: self.b.conj(roots(self, *given)),
        lambda self, p, n, dtype: roots(self, self.b.mul(p, int(n <= 64)), n, dtype),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(_Turn, "roots", fault)
            with pytest.raises(AssertionError):
                test_each_length(512)


def many(x: Any) -> Any:
    """Transforms of several kinds, with work around them."""
    line = paddle.fft.rfft(x * 2.0, norm="ortho")
    plane = paddle.fft.fft2(paddle.complex(x, x * 0.5))
    back = paddle.fft.irfft(line * (0.5 + 1j), n=x.shape[-1])
    return line, plane.abs(), back + x, paddle.fft.ifft(plane, axis=1).real()


def arrays(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


def near(found: Any, wanted: Any) -> None:
    for a, b in zip(found, wanted, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.linalg.norm(a - b) <= 2e-6 * np.linalg.norm(b)


def eager(x: Any) -> list[Any]:
    return [t.numpy() for t in many(paddle.to_tensor(x))]


@pytest.mark.parametrize("shape", [(3, 4, 16), (5, 12, 96), (2, 97, 521)], ids=str)
def test_in_a_file(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = arrays(*shape)
    run, _ = exported(many, tmp_path / "f", x)
    near(run(x), eager(x))


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")
def test_on_cuda(device: Device, tmp_path: Path) -> None:
    x = arrays(3, 20, 24)
    exported(many, tmp_path / "f", x)
    run, before = pirol.load(tmp_path / "f", device="cuda"), device.launches
    near(run(x), eager(x))
    assert device.launches > before


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")
@pytest.mark.parametrize("shape", [(3, 20, 24), (2, 7, 97), (1, 1, 2)], ids=str)
def test_by_a_library(shape: Any, device: Device, fft: Library, tmp_path: Path) -> None:
    """cuFFT's transforms, whose plans are kept."""
    x = arrays(*shape)
    exported(many, tmp_path / "f", x)
    before = fft.count("transforms")
    run = pirol.load(tmp_path / "f", device="cuda")
    near(run(x), eager(x))
    assert fft.count("transforms") == before + 5
    plans = fft.count("built")
    near(run(x), eager(x))
    assert fft.count("built") == plans


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")
@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("case", CASES[1:], ids=str)
def test_cases_on_cuda(
    case: Transform, library: bool, device: Device, request: Any
) -> None:
    """Those that a GPU is given too."""
    if library:
        request.getfixturevalue("fft")
    x = case.data(0)
    case.check(x, loaded.Program(case.archive(), 0)(x))


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_kinds_by_a_library(
    dtype: str, device: Device, fft: Library, tmp_path: Path
) -> None:
    x = np.random.default_rng(1).normal(size=(3, 4, 6)).astype(dtype)
    exported(kinds, tmp_path / "f", x)
    before = fft.count("transforms")
    run = pirol.load(tmp_path / "f", device="cuda")
    wanted = [t.numpy() for t in kinds(paddle.to_tensor(x))]
    near(run(x), wanted)
    assert fft.count("transforms") > before + 9


def kinds(x: Any) -> Any:
    """Over inner dims and several, both ways, of both scales; what is no transform of
    real numbers too."""
    z = paddle.complex(x, x.flip([1]))
    return (
        paddle.fft.rfft2(x, axes=(2, 0), norm="forward"),
        paddle.fft.irfft(z, n=7, axis=1, norm="ortho"),
        paddle.fft.irfft2(z, s=(4, 10), axes=(1, 2)),
        paddle.fft.hfft(z, n=6, axis=0),
        paddle.fft.ihfft(x, axis=1),
        paddle.fft.ifftn(z, norm="ortho"),
    )


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")
def test_a_library_that_fails(device: Device, fft: Library, tmp_path: Path) -> None:
    """One that makes no plans when it is looked for is not taken."""
    x = arrays(3, 20, 24)
    exported(many, tmp_path / "f", x)
    before = fft.count("transforms")
    fft.refuse(1)
    try:
        near(pirol.load(tmp_path / "f", device="cuda")(x), eager(x))
    finally:
        fft.refuse(0)
    assert fft.count("transforms") == before


def test_unknown_lengths_cannot_be_exported(tmp_path: Path) -> None:
    spec = [paddle.static.InputSpec([3, None])]
    with pytest.raises(pirol.PirolError, match=r"only Paddle runs: fft .*test_tr"):
        exported(lengths_unknown, tmp_path / "f", arrays(3, 8), input_spec=spec)


def lengths_unknown(x: Any) -> Any:
    return paddle.fft.fft(x.astype("complex64"))


def test_a_batch_of_any_size(tmp_path: Path) -> None:
    spec = [paddle.static.InputSpec([None, 4, 24])]
    run, _ = exported(many, tmp_path / "f", arrays(3, 4, 24), input_spec=spec)
    for count in (1, 5):
        x = arrays(count, 4, 24)
        near(run(x), eager(x))
