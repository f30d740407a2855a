"""conv_grads: a conv's gradients as convs, for which there are kernels.

That of the input is a conv of the cotangent with the weights turned round, one for each
of the places that a stride leaves between its steps; that of the weights a conv of the
input with the cotangent, in which strides and dilation change places and the batch is
summed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pirol.compiler.dims import Dim, Shape, add, floordiv, mul, sub
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import BITS, Graph, Op, TensorType, Value
from pirol.prim import Builder
from pirol.prim.builder import rewritten


def conv_grads(graph: Graph, apart: bool = True) -> Graph:
    """The graph with `conv` in the place of its gradients; `apart`: the places between
    two steps are convs of their own, not channels of one."""

    def conv(b: Builder, op: Op) -> Value | None:
        if op.name == "conv_input_grad":
            return (
                _input_grad(b, op, apart) if _is_fixed(op) else _block_of(b, op, apart)
            )
        if op.name == "conv_weight_grad":
            return _weight_grad(b, op if _is_fixed(op) else _of_padded(b, op))
        return None

    return rewritten(graph, conv)


def _is_fixed(op: Op) -> bool:
    """Whether the padding is known, and not only when the program runs."""
    return all(isinstance(p, int) for pair in op.attrs["padding"] for p in pair)


def _unpadded(op: Op, x: Shape) -> tuple[Op, Shape]:
    """A conv's gradient of an input that is padded before; and the shape of that."""
    padding = op.attrs["padding"]
    sizes = (add(n, add(*pair)) for n, pair in zip(x[2:], padding))
    attrs = {**op.attrs, "padding": ((0, 0),) * len(padding)}
    return replace(op, attrs=attrs), (*x[:2], *sizes)


def _block_of(b: Builder, op: Op, apart: bool) -> Value:
    """The gradient by the padded input, and of that what is the input's."""
    whole, shape = _unpadded(op, op.result.shape)
    whole = replace(whole, results=(Value(TensorType(shape, op.result.dtype)),))
    starts = (0, 0, *(low for low, _ in op.attrs["padding"]))
    return _block(b, _input_grad(b, whole, apart), starts, op.result.shape)


def _of_padded(b: Builder, op: Op) -> Op:
    """The gradient by the weights, of an input that is padded before."""
    x, ct = op.operands
    low, high = ((0, 0, *sides) for sides in zip(*op.attrs["padding"]))
    x = b.pad(x, low=low, high=high, interior=(0,) * x.type.rank, value=0)
    return replace(_unpadded(op, x.shape)[0], operands=(x, ct))


def _input_grad(b: Builder, op: Op, apart: bool) -> Value:
    """Along a dim of stride s, the places s u + r of the input, for each r below s, are
    a conv of their own, of the taps that lead there. Where there is also a dilation,
    the cotangent is spread instead. Few channels are one conv, and so are all on a
    GPU, where launches, and what joins results, cost more than they save.

    There are as many places as the largest input that leads to such an output has; the
    result is cut to the input's size.
    """
    (ct, w), groups = op.operands, op.attrs["groups"]
    strides, padding, dilation = (op.attrs[k] for k in WINDOW)
    gaps = [s if d > 1 else 1 for s, d in zip(strides, dilation)]
    ct, w = _spread(b, ct, gaps), _swapped(b, w, groups)
    dims = [
        _Dim(_fixed(k), p[0], p[1], d, s, g)
        for k, p, d, s, g in zip(w.shape[2:], padding, dilation, strides, gaps)
    ]
    steps = [dim.step for dim in dims]
    places = [*itertools.product(*map(range, steps))]
    many = len(places) > _lanes(ct.dtype) // max(floordiv(w.shape[0], groups), 1)
    if len(places) > 1 and not (apart and many):
        return _together(b, ct, w, dims, op)
    every = [[dim.phase(r) for dim, r in zip(dims, place)] for place in places]
    sizes = (add(n, dim.more) for n, dim in zip(ct.shape[2:], dims))
    shape = (ct.shape[0], w.shape[0], *sizes)
    parts = [
        _phase(b, ct, w, phases, dilation, groups)
        if all(p.taps for p in phases)
        else b.const(value=0.0, shape=shape, dtype=ct.dtype)
        for phases in every
    ]
    return _first(b, _in_line(b, parts, steps), op.result.shape)


