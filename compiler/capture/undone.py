"""Paddle's programs of which only a part was made, since making them raised.

An op may then use a value of a block that was left half-way; when such a program is
freed, at some later time, Paddle ends the process. So they are never freed.
"""

from __future__ import annotations

import ctypes
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import paddle


@contextmanager
def kept() -> Iterator[None]:
    """Keep the programs that whatever raises in here was at work with, for good."""
    try:
        yield
    except Exception as error:
        _keep(error)
        raise


def _keep(error: BaseException) -> None:
    found: dict[int, object] = {}
    cause: BaseException | None = error
    while cause is not None:
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            for value in frame.f_locals.values():
                if isinstance(value, paddle.static.Program):
                    found[id(value)] = value
        cause = cause.__context__
    for program in found.values():  # at the interpreter's end too
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(program))
