"""The simulator accepts good kernels, computes right, and finds each kind of fault."""

import re
from collections.abc import Iterator
from math import erf
from pathlib import Path

import numpy as np
import pytest
from cuda_simulator import (
    Argument,
    Array,
    InOut,
    ReadOnly,
    Simulator,
    SimulatorBuildError,
    SimulatorError,
    has_compiler,
)

PROGRAMS = Path(__file__).parent / "cusim"
pytestmark = pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")

# Each takes (x, y, n): 1-d float arrays in and out, and n floats of x in use.
FAULTS = (PROGRAMS / "faults.cu").read_text()

# name -> grid, block, length of y, expected words
EXPECTED: dict[str, tuple[int, int, int, str]] = {
    "oob_write": (2, 256, 256, r"out-of-bounds 4-byte write at argument 1\+1024"),
    "oob_read4": (1, 64, 64, r"out-of-bounds .* read at argument 0\+1024"),
    "oob_before": (1, 256, 256, r"out-of-bounds 4-byte read at argument 0-4"),
    "oob_array": (1, 32, 32, "array index 32 out of bounds, line 1"),
    "oob_global": (1, 256, 256, "out-of-bounds"),
    "misaligned": (1, 64, 64, "misaligned"),
    "no_barrier": (1, 256, 256, "racecheck|uninitialised __shared__"),
    "no_second_barrier": (1, 256, 256, "racecheck: read of __shared__.*the write"),
    "no_warp_barrier": (1, 32, 32, "racecheck: read of __shared__"),
    "many_readers": (1, 256, 256, "racecheck: write of __shared__.*the read"),
    "uninitialised_shared": (1, 256, 256, "uninitialised __shared__"),
    "uninitialised_output": (1, 256, 256, "uninitialised argument 1"),
    "unwritten": (1, 256, 256, "12 of 1024 bytes of argument 1 never .* at 1012"),
    "divergent": (1, 256, 256, "divergent __syncthreads"),
    "exit_late": (1, 256, 256, "thread exits while 200 threads wait"),
    "exit_early": (1, 256, 256, "after 56 threads exited"),
    "block_race": (2, 128, 128, "racecheck: write of argument 1.*block 0"),
    "block_read_race": (2, 64, 192, "racecheck: read of argument 1.*block 0"),
    "block_atomic_race": (2, 32, 1, "racecheck: write of argument 1"),
    "absent_lanes": (1, 64, 64, "lane 16 exits, the warp operation at line"),
    "exited_lanes": (1, 32, 32, "names exited lanes 0000ffff"),
    "inactive_source": (1, 32, 32, "shuffle reads inactive lane 20"),
    "not_in_mask": (1, 32, 32, "lane 16 is not in its own mask"),
    "divergent_warp": (1, 32, 32, "divergent warp operations"),
    "write_read_only": (1, 256, 256, "write to read-only argument 0"),
    "write_constant": (1, 32, 32, r"write to read-only __constant__\+0"),
    "division_by_zero": (1, 256, 256, "integer division by zero"),
}

GOOD = (PROGRAMS / "good.cu").read_text()

HALF = r"""
extern "C" __global__ void multiply_half(const __half* x, const __nv_bfloat16* b,
                                         __half* y) {
    int i = threadIdx.x;
    y[i] = __float2half(__half2float(x[i]) * __bfloat162float(b[i]));
}
"""

SOFTMAX = (PROGRAMS / "softmax.cu").read_text()

DTYPES = ("float32", "float64", "int32", "int64", "bool", "int8", "uint8")
GOOD_NAMES = (
    *("add", "tables", "dynamic_sum", "warp_exchange", "halves", "multiply_half"),
    *(f"shuffle_{dtype}" for dtype in DTYPES),
    *("functions", "where_am_i"),
)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Build afresh: these tests are about the building too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIROL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def faults(_cache: None) -> Simulator:
    return Simulator(FAULTS, list(EXPECTED))


