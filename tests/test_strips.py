"""Strips: what parts of the rows touch, which groups make one, how it runs."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import paddle
import pytest
from graph_runs import steps_of
from graphs import rolled, rolled_sizes
from hypothesis import settings
from native_plans import F32, plan, slot
from paddle.static import InputSpec

import pirol
from pirol.compiler import _native
from pirol.compiler.dims import evaluate, product, symbols_of
from pirol.compiler.ir import Graph, Op, TensorType
from pirol.kernels import affine
from pirol.kernels import batches as analysis
from pirol.kernels.batches import Batches, batches
from pirol.kernels.nest import Load
from pirol.passes import strips as making
from pirol.passes.halves import halves
from pirol.passes.plan import Plan
from pirol.prim import Builder

# Steady in `make test`; a fresh one with --hypothesis-profile=fuzz.
SEED = 0 if settings().derandomize else random.SystemRandom().randrange(2**32)

# Programs: (function, shapes, attributes) --------------------------------------------


def attention(q: Any, k: Any, v: Any, mask: Any) -> Any:
    scores = paddle.matmul(q, k, transpose_y=True) * 0.25 + mask
    weights = paddle.nn.functional.softmax(scores)
    return paddle.matmul(weights, v).transpose([0, 2, 1, 3])


def folded(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """Heads and batch as one dim for the products, scores seen in another shape."""
    b, h, n, d = q.shape
    q, k, v = (t.reshape([b * h, n, d]) for t in (q, k, v))
    scores = paddle.bmm(q, k.transpose([0, 2, 1])).reshape([b, h, n, n]) + mask
    weights = paddle.nn.functional.softmax(scores).reshape([b * h, n, n])
    return paddle.bmm(weights, v)


def returned(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """The weights are a result too."""
    weights = paddle.nn.functional.softmax(paddle.matmul(q, k, transpose_y=True) + mask)
    return paddle.matmul(weights, v), weights


def between(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """Groups stand between that a strip needs, or that need it, and are in none."""
    scores = paddle.matmul(q, k, transpose_y=True) + mask
    weights = paddle.nn.functional.softmax(scores)
    total = weights.flip([0]).sum([0], keepdim=True)
    v = paddle.nn.functional.softmax(v.flip([0, 1]))
    return paddle.matmul(weights * 2.0, v), total


def across(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """What is made of an item is read for another: that is in no strip."""
    scores = (paddle.matmul(q, k, transpose_y=True) + mask).flip([0, 1])
    weights = paddle.nn.functional.softmax(scores - scores.max([0, 1], keepdim=True))
    return paddle.matmul(weights, v)


PROGRAMS = (attention, folded, returned, between, across)
SIZES = ((2, 3, 16, 8), (4, 1, 5, 7), (1, 12, 33, 16), (1, 1, 20, 4))


def inputs(b: int, h: int, n: int, d: int, dtype: str = "float32") -> list[Any]:
    shapes = ([b, h, n, d],) * 3 + ([b, 1, 1, n],)
    return [paddle.randn(shape).astype(dtype) for shape in shapes]


def groups(compiled: Any) -> list[Op]:
    graph = pirol.explain(compiled).stages["strips"]
    return [op for op in graph.ops if op.name == "group"]


# What parts of the rows touch --------------------------------------------------------


def check_apart(known: Batches, items_dim: Any, sizes: dict[str, int]) -> None:
    """Every place by brute force: row by row its item, and the part of the buffer."""
    apart = known.apart(items_dim)
    if apart is None:
        return
    nest, items = known.nest, evaluate(items_dim, sizes)
    lead, _ = known.lead(items_dim)
    names = [a.name for a in nest.axes]
    extents = [evaluate(a.extent, sizes) for a in nest.axes]
    grid = dict(zip(names, np.indices(extents, sparse=True)))
    row, whole = np.zeros((), np.int64), 1
    for name, extent in lead:
        row = row * evaluate(extent, sizes) + grid.get(name, 0)
        whole *= evaluate(extent, sizes)
    item = row // (whole // items)
    ends = (*nest.inputs, *nest.outputs)
    places = [(n.buffer, n.index) for n in nest.nodes if isinstance(n, Load)]
    places += [(len(nest.inputs) + s.output, s.index) for s in nest.stores]
    for number, place in places:
        if number in apart:
            size = int(np.prod([evaluate(d, sizes) for d in ends[number].shape]))
            for ends_of_data in data_ends(place, sizes):
                at = affine.evaluate(place, grid | ends_of_data, sizes)
                assert np.all(at // (size // items) == item)


def data_ends(place: affine.Affine, sizes: dict[str, int]) -> list[dict[str, int]]:
    """The least and the largest of each number that data name in a place."""
    data = [a for a, _ in place.terms if isinstance(a, affine.Data)]
    ends = ((0, evaluate(a.below, sizes) - 1) for a in data)
    return [dict(zip((a.name for a in data), e)) for e in itertools.product(*ends)]


def sizes_of(graph: Graph) -> list[dict[str, int]]:
    dims = (d for v in graph.inputs for d in v.shape)
    names = sorted(symbols_of(*dims))
    choices = itertools.product((2, 3, 4), repeat=len(names))
    return [dict(zip(names, c)) for c in itertools.islice(choices, 9)]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("program", PROGRAMS)
def test_parts(program: Any, dynamic: bool) -> None:
    fast, _ = compiled(program, inputs(2, 3, 4, 5), dynamic)
    found = 0
    for op in groups(fast):
        known = None if op.body is None else batches(op.body)
        if known is not None:
            for sizes in sizes_of(pirol.explain(fast).stages["strips"]):
                check_apart(known, op.attrs.get("items", 6), sizes)
            found += known.items != 1
    assert found >= 2


def test_parts_of_random_graphs() -> None:
    """Of every kernel, whatever number of parts its leading axes allow."""
    found = 0
    for number in range(250):
        case = rolled(SEED, number)
        for step in steps_of(halves(case.graph)):
            known = Batches(step.nest, step.cpu)
            for count in range(1, len(step.cpu.lead) + 1):
                items = product(n for _, n in step.cpu.lead[:count])
                for sizes in rolled_sizes(SEED, number, 2):
                    if all(evaluate(a.extent, sizes) for a in step.nest.axes):
                        check_apart(known, items, sizes)
                        found += len(known.apart(items) or ())
    assert found > 300


def test_a_fault_in_the_analysis_is_found(monkeypatch: Any) -> None:
    monkeypatch.setattr(analysis, "_leads", lambda *_: True)
    with pytest.raises(AssertionError):
        test_parts(attention, False)


# Which groups ------------------------------------------------------------------------


def compiled(program: Any, given: list[Any], dynamic: bool) -> tuple[Any, list[Any]]:
    spec = [InputSpec([None] * 4, t.dtype.name.lower()) for t in given]
    options = {"input_spec": spec} if dynamic else {}
    fast = pirol.to_static(program, strict=True, **options)
    out = fast(*given)
    return fast, list(out) if isinstance(out, (list, tuple)) else [out]


def members(fast: Any) -> list[int]:
    """How many groups each strip has."""
    strips = [op.attrs["strip"] for op in groups(fast) if "strip" in op.attrs]
    return [strips.count(k) for k in sorted(set(strips))]


@pytest.mark.parametrize(
    "program, expected",
    [(attention, [3]), (folded, [3]), (returned, [2]), (between, [4]), (across, [2])],
)
def test_members(program: Any, expected: list[int]) -> None:
    fast, _ = compiled(program, inputs(2, 3, 16, 8), False)
    assert members(fast) == expected


# How they run ------------------------------------------------------------------------


def run(program: Any, given: list[Any], dynamic: bool) -> tuple[list[Any], int]:
    """The results, forward and backward, and how many strips ran as such."""
    counted: list[Any] = []
    init = _native.Plan

    def made(spec: Any) -> Any:
        counted.append(init(spec))
        return counted[-1]

    given = [t.clone().detach() for t in given]
    for t in given:
        t.stop_gradient = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "Plan", made)
        _, out = compiled(program, given, dynamic)
    sum((o * o).sum() for o in out).backward()
    results = [*out, *(t.grad for t in given)]
    return [r.numpy() for r in results], sum(p.stats()["strips"] for p in counted)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("program", PROGRAMS)
def test_results(program: Any, dynamic: bool, threads: int, monkeypatch: Any) -> None:
    """Bit for bit those of the launches one by one; near eager's."""
    before = _native.get_threads()
    _native.set_threads(threads)
    ran = 0
    try:
        for sizes in SIZES:
            given = inputs(*sizes)
            ours, strips = run(program, given, dynamic)
            ran += strips
            with monkeypatch.context() as patch:
                patch.setattr(Plan, "strips", property(lambda _: []))
                apart, none = run(program, given, dynamic)
            assert none == 0
            for a, b in zip(ours, apart, strict=True):
                np.testing.assert_array_equal(a, b)
            wide = program(*(t.astype("float64") for t in given))
            wide = wide if isinstance(wide, (list, tuple)) else [wide]
            for a, b in zip(ours, wide):
                away = np.linalg.norm(a - b.numpy())
                assert away <= 1e-5 * np.linalg.norm(b.numpy())
    finally:
        _native.set_threads(before)
    assert ran or program is across


