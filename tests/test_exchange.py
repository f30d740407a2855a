"""DLPack's C exchange API, of a library that is made here: no Python in between."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from cuda_simulator_build import has_compiler
from cuda_stand_in import Device, device
from test_export import data, exported

import pirol
from pirol.compiler import _native, loaded

__all__ = ["device"]  # a fixture
STREAM = 77  # that the library's work is ordered by
pointer = ctypes.pythonapi.PyCapsule_GetPointer
pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
named = ctypes.pythonapi.PyCapsule_SetName
named.argtypes = [ctypes.py_object, ctypes.c_char_p]
capsule_of = ctypes.pythonapi.PyCapsule_New
capsule_of.restype = ctypes.py_object
capsule_of.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
count = ctypes.pythonapi.Py_IncRef
count.argtypes = [ctypes.py_object]
USED = b"used_dltensor_versioned"
KIND = ctypes.c_char_p(b"dltensor_versioned")


class Given:
    """Hands a capsule on."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule


class Tensor:
    """A tensor of the library; it counts how often Python was asked."""

    asked: list[str] = []
    requires_grad = False

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **given: Any) -> Any:
        if self.requires_grad:
            raise BufferError("it has a gradient")
        self.asked.append("__dlpack__")
        return self.array.__dlpack__(**given)

    def is_neg(self) -> bool:
        return False


def _view(address: int, out: int) -> int:
    whole = _managed(address, keep=False)
    ctypes.memmove(out, whole + 32, 48)  # Versioned.tensor, a DLTensor
    return 0


def _managed(address: int, keep: bool) -> int:
    tensor = ctypes.cast(address, ctypes.py_object).value
    capsule = tensor.array.__dlpack__(max_version=(1, 0), stream=-1)
    found = pointer(capsule, KIND.value)
    if keep:
        named(capsule, USED)
    assert found is not None
    return int(found)


def _take(address: int, out: Any) -> int:
    out[0] = _managed(address, keep=True)
    return 0


def _give(managed: int, out: Any) -> int:
    made = Tensor(_native.Array(Given(capsule_of(managed, KIND, None))))
    count(made)
    out[0] = id(made)
    return 0


def _stream(kind: int, number: int, out: Any) -> int:
    out[0] = STREAM
    return 0


OUT = ctypes.POINTER(ctypes.c_void_p)
INT, ANY = ctypes.c_int, ctypes.c_void_p
CALLS = (
    ctypes.PYFUNCTYPE(INT, ANY, OUT)(_take),
    ctypes.PYFUNCTYPE(INT, ANY, OUT)(_give),
    ctypes.PYFUNCTYPE(INT, ANY, ANY)(_view),
    ctypes.PYFUNCTYPE(INT, INT, INT, OUT)(_stream),
)
# The version 1.3, no older table, no allocator.
TABLE = (ANY * 7)(1 | 3 << 32, None, None, *(ctypes.cast(c, ANY) for c in CALLS))
NAME = ctypes.c_char_p(b"dlpack_exchange_api")
Tensor.__dlpack_c_exchange_api__ = capsule_of(  # type: ignore[attr-defined]
    ctypes.addressof(TABLE), NAME, None
)


@pytest.fixture(autouse=True)
def nothing_asked() -> None:
    Tensor.asked.clear()


def values(tensor: Any) -> Any:
    return np.from_dlpack(tensor.array.to(-1))


def test_there_and_back() -> None:
    x = np.arange(6.0).reshape(2, 3)
    array = _native.Array(Tensor(_native.Array(x)))
    back = array.like(Tensor(None))
    assert type(back) is Tensor and not Tensor.asked and array.shape == (2, 3)
    del array
    gc.collect()
    x[0, 0] = 9.0
    np.testing.assert_array_equal(values(back), x)


def test_who_has_no_table_is_asked() -> None:
    class Derived(Tensor):
        pass

    array = _native.Array(Derived(_native.Array(np.ones(3))))
    assert Tensor.asked == ["__dlpack__"]
    assert array.like(Derived(None)) is None and array.like(np.ones(1)) is None


def test_gradients_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "requires_grad", True)
    with pytest.raises(BufferError, match="gradient"):
        _native.Array(Tensor(_native.Array(np.ones(3))))
    x = paddle.ones([3])
    x.stop_gradient = False
    with pytest.raises((BufferError, RuntimeError), match="gradient"):
        _native.Array(x)


def test_bits_that_the_memory_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "is_neg", lambda self: True)
    with pytest.raises(BufferError, match=r"call resolve_neg\(\)"):
        _native.Array(Tensor(_native.Array(np.ones(3))))


def test_an_older_table_is_looked_for() -> None:
    newer = (ANY * 2)(2, ctypes.addressof(TABLE))

    class Newer(Tensor):
        __dlpack_c_exchange_api__ = capsule_of(ctypes.addressof(newer), NAME, None)

    _native.Array(Newer(_native.Array(np.ones(3))))
    assert not Tensor.asked


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")
def test_streams(device: Device, tmp_path: Path) -> None:
    """Without Python only where the library's stream is the one asked for."""
    x = Tensor(_native.Array(np.ones(5, np.float32)).to(0, STREAM))
    assert _native.work_stream(x, 0) == STREAM == loaded.current_stream(x, 0)
    assert _native.work_stream(np.ones(3), 0) is None
    ours = _native.Array(x, STREAM)
    assert not Tensor.asked and ours.like(x) is not None
    waits = device.waits
    other = _native.Array(x, 5)
    assert Tensor.asked == ["__dlpack__"] and device.waits == waits + 1
    assert other.like(x) is None


def multiplied(x: Any, y: Any) -> Any:
    return x * y + 1.0


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")
def test_a_program(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = data(5, 7), data(7)
    exported(multiplied, tmp_path / "f", x, y)
    run = pirol.load(tmp_path / "f", device="cuda")
    given = [Tensor(_native.Array(a).to(0, STREAM)) for a in (x, y)]
    waits = device.waits
    result = run(*given)
    assert not Tensor.asked and device.waits == waits
    np.testing.assert_allclose(np.from_dlpack(result.to(-1)), x * y + 1, rtol=1e-6)
