"""Bytes that a program's kernels move, against one kernel for each op as captured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pirol.compiler.costs import Moved
from pirol.compiler.dims import known
from pirol.compiler.ir import BITS, Graph, Op, TensorType, Value, symbols_in
from pirol.compiler.pipeline import Lowered
from pirol.passes.plan import Launch, Plan, root_of, touched
from pirol.prim import PRIMS

# Paddle's ops that move none: literals, shapes, and another shape of the same memory.
STILL = tuple(
    f"pd_op.{name}"
    for name in (
        *("assign", "assign_value", "data", "flatten", "full", "full_int_array"),
        *("numel", "reshape", "shape", "shape64", "share_data", "squeeze", "unsqueeze"),
    )
)
LOOKUPS = ("pd_op.embedding", "pd_op.gather", "pd_op.gather_nd", "pd_op.index_select")
PRODUCTS = tuple(
    f"pd_op.{name}"
    for name in ("matmul", "bmm", "conv2d", "conv3d", "depthwise_conv2d", "einsum")
)
Sizes = Mapping[str, int]
Pair = tuple[int, int]


def traffic(lowered: Lowered, sizes: Sizes) -> tuple[Pair, Pair]:
    """Bytes read and written by the kernels, and by one for each op as captured (of a
    train step, for each primitive of it), those left out that Paddle runs in both; and
    the part of each that products read. Nothing where only a run tells sizes."""
    stages = lowered.stages
    fused, captured = stages["fuse"], stages.get("train_step", stages["capture"])
    elsewhere = {op.attrs["site"] for op in fused.ops if "site" in op.attrs}
    ours = [step.op for step in lowered.plan.steps if isinstance(step, Launch)]
    alone = [
        op
        for op in captured.ops
        if op.name not in STILL and op.attrs.get("site") not in elsewhere
    ]
    used = _used(captured)
    shapes = [v.shape for op in alone for v in (*op.operands, *op.results) if v in used]
    if not symbols_in(shapes) <= sizes.keys():
        return (0, 0), (0, 0)
    sides = (ours, alone)
    whole = tuple(moved(ops, sizes) for ops in sides)
    read = tuple(sum(_bytes(_factors(op), sizes) for op in ops) for ops in sides)
    return (whole[0], whole[1]), (read[0], read[1])


def _used(graph: Graph) -> set[Value]:
    return {v for op in graph.ops for v in op.operands} | set(graph.results)


def moved(ops: Iterable[Op], sizes: Sizes) -> int:
    """The ops' bytes; sizes that only data tell count as nothing.

    Of a table whose elements are looked up, as many as the op makes are read.
    """
    return sum(size for op in ops for _, size in _each(op, sizes))


def _each(op: Op, sizes: Sizes) -> Iterator[tuple[Value, int]]:
    """An op's operands and results with their bytes."""
    looked = _tables(op)
    most = sum(size_of(v, sizes) for v in op.results)
    for value in (*op.operands, *op.results):
        size = size_of(value, sizes)
        size = min(size, most) if value in looked else size
        yield value, size * BITS[value.dtype] // 8


def touches(plan: Plan, sizes: Sizes) -> Iterator[tuple[Moved, Moved]]:
    """What each launch reads and writes in a call that follows upon another: bytes, and
    how many were touched since these were."""
    clock, last = 0, dict[int, int]()
    for k, step in enumerate((*plan.steps, *plan.steps)):
        numbers, each = touched(step), dict[int, int]()
        if isinstance(step, Launch):
            each = dict(zip(numbers, (size for _, size in _each(step.op, sizes))))
        else:
            each = {n: _bytes_of(plan.buffers[n].type, sizes) for n in numbers}
        roots = {n: root_of(plan.buffers, n) for n in numbers}
        clock += sum(each.values())
        far = {n: (each[n], clock - last.get(roots[n], 0)) for n in each}
        last |= dict.fromkeys(roots.values(), clock)
        if isinstance(step, Launch) and k >= len(plan.steps):
            written = {*step.outputs}
            yield (
                [far[n] for n in far if n not in written],
                [far[n] for n in far if n in written],
            )


def _tables(op: Op) -> set[Value]:
    """The operands that are read at places which data name."""
    if op.name in LOOKUPS:
        return set(op.operands)
    if op.body is None:
        return set()
    pairs = zip(op.body.inputs, op.operands)
    users = op.body.users()
    return {
        value
        for inner, value in pairs
        if users[inner]
        and all(u.name == "gather" and u.operands[0] is inner for u in users[inner])
    }


def _factors(op: Op) -> list[Value]:
    """The operands that a product multiplies, each as often as the op reads it."""
    if op.name in PRODUCTS:
        return list(op.operands)
    if op.body is None:
        return []
    needed: set[Value] = set()
    for inner in reversed(op.body.ops):
        contracts = PRIMS[inner.name].kind == "contract"
        if contracts or needed.intersection(inner.results):
            needed.update(inner.operands)
    return [v for inner, v in zip(op.body.inputs, op.operands) if inner in needed]


def _bytes(values: Iterable[Value], sizes: Sizes) -> int:
    return sum(_bytes_of(v.type, sizes) for v in values)


def _bytes_of(kind: TensorType, sizes: Sizes) -> int:
    size: int = known(kind.size, sizes) * BITS[kind.dtype] // 8
    return size


def size_of(value: Value, sizes: Sizes) -> int:
    """A value's elements; 0 where only data tell."""
    return known(value.type.size, sizes)
