"""Contractions in tiles: matmul and conv of more than a block, against wider sums."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from cuda_simulator import has_compiler
from graph_case import Case, fixed
from graph_meaning import Array, Sizes, dtype_of
from graph_runs import Program, c_text, launch_c, run_c, run_cuda, steps_of
from graph_sketch import Sketch
from planted import WRONG, Fault, check_found, text

from pirol.compiler.dims import symbol
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.compiler.pipeline import Run, finish
from pirol.kernels.build import build, load
from pirol.kernels.kernel import Along, Dot, Kernel
from pirol.passes.canonicalize import canonicalize
from pirol.passes.paddings import paddings
from pirol.prim import PRIMS, Builder
from pirol.prim.window import window_extent

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


def dot(
    x: Sequence[int], y: Sequence[int], batch: Any, summed: Any, dtype: str = "float32"
) -> Callable[[], Case]:
    """Products of two inputs, then what a kernel does with each tile."""

    def make() -> Case:
        s = Sketch()
        pair = [s.input([fixed(n) for n in shape], dtype) for shape in (x, y)]
        z = s.dot(*pair, batch, summed)
        bias = s.broadcast(s.input(z.sizes[-1:], dtype), z.sizes, (z.rank - 1,))
        low = s.apply("min", s.apply("add", z, bias), s.const(0.5, z.sizes, dtype))
        turned = s.transpose(low, [*range(z.rank - 2), z.rank - 1, z.rank - 2])
        return s.case([low, turned])

    return make


PLAIN = dot((140, 300), (300, 150), [], [(1, 0)])
DOTS = {
    "plain": PLAIN,
    "rows turned": dot((300, 140), (300, 150), [], [(0, 0)]),
    "columns turned": dot((140, 30), (150, 30), [], [(1, 1)]),
    "batch": dot((3, 20, 30), (3, 30, 70), [(0, 0)], [(2, 1)]),
    "batch within": dot((20, 3, 30), (70, 30, 3), [(1, 2)], [(2, 1)]),
    "rows of two dims": dot((3, 45, 31), (31, 65), [], [(2, 0)]),
    "apart": dot((3, 31, 45), (31, 65), [], [(1, 0)]),
    "columns of two dims": dot((7, 31), (5, 31, 45), [], [(1, 1)]),
    "two sums": dot((7, 6, 5), (6, 9, 5), [], [(1, 0), (2, 2)]),
    "two sums, turned": dot((7, 6, 5), (5, 9, 6), [], [(1, 2), (2, 0)]),
    "one term": dot((7, 1), (1, 9), [], [(1, 0)]),
    "no term": dot((7, 0), (0, 9), [], [(1, 0)]),
    "no row": dot((0, 7), (7, 9), [], [(1, 0)]),
    "one row": dot((1, 300), (300, 150), [], [(1, 0)]),
    "float64": dot((140, 300), (300, 70), [], [(1, 0)], "float64"),
    "float64, turned": dot((5, 30), (70, 30), [], [(1, 1)], "float64"),
}


def address_of(kernel: Kernel) -> int:
    (path,) = build([c_text([kernel])])
    return load(str(path), kernel.name)


QUICK = ("batch", "no term", "one row", "float64, turned")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in DOTS]
)
def test_products(name: str) -> None:
    case = DOTS[name]()
    (step,) = steps_of(case.graph)
    assert bool(step.cpu.dots) == (name not in ("one term", "no term", "one row"))
    for seed in range(2):
        arrays = case.arrays({}, seed, special=seed == 1)
        given = [arrays[case.graph.inputs.index(v)] for v in step.inputs]
        rng = np.random.default_rng(seed)
        got = launch_c(address_of(step.cpu), step.cpu, given, {}, rng)
        case.check({}, arrays, got, name)


def rounding(x: Array, y: Array, z: Array) -> float:
    """The rms error of the product z, over that of adding the terms one by one."""
    exact = x.astype(np.float64) @ y
    plain = np.zeros_like(z)
    for k in range(x.shape[1]):
        plain += x[:, k : k + 1] * y[k]
    errors = [float(np.square(a - exact).mean()) for a in (z, plain)]
    return float(np.sqrt(errors[0] / errors[1]))


@pytest.mark.parametrize("target", ["c", "cuda"])
def test_rounding_of_long_sums(target: str) -> None:
    """Terms are added up in blocks, whose sums are small: of 1024 terms, as exact as
    sqrt((64 + 1024 / 64) / 1024) of a plain loop."""
    shapes = (66, 1024), (1024, 64)
    b, rng = Builder(), np.random.default_rng(0)
    z = b.dot_general(
        *(b.input(TensorType(n, "float32")) for n in shapes),
        x_batch=(),
        y_batch=(),
        x_sum=(1,),
        y_sum=(0,),
    )
    x, y = (rng.standard_normal(n).astype("f4") for n in shapes)
    graph = b.graph("f", [z])
    (got,) = (run_c if target == "c" else run_cuda)(graph, [x, y])
    assert rounding(x, y, got) < 0.35


@dataclass(frozen=True)
class Conv:
    """A random conv: the shapes of x and w, and its attributes."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    attrs: dict[str, Any]


