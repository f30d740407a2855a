"""Faults put on purpose into gathers, scans, windows, turns and one-byte numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_case import Case, Size, fixed, shape_of, special_ints
from graph_meaning import Array, Sizes
from graph_sketch import Sketch
from planted import (
    WRONG,
    Fault,
    both,
    check_found,
    expression,
    negative,
    nodes,
    text,
    unguarded,
)

from pirol.kernels.kernel import Num
from pirol.kernels.nest import Const, Scalar

# Programs ---------------------------------------------------------------------------


def gathered() -> Case:
    """Rows by their numbers."""
    s = Sketch()
    n, five = shape_of("n", 5)
    rows = s.broadcast(s.input([n], "int64"), [n, five], (0,))
    return s.case([s.gather(s.input([n, five], "int32"), [rows], [n, five], (-1, 1))])


def put_over() -> Case:
    """Rows over others, by their numbers."""
    s = Sketch()
    n, five = shape_of("n", 5)
    rows = s.broadcast(s.input([n], "int64"), [n, five], (0,))
    x, part = (s.input([n, five], "int32") for _ in range(2))
    return s.case([s.put(x, part, [rows], (-1, 1))])


def scanned(*shape: int | str, axis: int) -> Callable[[], Case]:
    def make() -> Case:
        s = Sketch()
        return s.case([s.cumsum(s.input(shape_of(*shape), "int32"), axis)])

    return make


def reversed_line() -> Case:
    s = Sketch()
    return s.case([s.reverse(s.input(shape_of("n"), "int32"), (0,))])


def reduced(name: str) -> Callable[[], Case]:
    def make() -> Case:
        s = Sketch()
        return s.case([s.reduce(name, s.input(shape_of("n", 6), "float32"), (1,))])

    return make


AROUND = ((3,), (2,), ((1, 1),), (1,))  # window, strides, padding, dilation


def summed() -> Case:
    s = Sketch()
    return s.case([s.window_sum(s.input(shape_of("n"), "int32"), *AROUND)])


def summed_ones() -> Case:
    s = Sketch()
    x = s.input(shape_of("n"), "int32")
    return s.case([s.window_sum(s.const(1, x.sizes, "int32"), *AROUND)])


def turned_back() -> Case:
    """Read in order; blocks are turned where they are written."""
    s = Sketch()
    return s.case([s.transpose(s.input(shape_of("n", 40), "float32"), (1, 0))])


def turned() -> Case:
    """Written in order, as most is read; blocks of the other input are turned."""
    s = Sketch()
    y = s.transpose(s.input(shape_of("n", 40), "float32"), (1, 0))
    return s.case([s.apply("add", y, s.input(shape_of(40, "n"), "float32"))])


def wrapped() -> Case:
    s = Sketch()
    x = s.input(shape_of("n"), "int8")
    return s.case([s.apply("lt", s.apply("add", x, x), x)])


def cast(source: str, to: str) -> Callable[[], Case]:
    def make() -> Case:
        s = Sketch()
        return s.case([s.cast(s.input(shape_of("n"), source), to)])

    return make


# Data -------------------------------------------------------------------------------


def nearby(case: Case, sizes: Sizes) -> list[Array]:
    """Indices at most 2 outside, so that a kernel without clamps reads its margins."""
    found = case.arrays(sizes, seed=3, special=False)
    return [np.arange(sizes["n"]) * 5 % (sizes["n"] + 4) - 2, *found[1:]]


def plain(case: Case, sizes: Sizes) -> list[Array]:
    return case.arrays(sizes, seed=3, special=False)


def extremes(case: Case, sizes: Sizes) -> list[Array]:
    """The ends of the range among others."""
    (item,) = case.inputs
    return [np.resize(special_ints(item.dtype), sizes["n"])]


def positive(case: Case, sizes: Sizes) -> list[Array]:
    """So that 0 is smaller than all."""
    return [-x for x in negative(case, sizes)]


# Faults -----------------------------------------------------------------------------


def without_prim(name: str) -> Callable[[Any], Any]:
    """A primitive of two operands gives the first."""

    def run(node: Any) -> Any:
        if getattr(node, "prim", "") != name:
            return node
        first = node.args[1] if name == "select" else node.args[0]
        return Scalar("or", (first, first), node.dtype)

    return run


def one_further(node: Any) -> Any:
    """The last index n - 1 taken for n."""
    size: Size = shape_of("n")[0]
    if isinstance(node, Const) and node.value == (size - fixed(1)).dim:
        return replace(node, value=size.dim)
    return node


# A margin's poison in a result looks unwritten; other rows, other garbage.
FOUND = f"{WRONG}|not fully written|other bits"
SHARED_SCAN = both(
    text(r"(  for \(int64_t tile)", r"  int acc1[256] = {0};\n\1", 1),
    text(r"\n    int acc1\[256\];", ""),
    text(r"acc1\[[^]]*\] = \(\(int\)0\);", ";"),
)

C_FAULTS = [
    Fault(
        "an index not held below the size",
        gathered,
        nodes(without_prim("min")),
        FOUND,
        "nest",
        data=nearby,
    ),
    Fault(
        "an index not held above 0",
        gathered,
        nodes(without_prim("max")),
        FOUND,
        "nest",
        data=nearby,
    ),
    Fault(
        "an index held below one more",
        gathered,
        nodes(one_further),
        FOUND,
        "nest",
        data=nearby,
    ),
    Fault(
        "gathered along another axis",
        gathered,
        text(r"in1\[v(\d+) \* 5 \+ i1\]", r"in1[v\1 + i1 * 5]"),
        FOUND,
        data=nearby,
    ),
    Fault(
        "put one place further",
        put_over,
        nodes(one_further),
        "writes outside its buffers",
        "nest",
        data=nearby,
    ),
    Fault(
        "put over what lies elsewhere",
        put_over,
        text(r"= in1\[i1 \+ z0 \* 5\]", "= in1[i1]"),
        FOUND,
        data=nearby,
    ),
    Fault(
        "a scan that goes on from other rows",
        scanned("n", 40, axis=1),
        SHARED_SCAN,
        FOUND,
        n=600,
    ),
    Fault(
        "a scan without its own element",
        scanned("n", 40, axis=1),
        text(r"\] = v1;", "] = v1 - v0;"),
        FOUND,
    ),
    Fault(
        "a scan along another axis",
        scanned(3, "n", axis=0),
        text(r"in0\[i0 \* d0 \+ i1\]", "in0[i0 + i1 * 3]"),
        FOUND,
    ),
    Fault(
        "reversed and one off",
        reversed_line,
        text(r"in0\[i0 \* -1 \+ d0\]", "in0[i0 * -1 + d0 - 1]"),
        FOUND,
    ),
    Fault(
        "a product from 0",
        reduced("reduce_prod"),
        expression(Num(1, "float32"), Num(0, "float32")),
        FOUND,
        "kernel",
        data=plain,
    ),
    Fault(
        "min starts from 0",
        reduced("reduce_min"),
        expression(Num(float("inf"), "float32"), Num(0.0, "float32")),
        FOUND,
        "kernel",
        data=positive,
    ),
    Fault(
        "the padding of a window added",
        summed,
        nodes(unguarded),
        FOUND,
        "nest",
    ),
    Fault(
        "a window one past the end",
        summed,
        text(r"\(v0 < v(\d+)\)", r"(v0 <= v\1)"),
        FOUND,
    ),
    Fault("a window's stride lost", summed, text(r"i0 \* 2", "i0"), FOUND),
    Fault(
        "constants in the padding",
        summed_ones,
        nodes(without_prim("select")),
        FOUND,
        "nest",
    ),
    Fault(
        "blocks turned with another stride",
        turned,
        text(r", 40, pr_least", ", 39, pr_least"),
        FOUND,
        n=130,
    ),
    Fault(
        "the last column of a block not turned",
        turned,
        text(r"wide \* -1 \+ d0", "wide * -1 + d0 - 1"),
        FOUND,
        n=130,
    ),
    Fault(
        "the last row of a block not turned",
        turned,
        both(
            text(r"(float t0\[1024\];)", r"\1 t0[7 * 64] = 7;"),
            text("16 \\+ 40, 16", "16 + 39, 16"),
        ),
        FOUND,
        n=130,
    ),
    Fault(
        "a block read with its sides exchanged",
        turned,
        text(r"high \* -1024 \+ i0 \* 64 \+ i1", "high * -256 + i0 * 16 + i1"),
        FOUND,
        n=130,
    ),
    Fault(
        "blocks of rows that overlap",
        turned,
        text(r"in0 \+ high \* 16", "in0 + high * 8"),
        FOUND,
        n=130,
    ),
    Fault(
        "blocks turned back with another stride",
        turned_back,
        text(r", d0, o0", ", d0 - 1, o0"),
        FOUND,
        n=130,
    ),
    Fault(
        "the last column of a block not turned back",
        turned_back,
        text(r"64 \+ d0, 64", "64 + d0 - 1, 64"),
        FOUND,
        n=130,
    ),
    Fault(
        "the rows of a block to be turned back overlap",
        turned_back,
        text(r"high \* -4096 \+ i0 \+ i1 \* 64", "high * -2048 + i0 + i1 * 32"),
        FOUND,
        n=130,
    ),
    Fault(
        "int8 kept as int",
        wrapped,
        text(r"const signed char v1 = .*;", "const int v1 = v0 + v0;"),
        FOUND,
        n=60,
        data=extremes,
    ),
    Fault(
        "uint8 read with a sign",
        cast("uint8", "float32"),
        text(r"const unsigned char", "const signed char"),
        FOUND,
        n=60,
    ),
    Fault(
        "a bool that holds 2",
        cast("int32", "bool"),
        text(r"\(v0 != 0\)", "v0"),
        FOUND,
        n=60,
    ),
]

CUDA_FAULTS = [
    Fault(
        "an index not held above 0",
        gathered,
        nodes(without_prim("max")),
        "out-of-bounds",
        "nest",
        data=nearby,
    ),
    Fault(
        "reversed and one off",
        reversed_line,
        text(r"i0 \* -1 \+ d1\]", "i0 * -1 + d1 - 1]"),
        "out-of-bounds",
    ),
    Fault(
        "a scan without its own element",
        scanned("n", 40, axis=1),
        text(r"\] = v1;", "] = v1 - v0;"),
        WRONG,
    ),
    Fault(
        "the padding of a window added",
        summed,
        nodes(unguarded),
        "out-of-bounds",
        "nest",
    ),
    Fault(
        "int8 kept as int",
        wrapped,
        text(r"const signed char v1 = \(\(signed char\)(.*)\);", r"const int v1 = \1;"),
        WRONG,
        n=60,
        data=extremes,
    ),
]


@pytest.mark.parametrize("fault", C_FAULTS, ids=lambda f: f.what)
def test_c_faults_are_found(fault: Fault) -> None:
    check_found(fault, "c")


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")
@pytest.mark.parametrize("fault", CUDA_FAULTS, ids=lambda f: f.what)
def test_cuda_faults_are_found(fault: Fault) -> None:
    check_found(fault, "cuda")
