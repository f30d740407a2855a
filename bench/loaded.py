"""What a call of an exported program costs: until it returns, and until it is done.

    python -m pirol bench loaded chain.pirol --export 100
    python -m pirol bench loaded chain.pirol --device cuda

The first writes a chain of that many small kernels, the second times a file, of any
program: without Paddle, and on CUDA with its launches made one by one and replayed as
graphs. Inputs are ones; every size that the program leaves open is --size.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import pirol
from pirol.compiler import _native, archive, dims


def write_chain(path: str, kernels: int) -> None:
    """Export a chain of softmaxes and running sums, which do not fuse."""
    import paddle

    from pirol.bench.graphnet_folder import run_file

    step = "    x = paddle.cumsum(paddle.nn.functional.softmax(x, axis=1), 0)\n"
    text = f"import paddle\n\ndef chain(x):\n{step * (kernels // 2)}    return x\n"
    with tempfile.TemporaryDirectory() as folder, paddle.no_grad():
        source = Path(folder) / "chain.py"
        source.write_text(text)
        spec = [paddle.static.InputSpec([None, None])]
        chain = pirol.to_static(run_file(source).chain, input_spec=spec, strict=True)
        chain(paddle.ones([4, 4]))
        pirol.export(chain, path)


def inputs(path: str, size: int, device: int) -> list[Any]:
    """Ones for the inputs of the program in a file, on a CUDA device (-1: the CPU)."""
    program, found = archive.read(path), []
    for value, source in zip(program.graph.inputs, program.sources):
        if source.weight:
            continue
        shape = value.type.shape
        sizes = dict.fromkeys(dims.symbols_of(*shape), size)
        extents = [dims.evaluate(d, sizes) for d in shape]
        array = _native.Array(np.ones(extents, value.type.dtype))
        found.append(array.to(device))
    return found


def leaf(found: Any) -> Any:
    """The first tensor of nested outputs."""
    while isinstance(found, (list, tuple, dict)):
        found = next(iter(found.values() if isinstance(found, dict) else found))
    return found


def times(run: Any, given: Sequence[Any], calls: int) -> tuple[float, float]:
    """Microseconds a call, until it returned and until its results are there."""
    leaf(run(*given)).to(-1)
    start = time.perf_counter()
    for _ in range(calls):
        found = run(*given)
    returned = time.perf_counter()
    leaf(found).to(-1)
    done = time.perf_counter()
    return 1e6 * (returned - start) / calls, 1e6 * (done - start) / calls


def main(arguments: Sequence[str] | None = None) -> int:
    """Time, and print microseconds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("file", help="what pirol.export wrote")
    add("--export", type=int, metavar="N", help="write a chain of N kernels to it")
    add("--device", default="cpu", help="cpu, cuda or cuda:1 (%(default)s)")
    add("--size", type=int, default=32, help="of what is open (%(default)s)")
    add("--rounds", type=int, default=30, help="(%(default)s)")
    add("--calls", type=int, default=10, help="calls a round (%(default)s)")
    chosen = parser.parse_args(arguments)
    if chosen.export:
        write_chain(chosen.file, chosen.export)
        return 0
    for graphs in (False, True) if chosen.device != "cpu" else (False,):
        run = pirol.load(chosen.file, chosen.device, graphs=graphs)
        given = inputs(chosen.file, chosen.size, run.device)
        found = [times(run, given, chosen.calls) for _ in range(chosen.rounds)]
        returned, done = map(median, zip(*found))
        what = f"{chosen.device}, {'graphs' if graphs else 'launches'}"
        print(f"{what}: {returned:.1f} us until it returns, {done:.1f} us until done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
