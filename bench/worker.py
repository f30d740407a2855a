"""One peer in a process of its own: compiles workloads and times them when asked.

Run as a file (`python worker.py PEER THREADS`) by an interpreter that need not have
Pirol. The driver writes one JSON request a line to stdin and reads one JSON answer:

    (at start)                           -> {"version": "..."} or {"absent": "why"}
    {"do": "load", "workload", "folder"} -> {"output": "FOLDER/PEER.npy"}
        FOLDER has WORKLOAD.py, with the function, and its inputs input0000.npy, ...
    {"do": "round", "seconds"}           -> {"seconds", "calls", "faults", "cores"}

A request that fails is answered with {"error": "..."}.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import linecache
import os
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import numpy as np

Call = Callable[[], Any]
Answer = dict[str, Any]
WARM = 0.005  # seconds of untimed calls at the start of a round
QUIET = 0.02  # seconds over which a quiet process is looked for
MOST = 20000  # calls a round


class Pirol:
    """pirol.to_static; strict, so that what Paddle would run instead is an error."""

    framework = "paddle"

    def __init__(self, threads: int) -> None:
        import paddle

        paddle.set_device("cpu")
        self.paddle = paddle
        self.version = self.open()

    def open(self) -> str:
        import pirol

        return f"{pirol.__version__} on Paddle {self.paddle.__version__}"

    def compile(self, function: Any) -> Any:
        import pirol

        return pirol.to_static(function, strict=True)

    def call(self, function: Any, arrays: list[Any]) -> Call:
        inputs = [self.paddle.to_tensor(a) for a in arrays]
        run = self.compile(function)
        return lambda: run(*inputs)

    def context(self) -> Any:
        return self.paddle.no_grad()


class Paddle(Pirol):
    """Eager Paddle."""

    def open(self) -> str:
        return str(self.paddle.__version__)

    def compile(self, function: Any) -> Any:
        return function


class ToStatic(Paddle):
    """paddle.jit.to_static as Paddle runs it."""

    def compile(self, function: Any) -> Any:
        return self.paddle.jit.to_static(function, full_graph=True, backend=None)


class Torch:
    """torch.compile."""

    framework = "torch"

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.version = str(torch.__version__)

    def call(self, function: Any, arrays: list[Any]) -> Call:
        inputs = [self.torch.from_numpy(a) for a in arrays]
        run = self.torch.compile(function)
        return lambda: run(*inputs)

    def context(self) -> Any:
        return self.torch.inference_mode()


class Jax:
    """jax.jit; a call ends when its result is there."""

    framework = "jax"

    def __init__(self, threads: int) -> None:
        import jax

        self.jax = jax
        self.version = str(jax.__version__)

    def call(self, function: Any, arrays: list[Any]) -> Call:
        wide = any(a.dtype == np.float64 for a in arrays)
        self.jax.config.update("jax_enable_x64", wide)
        inputs = [self.jax.device_put(a) for a in arrays]
        run = self.jax.jit(function)
        return lambda: run(*inputs).block_until_ready()

    def context(self) -> Any:
        return contextlib.nullcontext()


PEERS: dict[str, Callable[[int], Any]] = {
    "pirol": Pirol,
    "torch": Torch,
    "jax": Jax,
    "paddle": Paddle,
    "to_static": ToStatic,
}


def measure(call: Call, seconds: float) -> Answer:
    """One round: the median time of its calls, page faults and busy cores a call."""
    start = time.perf_counter()
    while time.perf_counter() - start < WARM:
        call()
    times: list[float] = []
    kept = call()
    gc.collect()
    gc.disable()
    faults, busy, start = _faults(), time.process_time(), time.perf_counter()
    now = start
    while not times or (now - start < seconds and len(times) < MOST):
        before = time.perf_counter()
        kept = call()
        now = time.perf_counter()
        times.append(now - before)
    busy, faults = time.process_time() - busy, _faults() - faults
    gc.enable()
    del kept
    return {
        "seconds": statistics.median(times),
        "calls": len(times),
        "faults": faults / len(times),
        "cores": busy / (now - start),
    }


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def wait_until_quiet(most: float = 1.0) -> None:
    """Wait for this process's threads to sleep: OpenMP's spin long after their work,
    on the cores that the next peer needs."""
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        busy = time.process_time()
        time.sleep(QUIET)
        if time.process_time() - busy < QUIET / 10:
            return


def load_file(path: Path) -> ModuleType:
    """The file as a module; registered, as what reads sources needs it."""
    spec = importlib.util.spec_from_file_location(f"pirol_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load_function(path: Path, framework: str) -> Callable[..., Any]:
    """The function of a workload's file, on the ops of "numpy", "paddle", ..."""
    linecache.checkcache()
    module = load_file(path)
    ops = load_file(Path(__file__).with_name(f"ops_{framework}.py"))
    for name, op in vars(ops).items():
        if not name.startswith("_"):
            setattr(module, name, op)
    function: Callable[..., Any] = module.workload
    return function


class Session:
    """The requests' state: the peer, and the workload loaded last."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.peer = PEERS[name](threads)
        self.call: Call | None = None

    def answer(self, request: dict[str, Any]) -> Answer:
        match request["do"]:
            case "load":
                return self.load(request["workload"], Path(request["folder"]))
            case "round":
                assert self.call is not None, "a round before any load"
                with self.peer.context():
                    found = measure(self.call, request["seconds"])
                wait_until_quiet()
                return found
            case other:
                raise ValueError(f"request {other!r} is not known")

    def load(self, workload: str, folder: Path) -> Answer:
        """Compile the workload for the folder's inputs; leave its result there."""
        arrays = [np.load(p) for p in sorted(folder.glob("input*.npy"))]
        path = folder / f"{workload}.py"
        function = load_function(path, self.peer.framework)
        with self.peer.context():
            self.call = self.peer.call(function, arrays)
            for _ in range(3):
                result = self.call()
        output = folder / f"{self.name}.npy"
        np.save(output, np.asarray(result))
        wait_until_quiet()
        return {"output": str(output)}


def serve(session: Session, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more."""
    for line in requests:
        try:
            found = session.answer(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=answers, flush=True)


def main() -> None:
    name, threads = sys.argv[1], int(sys.argv[2])
    # Before the frameworks: they size their pools of threads by it.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    # What libraries print on stdout must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path = [p for p in sys.path if p != str(Path(__file__).parent)]
    try:
        session = Session(name, threads)
    except ImportError as error:
        print(json.dumps({"absent": str(error)}), file=answers, flush=True)
        return
    print(json.dumps({"version": session.peer.version}), file=answers, flush=True)
    serve(session, sys.stdin, answers)


if __name__ == "__main__":
    main()
