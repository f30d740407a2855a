"""Faults put into kernels on purpose: the checks of the other tests must find each.

Every fault is an edit of a nest, a kernel or its text; the same kernel without the
edit must pass, so that it is the fault that is found.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cuda_simulator import has_compiler
from graph_case import Case, fixed, named, shape_of
from graph_runs import steps_of
from graph_sketch import Sketch
from planted import (
    WRONG,
    Fault,
    check_found,
    expression,
    large,
    longer,
    negative,
    nodes,
    tenths,
    text,
    unguarded,
    without,
)

from pirol.kernels import affine
from pirol.kernels.kernel import Barrier, Num
from pirol.kernels.nest import Load, Nest, Scalar, interpret_nest

# Programs ---------------------------------------------------------------------------


def rows(name: str) -> Case:
    s = Sketch()
    x = s.input(shape_of("n", 40), "float32")
    return s.case([s.reduce(name, x, (1,))])


def softmax() -> Case:
    s = Sketch()
    x = s.input(shape_of("n", 2048), "float32")
    top = s.broadcast(s.reduce("reduce_max", x, (1,)), x.sizes, (0,))
    return s.case([s.apply("exp", s.apply("sub", x, top))])


def pointwise(name: str) -> Case:
    s = Sketch()
    return s.case([s.apply(name, s.input(shape_of("n"), "float32"))])


def padded() -> Case:
    s = Sketch()
    x = s.input(shape_of("n", 4), "float32")
    ends = shape_of(1, 2)
    return s.case([s.pad(x, ends, ends, (0, 0), -0.0)])


def transposed() -> Case:
    s = Sketch()
    x = s.input(shape_of("n", 5), "float32")
    return s.case([s.apply("neg", s.transpose(x, (1, 0)))])


def turned() -> Case:
    s = Sketch()
    x = s.input(shape_of("n", 150), "float32")
    return s.case([s.apply("neg", s.transpose(x, (1, 0)))])


def pooled() -> Case:
    s = Sketch()
    x = s.input(shape_of("n", 8), "int32")
    given = ((1, 3), (1, 2), ((0, 0), (1, 1)), (1, 1))
    return s.case([s.window_max(x, *given)[1]])


def long_sum() -> Case:
    s = Sketch()
    return s.case([s.reduce("reduce_sum", s.input([named("n")], "float32"), (0,))])


def divided() -> Case:
    s = Sketch()
    counted = s.reshape(s.iota(1, [fixed(3), named("n")], "int32"), [named("n") * 3])
    return s.case([s.apply("add", counted, s.input([named("n") * 3], "int32"))])


# Faults ---------------------------------------------------------------------------

LOWEST = Num(float("-inf"), "float32")
NO_NAN = text(r"pr_(?:max|largest)_f32\((?!float)", "fmaxf(")
ZERO_FIRST = expression(LOWEST, Num(0.0, "float32"))


def wrong_stride(node: Any) -> Any:
    if not isinstance(node, Load):
        return node
    terms = tuple((a, 4 if c == 5 else c) for a, c in node.index.terms)
    return replace(node, index=replace(node.index, terms=terms))


def last_of_ties(node: Any) -> Any:
    return replace(node, prim="le") if getattr(node, "prim", "") == "lt" else node


C_FAULTS = [
    Fault(
        "one element too few",
        lambda: pointwise("neg"),
        longer(-1),
        "not fully written",
        "kernel",
    ),
    Fault(
        "one element too many",
        lambda: pointwise("neg"),
        longer(1),
        "outside its buffers",
        "kernel",
    ),
    Fault(
        "a column too few",
        lambda: rows("reduce_sum"),
        longer(-1),
        WRONG,
        "kernel",
        data=negative,
    ),
    Fault("NaN lost in max", lambda: rows("reduce_max"), text(r"v0 != v0", "0"), WRONG),
    Fault(
        "max starts from 0",
        lambda: rows("reduce_max"),
        ZERO_FIRST,
        WRONG,
        "kernel",
        data=negative,
    ),
    Fault(
        "a float32 total",
        long_sum,
        text(r"\b1024\b", "1073741824"),
        WRONG,
        n=1 << 20,
        data=tenths,
    ),
    Fault("a wrong stride", transposed, nodes(wrong_stride), WRONG, "nest"),
    Fault(
        "the chunk's begin ignored",
        lambda: pointwise("neg"),
        text(r"= begin;", "= 0;"),
        "another chunk's part",
    ),
    Fault(
        "the chunk's end ignored",
        lambda: pointwise("neg"),
        text(r"= end;", "= end < 9 ? end + 1 : end;"),
        "another chunk's part",
    ),
    Fault(
        "other bits at a chunk's end",
        lambda: pointwise("neg"),
        text(r"\(-v0\)", "(i0 + 1 < end ? -v0 : -v0 * 1.0000001f)"),
        "other bits|are wrong",
        n=900,
    ),
    Fault("the sign of zero lost", padded, text(r"\(-0\.0f\)", "0.0f"), WRONG),
    Fault(
        "a coarse exp",
        lambda: pointwise("exp"),
        text(r"\bpr_exp_f32\(v0\)", "exp2f(v0 * 1.44269504f)"),
        WRONG,
        n=300,
        data=large,
    ),
    Fault(
        "the last of equal values",
        pooled,
        text(r"\((v\d+) > (best\d+\[[^]]*\])\)", r"(\1 >= \2)"),
        WRONG,
    ),
]

CUDA_FAULTS = [
    Fault(
        "a column too many",
        lambda: rows("reduce_sum"),
        text(r"first < \(40\)", "first < (41)"),
        "out-of-bounds|are wrong",
    ),
    Fault(
        "a vector beyond the end",
        lambda: pointwise("neg"),
        text(r"4 \+ 4\) <= d0", "4 + 3) <= d0"),
        "out-of-bounds",
        n=99,
    ),
    Fault(
        "a vector beside its place",
        lambda: pointwise("neg"),
        text(r"in0 \+ unit \* 4", "in0 + unit * 4 + 1"),
        "misaligned",
        n=99,
    ),
    Fault("NaN lost in max", lambda: rows("reduce_max"), NO_NAN, WRONG),
    Fault(
        "max starts from 0",
        lambda: rows("reduce_max"),
        ZERO_FIRST,
        WRONG,
        "kernel",
        data=negative,
    ),
    Fault(
        "a tile's barriers left out",
        turned,
        without(Barrier),
        "uninitialised",
        "kernel",
    ),
    Fault(
        "a tile's last barrier left out",
        turned,
        text(r"__syncthreads\(\);(?=\s*\}\s*\}\s*$)", ""),
        "race",
        n=300,
    ),
    Fault("barriers left out", softmax, without(Barrier), "uninitialised", "kernel"),
    Fault(
        "the second barrier left out",
        softmax,
        text(r"__syncthreads\(\);(?=\s*const float v)", ""),
        "race",
    ),
    Fault(
        "the guard of a load left out",
        padded,
        nodes(unguarded),
        "out-of-bounds",
        "nest",
    ),
    Fault("a wrong stride", transposed, nodes(wrong_stride), WRONG, "nest"),
    Fault(
        "a lane joined with the wrong one",
        lambda: rows("reduce_sum"),
        text(r", 16\)", ", 8)"),
        WRONG,
    ),
    Fault(
        "a shuffle under a condition",
        lambda: rows("reduce_sum"),
        text(
            r"const float other = ", "if (lane < 20) continue; const float other = ", 1
        ),
        "synccheck",
    ),
    Fault(
        "rows skipped",
        lambda: rows("reduce_sum"),
        text(r"r \+= stride", "r += 2 * stride"),
        "never written",
        n=60,
    ),
    Fault(
        "blocks that share rows",
        lambda: pointwise("neg"),
        text(r"blockIdx\.x \* each \+", "", 1),
        "race|raced",
        n=300,
    ),
    Fault(
        "division by a dim of 0", divided, text(r"% d", "% (d0 - d0) + 0 * d"), "zero"
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


def nest_of(case: Case) -> Nest:
    (step,) = steps_of(case.graph)
    return step.nest


def test_an_unguarded_load_is_found_by_the_nest_interpreter() -> None:
    case, sizes = padded(), {"n": 9}
    nest, arrays = nest_of(case), case.arrays(sizes, seed=1)
    case.check(sizes, arrays, interpret_nest(nest, arrays, sizes), "nest")
    with pytest.raises(IndexError, match="out of bounds"):
        interpret_nest(nodes(unguarded)(nest), arrays, sizes)


def test_a_store_left_out_is_found_by_the_nest_interpreter() -> None:
    case, sizes = transposed(), {"n": 9}
    nest, arrays = nest_of(case), case.arrays(sizes, seed=1)
    (store,) = nest.stores
    short = replace(store, index=affine.scale(store.index, 0))
    with pytest.raises(IndexError, match="not fully written"):
        interpret_nest(replace(nest, stores=(short,)), arrays, sizes)


def test_a_wrong_primitive_is_found_by_the_nest_interpreter() -> None:
    def swapped(node: Any) -> Any:
        return replace(node, prim="abs") if isinstance(node, Scalar) else node

    case, sizes = pointwise("neg"), {"n": 9}
    nest, arrays = nodes(swapped)(nest_of(case)), case.arrays(sizes, seed=1)
    with pytest.raises(AssertionError, match=WRONG):
        case.check(sizes, arrays, interpret_nest(nest, arrays, sizes), "nest")
