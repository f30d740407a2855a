"""Every kernel compiles for every architecture; none spills, or takes more registers.

The table of registers is data/registers.txt; --update-golden writes it anew. It holds
for one version of NVRTC; with another one, kernels may take some more.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from graph_runs import cuda_text, steps_of
from graphs import rolled
from half_data import TURNS, shares
from planted import text
from test_cuda import CASES, make, nest_of

from pirol.compiler.autodiff import without_stops
from pirol.compiler.ir import HALVES, Graph, TensorType
from pirol.kernels import cuda, nvrtc, sorting
from pirol.kernels.kernel import Kernel
from pirol.passes.halves import halves
from pirol.prim import Builder
from pirol.prim.decomp import norms

if not nvrtc.available():
    pytest.skip("cuda-bindings or NVRTC is not installed", allow_module_level=True)
ARCHES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
TABLE = Path(__file__).parent / "data" / "registers.txt"
ELSEWHERE = 8  # registers more, with another version of NVRTC
RANDOM, APART = 210, 7  # graphs of test_kernels_many.py, of which each has one arch
# What ptxas spills on an architecture, in bytes, and why that is left so.
SPILLS: Mapping[tuple[str, str], int] = {
    ("double", "sm_90"): 16,  # by choice, as below
    ("double", "sm_100"): 24,
}
RANDOM_SPILLS = {("g63_1", "sm_75"): 48}  # two polygamma and i0e of float64
SORT_SPILLS = 36  # where three or four blocks are to be resident
# Of its own accord it spills a few bytes to stay at what more blocks have room for.
ROOMY, LITTLE = (32, 40, 48), 64


def made(b: Builder, result: Any) -> Graph:
    """A graph as lowering has it."""
    return halves(without_stops(b.graph("f", [result])))


def softmax(dtype: str, width: int) -> Graph:
    b = Builder()
    x = b.input(TensorType((512, width), dtype))
    return made(b, norms.softmax(b, x, axis=-1))


def layer_norm(dtype: str, width: int) -> Graph:
    b = Builder()
    x = b.input(TensorType((512, width), dtype))
    scale, bias = (b.input(TensorType((width,), dtype)) for _ in range(2))
    found = norms.layer_norm(b, x, scale, bias, epsilon=1e-5, begin_norm_axis=1)
    return made(b, found[0])


def at_places(name: str) -> Graph:
    """Rows are added up, or put, at places that data name."""
    b = Builder()
    x = b.input(TensorType((300, 64), "float32"))
    place = b.input(TensorType((300, 64), "int64"))
    if name == "scatter_add":
        found = b.scatter_add(x, place, shape=(900, 64), dims=(-1, 1))
    else:
        onto = b.input(TensorType((900, 64), "float32"))
        found = b.put(onto, x, place, dims=(-1, 1))
    return made(b, found)


GRAPHS: dict[str, Graph] = {
    **CASES,
    **{f"turned: {name}": halves(graph) for name, graph in TURNS.items()},
    **{f"softmax {d} {n}": softmax(d, n) for d in HALVES for n in (64, 1024, 6000)},
    **{f"layer_norm {d}": layer_norm(d, 1024) for d in ("float32", *HALVES)},
    **{name: at_places(name) for name in ("scatter_add", "put")},
    "shares": shares("float32"),
    "double": make(lambda b, x: b.exp(b.cast(x, dtype="float64")), (500, 64)),
}


SORTS = {
    f"{name.split('_')[1]} {size}": name
    for size in sorting.ITEMS
    for name in sorting.names(size)
}


def kernels() -> dict[str, Kernel]:
    """The kernels of all graphs, by names that stay; each is one."""
    found = {}
    for k, (name, graph) in enumerate(GRAPHS.items()):
        nest = replace(nest_of(graph), name=f"golden_{k}")
        found[name] = cuda.schedule(nest)
    return found


@dataclass(frozen=True)
class Use:
    """What a thread of a kernel takes."""

    registers: int
    spilled: int  # bytes


def used(log: str) -> dict[str, Use]:
    """What ptxas says of each kernel."""
    entry = r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers"
    found = re.findall(entry, log, re.DOTALL)
    return {name: Use(int(used), int(spilled)) for name, spilled, used in found}


@functools.cache
def measured(arch: str) -> dict[str, Use]:
    """What the kernels take on an architecture."""
    named = kernels()
    whole = cuda_text([*named.values()]) + sorting.text([*sorting.ITEMS])
    cubin = nvrtc.compile_cubin(whole, arch=arch)
    assert cubin.image[:4] == b"\x7fELF" and cubin.arch == arch
    found = used(cubin.log)
    names = {name: kernel.name for name, kernel in named.items()} | SORTS
    return {name: found[own] for name, own in names.items()}


def table(columns: Mapping[str, Mapping[str, Use]]) -> str:
    """The registers by kernel and architecture, as the file has them."""
    lines = [f"registers of a thread, NVRTC {nvrtc.version()}"]
    lines.append(f"{'kernel':28}" + "".join(f"{a:>7}" for a in columns))
    for name in (*GRAPHS, *SORTS):
        cells = "".join(f"{c[name].registers:>7}" for c in columns.values())
        lines.append(f"{name:28}{cells}")
    return "\n".join(lines) + "\n"


def golden() -> tuple[str, dict[tuple[str, str], int]]:
    """The version of NVRTC, and the registers of a kernel on an architecture."""
    first, head, *lines = TABLE.read_text().splitlines()
    arches = head.split()[1:]
    found = {}
    for line in lines:
        for arch, cell in zip(arches, line[28:].split()):
            found[line[:28].strip(), arch] = int(cell)
    return first.rpartition(" ")[2], found


def regressions(arch: str, found: Mapping[str, Use]) -> list[str]:
    """What takes more than the table says."""
    version, most = golden()
    more = 0 if version == nvrtc.version() else ELSEWHERE
    wrong = []
    for name, use in found.items():
        few = SORT_SPILLS if name in SORTS else 0
        if use.spilled > SPILLS.get((name, arch), few):
            wrong.append(f"{name} spills {use.spilled} bytes on {arch}")
        limit = most.get((name, arch), -1)
        if use.registers > limit + more:
            wrong.append(f"{name} on {arch}: {use.registers} registers, not {limit}")
    return wrong


def full(arches: Iterable[str]) -> list[Any]:
    """Parameters, of which sm_90 alone is quick."""
    return [pytest.param(a, marks=[pytest.mark.full] * (a != "sm_90")) for a in arches]


@pytest.mark.parametrize("arch", full(ARCHES))
def test_no_kernel_spills_or_takes_more_registers(arch: str, request: Any) -> None:
    if request.config.getoption("--update-golden"):
        TABLE.write_text(table({a: measured(a) for a in ARCHES}))
    assert not regressions(arch, measured(arch))


def test_a_spill_and_more_registers_are_told() -> None:
    """As where a kernel holds more than there are registers for."""
    name = "softmax float16 6000"
    (step,) = steps_of(GRAPHS[name])
    narrow = text(r"__launch_bounds__\(256, 4\)", "__launch_bounds__(1024, 2)")
    cubin = nvrtc.compile_cubin(narrow(cuda_text([step.cuda])))
    (use,) = used(cubin.log).values()
    assert use.spilled
    (wrong,) = regressions("sm_90", {name: use})
    assert "spills" in wrong
    (wrong,) = regressions("sm_90", {name: Use(200, 0)})
    assert "200 registers, not" in wrong


@pytest.mark.full
@pytest.mark.parametrize("turn", range(APART))
def test_kernels_of_random_graphs_compile_without_spills(turn: int) -> None:
    arch, steps = ARCHES[turn], []
    for number in range(turn, RANDOM, APART):
        steps += steps_of(halves(rolled(0, number).graph), f"g{number}_")
    found = used(nvrtc.compile_cubin(cuda_text([s.cuda for s in steps]), arch=arch).log)
    assert len(found) == len(steps)
    for name, use in found.items():
        few = LITTLE if use.registers in ROOMY else 0
        few = RANDOM_SPILLS.get((name, arch), few)
        assert use.spilled <= few, f"{name} on {arch}: {use}"
