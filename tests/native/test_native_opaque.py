"""Native plans: opaque steps, what they bind, alias and return."""

import gc
import sys
import weakref

import numpy as np
import paddle
import pytest
from native_plans import F32, I64, chain_plan, plan, rand, same, slot

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
            ("bind", [(1, 0, 2, False)], 1),
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


def items_plan(kernels, source, **changes):
    """x, n -> x scaled by n[0] * n[1]; `source` makes n from the second input."""
    return plan(
        slots=3,
        inputs=[(*F32, [4]), (*I64, [2])],
        segments=[[], [(3, 2, slot(0), slot(1))]],
        guards=[(2, slot(2), 6)],
        buffers=[
            ("input", 0, *F32, [4]),
            ("input", 1, *I64, [2]),
            ("opaque", 0, *I64, [2]),
            ("output", 0, *F32, [4]),
        ],
        lifetimes=[(0, 0)] * 4,
        steps=[
            ("opaque", source, [1], [2], "source", False),
            ("bind", [(2, 0, 0, True), (2, 1, 1, True)], 1),
            ("launch", kernels["scale"], [0, 3], [4, slot(2)], 1, 1, 0),
        ],
        outputs=[3],
        **changes,
    )


@pytest.mark.parametrize("strided", [False, True])
def test_items_of_a_result(kernels, strided):
    def source(n):
        return paddle.stack([n, n], 1)[:, 0] if strided else n + 0

    p, x = items_plan(kernels, source), rand(4)
    for pair in ([2, 3], [5, 4]):
        (out,) = p.run([x, paddle.to_tensor(pair)])
        same(out, pair[0] * pair[1] * x.numpy())
        assert p.learned() is None
    assert p.run([x, paddle.to_tensor([2, 2])]) is None
    assert p.miss() == "guard 0: not 4 >= 6" and p.learned() == ([2, 2, 4], -1, [])
    assert p.run([x, paddle.to_tensor([-2, 3])]) is None
    assert p.miss().startswith("guard: item 0 of 2 is -2")
    assert p.learned() == ([-2, 3, -6], -1, [])


def test_a_result_of_another_shape_is_a_miss(kernels):
    p = items_plan(kernels, lambda n: paddle.concat([n, n]))
    assert p.run([rand(4), paddle.to_tensor([2, 3])]) is None
    assert p.learned() == ([None] * 3, 2, [4])


def test_items_of_inputs(kernels):
    p = plan(
        slots=2,
        inputs=[(*F32, [4]), (0, 32, [2, 2])],
        contents=[(1, 3, 0), (1, 1, (-5,))],
        segments=[[(3, 1, slot(0), 10)]],
        guards=[(3, slot(0), 100)],
        buffers=[("input", 0, *F32, [4]), ("output", 0, *F32, [4])],
        steps=[("launch", kernels["scale"], [0, 1], [4, slot(1)], 1, 1, 0)],
        outputs=[1],
    )
    x = rand(4)
    for numbers in (paddle.to_tensor, lambda n: paddle.to_tensor(n).T.contiguous().T):
        (out,) = p.run([x, numbers([[1, -5], [9, 3]]).astype("int32")])
        same(out, 30 * x.numpy())
    for wrong in ([[1, -4], [9, 3]], [[1, -5], [9, -1]], [[1, -5], [9, 100]]):
        assert p.run([x, paddle.to_tensor(wrong, dtype="int32")]) is None
        assert p.miss().startswith("guard") and p.learned() is None


def test_results_are_freed_after_their_last_use():
    """Of three in a row, each sees only the one before it alive."""
    made, alive = [], []

    def step(x):
        alive.append([r() is not None for r in made])
        result = x + 1.0
        made.append(weakref.ref(result))
        return result

    opaque = ("opaque", 0, *F32, [4])
    p = plan(
        inputs=[(*F32, [4])],
        buffers=[("input", 0, *F32, [4]), *[opaque] * 4],
        lifetimes=[(0, 3)] * 5,
        steps=[("opaque", step, [k], [k + 1], "step", True) for k in range(4)],
        outputs=[4],
    )
    (out,) = p.run([paddle.zeros([4])])
    same(out, np.full(4, 4.0))
    assert alive == [[], [True], [False, True], [False, False, True]]
