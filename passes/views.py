"""Where the elements of a view lie in what it is a view of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pirol.compiler import dims
from pirol.compiler.dims import Dim, Shape
from pirol.compiler.ir import Op, Value

VIEWS = ("transpose", "slice", "reshape", "broadcast")


@dataclass(frozen=True)
class Lies:
    """Element [i, j, ..] of a view is element start + i * steps[0] + j * steps[1] ..
    of `value`, whose elements lie in rows, times a number."""

    value: Value
    start: Dim
    steps: Shape
    times: float = 1.0


Scaled = Callable[[Value], "tuple[Value, float] | None"]


def places(
    producers: Mapping[Value, Op], value: Value, scaled: Scaled
) -> Iterator[Lies]:
    """How a value lies in itself, and in each value that it is a view of; or a view of
    the products with a number, as `scaled` knows of some values."""
    chain: list[Op] = []
    times = 1.0
    while True:
        found: Lies | None = Lies(value, 0, dims.strides(value.shape), times)
        for op in reversed(chain):
            found = found and _through(op, found)
        if found is None:
            return
        yield found
        inner, source = scaled(value), producers.get(value)
        if inner is not None:
            value, times = inner[0], times * inner[1]
        elif source is not None and source.name in VIEWS:
            chain.append(source)
            value = source.operands[0]
        else:
            return


def _through(op: Op, of: Lies) -> Lies | None:
    """How the result of a view lies, its operand lying so."""
    shape, steps, start, at = op.operands[0].shape, of.steps, of.start, op.attrs
    if op.name == "transpose":
        steps = tuple(steps[k] for k in at["perm"])
    elif op.name == "broadcast":
        kept = {
            k: step
            for k, step, d in zip(at["dims"], steps, shape)
            if dims.equal(d, op.result.shape[k]) is True
        }
        steps = tuple(kept.get(k, 0) for k in range(op.result.type.rank))
    elif op.name == "slice":
        for step, first in zip(steps, at["starts"]):
            start = dims.add(start, dims.mul(step, first))
        steps = tuple(map(dims.mul, steps, at["steps"]))
    else:
        found = _reshaped(shape, steps, op.result.shape)
        if found is None:
            return None
        steps = found
    return replace(of, start=start, steps=steps)


def _reshaped(shape: Shape, steps: Shape, target: Shape) -> Shape | None:
    """The steps of a reshaped view, where it needs no copy: each group of axes that
    become one or several others lies in a row."""
    found: list[Dim] = [0] * len(target)
    axes = [k for k, d in enumerate(shape) if dims.equal(d, 1) is not True]
    wanted = [k for k, d in enumerate(target) if dims.equal(d, 1) is not True]
    while axes and wanted:
        old, new = [axes.pop()], [wanted.pop()]
        while True:
            have, want = _size(shape, old), _size(target, new)
            if dims.equal(have, want) is True:
                break
            rest, group = (axes, old) if dims.multiple(want, have) else (wanted, new)
            if not rest:
                return None
            group.append(rest.pop())
        step = steps[old[0]]
        for inner, outer in zip(old, old[1:]):
            if (
                dims.equal(steps[outer], dims.mul(steps[inner], shape[inner]))
                is not True
            ):
                return None
        for k in new:
            found[k] = step
            step = dims.mul(step, target[k])
    return None if axes or wanted else tuple(found)


def _size(shape: Shape, axes: Sequence[int]) -> Dim:
    return dims.product(shape[k] for k in axes)