@pytest.fixture(scope="module", params=[True, False], ids=["checked", "fast"])
def good(request: pytest.FixtureRequest, _cache: None) -> Simulator:
    return Simulator(GOOD + HALF, GOOD_NAMES, checked=request.param)


def floats(n: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(n, np.float32)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_fault_is_found(faults: Simulator, name: str) -> None:
    grid, block, length, words = EXPECTED[name]
    y = np.zeros(length, np.float32)
    args: list[Argument] = [ReadOnly(floats(256)), y, np.int32(256)]
    with pytest.raises(SimulatorError) as caught:
        faults.launch(name, (grid, 1, 1), (block, 1, 1), args)
    assert re.search(words, "\n".join(caught.value.findings)), caught.value
    assert not y.any(), "a failed launch leaves the arrays alone"


def test_a_fault_leaves_the_next_launch_alone(faults: Simulator) -> None:
    x, y = floats(256), np.empty(253, np.float32)
    args: list[Argument] = [ReadOnly(x), y, np.int32(256)]
    for _ in range(2):
        with pytest.raises(SimulatorError):
            faults.launch("divergent", (1, 1, 1), (256, 1, 1), args)
        faults.launch("unwritten", (1, 1, 1), (256, 1, 1), args)
        np.testing.assert_array_equal(y, x[:253])


@pytest.mark.parametrize("n", [0, 1, 257, 1000])
def test_pointwise(good: Simulator, n: int) -> None:
    x, y = floats(n), np.empty(n, np.float32)
    good.launch("add", (5, 1, 1), (256, 1, 1), [ReadOnly(x), y, n])
    np.testing.assert_array_equal(y, x + np.float32(1))


def test_in_place(good: Simulator) -> None:
    x = floats(100)
    expected = x + np.float32(1)
    good.launch("add", (1, 1, 1), (128, 1, 1), [ReadOnly(x), InOut(x), 100])
    np.testing.assert_array_equal(x, expected)


def test_constant_tables(good: Simulator) -> None:
    y = np.empty(64, np.float32)
    good.launch("tables", (1, 1, 1), (64, 1, 1), [y])
    np.testing.assert_array_equal(y, np.tile([3, 2], 32))


def test_dynamic_shared_and_atomics(good: Simulator) -> None:
    x, y = floats(1000), np.ones(1, np.float32)
    args: list[Argument] = [ReadOnly(x), InOut(y), np.int32(1000)]
    good.launch("dynamic_sum", (2, 1, 1), (128, 1, 1), args, shared_bytes=512)
    np.testing.assert_allclose(y, 1 + 2 * x.sum(), rtol=1e-4)


def test_warp_exchange_through_shared_memory(good: Simulator) -> None:
    x, y = floats(32), np.empty(32, np.float32)
    good.launch("warp_exchange", (1, 1, 1), (32, 1, 1), [ReadOnly(x), y])
    np.testing.assert_array_equal(y, x[np.arange(32) ^ 1])


def test_half_warps_apart(good: Simulator) -> None:
    x, y = floats(32), np.empty(32, np.float32)
    good.launch("halves", (1, 1, 1), (32, 1, 1), [ReadOnly(x), y])
    np.testing.assert_array_equal(y, x[np.arange(32) ^ 15])


def test_half_and_bfloat16(good: Simulator) -> None:
    x, y = floats(64).astype(np.float16), np.empty(64, np.float16)
    b = (floats(64, 1).view(np.uint32) >> 16).astype(np.uint16)
    wide = (b.astype(np.uint32) << 16).view(np.float32)
    args: list[Argument] = [ReadOnly(x), ReadOnly(b), y]
    good.launch("multiply_half", (1, 1, 1), (64, 1, 1), args)
    np.testing.assert_array_equal(y, (x * wide).astype(np.float16))


@pytest.mark.parametrize("dtype", DTYPES)
def test_shuffles_of_each_type(good: Simulator, dtype: str) -> None:
    x = np.random.default_rng(1).integers(-100, 100, 128).astype(dtype)
    y = np.empty_like(x)
    good.launch(f"shuffle_{dtype}", (2, 1, 1), (64, 1, 1), [ReadOnly(x), y])
    lane = np.arange(32)
    source = np.where(lane + 3 < 32, lane + 3, lane) ^ 4
    np.testing.assert_array_equal(y.reshape(4, 32), x.reshape(4, 32)[:, source])


@pytest.mark.parametrize("negate", [False, True])
def test_functions_without_contraction(good: Simulator, negate: bool) -> None:
    x = np.linspace(0.1, 3, 30)
    f, y = x.astype(np.float32), np.empty_like(x)
    args: list[Argument] = [ReadOnly(x), y, np.bool_(negate)]
    good.launch("functions", (1, 1, 1), (30, 1, 1), args)
    erfs = np.array([erf(v) for v in x])
    expected = erfs + np.tanh(f) + np.exp(f) + np.exp(x) + erfs + np.exp(f)
    expected = expected + 1 / np.sqrt(f) + np.fmax(f, 1) + np.fmax(f, 2.0) + 3 + f
    expected = expected + f + x + (f * f) + f
    np.testing.assert_allclose(y, -expected if negate else expected, rtol=1e-6)


def test_indices_in_three_dimensions(good: Simulator) -> None:
    y = np.empty(2 * 3 * 4 * 5 * 2 * 7, np.int32)
    good.launch("where_am_i", (2, 3, 4), (5, 2, 7), [y])
    np.testing.assert_array_equal(y, np.arange(y.size))


@pytest.mark.parametrize("checked", [True, False])
def test_softmax_equals_numpy(checked: bool) -> None:
    x = floats(6 * 516).reshape(6, 516)
    y = np.empty_like(x)
    simulator = Simulator(SOFTMAX, ["softmax"], checked=checked)
    args: list[Argument] = [ReadOnly(x), y, np.int32(516)]
    simulator.launch("softmax", (6, 1, 1), (128, 1, 1), args)
    e = np.exp(x - x.max(axis=1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(axis=1, keepdims=True), rtol=1e-5)


def test_a_misaligned_view_stays_misaligned() -> None:
    base = floats(520)
    simulator = Simulator(SOFTMAX, ["softmax"])
    args: list[Argument] = [ReadOnly(base[1:517]), np.empty(516, np.float32)]
    with pytest.raises(SimulatorError, match="misaligned"):
        simulator.launch("softmax", (1, 1, 1), (128, 1, 1), [*args, np.int32(516)])


def test_wrong_launches_are_refused(good: Simulator) -> None:
    x, y = floats(8), np.empty(8, np.float32)
    one = (1, 1, 1)
    with pytest.raises(TypeError, match="takes .*'i8'.* got .*'i4'"):
        good.launch("add", one, one, [ReadOnly(x), y, np.int32(8)])
    with pytest.raises(TypeError, match="NumPy scalar"):
        good.launch("add", one, one, [ReadOnly(x), y, True])
    with pytest.raises(TypeError, match="takes"):
        good.launch("add", one, one, [ReadOnly(x), y])
    with pytest.raises(ValueError, match="1024"):
        good.launch("add", one, (1024, 2, 1), [ReadOnly(x), y, 8])
    with pytest.raises(ValueError, match="contiguous"):
        good.launch("add", one, one, [ReadOnly(x[::2]), y, 4])
    with pytest.raises(ValueError, match="overlap"):
        good.launch("add", one, one, [ReadOnly(x[:5]), x[4:], 4])


def test_the_compilers_log_names_the_line() -> None:
    with pytest.raises(SimulatorBuildError, match=r"kernel\.cu:2:"):
        Simulator('\nextern "C" __global__ void bad() { nonsense(); }', ["bad"])


def test_builds_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIROL_CACHE_DIR", str(tmp_path))
    text = 'extern "C" __global__ void one(int* y) { *y = 1; }'
    for _ in range(2):
        y = np.zeros(1, np.int32)
        Simulator(text, ["one"]).launch("one", (1, 1, 1), (1, 1, 1), [y])
        assert y[0] == 1
    assert len(list((tmp_path / "cusim").iterdir())) == 2  # runtime and kernels
