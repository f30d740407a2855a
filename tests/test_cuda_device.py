"""Exported programs on a CUDA device: the whole way, on the stand-in driver."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import COMPILE, Device, device, driver, tidy
from test_export import Net, close, data, exported

import pirol
from pirol.compiler import _native, loaded
from pirol.kernels import cuda_build, nvrtc

__all__ = ["device", "tidy"]  # fixtures
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++"),
]
VERSION = nvrtc.version
SPEC = paddle.static.InputSpec
rng = np.random.default_rng(5)


def moved(x: Any, y: Any) -> Any:
    """Views, several kernels, memory between them, an output that is a view."""
    turned = paddle.transpose(x, [1, 0]) * 2.0
    rows = paddle.nn.functional.softmax(turned + y, axis=0)
    return rows.reshape([-1]), paddle.cumsum(rows, 1), (rows > 0.1).astype("int8")


def looked_up(x: Any, table: Any) -> Any:
    return paddle.nn.functional.embedding(x, table) * 2.0


def sized(x: Any, count: Any) -> Any:
    return paddle.arange(0, count) + 1, x.reshape([count, -1]) * 2.0


def squared_in_place(x: Any) -> Any:
    paddle.assign(x * x, x)
    return x + 1.0


FUNCTIONS: tuple[tuple[Callable[..., Any], Sequence[Any]], ...] = (
    (moved, (data(5, 7), data(7, 5))),
    (moved, (data(70, 41), data(41, 70))),
    (looked_up, (rng.integers(0, 9, (3, 2)), data(9, 4))),
    (sized, (data(6, 4), np.array(3))),
)


@pytest.mark.parametrize("function, given", FUNCTIONS, ids=lambda v: str(v)[:20])
def test_functions(function: Any, given: Any, device: Device, tmp_path: Path) -> None:
    _, expected = exported(function, tmp_path / "f", *given)
    run, before = pirol.load(tmp_path / "f", device="cuda"), device.launches
    close(run(*given), expected)
    assert device.launches > before


def test_a_layer_at_many_sizes(tmp_path: Path) -> None:
    net = Net()
    net.eval()
    spec = [SPEC([None, 3, None, None], name="image")]
    on_cpu, _ = exported(net, tmp_path / "n", data(2, 3, 9, 7), input_spec=spec)
    run = pirol.load(tmp_path / "n", device="cuda:1")
    for shape in ((2, 3, 9, 7), (1, 3, 8, 11), (3, 3, 5, 2), (0, 3, 9, 7)):
        x = data(*shape)
        (found, three), (expected, _) = run(image=x), on_cpu(image=x)
        assert three == 3 and found["parts"][1][1] is None
        for one, other in (
            (found["logits"], expected["logits"]),
            (found["parts"][0], expected["parts"][0]),
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def on_device(x: Any) -> Any:
    return _native.Array(np.ascontiguousarray(x)).to(0)


def back(array: Any) -> Any:
    return np.from_dlpack(array.to(-1))


class Strided:
    """A CUDA tensor of other strides over the memory of a contiguous one."""

    class Tensor(ctypes.Structure):
        """DLManagedTensor."""

        _fields_ = (
            ("data", ctypes.c_void_p),
            ("device", ctypes.c_int32 * 2),
            ("rank", ctypes.c_int32),
            ("dtype", ctypes.c_uint8 * 4),
            ("shape", ctypes.c_void_p),
            ("strides", ctypes.c_void_p),
            ("offset", ctypes.c_uint64),
            ("context", ctypes.c_void_p),
            ("deleter", ctypes.c_void_p),
        )

    def __init__(self, base: Any, like: Any, whole: Any) -> None:
        """`like` is a view of the NumPy array `whole`, which `base` is a copy of."""
        self.base = base
        self.shape = (ctypes.c_int64 * like.ndim)(*like.shape)
        items = [s // like.itemsize for s in like.strides]
        self.strides = (ctypes.c_int64 * like.ndim)(*items)
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = (
            ctypes.c_void_p,
            [ctypes.py_object, ctypes.c_char_p],
        )
        capsule = base.__dlpack__(stream=-1)
        held = self.Tensor.from_address(pointer(capsule, b"dltensor"))
        self.tensor = self.Tensor.from_buffer_copy(held)
        self.tensor.rank = like.ndim
        self.tensor.shape = ctypes.addressof(self.shape)
        self.tensor.strides = ctypes.addressof(self.strides)
        self.tensor.offset = like.ctypes.data - whole.ctypes.data
        self.tensor.context = self.tensor.deleter = None

    def __dlpack__(self, *, stream: Any = None) -> Any:
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = (
            ctypes.py_object,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
        )
        return make(ctypes.addressof(self.tensor), b"dltensor", None)


VIEWS: tuple[Callable[[Any], Any], ...] = (
    lambda w: w.reshape(-1)[1:141].reshape(14, 10),  # in line, beside 16 bytes
    lambda w: w[::2, ::3],
    lambda w: w[3::-1, 5:9],
    lambda w: w[:6, :4].T,
    lambda w: np.lib.stride_tricks.as_strided(w[1:], (6, 4), (0, w.itemsize)),
)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int32"])
@pytest.mark.parametrize("view", VIEWS, ids=range(len(VIEWS)))
def test_strided_tensors_of_the_device(view: Any, dtype: str, tmp_path: Path) -> None:
    whole = rng.integers(-9, 9, (12, 12)).astype(dtype)
    x = view(whole)
    exported(doubled, tmp_path / "f", np.ascontiguousarray(x))
    run, base = pirol.load(tmp_path / "f", device="cuda"), on_device(whole)
    found = back(run(Strided(base, x, whole)))
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, x + x)
    np.testing.assert_array_equal(back(base), whole)


def doubled(x: Any) -> Any:
    return x + x


def test_writes_reach_the_tensor(tmp_path: Path) -> None:
    whole = data(8, 6)
    x = whole[::2, ::3]
    exported(squared_in_place, tmp_path / "f", x.copy())
    run, base = pirol.load(tmp_path / "f", device="cuda"), on_device(whole)
    np.testing.assert_allclose(back(run(Strided(base, x, whole))), x * x + 1, rtol=1e-6)
    whole[::2, ::3] *= x
    np.testing.assert_array_equal(back(base), whole)
    dense = on_device(x)
    before = back(dense).copy()
    run(dense)
    np.testing.assert_array_equal(back(dense), before * before)


def test_too_many_axes_are_refused(tmp_path: Path) -> None:
    whole = data(*(2,) * 9)
    x = whole.transpose(range(8, -1, -1))
    exported(doubled, tmp_path / "f", np.ascontiguousarray(x))
    run, base = pirol.load(tmp_path / "f", device="cuda"), on_device(whole)
    with pytest.raises(ValueError, match="too many strided axes; make it contiguous"):
        run(Strided(base, x, whole))
    np.testing.assert_array_equal(run(x), x + x)  # made contiguous on the CPU


def test_inputs_elsewhere_are_refused(tmp_path: Path) -> None:
    run, _ = exported(doubled, tmp_path / "f", data(4))
    with pytest.raises(ValueError, match=r"input x: on device \(2, 0\)"):
        run(on_device(data(4)))
    other = pirol.load(tmp_path / "f", device="cuda:1")
    with pytest.raises(ValueError, match=r"input x: on device \(2, 0\)"):
        other(on_device(data(4)))
    with pytest.raises(ValueError, match=r"input x: on device \(1, 0\)"):
        other(_native.Array(data(4)))


def test_a_bad_index_is_an_error(device: Device, tmp_path: Path) -> None:
    table, x = data(9, 4), rng.integers(0, 9, (3, 2))
    exported(looked_up, tmp_path / "f", x, table)
    run = pirol.load(tmp_path / "f", device="cuda")
    with pytest.raises(RuntimeError, match="(?i)index|range"):
        run(x + 9, table)
    assert run(x, table).shape == (3, 2, 4)


def test_sizes_in_data_are_checked(tmp_path: Path) -> None:
    exported(sized, tmp_path / "f", data(6, 4), np.array(3))
    run = pirol.load(tmp_path / "f", device="cuda")
    for count in (3, 6, 2):
        numbers, rows = run(data(6, 4), np.array(count))
        assert numbers.tolist() == [*range(1, count + 1)] and rows.shape[0] == count


def test_out_of_memory(device: Device, tmp_path: Path) -> None:
    exported(moved, tmp_path / "f", data(5, 7), data(7, 5))
    run, live = pirol.load(tmp_path / "f", device="cuda"), device.live
    given = (on_device(data(5, 7)), on_device(data(7, 5)))
    for room in range(0, 2000, 100):
        device.limit(280 + room)
        try:
            run(*given)
            break
        except MemoryError:
            assert (device.live, device.depth) == (live + 2, 0)
    device.limit(1 << 32)
    assert 0 < room < 1900
    run(*given)


def test_a_kernels_fault_is_told(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(doubled, tmp_path / "f", data(40))
    monkeypatch.setenv("PIROL_CACHE_DIR", str(tmp_path / "cache"))
    before = cuda_build.together
    monkeypatch.setattr(
        cuda_build,
        "together",
        lambda s: before(s).replace("out0 + unit", "out0 + 80 + unit"),
    )
    run = pirol.load(tmp_path / "f", device="cuda")
    with pytest.raises(RuntimeError, match="LAUNCH_FAILED.*out-of-bounds"):
        run(data(40))


def test_results_wait_for_their_stream(device: Device, tmp_path: Path) -> None:
    exported(doubled, tmp_path / "f", data(40))
    run = pirol.load(tmp_path / "f", device="cuda")
    (found,) = run._compiled.run_on([on_device(data(40))], 77)
    for stream, waits in ((77, 0), (-1, 0), (1, 1), (None, 0), (5, 1), (5, 0)):
        before = device.waits
        found.__dlpack__(stream=stream)
        assert device.waits - before == waits, stream
    assert found.__dlpack_device__() == (2, 0) and found.shape == (40,)
    found = None
    assert device.counts.freed_on == 5  # what is done there comes first


def test_cubins_are_kept_on_disk(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(doubled, tmp_path / "f", data(40))
    monkeypatch.setenv("PIROL_CACHE_DIR", str(tmp_path / "cache"))
    lowered: list[Any] = []
    before = loaded.lower
    monkeypatch.setattr(
        loaded, "lower", lambda *a, **k: lowered.append(a) or before(*a, **k)
    )
    for _ in range(2):
        run = pirol.load(tmp_path / "f", device="cuda")
        x = data(40)
        np.testing.assert_array_equal(run(x), x + x)
    assert len(device.texts) == len(lowered) == 1
    (cubin,) = (tmp_path / "cache").glob("*.cubin")
    cubin.write_bytes(b"CUSIM:/nowhere")
    np.testing.assert_array_equal(pirol.load(tmp_path / "f", device="cuda")(x), x + x)
    assert len(device.texts) == len(lowered) == 2


def test_devices_and_drivers_that_are_not_there(tmp_path: Path) -> None:
    exported(doubled, tmp_path / "f", data(4))
    for text in ("gpu", "cuda:", "cuda:-1", "cpu:0"):
        with pytest.raises(pirol.PirolError, match="expected cpu, cuda or cuda:N"):
            pirol.load(tmp_path / "f", device=text)
    with pytest.raises(ValueError, match="CUDA device 5: there are 2"):
        pirol.load(tmp_path / "f", device="cuda:5")
    code = (
        "import sys, pirol\nfrom pirol.compiler import loaded\n"
        "loaded.DRIVER = sys.argv[2]\npirol.load(sys.argv[1], device='cuda')\n"
    )
    for library, words in (
        ("libno.so", "no CUDA driver: libno"),
        ("libc.so.6", "has no cuInit"),
    ):
        command = [sys.executable, "-c", code, str(tmp_path / "f"), library]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode and words in ran.stderr, ran.stderr[-500:]


def test_without_nvrtc(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(doubled, tmp_path / "f", data(4))
    monkeypatch.setattr(nvrtc, "version", VERSION)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(ImportError, match=r"NVRTC is not.*pip install pirol\[cuda\]"):
        pirol.load(tmp_path / "f", device="cuda")


def test_cubins_that_travel_with_the_file(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are taken where the file is trusted, and only then; of this device, and of
    the very text."""
    made = pirol.to_static(moved)
    given = data(5, 7), data(7, 5)
    with paddle.no_grad():
        expected = made(*map(paddle.to_tensor, given))
    pirol.export(made, tmp_path / "f", ("cuda:sm_80", "cuda:sm_90"), cubins=True)
    pirol.export(made, tmp_path / "other", "cuda:sm_80", cubins=True)
    monkeypatch.setenv("PIROL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(nvrtc, "version", VERSION)
    monkeypatch.setattr(nvrtc, "compile_cubin", COMPILE)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    with pytest.raises(ImportError, match="or trusted=True.*for sm_80, sm_90"):
        pirol.load(tmp_path / "f", device="cuda")
    with pytest.raises(ImportError, match="cubins, for sm_80, are of other text"):
        pirol.load(tmp_path / "other", device="cuda", trusted=True)
    for _ in range(2):  # compiled by nobody, then from the cache
        run = pirol.load(tmp_path / "f", device="cuda", trusted=True)
        close(run(*given), expected)


def test_cubins_that_were_changed(device: Device, tmp_path: Path) -> None:
    """A file with a byte of a cubin changed is none."""
    made = pirol.to_static(moved)
    with paddle.no_grad():
        made(paddle.to_tensor(data(5, 7)), paddle.to_tensor(data(7, 5)))
    pirol.export(made, tmp_path / "f", "cuda:sm_90", cubins=True)
    content = (tmp_path / "f").read_bytes()
    assert content.count(b"CUSIM:") == 1
    (tmp_path / "f").write_bytes(content.replace(b"CUSIM:", b"CUSIN:"))
    with pytest.raises(pirol.PirolError, match="cubins/sm_90/.*|Bad CRC"):
        pirol.load(tmp_path / "f", device="cuda", trusted=True)


def test_the_text_compiles_for_every_architecture(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not nvrtc.available():
        pytest.skip("NVRTC is not installed")
    exported(moved, tmp_path / "f", data(5, 7), data(7, 5))
    monkeypatch.setenv("PIROL_CACHE_DIR", str(tmp_path / "cache"))
    pirol.load(tmp_path / "f", device="cuda")
    for arch in ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"):
        log = COMPILE(device.texts[-1], arch=arch).log
        assert "bytes spill stores" in log
        assert all(line.startswith("0 bytes") for line in _spills(log)), log


def _spills(log: str) -> list[str]:
    return [
        part.strip()
        for line in log.splitlines()
        if "spill" in line
        for part in line.split(",")
        if "spill" in part
    ]


def binned(x: Any) -> Any:
    pool = paddle.nn.functional
    value, place = pool.adaptive_max_pool2d(x, [3, 4], return_mask=True)
    part = pool.fractional_max_pool2d(x, [2, 3], random_u=0.4)
    return value, place, pool.adaptive_avg_pool2d(x, [4, 3]), part


def test_bins_of_uneven_extents(device: Device, tmp_path: Path) -> None:
    x = np.round(2 * rng.normal(size=(2, 3, 7, 10))).astype("float32")
    _, expected = exported(binned, tmp_path / "f", x)
    close(pirol.load(tmp_path / "f", device="cuda")(x), expected)


def test_the_stand_in_is_one_library(device: Device) -> None:
    assert driver() == driver() and device.depth == 0
