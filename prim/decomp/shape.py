"""Paddle ops that make tensors or move their elements; sizes may be symbolic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Shape
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import Value
from pirol.prim.builder import KNOWN_LIMIT, Builder
from pirol.prim.decomp.registry import axis_in, decomposes, ints, need, number


@decomposes("pd_op.full", composite=False)
def full(b: Builder, *, shape: Shape, value: Any, dtype: str) -> Any:
    """A tensor of one number."""
    need(not isinstance(value, str), "a number given as text")
    return b.const(value=_typed(value, dtype), shape=shape, dtype=dtype)


def _typed(value: Any, dtype: str) -> Any:
    if dtype == "bool":
        return bool(value)
    if dtype.startswith(("int", "uint")):
        return int(value)
    return value


@decomposes("pd_op.full_like", composite=False)
def full_like(b: Builder, x: Value, value: Value, *, dtype: str) -> Any:
    """A tensor of one number, in the shape of x; dtype "" is x's."""
    kind = dtype if dtype != "undefined" else x.dtype
    item = _typed(number(b, value, "value"), kind)
    return b.const(value=item, shape=x.shape, dtype=kind)


@decomposes("pd_op.full_int_array", composite=False)
def full_int_array(b: Builder, *, value: Sequence[int], dtype: str) -> Any:
    """An integer vector."""
    return (
        b.vector(list(value))
        if dtype == "int64"
        else b.cast(b.vector(list(value)), dtype=dtype)
    )


@decomposes("pd_op.assign_value", composite=False)
def assign_value(b: Builder, *, shape: Shape, values: Sequence[Any], dtype: str) -> Any:
    """A small constant tensor."""
    need(0 < len(values) <= KNOWN_LIMIT, f"a constant of {len(values)} elements")
    items = [b.const(value=_typed(v, dtype), shape=(1,), dtype=dtype) for v in values]
    flat = items[0] if len(items) == 1 else b.concat(*items, axis=0)
    return b.reshape(flat, shape=shape)


@decomposes("pd_op.shape64", "pd_op.shape", composite=False)
def shape_of(b: Builder, x: Value) -> Any:
    """The dims of x as int64."""
    return b.vector(list(x.shape))


@decomposes("pd_op.assign", "pd_op.share_data", composite=False)
def assign(b: Builder, x: Value) -> Any:
    """x"""
    return x


@decomposes("pd_op.reshape", composite=False)
def reshape(b: Builder, x: Value, shape: Any) -> Any:
    """x in another shape; 0 copies a dim of x, one -1 is inferred."""
    return b.reshape(x, shape=target_shape(x, ints(b, shape, "the shape")))


def target_shape(x: Value, wanted: Sequence[Any]) -> Shape:
    """The shape that Paddle's reshape makes of `wanted`."""
    sizes = list(wanted)
    for k, size in enumerate(sizes):
        if isinstance(size, int) and size == 0:
            need(k < x.type.rank, f"reshape: 0 at {k} copies no dim of {x.type}")
            sizes[k] = x.shape[k]
    unknown = [k for k, s in enumerate(sizes) if isinstance(s, int) and s == -1]
    need(len(unknown) <= 1, "reshape: two dims are -1")
    if unknown:
        rest = dims.product(s for k, s in enumerate(sizes) if k != unknown[0])
        sizes[unknown[0]] = dims.floordiv(x.type.size, rest)
    if dims.equal(dims.product(sizes), x.type.size) is not True:
        got = ", ".join(map(dims.to_text, sizes))
        raise Unsupported(f"reshape of {x.type} to [{got}]: equal sizes are not proved")
    return tuple(sizes)


@decomposes("pd_op.flatten", composite=False)
def flatten(b: Builder, x: Value, *, start_axis: int, stop_axis: int) -> Any:
    """The dims start..stop as one."""
    rank = x.type.rank
    if rank == 0:
        return b.reshape(x, shape=(1,))
    first, last = (axis_in(a, rank, "flatten") for a in (start_axis, stop_axis))
    middle = dims.product(x.shape[first : last + 1])
    return b.reshape(x, shape=(*x.shape[:first], middle, *x.shape[last + 1 :]))


@decomposes("pd_op.squeeze", composite=False)
def squeeze(b: Builder, x: Value, axis: Any) -> Any:
    """Without the named dims of size 1 (all such, where none is named)."""
    named = [axis_in(a, x.type.rank, "squeeze") for a in ints(b, axis, "axis")]
    ones = [k for k, d in enumerate(x.shape) if dims.equal(d, 1) is True]
    unsure = [k for k in named if k not in ones and dims.equal(x.shape[k], 1) is None]
    need(not unsure and (named != [] or _static(x.shape)), "squeeze of an unknown dim")
    gone = [k for k in ones if not named or k in named]
    return b.reshape(x, shape=tuple(d for k, d in enumerate(x.shape) if k not in gone))


def _static(shape: Shape) -> bool:
    return all(isinstance(d, int) for d in shape)


@decomposes("pd_op.unsqueeze", composite=False)
def unsqueeze(b: Builder, x: Value, axis: Any) -> Any:
    """With dims of 1 put in, one axis after another."""
    shape = list(x.shape)
    for a in ints(b, axis, "axis"):
        shape.insert(axis_in(a, len(shape) + 1, "unsqueeze"), 1)
    return b.reshape(x, shape=tuple(shape))


