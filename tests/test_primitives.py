"""Each primitive on each dtype: NumPy, the interpreter, nests, C and CUDA agree.

A family is a graph with one named output for each sample; where all samples run over
one domain they are one kernel, so that a whole family costs one run of the compiler.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_case import (
    Case,
    Item,
    fixed,
    named,
    shape_of,
    special_floats,
    special_ints,
)
from graph_meaning import (
    COMPARES,
    FLOATING,
    KINDS,
    WHOLE,
    Array,
    Sizes,
    check,
    dtype_of,
)
from graph_pairs import BINARY, UNARY, class_of, legal_pairs
from graph_runs import Program
from graph_sketch import Sketch
from graphs import symbol_sizes
from hypothesis import given, settings
from hypothesis import strategies as st

from pirol.compiler.interpreter import interpret
from pirol.compiler.verify import verify
from pirol.prim.elementwise import SAME_BITS

Outputs = dict[str, Item]  # "reshape: two axes merged" -> the item
Family = Callable[[Sketch, str], Outputs]

# Families: the words before a colon name the primitive ------------------------------


def scalars(s: Sketch, dtype: str) -> Outputs:
    """Every elementwise primitive, in one kernel."""
    n = shape_of("n")
    x, y, c = s.input(n, dtype), s.input(n, dtype), s.input(n, "bool")
    kind = class_of(dtype)
    found = {name: s.apply(name, x) for name in UNARY[kind]}
    found |= {name: s.apply(name, x, y) for name in (*BINARY[kind], *COMPARES)}
    if dtype == "int64":
        found["random_bits"] = s.random_bits(x, y)
    return found | {"select": s.apply("select", c, x, y)}


def casts(s: Sketch, dtype: str) -> Outputs:
    """To every dtype; floats that an integer cannot hold are nobody's promise."""
    n = shape_of("n")
    x, mild, small = (s.input(n, dtype) for _ in range(3))
    held = dict.fromkeys(WHOLE, mild) | {"int8": small, "uint8": small}
    fitting = held if dtype in FLOATING else {}
    found = {f"cast: to {k}": s.cast(fitting.get(k, x), k) for k in KINDS}
    back = s.cast(s.cast(fitting.get("int32", x), "int32"), dtype)  # -0.5 to 0, not -0
    if dtype in SAME_BITS:
        found["bitcast: of inputs"] = s.bitcast(x, SAME_BITS[dtype])
    return found | {"cast: there and back": back}


def creation(s: Sketch, dtype: str) -> Outputs:
    s.input(shape_of("n", "m"), dtype)
    nm, static = shape_of("n", "m"), shape_of(3, 5)
    return {
        "const: number": s.const(1, nm, dtype),
        "const: static": s.const(1, static, dtype),
        "const: dim": s.const(named("n") * 3 + 1, shape_of("m"), dtype),
        "iota: rows": s.iota(0, nm, dtype),
        "iota: columns": s.iota(1, nm, dtype),
        "iota: static": s.iota(1, shape_of(2, 70), dtype),
        "iota: an axis of 1": s.iota(0, shape_of(1, 3), dtype),
    }


def reshapes(s: Sketch, dtype: str) -> Outputs:
    x = s.input(shape_of("n", "m"), dtype)
    six = s.input(shape_of("n", 6), dtype)
    static = s.input(shape_of(4, 15), dtype)
    empty, one = s.input(shape_of(0, 3), dtype), s.input(shape_of(1, 1), dtype)
    n, m = named("n"), named("m")
    return {
        "reshape: merge": s.reshape(x, [n * m]),
        "reshape: exchange": s.reshape(x, [m, n]),
        "reshape: split": s.reshape(six, shape_of("n", 2, 3)),
        "reshape: other rows": s.reshape(six, [fixed(3), n * 2]),
        "reshape: static": s.reshape(static, shape_of(6, 5, 2)),
        "reshape: ones": s.reshape(x, shape_of(1, "n", 1, "m")),
        "reshape: empty": s.reshape(empty, shape_of(5, 0, 2)),
        "reshape: to no dims": s.reshape(one, ()),
        "reshape: nothing in dims": s.reshape(
            s.reverse(s.reshape(empty, shape_of(0, 1, 3)), (2,)), shape_of(3, 0)
        ),
    }


