"""The attributes of a PIR op, complex numbers included, which `op.attrs()` refuses."""

from __future__ import annotations

import json
from typing import Any

from paddle.base.libpaddle import pir

from pirol.compiler.errors import Unsupported


def attributes(op: Any) -> dict[str, Any]:
    """Name -> value; dtypes are Paddle's, or, beside complex numbers, their names.

    Raises Unsupported where Paddle does not tell them: of complex infinities and NaN.
    """
    try:
        return dict(op.attrs())
    except NotImplementedError:
        told = json.loads(pir.get_attrs_map_json(op))
        return {entry["N"]: _value(entry["AT"]) for entry in told}


def _value(told: Any) -> Any:
    kind, data = told["#"].rsplit(".", 1)[-1], told["D"]
    if kind == "a_array":
        return [_value(item) for item in data]
    if kind not in ("a_c64", "a_c128"):
        return data
    if None in data:
        raise Unsupported("a constant complex number that is infinite or NaN")
    return complex(*data)


def fixed_numbers(value: Any) -> list[int] | None:
    """What a value of a program holds, if the program itself tells."""
    maker = value.get_defining_op()
    if maker is None or maker.name() != "pd_op.full_int_array":
        return None
    return [*attributes(maker)["value"]]
