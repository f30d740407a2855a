"""Products of bfloat16: kernels that keep them as halves, against wider sums."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_case import Case, fixed
from graph_runs import c_text, launch_c, run_c, run_cuda, steps_of
from graph_sketch import Sketch
from planted import WRONG, Edit, Fault, check_found, text
from test_contractions import address_of, plain

from pirol.kernels.build import build, load
from pirol.kernels.kernel import Pairs, Turn
from pirol.passes.canonicalize import canonicalize
from pirol.passes.halves import halves
from pirol.passes.rows import rows

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not has_compiler(), reason="no C compiler"),
]
HALF = "bfloat16"


def lowered(case: Case) -> Case:
    """As before fusion."""
    return replace(case, graph=canonicalize(halves(case.graph)))


def product(
    x: Any, y: Any, batch: Any, summed: Any, how: str = "", kinds: Any = (HALF, HALF)
) -> Case:
    """A product of two inputs as halves, and what a kernel does with each tile."""
    s = Sketch()
    given = [s.input([fixed(n) for n in shape], k) for shape, k in zip((x, y), kinds)]
    z = s.dot(*(s.cast(v, HALF) for v in given), batch, summed)
    if how == "turned":
        return lowered(s.case([s.transpose(z, (1, 0))]))
    bias = s.broadcast(s.input(z.sizes[-1:], HALF), z.sizes, (z.rank - 1,))
    return lowered(s.case([s.apply("add", z, bias)]))


# Shapes, pairs of batch and of summed dims; how the panel is made.
PRODUCTS: dict[str, tuple[Any, ...]] = {
    "plain": (((140, 300), (300, 150), [], [(1, 0)]), Pairs),
    "odd": (((67, 77), (77, 70), [], [(1, 0)]), Pairs),
    "columns turned": (((140, 30), (150, 30), [], [(1, 1)]), Turn),
    "columns turned, odd": (((140, 31), (150, 31), [], [(1, 1)]), Pairs),
    "batch": (((3, 20, 30), (3, 30, 70), [(0, 0)], [(2, 1)]), Pairs),
    "batch, turned": (((3, 20, 30), (3, 70, 30), [(0, 0)], [(2, 2)]), Turn),
    "batch within": (((20, 3, 30), (70, 30, 3), [(1, 2)], [(2, 1)]), Pairs),
    "two sums": (((7, 6, 5), (6, 9, 5), [], [(1, 0), (2, 2)]), Pairs),
    "a result that is turned": (((140, 30), (30, 150), [], [(1, 0)], "turned"), Pairs),
}


def check(case: Case, address: int, what: str) -> None:
    """What the kernel at an address gives, of numbers plain and special."""
    (step,) = steps_of(case.graph)
    for seed in range(2):
        arrays = case.arrays({}, seed, special=seed == 1)
        given = [arrays[case.graph.inputs.index(v)] for v in step.inputs]
        rng = np.random.default_rng(seed)
        case.check({}, arrays, launch_c(address, step.cpu, given, {}, rng), what)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    given, way = PRODUCTS[name]
    case = product(*given)
    (step,) = steps_of(case.graph)
    assert step.cpu.dots == {HALF} and step.cpu.has(way)
    check(case, address_of(step.cpu), name)
    arrays = case.arrays({}, 0)
    case.check({}, arrays, run_cuda(case.graph, arrays), name)


def test_weights_are_rounded_where_they_are_packed() -> None:
    """The second operand, that all of a batch have; the first, which would be rounded
    for each panel, by a kernel of its own."""
    case = product((3, 70, 40), (40, 70), [], [(2, 0)], kinds=(HALF, "float32"))
    (step,) = steps_of(case.graph)
    assert step.cpu.dots == {HALF}
    check(case, address_of(step.cpu), "weights")
    case = product((70, 40), (40, 70), [], [(1, 0)], kinds=("float32", HALF))
    assert len(steps_of(case.graph)) == 2


@pytest.mark.parametrize("kinds", [("float32", HALF), (HALF, "float32")], ids=str)
def test_one_half(kinds: Any) -> None:
    """Beside float32: the first is widened where it is packed, the second before."""
    s = Sketch()
    x, y = (
        s.cast(s.input([fixed(n) for n in shape], kind), "float32")
        for shape, kind in zip(((67, 77), (77, 70)), kinds)
    )
    case = lowered(s.case([s.dot(x, y, [], [(1, 0)])]))
    *before, step = steps_of(case.graph)
    assert step.cpu.dots == {"float32"} and len(before) == (kinds[1] == HALF)
    for seed in range(2):
        arrays = case.arrays({}, seed, special=seed == 1)
        case.check({}, arrays, run_c(case.graph, arrays), str(kinds))


@pytest.mark.parametrize("turned", [True, False])
def test_rows_whose_terms_lie_apart(turned: bool) -> None:
    """Of many columns: a transposed copy of the halves; else widened once, since they
    would be gathered for each panel."""
    case = product((40, 70), (40, 80), [], [(0, 0)])
    graph = rows(case.graph) if turned else case.graph
    steps = steps_of(graph)
    assert [k.cpu.dots for k in steps[:-1]] == [set()] * (1 if turned else 2)
    assert steps[-1].cpu.dots == {HALF if turned else "float32"}
    for seed in range(2):
        arrays = case.arrays({}, seed, special=seed == 1)
        case.check({}, arrays, run_c(graph, arrays), "turned")
    few = product((40, 70), (40, 8), [], [(0, 0)])
    assert "transpose" not in [op.name for op in rows(few.graph).ops]


def test_float16_is_widened_once() -> None:
    """There is no instruction for it, and its widening is no cheap one."""
    s = Sketch()
    x, y = (s.input([fixed(n) for n in shape], "float16") for shape in ((9, 7), (7, 5)))
    case = lowered(s.case([s.dot(x, y, [], [(1, 0)]), s.dot(x, y, [], [(1, 0)])]))
    assert [len(k.cpu.dots) for k in steps_of(case.graph)].count(0) == 2


def without(macros: str) -> Edit:
    """The kernel's text as of a compiler that does not define these."""
    undone = "".join(f"#undef {m}\n" for m in macros.split())
    return text('(#include "pirol_dot_bf16.h")', undone + r"\1")


