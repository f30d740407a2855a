"""`python -m pirol doctor`: what Pirol finds on this machine, and what it lacks.

With --calibrate it also measures the machine for the cost model (a quarter of a minute,
on one thread; best with nothing else running), whose predictions pirol.explain shows.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from pirol.compiler import cache as cached
from pirol.compiler import costs, loaded
from pirol.compiler.calibrate import calibrate, made
from pirol.compiler.errors import PirolError
from pirol.compiler.micro import called, micro
from pirol.compiler.process import native_module, threads
from pirol.kernels import nvrtc
from pirol.kernels.build import cache_folder, compiler

LIBRARIES = ("cublas", "cudnn", "cufft")


class Lack(Exception):
    """What is missing, and what to do."""


def python() -> str:
    """The interpreter, and how many threads kernels use."""
    return f"Python {platform.python_version()}, {threads()} thread(s) for kernels"


def built() -> str:
    """The native runtime."""
    return str(getattr(native_module(), "__file__", ""))


def c_compiler() -> str:
    """The C compiler that kernels are built with."""
    name, shown = compiler()
    return f"{name}, {shown.splitlines()[0]}"


def paddle() -> str:
    """Paddle, and whether its programs can be captured."""
    if find_spec("paddle") is None:
        raise Lack("not installed: exported programs run, to_static does not")
    version = import_module("paddle").__version__
    lacking = import_module("pirol.compiler.capture.seam").connect()
    if lacking:
        raise Lack(f"{version}: {lacking}")
    return f"{version}, its programs are captured"


def program() -> str:
    """A program of one kernel, compiled and compared."""
    loaded.start()
    sample = micro("doctor", called("neg"), ((8,), "float32"))
    ((run, _),) = made([sample])
    (given,) = sample.inputs()
    (found,) = run.run([loaded.of_numpy(given)]) or [given]
    if not np.array_equal(loaded.to_numpy(found), -given):
        raise Lack("a kernel gave something else than NumPy: please report this")
    return "compiled, run, and equal to NumPy's"


def cache() -> str:
    """The folder of what was compiled."""
    return f"{cache_folder()}, {cached.size() / 1e6:.0f} MB"


def model() -> str:
    """The cost model's figures."""
    machine = costs.this_machine()
    if not machine.measured:
        return "a common server's figures; --calibrate measures this machine's"
    far = 1e-9 / machine.read.seconds[-1]
    return f"measured here: {len(machine.work)} costs, memory read at {far:.0f} GB/s"


def gpus() -> str:
    """CUDA devices, which exported programs run on."""
    native = native_module()
    try:
        native.open_cuda(loaded.DRIVER)
        arch = native.cuda_arch(0)
    except (RuntimeError, ValueError) as error:  # no driver, no device
        return f"none ({str(error).splitlines()[0]})"
    there = ["NVRTC"] * nvrtc.available() + loaded.libraries_on(0, LIBRARIES)
    return f"{arch}, with {', '.join(there) or 'no libraries'}"


CHECKS: dict[str, Callable[[], str]] = {
    "python": python,
    "native runtime": built,
    "C compiler": c_compiler,
    "Paddle": paddle,
    "program": program,
    "cache": cache,
    "cost model": model,
    "CUDA": gpus,
}


def lines() -> Iterator[tuple[bool, str]]:
    """Each check: whether all is well, and what it says."""
    for name, check in CHECKS.items():
        try:
            yield True, f"{name}: {check()}"
        except (Lack, PirolError, ImportError, OSError) as error:
            yield False, f"{name}: {error}"


def examine(calibrated: bool = False) -> int:
    """Print all checks, after a calibration if asked; 1 where something is missing."""
    if calibrated:
        costs.keep(calibrate())
    whole = True
    for well, line in lines():
        print(f"{'ok  ' if well else 'LACK'} {line}")
        whole &= well
    return 0 if whole else 1
