"""Functions and Layers from Paddle to compiled plan: results, guards, fallbacks."""

from __future__ import annotations

import threading
import warnings
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

import pirol
from pirol.compiler.capture import ops, plans
from pirol.compiler.errors import PirolWarning

warnings.simplefilter("ignore", PirolWarning)


def spec(*shapes: Any, dtype: str = "float32") -> list[Any]:
    return [InputSpec(list(s), dtype, f"x{k}") for k, s in enumerate(shapes)]


def close(ours: Any, theirs: Any) -> None:
    assert ours.dtype == theirs.dtype and list(ours.shape) == list(theirs.shape)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


def affine(x: Any, w: Any) -> Any:
    return paddle.nn.functional.gelu(x @ w + 1.0), x.sum(axis=-1)


def test_function_at_many_sizes_compiles_once() -> None:
    fast = pirol.to_static(affine, input_spec=spec([None, 8], [8, 5]), strict=True)
    w = paddle.randn([8, 5])
    for n in (3, 1, 0, 7, 131):
        x = paddle.randn([n, 8])
        for a, b in zip(fast(x, w), affine(x, w)):
            close(a, b)
    report = pirol.explain(fast)
    assert report.compiles == 1
    assert report.coverage[0] == report.coverage[1] > 0
    assert not report.fallbacks


def plus(x: Any, y: Any) -> Any:
    return paddle.exp(x) * y


def test_broadcast_classes_are_plans_of_their_own() -> None:
    fast = pirol.to_static(plus, input_spec=spec([None, None], [None, None]))
    shapes = [((3, 4), (3, 4)), ((1, 4), (3, 4)), ((3, 4), (3, 1)), ((2, 1), (1, 5))]
    for a, b in shapes * 2:
        x, y = paddle.randn(a), paddle.randn(b)
        close(fast(x, y), plus(x, y))
    assert pirol.explain(fast).compiles == len(shapes)


def test_other_dtype_or_rank_is_still_served() -> None:
    fast = pirol.to_static(plus)
    for dtype in ("float32", "float64"):
        x = paddle.randn([2, 3]).astype(dtype)
        close(fast(x, x), plus(x, x))


def squeezed(x: Any) -> Any:
    return (x * 2.0).sum(-1, keepdim=True).squeeze() + 1.0


def test_a_size_that_is_squeezed_only_if_it_is_one() -> None:
    """Paddle declares that it stays: a call in which it goes is Paddle's."""
    fast = pirol.to_static(squeezed, input_spec=spec([None, 4]))
    for n in (7, 5, 2):
        x = paddle.randn([n, 4])
        close(fast(x), squeezed(x))
    assert pirol.explain(fast).compiles == 1 and not pirol.explain(fast).fallbacks
    for n in (1, 0, 3):
        x = paddle.randn([n, 4])
        close(fast(x), squeezed(x))


def picked(x: Any) -> Any:
    places = paddle.nonzero(x > 0)
    return places, (places.astype("float32") * 2.0).sum(axis=0) + x.sum()


def test_output_size_that_depends_on_data() -> None:
    fast = pirol.to_static(picked, input_spec=spec([None, 4]))
    for x in (paddle.randn([5, 4]), -paddle.ones([2, 4]), paddle.ones([3, 4])):
        for a, b in zip(fast(x), picked(x)):
            close(a, b)
    report = pirol.explain(fast)
    assert report.compiles == 1
    assert [f.op for f in report.fallbacks] == ["pd_op.nonzero"]
    assert report.fallbacks[0].line.startswith("test_capture.py:")


def accumulate(x: Any, total: Any) -> Any:
    before = total * 1.0
    paddle.assign(total + x, output=total)
    return before, total * 2.0


@pytest.mark.parametrize("strided", [False, True])
def test_input_written_in_place(strided: bool) -> None:
    fast = pirol.to_static(
        accumulate, input_spec=spec([None, 3], [None, 3]), strict=True
    )
    for n in (2, 1, 5):
        base = paddle.arange(n * 6, dtype="float32").reshape([n, 6])
        total = base[:, ::2] if strided else base[:, ::2].contiguous()
        assert total.is_contiguous() == (
            not strided or n == 1 and total.is_contiguous()
        )
        x, start = paddle.randn([n, 3]), total.numpy().copy()
        before, double = fast(x, total)
        np.testing.assert_array_equal(before.numpy(), start)
        np.testing.assert_allclose(total.numpy(), start + x.numpy(), rtol=1e-6)
        np.testing.assert_allclose(double.numpy(), 2 * total.numpy(), rtol=1e-6)
        if strided:
            np.testing.assert_array_equal(base.numpy()[:, ::2], total.numpy())
    assert pirol.explain(fast).compiles == 1