def transposes(s: Sketch, dtype: str) -> Outputs:
    x = s.input(shape_of("n", "m"), dtype)
    cube = s.input(shape_of("n", 3, "m"), dtype)
    static = s.input(shape_of(5, 67), dtype)
    return {
        "transpose: two": s.transpose(x, (1, 0)),
        "transpose: three": s.transpose(cube, (2, 0, 1)),
        "transpose: inner stays": s.transpose(cube, (1, 0, 2)),
        "transpose: static": s.transpose(static, (1, 0)),
        "transpose: not at all": s.transpose(x, (0, 1)),
    }


def broadcasts(s: Sketch, dtype: str) -> Outputs:
    row, column = s.input(shape_of("m"), dtype), s.input(shape_of("n", 1), dtype)
    number, static = s.input((), dtype), s.input(shape_of(1, 3), dtype)
    nm = shape_of("n", "m")
    return {
        "broadcast: rows": s.broadcast(row, nm, (1,)),
        "broadcast: columns": s.broadcast(column, nm, (0, 1)),
        "broadcast: inner": s.broadcast(row, shape_of("m", "n"), (0,)),
        "broadcast: number": s.broadcast(number, nm, ()),
        "broadcast: to nothing": s.broadcast(static, shape_of(0, 3), (0, 1)),
    }


