"""Small groups of one shape that need nothing of each other become one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
import planted
import pytest
from cuda_simulator import Simulator, SimulatorError, has_compiler
from graph_meaning import same_bits
from graph_runs import Step, cuda_text, launch_cuda, steps_of

import pirol
from pirol.compiler.dims import symbol
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, Op, TensorType, Value
from pirol.compiler.pipeline import fusible
from pirol.compiler.text import parse_graph
from pirol.compiler.verify import verify
from pirol.kernels.render import CUDA
from pirol.passes import siblings as module
from pirol.passes.fuse import fuse
from pirol.passes.siblings import siblings
from pirol.prim import Builder

needs_simulator = pytest.mark.skipif(not has_compiler(), reason="the simulator: g++")


def updates(count: int = 6, size: Any = 8, rounds: int = 1) -> Graph:
    """Decays of tensors, by factors of which there is one each."""
    b = Builder()
    given = [b.input(TensorType((size,), "float32")) for _ in range(count)]
    powers = [b.input(TensorType((1,), "float32")) for _ in range(count)]
    found = []
    for x, power in zip(given, powers):
        factor = b.div(1.0, b.sub(2.0, power))
        for _ in range(rounds):  # a sum between keeps it a group of its own
            total = b.reduce_sum(x, axes=(0,))
            x = b.mul(
                x, b.broadcast(b.reshape(factor, shape=()), shape=x.shape, dims=())
            )
            x = b.add(x, b.broadcast(total, shape=x.shape, dims=()))
        found += [x, b.mul(power, 0.5)]
    return b.graph("updates", found)


def pair(graph: Graph) -> tuple[Graph, Graph]:
    """Fused, and with siblings joined: of one meaning, to the last bit."""
    fused, _ = fuse(graph, fusible)
    made = siblings(fused, fusible)
    verify(made, "fused")
    rng = np.random.default_rng(0)
    arrays = [
        rng.random([5 if not isinstance(d, int) else d for d in v.shape], "float32")
        for v in graph.inputs
    ]
    for before, after in zip(*(interpret(g, arrays) for g in (fused, made))):
        np.testing.assert_array_equal(before, after)
    return fused, made


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_scalars_of_all_parameters_are_one_kernel(rounds: int) -> None:
    fused, made = pair(updates(rounds=rounds))
    assert len(made.ops) <= len(fused.ops) - 5
    assert any(len(op.results) >= 6 for op in made.ops)


def test_a_kernel_has_so_many_values_at_most() -> None:
    _, made = pair(updates(200))
    most = max(len(op.operands) + len(op.results) for op in made.ops)
    assert 64 < most <= module.MOST_VALUES


def test_large_ones_and_unknown_sizes_stay() -> None:
    for size in (module.LARGEST + 1, symbol("n")):
        b = Builder()
        pairs = [[b.input(TensorType((size,), "float32")) for _ in "ab"] for _ in "ab"]
        graph = b.graph("large", [b.mul(x, y) for x, y in pairs])
        _, made = pair(graph)
        assert len(made.ops) == 2


def alone(graph: Graph) -> Graph:
    """Each op a group of its own."""

    def group(op: Op) -> Op:
        given, made = ([Value(v.type) for v in e] for e in (op.operands, op.results))
        inner = replace(op, operands=tuple(given), results=tuple(made))
        body = Graph("body", tuple(given), (inner,), tuple(made))
        return Op("group", op.operands, {}, op.results, body)

    return graph.with_ops(map(group, graph.ops))


def circle() -> Graph:
    """x -> y -> their sums -> z, w: a kernel of y and w would wait for itself."""
    b = Builder()
    x = b.input(TensorType((8, 8), "float32"))
    y = b.mul(x, x)
    z = b.mul(b.broadcast(b.reduce_sum(y, axes=(0,)), shape=(8, 8), dims=(1,)), x)
    w = b.mul(b.reduce_sum(z, axes=(0,)), b.reduce_sum(x, axes=(0,)))
    return alone(b.graph("circle", [b.neg(y), b.neg(z), b.add(w, w), b.exp(w)]))


def test_what_needs_the_other_stays_apart() -> None:
    graph = circle()
    made = siblings(graph, fusible)
    assert len(made.ops) < len(graph.ops)
    array = np.random.default_rng(0).random((8, 8), "float32")
    for before, after in zip(*(interpret(g, [array]) for g in (graph, made))):
        np.testing.assert_array_equal(before, after)


def test_the_same_text_each_time() -> None:
    graph = updates()
    again = parse_graph(str(graph))
    found = [str(siblings(fuse(g, fusible)[0], fusible)) for g in (graph, again)]
    assert found[0] == found[1]


def test_what_reads_a_size_that_an_op_sets_comes_after_it() -> None:
    text = """
