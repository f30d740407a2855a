"""Dataclasses as results: as dicts within Paddle's code, which knows no others."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any


class Record(dict[str, Any]):
    """The fields of a dataclass `kind`."""

    kind: type


@functools.cache
def _record(kind: type) -> type[Record]:
    return type(f"Record_{kind.__name__}", (Record,), {"kind": kind})


def packed(found: Any) -> Any:
    """What a function returns, a Record in the place of each dataclass."""
    if type(found) in (list, tuple):
        return type(found)(map(packed, found))
    if type(found) is dict:
        return {k: packed(v) for k, v in found.items()}
    if dataclasses.is_dataclass(found) and not isinstance(found, (type, dict)):
        names = [f.name for f in dataclasses.fields(found)]
        return _record(type(found))((n, packed(getattr(found, n))) for n in names)
    return found


def restored(found: Any) -> Any:
    """The dataclasses again."""
    if type(found) in (list, tuple):
        return type(found)(map(restored, found))
    if type(found) is dict:
        return {k: restored(v) for k, v in found.items()}
    if not isinstance(found, Record):
        return found
    made: Any = object.__new__(found.kind)
    for name, value in found.items():
        object.__setattr__(made, name, restored(value))  # a frozen one too
    return made
