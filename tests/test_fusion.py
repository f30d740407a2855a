"""What fuses into one kernel, what does not and why; each pass keeps the meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.static import InputSpec

import pirol
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import TensorType
from pirol.compiler.pipeline import fusible
from pirol.passes.fuse import fuse
from pirol.prim import Builder

ROWS, WIDTH = 6, 40


def softmax(x: Any) -> Any:
    return F.softmax(x)


def layer_norm(x: Any, scale: Any, bias: Any) -> Any:
    return F.layer_norm(x, [WIDTH], scale, bias)


def bias_gelu(x: Any, bias: Any) -> Any:
    return F.gelu(x + bias)


def residual_norm(x: Any, y: Any, scale: Any, bias: Any) -> Any:
    total = x + y
    return total, F.layer_norm(total, [WIDTH], scale, bias)


def norm_relu_add(x: Any, y: Any, mean: Any, var: Any, scale: Any, bias: Any) -> Any:
    return F.relu(F.batch_norm(x, mean, var, scale, bias) + y)


MATRIX, VECTOR = [None, WIDTH], [WIDTH]
IMAGE, CHANNELS = [None, 3, 5, 7], [3]
CASES: list[tuple[Any, list[Any]]] = [
    (softmax, [MATRIX]),
    (layer_norm, [MATRIX, VECTOR, VECTOR]),
    (bias_gelu, [MATRIX, VECTOR]),
    (residual_norm, [MATRIX, MATRIX, VECTOR, VECTOR]),
    (norm_relu_add, [IMAGE, IMAGE, *[CHANNELS] * 4]),
]


def tensors(shapes: list[Any]) -> list[Any]:
    """Positive numbers, so that they serve as variances too."""
    return [paddle.rand([ROWS if d is None else d for d in s]) + 0.1 for s in shapes]


@pytest.mark.parametrize(
    "function, shapes", CASES, ids=lambda c: getattr(c, "__name__", "")
)
def test_one_kernel_and_one_meaning_at_every_stage(function: Any, shapes: Any) -> None:
    specs = [InputSpec(list(s), "float32", f"x{k}") for k, s in enumerate(shapes)]
    fast = pirol.to_static(function, input_spec=specs, strict=True)
    given = tensors(shapes)
    ours, theirs = fast(*given), function(*given)
    ours, theirs = ([v] if isinstance(v, paddle.Tensor) else v for v in (ours, theirs))
    report = pirol.explain(fast)
    assert len(report.groups) == 1 and not report.refusals and not report.library
    order = [t.numpy() for t in given]
    for name, graph in report.stages.items():
        if name == "capture":
            continue
        for a, b in zip(interpret(graph, order), theirs):
            np.testing.assert_allclose(a, b.numpy(), rtol=2e-5, atol=2e-6, err_msg=name)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-5, atol=2e-6)


def built(make: Any, *shapes: tuple[Any, ...]) -> Any:
    b = Builder()
    inputs = [b.input(TensorType(s, "float32")) for s in shapes]
    return b.graph("test", make(b, *inputs))


def groups(graph: Any) -> tuple[int, set[str]]:
    fused, refused = fuse(graph, fusible)
    return len(fused.ops), {r.code for r in refused}


def test_reductions_over_other_axes_do_not_share_a_kernel() -> None:
    def make(b: Any, x: Any) -> Any:
        e = b.exp(x)
        return [b.reduce_sum(e, axes=(0,)), b.reduce_max(e, axes=(1,))]

    count, codes = groups(built(make, (8, 16)))
    assert count == 2 and codes == {"domains differ"}


def test_a_costly_value_is_not_computed_for_each_reader() -> None:
    def make(b: Any, x: Any) -> Any:
        return [b.broadcast(b.exp(x), shape=(64, 32), dims=(1,))]

    count, codes = groups(built(make, (32,)))
    assert count == 2 and codes == {"recompute"}


def test_a_cycle_is_refused() -> None:
    """Two adds with an opaque step between them cannot be one kernel."""

    def make(b: Any, x: Any) -> Any:
        first = b.add(x, 1.0)
        middle = b.op("opaque", [first], [first.type], {"callee": "pd_op.sort"}).result
        return [b.add(first, middle)]

    graph = built(make, (4, 8))
    fused, refused = fuse(graph, fusible)
    assert [op.name for op in fused.ops] == ["group", "opaque", "group"]
    assert {r.code for r in refused} == {"cycle", "library"}
    x = np.random.default_rng(0).normal(size=(4, 8)).astype("f")
    for g in (graph, fused):
        (found,) = interpret(g, [x], opaque=lambda op, given: [np.sort(given[0])])
        np.testing.assert_array_equal(found, (x + 1) + np.sort(x + 1))


def test_a_contraction_takes_what_follows_and_nothing_before() -> None:
    """Its operands would be computed again for each row or column of the other."""

    def make(b: Any, x: Any, y: Any) -> Any:
        product = b.dot_general(
            b.exp(x), y, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(0,)
        )
        return [b.tanh(b.transpose(b.add(product, 1.0), perm=(1, 0)))]

    assert groups(built(make, (3, 4), (4, 5))) == (2, {"recompute"})


def test_two_contractions_are_two_kernels() -> None:
    def make(b: Any, x: Any, y: Any) -> Any:
        def dot(a: Any, c: Any) -> Any:
            return b.dot_general(a, c, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(0,))

        first = dot(x, y)
        return [b.add(first, dot(first, y))]

    count, codes = groups(built(make, (4, 4), (4, 4)))
    assert count == 2 and "domains differ" in codes


def test_views_fold_into_loads() -> None:
    def make(b: Any, x: Any) -> Any:
        y = b.transpose(b.reshape(x, shape=(6, 4, 10)), perm=(1, 0, 2))
        y = b.slice(y, starts=(0, 1, 2), sizes=(4, 2, 3), steps=(1, 2, 2))
        return [b.mul(y, 2.0)]

    assert groups(built(make, (6, 40))) == (1, set())


def sizes_only(x: Any) -> Any:
    return paddle.full([paddle.nonzero(x > 0).shape[0], 2], 3.0)


def test_a_size_is_bound_though_the_value_is_not_read() -> None:
    fast = pirol.to_static(sizes_only, input_spec=[InputSpec([None, 4])])
    for rows in (3, 1):
        x = paddle.randn([rows, 4])
        np.testing.assert_array_equal(fast(x).numpy(), sizes_only(x).numpy())
    assert pirol.explain(fast).compiles == 1


def parted(x: Any, w: Any) -> Any:
    """A product that three read as parts of it, in another shape and order."""
    parts = (x @ w).reshape([-1, 3, 8]).transpose([1, 0, 2])
    return [paddle.nn.functional.softmax(parts[k]) for k in range(3)]


def twice(x: Any, w: Any) -> Any:
    """A half that two norms read, each of which widens it."""
    half = (x * 2.0).astype("bfloat16") + w.astype("bfloat16")
    return half.max(axis=0), paddle.nn.functional.softmax(half)


@pytest.mark.parametrize("function, dtype", [(parted, "float32"), (twice, "bfloat16")])
def test_what_many_read_is_written_once(function: Any, dtype: str) -> None:
    """Views, and halves that are widened, go with their readers."""
    fast = pirol.to_static(function, strict=True)
    x, w = paddle.randn([16, 24]), paddle.randn([24, 24])
    fast(x, w if function is parted else w[:16])
    graph = pirol.explain(fast).stages["fuse"]
    first = next(op for op in graph.ops if op.name == "group")
    whole = [v.type for v in first.results if v.type.rank == 2]
    assert whole == [TensorType((16, 24), dtype)]