@pytest.mark.parametrize("macros", ["", "__AVX512F__", "__AVX512F__ __AVX__"])
def test_without_such_instructions(macros: str) -> None:
    """The same by ordinary ones, of fewer lanes too."""
    case = product(*PRODUCTS["odd"][0])
    (step,) = steps_of(case.graph)
    source = without(f"__AVX512BF16__ {macros}")(c_text([step.cpu]))
    address = load(str(build([source])[0]), step.cpu.name)
    check(case, address, macros)


def planted(what: str, name: str, old: str, new: str, finding: str = WRONG) -> Fault:
    """A fault in a kernel's text."""
    return Fault(
        what, lambda: product(*PRODUCTS[name][0]), text(old, new), finding, data=plain
    )


FAULTS = (
    planted("the last term is lost", "odd", r"(pr_dot_bf16\(.*), 77\)", r"\1, 76)"),
    planted("a pair is lost", "plain", r"(pr_pairs_of\(.*), 300\)", r"\1, 298)"),
    planted("a line is one off", "odd", r"(pr_pairs_of\(.*), 70, ", r"\1, 69, "),
    planted("pairs are one off", "columns turned", r"(pr_turn_4.*), 15, ", r"\1, 14, "),
    planted("a row is one off", "odd", r"(in\d \+ high_first) \* 77", r"\1 * 76"),
)


@pytest.mark.full
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.what)
def test_faults_are_found(fault: Fault) -> None:
    check_found(fault, "c")
