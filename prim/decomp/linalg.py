"""Inverses, determinants and solutions of small systems, by elimination; powers of
matrices; cross products.

Each step takes the largest element of a column as its pivot. A matrix without one is
Paddle's to refuse.
"""

from __future__ import annotations

from typing import Any

from pirol.compiler import dims
from pirol.compiler.ir import COMPLEX, FLOATS, Guard, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.bounds import cut
from pirol.prim.decomp.nn import matmul
from pirol.prim.decomp.registry import axis_in, decomposes, need

LIMIT = 4  # rows; of more, one call of LAPACK is better than kernels for each step


@decomposes("pd_op.inverse", composite=False)
def inverse(b: Builder, x: Value) -> Any:
    """Of square matrices."""
    return _solved(b, x, _unit(b, x))


@decomposes("pd_op.solve", composite=False)
def solve(b: Builder, x: Value, y: Value) -> Any:
    """What the matrices x make y of, which is columns, or one."""
    need(x.dtype == y.dtype, f"solve of {x.dtype} and {y.dtype}")
    if y.type.rank == 1:
        found = _solved(b, x, b.reshape(y, shape=(*y.shape, 1)))
        return b.reshape(found, shape=found.shape[:-1])
    return _solved(b, x, y)


@decomposes("pd_op.det", composite=False)
def det(b: Builder, x: Value) -> Any:
    """The product of the pivots, turned by each exchange of two rows."""
    size = _rows(x)
    total: Value | None = None
    for k in range(size):
        x, moved = _swapped(b, x, k)
        pivot = _element(b, x, k)
        signed = b.select(moved, b.neg(pivot), pivot)
        total = signed if total is None else b.mul(total, signed)
        x = _cleared(b, x, k, b.select(b.eq(pivot, 0), 1, pivot))
    assert total is not None
    return b.reshape(total, shape=x.shape[:-2])


@decomposes("pd_op.matrix_power")
def matrix_power(b: Builder, x: Value, *, n: int) -> Any:
    """x @ x @ .. n times, by squares; the inverse's where n < 0."""
    need(abs(n) < 2**10, f"power {n} of a matrix")
    if n < 0:
        few = isinstance(x.shape[-1], int) and x.shape[-1] <= LIMIT
        return matrix_power(b, inverse(b, x) if few else b.inverse(x), n=-n)
    found: Value | None = None
    while n:
        if n % 2:
            found = x if found is None else _product(b, found, x)
        n //= 2
        x = _product(b, x, x) if n else x
    return _unit(b, x) if found is None else found


@decomposes("pd_op.cross")
def cross(b: Builder, x: Value, y: Value, *, axis: int) -> Any:
    """Of the vectors along an axis (9: the first of three)."""
    need(x.type.rank == y.type.rank, f"cross of {x.type} and {y.type}")
    for pair in zip(x.shape, y.shape):
        b.require_equal(*pair, "cross")
    axes = range(x.type.rank)
    if axis != 9:
        axes = range(axis_in(axis, x.type.rank, "cross"), x.type.rank)[:1]
    at = next((k for k in axes if _is_three(b, x.shape[k])), -1)
    need(at >= 0, f"cross along a dim of {x.type} that is not 3")

    def turned(v: Value, by: int) -> Value:
        ends = cut(b, v, at, by, 3 - by), cut(b, v, at, 0, by)
        found: Value = b.concat(*ends, axis=at)
        return found

    left = b.mul(turned(x, 1), turned(y, 2))
    return b.sub(left, b.mul(turned(x, 2), turned(y, 1)))


def _is_three(b: Builder, dim: Any) -> bool:
    """Whether a dim is 3; of one that is not known as in the first call."""
    if dims.equal(dim, 3) is None:
        seen = b.facts.value(dim)
        need(seen is not None, "a dim is known only when the program runs")
        b.assume(Guard("eq" if seen == 3 else "ne", dim, 3))
        return seen == 3
    return dims.equal(dim, 3) is True


def _product(b: Builder, x: Value, y: Value) -> Value:
    found: Value = matmul(b, x, y, transpose_x=False, transpose_y=False)
    return found


