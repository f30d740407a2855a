"""Paddle ops that give a tensor another shape, join and part; sizes may be symbolic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pirol.compiler import dims
from pirol.compiler.dims import Dim, Shape
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import Guard, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import cut, dropped
from pirol.prim.decomp.registry import axes_of, axis_in, axis_of, decomposes, ints, need


@decomposes("pd_op.assign", composite=False)
def assign(b: Builder, x: Value) -> Any:
    """x"""
    return x


@decomposes("pd_op.share_data", composite=False)
def share_data(b: Builder, x: Value) -> Any:
    """x, of which no gradient comes back: what detach is in a program."""
    return b.stop_gradient(x)


@decomposes("pd_op.memcpy", composite=False)
def memcpy(b: Builder, x: Value, *, dst_place_type: int) -> Any:
    """x.cpu() of what is there, with its gradient."""
    need(dst_place_type == 0, "a copy to another device")
    return x


@decomposes("pd_op.reshape", composite=False)
def reshape(b: Builder, x: Value, shape: Any) -> Any:
    """x in another shape; 0 copies a dim of x, one -1 is inferred."""
    target = target_shape(x, ints(b, shape, "the shape"))
    size = dims.product(target)
    if dims.equal(size, x.type.size) is not True:
        b.require_equal(size, x.type.size, "reshape")
        x = b.relabelled(b.reshape(x, shape=(x.type.size,)), (size,))
    return b.reshape(x, shape=target)


def target_shape(x: Value, wanted: Sequence[Any]) -> Shape:
    """The shape that Paddle's reshape makes of `wanted`."""
    if dims.equal(x.type.size, 0) is True:
        return _of_none(x, wanted)
    sizes = list(wanted)
    for k, size in enumerate(sizes):
        if isinstance(size, int) and size == 0:
            need(k < x.type.rank, f"reshape: 0 at {k} copies no dim of {x.type}")
            sizes[k] = x.shape[k]
    unknown = [k for k, s in enumerate(sizes) if isinstance(s, int) and s == -1]
    need(len(unknown) <= 1, "reshape: two dims are -1")
    if unknown:
        at = unknown[0]
        sizes[at] = _left_over(x.shape, (*sizes[:at], *sizes[at + 1 :]))
    return tuple(sizes)


def _of_none(x: Value, wanted: Sequence[Any]) -> Shape:
    """That of a tensor of no elements: a 0 is a size, and -1 what the others leave."""
    sizes = [*wanted]
    if -1 in sizes:
        at = sizes.index(-1)
        rest = sizes[:at] + sizes[at + 1 :]
        whole = dims.product(d for d in x.shape if dims.equal(d, 0) is not True)
        part = dims.product(d for d in rest if dims.equal(d, 0) is not True)
        empty = len(rest) > sum(dims.equal(d, 0) is not True for d in rest)
        sizes[at] = dims.floordiv(whole, part) if empty else 0
    return tuple(sizes)


def _left_over(shape: Shape, others: Sequence[Any]) -> Any:
    """The size of which a shape says -1. What x has as well counts for neither side,
    so that it is told where that is 0."""
    have: list[Any] = [*shape]
    rest: list[Any] = []
    for size in others:
        same = [k for k, d in enumerate(have) if dims.equal(d, size) is True]
        if same:
            del have[same[0]]
        else:
            rest.append(size)
    return dims.floordiv(dims.product(have), dims.product(rest))


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
    """Without the named dims of size 1 (all such, where none is named: an unknown one
    stays, as Paddle declares, in calls in which it is not 1)."""
    named = {axis_in(a, x.type.rank, "squeeze") for a in axes_of(b, axis)}
    if not named:
        for size in x.shape:
            _is_not_one(b, size)
    unsure = {k for k in named if dims.equal(x.shape[k], 1) is None}
    shape = tuple(1 if k in unsure else d for k, d in enumerate(x.shape))
    x = sized(b, "squeeze", x, shape)
    ones = {k for k, d in enumerate(x.shape) if dims.equal(d, 1) is True}
    return dropped(b, x, ones & named if named else ones)


def _is_not_one(b: Builder, size: Any) -> None:
    if dims.equal(size, 1) is not None:
        return
    if b.facts.value(size) == 0:
        b.require_equal(size, 0, "squeeze")
    else:
        b.require_at_least(size, 2, "squeeze of all dims")


@decomposes("pd_op.unsqueeze", composite=False)
def unsqueeze(b: Builder, x: Value, axis: Any) -> Any:
    """With dims of 1 put in, one axis after another."""
    shape = list(x.shape)
    for a in axes_of(b, axis):
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
    sizes = []
    for k, size in enumerate(wanted):
        keep = isinstance(size, int) and size == -1
        need(not keep or k >= lead, "expand: -1 keeps no dim")
        sizes.append(x.shape[k - lead] if keep else size)
    return expanded(b, x, tuple(sizes), "expand")


