"""Native plans: launches, guards, strides and writes, concurrency, leaks."""

import gc
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import paddle
import pytest
from native_plans import F32, I64, add_plan, chain_plan, plan, rand, same, slot

from pirol.compiler import _native

# ---- launches ----


def test_add_at_several_shapes(kernels):
    p = add_plan(kernels)
    for shape in [(3, 4), (1, 1), (64, 33), (3, 4)]:
        x, y = rand(*shape), rand(*shape)
        (out,) = p.run([x, y])
        same(out, x.numpy() + y.numpy())
    nothing = dict.fromkeys(("arena_bytes", "graphs", "replays", "strips"), 0)
    assert p.stats() == {"calls": 4, "layouts": 3, **nothing}


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


# ---- checks ----


def test_a_false_check_ends_the_call():
    p = plan(
        inputs=[(6, 8, [])],
        buffers=[("input", 0, 6, 8, [])],
        steps=[("check", 0, "an index is out of range")],
    )
    assert p.run([paddle.to_tensor(True)]) == []
    with pytest.raises(RuntimeError, match="an index is out of range"):
        p.run([paddle.to_tensor(False)])
    assert p.run([paddle.to_tensor(True)]) == []
