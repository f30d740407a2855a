"""Sums, products and extremes along an axis, up to each element."""

from __future__ import annotations

from typing import Any

from pirol.compiler.ir import Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.pointwise import NUMBERS
from pirol.prim.decomp.registry import axis_in, axis_of, decomposes, need
from pirol.prim.indexing import latest


@decomposes("pd_op.cumsum", compute_in="float32")
def cumsum(
    b: Builder, x: Value, axis: Value, *, flatten: bool, exclusive: bool, reverse: bool
) -> Any:
    """Sums along an axis up to each element; exclusive: before it, reverse: from it."""
    need(x.dtype != "bool", "cumsum of bool")
    if flatten:
        x = b.reshape(x, shape=(x.type.size,))
    if x.type.rank == 0:
        return x
    at = axis_of(b, axis, x.type.rank, "cumsum")
    return _scanned(b, "cumsum", x, at, exclusive, reverse)


@decomposes("pd_op.cumprod", compute_in="float32")
def cumprod(b: Builder, x: Value, *, dim: int, exclusive: bool, reverse: bool) -> Any:
    """Products along an axis up to each element; see cumsum."""
    need(x.dtype != "bool", "cumprod of bool")
    if x.type.rank == 0:
        return x
    at = axis_in(dim, x.type.rank, "cumprod")
    known = isinstance(x.shape[at], int) or not x.is_complex
    need(known, "cumprod of complex numbers, of which the count is not known")
    return _scanned(b, "cumprod", x, at, exclusive, reverse)


def _extreme(name: str) -> None:
    @decomposes(f"pd_op.{name}", composite=False)
    def run(b: Builder, x: Value, *, axis: int, dtype: str) -> Any:
        need(x.dtype in NUMBERS, f"{name} of {x.dtype}")
        if x.type.rank == 0:
            return x, b.const(value=0, shape=(), dtype=dtype)
        at = axis_in(axis, x.type.rank, name)
        found = b.one(name, x, axis=at)
        return found, b.cast(latest(b, b.stop_gradient(x), found, at), dtype=dtype)


# The largest (smallest) so far, and the place of the last one.
_extreme("cummax")
_extreme("cummin")


def _scanned(
    b: Builder, name: str, x: Value, axis: int, exclusive: bool, reverse: bool
) -> Value:
    if reverse:
        x = b.reverse(x, axes=(axis,))
    total = b.one(name, x, axis=axis)
    if exclusive:
        total = _shifted(b, total, axis, 0 if name == "cumsum" else 1)
    if reverse:
        total = b.reverse(total, axes=(axis,))
    return total


def _shifted(b: Builder, x: Value, axis: int, first: int) -> Value:
    """x moved on by one along an axis, the last dropped."""
    rank = x.type.rank
    low = tuple(int(k == axis) for k in range(rank))
    none = (0,) * rank
    padded = b.pad(x, low=low, high=none, interior=none, value=first)
    ones = (1,) * rank
    result: Value = b.slice(padded, starts=none, sizes=x.shape, steps=ones)
    return result
