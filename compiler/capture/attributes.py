"""The attributes of a PIR op, complex numbers included, which `op.attrs()` refuses.

To Paddle 0.0 and -0.0 are one attribute, whichever the process has named first: a mark
tells -0.0, where a program is captured, and without one it is 0.0.
"""

from __future__ import annotations

import json
import math
from typing import Any

from paddle.base.libpaddle import pir

from pirol.compiler.errors import Unsupported

MINUS = "pirol_minus"
SIGNED = {"pd_op.scale": "bias", "pd_op.full": "value"}


def attributes(op: Any) -> dict[str, Any]:
    """Name -> value; dtypes are Paddle's, or, beside complex numbers, their names.

    Raises Unsupported where Paddle does not tell them: of complex infinities and NaN.
    """
    found = _told(op)
    below, name = found.pop(MINUS, 0), SIGNED.get(op.name())
    if name is not None and found.get(name) == 0.0:
        found[name] = -0.0 if below else 0.0
    return found


def signed(made: Any, number: Any) -> Any:
    """What an op made with a number in an attribute, that being told if it is -0.0."""
    if isinstance(number, float) and number == 0.0 and math.copysign(1.0, number) < 0:
        made.get_defining_op().set_int_attr(MINUS, 1)
    return made


def _told(op: Any) -> dict[str, Any]:
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
