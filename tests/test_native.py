"""The native runtime, run on small C kernels that gcc builds here."""

import contextlib
import copy
import ctypes
import gc
import json
import pickle
import random
import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import paddle
import pytest

from pirol.compiler import _native

if shutil.which("gcc") is None:
    pytest.skip("no gcc", allow_module_level=True)

SOURCE = """
#include <stdint.h>
#include <string.h>
typedef void *const *Buffers;
typedef const int64_t *Dims;

/* out[i] = a[i] + b[i], rows of dims[0] items */
void add(Buffers b, Dims d, int64_t begin, int64_t end, void *scratch) {
    const float *x = b[0], *y = b[1];
    float *out = b[2];
    for (int64_t i = begin * d[0]; i < end * d[0]; i++) out[i] = x[i] + y[i];
}
/* out[i] = dims[1] * a[i] */
void scale(Buffers b, Dims d, int64_t begin, int64_t end, void *scratch) {
    const float *x = b[0];
    float *out = b[1];
    for (int64_t i = begin * d[0]; i < end * d[0]; i++) out[i] = d[1] * x[i];
}
/* each row through the thread's scratch, reversed */
void reverse(Buffers b, Dims d, int64_t begin, int64_t end, void *scratch) {
    for (int64_t r = begin; r < end; r++) {
        memcpy(scratch, (float *)b[0] + r * d[0], d[0] * 4);
        for (int64_t i = 0; i < d[0]; i++)
            ((float *)b[1])[r * d[0] + i] = ((float *)scratch)[d[0] - 1 - i];
    }
}
/* out[i] = number of the chunk's rows */
void chunk(Buffers b, Dims d, int64_t begin, int64_t end, void *scratch) {
    for (int64_t i = begin; i < end; i++) ((int64_t *)b[1])[i] = end - begin;
}
/* out[i] = (float)a[i] */
void to_float(Buffers b, Dims d, int64_t begin, int64_t end, void *scratch) {
    for (int64_t i = begin * d[0]; i < end * d[0]; i++)
        ((float *)b[1])[i] = ((const int64_t *)b[0])[i];
}
"""

F32 = (2, 32)
I64 = (0, 64)