graph @sizes(%0: f32[s0]) {
  %1 = const() {dtype = "int64", shape = [1], value = <s0>} : i64[1]
  %2 = opaque(%1) {callee = "pd_op.made", why = "data"} : f32[u0]
  %3 = const() {dtype = "int64", shape = [1], value = <u0>} : i64[1]
  %4 = opaque(%3) {callee = "pd_op.made", why = "data"} : f32[u1]
  return %4
}
"""
    fused, _ = fuse(parse_graph(text), fusible)
    verify(siblings(fused, fusible), "fused")
    assert siblings(fused, fusible) is fused


def step(count: int) -> tuple[Any, Any, Any]:
    """A step of a network of so many layers, and one by Paddle alone."""
    paddle.seed(0)
    layers = [paddle.nn.Linear(8, 8) for _ in range(count)]
    net = paddle.nn.Sequential(*layers)
    adam = paddle.optimizer.AdamW(1e-2, parameters=net.parameters())
    return net, adam, pirol.train_step(net, paddle.nn.MSELoss(), adam)


def test_a_whole_steps_updates_are_joined_and_in_place() -> None:
    net, _, fast = step(6)
    other, adam, _ = step(6)
    x, y = paddle.rand([4, 8]), paddle.rand([4, 8])
    for _ in range(3):
        fast(x, y)
        paddle.nn.MSELoss()(other(x), y).backward()
        adam.step()
        adam.clear_grad()
    for got, wanted in zip(net.parameters(), other.parameters()):
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), 1e-5, 1e-6)
    report = pirol.explain(fast)
    assert not report.fallbacks and len(report.groups) < 45  # of 12 parameters


def joined(size: int) -> list[Step]:
    """The kernels of the groups that were joined."""
    made = siblings(fuse(updates(size=size), fusible)[0], fusible)
    bodies = [op.body for op in made.ops if len(op.results) >= 6 and op.body]
    assert bodies
    steps = (steps_of(body, f"k{k}_", whole=True) for k, body in enumerate(bodies))
    return [step for (step,) in steps]


def run_joined(steps: Sequence[Step], edit: Any = str) -> None:
    """Each by itself on the simulator: as the interpreter has it, to the last bit."""
    names = [s.cuda.name for s in steps]
    made = Simulator(edit(cuda_text([s.cuda for s in steps])), names)
    rng = np.random.default_rng(0)
    for step in steps:
        given = [rng.random(v.shape, "float32") for v in step.body.inputs]
        for blocks in (1, 3):
            found = launch_cuda(made, step.cuda, given, {}, blocks)
            for one, other in zip(found, interpret(step.body, given), strict=True):
                assert same_bits(one, other)


@needs_simulator
@pytest.mark.parametrize("size", [1, 8, 37, 1000])
def test_joined_kernels_on_the_simulator(size: int) -> None:
    run_joined(joined(size))


@needs_simulator
def test_a_joined_kernel_that_stores_elsewhere_is_found() -> None:
    """A result in the place of another, or one that is left out."""
    for old, new in ((r"\bout1\[", "out2["), (r"out1\[[^;]*;", ";")):
        with pytest.raises((AssertionError, SimulatorError)):
            run_joined(joined(37), planted.text(old, new))


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_its_kernel_on_each_target(target: str) -> None:
    from pirol.compiler.runtime import generate
    from pirol.passes.plan import plan

    made = siblings(fuse(updates(), fusible)[0], fusible)
    kernels = generate(plan(made), CUDA) if target == "cuda" else generate(plan(made))
    texts = [k.source for k in kernels if len(k.op.results) >= 6]
    assert texts and all(f"out{n}" in texts[0] for n in range(6))


def test_planted_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    depths = module._depths
    monkeypatch.setattr(module, "_depths", lambda g: dict.fromkeys(depths(g), 1))
    with pytest.raises(AssertionError, match="wait"):
        test_what_needs_the_other_stays_apart()
    monkeypatch.undo()
    join = module.join

    def turned(ops: Any) -> Any:
        """Results in the place of others."""
        made = join(ops)
        return type(made)(
            made.name, made.operands, made.attrs, made.results[::-1], made.body
        )

    monkeypatch.setattr(module, "join", turned)
    with pytest.raises(AssertionError):
        test_scalars_of_all_parameters_are_one_kernel(1)