def test_written_input_that_overlaps_another_is_paddles() -> None:
    fast = pirol.to_static(accumulate, input_spec=spec([None, 3], [None, 3]))
    fast(paddle.ones([2, 3]), paddle.ones([2, 3]))
    both = paddle.ones([2, 3])
    _, double = fast(both, both)
    np.testing.assert_array_equal(both.numpy(), np.full([2, 3], 2.0, "float32"))
    np.testing.assert_array_equal(double.numpy(), np.full([2, 3], 4.0, "float32"))
    assert any("shares memory" in f.why for f in pirol.explain(fast).fallbacks)


def test_strided_inputs() -> None:
    fast = pirol.to_static(plus, input_spec=spec([None, 4], [None, 4]), strict=True)
    x, y = paddle.randn([4, 6]).T[1:5], paddle.randn([8, 8])[::2, 1::2]
    assert not x.is_contiguous() and not y.is_contiguous()
    close(fast(x, y), plus(x.contiguous(), y.contiguous()))


def eighths(x: Any) -> Any:
    return x.astype("float8_e4m3fn").astype("float32") * 2.0


def test_programs_of_dtypes_that_are_not_known_are_paddles() -> None:
    fast = pirol.to_static(eighths)
    x = paddle.randn([3, 4])
    close(fast(x), eighths(x))
    (fallback,) = pirol.explain(fast).fallbacks
    assert "float8_e4m3fn" in fallback.why


def looked_up(table: Any, places: Any) -> Any:
    return paddle.nn.functional.embedding(places, table) * 2.0


def test_a_step_that_fails_is_paddles_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    table, good = paddle.randn([5, 3]), paddle.to_tensor([0, 4])
    specs = [InputSpec([5, 3]), InputSpec([None], "int64")]
    fast = pirol.to_static(looked_up, input_spec=specs)
    close(fast(table, good), looked_up(table, good))
    with pytest.raises(ValueError, match="5"):  # Paddle's own words on a bad index
        fast(table, paddle.to_tensor([0, 9]))
    close(fast(table, good), looked_up(table, good))
    assert any("a step failed" in f.why for f in pirol.explain(fast).fallbacks)

    wrong = pirol.to_static(looked_up, input_spec=specs)
    with monkeypatch.context() as patch:
        patch.setattr(ops, "_as_program", lambda site: lambda *given: given[0])
        close(wrong(table, good), looked_up(table, good))
    close(wrong(table, good), looked_up(table, good))
    assert pirol.explain(wrong).compiles == 1


def of_integers(x: Any, y: Any) -> Any:
    """To Paddle's program log1p gives integers here, to eager floats."""
    return paddle.logaddexp(x, y) * 2.0


@paddle.jit.not_to_static  # type: ignore[untyped-decorator]
def expanded(x: Any, y: Any) -> Any:
    """The program expands y to sizes of -1."""
    return y.expand([int(d) for d in x.shape])


def widened(x: Any, y: Any) -> Any:
    return x * expanded(x, y)


def logged(x: Any, y: Any) -> Any:
    x[0] = 1
    return paddle.logaddexp(x, y)


def test_what_fails_in_paddles_program_alone_runs_as_eager() -> None:
    """Once a call, and no more by that program; where eager fails too, and where the
    program writes to what it is given, the error is the program's."""
    whole = paddle.to_tensor([[1, 2], [3, 4]]), paddle.to_tensor([2, 1])
    rows = [InputSpec([None, None], stop_gradient=False), InputSpec([None])]
    for function, spec, dtype in (
        (of_integers, None, "int64"),
        (widened, rows, "float32"),
    ):
        fast = pirol.to_static(function, input_spec=spec)
        x, y = (t.astype(dtype) for t in whole)
        x.stop_gradient = spec is None
        for _ in range(2):
            close(fast(x, y), function(x, y))
        (fallback,) = [f for f in pirol.explain(fast).fallbacks if "run of" in f.why]
        assert "fails" in fallback.why
        if spec:
            fast(x, y).sum().backward()
            assert x.grad is not None
    with pytest.raises(ValueError, match="3"):
        pirol.to_static(of_integers)(whole[0], paddle.to_tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="retrieve"):
        pirol.to_static(logged)(*whole)
    with pytest.raises(Exception, match="two dtypes"):
        pirol.to_static(of_integers, strict=True)(*whole)


def test_a_failed_call_is_forgotten_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call that Paddle runs for another reason says nothing of the failed one."""
    good, bad = paddle.to_tensor([0, 4]), paddle.to_tensor([0, 9])
    plain = paddle.nn.Sequential(paddle.nn.Embedding(5, 3), paddle.nn.GELU())
    expected = plain(good)
    fast = pirol.to_static(plain, input_spec=[InputSpec([None], "int64")])
    with paddle.no_grad():
        close(fast(good), expected)
        with pytest.raises(ValueError, match="5"):
            fast(bad)
    fast(good).sum().backward()
    served, quick = [], plans.Plans.quick
    monkeypatch.setattr(plans.Plans, "quick", lambda *a: served.append(1) or quick(*a))
    with paddle.no_grad():
        close(fast(good), expected)
    assert served


class Block(paddle.nn.Layer):
    """A small residual block, as users write them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = paddle.nn.LayerNorm(8)
        self.up = paddle.nn.Linear(8, 16)
        self.down = paddle.nn.Linear(16, 8)
        self.drop = paddle.nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        hidden = paddle.nn.functional.gelu(self.up(self.norm(x)))
        return x + self.drop(self.down(hidden))