def slot(index: int) -> int:
    return -(index + 1)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "k.c").write_text(SOURCE)
    command = ["gcc", "-O2", "-w", "-shared", "-fPIC", "k.c", "-o", "k.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "k.so"))
    names = ["add", "scale", "reverse", "chunk", "to_float"]
    return {n: ctypes.cast(getattr(library, n), ctypes.c_void_p).value for n in names}


@pytest.fixture(scope="module", autouse=True)
def runtime():
    paddle.set_device("cpu")
    library = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    found = _native.init(paddle.Tensor.__c_dlpack_exchange_api__, str(library))
    assert found == library.exists()


@pytest.fixture(autouse=True)
def threads():
    before = _native.get_threads()
    _native.set_threads(2)
    yield
    _native.set_threads(before)


def plan(**spec):
    """A plan; the keys that a test does not care about are empty."""
    whole = dict(slots=0, inputs=[], segments=[], guards=[], written=[], buffers=[])
    whole |= dict(lifetimes=[(0, 0)] * len(spec.get("buffers", [])), steps=[])
    return _native.Plan(whole | dict(outputs=[]) | spec)


def add_plan(kernels, **changes):
    """out = x + y over (n, m)."""
    dims = [slot(0), slot(1)]
    spec = dict(
        slots=2,
        inputs=[(*F32, dims), (*F32, dims)],
        buffers=[
            ("input", 0, *F32, dims),
            ("input", 1, *F32, dims),
            ("output", 0, *F32, dims),
        ],
        steps=[("launch", kernels["add"], [0, 1, 2], [slot(1)], slot(0), 1, 0)],
        outputs=[2],
    )
    return plan(**(spec | changes))


def chain_plan(kernels, call, result_dims, **changes):
    """x -> arena = 2 x -> opaque call(arena) -> output."""
    dims = [slot(0), slot(1)]
    spec = dict(
        slots=4,
        inputs=[(*F32, dims)],
        buffers=[
            ("input", 0, *F32, dims),
            ("arena", 0, *F32, dims),
            ("opaque", 0, *F32, result_dims),
        ],
        lifetimes=[(0, 0), (0, 1), (1, 1)],
        steps=[
            ("launch", kernels["scale"], [0, 1], [slot(1), 2], slot(0), 1, 0),
            ("opaque", call, [1], [2], "call", False),
        ],
        outputs=[2],
    )
    return plan(**(spec | changes))


def rand(*shape):
    return paddle.rand(list(shape))


def same(tensor, array):
    np.testing.assert_array_equal(tensor.numpy(), array)


# ---- launches ----


def test_add_at_several_shapes(kernels):
    p = add_plan(kernels)
    for shape in [(3, 4), (1, 1), (64, 33), (3, 4)]:
        x, y = rand(*shape), rand(*shape)
        (out,) = p.run([x, y])
        same(out, x.numpy() + y.numpy())
    assert p.stats() == {"calls": 4, "layouts": 3, "arena_bytes": 0}


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_empty(kernels, shape):
    (out,) = add_plan(kernels).run([rand(*shape), rand(*shape)])
    assert out.shape == list(shape)


def test_scalar_rank(kernels):
    p = plan(
        inputs=[(*F32, [])],
        buffers=[("input", 0, *F32, []), ("output", 0, *F32, [])],
        steps=[("launch", kernels["scale"], [0, 1], [1, 5], 1, 1, 0)],
        outputs=[1],
    )
    (out,) = p.run([paddle.to_tensor(3.0)])
    assert out.shape == [] and float(out) == 15.0


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_scratch_and_chunks(kernels, count):
    _native.set_threads(count)
    dims = [slot(0), 50]
    p = plan(
        slots=1,
        inputs=[(*F32, dims)],
        buffers=[("input", 0, *F32, dims), ("output", 0, *F32, dims)],
        steps=[("launch", kernels["reverse"], [0, 1], [50], slot(0), 3, 200)],
        outputs=[1],
    )
    for rows in [1, 2, 7, 100, 1001]:
        x = rand(rows, 50)
        same(p.run([x])[0], x.numpy()[:, ::-1])


def test_chunks_keep_the_grain(kernels):
    _native.set_threads(4)
    p = plan(
        slots=1,
        inputs=[(*I64, [slot(0)])],
        buffers=[("input", 0, *I64, [slot(0)]), ("output", 0, *I64, [slot(0)])],
        steps=[("launch", kernels["chunk"], [0, 1], [], slot(0), 10, 0)],
        outputs=[1],
    )
    for rows, least in [(5, 5), (19, 19), (20, 10), (39, 13), (1000, 250)]:
        (out,) = p.run([paddle.zeros([rows], "int64")])
        assert out.numpy().min() == least


def test_parameters_and_results_are_plain_tensors(kernels):
    p = add_plan(kernels)
    w = paddle.create_parameter([2, 3], "float32")
    (out,) = p.run((w, rand(2, 3)))
    assert out.stop_gradient and out.is_contiguous()
    assert not w.stop_gradient


# ---- guards ----


def test_misses(kernels):
    p = add_plan(kernels, guards=[(2, slot(0), 2), (1, slot(1), 5)])
    assert p.run([rand(3, 4), rand(3, 4)]) is not None
    cases = [
        ([rand(3, 4), rand(3, 3)], "extent 3 at axis 1, expected 4"),
        ([rand(3, 4), rand(4)], "rank 1, expected 2"),
        ([rand(3, 4), rand(3, 4).astype("float64")], "float64, expected float32"),
        ([rand(1, 4), rand(1, 4)], "guard 0: not 1 >= 2"),
        ([rand(3, 5), rand(3, 5)], "guard 1: not 5 != 5"),
    ]
    for inputs, why in cases:
        assert p.run(inputs) is None
        assert why in p.miss()


def test_what_is_no_tensor(kernels):
    p = add_plan(kernels)
    for wrong in ([rand(2, 2)], [rand(2, 2)] * 3, 5, [1, 2], [rand(2, 2), None]):
        with pytest.raises((TypeError, RuntimeError)):
            p.run(wrong)


def test_slot_programs():
    ops = [(0, 1, 7, 0), (0, 2, -3, 0), (4, 3, slot(1), slot(2)), (0, 20, 0, 0)]
    ops += [(5, 4, slot(1), slot(2)), (6, 5, slot(1), slot(2)), (4, 6, 5, slot(20))]
    ops += [(7, 7, slot(1), slot(2)), (3, 8, slot(0), 4), (2, 9, slot(0), 1)]
    ops += [(1, 10, slot(8), slot(9)), (5, 11, 5, slot(20)), (0, 12, -(2**63), 0)]
    ops += [(0, 13, -1, 0), (4, 14, slot(12), slot(13)), (5, 15, slot(12), slot(13))]
    ops += [(0, 16, -2, 0)]
    expected = {3: -3, 4: -2, 5: 7, 7: -3, 6: 0, 8: 20, 9: 4, 10: 24, 11: 5, 15: 0}
    consts = [(0, 21 + i, v, 0) for i, v in enumerate(expected.values())]
    guards = [(0, slot(s), slot(21 + i)) for i, s in enumerate(expected)]
    p = plan(slots=40, inputs=[(*F32, [slot(0)])], segments=[ops + consts])
    assert p.run([rand(5)]) == []
    p = plan(
        slots=40, inputs=[(*F32, [slot(0)])], segments=[ops + consts], guards=guards
    )
    assert p.run([rand(5)]) == [], p.miss()


# ---- strides and writes ----


VIEWS = {
    "transposed": lambda x: x.transpose([1, 0]),
    "rows": lambda x: x[1:4],
    "every other": lambda x: x[::2, ::3],
    "block": lambda x: x[2:5, 1:3],
    "column": lambda x: x[:, 1:2],
    "expanded": lambda x: x[:1].expand([5, 9]),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_strided_inputs(kernels, view):
    x, y = view(rand(8, 9)), view(rand(8, 9))
    (out,) = add_plan(kernels).run([x, y])
    same(out, x.numpy() + y.numpy())


@pytest.mark.parametrize(
    "dtype,type_", [("int8", (0, 8)), ("float16", (2, 16)), ("complex128", (5, 128))]
)
def test_strided_copies_of_any_item_and_rank(dtype, type_):
    rng = np.random.default_rng(0)
    for rank in range(1, 6):
        shape = [int(n) for n in rng.integers(1, 5, rank)]
        x = paddle.to_tensor(rng.integers(-9, 9, shape).astype("float32")).astype(dtype)
        x = x.transpose([int(i) for i in rng.permutation(rank)])
        shape, seen = [int(n) for n in x.shape], []
        p = plan(
            inputs=[(*type_, shape)],
            buffers=[("input", 0, *type_, shape), ("alias", 0, *type_, [int(x.size)])],
            steps=[
                ("opaque", lambda t, seen=seen: seen.append(t), [1], [], "see", False)
            ],
        )
        p.run([x])
        same(seen[0], x.numpy().reshape(-1))


def test_large_transpose():
    x, seen = rand(300, 200).transpose([1, 0]), []
    p = plan(
        inputs=[(*F32, [200, 300])],
        buffers=[("input", 0, *F32, [200, 300]), ("alias", 0, *F32, [60000])],
        steps=[("opaque", seen.append, [1], [-1], "see", False)],
    )
    p.run([x])
    same(seen[0], x.numpy().ravel())


def write_plan(kernels):
    """x is written 3 y."""
    dims = [slot(0), slot(1)]
    return plan(
        slots=2,
        inputs=[(*F32, dims), (*F32, dims)],
        written=[0],
        buffers=[
            ("input", 0, *F32, dims),
            ("input", 1, *F32, dims),
            ("arena", 0, *F32, dims),
        ],
        lifetimes=[(0, 0), (0, 0), (0, 1)],
        steps=[
            ("launch", kernels["scale"], [1, 2], [slot(1), 3], slot(0), 1, 0),
            ("write", 2, 0),
        ],
        outputs=[0],
    )


@pytest.mark.parametrize("view", list(VIEWS.values())[:-1], ids=list(VIEWS)[:-1])
def test_written_inputs(kernels, view):
    whole, y = rand(8, 9), view(rand(8, 9))
    before, x = whole.numpy(), view(whole)
    outside = view(paddle.arange(72).reshape([8, 9])).numpy().ravel()
    (out,) = write_plan(kernels).run([x, y])
    assert out is x
    same(x, 3 * y.numpy())
    kept = np.setdiff1d(np.arange(72), outside)
    np.testing.assert_array_equal(whole.numpy().ravel()[kept], before.ravel()[kept])


def test_a_later_launch_reads_what_was_written(kernels):
    dims = [slot(0), slot(1)]
    p = plan(
        slots=2,
        inputs=[(*F32, dims), (*F32, dims)],
        written=[0],
        buffers=[
            ("input", 0, *F32, dims),
            ("input", 1, *F32, dims),
            ("output", 0, *F32, dims),
        ],
        steps=[
            ("write", 1, 0),
            ("launch", kernels["add"], [0, 1, 2], [slot(1)], slot(0), 1, 0),
        ],
        outputs=[2],
    )
    x, y = rand(4, 5).transpose([1, 0]), rand(5, 4)
    same(p.run([x, y])[0], 2 * y.numpy())
    same(x, y.numpy())


def test_overlap_misses(kernels):
    p, x = write_plan(kernels), rand(4, 4)
    for inputs in ([x, x], [x[1:3], x[2:4]], [x[:2], x[1:3]]):
        assert p.run(inputs) is None
        assert "shares memory" in p.miss()
    assert p.run([paddle.as_strided(x, [4, 4], [0, 1]), rand(4, 4)]) is None
    assert "its items overlap" in p.miss()
    assert p.run([x[:2], x[2:]]) is not None
    assert p.run([rand(0, 4), x[:0]]) is not None


# ---- opaque steps ----


def test_arena_goes_through_an_opaque_step(kernels):
    p = chain_plan(kernels, lambda t: t + 1, [slot(0), slot(1)])
    x = rand(5, 6)
    same(p.run([x])[0], 2 * x.numpy() + 1)


def test_arguments_are_freed_after_their_last_use(kernels):
    seen = []

    def see(t):
        seen.append(weakref.ref(t))

    def look(t):
        assert seen[0]() is None

    p = plan(
        inputs=[(*F32, [8])],
        buffers=[("input", 0, *F32, [8]), ("arena", 0, *F32, [8])],
        lifetimes=[(0, 0), (0, 1)],
        steps=[
            ("launch", kernels["scale"], [0, 1], [8, 2], 1, 1, 0),
            ("opaque", see, [1], [], "see", False),
            ("opaque", look, [0], [], "look", False),
        ],
    )
    p.run([rand(8)])


def test_alias_views():
    seen = []
    p = plan(
        inputs=[(*F32, [4, 6])],
        buffers=[
            ("input", 0, *F32, [4, 6]),
            ("alias", 0, *F32, [8, 3]),
            ("alias", 1, *F32, [24]),
            ("opaque", 0, *F32, [24]),
            ("alias", 3, *F32, [2, 12]),
            ("alias", 0, *F32, [4, 6]),
        ],
        steps=[
            ("opaque", lambda *t: seen.extend(t), [0, 1, 5], [], "see", False),
            ("opaque", lambda t: [t * 2], [2], [3], "double", False),
        ],
        outputs=[4, 3, 0],
    )
    x = rand(4, 6)
    out, flat, back = p.run([x])
    assert back is x and seen[0] is x and seen[2] is x
    assert seen[1].data_ptr() == x.data_ptr() and seen[1].shape == [8, 3]
    same(out, 2 * x.numpy().reshape(2, 12))
    assert out.data_ptr() == flat.data_ptr()
    expected = 2 * x.numpy().reshape(2, 12)
    del flat, x
    seen.clear()
    gc.collect()
    same(out, expected)


def nonzero_plan(kernels, call=paddle.nonzero):
    """x -> nonzero (k, 2) -> float arena (k, 2) -> opaque twice -> output (2 k)."""
    dims, found = [slot(0), slot(1)], [slot(2), 2]
    return plan(
        slots=4,
        inputs=[(*F32, dims)],
        segments=[[], [(3, 3, slot(2), 2)]],
        buffers=[
            ("input", 0, *F32, dims),
            ("opaque", 0, *I64, found),
            ("arena", 0, *F32, found),
            ("output", 0, *F32, [slot(3)]),
        ],
        lifetimes=[(0, 0), (0, 2), (2, 3), (3, 3)],
        steps=[
            ("opaque", call, [0], [1], "pd_op.nonzero", False),
            ("bind", [(1, 0, 2)], 1),
            ("launch", kernels["to_float"], [1, 2], [2], slot(2), 1, 0),
            ("launch", kernels["scale"], [2, 3], [1, 10], slot(3), 1, 0),
        ],
        outputs=[3, 1],
    )


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_bind(kernels, density):
    p = nonzero_plan(kernels)
    for shape in [(5, 7), (20, 30)]:
        x = (rand(*shape) < density).astype("float32")
        out, found = p.run([x])
        expected = np.argwhere(x.numpy())
        same(found, expected)
        same(out, 10.0 * expected.ravel())


def test_results_that_are_not_contiguous(kernels):
    def strided(x):
        return paddle.nonzero(x).transpose([1, 0]).contiguous().transpose([1, 0])

    x = (rand(6, 7) < 0.5).astype("float32")
    out, found = nonzero_plan(kernels, strided).run([x])
    assert not found.is_contiguous()
    same(out, 10.0 * np.argwhere(x.numpy()).ravel())


def test_layouts_are_bounded_and_cached(kernels):
    p = nonzero_plan(kernels)
    for n in list(range(1, 60)) * 2:
        p.run([paddle.ones([n, 1])])
    assert p.stats()["layouts"] == 236  # two a size, too many for the cache
    before = p.stats()["layouts"]
    for _ in range(5):
        p.run([paddle.ones([59, 1])])
    assert p.stats()["layouts"] == before


def test_arena_memory_is_shared_by_lifetime(kernels):
    count = 10
    buffers = [("input", 0, *F32, [64])] + [("arena", 0, *F32, [64])] * count
    buffers += [("output", 0, *F32, [64])]
    steps = [
        ("launch", kernels["scale"], [i, i + 1], [1, 2], 64, 8, 0)
        for i in range(count + 1)
    ]
    lifetimes = [(max(i - 1, 0), i) for i in range(count + 2)]
    p = plan(
        inputs=[(*F32, [64])],
        buffers=buffers,
        lifetimes=lifetimes,
        steps=steps,
        outputs=[count + 1],
    )
    x = rand(64)
    same(p.run([x])[0], x.numpy() * 2.0 ** (count + 1))
    assert p.stats()["arena_bytes"] == 2 * 64 * 4


def test_a_result_may_alias_its_argument(kernels):
    p = chain_plan(kernels, lambda t: t.reshape([-1]), [24])
    x, y = rand(4, 6), rand(4, 6)
    (first,) = p.run([x])
    rest = [p.run([y])[0] for _ in range(5)]
    same(first, 2 * x.numpy().ravel())
    assert len({t.data_ptr() for t in [first, *rest]}) == 6


def test_results_may_go_through_dlpack_again(kernels):
    """Paddle hangs when a tensor over one that it imported before is freed."""
    x = rand(4, 6)
    (out,) = chain_plan(kernels, lambda t: t, [slot(0), slot(1)]).run([x])
    again = paddle.utils.dlpack.from_dlpack(paddle.utils.dlpack.to_dlpack(out))
    del out
    same(again, 2 * x.numpy())
    del again


def test_a_result_outlives_its_plan(kernels):
    x = rand(30, 40)
    p = chain_plan(kernels, lambda t: t, [slot(0), slot(1)])
    (out,) = p.run([x])
    del p
    gc.collect()
    same(out, 2 * x.numpy())


def test_empty_arena_in_an_opaque_step(kernels):
    p = chain_plan(kernels, lambda t: t + 1, [slot(0), slot(1)])
    assert p.run([rand(0, 6)])[0].shape == [0, 6]
    assert p.run([rand(6, 0)])[0].shape == [6, 0]


WRONG_RESULTS = {
    "is float64, expected float32": lambda t: t.astype("float64"),
    "rank 1, expected 2": lambda t: t.reshape([-1]),
    "at axis 0 the extent 2, expected 3": lambda t: t[:2],
    "no result for buffer 2": lambda t: [None],
    "2 results, expected 1": lambda t: [t, t],
    "Unable to cast": lambda t: "text",
}


@pytest.mark.parametrize("why", WRONG_RESULTS)
def test_wrong_results(kernels, why):
    p = chain_plan(kernels, WRONG_RESULTS[why], [slot(0), slot(1)])
    for _ in range(3):
        with pytest.raises(RuntimeError, match=why):
            p.run([rand(3, 4)])


def test_errors_name_the_step(kernels):
    p = nonzero_plan(kernels, lambda x: x)
    with pytest.raises(RuntimeError, match=r"step 0 \(pd_op.nonzero\).*buffer 1"):
        p.run([rand(3, 4)])


def test_negative_extents_and_huge_sizes(kernels):
    dims = [slot(0)]
    for op, error in [
        ((2, 1, slot(0), 9), RuntimeError),
        ((0, 1, 2**61, 4), MemoryError),
    ]:
        p = plan(
            slots=2,
            inputs=[(*F32, dims)],
            segments=[[op]],
            buffers=[("arena", 0, *F32, [slot(1), slot(0)])],
            steps=[("launch", kernels["scale"], [0, 0], [1, 1], 0, 1, 0)],
        )
        with pytest.raises(error):
            p.run([rand(3)])


def test_exceptions_pass_and_free(kernels):
    class Stop(Exception):
        pass

    def stop(t):
        raise Stop

    p, x = chain_plan(kernels, stop, [slot(0), slot(1)]), rand(30, 40)
    before = sys.getrefcount(x)
    for _ in range(50):
        with pytest.raises(Stop):
            p.run([x])
    assert sys.getrefcount(x) == before


# ---- operand tensors and views ----


def fresh_plan(kernels, call, fresh=True, **changes):
    """x -> arena = 2 x -> opaque call(arena) -> output, not aliasing."""
    dims = [slot(0), slot(1)]
    steps = [
        ("launch", kernels["scale"], [0, 1], [slot(1), 2], slot(0), 1, 0),
        ("opaque", call, [1], [2], "call", fresh),
    ]
    return chain_plan(kernels, call, dims, **(dict(steps=steps) | changes))


class Spy:
    """A fresh step that notes where its operands lie."""

    def __init__(self):
        self.seen = []

    def __call__(self, *tensors):
        self.seen += [t.data_ptr() for t in tensors]
        return tensors[0] + 1


def pooled(p):
    """The plan's spare operand tensors."""
    return [t for t in gc.get_referents(p) if isinstance(t, paddle.Tensor)]


def test_operands_are_used_again(kernels):
    spy = Spy()
    p = fresh_plan(kernels, spy)
    results = []
    for _ in range(5):
        x = rand(5, 6)
        results.append((p.run([x])[0], 2 * x.numpy() + 1))
    for out, expected in results:
        same(out, expected)
    assert len(set(spy.seen)) == 1
    assert [t.data_ptr() for t in pooled(p)] == spy.seen[:1]


def test_operands_are_used_again_within_a_call(kernels):
    """Four operands one after the other, never more than two at a time."""
    spy, dims, count = Spy(), [slot(0), slot(1)], 4
    buffers = [("input", 0, *F32, dims)]
    steps = []
    for i in range(count):
        steps.append(
            (
                "launch",
                kernels["scale"],
                [2 * i, 2 * i + 1],
                [slot(1), 2],
                slot(0),
                1,
                0,
            )
        )
        steps.append(("opaque", spy, [2 * i + 1], [2 * i + 2], "spy", True))
        buffers += [("arena", 0, *F32, dims), ("opaque", 0, *F32, dims)]
    p = plan(
        slots=2,
        inputs=[(*F32, dims)],
        buffers=buffers,
        lifetimes=[(0, 2 * count - 1)] * len(buffers),
        steps=steps,
        outputs=[2 * count],
    )
    x = rand(4, 5)
    expected = x.numpy()
    for _ in range(count):
        expected = 2 * expected + 1
    for _ in range(3):
        same(p.run([x])[0], expected)
    assert len(set(spy.seen)) == 1 and len(pooled(p)) == 1


def attached(t):
    w = paddle.ones([6, 6])
    w.stop_gradient = False
    return paddle.matmul(t, w)


KEPT = []
NOT_REUSED = {
    "not fresh": (lambda t: t + 1, False),
    "returned": (lambda t: t, True),
    "kept": (lambda t: [KEPT.append(t), t + 1][1], True),
    "weakly kept": (lambda t: [KEPT.append(weakref.ref(t)), t + 1][1], True),
    "for gradients": (attached, True),
    "reshaped": (lambda t: t.reshape_([-1]).clone().reshape([5, 6]), True),
}


@pytest.mark.parametrize("why", NOT_REUSED)
def test_operands_that_are_not_used_again(kernels, why):
    call, fresh = NOT_REUSED[why]
    p = fresh_plan(kernels, call, fresh)
    x = rand(5, 6)
    for _ in range(3):
        p.run([x])
        assert pooled(p) == []
    KEPT.clear()


def test_a_view_that_is_kept(kernels):
    dims = [slot(0), slot(1)]
    p = fresh_plan(
        kernels,
        None,
        buffers=[
            ("input", 0, *F32, dims),
            ("arena", 0, *F32, dims),
            ("opaque", 0, *F32, [24]),
            ("alias", 1, *F32, [24]),
        ],
        lifetimes=[(0, 1)] * 4,
        steps=[
            ("launch", kernels["scale"], [0, 1], [slot(1), 2], slot(0), 1, 0),
            ("opaque", lambda t: [KEPT.append(t), t + 1][1], [3], [2], "keep", True),
        ],
    )
    x, y = rand(4, 6), rand(4, 6)
    p.run([x])
    p.run([y])
    same(KEPT[0], 2 * x.numpy().ravel())
    same(KEPT[1], 2 * y.numpy().ravel())
    assert pooled(p) == []
    KEPT.clear()


def test_a_failing_step_keeps_nothing(kernels):
    def fail(t):
        raise KeyError

    p = fresh_plan(kernels, fail)
    for _ in range(3):
        with pytest.raises(KeyError):
            p.run([rand(5, 6)])
        assert pooled(p) == []


def test_spare_operands_are_bounded(kernels):
    p = fresh_plan(kernels, Spy())
    for n in [*range(1, 100), 50, 3, 700, 2]:
        x = rand(n, 7)
        same(p.run([x])[0], 2 * x.numpy() + 1)
        assert sum(4 * t.size for t in pooled(p)) <= 4 * 7 * n
    assert [t.shape for t in pooled(p)] == [[2, 7]]


def test_spare_operands_are_bounded_in_number(kernels):
    count = 100
    buffers = [("input", 0, *F32, [8])] + [("arena", 0, *F32, [8])] * count
    steps = [
        ("launch", kernels["scale"], [0, i], [8, i], 1, 1, 0)
        for i in range(1, count + 1)
    ]
    seen = []

    def see(*tensors):
        seen.append([float(t[0]) for t in tensors])
        return paddle.ones([8])

    steps.append(("opaque", see, list(range(1, count + 1)), [-1], "see", True))
    p = plan(
        inputs=[(*F32, [8])],
        buffers=buffers,
        lifetimes=[(0, count)] * (count + 1),
        steps=steps,
    )
    for _ in range(3):
        p.run([paddle.ones([8])])
        assert len(pooled(p)) == 64
    assert seen == [[float(i) for i in range(1, count + 1)]] * 3


def test_nested_and_concurrent_calls_share_no_operand(kernels):
    wrong, depth = [], threading.local()

    def check(t):
        level = depth.level = getattr(depth, "level", 0) + 1
        before = t.numpy()
        if level < 3:
            p.run([t])
        depth.level -= 1
        if not np.array_equal(t.numpy(), before):
            wrong.append(level)
        return t + 0

    p = fresh_plan(kernels, check)

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(60):
            x = paddle.to_tensor(rng.random([int(rng.integers(1, 5)), 6], "float32"))
            (out,) = p.run([x])
            if not np.array_equal(out.numpy(), 2 * x.numpy()):
                wrong.append(seed)

    pool = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert not wrong


DTYPES = {
    "bool": (6, 8),
    "int8": (0, 8),
    "uint8": (1, 8),
    "int16": (0, 16),
    "int32": (0, 32),
    "int64": (0, 64),
    "float16": (2, 16),
    "float32": (2, 32),
    "float64": (2, 64),
    "bfloat16": (4, 16),
    "complex64": (5, 64),
    "complex128": (5, 128),
    "float8_e4m3fn": (10, 8),
    "float8_e5m2": (12, 8),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_of_any_type(dtype):
    for shape in ([], [1], [0], [3, 0, 2], [2, 3, 4], [1, 5000]):
        p = plan(buffers=[("output", 0, *DTYPES[dtype], shape)], outputs=[0])
        (a,), (b,) = p.run([]), p.run([])
        like = paddle.empty(shape, dtype)
        for t in (a, b):
            assert t.dtype == like.dtype and t.shape == like.shape
            assert t.strides == like.strides and t.is_contiguous()
            assert t.place == like.place and t.stop_gradient and t.is_leaf
            assert t._is_initialized() == like._is_initialized()
            assert t.inplace_version == 0
        assert len({a.name, b.name, like.name}) == 3
        assert a.size == 0 or a.data_ptr() != b.data_ptr()


def test_outputs_act_as_any_tensor(kernels, tmp_path):
    p, x = add_plan(kernels), rand(3, 4)
    expected = 2 * x.numpy()
    (t,) = p.run([x, x])
    for again in (t.clone(), copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        same(again, expected)
    paddle.save({"t": t}, str(tmp_path / "t"))
    same(paddle.load(str(tmp_path / "t"))["t"], expected)
    same(paddle.utils.dlpack.from_dlpack(paddle.utils.dlpack.to_dlpack(t)), expected)
    row = t[1]
    row.add_(paddle.ones([4]))
    expected[1] += 1
    same(t, expected)
    assert t.inplace_version == 1
    t.reshape_([4, 3])
    same(t, expected.reshape(4, 3))
    t.stop_gradient = False
    paddle.matmul(t, t.T).sum().backward()
    sums = expected.reshape(4, 3).sum(0)
    np.testing.assert_allclose(t.grad.numpy(), np.tile(2 * sums, (4, 1)), rtol=1e-5)
    layer = paddle.nn.Linear(4, 2)
    layer.weight.set_value(p.run([rand(4, 2)] * 2)[0])


def test_views_among_outputs_count_changes_together():
    """An op saved one; a change in place through the other must be noticed."""
    p = plan(
        inputs=[(*F32, [6])],
        buffers=[
            ("input", 0, *F32, [6]),
            ("opaque", 0, *F32, [6]),
            ("alias", 1, *F32, [2, 3]),
        ],
        steps=[("opaque", lambda t: t + 1, [0], [1], "add", True)],
        outputs=[1, 2],
    )
    a, b = p.run([rand(6)])
    assert a.data_ptr() == b.data_ptr()
    w = paddle.ones([6])
    w.stop_gradient = False
    loss = (a * w).sum()
    b.add_(paddle.ones([2, 3]))
    assert a.inplace_version == b.inplace_version == 1
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()


def test_views_where_an_axis_of_one_has_an_odd_stride():
    seen = []
    p = plan(
        inputs=[(*F32, [4, 1, 3])],
        buffers=[
            ("input", 0, *F32, [4, 1, 3]),
            ("alias", 0, *F32, [12]),
            ("alias", 0, *I64, [2, 3]),
        ],
        steps=[("opaque", lambda *t: seen.extend(t), [1, 2], [], "see", True)],
    )
    x = rand(4, 3).reshape([1, 4, 3]).transpose([1, 0, 2])
    p.run([x])
    same(seen[0], x.numpy().ravel())
    same(seen[1], x.numpy().ravel().view("int64").reshape(2, 3))
    assert seen[0].data_ptr() == seen[1].data_ptr() == x.data_ptr()


def launches(p, inputs, folder):
    """The kernels that Paddle launches in a steady call, as a trace has them."""
    profiler = paddle.profiler
    for _ in range(3):
        p.run(inputs)
    with profiler.Profiler(
        targets=[profiler.ProfilerTarget.CPU],
        on_trace_ready=profiler.export_chrome_tracing(str(folder)),
    ):
        p.run(inputs)
    (path,) = folder.glob("*.json")
    events = json.loads(path.read_text())["traceEvents"]
    found = [e["name"] for e in events if "kernel launch" in e.get("name", "")]
    return [name.split(" kernel launch")[0] for name in found]


def test_a_trace_shows_no_kernel_but_matmul(kernels, tmp_path):
    n, m = slot(0), slot(1)
    p = plan(
        slots=3,
        inputs=[(*F32, [n, m]), (*F32, [m, n])],
        segments=[[(3, 2, n, m)]],
        buffers=[
            ("input", 0, *F32, [n, m]),
            ("input", 1, *F32, [m, n]),
            ("arena", 0, *F32, [n, m]),
            ("opaque", 0, *F32, [n, n]),
            ("output", 0, *F32, [n, n]),
            ("alias", 2, *F32, [m, n]),
            ("alias", 1, *F32, [n, m]),
            ("opaque", 0, *F32, [m, m]),
            ("alias", 7, *F32, [1, m, m]),
            ("alias", 3, *F32, [1, n, n]),
        ],
        lifetimes=[(0, 3)] * 10,
        steps=[
            ("launch", kernels["scale"], [0, 2], [m, 2], n, 1, 0),
            ("opaque", matmul, [2, 1], [3], "pd_op.matmul", True),
            ("launch", kernels["scale"], [3, 4], [n, 10], n, 1, 0),
            ("opaque", matmul, [5, 6], [7], "pd_op.matmul", True),
        ],
        outputs=[4, 8, 3, 9],
    )
    x, y = rand(5, 7), rand(7, 5)
    assert launches(p, [x, y], tmp_path) == ["matmul", "matmul"]
    out, other, product, view = p.run([x, y])
    expected = 2 * x.numpy() @ y.numpy()
    np.testing.assert_allclose(product.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(out.numpy(), 10 * expected, rtol=1e-5)
    same(view, product.numpy()[None])
    expected = 2 * x.numpy().reshape(7, 5) @ y.numpy().reshape(5, 7)
    np.testing.assert_allclose(other.numpy(), expected[None], rtol=1e-5)


def matmul(x, y):
    return paddle._C_ops.matmul(x, y, False, False)


# ---- concurrency ----


def test_runs_nest(kernels):
    depth = []

    def again(t):
        depth.append(t)
        return p.run([t])[0] if len(depth) < 5 else t + 0

    p = chain_plan(kernels, again, [slot(0), slot(1)])
    x = rand(3, 4)
    same(p.run([x])[0], 32 * x.numpy())


@pytest.mark.parametrize("build", [add_plan, chain_plan], ids=["launch", "opaque"])
def test_eight_threads(kernels, build):
    if build is chain_plan:
        p = chain_plan(kernels, lambda t: t, [slot(0), slot(1)])
    else:
        p = add_plan(kernels)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(100):
            shape = [int(n) for n in rng.integers(1, 60, 2)]
            x = paddle.to_tensor(rng.random(shape, "float32"))
            (out,) = p.run([x] if build is chain_plan else [x, x])
            if not np.array_equal(out.numpy(), 2 * x.numpy()):
                wrong.append(shape)

    pool = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert not wrong and p.stats()["calls"] == 800


# ---- leaks ----


def resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def test_no_leaks(kernels):
    plans = [add_plan(kernels), chain_plan(kernels, lambda t: t, [slot(0), slot(1)])]
    x = rand(64, 64).transpose([1, 0])
    before = sys.getrefcount(x)

    def run(times):
        for _ in range(times):
            plans[0].run([x, x])
            plans[1].run([x])
            plans[0].run([x, rand(3, 3)])

    run(500)
    start = resident()
    run(5000)
    assert sys.getrefcount(x) == before
    assert resident() - start < 4 << 20


def test_plans_are_collected(kernels):
    class Callback:
        def __call__(self, t):
            return t

    alive = []
    for _ in range(20):
        callback = Callback()
        callback.plan = chain_plan(kernels, callback, [slot(0), slot(1)])
        callback.plan.run([rand(2, 2)])
        alive.append(weakref.ref(callback))
    del callback
    gc.collect()
    assert not any(ref() for ref in alive)


# ---- specs ----


def nop(*_):
    return None


ARENA = [("arena", 0, *F32, [4])]
TWO = [("opaque", 0, *F32, [slot(0)]), ("alias", 0, *F32, [4])]
SEE = ("opaque", nop, [], [0], "see", False)
BAD_SPECS = {
    "unknown key": dict(stepz=[]),
    "stands for no slot": dict(inputs=[(*F32, [slot(0)])]),
    "slot 0 is read before it is set": dict(slots=1, guards=[(0, slot(0), 1)]),
    "slot 0 is set twice": dict(
        slots=1, inputs=[(*F32, [slot(0)])], segments=[[(0, 0, 1, 0)]]
    ),
    "slot 0 is never set": dict(slots=1, buffers=TWO),
    "run in a circle": dict(buffers=[("alias", 1, *F32, [1]), ("alias", 0, *F32, [1])]),
    "not of the type and rank": dict(
        inputs=[(*F32, [4])], buffers=[("input", 0, *I64, [4])]
    ),
    "is no range": dict(buffers=ARENA),
    "outside its lifetime": dict(
        buffers=ARENA, steps=[("opaque", nop, [i], [], "f", False) for i in (0, 0)]
    ),
    "before an opaque step returns": dict(
        buffers=[("opaque", 0, *F32, [4])], steps=[("opaque", nop, [0], [], "f", False)]
    ),
    "is returned twice": dict(buffers=[("opaque", 0, *F32, [4])], steps=[SEE, SEE]),
    "no tensors of DLPack type 1, 32 bits": dict(buffers=[("output", 0, 1, 32, [4])]),
    "is not opaque": dict(buffers=ARENA, steps=[SEE]),
    "no tensor of its own": dict(
        buffers=ARENA, steps=[("opaque", nop, [0], [], "f", False)], outputs=[0]
    ),
    "no step returns": dict(buffers=[("opaque", 0, *F32, [4])], outputs=[0]),
    "has no axis 1": dict(
        slots=2,
        buffers=[("opaque", 0, *F32, [slot(0)])],
        steps=[SEE, ("bind", [(0, 1, 0)], -1)],
    ),
    "size of buffer 1 is not known yet": dict(
        slots=2,
        buffers=[("opaque", 0, *F32, [slot(0)]), ("output", 0, *F32, [slot(0)])],
        steps=[SEE, ("launch", 1, [1], [], 1, 1, 0), ("bind", [(0, 0, 0)], -1)],
    ),
    "not listed as written": dict(
        inputs=[(*F32, [4])],
        buffers=[("input", 0, *F32, [4])],
        steps=[("write", 0, 0)],
    ),
    "the kernel has no address": dict(steps=[("launch", 0, [], [], 1, 1, 0)]),
    "unknown kind": dict(steps=[("call", 0)]),
    "expected 7 items": dict(steps=[("launch", 0)]),
    "an empty step": dict(steps=[()]),
    "expected a bool": dict(steps=[("opaque", nop, [], [], "f", 1)]),
    "expected a callable": dict(steps=[("opaque", 5, [], [], "f", False)]),
    "8, 16, 32": dict(inputs=[(2, 24, [])]),
    "too many dims": dict(inputs=[(2, 32, [1] * 17)]),
    "expected a list": dict(inputs=7),
    "beyond 64 bits": dict(inputs=[(2, 32, [2**70])]),
    "listed twice": dict(inputs=[(*F32, [4])], written=[0, 0]),
    "expected 1 items, got 2": dict(buffers=ARENA, lifetimes=[(0, 0)] * 2),
}


@pytest.mark.parametrize("why", BAD_SPECS)
def test_bad_specs(why):
    with pytest.raises(ValueError, match=why):
        plan(**BAD_SPECS[why])


def test_missing_keys():
    whole = dict(slots=0, inputs=[], segments=[], guards=[], written=[], buffers=[])
    whole |= dict(lifetimes=[], steps=[], outputs=[])
    _native.Plan(whole)
    for key in whole:
        with pytest.raises(ValueError, match=f"{key}: missing"):
            _native.Plan({k: v for k, v in whole.items() if k != key})
    with pytest.raises(TypeError):
        _native.Plan([])


def mutate(rng, value):
    """`value` with one int, somewhere inside, replaced."""
    if isinstance(value, list | tuple) and value:
        at = rng.randrange(len(value))
        items = list(value)
        items[at] = mutate(rng, items[at])
        return type(value)(items)
    if isinstance(value, int):
        return rng.choice([-99, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 2**31, 2**63, "x"])
    return value


def test_no_index_crashes():
    """Specs with one number wrong are refused, or run and raise, or are harmless."""
    dims, found = [slot(0), slot(1)], [slot(2), 2]
    spec = dict(
        slots=4,
        inputs=[(*F32, dims), (*F32, dims)],
        segments=[[], [(3, 3, slot(2), 2)]],
        guards=[(2, slot(0), 1)],
        written=[1],
        buffers=[
            ("input", 0, *F32, dims),
            ("opaque", 0, *I64, found),
            ("arena", 0, *F32, found),
            ("alias", 1, *I64, [slot(3)]),
            ("arena", 0, *F32, dims),
            ("output", 0, *F32, [slot(3)]),
        ],
        lifetimes=[(0, 0), (0, 2), (2, 2), (0, 2), (0, 3), (3, 3)],
        steps=[
            ("opaque", lambda *t: paddle.nonzero(t[0]), [0, 4], [1], "nonzero", False),
            ("bind", [(1, 0, 2)], 1),
            ("opaque", nop, [2, 3], [], "see", False),
            ("write", 4, 1),
        ],
        outputs=[1, 3, 5, 0],
    )
    rng = random.Random(1)
    inputs = [paddle.ones([2, 3]), rand(2, 3)]
    assert _native.Plan(spec).run(inputs) is not None
    refused = 0
    for _ in range(3000):
        key = rng.choice(list(spec))
        changed = spec | {key: mutate(rng, spec[key])}
        try:
            built = _native.Plan(changed)
        except ValueError:
            refused += 1
            continue
        with contextlib.suppress(TypeError, RuntimeError, MemoryError, ValueError):
            built.run(inputs)
    assert refused > 1000


def test_threads():
    _native.set_threads(3)
    assert _native.get_threads() == 3
    for count in (0, -1, 5000):
        with pytest.raises(ValueError):
            _native.set_threads(count)
    with pytest.raises(TypeError):
        _native.init(5)
