"""Native plans: operand tensors used again, views, outputs without a kernel."""

import copy
import gc
import json
import pickle
import threading
import weakref

import numpy as np
import paddle
import pytest
from native_plans import F32, I64, add_plan, chain_plan, plan, rand, same, slot

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