@decomposes("pd_op.transpose", composite=False)
def transpose(b: Builder, x: Value, *, perm: Sequence[int]) -> Any:
    """The dims in the order of perm."""
    order = tuple(axis_in(p, x.type.rank, "transpose") for p in perm)
    return b.transpose(x, perm=order)


@decomposes("pd_op.expand", composite=False)
def expand(b: Builder, x: Value, shape: Any) -> Any:
    """x broadcast; -1 keeps a dim."""
    wanted = ints(b, shape, "the shape")
    lead = len(wanted) - x.type.rank
    need(lead >= 0, "expand to fewer dims")
    sizes = [
        x.shape[k - lead] if isinstance(s, int) and s == -1 else s
        for k, s in enumerate(wanted)
    ]
    for have, size in zip(x.shape, sizes[lead:]):
        if dims.equal(have, 1) is not True:
            b.require_equal(have, size, "expand")
    return b.broadcast_to(x, tuple(sizes))


@decomposes("pd_op.concat", composite=False)
def concat(b: Builder, parts: list[Value], axis: Value) -> Any:
    """The tensors one behind the other."""
    at = axis_in(int(number(b, axis, "axis")), parts[0].type.rank, "concat")
    need(len({v.dtype for v in parts}) == 1, "concat of several dtypes")
    for part in parts[1:]:
        for k, (a, c) in enumerate(zip(parts[0].shape, part.shape)):
            if k != at:
                b.require_equal(a, c, "concat")
    return b.concat(*parts, axis=at)


@decomposes("pd_op.stack", composite=False)
def stack(b: Builder, parts: list[Value], *, axis: int) -> Any:
    """The tensors along a new dim."""
    at = axis_in(axis, parts[0].type.rank + 1, "stack")
    shape = (*parts[0].shape[:at], 1, *parts[0].shape[at:])
    return b.concat(*(b.reshape(v, shape=shape) for v in parts), axis=at)


def cut(b: Builder, x: Value, axis: int, start: Any, size: Any, step: int = 1) -> Any:
    """`size` elements of one axis from `start` on."""
    rank = x.type.rank
    return b.slice(
        x,
        starts=tuple(start if k == axis else 0 for k in range(rank)),
        sizes=tuple(size if k == axis else d for k, d in enumerate(x.shape)),
        steps=tuple(step if k == axis else 1 for k in range(rank)),
    )


@decomposes("pd_op.split_with_num", composite=False)
def split_with_num(b: Builder, x: Value, axis: Value, *, num: int) -> Any:
    """`num` equal parts."""
    at = axis_in(int(number(b, axis, "axis")), x.type.rank, "split")
    size = dims.floordiv(x.shape[at], num)
    need(dims.equal(dims.mul(size, num), x.shape[at]) is True, "uneven split")
    return tuple(cut(b, x, at, dims.mul(size, k), size) for k in range(num))


@decomposes("pd_op.split", composite=False)
def split(b: Builder, x: Value, sections: Any, axis: Value) -> Any:
    """Parts of the given sizes; one -1 is inferred."""
    at = axis_in(int(number(b, axis, "axis")), x.type.rank, "split")
    sizes = ints(b, sections, "the sections")
    if -1 in sizes:
        rest: Any = 0
        for size in sizes:
            rest = dims.add(rest, size)
        sizes[sizes.index(-1)] = dims.sub(x.shape[at], dims.add(rest, 1))
    starts: list[Any] = [0]
    for size in sizes:
        starts.append(dims.add(starts[-1], size))
    b.require_equal(starts[-1], x.shape[at], "split")
    return tuple(cut(b, x, at, a, n) for a, n in zip(starts, sizes))


@decomposes("pd_op.slice", composite=False)
def slice_(
    b: Builder,
    x: Value,
    starts: Any,
    ends: Any,
    *,
    axes: Sequence[int],
    decrease_axis: Sequence[int],
) -> Any:
    """x[start:end] on the named axes, clamped as Python does; then dims dropped."""
    low, high = ints(b, starts, "starts"), ints(b, ends, "ends")
    for axis, start, end in zip(axes, low, high):
        at = axis_in(axis, x.type.rank, "slice")
        first, last = (_clamped(v, x.shape[at]) for v in (start, end))
        size = dims.maximum(dims.sub(last, first), 0)
        if axis in decrease_axis:
            need(isinstance(start, int), "an index known only when the program runs")
            size = 1
        x = cut(b, x, at, first, size)
    dropped = [axis_in(a, x.type.rank, "slice") for a in decrease_axis]
    return b.reshape(
        x, shape=tuple(d for k, d in enumerate(x.shape) if k not in dropped)
    )


def _clamped(place: Any, size: Any) -> Any:
    if isinstance(place, int) and place < 0:
        place = dims.add(place, size)
        return dims.maximum(place, 0) if isinstance(size, int) else _unsure(place)
    if isinstance(place, int) and place >= 2**31 - 1:
        return size
    if isinstance(place, int) and place == 0:
        return 0
    return dims.minimum(place, size)


def _unsure(place: Any) -> Any:
    return dims.maximum(place, 0)