def _rows(x: Value) -> int:
    """Of a square matrix, which must be known and few."""
    need(x.dtype in FLOATS + COMPLEX and x.type.rank > 1, f"a matrix of {x.type}")
    size = x.shape[-1]
    few = isinstance(size, int) and 0 < size <= LIMIT
    need(few and x.shape[-2] == size, f"matrices of {x.type}, not of 1 to {LIMIT} rows")
    return int(size)


def _unit(b: Builder, x: Value) -> Value:
    """Ones on the diagonal, in the shape of x."""
    row, column = (
        b.iota(axis=x.type.rank - k, shape=x.shape, dtype="int64") for k in (2, 1)
    )
    found: Value = b.cast(b.eq(row, column), dtype=x.dtype)
    return found


def _solved(b: Builder, x: Value, y: Value) -> Value:
    """y behind x, all made what makes x the unit matrix."""
    size = _rows(x)
    need(dims.equal(y.shape[-2], size) is True, f"solve for {y.type}")
    lead, wanted = x.shape[:-2], y.shape[:-2]
    if not dims.same_shape(lead, wanted):
        need(not lead or not wanted, "solve of several broadcast dims")
        lead = lead or wanted
    x, y = (b.broadcast_to(v, (*lead, *v.shape[-2:])) for v in (x, y))
    last = x.type.rank - 1
    both = b.concat(x, y, axis=last)
    for k in range(size):
        both, _ = _swapped(b, both, k)
        pivot = _element(b, both, k)
        some = b.gt(_size(b, b.stop_gradient(pivot)), 0)
        b.check(some, message="a matrix that has no inverse")
        both = _cleared(b, both, k, pivot)
    found: Value = cut(b, both, last, size, y.shape[-1])
    return found


def _swapped(b: Builder, x: Value, k: int) -> tuple[Value, Value]:
    """Row k exchanged for that, of those from it on, which has the largest element in
    column k; and whether it is another."""
    rank, rows = x.type.rank, x.shape[:-1]
    column = b.reshape(cut(b, x, rank - 1, k, 1), shape=rows)
    line = b.iota(axis=rank - 2, shape=rows, dtype="int64")
    size = b.select(b.ge(line, k), _size(b, b.stop_gradient(column)), -1)
    over, kept = (rank - 2,), tuple(range(rank - 2))
    best = b.broadcast(b.reduce_max(size, axes=over), shape=rows, dims=kept)
    last = b.dim(x.shape[-2] - 1, rows)  # of NaN, which equals nothing
    place = b.reduce_min(b.select(b.eq(size, best), line, last), axes=over)
    wide = b.broadcast(place, shape=rows, dims=kept)
    back = b.select(b.eq(line, wide), k, line)
    order = b.select(b.eq(line, k), wide, back)
    at = b.broadcast(order, shape=x.shape, dims=tuple(range(rank - 1)))
    found = b.gather(x, at, shape=x.shape, dims=(*kept, -1, rank - 1))
    moved = b.reshape(b.ne(place, k), shape=(*x.shape[:-2], 1, 1))
    return found, moved


def _size(b: Builder, x: Value) -> Value:
    size = b.hypot(b.real(x), b.imag(x)) if x.is_complex else b.abs(x)
    found: Value = size
    return found


def _element(b: Builder, x: Value, k: int) -> Value:
    """What is on the diagonal in row k, as a matrix of one."""
    found: Value = cut(b, cut(b, x, x.type.rank - 2, k, 1), x.type.rank - 1, k, 1)
    return found


def _cleared(b: Builder, x: Value, k: int, pivot: Value) -> Value:
    """Row k over the pivot, and taken from the others as their column k says."""
    rank = x.type.rank
    row = b.div(cut(b, x, rank - 2, k, 1), pivot)
    rest = b.sub(x, b.mul(cut(b, x, rank - 1, k, 1), row))
    here = b.eq(b.iota(axis=rank - 2, shape=x.shape, dtype="int64"), k)
    found: Value = b.select(here, row, rest)
    return found
