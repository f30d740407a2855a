"""Ops of Pirol's own in Paddle's programs: a span of Paddle's ops with marked ends.

marked = Marked("pirol.max_pool", {"size": (3, 3)}, ["float32", "int32"])
x = marked.operand(x); ..; y = marked.result(y, 0)

What is between them says the same to Paddle. The reader (reader.py) puts one op in the
place of the span; what is left of it nobody reads. Marks are attributes of `assign`,
which Paddle keeps while it captures, and drops where it saves a program.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import paddle

_NUMBERS = itertools.count()
SPAN, OPERAND, RESULT, TEXT = (
    "pirol_span",
    "pirol_operand",
    "pirol_result",
    "pirol_attrs",
)


class Marked:
    """A span that stands for an op `name` of one operand; its results, of the dtypes
    given, have one shape."""

    def __init__(
        self, name: str, attrs: Mapping[str, Any], dtypes: Sequence[str]
    ) -> None:
        self.number = next(_NUMBERS)
        self.text = json.dumps({"name": name, "attrs": attrs, "dtypes": dtypes})

    def operand(self, value: Any) -> Any:
        """What the span is to read in place of the operand."""
        return self._marked(value, OPERAND, 0)

    def result(self, value: Any, number: int) -> Any:
        """What stands for a result of the op behind the span."""
        return self._marked(value, RESULT, number)

    def _marked(self, value: Any, kind: str, number: int) -> Any:
        found = paddle.assign(value)
        op = found.get_defining_op()
        op.set_int_attr(SPAN, self.number)
        op.set_int_attr(kind, number)
        op.set_str_attr(TEXT, self.text)
        return found


def described(op: Any) -> tuple[str, dict[str, Any], list[str]]:
    """The name, the attributes and the results' dtypes of the op that a marked end
    tells of."""
    told = json.loads(op.attrs()[TEXT])
    attrs = {k: _tuples(v) for k, v in told["attrs"].items()}
    return told["name"], attrs, told["dtypes"]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