def slices(s: Sketch, dtype: str) -> Outputs:
    n, m, zero = named("n"), named("m"), fixed(0)
    x, static = s.input([n, m], dtype), s.input(shape_of(9, 33), dtype)
    halves = s.slice(x, [n // 2, zero], [n - n // 2, m], (1, 1))
    odd = s.slice(x, [zero, fixed(1)], [n, m // 2], (1, 2))
    part = s.slice(static, shape_of(2, 1), shape_of(3, 11), (3, 2))
    none = s.slice(static, shape_of(9, 0), shape_of(0, 33), (1, 1))
    return {
        "slice: half": halves,
        "slice: every second": odd,
        "slice: static": part,
        "slice: nothing": none,
    }


def reverses(s: Sketch, dtype: str) -> Outputs:
    x, static = s.input(shape_of("n", "m"), dtype), s.input(shape_of(3, 34), dtype)
    return {
        "reverse: rows": s.reverse(x, (0,)),
        "reverse: columns": s.reverse(x, (1,)),
        "reverse: both": s.reverse(static, (0, 1)),
        "reverse: of a reshape": s.reshape(s.reverse(static, (1,)), shape_of(17, 6)),
    }


def gathers(s: Sketch, dtype: str) -> Outputs:
    """By indices within and outside the dim, which are clamped."""
    n, m = shape_of("n", "m")
    x, static = s.input([n, m], dtype), s.input(shape_of(4, 33), dtype)
    line, none = s.input([n], "int64"), s.input([fixed(0), m], dtype)
    square = s.input([n, m], "int64")
    rows = s.broadcast(line, [n, fixed(33)], (0,))
    twice = s.apply("add", x, x) if dtype != "bool" else s.apply("or", x, x)
    return {
        "gather: rows": s.gather(static, [rows], shape_of("n", 33), (-1, 1)),
        "gather: along columns": s.gather(x, [square], [n, m], (0, -1)),
        "gather: points": s.gather(static, [square, square], [n, m], (-1, -1)),
        "gather: of a sum": s.gather(twice, [square], [n, m], (-1, 1)),
        "gather: turned": s.gather(s.transpose(x, (1, 0)), [square], [n, m], (1, -1)),
        "gather: from nothing": s.gather(none, [square], [n, m], (-1, 1)),
        # The place of nothing must not be filled with what was computed for it.
        "gather: from no constants": s.gather(
            s.const(1, [fixed(0), m], dtype), [square], [n, m], (-1, 1)
        ),
    }


def puts(s: Sketch, dtype: str) -> Outputs:
    """At indices within and outside the dim, over what is read, computed or constant,
    in every way as the last of several."""
    n, m = shape_of("n", "m")
    x, part, static = (s.input(k, dtype) for k in ([n, m], [n, m], shape_of(4, 33)))
    square, line = s.input([n, m], "int64"), s.input([n], "int64")
    none = s.input([fixed(0), m], dtype)
    rows = s.broadcast(line, [n, fixed(33)], (0,))
    more = s.input(shape_of("n", 33), dtype)
    twice = s.apply("max", part, x)
    return {
        "put: rows": s.put(static, more, [rows], (-1, 1)),
        "put: along columns": s.put(x, part, [square], (0, -1)),
        "put: points": s.put(static, part, [square, square], (-1, -1)),
        "put: what is computed": s.put(x, twice, [square], (0, -1)),
        "put: over what is computed": s.put(twice, part, [square], (0, -1)),
        "put: over a constant": s.put(s.const(1, [n, m], dtype), x, [square], (0, -1)),
        "put: over a turned one": s.put(
            s.transpose(x, (1, 0)), part, [square], (-1, 0)
        ),
        "put: over nothing": s.put(none, part, [square], (-1, 1)),
    }


def scans(s: Sketch, dtype: str) -> Outputs:
    if dtype == "bool":
        return {}
    x, static = s.input(shape_of("n", "m"), dtype), s.input(shape_of(3, 70), dtype)
    cube, line = s.input(shape_of("m", 3, "n"), dtype), s.input(shape_of("n"), dtype)
    total = s.broadcast(s.reduce("reduce_max", s.cumsum(x, 1), (1,)), x.sizes, (0,))
    return {
        "cumsum: columns": s.cumsum(x, 1),
        "cumsum: rows": s.cumsum(x, 0),
        "cumsum: middle": s.cumsum(cube, 1),
        "cumsum: one line": s.cumsum(line, 0),
        "cumsum: static": s.cumsum(static, 1),
        "cumsum: and its largest": s.apply("max", s.cumsum(x, 1), total),
        "cumprod: columns": s.cumprod(x, 1),
        "cumprod: rows": s.cumprod(x, 0),
        "cumprod: middle": s.cumprod(cube, 1),
        "cummax: columns": s.cummax(x, 1),
        "cummax: rows": s.cummax(x, 0),
        "cummin: middle": s.cummin(cube, 1),
        "cummin: and sums": s.apply("add", s.cumsum(static, 1), s.cummin(static, 1)),
        "cumprod: and sums": s.apply("add", s.cumsum(static, 1), s.cumprod(static, 1)),
    }


def fill_of(dtype: str) -> Any:
    if dtype == "uint8":
        return 249
    return {"float": -np.inf, "int": -7, "bool": True}[class_of(dtype)]


def pads(s: Sketch, dtype: str) -> Outputs:
    n, m, fill = named("n"), named("m"), fill_of(dtype)
    x, static = s.input([n, m], dtype), s.input(shape_of(3, 5), dtype)
    empty = s.input(shape_of(0, 2), dtype)
    none, ends = shape_of(0, 0), shape_of(1, 2)
    zero = -0.0 if dtype in FLOATING else fill
    # As wide as what was reduced: the place in it is no place in the padded one.
    most = s.reshape(s.reduce("reduce_max", static, (0,)), shape_of(1, 5))
    return {
        "pad: a reduction": s.pad(most, none, shape_of(2, 0), (0, 0), fill),
        "pad: before a reduction": s.pad(most, shape_of(2, 0), none, (0, 0), fill),
        "pad: ends": s.pad(x, ends, ends[::-1], (0, 0), fill),
        "pad: interior": s.pad(x, none, none, (2, 1), fill),
        "pad: all": s.pad(x, ends, ends, (1, 2), zero),
        "pad: symbolic": s.pad(x, [m, fixed(0)], [fixed(1), n], (0, 1), fill),
        "pad: static": s.pad(static, ends, ends, (1, 0), fill),
        "pad: empty": s.pad(empty, ends, none, (3, 0), fill),
        "pad: by nothing": s.pad(x, none, none, (0, 0), fill),
    }


def concats(s: Sketch, dtype: str) -> Outputs:
    n, m = named("n"), named("m")
    x, y = s.input([n, m], dtype), s.input([n, m], dtype)
    three, none = s.input([n, fixed(3)], dtype), s.input([n, fixed(0)], dtype)
    counted = s.reshape(s.iota(1, [fixed(3), n], dtype), [n * 3])
    flat = s.reshape(x, [n * m])
    nothing = s.reshape(s.iota(1, shape_of(3, 0), dtype), shape_of(0))
    line = s.input(shape_of("n"), dtype)
    return {
        "concat: rows": s.concat([x, y], 0),
        "concat: columns": s.concat([x, three, y], 1),
        "concat: with nothing": s.concat([none, x, none], 1),
        "concat: one": s.concat([x], 0),
        "concat: twice the same": s.concat([three, three], 1),
        # The parts' own divisions by n and m must not run where n or m is 0.
        "concat: of reshapes": s.concat([counted, flat, s.iota(0, [m + 2], dtype)], 0),
        "concat: of an empty reshape": s.concat([nothing, line], 0),
    }


REDUCES = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min")


def over(s: Sketch, x: Item, axes: Sequence[int]) -> Outputs:
    where = f"axes {list(axes)} of {x.value.type}"
    names = REDUCES[2 * (x.dtype == "bool") :]
    return {f"{name}: {where}": s.reduce(name, x, axes) for name in names}


def reduces(*given: Any, axes: Sequence[Sequence[int]]) -> Family:
    """Sum, max and min over each of the axes."""

    def family(s: Sketch, dtype: str) -> Outputs:
        x = s.input(shape_of(*given), dtype)
        s.input(shape_of("n"), dtype)
        found: Outputs = {}
        for some in axes:
            found |= over(s, x, some)
        return found

    return family


def windows(s: Sketch, dtype: str) -> Outputs:
    if dtype == "bool":
        return {}
    line, plane = s.input(shape_of("n"), dtype), s.input(shape_of("n", "m"), dtype)
    static = s.input(shape_of(2, 9, 8), dtype)
    samples = {
        "line": (line, (3,), (1,), ((1, 1),), (1,)),
        "stride": (line, (2,), (3,), ((0, 1),), (1,)),
        "dilation": (line, (3,), (2,), ((2, 2),), (2,)),
        "plane": (plane, (2, 3), (1, 2), ((0, 1), (2, 2)), (1, 2)),
        "all padding": (line, (2,), (1,), ((3, 3),), (1,)),
        "static": (static, (1, 3, 2), (1, 2, 2), ((0, 0), (1, 1), (0, 0)), (1, 1, 1)),
    }
    outputs: Outputs = {}
    for name, sample in samples.items():
        best, index = s.window_max(*sample)
        outputs |= {f"window_max: {name}": best, f"window_max: index, {name}": index}
        outputs[f"window_sum: {name}"] = s.window_sum(*sample)
    counted = s.const(1, line.sizes, dtype)
    around = ((2,), (1,), ((1, 1),), (1,))
    outputs["window_sum: of a constant"] = s.window_sum(counted, *around)
    return outputs


def dots(s: Sketch, dtype: str) -> Outputs:
    if dtype == "bool":
        return {}
    x, y = s.input(shape_of("n", "m"), dtype), s.input(shape_of("m", "n"), dtype)
    stack, few = s.input(shape_of(3, "n", "m"), dtype), s.input(shape_of(2, "m"), dtype)
    return {
        "dot_general: rows by columns": s.dot(x, y, [], [(1, 0)]),
        "dot_general: turned": s.dot(x, y, [], [(0, 1)]),
        "dot_general: outer": s.dot(x, few, [], []),
        "dot_general: rows of two dims": s.dot(stack, few, [], [(2, 1)]),
        "dot_general: batch": s.dot(x, y, [(0, 1)], [(1, 0)]),
        "dot_general: of itself": s.dot(x, x, [], [(1, 1)]),
        "dot_general: two sums": s.dot(x, stack, [], [(0, 1), (1, 2)]),
    }


FAMILIES: dict[str, Family] = {
    "scalars": scalars,
    "casts": casts,
    "creation": creation,
    "reshapes": reshapes,
    "transposes": transposes,
    "broadcasts": broadcasts,
    "slices": slices,
    "reverses": reverses,
    "gathers": gathers,
    "puts": puts,
    "scans": scans,
    "pads": pads,
    "concats": concats,
    "rows": reduces("n", "m", axes=[(1,), (0,), (0, 1)]),
    "few": reduces("n", 3, 5, axes=[(2,), (1,), (1, 2), (0, 2)]),
    "long": reduces(2, 2500, axes=[(1,), (0, 1)]),
    "outer": reduces(100, "n", axes=[(0,), ()]),
    "empty": reduces(3, 0, axes=[(1,), (0,)]),
    "windows": windows,
    "dots": dots,
}
ONE_KERNEL = ("scalars", "casts")  # the samples have one shape
NUMBERS_ONLY = ("windows", "scans", "dots")
WHO = [(f, d) for f in FAMILIES for d in KINDS if f not in NUMBERS_ONLY or d != "bool"]
each = pytest.mark.parametrize(("family", "dtype"), WHO)
SIZES: tuple[Sizes, ...] = (
    {"n": 0, "m": 3},
    {"n": 4, "m": 0},
    {"n": 1, "m": 1},
    {"n": 5, "m": 7},
    {"n": 67, "m": 13},
    {"n": 13, "m": 66},
)


@functools.cache
def built(family: str, dtype: str) -> tuple[list[str], list[Case]]:
    """The samples' names, and a graph for each (one graph for all in ONE_KERNEL)."""
    sketch = Sketch()
    outputs = FAMILIES[family](sketch, dtype)
    if family in ONE_KERNEL:
        return list(outputs), [sketch.case(list(outputs.values()))]
    return list(outputs), [sketch.case([item]) for item in outputs.values()]


@functools.cache
def program(family: str, dtype: str) -> Program:
    graphs = [case.graph for case in built(family, dtype)[1]]
    return Program(graphs, whole=True)


def arrays_for(case: Case, family: str, sizes: Sizes, special: bool) -> list[Array]:
    if family not in ONE_KERNEL:
        return case.arrays(sizes, seed=1, special=special)
    # The second and third inputs of casts are for those to integers.
    limits = (np.inf, 1000, 100) if family == "casts" else (np.inf,) * 3
    return [
        _every_pair(item, k, sizes["n"], limits[k])
        for k, item in enumerate(case.inputs)
    ]


def _every_pair(item: Item, k: int, n: int, limit: float) -> Array:
    """Input k of the first two such that together they meet every pair of values."""
    if item.dtype == "bool":
        base = np.array([True, False, False])
    elif item.dtype in FLOATING:
        plain = [-3.7, -0.5, 0.3, 1.5, 7.2, 64.9, 99.1, 900.1]
        base = np.append(special_floats(item.dtype), plain)
    else:
        base = np.append(special_ints(item.dtype), np.arange(3, 11))
    if limit < np.inf and item.dtype in FLOATING:
        low = -limit if limit > 255 else 0  # as an unsigned integer has none below 0
        base = base[(base >= low) & (base < limit)]
    spread = np.repeat(base, len(base)) if k == 0 else np.tile(base, len(base))
    return np.resize(spread, n).astype(dtype_of(item.dtype))


def sizes_for(family: str) -> Sequence[Sizes]:
    if family not in ONE_KERNEL:
        return SIZES
    return [{"n": n} for n in (0, 1, 2, 67, 441)]


def check_all(family: str, dtype: str, who: str, run: Callable[..., Any]) -> None:
    names, graphs = built(family, dtype)
    for k, case in enumerate(graphs):
        for number, sizes in enumerate(sizes_for(family)):
            arrays = arrays_for(case, family, sizes, special=number % 2 == 0)
            wanted, got = case.expected(sizes, arrays), run(k, case, arrays)
            assert len(got) == len(wanted) == len(case.outputs)
            for j, (have, want) in enumerate(zip(got, wanted)):
                check(have, want, f"{who}, {names[k + j]}, {dict(sizes)}")


@each
def test_interpreter(family: str, dtype: str) -> None:
    for case in built(family, dtype)[1]:
        verify(case.graph, "flat")
    run = lambda k, case, arrays: interpret(case.graph, arrays)  # noqa: E731
    check_all(family, dtype, "interpreter", run)


@settings(max_examples=8, deadline=None, print_blob=True)
@given(symbol_sizes(), st.integers(0, 2**32 - 1), st.booleans())
@each
def test_interpreter_on_random_data(
    family: str, dtype: str, sizes: Sizes, seed: int, special: bool
) -> None:
    if family == "casts":
        special = False
    for case in built(family, dtype)[1]:
        arrays = case.arrays(sizes, seed, special)
        case.check(sizes, arrays, interpret(case.graph, arrays), "interpreter")


@each
def test_nests(family: str, dtype: str) -> None:
    made = program(family, dtype)
    check_all(family, dtype, "nests", lambda k, case, arrays: made.nests(k, arrays))


@pytest.mark.full
@each
def test_c(family: str, dtype: str) -> None:
    made = program(family, dtype)
    check_all(family, dtype, "C", lambda k, case, arrays: made.c(k, arrays, seed=k))


@pytest.mark.full
@pytest.mark.skipif(not has_compiler(), reason="the simulator needs g++")
@each
def test_cuda(family: str, dtype: str) -> None:
    made = program(family, dtype)
    check_all(family, dtype, "CUDA", lambda k, case, arrays: made.cuda(k, arrays))


@pytest.mark.parametrize("dtype", KINDS)
def test_no_primitive_is_left_out(dtype: str) -> None:
    """A new primitive needs a sample here."""
    found = {
        name.split(":")[0]
        for family, kind in WHO
        if kind == dtype
        for name in built(family, kind)[0]
    }
    for name, kind in legal_pairs():
        if kind == dtype:
            plain = name.split()[0]  # "cast to int8"
            assert plain in found, f"{name} on {dtype} has no sample"
