"""A side in a process of its own, for derivatives.py.

Run as a file (`python derivatives_worker.py torch|jax|paddle|pirol THREADS`); the first
two by an interpreter that need not have Pirol. Requests and answers are lines of JSON,
as worker.py has them:

    {"do": "load", "name", "small"}  -> {"output": [loss, gradients' elements ..]}
    {"do": "round", "seconds"}       -> {"seconds"}, a step's
    {"do": "memory"}                 -> {"mb"}, the most that was resident since the
                                        load, beyond what was before it; else null
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Step = Callable[[], tuple[Any, Sequence[Any]]]  # the loss, and its gradients


def module(name: str) -> Any:
    """A module beside this file; its folder is no place of modules."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"pirol_{name}", path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def torch_step(name: str, drawn: Any) -> Step:
    """Eager PyTorch."""
    import torch

    class Torch:
        """What the losses call of PyTorch."""

        swap = (1, 2)
        matmul, sum, mean = torch.matmul, torch.sum, torch.mean
        tanh, exp, cos, sqrt = torch.tanh, torch.exp, torch.cos, torch.sqrt
        softplus, silu = torch.nn.functional.softplus, torch.nn.functional.silu

        @staticmethod
        def grad(y: Any, x: Any) -> Any:
            return torch.autograd.grad(y, x, create_graph=True)[0]

        @staticmethod
        def concat(parts: Sequence[Any]) -> Any:
            return torch.cat(list(parts), dim=-1)

        @staticmethod
        def rows(table: Any, places: Any) -> Any:
            return table[places]

    loss = module("derivatives_eager").LOSSES[name]
    parameters = [torch.tensor(a, requires_grad=True) for a in drawn.parameters]
    inputs = [torch.tensor(a) for a in drawn.inputs]
    for k in drawn.moving:
        inputs[k].requires_grad_()

    def step() -> tuple[Any, Sequence[Any]]:
        found = loss(Torch, parameters, inputs)
        grads = torch.autograd.grad(found, parameters, allow_unused=True)
        missing = zip(grads, parameters)
        return found, [torch.zeros_like(p) if g is None else g for g, p in missing]

    return step


def jax_step(name: str, drawn: Any) -> Step:
    """jax.jit of the loss and its gradients."""
    import jax

    loss = module("derivatives_jax").LOSSES[name]
    parameters, inputs = (
        [jax.device_put(a) for a in arrays]
        for arrays in (drawn.parameters, drawn.inputs)
    )
    run = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(run(parameters, inputs))


def paddle_step(name: str, drawn: Any, compiled: bool = False) -> Step:
    """Eager Paddle, or Pirol."""
    import pirol
    from pirol.bench.derivatives_paddle import Loss, results, tensors

    layer, inputs = Loss(name, drawn), tensors(drawn)
    layer = pirol.to_static(layer, strict=True) if compiled else layer

    def step() -> tuple[Any, Sequence[Any]]:
        loss, *grads = results(layer, inputs)
        return loss, grads

    return step


STEPS: dict[str, Callable[[str, Any], Step]] = {
    "torch": torch_step,
    "jax": jax_step,
    "paddle": paddle_step,
    "pirol": partial(paddle_step, compiled=True),
}


def resident(what: str) -> int:
    """Bytes, by a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{what}:"))
    return int(line.split()[1]) << 10


def version(peer: str, threads: int) -> str:
    """The peer's, which is held to so many threads."""
    found = importlib.import_module(peer)
    if peer == "torch":
        found.set_num_threads(threads)
    if peer in ("paddle", "pirol"):
        importlib.import_module("pirol.bench.derivatives_paddle")
    return str(found.__version__)


def main() -> None:
    """Answer requests until there are no more."""
    peer, threads = sys.argv[1], int(sys.argv[2])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    sys.path = [p for p in sys.path if p != str(Path(__file__).parent)]
    try:
        print(json.dumps({"version": version(peer, threads)}), flush=True)
    except ImportError as error:
        print(json.dumps({"absent": str(error)}), flush=True)
        return
    step: Step | None = None
    before = None
    worker = module("worker")
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            if request["do"] == "load":
                name = request["name"]
                drawn = module("derivatives_eager").draw(name, request["small"])
                before = measured_from_here()
                step = STEPS[peer](name, drawn)
                answer = {"output": elements(*step())}
            elif request["do"] == "memory":
                assert step is not None, "memory before any load"
                for _ in range(3):
                    step()
                more = None if before is None else resident("VmHWM") - before
                answer = {"mb": None if more is None else more / 2**20}
            else:
                assert step is not None, "a round before any load"
                answer = worker.measure(step, request["seconds"])
                worker.wait_until_quiet()
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def measured_from_here() -> int | None:
    """The bytes that are resident, from which on the most is counted anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return resident("VmRSS")
    except OSError:
        return None


def elements(loss: Any, grads: Sequence[Any]) -> list[float]:
    """The loss and all elements of the gradients."""
    arrays = [np.asarray(getattr(x, "detach", lambda x=x: x)()) for x in (loss, *grads)]
    return [float(x) for array in arrays for x in array.ravel()]


if __name__ == "__main__":
    main()
