"""What small tensors hold, followed through the ops that make them.

Shapes computed by a program are tensors to Paddle; here each element is an int, a Dim,
a float, a bool or a Part: `int(x.shape[0] * 0.5)` is the Dim `s0//2`, whatever ops led
to it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from pirol.compiler import dims
from pirol.compiler.ir import DTYPES, HALVES, INTS, Graph, Op, Value
from pirol.prim.prim import ELEMENTWISE, PRIMS

LIMIT = 64  # tensors of up to this many elements are followed
FINEST = 2**10  # and quotients by up to this divisor

Items: TypeAlias = "list[Any] | None"  # row-major; None where not all are known
Known = Callable[[Value], Items]

# Integer primitives on Dims.
INTEGER: Mapping[str, Callable[..., Any]] = {
    "add": dims.add,
    "sub": dims.sub,
    "mul": dims.mul,
    "max": dims.maximum,
    "min": dims.minimum,
    "idiv": dims.floordiv,
    "rem": dims.mod,
    "neg": lambda x: dims.mul(-1, x),
}


@dataclass(frozen=True)
class Part:
    """over / by, which no Dim is; by > 1 is a power of two, so that floats hold it."""

    over: Any
    by: int


def _pair(item: Any) -> tuple[Any, int] | None:
    """The item as over / by; None for a float that is no such quotient."""
    if isinstance(item, Part):
        return item.over, item.by
    if not isinstance(item, float):
        return item, 1
    over, by = item.as_integer_ratio() if math.isfinite(item) else (1, 0)
    return (over, by) if 0 < by <= FINEST and abs(over) < 2**20 else None


def _quotient(over: Any, by: int) -> Any:
    """over / by as a Dim where it is one."""
    whole = dims.floordiv(over, by)
    if dims.equal(dims.mul(whole, by), over) is True:
        return whole
    return Part(over, by) if by <= FINEST else None


def _fractional(name: str, x: Any, y: Any) -> Any:
    """An elementwise primitive on floats that are Dims or parts; None: not followed."""
    a, c = _pair(x), _pair(y)
    if a is None or c is None:
        return None
    if name == "mul":
        return _quotient(dims.mul(a[0], c[0]), a[1] * c[1])
    by = max(a[1], c[1])
    sides = (dims.mul(over, by // below) for over, below in (a, c))
    return _quotient(INTEGER[name](*sides), by)


def _floor(item: Any) -> Any:
    return dims.floordiv(item.over, item.by) if isinstance(item, Part) else item


def _ceil(item: Any) -> Any:
    if not isinstance(item, Part):
        return item
    return dims.mul(-1, dims.floordiv(dims.mul(-1, item.over), item.by))


def _trunc(item: Any) -> Any:
    if not isinstance(item, Part):
        return item
    down, up = _floor(item), _ceil(item)
    return dims.add(dims.maximum(down, 0), dims.minimum(up, 0))


ROUNDINGS = {"floor": _floor, "ceil": _ceil, "trunc": _trunc}
REDUCTIONS = {
    "reduce_sum": dims.add,
    "reduce_prod": dims.mul,
    "reduce_max": dims.maximum,
    "reduce_min": dims.minimum,
}


def small(value: Value) -> bool:
    """Whether a tensor is of a size that is followed."""
    size = value.type.size
    return isinstance(size, int) and size <= LIMIT


def contents(op: Op, result: Value, known: Known) -> Items:
    """What a result of the op holds, `known` telling it of the operands."""
    if not small(result) or not all(map(small, op.operands)):
        return None
    if op.name == "const":
        return [op.attrs["value"]] * int(result.type.size)
    if op.name == "iota":
        return _numbers(PRIMS["iota"].numpy(**op.attrs))
    parts = [known(v) for v in op.operands]
    given = [p for p in parts if p is not None]
    if not given or len(given) < len(parts):
        return None
    if op.body is not None:
        return _of_body(op.body, given)[op.results.index(result)]
    return _of_prim(op, given)


def _of_body(body: Graph, given: Sequence[list[Any]]) -> list[Items]:
    env: dict[Value, Items] = dict(zip(body.inputs, given))
    for op in body.ops:
        for result in op.results:
            env[result] = contents(op, result, env.get)
    return [env[v] for v in body.outputs]


def _of_prim(op: Op, given: list[list[Any]]) -> Items:
    prim = PRIMS.get(op.name)
    if prim is None or len(op.results) != 1 or not _static(op.attrs.values()):
        return None
    if op.name != "cast" and any(v.dtype in HALVES for v in op.operands):
        return None
    if op.name == "stop_gradient":
        return given[0]
    if op.name == "cast":
        return _cast(given[0], op.result.dtype)
    if all(_plain(item) for part in given for item in part):
        return _folded(op, given)
    if prim.kind == "movement":
        return _moved(op, given)
    if op.name == "select":
        return _selected(given)
    if op.result.dtype in INTS and op.name in INTEGER:
        return [INTEGER[op.name](*items) for items in zip(*given)]
    if op.result.dtype in ("float32", "float64"):
        return _of_floats(op.name, given)
    whole = len(op.attrs.get("axes", ())) == op.operands[0].type.rank
    if op.name in REDUCTIONS and whole and op.result.dtype in INTS and given[0]:
        return [functools.reduce(REDUCTIONS[op.name], given[0])]
    return None


def _of_floats(name: str, given: list[list[Any]]) -> Items:
    if name in ROUNDINGS:
        return [ROUNDINGS[name](item) for item in given[0]]
    if name not in ("add", "sub", "mul", "max", "min"):
        return None
    found = [_fractional(name, x, y) for x, y in zip(*given)]
    return None if any(item is None for item in found) else found


def _static(attrs: Iterable[Any]) -> bool:
    return all(
        _static(a) if isinstance(a, (tuple, list)) else isinstance(a, (str, int, float))
        for a in attrs
    )


def _plain(item: Any) -> bool:
    return isinstance(item, (int, float, bool))


def _numbers(array: Any) -> list[Any]:
    found: list[Any] = np.asarray(array).reshape(-1).tolist()
    return found


def _folded(op: Op, given: list[list[Any]]) -> Items:
    """The primitive's own meaning, all elements being numbers."""
    kind = PRIMS[op.name].kind
    if kind not in (*ELEMENTWISE, "movement", "reduce"):
        return None
    arrays = [
        np.array(part).astype(DTYPES[v.dtype][1]).reshape(v.shape)
        for part, v in zip(given, op.operands)
    ]
    with np.errstate(all="ignore"):
        return _numbers(PRIMS[op.name].numpy(*arrays, **op.attrs))


