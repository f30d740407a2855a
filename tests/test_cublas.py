"""Products by cuBLASLt: exported programs on stand-ins for it and for the driver."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, Library, cublaslt, device, driver, library
from test_export import SPEC, data, exported

import pirol
from pirol.compiler import loaded, runtime
from pirol.compiler.ir import Graph, TensorType
from pirol.kernels import cublas
from pirol.kernels.cublas import NAMES
from pirol.passes import products
from pirol.passes.products import Matrix
from pirol.prim import Builder

__all__ = ["device", "library"]  # fixtures
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++"),
]
F = paddle.nn.functional
LIBRARIES = cublas.libraries
Function = Callable[..., Any]


@pytest.fixture(autouse=True)
def _small(device: Device, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Small products are worth it, and each test gives back what it took."""
    monkeypatch.setattr(products, "WORTH", 1 << 14)
    gc.collect()
    before = device.live
    yield
    gc.collect()
    assert (device.live, device.depth) == (before, 0)


def near(found: Any, exact: Any) -> None:
    """Equal to what NumPy makes of the inputs in float64, within rounding."""
    found = np.asarray(found)
    assert found.shape == exact.shape
    bound = 2e-6 if found.dtype == "float32" else 1e-14
    size = np.abs(exact).max(initial=0)
    np.testing.assert_allclose(found, exact, rtol=0, atol=bound * size)


# ---- programs, and their meaning in NumPy ----


def plain(x: Any, y: Any) -> Any:
    return x @ y


def turned(x: Any, y: Any) -> Any:
    return paddle.matmul(x, y, transpose_x=True, transpose_y=True)


def views(x: Any, y: Any) -> Any:
    return paddle.matmul(x.transpose([1, 0]), y.transpose([1, 0]).reshape([24, -1]))


def linear(x: Any, w: Any, b: Any) -> Any:
    return F.linear(x, w, b)


def dense(x: Any, w: Any, b: Any) -> Any:
    return F.relu(F.linear(x, w, b))


def residual(x: Any, w: Any, b: Any, v: Any) -> Any:
    return x + F.linear(F.sigmoid(F.linear(x, w, b)), v)


def shared(x: Any, y: Any) -> Any:
    product = x @ y
    return product, product + product, (product * 2.0).transpose([1, 0])


def einsum(equation: str) -> Function:
    def summed(x: Any, y: Any) -> Any:
        return paddle.einsum(equation, x, y)

    return summed


def attention(x: Any, w: Any, b: Any, last: Any) -> Any:
    rows, _, width = x.shape[0], x.shape[1], 32
    parts = F.linear(x, w, b).reshape([rows, -1, 3, 2, 16]).transpose([2, 0, 3, 1, 4])
    scores = paddle.matmul(parts[0], parts[1], transpose_y=True) / 4.0
    mixed = (F.softmax(scores) @ parts[2]).transpose([0, 2, 1, 3])
    return mixed.reshape([rows, -1, width]) @ last