def pooled(x: Any) -> Any:
    return paddle.nn.functional.fractional_max_pool2d(x, 6, random_u=0.3)


def test_what_is_looked_up(monkeypatch: Any) -> None:
    """In as many parts as a cache has room for, if it has none for the whole."""
    given = [paddle.randn([3, 10, 15, 14])]
    plain, strips = run(pooled, given, False)
    assert strips == 0
    monkeypatch.setattr(making, "LARGE", 20000)
    monkeypatch.setattr(making, "PART", 3000)
    fast, _ = compiled(pooled, [paddle.randn([3, 10, 15, 14])], False)
    assert members(fast) == [2]
    assert {op.attrs.get("items", 9) for op in groups(fast)} == {9}
    parted, strips = run(pooled, given, False)
    assert strips == 1
    for a, b in zip(parted, plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("axis, own", [(0, {1, 2}), (1, {0, 1, 2}), (2, {0, 1, 2})])
def test_places_that_data_name(axis: int, own: set[int]) -> None:
    """They are an item's own where data do not say of which item."""
    b, shape = Builder(), (6, 5, 8)
    x, at = (b.input(TensorType(shape, t)) for t in ("float32", "int64"))
    order = tuple(-1 if k == axis else k for k in range(3))
    found = b.gather(x, at, shape=shape, dims=order)
    known = batches(b.graph("f", [b.exp(found)]))
    assert known is not None and known.apart(6) == own
    for items in (2, 6, 30):
        check_apart(known, items, {})


def test_a_gradient_has_strips() -> None:
    """The scores' gradients stay in the cache too."""
    _, strips = run(attention, inputs(2, 3, 16, 8), False)
    assert strips == 2


CHAIN = """
#include <stdint.h>
#include <string.h>
/* rows of dims[0] items: what lies before is read too */
void twice(void *const *b, const int64_t *d, int64_t begin, int64_t end, void *s) {
    const float *x = b[0];
    float *out = b[1];
    if ((uintptr_t)out % 64 || (uintptr_t)x % 64) __builtin_trap();
    memset(s, 7, 40);
    for (int64_t i = begin * d[0]; i < end * d[0]; i++) out[i] = 2 * x[i];
}
"""


@pytest.fixture(scope="module")
def twice(tmp_path_factory: Any) -> int:
    from pirol.kernels.build import build, load

    (path,) = build([CHAIN])
    return load(str(path), "twice")


def chain(twice: int, **changes: Any) -> Any:
    """x -> 2x -> 4x -> 8x over (n, m) in a strip of n items, two buffers its own."""
    dims, size = [slot(0), slot(1)], [slot(1)]
    kinds = [("input", 0), ("arena", 0), ("arena", 0), ("output", 0)]
    steps = [("launch", twice, [k, k + 1], size, slot(0), 1, 40) for k in range(3)]
    spec = dict(
        slots=2,
        inputs=[(*F32, dims)],
        buffers=[(kind, k, *F32, dims) for kind, k in kinds],
        lifetimes=[(0, 2)] * 4,
        steps=steps,
        strips=[(0, 3, slot(0), [1, 2])],
        outputs=[3],
    )
    return plan(**(spec | changes))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_items_of_any_size(twice: int, threads: int) -> None:
    """Also where an item ends at no multiple of 64 bytes; pointers stay aligned."""
    before = _native.get_threads()
    _native.set_threads(threads)
    try:
        for n, m in itertools.product((0, 1, 2, 3, 4, 8, 13, 40), (0, 1, 16, 17, 100)):
            p = chain(twice)
            x = paddle.rand([n, m])
            np.testing.assert_array_equal(p.run([x])[0].numpy(), 8 * x.numpy())
            chunks = min(n, threads)
            fair = m >= 16 and n > 0 and -(-n // chunks) * chunks <= n + n // 4
            assert p.stats()["strips"] == fair, (n, m)
    finally:
        _native.set_threads(before)


def test_own_buffers_take_a_part_each(twice: int) -> None:
    """A thread's first part alone is written: the rest keeps what was there."""
    p = chain(twice, strips=[(0, 3, slot(0), [1])])
    x = paddle.rand([64, 64])
    np.testing.assert_array_equal(p.run([x])[0].numpy(), 8 * x.numpy())
    assert p.stats()["strips"] == 1


@pytest.mark.parametrize(
    "strip, said",
    [
        ((0, 4, 1, []), "step"),
        ((1, 0, 1, []), "step"),
        ((0, 3, slot(5), []), "slot"),
        ((0, 2, slot(0), [2]), "not its own"),
        ((0, 3, slot(0), [0]), "not its own"),
        ((0, 3, slot(0), [9]), "buffer"),
        ((0, 3, slot(0)), "expected 4 items"),
    ],
)
def test_specs(twice: int, strip: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        chain(twice, strips=[strip])
