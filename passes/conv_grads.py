"""conv_grads: a conv's gradients as convs, for which there are kernels.

That of the input is a conv of the cotangent, spread by the strides, with the weights
turned round; that of the weights a conv of the input with the cotangent, in which
strides and dilation change places and the batch is summed.
"""

from __future__ import annotations

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
    """With as much padding behind as the largest input that leads to such an output
    has; the result is cut to the input's size."""
    (ct, w), groups = op.operands, op.attrs["groups"]
    strides, padding, dilation = (op.attrs[k] for k in WINDOW)
    if any(s != 1 for s in strides):
        none, gaps = (0,) * ct.type.rank, (0, 0, *(s - 1 for s in strides))
        ct = b.pad(ct, low=none, high=none, interior=gaps, value=0)
    reach = [d * (_fixed(k) - 1) for d, k in zip(dilation, w.shape[2:])]
    low = [r - p[0] for r, p in zip(reach, padding)]
    high = [r - p[1] + s - 1 for r, p, s in zip(reach, padding, strides)]
    turned = b.reverse(_swapped(b, w, groups), axes=tuple(range(2, w.type.rank)))
    found = b.conv(
        _cut(b, ct, low, high),
        turned,
        strides=(1,) * len(strides),
        padding=tuple((max(a, 0), max(z, 0)) for a, z in zip(low, high)),
        dilation=dilation,
        groups=groups,
    )
    return _first(b, found, op.result.shape)


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
