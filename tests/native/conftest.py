"""Kernels built once, the runtime started, thread counts put back."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import paddle
import pytest
from native_plans import SOURCE

from pirol.compiler import _native


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "k.c").write_text(SOURCE)
    command = ["gcc", "-O2", "-w", "-shared", "-fPIC", "k.c", "-o", "k.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "k.so"))
    names = ["add", "scale", "reverse", "chunk", "to_float"]
    return {n: ctypes.cast(getattr(library, n), ctypes.c_void_p).value for n in names}


@pytest.fixture(scope="module", autouse=True)
def runtime():
    paddle.set_device("cpu")
    library = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    _native.init(paddle.Tensor.__c_dlpack_exchange_api__)
    assert _native.open_threads(str(library)) == library.exists()


@pytest.fixture(autouse=True)
def threads():
    before = _native.get_threads()
    _native.set_threads(2)
    yield
    _native.set_threads(before)