def np_attention(x: Any, w: Any, b: Any, last: Any) -> Any:
    parts = (x @ w + b).reshape(len(x), -1, 3, 2, 16).transpose(2, 0, 3, 1, 4)
    scores = parts[0] @ parts[1].swapaxes(-1, -2) / 4
    chances = np.exp(scores - scores.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    mixed = (chances @ parts[2]).transpose(0, 2, 1, 3)
    return mixed.reshape(len(x), -1, 32) @ last


def np_shared(x: Any, y: Any) -> Any:
    return x @ y, 2 * (x @ y), 2 * (x @ y).T


def np_residual(x: Any, w: Any, b: Any, v: Any) -> Any:
    return x + 1 / (1 + np.exp(-(x @ w + b))) @ v


Shapes = Sequence[Sequence[int]]
# What is computed, its meaning, the inputs' shapes; how many products, of them with a
# row, and batched.
CASES: tuple[tuple[Function, Function, Shapes, tuple[int, int, int]], ...] = (
    (plain, np.matmul, ((40, 24), (24, 33)), (1, 0, 0)),
    (plain, np.matmul, ((3, 20, 24), (3, 24, 17)), (1, 0, 1)),
    (plain, np.matmul, ((2, 3, 20, 24), (2, 3, 24, 17)), (1, 0, 1)),
    (plain, np.matmul, ((3, 20, 24), (24, 17)), (1, 0, 0)),
    (plain, np.matmul, ((3, 20, 24), (1, 24, 17)), (1, 0, 0)),
    (plain, np.matmul, ((20, 24), (3, 24, 17)), (1, 0, 1)),
    (plain, np.matmul, ((2, 3, 20, 24), (3, 24, 17)), (1, 0, 1)),
    (turned, lambda x, y: x.T @ y.T, ((24, 40), (33, 24)), (1, 0, 0)),
    (
        turned,
        lambda x, y: x.swapaxes(1, 2) @ y.swapaxes(1, 2),
        ((3, 24, 20), (3, 17, 24)),
        (1, 0, 1),
    ),
    (views, lambda x, y: x.T @ y.T, ((24, 40), (33, 24)), (1, 0, 0)),
    (linear, lambda x, w, b: x @ w + b, ((40, 24), (24, 33), (33,)), (1, 1, 0)),
    (linear, lambda x, w, b: x @ w + b, ((2, 9, 24), (24, 32), (32,)), (1, 1, 0)),
    (
        dense,
        lambda x, w, b: np.maximum(x @ w + b, 0),
        ((40, 24), (24, 33), (33,)),
        (1, 1, 0),
    ),
    (residual, np_residual, ((40, 24), (24, 32), (32,), (32, 24)), (2, 1, 0)),
    (shared, np_shared, ((40, 24), (24, 33)), (1, 0, 0)),
    (attention, np_attention, ((2, 19, 32), (32, 96), (96,), (32, 32)), (4, 1, 2)),
    (attention, np_attention, ((1, 33, 32), (32, 96), (96,), (32, 32)), (4, 1, 2)),
    *(
        (einsum(e), lambda x, y, e=e: np.einsum(e, x, y), shapes, (1, 0, many))
        for e, shapes, many in (
            ("kbi,bkj->bij", ((24, 3, 20), (3, 24, 17)), 1),
            ("ikb,jkb->bij", ((20, 24, 3), (17, 24, 3)), 1),
            ("ikl,lkj->ij", ((20, 4, 6), (6, 4, 18)), 0),
            ("ikl,klj->ji", ((20, 4, 6), (4, 6, 18)), 0),
            ("aik,kbj->aibj", ((3, 8, 24), (24, 5, 4)), 0),
        )
    ),
)


def outputs(found: Any) -> Sequence[Any]:
    return found if isinstance(found, (list, tuple)) else (found,)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].__name__}{c[2]}")
def test_programs(case: Any, dtype: str, library: Library, tmp_path: Path) -> None:
    function, meaning, shapes, expected = case
    given = [data(*shape, dtype=dtype) / 3 for shape in shapes]
    exported(function, tmp_path / "f", *given)
    run = pirol.load(tmp_path / "f", device="cuda")
    names = ("products", "with_row", "batched")
    before = [library.count(n) for n in names]
    found = run(*given)
    counts = [library.count(n) - b for n, b in zip(names, before)]
    assert counts == [expected[0], expected[1] * (dtype == "float32"), expected[2]]
    wide = meaning(*(x.astype("float64") for x in given))
    for one, exact in zip(outputs(found), outputs(wide), strict=True):
        assert one.dtype == dtype
        near(one, exact)


@pytest.mark.parametrize("function", [linear, residual], ids=lambda f: f.__name__)
def test_without_the_library(
    function: Function, library: Library, tmp_path: Path, monkeypatch: Any
) -> None:
    shapes = ((40, 24), (24, 24), (24,), (24, 24))[: 3 + (function is residual)]
    given = [data(*shape) / 3 for shape in shapes]
    exported(function, tmp_path / "f", *given)
    with_it = pirol.load(tmp_path / "f", device="cuda")(*given)
    monkeypatch.setattr(cublas, "libraries", list)
    before = library.count("products")
    near(pirol.load(tmp_path / "f", device="cuda")(*given), with_it)
    assert library.count("products") == before


def test_libraries_that_cannot_be_used() -> None:
    """None of the name, none of cuBLASLt, one that does not start on the device."""
    code = (
        "import sys\nfrom pirol.compiler import _native\n"
        "_native.open_cuda(sys.argv[1])\n"
        "print([_native.open_blas(name, 1, False) for name in sys.argv[2:]])\n"
    )
    names = ("libno.so", "libm.so.6", cublaslt())
    command = [sys.executable, "-c", code, driver(), *names]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "[False, False, False]\n"