def expanded(b: Builder, x: Value, shape: Shape, what: str) -> Value:
    """x broadcast; assumes the dims equal, or 1, as they are in the first call."""
    need(len(shape) >= x.type.rank, f"{what}: fewer dims than {x.type}")
    for have, size in zip(x.shape, shape[len(shape) - x.type.rank :]):
        if dims.equal(have, 1) is True or dims.equal(have, size) is True:
            continue
        guard = b.facts.decide(have, size)
        if guard not in (Guard("eq", have, size), Guard("eq", have, 1)):
            to = ", ".join(map(dims.to_text, shape))
            raise Unsupported(f"{what}: {x.type} does not broadcast to [{to}]")
        assert guard is not None
        b.assume(guard)
    return b.broadcast_to(x, shape)


@decomposes("pd_op.expand_as", composite=False)
def expand_as(
    b: Builder, x: Value, y: Value | None, *, target_shape: Sequence[int]
) -> Any:
    """x broadcast to the shape of y."""
    return expanded(b, x, y.shape if y is not None else tuple(target_shape), "expand")


@decomposes("pd_op.broadcast_tensors", composite=False)
def broadcast_tensors(b: Builder, parts: list[Value]) -> Any:
    """All tensors in their common shape."""
    return tuple(b.broadcast_together(parts))


@decomposes("pd_op.meshgrid", composite=False, operands="inputs")
def meshgrid(b: Builder, parts: list[Value]) -> Any:
    """Each vector along its own dim of a grid of them all; a scalar is a vector."""
    shape = tuple(v.type.size for v in parts)
    lines = [b.reshape(v, shape=(v.type.size,)) for v in parts]
    return tuple(b.broadcast(v, shape=shape, dims=(k,)) for k, v in enumerate(lines))


@decomposes("pd_op.tile", composite=False, operands="x repeat_times")
def tile(b: Builder, x: Value, times: Any) -> Any:
    """x repeated `times` along each dim, as wholes."""
    counts = ints(b, times, "the repeat times")
    rank = max(len(counts), x.type.rank)
    counts = [1] * (rank - len(counts)) + counts
    sizes = (1,) * (rank - x.type.rank) + x.shape
    split = [d for pair in zip(counts, sizes) for d in pair]
    at = tuple(range(2 * (rank - x.type.rank) + 1, 2 * rank, 2))
    wide = b.broadcast(x, shape=tuple(split), dims=at)
    return b.reshape(wide, shape=tuple(map(dims.mul, counts, sizes)))


@decomposes("pd_op.repeat_interleave", composite=False)
def repeat_interleave(b: Builder, x: Value, *, repeats: int, axis: int) -> Any:
    """Each element `repeats` times, one beside the other."""
    return repeated(b, x, axis_in(axis, x.type.rank, "repeat_interleave"), repeats)


def repeated(b: Builder, x: Value, axis: int, times: Any) -> Value:
    """Each place of one axis `times` times, one beside the other."""
    rest = x.shape[axis + 1 :]
    shape = (*x.shape[: axis + 1], times, *rest)
    at = tuple(k for k in range(len(shape)) if k != axis + 1)
    wide = b.broadcast(x, shape=shape, dims=at)
    size = dims.mul(x.shape[axis], times)
    result: Value = b.reshape(wide, shape=(*x.shape[:axis], size, *rest))
    return result


@decomposes("pd_op.concat", composite=False, operands="x axis")
def concat(b: Builder, parts: list[Value], axis: Value) -> Any:
    """The tensors one behind the other."""
    at = axis_of(b, axis, parts[0].type.rank, "concat")
    need(len({v.dtype for v in parts}) == 1, "concat of several dtypes")
    need(len({v.type.rank for v in parts}) == 1, "concat of several ranks")
    shape = parts[0].shape
    wanted = ((*shape[:at], v.shape[at], *shape[at + 1 :]) for v in parts)
    return b.concat(*map(partial(sized, b, "concat"), parts, wanted), axis=at)


def sized(b: Builder, what: str, x: Value, shape: Shape) -> Value:
    """x, whose dims must be those of the shape."""
    for have, size in zip(x.shape, shape):
        b.require_equal(have, size, what)
    return b.relabelled(x, shape)


def with_channels(b: Builder, what: str, x: Value, channel: int, count: Dim) -> Value:
    """x, whose dim `channel` must be so long: what a layer's weights tell of it."""
    return sized(b, what, x, (*x.shape[:channel], count, *x.shape[channel + 1 :]))


@decomposes("pd_op.stack", composite=False, operands="x")
def stack(b: Builder, parts: list[Value], *, axis: int) -> Any:
    """The tensors along a new dim."""
    at = axis_in(axis, parts[0].type.rank + 1, "stack")
    need(len({v.dtype for v in parts}) == 1, "stack of several dtypes")
    need(len({v.type.rank for v in parts}) == 1, "stack of several ranks")
    parts = [sized(b, "stack", v, parts[0].shape) for v in parts]
    shape = (*parts[0].shape[:at], 1, *parts[0].shape[at:])
    return b.concat(*(b.reshape(v, shape=shape) for v in parts), axis=at)


