"""The sort of rows: a step of its own, as its kernels are no loop nests.

sort(x, descending, count) -> values, places: along the last axis the first `count`
elements in order, and where each was (int64). It is stable: equal ones stay in the
order that they had. NaN are larger than all else, as in Paddle, and equal to each
other, as 0.0 is to -0.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import sub
from pirol.compiler.ir import HALVES, TensorType
from pirol.prim.elementwise import ALL
from pirol.prim.prim import Attrs, Prim, define, require

Types = Sequence[TensorType]


def _infer_sort(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, count = types[0], attrs["count"]
    ok = x.dtype in ALL and x.rank > 0
    require(ok, "sort", x, "numbers or bools, along at least one dim")
    rest = sub(x.shape[-1], count)
    some = not isinstance(count, int) or count >= 0
    fits = some and not (isinstance(rest, int) and rest < 0)
    require(fits, "sort", (x, count), "no more than a row has")
    shape = (*x.shape[:-1], count)
    return TensorType(shape, x.dtype), TensorType(shape, "int64")


def _sort(x: Any, *, descending: bool, count: int) -> tuple[Any, Any]:
    """NumPy's own stable sort; downwards it is that of the row turned round."""
    keys = x.astype(np.float32) if str(x.dtype) in HALVES else x
    if descending:
        at = np.argsort(keys[..., ::-1], axis=-1, kind="stable")[..., ::-1]
        at = x.shape[-1] - 1 - at
    else:
        at = np.argsort(keys, axis=-1, kind="stable")
    at = at[..., :count].astype(np.int64)
    return np.take_along_axis(x, at, axis=-1), at


def _sort_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    """Each element has that of the place to which it went."""
    x, at = op.operands[0], op.results[1]
    dims = (*range(x.type.rank - 1), -1)
    return (b.scatter_add(cts[0], at, shape=x.shape, dims=dims),)


define(Prim("sort", "sort", _infer_sort, _sort, _sort_vjp))