def _moved(op: Op, given: list[list[Any]]) -> Items:
    """Reshaped, sliced, joined.. as arrays of objects."""
    arrays = []
    for part, value in zip(given, op.operands):
        array = np.empty(len(part), dtype=object)
        array[:] = part
        arrays.append(array.reshape(value.shape))
    if op.name == "gather":
        if not all(map(_plain, sum(given[1:], []))):
            return None
        arrays[1:] = [a.astype(np.int64) for a in arrays[1:]]
    return list(np.asarray(PRIMS[op.name].numpy(*arrays, **op.attrs)).reshape(-1))


def _selected(given: list[list[Any]]) -> Items:
    conditions, left, right = given
    if not all(map(_plain, conditions)):
        return None
    return [x if c else y for c, x, y in zip(conditions, left, right)]


def _cast(items: list[Any], dtype: str) -> Items:
    """A Dim stays one; as a float it is exact as long as it is below 2**24."""
    if all(map(_plain, items)):
        with np.errstate(invalid="ignore"):
            return _numbers(np.array(items).astype(DTYPES[dtype][1]))
    if dtype in ("float32", "float64"):
        return items
    if any(isinstance(item, float) for item in items):
        return None
    return [_trunc(item) for item in items] if dtype in ("int32", "int64") else None