def test_layer_stays_a_layer_and_sees_new_parameters() -> None:
    layer = Block()
    layer.eval()
    x = paddle.randn([3, 8])
    expected = layer(x)
    fast = pirol.to_static(layer, input_spec=spec([None, 8]), strict=True)
    assert fast is layer and isinstance(fast, paddle.nn.Layer)
    close(fast(x), expected)
    fast.down.bias.set_value(fast.down.bias + 1.0)
    close(fast(x), expected + 1.0)
    assert pirol.explain(fast).compiles == 1


def test_one_warning_and_strict() -> None:
    fast = pirol.to_static(picked, input_spec=spec([None, 4]))
    with pytest.warns(PirolWarning, match="nonzero") as caught:
        fast(paddle.randn([5, 4]))
        fast(paddle.randn([6, 4]))
    assert len([w for w in caught if w.category is PirolWarning]) == 1
    strict = pirol.to_static(picked, input_spec=spec([None, 4]), strict=True)
    with pytest.raises(pirol.StrictError, match=r"nonzero at test_capture.py:\d+"):
        strict(paddle.randn([5, 4]))


def same(x: Any) -> Any:
    return x, x.reshape([-1]), x + 0.0


def test_outputs_that_are_inputs() -> None:
    fast = pirol.to_static(same, input_spec=spec([None, 4]), strict=True)
    x = paddle.randn([3, 4])
    alias, flat, copy = fast(x)
    for a, b in zip((alias, flat, copy), same(x)):
        close(a, b)
    assert alias is not x
    assert flat.data_ptr() != x.data_ptr() != copy.data_ptr()


def test_sot_serves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIN_GRAPH_SIZE", "0")  # else SOT runs small graphs eagerly
    fast = pirol.to_static(plus, full_graph=False)
    x, y = paddle.randn([3, 4]), paddle.randn([3, 4])
    close(fast(x, y), plus(x, y))
    assert pirol.explain(fast).compiles == 1


def test_threads_share_a_compiled_function() -> None:
    fast = pirol.to_static(affine, input_spec=spec([None, 8], [8, 5]))
    w, wrong = paddle.randn([8, 5]), []

    def work(seed: int) -> None:
        x = paddle.to_tensor(np.random.default_rng(seed).normal(size=(seed + 1, 8)))
        x = x.astype("float32")
        expected = affine(x, w)[0].numpy()
        for _ in range(20):
            if not np.allclose(fast(x, w)[0].numpy(), expected, rtol=1e-5, atol=1e-6):
                wrong.append(seed)

    fast(paddle.randn([2, 8]), w)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Pair(NamedTuple):
    first: Any
    rest: Any


def named(x: Any) -> Any:
    return Pair(x * 2.0, [Pair(x, x + 1.0), paddle.topk(x, 2)])


def best(x: Any) -> Any:
    return paddle.topk(x, 2)


@pytest.mark.parametrize("later", [False, True])
def test_named_tuples_come_back_as_such(later: bool) -> None:
    how = "async" if later else "sync"  # the first calls are Paddle's, or ours
    x = paddle.randn([4, 3])
    pair, two = pirol.to_static(named, compile=how), pirol.to_static(best, compile=how)
    for _ in range(3):
        found = pair(x)
        assert type(found) is Pair and type(found.rest[0]) is Pair
        kinds = {type(found.rest[1]), type(two(x))}
        assert kinds == {type(paddle.topk(x, 2))}
        close(found.first, x * 2.0)


def test_explain_of_something_else() -> None:
    with pytest.raises(
        pirol.PirolError, match="expected what pirol.to_static returned"
    ):
        pirol.explain(lambda x: x)


def test_explain_prints_groups_refusals_and_kernels() -> None:
    def weighed(x: Any, w: Any) -> Any:
        return paddle.nn.functional.softmax(x @ w + 1.0)

    fast = pirol.to_static(weighed, input_spec=spec([None, 8], [8, 5]))
    fast(paddle.randn([2, 8]), paddle.randn([8, 5]))
    report = pirol.explain(fast)
    assert report.groups and not report.library
    assert "domains differ" in {r.code for r in report.refusals}
    assert all(name in text for name, text in report.kernels.items())
    text = str(report)
    assert "dot_general" in text and "groups: 2" in text
