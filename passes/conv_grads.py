"""conv_grads: a conv's gradients as convs, for which there are kernels.

That of the input is a conv of the cotangent with the weights turned round, one for each
of the places that a stride leaves between its steps; that of the weights a conv of the
input with the cotangent, in which strides and dilation change places and the batch is
summed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pirol.compiler.dims import Dim, Shape, add, floordiv, mul, sub
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import BITS, Graph, Op, Value
from pirol.prim import Builder
from pirol.prim.builder import rewritten


def conv_grads(graph: Graph) -> Graph:
    """The graph with `conv` in the place of its gradients."""

    def conv(b: Builder, op: Op) -> Value | None:
        rule = RULES.get(op.name)
        return None if rule is None else rule(b, op)

    return rewritten(graph, conv)


def _input_grad(b: Builder, op: Op) -> Value:
    """Along a dim of stride s, the places s u + r of the input, for each r below s, are
    a conv of their own, of the taps that lead there. Where there is also a dilation,
    the cotangent is spread instead. Few channels are one conv, its taps those of all.

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
    every = [[dim.phase(r) for dim, r in zip(dims, place)] for place in places]
    if 1 < len(every) <= _lanes(ct.dtype) // max(floordiv(w.shape[0], groups), 1):
        found = _together(b, ct, w, every, dims, groups)
    else:
        sizes = (add(n, dim.more) for n, dim in zip(ct.shape[2:], dims))
        shape = (ct.shape[0], w.shape[0], *sizes)
        parts = [
            _phase(b, ct, w, phases, dilation, groups)
            if all(p.taps for p in phases)
            else b.const(value=0.0, shape=shape, dtype=ct.dtype)
            for phases in every
        ]
        found = _in_line(b, parts, steps)
    return _first(b, found, op.result.shape)


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


def _padded(b: Builder, x: Value, low: Sequence[int], high: Sequence[int]) -> Value:
    """x with zeros before and behind each dim."""
    if not any((*low, *high)):
        return x
    none = (0,) * x.type.rank
    padded: Value = b.pad(x, low=low, high=high, interior=none, value=0)
    return padded


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


def _together(
    b: Builder,
    ct: Value,
    w: Value,
    every: Sequence[Sequence[_Phase]],
    dims: Sequence[_Dim],
    groups: int,
) -> Value:
    """As _in_line of all phases: one conv, whose channels they are, with as many taps
    as they have together; a tap that one has not is 0."""
    low = [max(p.low for p in along) for along in zip(*every)]
    taps = [max(p.taps - p.low for p in ps) + a for ps, a in zip(zip(*every), low)]
    channels = floordiv(w.shape[0], groups)
    alone = (groups, 1, channels, w.shape[1], *taps)
    each = []
    for phases in every:
        before = [a - p.low for a, p in zip(low, phases)]
        behind = [k - p.taps - n for k, p, n in zip(taps, phases, before)]
        ends = ((0, 0, *before), (0, 0, *behind))
        each.append(b.reshape(_padded(b, _turned(b, w, phases), *ends), shape=alone))
    shape = (groups * len(every) * channels, w.shape[1], *taps)
    w = b.reshape(b.concat(*each, axis=1), shape=shape)
    dilation = [dim.dilation for dim in dims]
    high = [dim.more + (k - 1) * dim.dilation - a for dim, k, a in zip(dims, taps, low)]
    found = _conv(b, ct, w, low, high, dilation, groups)
    steps, (batch, _, *sizes), rank = [d.step for d in dims], found.shape, len(dims)
    found = b.reshape(found, shape=(batch, groups, *steps, channels, *sizes))
    pairs = (k for n in range(rank) for k in (3 + rank + n, 2 + n))
    found = b.transpose(found, perm=(0, 1, 2 + rank, *pairs))
    whole = (mul(n, step) for n, step in zip(sizes, steps))
    return b.reshape(found, shape=(batch, groups * channels, *whole))  # type: ignore[no-any-return]


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
RULES: dict[str, Callable[[Builder, Op], Value]] = {
    "conv_input_grad": _input_grad,
    "conv_weight_grad": _weight_grad,
}


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


def _block(b: Builder, x: Value, starts: Sequence[int], sizes: Shape) -> Value:
    block: Value = b.slice(x, starts=starts, sizes=sizes, steps=(1,) * x.type.rank)
    return block


def _fixed(size: Dim) -> int:
    if not isinstance(size, int):
        raise Unsupported("the gradient of a conv whose window has no fixed size")
    return size
