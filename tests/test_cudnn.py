"""Convolutions by cuDNN: exported programs on stand-ins for it and for the driver."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, Library, cudnn_library, device, dnn, driver, library
from test_cublas import near
from test_cuda_device import Strided, back, on_device
from test_export import SPEC, data, exported

import pirol
from pirol.compiler import _native, loaded, runtime
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels import cudnn
from pirol.passes import convolutions, products
from pirol.prim import PRIMS, Builder

__all__ = ["device", "dnn", "library"]  # fixtures
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++"),
]
F = paddle.nn.functional
Function = Callable[..., Any]
Shape = Sequence[int]


@pytest.fixture(autouse=True)
def _small(device: Device, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Small convolutions are worth it, and each test gives back what it took."""
    monkeypatch.setattr(convolutions, "WORTH", 1 << 13)
    gc.collect()
    before = device.live
    yield
    gc.collect()
    assert (device.live, device.depth) == (before, 0)


# ---- programs, and their meaning in NumPy ----


def conv(rank: int, **options: Any) -> Function:
    """A convolution alone."""
    run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]

    def convolved(x: Any, w: Any) -> Any:
        return run(x, w, **options)

    return convolved


def meaning(x: Any, w: Any, **options: Any) -> Any:
    """Of a convolution, in float64, term by term."""
    rank, wide = x.ndim - 2, (x.astype("float64"), w.astype("float64"))

    def each(name: str, usual: int) -> list[int]:
        found = options.get(name, usual)
        return found if isinstance(found, list) else [found] * rank

    padding = each("padding", 0)
    sides = iter(padding if len(padding) > rank else np.repeat(padding, 2).tolist())
    return PRIMS["conv"].numpy(
        *wide,
        strides=each("stride", 1),
        padding=[*zip(sides, sides)],
        dilation=each("dilation", 1),
        groups=options.get("groups", 1),
    )


# Of convolutions: the shapes of x and w, the options; 1D, 2D and 3D.
PLAIN: tuple[tuple[Shape, Shape, dict[str, Any]], ...] = (
    ((2, 8, 9, 10), (12, 8, 3, 3), {}),
    ((2, 8, 9, 10), (12, 8, 3, 3), dict(padding=1)),
    ((1, 3, 23, 21), (16, 3, 7, 7), dict(stride=2, padding=3)),
    ((2, 8, 9, 12), (8, 8, 3, 2), dict(stride=[2, 3], padding=[1, 0])),
    ((2, 8, 12, 13), (9, 8, 3, 3), dict(dilation=[2, 3], padding=[2, 3])),
    ((2, 16, 7, 9), (24, 8, 3, 3), dict(groups=2, padding=1)),
    ((2, 16, 9, 9), (16, 16, 1, 1), dict(stride=2)),
    ((2, 16, 9, 9), (16, 16, 1, 1), {}),
    ((2, 8, 9, 9), (12, 8, 3, 3), dict(padding=[1, 2, 0, 3])),
    ((2, 8, 30), (12, 8, 5), dict(padding=2)),
    ((2, 16, 31), (24, 8, 4), dict(stride=3, dilation=2, padding=1, groups=2)),
    ((1, 8, 6, 5, 7), (8, 8, 3, 2, 3), dict(padding=[1, 0, 1])),
    ((1, 16, 5, 6, 7), (16, 8, 2, 3, 3), dict(stride=[1, 2, 3], groups=2)),
)


def inputs(*shapes: Shape, dtype: str = "float32") -> list[Any]:
    return [data(*shape, dtype=dtype) / 3 for shape in shapes]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", PLAIN, ids=lambda c: f"{c[0]}{c[1]}{c[2]}")
def test_convolutions(case: Any, dtype: str, dnn: Library, tmp_path: Path) -> None:
    x_shape, w_shape, options = case
    x, w = inputs(x_shape, w_shape, dtype=dtype)
    exported(conv(x.ndim - 2, **options), tmp_path / "f", x, w)
    run = pirol.load(tmp_path / "f", device="cuda")
    names = ("convolutions", "grouped", "simplest", "explicit")
    before = [dnn.count(n) for n in names]
    found = run(x, w)
    counts = [dnn.count(n) - b for n, b in zip(names, before)]
    assert counts == [1, "groups" in options, 0, dtype == "float64"]
    assert found.dtype == dtype
    near(found, meaning(x, w, **options))


def bias_relu(x: Any, w: Any, b: Any) -> Any:
    return F.relu(F.conv2d(x, w, b, padding=1))