def test_where_libraries_are_looked_for(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in (("cublas", NAMES[1]), ("cu13", NAMES[0]), ("cu13", "other")):
        path = tmp_path / "nvidia" / folder / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = LIBRARIES()
    assert [Path(p).name for p in found] == [*NAMES, *NAMES]
    assert found[2] == str(tmp_path / "nvidia" / "cu13" / "lib" / NAMES[0])


def test_plans_are_kept_on_disk(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [data(*shape) / 3 for shape in ((40, 24), (24, 24), (24,), (24, 24))]
    exported(residual, tmp_path / "f", *given)
    first = pirol.load(tmp_path / "f", device="cuda")(*given)
    monkeypatch.setattr(loaded, "lower", None)
    before = library.count("products")
    again = pirol.load(tmp_path / "f", device="cuda")(*given)
    assert library.count("products") == before + 2
    np.testing.assert_array_equal(first, again)


def test_programs_without_products_look_for_no_library(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(F.softmax, tmp_path / "f", data(4, 5))
    monkeypatch.setattr(cublas, "libraries", None)
    assert pirol.load(tmp_path / "f", device="cuda")(data(4, 5)).shape == (4, 5)


def any_size(x: Any, y: Any) -> Any:
    return x @ y, F.relu(x @ y)


SIZES = ((40, 24, 33), (17, 5, 3), (1, 1, 1), (9, 1, 8))
EMPTY = ((0, 4, 5), (4, 0, 5), (4, 5, 0))


def test_sizes_that_are_not_known(library: Library, tmp_path: Path) -> None:
    spec = [SPEC([None, None], name="x"), SPEC([None, None], name="y")]
    exported(any_size, tmp_path / "f", data(5, 6), data(6, 7), input_spec=spec)
    run, before = pirol.load(tmp_path / "f", device="cuda"), library.count("products")
    for rows, terms, columns in (*SIZES, *EMPTY):
        x, y = data(rows, terms), data(terms, columns)
        exact = x.astype("float64") @ y
        found = run(x, y)
        near(found[0], exact)
        near(found[1], np.maximum(exact, 0))
    assert library.count("products") - before == len(SIZES)


def test_rows_that_are_not_known(library: Library, tmp_path: Path) -> None:
    """A row that is added to each of none, of one, and to sums of nothing."""
    spec = [SPEC([None, None]), SPEC([None, 32]), SPEC([32])]
    exported(linear, tmp_path / "f", data(5, 6), data(6, 32), data(32), input_spec=spec)
    run, before = pirol.load(tmp_path / "f", device="cuda"), library.count("with_row")
    for rows, terms in ((40, 24), (1, 3), (0, 3), (7, 0)):
        x, w, b = data(rows, terms), data(terms, 32), data(32)
        near(run(x, w, b), x.astype("float64") @ w + b)
    assert library.count("with_row") - before == 2


def test_the_best_way_is_asked_for_once(library: Library, tmp_path: Path) -> None:
    spec = [SPEC([None, 71]), SPEC([71, 73])]
    exported(plain, tmp_path / "f", data(5, 71), data(71, 73), input_spec=spec)
    run, before = pirol.load(tmp_path / "f", device="cuda"), library.count("asked")
    for rows in (18, 19, 18, 19, 18):
        run(data(rows, 71), data(71, 73))
    assert library.count("asked") - before == 2


@pytest.mark.slow
def test_only_so_much_is_kept(library: Library, tmp_path: Path) -> None:
    spec = [SPEC([None, 71]), SPEC([71, 73])]
    exported(plain, tmp_path / "f", data(5, 71), data(71, 73), input_spec=spec)
    run = pirol.load(tmp_path / "f", device="cuda")
    held = library.count("described")
    for rows in range(3000, 1, -2):
        run(data(rows, 71), data(71, 73))
    assert library.count("described") - held <= 4 * 1024


def test_the_fastest_way_is_kept(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = data(64, 512), data(512, 300)
    exported(plain, tmp_path / "f", x, y)
    expected = x.astype("float64") @ y
    for tune in (False, True):
        monkeypatch.setenv("PIROL_AUTOTUNE", str(int(tune)))
        run = pirol.load(tmp_path / "f", device="cuda")
        for _ in range(2):
            near(run(x, y), expected)
        slow, count = library.count("slow"), library.count("products")
        near(run(x, y), expected)
        assert library.count("products") == count + 1
        assert library.count("slow") == slow + (not tune)


def test_operands_of_the_device_at_any_place(library: Library, tmp_path: Path) -> None:
    """Memory that begins in the middle of an allocation, at 4 bytes' alignment."""
    from test_cuda_device import Strided, back, on_device

    whole = data(41 * 24 + 1)
    x, y = whole[1:].reshape(41, 24)[:40], data(24, 33)
    exported(plain, tmp_path / "f", x.copy(), y)
    run = pirol.load(tmp_path / "f", device="cuda")
    found = back(run(Strided(on_device(whole), x, whole), on_device(y)))
    near(found, x.astype("float64") @ y)


def test_a_status_is_told(library: Library, tmp_path: Path) -> None:
    x, y = data(40, 61), data(61, 67)
    exported(plain, tmp_path / "f", x, y)
    run = pirol.load(tmp_path / "f", device="cuda")
    library.refuse(True)
    with pytest.raises(RuntimeError, match=r"cuBLASLt: CUBLAS_STATUS_NOT_SUPP.*\(15\)"):
        run(x, y)
    library.refuse(False)
    near(run(x, y), x.astype("float64") @ y)


def test_out_of_memory(device: Device, library: Library, tmp_path: Path) -> None:
    x, y = data(40, 24), data(24, 34)
    exported(plain, tmp_path / "f", x, y)
    run = pirol.load(tmp_path / "f", device="cuda")
    refused = 0
    for room in range(8000, 64000, 1000):
        device.limit(room)
        try:
            near(run(x, y), x.astype("float64") @ y)
        except MemoryError:
            refused += 1
    device.limit(1 << 32)
    assert 0 < refused < 50
    run(x, y)


def by_ones(x: Any) -> Any:
    return x @ paddle.ones([24, 33]), x.astype("bfloat16") @ paddle.ones(
        [24, 33], "bfloat16"
    )


def test_operands_that_are_constants(library: Library, tmp_path: Path) -> None:
    x = data(40, 24)
    exported(by_ones, tmp_path / "f", x)
    found, half = pirol.load(tmp_path / "f", device="cuda")(x)
    exact = np.repeat(x.astype("float64").sum(1, keepdims=True), 33, axis=1)
    near(found, exact)
    assert np.abs(half.astype("float64") - exact).max() < 0.02 * np.abs(x).sum(1).max()


# ---- planted faults: a wrong layout does not go unnoticed ----


def _swapped(m: Matrix) -> Matrix:
    return Matrix(not m.turned, m.pitch, m.batch)


def _too_long(m: Matrix) -> Matrix:
    return Matrix(m.turned, m.pitch + 1, m.batch)


def _too_short(m: Matrix) -> Matrix:
    return Matrix(m.turned, m.pitch - 1, m.batch)


def _far(m: Matrix) -> Matrix:
    return Matrix(m.turned, m.pitch, m.batch + 1)


@pytest.mark.parametrize("fault", [_swapped, _too_long, _too_short, _far])
def test_planted_faults(
    fault: Function, library: Library, tmp_path: Path, monkeypatch: Any
) -> None:
    x, y = data(3, 24, 24), data(3, 24, 24)
    exported(plain, tmp_path / "f", x, y)
    true = runtime.matrix
    monkeypatch.setattr(runtime, "matrix", lambda side: fault(true(side)))
    run = pirol.load(tmp_path / "f", device="cuda")
    with pytest.raises((RuntimeError, AssertionError)):
        near(run(x, y), x.astype("float64") @ y)


# ---- what becomes a product ----


def dot(*shapes: Sequence[int], dtype: str = "float32") -> Graph:
    b = Builder()
    x, y = (b.input(TensorType(tuple(s), dtype)) for s in shapes)
    z = b.dot_general(x, y, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(0,))
    return b.graph("f", [z])


@pytest.mark.parametrize(
    "shapes, dtype, pays",
    [
        (((256, 256), (256, 256)), "float32", True),
        (((256, 256), (256, 256)), "float64", True),
        (((256, 256), (256, 256)), "float16", False),
        (((128, 128), (128, 128)), "float32", False),
        (((15, 4096), (4096, 4096)), "float32", False),
        (((4096, 15), (15, 4096)), "float32", False),
        (((4096, 4096), (4096, 8)), "float32", False),
    ],
)
def test_only_large_products_pay(
    shapes: Shapes, dtype: str, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "WORTH", 1 << 24)
    graph = products.products(dot(*shapes, dtype=dtype))
    assert [op.name for op in graph.ops] == ["product" if pays else "dot_general"]
