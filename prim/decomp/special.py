"""Paddle's functions of the gamma function, the inverse of erf, Bessel functions."""

from __future__ import annotations

from typing import Any

from pirol.compiler.ir import FLOATS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.registry import decomposes, need
from pirol.prim.special import ORDERS


def _unary(name: str, prim: str) -> None:
    @decomposes(f"pd_op.{name}", compute_in="float32")
    def run(b: Builder, x: Value) -> Any:
        need(x.dtype in FLOATS, f"{name} of {x.dtype}")
        return getattr(b, prim)(x)


for _name in ("lgamma", "erfinv", "i0", "i0e", "i1", "i1e"):
    _unary(_name, _name)
_unary("gammaln", "lgamma")


@decomposes("pd_op.digamma", compute_in="float32")
def digamma(b: Builder, x: Value) -> Any:
    """The derivative of lgamma."""
    need(x.dtype in FLOATS, f"digamma of {x.dtype}")
    return b.polygamma(0.0, x)


@decomposes("pd_op.polygamma", compute_in="float32")
def polygamma(b: Builder, x: Value, *, n: int) -> Any:
    """The derivative of order n of digamma."""
    need(x.dtype in FLOATS, f"polygamma of {x.dtype}")
    need(0 <= n <= ORDERS, f"polygamma of order {n}")
    return b.polygamma(float(n), x)