def residual(x: Any, w: Any, v: Any, m: Any, s: Any, g: Any, b: Any) -> Any:
    norm = (m, s, g, b)
    y = F.batch_norm(F.conv2d(x, w, padding=1), *norm)
    y = F.batch_norm(F.conv2d(F.relu(y), v, padding=1), *norm)
    return F.relu(x + y)


def last(x: Any, w: Any) -> Any:
    return F.conv2d(x, w, padding=1, data_format="NHWC") * 2.0


def transposed(x: Any, w: Any) -> Any:
    return F.conv2d_transpose(x, w, stride=2, padding=1)


def np_bias_relu(x: Any, w: Any, b: Any) -> Any:
    return np.maximum(meaning(x, w, padding=1) + b[:, None, None], 0)


def np_residual(x: Any, w: Any, v: Any, *rows: Any) -> Any:
    def norm(y: Any) -> Any:
        m, s, g, b = (a[:, None, None] for a in rows)
        return (y - m) / np.sqrt(s + 1e-5) * g + b

    y = np.maximum(norm(meaning(x, w, padding=1)), 0)
    return np.maximum(x + norm(meaning(y, v, padding=1)), 0)


def np_last(x: Any, w: Any) -> Any:
    return 2 * meaning(x.transpose(0, 3, 1, 2), w, padding=1).transpose(0, 2, 3, 1)


def np_transposed(x: Any, w: Any) -> Any:
    at = dict(strides=(2, 2), padding=((1, 1),) * 2, dilation=(1, 1), groups=1)
    shape = (len(x), w.shape[1], *(2 * n - 1 for n in x.shape[2:]))
    return PRIMS["conv_input_grad"].numpy(x, w, shape=shape, **at)


BLOCK = ((2, 8, 6, 7), (8, 8, 3, 3), (8, 8, 3, 3), (8,), (8,), (8,), (8,))
# What is computed, its meaning, the inputs' shapes, how many convolutions.
CASES: tuple[tuple[Function, Function, Sequence[Shape], int], ...] = (
    (bias_relu, np_bias_relu, ((2, 8, 9, 10), (12, 8, 3, 3), (12,)), 1),
    (residual, np_residual, BLOCK, 2),
    (last, np_last, ((2, 9, 7, 8), (12, 8, 3, 3)), 1),
    (transposed, np_transposed, ((2, 8, 7, 9), (8, 12, 3, 3)), 1),
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].__name__)
@pytest.mark.parametrize("found", [True, False], ids=["with", "without"])
def test_programs(
    case: Any, found: bool, dnn: Library, tmp_path: Path, monkeypatch: Any
) -> None:
    """What surrounds convolutions, and all of it without the library."""
    function, exact, shapes, count = case
    given = [np.abs(a) + 0.1 if a.ndim == 1 else a for a in inputs(*shapes)]
    exported(function, tmp_path / "f", *given)
    if not found:
        monkeypatch.setattr(cudnn, "libraries", list)
    run, before = pirol.load(tmp_path / "f", device="cuda"), dnn.count("convolutions")
    near(run(*given), exact(*(x.astype("float64") for x in given)))
    assert dnn.count("convolutions") - before == (count if found else 0)


DEPTHWISE = ((1, 16, 20, 20), (16, 1, 3, 3), dict(groups=16))
FEW = ((1, 2, 40, 40), (4, 2, 3, 3), {})


@pytest.mark.parametrize("case", [DEPTHWISE, FEW], ids=["depthwise", "few channels"])
def test_kernels_of_ours(case: Any, dnn: Library, tmp_path: Path) -> None:
    x, w = inputs(*case[:2])
    exported(conv(2, **case[2]), tmp_path / "f", x, w)
    run, before = pirol.load(tmp_path / "f", device="cuda"), dnn.count("convolutions")
    near(run(x, w), meaning(x, w, **case[2]))
    assert dnn.count("convolutions") == before


