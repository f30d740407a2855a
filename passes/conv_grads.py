"""conv_grads: a conv's gradients as convs, for which there are kernels.

That of the input is a conv of the cotangent with the weights turned round, each of the
places that a stride leaves between its steps a channel; that of the weights a conv of
the input with the cotangent, in which strides and dilation change places and the batch
is summed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pirol.compiler.dims import Dim, Shape, floordiv, mul, sub
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import Graph, Op, Value
from pirol.prim import Builder
from pirol.prim.builder import rewritten


def conv_grads(graph: Graph) -> Graph:
    """The graph with `conv` in the place of its gradients."""

    def conv(b: Builder, op: Op) -> Value | None:
        rule = RULES.get(op.name)
        return None if rule is None else rule(b, op)

    return rewritten(graph, conv)


def _input_grad(b: Builder, op: Op) -> Value:
    """Along a dim of stride s, the s places of the input between two of the output are
    channels of one conv: place s u + r has the taps r, r + s, ... of the window alone.
    Where there is also a dilation, the cotangent is spread instead.

    There is as much padding behind as the largest input that leads to such an output
    has; the result is cut to the input's size.
    """
    (ct, w), groups = op.operands, op.attrs["groups"]
    strides, padding, dilation = (op.attrs[k] for k in WINDOW)
    kernel = [_fixed(k) for k in w.shape[2:]]
    spread = [s if d > 1 else 1 for s, d in zip(strides, dilation)]
    ct = _spread(b, ct, spread)
    steps = [1 if d > 1 else s for s, d in zip(strides, dilation)]
    phases = [min(s, k) for s, k in zip(steps, kernel)]
    taps = [-(-k // s) for k, s in zip(kernel, steps)]
    low = [
        (m - 1) * d - p[0] // s for m, d, p, s in zip(taps, dilation, padding, steps)
    ]
    high = [
        -((p[1] - (k - 1) * d - e + 1) // s)
        for k, d, p, s, e in zip(kernel, dilation, padding, steps, spread)
    ]
    found = b.conv(
        _cut(b, ct, low, high),
        _by_phase(b, _swapped(b, w, groups), taps, steps, phases),
        strides=(1,) * len(strides),
        padding=tuple((max(a, 0), max(z, 0)) for a, z in zip(low, high)),
        dilation=dilation,
        groups=groups,
    )
    found = _in_line(b, found, op.result.shape[1], steps, phases)
    starts = (0, 0, *(p[0] % s for p, s in zip(padding, steps)))
    return _block(b, found, starts, op.result.shape)


def _spread(b: Builder, x: Value, steps: Sequence[int]) -> Value:
    """[N, C, ...] with step - 1 zeros between neighbours."""
    if all(s == 1 for s in steps):
        return x
    none, gaps = (0,) * x.type.rank, (0, 0, *(s - 1 for s in steps))
    spread: Value = b.pad(x, low=none, high=none, interior=gaps, value=0)
    return spread


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


def _in_line(
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


def _weight_grad(b: Builder, op: Op) -> Value:
    """Groups of channels are groups again, each of the whole batch."""
    (x, ct), groups = op.operands, op.attrs["groups"]
    strides, padding, dilation = (op.attrs[k] for k in WINDOW)
    out, inside, *_ = op.result.shape
    found = b.conv(
        _swapped(b, x, groups, within=False),
        b.transpose(ct, perm=(1, 0, *range(2, ct.type.rank))),
        strides=dilation,
        padding=padding,
        dilation=strides,
        groups=groups,
    )
    found = b.transpose(found, perm=(1, 0, *range(2, ct.type.rank)))
    return _first(b, found, (out, inside, *op.result.shape[2:]))


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