def _lanes(dtype: str) -> int:
    """Channels that one conv has rather than several convs: a vector's elements."""
    return int(512 // BITS[dtype])


@dataclass(frozen=True)
class _Phase:
    """Of a window's taps along a dim: the first, how far the next, and how many, and
    what is padded (or cut) before and behind the cotangent."""

    first: int
    step: int
    taps: int
    low: int
    high: int


@dataclass(frozen=True)
class _Dim:
    """A dim of a conv: the window's size, padding, dilation and stride, and how far the
    cotangent is spread."""

    size: int
    before: int
    behind: int
    dilation: int
    stride: int
    gap: int

    @property
    def step(self) -> int:
        """How far apart the places of a phase are."""
        return self.stride // self.gap

    @property
    def more(self) -> int:
        """How many more places a phase has than the cotangent, spread."""
        least = (self.size - 1) * self.dilation + self.gap - self.before - self.behind
        return -(-(least + self.step - 1) // self.step) - 1

    @property
    def behind_all(self) -> int:
        """What is padded behind the cotangent, for the taps of all phases."""
        reach = (self.size - 1) * self.dilation + self.gap
        return -((self.behind - reach + 1) // self.step)

    def phase(self, r: int) -> _Phase:
        """That of the places r, r + step, ..."""
        late, first = divmod(r + self.before, self.step)
        taps = max(-(-(self.size - first) // self.step), 0)
        reach = (taps - 1) * self.dilation
        return _Phase(first, self.step, taps, reach - late, self.more + late)


def _spread(b: Builder, x: Value, steps: Sequence[int]) -> Value:
    """[N, C, ...] with step - 1 zeros between neighbours."""
    if all(s == 1 for s in steps):
        return x
    none, gaps = (0,) * x.type.rank, (0, 0, *(s - 1 for s in steps))
    spread: Value = b.pad(x, low=none, high=none, interior=gaps, value=0)
    return spread


def _phase(
    b: Builder,
    ct: Value,
    w: Value,
    phases: Sequence[_Phase],
    dilation: Sequence[int],
    groups: int,
) -> Value:
    """The places of the input that these taps of [C, O, ...] lead to."""
    low, high = [p.low for p in phases], [p.high for p in phases]
    return _conv(b, ct, _turned(b, w, phases), low, high, dilation, groups)


def _turned(b: Builder, w: Value, phases: Sequence[_Phase]) -> Value:
    """These taps of [C, O, ...], the last first."""
    taps = (*w.shape[:2], *(p.taps for p in phases))
    starts = (0, 0, *(min(p.first, k) for p, k in zip(phases, w.shape[2:])))
    w = b.slice(w, starts=starts, sizes=taps, steps=(1, 1, *(p.step for p in phases)))
    turned: Value = b.reverse(w, axes=tuple(range(2, w.type.rank)))
    return turned


def _conv(
    b: Builder,
    ct: Value,
    w: Value,
    low: Sequence[int],
    high: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Value:
    """The conv of stride 1 with so much padding; what is negative is cut."""
    found: Value = b.conv(
        _cut(b, ct, low, high),
        w,
        strides=(1,) * len(low),
        padding=tuple((max(a, 0), max(z, 0)) for a, z in zip(low, high)),
        dilation=dilation,
        groups=groups,
    )
    return found


def _together(b: Builder, ct: Value, w: Value, dims: Sequence[_Dim], op: Op) -> Value:
    """The places of the padded input between two steps as channels of one conv: place
    s u + r has the taps r, r + s, ... of the window alone."""
    steps, dilation = [dim.step for dim in dims], op.attrs["dilation"]
    phases = [min(dim.step, dim.size) for dim in dims]
    taps = [-(-dim.size // dim.step) for dim in dims]
    low = [
        (m - 1) * dim.dilation - dim.before // dim.step for m, dim in zip(taps, dims)
    ]
    high = [dim.behind_all for dim in dims]
    w = _by_phase(b, w, taps, steps, phases)
    found = _conv(b, ct, w, low, high, dilation, op.attrs["groups"])
    found = _spread_out(b, found, op.result.shape[1], steps, phases)
    starts = (0, 0, *(dim.before % dim.step for dim in dims))
    return _block(b, found, starts, op.result.shape)


def _by_phase(
    b: Builder,
    w: Value,
    taps: Sequence[int],
    steps: Sequence[int],
    phases: Sequence[int],
) -> Value:
    """[C, O, ...] as [C * phases, O, taps], each phase's taps turned round; a tap that
    the window has not is 0."""
    rank = len(steps)
    more = [m * s - k for m, s, k in zip(taps, steps, w.shape[2:])]
    if any(more):
        none = (0,) * w.type.rank
        w = b.pad(w, low=none, high=(0, 0, *more), interior=none, value=0)
    split = tuple(n for pair in zip(taps, steps) for n in pair)
    w = b.reshape(w, shape=(*w.shape[:2], *split))
    w = _first(b, w, (*w.shape[:2], *(n for pair in zip(taps, phases) for n in pair)))
    w = b.reverse(w, axes=tuple(range(2, 2 + 2 * rank, 2)))
    at = (*range(3, 3 + 2 * rank, 2), 1, *range(2, 2 + 2 * rank, 2))
    w = b.transpose(w, perm=(0, *at))
    out = mul(w.shape[0], math.prod(phases))
    return b.reshape(w, shape=(out, w.shape[1 + rank], *taps))  # type: ignore[no-any-return]


def _spread_out(
    b: Builder, x: Value, channels: Dim, steps: Sequence[int], phases: Sequence[int]
) -> Value:
    """[N, C * phases, ...] as [N, C, ...], each dim `steps` times as long."""
    if all(s == 1 for s in steps):
        return x
    rank = len(steps)
    batch, _, *sizes = x.shape
    x = b.reshape(x, shape=(batch, channels, *phases, *sizes))
    pairs = (n for k in range(rank) for n in (2 + rank + k, 2 + k))
    x = b.transpose(x, perm=(0, 1, *pairs))
    more = (n for s, r in zip(steps, phases) for n in (0, s - r))
    high = (0, 0, *more)
    if any(high):
        none = (0,) * x.type.rank
        x = b.pad(x, low=none, high=high, interior=none, value=0)
    whole = (mul(n, s) for n, s in zip(sizes, steps))
    return b.reshape(x, shape=(batch, channels, *whole))  # type: ignore[no-any-return]


def _in_line(b: Builder, parts: Sequence[Value], steps: Sequence[int]) -> Value:
    """[N, C, ...] of the places s u + r of each dim, from those for each r, the last
    dim's next to each other."""
    if not steps:
        return parts[0]
    (*rest, step), axis = steps, 1 + len(steps)
    if step > 1:
        shape = parts[0].shape
        one = (*shape[: axis + 1], 1, *shape[axis + 1 :])
        whole = (*shape[:axis], mul(shape[axis], step), *shape[axis + 1 :])
        each = [b.reshape(p, shape=one) for p in parts]
        parts = [
            b.reshape(b.concat(*each[k : k + step], axis=axis + 1), shape=whole)
            for k in range(0, len(each), step)
        ]
    return _in_line(b, parts, rest)


def _weight_grad(b: Builder, op: Op) -> Value:
    """Groups of channels are groups again, each of the whole batch. What of x no window
    reaches is cut, where the sizes tell it, and the result else."""
    (x, ct), groups = op.operands, op.attrs["groups"]
    strides, padding, dilation = (op.attrs[k] for k in WINDOW)
    out, inside, *kernel = op.result.shape
    low = [p[0] for p in padding]
    high = [
        p[1] - _unreached(n + sum(p) - (k - 1) * d - 1, s)
        for n, p, k, d, s in zip(x.shape[2:], padding, kernel, dilation, strides)
    ]
    found = b.conv(
        _swapped(b, _cut(b, x, low, high), groups, within=False),
        b.transpose(ct, perm=(1, 0, *range(2, ct.type.rank))),
        strides=dilation,
        padding=tuple((a, max(z, 0)) for a, z in zip(low, high)),
        dilation=strides,
        groups=groups,
    )
    found = b.transpose(found, perm=(1, 0, *range(2, ct.type.rank)))
    return _first(b, found, (out, inside, *kernel))


def _unreached(steps: Dim, stride: int) -> int:
    """How far behind the last window so many places reach; 0 where it is not known."""
    return steps % stride if isinstance(steps, int) and steps > 0 else 0


WINDOW = ("strides", "padding", "dilation")


def _swapped(b: Builder, x: Value, groups: int, within: bool = True) -> Value:
    """[g * a, b, ...] as [g * b, a, ...]; not within the groups of the first dim but of
    the second, [a, g * b, ...] as [b, g * a, ...]."""
    first, second, *rest = x.shape
    tail = tuple(range(3, 3 + len(rest)))
    if within:
        each = floordiv(first, groups)
        x = b.reshape(x, shape=(groups, each, second, *rest))
        x = b.transpose(x, perm=(0, 2, 1, *tail))
        return b.reshape(x, shape=(mul(groups, second), each, *rest))  # type: ignore[no-any-return]
    each = floordiv(second, groups)
    x = b.reshape(x, shape=(first, groups, each, *rest))
    x = b.transpose(x, perm=(2, 1, 0, *tail))
    return b.reshape(x, shape=(each, mul(groups, first), *rest))  # type: ignore[no-any-return]


def _cut(b: Builder, x: Value, low: Sequence[int], high: Sequence[int]) -> Value:
    """x without what negative padding takes away."""
    starts = (0, 0, *(max(-a, 0) for a in low))
    ends = (0, 0, *(max(-z, 0) for z in high))
    if not any((*starts, *ends)):
        return x
    sizes = tuple(sub(d, a + z) for d, a, z in zip(x.shape, starts, ends))
    return _block(b, x, starts, sizes)


def _first(b: Builder, x: Value, shape: Shape) -> Value:
    """The block of this shape from the start of each dim."""
    return _block(b, x, (0,) * x.type.rank, shape)


def _block(b: Builder, x: Value, starts: Shape, sizes: Shape) -> Value:
    block: Value = b.slice(x, starts=starts, sizes=sizes, steps=(1,) * x.type.rank)
    return block


def _fixed(size: Dim) -> int:
    if not isinstance(size, int):
        raise Unsupported("the gradient of a conv whose window has no fixed size")
    return size