def mixed(x: Any, w: Any, v: Any) -> Any:
    return F.relu(F.conv2d(x, w)), F.conv2d(x, v, padding=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_windows_of_one_place(
    dtype: str, dnn: Library, library: Library, tmp_path: Path, monkeypatch: Any
) -> None:
    """They are products, where there is cuBLASLt."""
    monkeypatch.setattr(products, "WORTH", 1 << 14)
    x, w, v = inputs((3, 20, 5, 7), (24, 20, 1, 1), (9, 20, 3, 3), dtype=dtype)
    exported(mixed, tmp_path / "f", x, w, v)
    run = pirol.load(tmp_path / "f", device="cuda")
    counted = ((library, "products"), (library, "batched"), (dnn, "convolutions"))
    before = [lib.count(n) for lib, n in counted]
    found = run(x, w, v)
    assert [lib.count(n) - b for (lib, n), b in zip(counted, before)] == [1, 1, 1]
    near(found[0], np.maximum(meaning(x, w), 0))
    near(found[1], meaning(x, v, padding=1))


SIZES = ((2, 9, 10), (1, 3, 3), (3, 4, 31))
EMPTY = ((0, 9, 10), (2, 0, 3), (2, 3, 0))


def test_sizes_that_are_not_known(dnn: Library, tmp_path: Path) -> None:
    spec = [SPEC([None, 8, None, None]), SPEC([12, 8, 3, 3])]
    x, w = inputs((2, 8, 5, 6), (12, 8, 3, 3))
    exported(conv(2, padding=2), tmp_path / "f", x, w, input_spec=spec)
    run, before = pirol.load(tmp_path / "f", device="cuda"), dnn.count("convolutions")
    for batch, height, width in (*SIZES, *EMPTY):
        (x,) = inputs((batch, 8, height, width))
        near(run(x, w), meaning(x, w, padding=2))
    assert dnn.count("convolutions") - before == len(SIZES)


def test_results_that_are_not_known(dnn: Library, tmp_path: Path) -> None:
    """Channels of the result: one, none."""
    spec = [SPEC([2, 8, 6, 7]), SPEC([None, 8, 3, 3])]
    x, w = inputs((2, 8, 6, 7), (11, 8, 3, 3))
    exported(conv(2), tmp_path / "f", x, w, input_spec=spec)
    run, before = pirol.load(tmp_path / "f", device="cuda"), dnn.count("convolutions")
    for out in (11, 1, 0):
        (w,) = inputs((out, 8, 3, 3))
        near(run(x, w), meaning(x, w))
    assert dnn.count("convolutions") - before == 2


def test_the_best_way_is_asked_for_once(dnn: Library, tmp_path: Path) -> None:
    spec = [SPEC([None, 8, 5, 5]), SPEC([8, 8, 3, 3])]
    x, w = inputs((2, 8, 5, 5), (8, 8, 3, 3))
    exported(conv(2), tmp_path / "f", x, w, input_spec=spec)
    run, before = pirol.load(tmp_path / "f", device="cuda"), dnn.count("asked")
    for batch in (18, 19, 18, 19, 18):
        run(*inputs((batch, 8, 5, 5)), w)
    assert dnn.count("asked") - before == 2


@pytest.mark.slow
def test_only_so_much_is_kept(dnn: Library, tmp_path: Path) -> None:
    spec = [SPEC([None, 8, 5, 5]), SPEC([8, 8, 3, 3])]
    x, w = inputs((2, 8, 5, 5), (8, 8, 3, 3))
    exported(conv(2), tmp_path / "f", x, w, input_spec=spec)
    run = pirol.load(tmp_path / "f", device="cuda")
    for batch in range(20, 1500):
        run(np.zeros((batch, 8, 5, 5), "float32"), w)
    assert dnn.count("described") <= 4 * 1024


def test_the_fastest_way_is_kept(
    dnn: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w = inputs((2, 8, 9, 13), (12, 8, 3, 3))
    exported(conv(2), tmp_path / "f", x, w)
    for tune in (False, True):
        monkeypatch.setenv("PIROL_AUTOTUNE", str(int(tune)))
        run = pirol.load(tmp_path / "f", device="cuda")
        for _ in range(2):
            near(run(x, w), meaning(x, w))
        before = [dnn.count(n) for n in ("convolutions", "explicit")]
        near(run(x, w), meaning(x, w))
        after = [dnn.count(n) for n in ("convolutions", "explicit")]
        assert [a - b for a, b in zip(after, before)] == [1, tune]


def test_the_stream_is_that_of_the_call(dnn: Library, tmp_path: Path) -> None:
    """Of two threads' calls, too."""
    x, w = inputs((2, 8, 9, 10), (12, 8, 3, 3))
    exported(conv(2), tmp_path / "f", x, w)
    run = pirol.load(tmp_path / "f", device="cuda")
    streams, calls = (0x77, 0x88), 20
    before = [dnn.on_stream(s) for s in streams]

    def work(stream: int) -> None:
        for _ in range(calls):
            run._compiled.run_on([run._placed(a, stream) for a in (x, w)], stream)

    threads = [threading.Thread(target=work, args=(s,)) for s in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [dnn.on_stream(s) - b for s, b in zip(streams, before)] == [calls] * 2


def test_operands_of_the_device_at_any_place(dnn: Library, tmp_path: Path) -> None:
    """Memory that begins in the middle of an allocation, at 4 bytes' alignment."""
    whole = data(3 * 8 * 9 * 10 + 1)
    x, w = whole[1:].reshape(3, 8, 9, 10)[:2], data(12, 8, 3, 3)
    exported(conv(2), tmp_path / "f", x.copy(), w)
    run, before = pirol.load(tmp_path / "f", device="cuda"), dnn.count("convolutions")
    found = back(run(Strided(on_device(whole), x, whole), on_device(w)))
    near(found, meaning(x, w))
    assert dnn.count("convolutions") == before + 1


def test_plans_are_kept_on_disk(
    dnn: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with the library, one without."""
    given = inputs((2, 8, 9, 10), (12, 8, 3, 3), (12,))
    exported(bias_relu, tmp_path / "f", *given)
    first = pirol.load(tmp_path / "f", device="cuda")(*given)
    places = cudnn.libraries
    monkeypatch.setattr(cudnn, "libraries", list)
    pirol.load(tmp_path / "f", device="cuda")
    monkeypatch.setattr(loaded, "lower", None)
    before = dnn.count("convolutions")
    near(pirol.load(tmp_path / "f", device="cuda")(*given), first)
    assert dnn.count("convolutions") == before
    monkeypatch.setattr(cudnn, "libraries", places)
    again = pirol.load(tmp_path / "f", device="cuda")(*given)
    np.testing.assert_array_equal(first, again)
    assert dnn.count("convolutions") == before + 1


def test_programs_without_convolutions_look_for_no_library(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(paddle.matmul, tmp_path / "f", *inputs((4, 5), (5, 6)))
    monkeypatch.setattr(cudnn, "libraries", None)
    assert pirol.load(tmp_path / "f", device="cuda")(*inputs((4, 5), (5, 6))).size == 24


def test_libraries_that_cannot_be_used(tmp_path: Path) -> None:
    """None of the name, none of cuDNN, one without its parts, one that cannot start."""
    code = (
        "import sys\nfrom pirol.compiler import _native\n"
        "_native.open_cuda(sys.argv[1])\n"
        "print([_native.open_dnn(name, 1, True) for name in sys.argv[2:]])\n"
    )
    lonely = tmp_path / "libcudnn.so.9"
    lonely.write_bytes(Path(cudnn_library()).read_bytes())
    names = ("libno.so", "libm.so.6", str(lonely), cudnn_library())
    command = [sys.executable, "-c", code, driver(), *names]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "[False, False, False, False]\n"


def test_a_way_for_every_shape(dnn: Library, tmp_path: Path) -> None:
    """Where none is advised, the simplest; where there is none, the status is told."""
    x, w = inputs((2, 8, 9, 11), (12, 8, 3, 3))
    exported(conv(2), tmp_path / "f", x, w)
    run, before = pirol.load(tmp_path / "f", device="cuda"), dnn.count("simplest")
    dnn.refuse(2)
    with pytest.raises(RuntimeError, match=r"cuDNN: CUDNN_STATUS_NOT_SUPP.*\(3000\)"):
        run(x, w)
    dnn.refuse(1)
    near(run(x, w), meaning(x, w))
    assert dnn.count("simplest") == before + 1
    dnn.refuse(0)


def test_out_of_memory(device: Device, dnn: Library, tmp_path: Path) -> None:
    x, w = inputs((2, 8, 9, 10), (12, 8, 3, 3))
    exported(conv(2), tmp_path / "f", x, w)
    run = pirol.load(tmp_path / "f", device="cuda")
    refused = 0
    for room in range(8000, 64000, 1000):
        device.limit(room)
        try:
            near(run(x, w), meaning(x, w))
        except MemoryError:
            refused += 1
    device.limit(1 << 32)
    assert 0 < refused < 50
    run(x, w)


# ---- planted faults: what is told wrongly does not go unnoticed ----


# Of strides, padding, dilation, groups as the plan has them; none is a turned window.
FAULTS: dict[str, Function | None] = {
    "strides swapped": lambda s, p, d, g: (s[::-1], p, d, g),
    "padding swapped": lambda s, p, d, g: (s, p[::-1], d, g),
    "no dilation": lambda s, p, d, g: (s, p, [1, 1], g),
    "no groups": lambda s, p, d, g: (s, p, d, 1),
    "more groups": lambda s, p, d, g: (s, p, d, 2 * g),
    "turned": None,
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults(
    name: str, dnn: Library, tmp_path: Path, monkeypatch: Any
) -> None:
    fault = FAULTS[name]
    options = dict(stride=[2, 1], padding=[1, 3], dilation=[1, 3], groups=2)
    x, w = inputs((2, 16, 13, 13), (16, 8, 3, 3))
    exported(conv(2, **options), tmp_path / "f", x, w)
    true = runtime.window
    if fault is not None:
        monkeypatch.setattr(runtime, "window", lambda op: fault(*true(op)))
    run = pirol.load(tmp_path / "f", device="cuda")
    dnn.turn(fault is None)
    try:
        with pytest.raises((RuntimeError, AssertionError)):
            near(run(x, w), meaning(x, w, **options))
    finally:
        dnn.turn(False)


# ---- primitives that no export of Paddle's leads to ----


def computed(graph: Graph, *given: Any) -> Any:
    """The one result of a graph on the device."""
    array = _native.Array
    made = loaded.on_cuda(graph, 0, graphs=False)
    (found,) = made.run_on([array(a).to(0) for a in given], 0) or ()
    return np.from_dlpack(found.to(-1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lines(dtype: str, dnn: Library) -> None:
    """Windows of one dim."""
    x, w = inputs((2, 16, 31), (24, 8, 4), dtype=dtype)
    at = dict(strides=(3,), padding=((1, 2),), dilation=(2,), groups=2)
    b = Builder()
    values = (b.input(TensorType(a.shape, dtype)) for a in (x, w))
    graph = b.graph("f", [b.conv(*values, **at)])
    before = dnn.count("convolutions")
    found = computed(graph, x, w)
    near(found, meaning(x, w, stride=3, padding=[1, 2], dilation=2, groups=2))
    assert dnn.count("convolutions") == before + 1


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("which", ["input", "weight"])
def test_gradients(
    which: str, stride: int, dnn: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convolutions too; with images for windows, only where those are small."""
    x, w, ct = inputs((2, 16, 9, 9), (16, 8, 3, 3), (2, 16, 9, 9))
    ct = ct[:, :, ::stride, ::stride].copy()
    at = dict(strides=(stride,) * 2, padding=((1, 1),) * 2, dilation=(1, 1), groups=2)
    given, shape = ((ct, w), x.shape) if which == "input" else ((x, ct), w.shape)
    for most in (128, 20):
        monkeypatch.setattr(convolutions, "TAPS", most)
        b = Builder()
        values = (b.input(TensorType(a.shape, "float32")) for a in given)
        made = getattr(b, f"conv_{which}_grad")(*values, shape=shape, **at)
        before = dnn.count("convolutions")
        found = computed(b.graph(f"f{most}", [made]), *given)
        wide = (a.astype("float64") for a in given)
        near(found, PRIMS[f"conv_{which}_grad"].numpy(*wide, shape=shape, **at))
        count = dnn.count("convolutions") - before
        assert count == (which == "input" or most == 128)


# ---- what goes to the library ----


def graph_of(
    x: Shape, w: Shape, groups: int = 1, dtype: str = "float32", stride: int = 1
) -> Graph:
    b, rank = Builder(), len(x) - 2
    values = (b.input(TensorType(tuple(s), dtype)) for s in (x, w))
    at = dict(strides=(stride,) * rank, padding=((1, 1),) * rank, dilation=(1,) * rank)
    return b.graph("f", [b.conv(*values, groups=groups, **at)])


IMAGE = (16, 64, 56, 56)


@pytest.mark.parametrize(
    "graph, pays",
    [
        (graph_of(IMAGE, (64, 64, 3, 3)), True),
        (graph_of(IMAGE, (64, 64, 3, 3), dtype="float64"), True),
        (graph_of(IMAGE, (64, 64, 3, 3), dtype="float16"), False),
        (graph_of(IMAGE, (64, 1, 3, 3), groups=64), False),
        (graph_of(IMAGE, (4, 64, 3, 3)), False),
        (graph_of((1, 16, 20, 20), (16, 16, 3, 3)), False),
        (graph_of((64, 16, 58, 58), (64, 16, 56, 56)), False),
        (graph_of((16, 32, 9, 9, 9, 9), (32, 32, 3, 3, 3, 3)), False),
        (graph_of((1024, 64, 256, 256), (8, 64, 3, 3)), False),
    ],
)
def test_only_large_convolutions_pay(
    graph: Graph, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolutions, "WORTH", 1 << 24)
    found = convolutions.convolutions(graph)
    assert [op.name for op in found.ops] == ["convolution" if pays else "conv"]
