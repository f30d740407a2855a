"""CUDA text compiles to a cubin without a GPU, and errors carry log and source."""

import pytest
from test_cuda_simulator import FAULTS, GOOD, SOFTMAX

from pirol.kernels import nvrtc

pytest.importorskip("cuda.bindings.nvrtc")
if not nvrtc.available():
    pytest.skip("no NVRTC library", allow_module_level=True)


def test_softmax_compiles_for_hopper() -> None:
    cubin = nvrtc.compile_cubin(SOFTMAX, arch="sm_90")
    assert cubin.image.startswith(b"\x7fELF")
    assert b"softmax" in cubin.image
    assert cubin.arch == "sm_90"
    assert "Used " in cubin.log and " registers" in cubin.log
    assert "0 bytes spill stores" in cubin.log


@pytest.mark.parametrize("text", [GOOD, FAULTS], ids=["good", "faults"])
def test_what_the_simulator_takes_compiles(text: str) -> None:
    assert nvrtc.compile_cubin(text).image


def test_wrong_text_raises_with_its_log() -> None:
    source = 'extern "C" __global__ void bad(float* y) {\n    y[0] = nonsense;\n}'
    with pytest.raises(nvrtc.NvrtcError) as caught:
        nvrtc.compile_cubin(source)
    assert 'identifier "nonsense" is undefined' in caught.value.log
    assert "2 |     y[0] = nonsense;" in str(caught.value)
    assert caught.value.source == source


def test_wrong_options_raise() -> None:
    with pytest.raises(nvrtc.NvrtcError, match="sm_1"):
        nvrtc.compile_cubin("", arch="sm_1")
    with pytest.raises(nvrtc.NvrtcError, match="--no-such-option"):
        nvrtc.compile_cubin("", options=["--no-such-option"])


def test_multiply_and_add_are_not_contracted() -> None:
    text = """extern "C" __global__ void k(float* y, float a, float b) {
        y[0] = EXPRESSION; }"""

    def build(expression: str, *options: str) -> nvrtc.Cubin:
        return nvrtc.compile_cubin(
            text, options=(f"-DEXPRESSION={expression}", *options)
        )

    plain, fused = "(y[0]*a+b)", "fmaf(y[0],a,b)"
    assert build(plain).image != build(fused).image
    contracted = build(plain, "--fmad=true").image
    assert contracted == build(fused, "--fmad=true").image