@decomposes("pd_op.split_with_num", composite=False)
def split_with_num(b: Builder, x: Value, axis: Value, *, num: int) -> Any:
    """`num` equal parts."""
    at = axis_of(b, axis, x.type.rank, "split")
    size = dims.floordiv(x.shape[at], num)
    b.require_equal(dims.mul(size, num), x.shape[at], "an uneven split")
    return tuple(cut(b, x, at, dims.mul(size, k), size) for k in range(num))


@decomposes("pd_op.split", composite=False)
def split(b: Builder, x: Value, sections: Any, axis: Value) -> Any:
    """Parts of the given sizes; one -1 is inferred."""
    at = axis_of(b, axis, x.type.rank, "split")
    sizes = ints(b, sections, "the sections")
    if -1 in sizes:
        rest: Any = 0
        for size in sizes:
            rest = dims.add(rest, size)
        sizes[sizes.index(-1)] = dims.sub(x.shape[at], dims.add(rest, 1))
    starts: list[Any] = [0]
    for size in sizes:
        b.require_at_least(size, 0, "split")
        starts.append(dims.add(starts[-1], size))
    b.require_equal(starts[-1], x.shape[at], "split")
    return tuple(cut(b, x, at, a, n) for a, n in zip(starts, sizes))


def _unstacked(b: Builder, x: Value, axis: int, count: Any) -> Any:
    b.require_equal(x.shape[axis], count, "unstack")
    return tuple(dropped(b, cut(b, x, axis, k, 1), (axis,)) for k in range(count))


@decomposes("pd_op.unstack", composite=False)
def unstack(b: Builder, x: Value, *, axis: int, num: int) -> Any:
    """The `num` slices of one axis."""
    return _unstacked(b, x, axis_in(axis, x.type.rank, "unstack"), num)


@decomposes("pd_op.unbind", composite=False)
def unbind(b: Builder, x: Value, *, axis: int) -> Any:
    """The slices of one axis."""
    at = axis_in(axis, x.type.rank, "unbind")
    count = x.shape[at]
    need(isinstance(count, int), "unbind of an unknown dim")
    return _unstacked(b, x, at, count)


def _first(b: Builder, x: Value) -> Value:
    """[N, H, W, C] as [N, C, H, W]"""
    moved: Value = b.transpose(x, perm=(0, 3, 1, 2))
    return moved


def _last(b: Builder, x: Value) -> Value:
    """[N, C, H, W] as [N, H, W, C]"""
    moved: Value = b.transpose(x, perm=(0, 2, 3, 1))
    return moved


@decomposes("pd_op.pixel_shuffle", composite=False)
def pixel_shuffle(
    b: Builder, x: Value, *, upscale_factor: int, data_format: str
) -> Any:
    """[N, C*r*r, H, W] -> [N, C, H*r, W*r]; of NHWC, its channels are those of NCHW."""
    r = upscale_factor
    if data_format == "NHWC":
        first = pixel_shuffle(b, _first(b, x), upscale_factor=r, data_format="NCHW")
        return _last(b, first)
    n, c, h, w = x.shape
    parts = b.reshape(x, shape=(n, dims.floordiv(c, r * r), r, r, h, w))
    mixed = b.transpose(parts, perm=(0, 1, 4, 2, 5, 3))
    size = (n, dims.floordiv(c, r * r), dims.mul(h, r), dims.mul(w, r))
    return b.reshape(mixed, shape=size)


@decomposes("pd_op.pixel_unshuffle", composite=False)
def pixel_unshuffle(
    b: Builder, x: Value, *, downscale_factor: int, data_format: str
) -> Any:
    """[N, C, H*r, W*r] -> [N, C*r*r, H, W]; for NHWC alike."""
    r = downscale_factor
    if data_format == "NHWC":
        first = pixel_unshuffle(b, _first(b, x), downscale_factor=r, data_format="NCHW")
        return _last(b, first)
    n, c, height, width = x.shape
    h, w = dims.floordiv(height, r), dims.floordiv(width, r)
    b.require_equal(dims.mul(h, r), height, "pixel_unshuffle")
    b.require_equal(dims.mul(w, r), width, "pixel_unshuffle")
    parts = b.reshape(x, shape=(n, c, h, r, w, r))
    mixed = b.transpose(parts, perm=(0, 1, 3, 5, 2, 4))
    return b.reshape(mixed, shape=(n, dims.mul(c, r * r), h, w))


@decomposes("pd_op.channel_shuffle", composite=False)
def channel_shuffle(b: Builder, x: Value, *, groups: int, data_format: str) -> Any:
    """The channels of `groups` groups, one of each in turn."""
    if data_format == "NHWC":
        first = channel_shuffle(b, _first(b, x), groups=groups, data_format="NCHW")
        return _last(b, first)
    n, c, *rest = x.shape
    parts = b.reshape(x, shape=(n, groups, dims.floordiv(c, groups), *rest))
    order = (0, 2, 1, *range(3, 3 + len(rest)))
    return b.reshape(b.transpose(parts, perm=order), shape=x.shape)
