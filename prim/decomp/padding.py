"""Paddle's padding ops: constant, reflected, replicated and circular."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import cut
from pirol.prim.decomp.creation import typed
from pirol.prim.decomp.registry import decomposes, ints, need, number

Side = Callable[[Builder, Value, int, Any, Any], tuple[Value, Value]]


@decomposes("pd_op.pad", composite=False, operands="x pad_value")
def pad(b: Builder, x: Value, value: Value, *, paddings: Sequence[int]) -> Any:
    """x between `paddings` (low, high for each dim) copies of a number."""
    item = typed(number(b, value, "the padding value"), x.dtype)
    need(len(paddings) == 2 * x.type.rank, "two paddings a dim")
    need(all(p >= 0 for p in paddings), "a negative padding")
    return _constant(b, x, list(zip(paddings[::2], paddings[1::2])), item)


@decomposes("pd_op.pad3d", composite=False)
def pad3d(
    b: Builder,
    x: Value,
    paddings: Any,
    *,
    mode: str,
    pad_value: float,
    data_format: str,
) -> Any:
    """The three spatial dims padded; `paddings` begins with the last of them."""
    need(x.type.rank == 5, f"pad3d of {x.type}")
    sizes = ints(b, paddings, "the paddings")
    first = 2 if data_format == "NCDHW" else 1
    ends = {first + k: (sizes[4 - 2 * k], sizes[5 - 2 * k]) for k in range(3)}
    if mode == "constant":
        every = [ends.get(k, (0, 0)) for k in range(5)]
        return _constant(b, x, every, typed(pad_value, x.dtype))
    need(mode in SIDES, f"padding mode {mode}")
    for axis, (low, high) in ends.items():
        x = _beside(b, x, axis, low, high, SIDES[mode])
    return x


def _constant(
    b: Builder, x: Value, ends: Sequence[tuple[Any, Any]], value: Any
) -> Value:
    """x with a number around it; a negative padding takes away."""
    for axis, (low, high) in enumerate(ends):
        less = [max(-p, 0) if isinstance(p, int) else 0 for p in (low, high)]
        if any(less):
            rest = dims.sub(x.shape[axis], sum(less))
            b.require_at_least(rest, 0, "pad")
            x = cut(b, x, axis, less[0], rest)
    for end in (p for pair in ends for p in pair if not isinstance(p, int)):
        b.require_at_least(end, 0, "pad")
    more = [[max(p, 0) if isinstance(p, int) else p for p in pair] for pair in ends]
    low, high = (tuple(pair[k] for pair in more) for k in (0, 1))
    none = (0,) * x.type.rank
    result: Value = b.pad(x, low=low, high=high, interior=none, value=value)
    return result


def _beside(b: Builder, x: Value, axis: int, low: Any, high: Any, sides: Side) -> Value:
    """x between the two sides that its own elements make."""
    if dims.equal(low, 0) is True and dims.equal(high, 0) is True:
        return x
    b.require_at_least(low, 0, "pad")
    b.require_at_least(high, 0, "pad")
    left, right = sides(b, x, axis, low, high)
    result: Value = b.concat(left, x, right, axis=axis)
    return result


def _reflect(
    b: Builder, x: Value, axis: int, low: Any, high: Any
) -> tuple[Value, Value]:
    """The elements beside the end ones, in turned order."""
    size = x.shape[axis]
    for p in (low, high):
        b.require_at_least(size, dims.add(p, 1), "reflect padding")
    left = cut(b, x, axis, 1, low)
    right = cut(b, x, axis, dims.sub(dims.sub(size, 1), high), high)
    return b.reverse(left, axes=(axis,)), b.reverse(right, axes=(axis,))


def _replicate(
    b: Builder, x: Value, axis: int, low: Any, high: Any
) -> tuple[Value, Value]:
    """The end elements, again and again."""
    size = x.shape[axis]
    b.require_at_least(size, 1, "replicate padding")
    ends = cut(b, x, axis, 0, 1), cut(b, x, axis, dims.sub(size, 1), 1)
    left, right = (
        b.broadcast_to(v, (*v.shape[:axis], p, *v.shape[axis + 1 :]))
        for v, p in zip(ends, (low, high))
    )
    return left, right


def _circular(
    b: Builder, x: Value, axis: int, low: Any, high: Any
) -> tuple[Value, Value]:
    """The elements of the other end."""
    size = x.shape[axis]
    for p in (low, high):
        b.require_at_least(size, p, "circular padding")
    return cut(b, x, axis, dims.sub(size, low), low), cut(b, x, axis, 0, high)


SIDES: dict[str, Side] = {
    "reflect": _reflect,
    "replicate": _replicate,
    "circular": _circular,
}