def any_conv(rng: random.Random) -> Conv:
    spatial = rng.randint(1, 3)
    groups = rng.choice((1, 1, 2, 3))
    inside, outside = rng.choice((1, 2, 5)), rng.choice((1, 4, 70))
    kernel = tuple(rng.randint(1, 3) for _ in range(spatial))
    most = {1: 200, 2: 21, 3: 9}[spatial]
    size = tuple(rng.randint(5, most) for _ in range(spatial))
    attrs = {
        "strides": tuple(rng.randint(1, 3) for _ in kernel),
        "padding": tuple((rng.randint(0, 2), rng.randint(0, 3)) for _ in kernel),
        "dilation": tuple(rng.randint(1, 2) for _ in kernel),
        "groups": groups,
    }
    batch = rng.randint(1, 3)
    x, w = (batch, inside * groups, *size), (outside * groups, inside, *kernel)
    return Conv(x, w, attrs)


@pytest.mark.parametrize(
    "seed",
    [*range(4), *(pytest.param(k, marks=pytest.mark.full) for k in range(4, 16))],
)
def test_convolutions(seed: int) -> None:
    """Channels first, and last, with what follows."""
    rng = random.Random(seed)
    conv, dtype = any_conv(rng), rng.choice(("float32", "float64"))
    b = Builder()
    x, w = (b.input(TensorType(s, dtype)) for s in (conv.x, conv.w))
    y = b.conv(x, w, **conv.attrs)
    last = (0, *range(2, y.type.rank), 1)
    result = b.transpose(b.max(y, 0.0), perm=last) if seed % 2 else b.max(y, 0.0)
    (step,) = steps_of(b.graph("f", [result]))
    data = np.random.default_rng(seed)
    arrays = [data.standard_normal(s).astype(dtype_of(dtype)) for s in (conv.x, conv.w)]
    (got,) = launch_c(address_of(step.cpu), step.cpu, arrays, {}, data)
    wide = [a.astype(np.longdouble) for a in arrays]
    exact = PRIMS["conv"].numpy(*wide, **conv.attrs)
    size = PRIMS["conv"].numpy(*map(np.abs, wide), **conv.attrs)
    order = last if seed % 2 else range(y.type.rank)
    exact, size = (np.transpose(a, order) for a in (np.maximum(exact, 0), size))
    terms = np.prod(conv.w[1:])
    bound = (terms + 2) * np.finfo(dtype_of(dtype)).eps * size
    assert got.dtype == dtype_of(dtype) and got.shape == exact.shape
    assert (np.abs(got - exact) <= bound).all()


def with_gradients(conv: Conv, dtype: str, known: bool, target: str = "cpu") -> Graph:
    """A conv and its gradients, as the passes for a target leave them; the batch and
    the first spatial size are known or not."""
    attrs = conv.attrs
    sizes = [symbol("n"), conv.x[1], symbol("m"), *conv.x[3:]]
    shape = conv.x if known else tuple(sizes)
    window = map(window_extent, shape[2:], conv.w[2:], *map(attrs.get, WINDOW))
    b = Builder()
    x, w = b.input(TensorType(shape, dtype)), b.input(TensorType(conv.w, dtype))
    ct = b.input(TensorType((shape[0], conv.w[0], *window), dtype))
    graph = b.graph(
        "f",
        [
            b.conv(x, w, **attrs),
            b.conv_input_grad(ct, w, shape=shape, **attrs),
            b.conv_weight_grad(x, ct, shape=conv.w, **attrs),
        ],
    )
    last = {"cpu": "paddings", "cuda": "split"}[target]
    return finish(graph, Run(), target).stages[last]


WINDOW = ("strides", "padding", "dilation")


def conv_of(x: Any, w: Any, stride: Any, padding: Any, dilation: Any, g: int) -> Conv:
    names = (*WINDOW, "groups")
    return Conv(x, w, dict(zip(names, (stride, padding, dilation, g))))


