"""Schedule for what is added up (the gradient of a gather) or put at places that data
name, CPU and CUDA.

A row takes its elements in order, so that results do not depend on the threads: rows
are the dims that the result has from the operand as they are. On the CPU the last of
them is the lanes if it lies in line, shared out where it is the only one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pirol.compiler import dims
from pirol.compiler.dims import product
from pirol.kernels import affine
from pirol.kernels.affine import Affine, Data, axis, constant
from pirol.kernels.emit import Emitter, closure, grain, unravel
from pirol.kernels.kernel import Apply, At, Expr, If, Kernel, Loop, Num, Put, Stmt
from pirol.kernels.nest import PLACE, Axis, Const, Load, Nest, Store

LEAST = 16  # lanes in a chunk: no two threads write to one cache line all the time


def scatter(nest: Nest) -> Kernel | None:
    """The CPU's kernel of a nest that stores at such places, else None."""
    store = nest.scattered
    if store is None:
        return None
    columns = product(a.extent for a in nest.columns)
    in_line = nest.rows[-1:]
    if in_line and dims.equal(store.index.coefficient(in_line[0].name), 1) is not True:
        in_line = ()
    if len(nest.rows) == len(in_line) == 1:
        (lane,) = nest.rows
        chunk = Loop(lane.name, axis("begin"), axis("end"), (), "lanes")
        body = _row(nest, store, [chunk])
        each = dims.maximum(grain(columns), LEAST)
        return Kernel(nest.name, nest.inputs, nest.outputs, body, lane.extent, each)
    lanes = [
        Loop(a.name, affine.ZERO, constant(a.extent), (), "lanes") for a in in_line
    ]
    each = grain(dims.mul(columns, product(a.extent for a in in_line)))
    axes = nest.rows[: len(nest.rows) - len(in_line)]
    kernel = _by_rows(nest, store, axes, lanes)
    return replace(kernel, grain=each)


def scatter_by_threads(nest: Nest, block: int) -> Kernel | None:
    """CUDA's: a thread a row."""
    store = nest.scattered
    if store is None:
        return None
    return replace(_by_rows(nest, store, nest.rows, []), block=block)


def _by_rows(
    nest: Nest, store: Store, axes: Sequence[Axis], lanes: Sequence[Loop]
) -> Kernel:
    """A kernel that shares out the rows of these axes."""
    body = (*unravel([a.name for a in axes], nest, "r"), *_row(nest, store, lanes))
    loop = Loop("r", axis("begin"), axis("end"), body, kind="rows")
    rows = product(a.extent for a in axes)
    return Kernel(nest.name, nest.inputs, nest.outputs, (loop,), rows)


def _row(nest: Nest, store: Store, lanes: Sequence[Loop]) -> tuple[Stmt, ...]:
    """What is first at all places of a row, and then its sums, or what is put there;
    each within the lanes."""
    name = f"out{store.output}"
    assert store.among is not None
    axes = [Axis(f"z{k}", n, False) for k, (n, _) in enumerate(store.among)]
    place = place_of(store)
    first: Stmt = Put(name, place, _first(nest, store, place))
    emitter = Emitter(nest)
    needed = closure(nest, [store.node, *sorted(store.index.data())], ())
    value = emitter.ref(store.node)
    if store.base is None:
        dtype = nest.nodes[store.node].dtype
        value = Apply("add", (At(name, store.index), value), dtype, dtype)
    then: tuple[Stmt, ...] = (*emitter.lets(needed), Put(name, store.index, value))
    open_sizes = [n for n, _ in store.among if not (isinstance(n, int) and n > 0)]
    for size in open_sizes:  # there may be no place at all
        ends = (Num(size, "int64"), Num(0, "int64"))
        then = (If(Apply("gt", ends, "int64", "bool"), then),)
    return (
        *_loops(axes, _loops(lanes, (first,))),
        *_loops(nest.columns, _loops(lanes, then)),
    )


def place_of(store: Store) -> Affine:
    """A row's place at (z0, z1, ..) of the axes that data name places on."""
    place = Affine(
        tuple((a, c) for a, c in store.index.terms if not isinstance(a, Data)),
        store.index.const,
    )
    for k, (_, step) in enumerate(store.among or ()):
        place = affine.add(place, affine.scale(axis(f"z{k}"), step))
    return place


def _first(nest: Nest, store: Store, place: Affine) -> Expr:
    """What a place of the output has at first."""
    if store.base is None:
        return Num(0, nest.nodes[store.node].dtype)
    return before(store, place)


def before(store: Store, place: Affine) -> Expr:
    """What lies at a place that is put over."""
    match store.base:
        case Const(value, dtype):
            return Num(value, dtype)
        case Load(buffer, index, _, _):
            return At(f"in{buffer}", affine.substitute(index, {PLACE: place}))
    raise TypeError("sums begin at 0")


def _loops(loops: Sequence[Axis | Loop], body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """The body in these loops, the first outermost; an axis is walked one by one."""
    for loop in reversed(loops):
        if isinstance(loop, Axis):
            loop = Loop(loop.name, affine.ZERO, constant(loop.extent), ())
        body = (replace(loop, body=body),)
    return body
