"""Paddle's other products: einsum, Kronecker's, a matrix with a vector; and traces."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.creation import diagonal
from pirol.prim.decomp.nn import matmul
from pirol.prim.decomp.registry import decomposes, need


@decomposes("pd_op.mv", operands="x vec")
def mv(b: Builder, x: Value, vector: Value) -> Any:
    """A matrix with a vector."""
    return matmul(b, x, vector, transpose_x=False, transpose_y=False)


@decomposes("pd_op.multi_dot")
def multi_dot(b: Builder, parts: list[Value]) -> Any:
    """The product of matrices, in the order that takes the fewest products in the first
    call; the first and the last may be a row and a column."""
    need(all(v.type.rank in (1, 2) for v in parts), "multi_dot of more than matrices")
    ends = [1 if parts[0].type.rank == 1 else parts[0].shape[0]]
    ends += [
        v.shape[-1] if k == 0 or v.type.rank == 2 else 1 for k, v in enumerate(parts)
    ]
    sizes = [b.facts.value(d) or 1 for d in ends]

    def times(x: Value, y: Value) -> Any:
        return matmul(b, x, y, transpose_x=False, transpose_y=False)

    return chained(parts, sizes, times)


def chained(
    parts: Sequence[Any], sizes: Sequence[int], times: Callable[[Any, Any], Any]
) -> Any:
    """The product of matrices, sizes[k] by sizes[k + 1], by `times` of two, in the
    order that takes the fewest multiplications."""

    @functools.cache
    def best(first: int, last: int) -> tuple[int, int]:
        """(multiplications, where to part) for those between."""
        if first == last:
            return 0, first
        return min(
            (
                best(first, k)[0]
                + best(k + 1, last)[0]
                + sizes[first] * sizes[k + 1] * sizes[last + 1],
                k,
            )
            for k in range(first, last)
        )

    def product(first: int, last: int) -> Any:
        if first == last:
            return parts[first]
        k = best(first, last)[1]
        return times(product(first, k), product(k + 1, last))

    return product(0, len(parts) - 1)


@decomposes("pd_op.trace", composite=False)
def trace(b: Builder, x: Value, *, offset: int, axis1: int, axis2: int) -> Any:
    """The sum of a diagonal of two dims."""
    line = diagonal(b, x, offset=offset, axis1=axis1, axis2=axis2)
    return b.reduce_sum(line, axes=(line.type.rank - 1,))


@decomposes("pd_op.kron")
def kron(b: Builder, x: Value, y: Value) -> Any:
    """Every element of x times the whole of y, dim by dim."""
    need(x.dtype == y.dtype, f"kron of {x.dtype} and {y.dtype}")
    rank = max(x.type.rank, y.type.rank)
    wide = [(*(1,) * (rank - v.type.rank), *v.shape) for v in (x, y)]
    blocks, inner = wide
    left = b.reshape(x, shape=tuple(d for size in blocks for d in (size, 1)))
    right = b.reshape(y, shape=tuple(d for size in inner for d in (1, size)))
    shape = tuple(dims.mul(p, q) for p, q in zip(blocks, inner))
    return b.reshape(b.mul(left, right), shape=shape)


@decomposes("pd_op.bilinear")
def bilinear(b: Builder, x: Value, y: Value, weight: Value, bias: Value | None) -> Any:
    """x [N, I], weight [O, I, J] and y [N, J] to [N, O]."""
    need(x.dtype == y.dtype == weight.dtype, "bilinear of several dtypes")
    b.require_equal(y.shape[0], x.shape[0], "bilinear")
    half = b.dot_general(x, weight, x_batch=(), y_batch=(), x_sum=(1,), y_sum=(1,))
    wide = b.broadcast(y, shape=half.shape, dims=(0, 2))
    found = b.reduce_sum(b.mul(half, wide), axes=(2,))
    return found if bias is None else b.add(found, bias)


@decomposes("pd_op.einsum", operands="x")
def einsum(b: Builder, operands: list[Value], *, equation: str) -> Any:
    """Sums of products by the labels of dims; Paddle has removed ellipses."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    names = left.split(",")
    letters = set(left.replace(",", "")) | set(out)
    need(bool(arrow) and all(map(str.isalpha, letters)), f"einsum of {equation}")
    need(len({v.dtype for v in operands}) == 1, "einsum of several dtypes")
    need(len(names) == len(operands), f"einsum of {len(operands)} operands")
    total, have = _alone(b, operands[0], names[0], set("".join(names[1:]) + out))
    for k, (value, name) in enumerate(zip(operands[1:], names[1:]), 1):
        later = set("".join(names[k + 1 :]) + out)
        other, its = _alone(b, value, name, {*have} | later)
        total, have = _joined(b, total, have, other, its, later)
        total, have = _alone(b, total, have, later)
    need(len(set(out)) == len(out) and set(out) <= set(have), f"einsum to {out}")
    result = b.transpose(total, perm=tuple(map(have.index, out)))
    return (result, *(None for _ in range(2 * len(operands))))


def _alone(b: Builder, x: Value, name: str, wanted: set[str]) -> tuple[Value, str]:
    """The operand with each label once, those summed that nothing else has."""
    need(len(name) == x.type.rank, f"einsum: labels {name} of {x.type}")
    for label in dict.fromkeys(name):
        while name.count(label) > 1:
            first = name.index(label)
            second = name.index(label, first + 1)
            b.require_equal(x.shape[first], x.shape[second], "einsum")
            x = diagonal(b, x, offset=0, axis1=first, axis2=second)
            rest = [c for k, c in enumerate(name) if k not in (first, second)]
            name = "".join(rest) + label
    gone = tuple(k for k, label in enumerate(name) if label not in wanted)
    if gone:
        x = b.reduce_sum(x, axes=gone)
    return x, "".join(label for label in name if label in wanted)


def _joined(
    b: Builder, x: Value, xs: str, y: Value, ys: str, later: set[str]
) -> tuple[Value, str]:
    """The product of two; a dim of 1 is every label's."""
    shared = [label for label in xs if label in ys]
    for label in shared:
        p, q = xs.index(label), ys.index(label)
        if dims.equal(x.shape[p], 1) is not True and dims.equal(y.shape[q], 1) is True:
            y = _widened(b, y, q, x.shape[p])
        elif dims.equal(x.shape[p], 1) is True:
            x = _widened(b, x, p, y.shape[q])
        b.require_equal(x.shape[p], y.shape[q], "einsum")
    batch = [label for label in shared if label in later]
    summed = [label for label in shared if label not in later]
    found = b.dot_general(
        x,
        y,
        x_batch=tuple(map(xs.index, batch)),
        y_batch=tuple(map(ys.index, batch)),
        x_sum=tuple(map(xs.index, summed)),
        y_sum=tuple(map(ys.index, summed)),
    )
    free = [c for c in xs + ys if c not in shared]
    return found, "".join([*batch, *free])


def _widened(b: Builder, x: Value, axis: int, size: Any) -> Value:
    shape: Sequence[Any] = [size if k == axis else d for k, d in enumerate(x.shape)]
    return b.broadcast_to(x, tuple(shape))