CONVS = {
    "3 x 3, more rows than a tile": conv_of(
        (2, 5, 9, 11), (70, 5, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1
    ),
    "stride 2, of an odd and an even size": conv_of(
        (2, 3, 9, 12), (17, 3, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1
    ),
    "7 x 7, stride 2, in groups": conv_of(
        (1, 4, 13, 12), (6, 2, 7, 7), (2, 2), ((3, 3), (3, 2)), (1, 1), 2
    ),
    "1 x 1, stride 3": conv_of(
        (2, 3, 8, 7), (5, 3, 1, 1), (3, 3), ((0, 0), (0, 1)), (1, 1), 1
    ),
    "1 x 1, stride 2, of few channels": conv_of(
        (2, 2, 7, 6), (3, 2, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1
    ),
    "strides beside a dilation": conv_of(
        (2, 4, 11, 10), (8, 2, 2, 3), (2, 3), ((0, 2), (2, 0)), (2, 1), 2
    ),
    "much padded": conv_of(
        (1, 2, 5, 4), (3, 2, 2, 2), (1, 3), ((3, 4), (2, 2)), (1, 1), 1
    ),
    "a line": conv_of((3, 2, 70), (9, 2, 5), (2,), ((2, 1),), (1,), 1),
    "a volume": conv_of(
        (2, 2, 5, 4, 6),
        (4, 2, 2, 3, 1),
        (1, 2, 2),
        ((0, 1), (1, 1), (0, 0)),
        (1,) * 3,
        1,
    ),
    "by channel": conv_of(
        (3, 6, 9, 21), (6, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 6
    ),
    "by channel, stride 2": conv_of(
        (2, 3, 9, 8), (6, 1, 3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1), 3
    ),
}


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_gradients_of_convolutions(target: str) -> None:
    """All in one build; every other one of sizes that are not known."""
    cases = [
        (name, conv, ("float32", "float64")[k % 2], k % 4 < 2)
        for k, (name, conv) in enumerate(CONVS.items())
    ]
    program = Program([with_gradients(*case[1:], target) for case in cases])
    data = np.random.default_rng(0)
    for number, (name, conv, dtype, _) in enumerate(cases):
        attrs, out = conv.attrs, PRIMS["conv"].numpy
        shape = out(np.zeros(conv.x), np.zeros(conv.w), **attrs).shape
        arrays = [
            data.standard_normal(n).astype(dtype) for n in (conv.x, conv.w, shape)
        ]
        got = program.c(number, arrays)
        bounds = zip(got, *(_three(conv, arrays, f) for f in (lambda a: a, np.abs)))
        for k, (found, exact, size) in enumerate(bounds):
            terms = (found.size + sum(a.size for a in arrays)) * np.finfo(dtype).eps
            assert found.shape == exact.shape and found.dtype == dtype
            assert (np.abs(found - exact) <= terms * size).all(), (name, k)


def _three(conv: Conv, arrays: list[Array], change: Callable[[Any], Any]) -> list[Any]:
    """The conv and both gradients, of changed numbers, in wide ones."""
    x, w, ct = (change(a.astype(np.longdouble)) for a in arrays)
    attrs = conv.attrs
    return [
        PRIMS["conv"].numpy(x, w, **attrs),
        PRIMS["conv_input_grad"].numpy(ct, w, shape=conv.x, **attrs),
        PRIMS["conv_weight_grad"].numpy(x, ct, shape=conv.w, **attrs),
    ]


def kinds(name: str) -> list[type | None]:
    """What each kernel of a conv and its gradients sums by, those that only move left
    out."""
    steps = steps_of(with_gradients(CONVS[name], "float32", True))
    kernels = [s.cpu for s in steps if any(op.name == "conv" for op in s.body.ops)]
    return [next((k for k in (Dot, Along) if c.has(k)), None) for c in kernels]


def test_windows_are_read_where_they_lie() -> None:
    """No conv that has more than a channel packs them; by channel, lanes are theirs."""
    assert kinds("by channel") == [None, None, Along]
    for name in ("3 x 3, more rows than a tile", "7 x 7, stride 2, in groups"):
        assert kinds(name) == [Dot] * 3
        text = c_text(
            [s.cpu for s in steps_of(with_gradients(CONVS[name], "float32", True))]
        )
        assert text.count("rows_at, terms_at, panel") == text.count("pr_dot_f32(") == 3


def test_convs_share_what_is_padded() -> None:
    """Of two convs of an input one padded input; of their result another."""
    b = Builder()
    x = b.input(TensorType((1, 2, 5, 6), "float32"))
    w = b.input(TensorType((2, 2, 3, 3), "float32"))
    at = {"strides": (1, 1), "dilation": (1, 1), "groups": 1}
    y = b.conv(x, w, padding=((1, 1), (0, 2)), **at)
    z = b.conv(x, w, padding=((0, 2), (1, 1)), **at)
    last = b.conv(b.add(y, z), w, padding=((1, 1), (1, 1)), **at)
    beside = b.conv(y, w, padding=((1, 1), (1, 1)), **at)
    graph = b.graph("f", [last, beside])
    padded = paddings(graph)
    assert [op.name for op in padded.ops].count("pad") == 3
    assert not any(any(map(any, op.attrs.get("padding", ()))) for op in padded.ops)
    data = np.random.default_rng(0)
    arrays = [data.standard_normal(v.shape).astype("f4") for v in (x, w)]
    for found, expected in zip(run_c(padded, arrays), interpret(graph, arrays)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [2, 7, 8, 20, 64, 67])
def test_tiles_of_pixels_are_turned(channels: int, dtype: str) -> None:
    """Results lie along pixels, the tile's rows, for whatever is left of squares."""
    for height, width in ((4, 4), (13, 11), (31, 33)):
        b = Builder()
        x = b.input(TensorType((2, 3, height, width), dtype))
        w = b.input(TensorType((channels, 3, 3, 3), dtype))
        at = {"strides": (1, 1), "dilation": (1, 1), "groups": 1}
        made = b.conv(x, w, padding=((0, 0), (0, 0)), **at)
        graph = b.graph("f", [b.add(made, made)])
        assert "(across, " in c_text([s.cpu for s in steps_of(graph)])
        data = np.random.default_rng(channels)
        arrays = [data.integers(-9, 9, v.shape).astype(dtype) for v in (x, w)]
        (found,), (expected,) = run_c(graph, arrays), interpret(graph, arrays)
        np.testing.assert_array_equal(found, expected)


def plain(case: Case, sizes: Sizes) -> list[Array]:
    """No NaN, which would hide all in its row."""
    return case.arrays(sizes, seed=3, special=False)


FAULTS = (
    Fault(
        "the last term is dropped",
        PLAIN,
        text(r"(pr_dot_read_f32\(.*), 300\)", r"\1, 299)"),
        WRONG,
        data=plain,
    ),
    Fault(
        "the panel of the task before is kept",
        DOTS["columns turned"],
        text(r"packed != ", "packed < 0 && packed != "),
        "other bits",
        data=plain,
    ),
    Fault(
        "a row is read from too early",
        PLAIN,
        text(r"(pr_dot_read_f32\(tile, 64, in\d \+ high_first) \* 300", r"\1 * 299"),
        WRONG,
        data=plain,
    ),
    Fault(
        "the last columns are not written",
        PLAIN,
        text(r": \(150\)\)", ": (144))"),
        "not fully written",
        data=plain,
    ),
    Fault(
        "the last rows are not written",
        PLAIN,
        text(r"high_stop; row", "high_stop - 1; row"),
        "not fully written",
        data=plain,
    ),
    Fault(
        "turned rows are packed as they lie",
        DOTS["columns turned"],
        text(r"(pr_turn_4\(panel, 64, .*), 30, ", r"\1, 29, "),
        WRONG,
        data=plain,
    ),
    Fault(
        "a row's place is one off",
        DOTS["apart"],
        text(r"(rows_at\[.*) \* 1395", r"\1 * 1394"),
        WRONG,
        data=plain,
    ),
    Fault(
        "a term's place is one off",
        DOTS["apart"],
        text(r"(terms_at\[.*) \* 45", r"\1 * 44"),
        WRONG,
        data=plain,
    ),
)


@pytest.mark.full
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.what)
def test_faults_are_found(fault: Fault) -> None:
    check_found(fault, "c")


ONE_TERM = {
    "column times row": ((5, 1), (1, 4), ((), ()), ((1,), (0,))),
    "row turned": ((1, 5), (4, 1), ((), ()), ((0,), (1,))),
    "two such dims": ((5, 1, 1), (1, 4, 1), ((), ()), ((1, 2), (0, 2))),
    "batch behind": ((1, 5, 3), (4, 3, 1), ((2,), (1,)), ((0,), (2,))),
    "no dims of its own": ((3, 1), (3, 1, 4), ((0,), (0,)), ((1,), (1,))),
    "no term": ((5,), (4,), ((), ()), ((), ())),
}


@pytest.mark.parametrize("name", ONE_TERM)
def test_products_of_one_term_are_elementwise(name: str) -> None:
    left, right, (xb, yb), (xs, ys) = ONE_TERM[name]
    b = Builder()
    x, y = (b.input(TensorType(s, "float32")) for s in (left, right))
    made = b.dot_general(x, y, x_batch=xb, y_batch=yb, x_sum=xs, y_sum=ys)
    graph = b.graph("one", [made])
    simple = canonicalize(graph)
    assert "dot_general" not in {op.name for op in simple.ops}
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype("float32") for s in (left, right)]
    ours, exact = (interpret(g, arrays)[0] for g in (simple, graph))
    np.testing.assert_array_equal(ours, exact)


def test_two_terms_stay_a_product() -> None:
    b = Builder()
    x, y = (b.input(TensorType(s, "float32")) for s in ((5, 2), (2, 4)))
    made = b.dot_general(x, y, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(0,))
    assert canonicalize(b.graph("two", [made])).ops[-1].name == "dot_general"
