"""Primitives that follow data: gather, scatter_add, put, scans, check, bind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import equal, same_shape
from pirol.compiler.errors import PirolError
from pirol.compiler.ir import COMPLEX, INTS, TensorType
from pirol.prim.elementwise import NUMBERS
from pirol.prim.prim import Attrs, Prim, define, require

Types = Sequence[TensorType]


def _infer_gather(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, *indices = types
    shape, at = tuple(attrs["shape"]), tuple(attrs["dims"])
    ok = len(at) == x.rank and sum(k < 0 for k in at) == len(indices)
    ok = ok and all(
        k < 0 or (k < len(shape) and equal(shape[k], d) is True)
        for k, d in zip(at, x.shape)
    )
    ok = ok and all(t.dtype == "int64" and same_shape(t.shape, shape) for t in indices)
    require(ok, "gather", (*types, shape, at), "an equal dim, or an index, for each")
    return (TensorType(shape, x.dtype),)


def _gather(x: Any, *indices: Any, shape: Any, dims: Any) -> Any:
    if not x.size:
        return np.zeros(shape, x.dtype)
    at = _coordinates(shape, indices, x.shape, dims)
    return np.broadcast_to(x[tuple(at)], shape).copy()


def _coordinates(shape: Any, indices: Any, into: Any, dims: Any) -> list[Any]:
    """For each dim of `into`, where each element of `shape` lies."""
    grid, rest = np.indices(shape, sparse=True), iter(indices)
    return [
        grid[k] if k >= 0 else np.clip(next(rest), 0, n - 1) for k, n in zip(dims, into)
    ]


def _by(name: str) -> Any:
    """The gradient of gather or scatter_add: the other, by the same places."""

    def back(b: Any, op: Any, cts: Any) -> Sequence[Any]:
        x, *indices = op.operands
        transpose = getattr(b, name)
        grad = transpose(cts[0], *indices, shape=x.shape, dims=op.attrs["dims"])
        return (grad, *(None for _ in indices))

    return back


# Element `p` of the result is x at coordinates that are each either p's own (dims: the
# result's dim k) or an index operand's value at p (dims: -1), clamped into x.
define(Prim("gather", "movement", _infer_gather, _gather, _by("scatter_add")))


def _infer_scatter(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, *indices = types
    result = TensorType(tuple(attrs["shape"]), x.dtype)
    kept = [k for k in attrs["dims"] if k >= 0]
    ok = x.dtype in NUMBERS + COMPLEX and len(set(kept)) == len(kept)
    require(ok, "scatter_add", (*types, attrs["dims"]), "numbers, each dim once")
    gathered = {"shape": x.shape, "dims": attrs["dims"]}
    _infer_gather((result, *indices), gathered)  # it reads where this writes
    return (result,)


def _scatter(x: Any, *indices: Any, shape: Any, dims: Any) -> Any:
    out = np.zeros(shape, x.dtype)
    if not x.size or not out.size:
        return out
    at = _coordinates(x.shape, indices, shape, dims)
    if not at:
        return np.sum(x, dtype=x.dtype)
    np.add.at(out, tuple(np.broadcast_to(a, x.shape) for a in at), x)
    return out


# The transpose of gather: each element of x is added, in order, to zeros of the shape,
# at the coordinates where gather of that shape by these indices and dims would read.
define(Prim("scatter_add", "scatter", _infer_scatter, _scatter, _by("gather")))


def _infer_put(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, part, *indices = types
    kept = [k for k in attrs["dims"] if k >= 0]
    ok = x.dtype == part.dtype and len(set(kept)) == len(kept)
    require(ok, "put", (*types, attrs["dims"]), "one dtype, each dim once")
    _infer_gather((x, *indices), {"shape": part.shape, "dims": attrs["dims"]})
    return (x,)


def _put(x: Any, part: Any, *indices: Any, dims: Any) -> Any:
    out = np.array(x, order="C")
    if not part.size or not out.size:
        return out
    at = _coordinates(part.shape, indices, x.shape, dims)
    flat = np.zeros(part.shape, np.int64)
    for place, size in zip(at, x.shape):
        flat = flat * size + place
    last = dict(zip(flat.reshape(-1).tolist(), range(flat.size)))
    out.reshape(-1)[list(last)] = part.reshape(-1)[list(last.values())]
    return out


def _put_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """What was put over has none; what is put has that of its place, if it is the last
    there."""
    x, part, *indices = op.operands
    (ct,), at = cts, op.attrs["dims"]
    none = b.const(value=0, shape=part.shape, dtype=part.dtype)
    kept = b.put(ct, none, *indices, dims=at)
    found = b.gather(ct, *indices, shape=part.shape, dims=at)
    number = b.reshape(
        b.iota(axis=0, shape=(part.type.size,), dtype="int64"), shape=part.shape
    )
    nobody = b.const(value=-1, shape=x.shape, dtype="int64")
    last = b.put(nobody, number, *indices, dims=at)
    there = b.gather(last, *indices, shape=part.shape, dims=at)
    given = b.select(b.eq(there, number), found, none)
    return (kept, given, *(None for _ in indices))


# x with each element of the second operand, in order, put over the element of x where
# gather by these indices and dims would read: the last one stays.
define(Prim("put", "put", _infer_put, _put, _put_vjp))


def _infer_scan(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, axis = types[0], attrs["axis"]
    ok = x.dtype in NUMBERS + COMPLEX and 0 <= axis < x.rank
    require(ok, "a scan", (x, axis), "numbers, and an axis within the rank")
    return (x,)


def _cumsum_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """Each element went into all sums from its own place on."""
    return (_from_here(b, cts[0], op.attrs["axis"]),)


def _from_here(b: Any, x: Any, axis: int) -> Any:
    """The sums from each element on."""
    turned = b.cumsum(b.reverse(x, axes=(axis,)), axis=axis)
    return b.reverse(turned, axes=(axis,))


def _cumprod_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """Before the first 0 of a line each product over the element; that 0 itself has the
    products without it; behind it all is 0."""
    x, axis = op.operands[0], op.attrs["axis"]
    none = b.const(value=0, shape=x.shape, dtype=x.dtype)
    one = b.const(value=1, shape=x.shape, dtype=x.dtype)
    zero = b.eq(x, none)
    zeros = b.cumsum(b.cast(zero, dtype="int64"), axis=axis)
    first = b.and_(zero, b.eq(zeros, 1))
    rest = b.cumprod(b.select(first, one, x), axis=axis)
    share = _from_here(b, b.mul(cts[0], op.results[0]), axis)
    before = b.div(share, b.select(zero, one, x))
    at_first = b.select(first, _from_here(b, b.mul(cts[0], rest), axis), none)
    return (b.select(b.eq(zeros, 0), before, at_first),)


def _infer_extreme(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    require(types[0].dtype in NUMBERS, "a scan", types[0], "numbers that have an order")
    return _infer_scan(types, attrs)


def latest(b: Any, x: Any, reached: Any, axis: int) -> Any:
    """Where the extreme up to each element is: the last place of equal ones."""
    here = b.or_(b.eq(x, reached), b.ne(x, x))
    place = b.iota(axis=axis, shape=x.shape, dtype="int64")
    return b.cummax(b.select(here, place, 0), axis=axis)


def _extreme_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """Each element has what those have that it is the extreme of."""
    x, axis = op.operands[0], op.attrs["axis"]
    place = latest(b, x, op.results[0], axis)
    at = tuple(-1 if k == axis else k for k in range(x.type.rank))
    return (b.scatter_add(cts[0], place, shape=x.shape, dims=at),)


def _scan(name: str, fn: Any, vjp: Any, infer: Any = _infer_scan) -> None:
    def numpy(x: Any, *, axis: int) -> Any:
        return fn(x, axis, dtype=x.dtype)

    define(Prim(name, "scan", infer, numpy, vjp))


_scan("cumsum", np.cumsum, _cumsum_vjp)
_scan("cumprod", np.cumprod, _cumprod_vjp)
_scan("cummax", np.maximum.accumulate, _extreme_vjp, _infer_extreme)
_scan("cummin", np.minimum.accumulate, _extreme_vjp, _infer_extreme)


class CheckError(PirolError):
    """A `check` found its condition false while the program ran."""


def _infer_check(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    ok = types[0].dtype == "bool" and types[0].rank == 0
    require(ok, "check", types, "a bool scalar")
    return ()


def _check(ok: Any, *, message: str) -> tuple[()]:
    if not ok:
        raise CheckError(message)
    return ()


def _infer_bind(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    ok = types[0].dtype in INTS and types[0].size == len(attrs["items"])
    require(ok, "bind", types, f"{len(attrs['items'])} integers")
    return ()


def _bind(x: Any, *, items: Sequence[Any]) -> tuple[()]:
    if np.reshape(x, -1).tolist() != list(items):
        raise CheckError(f"{x} is not {items}")
    return ()


# No result: it sets the symbols among the items, the elements of its operand, which
# must be >= 0; a number among them must be the element.
define(Prim("bind", "effect", _infer_bind, _bind))
# No result: it ends the call, which Paddle then runs, where the operand is false.
define(Prim("check", "effect", _infer_check, _check))
