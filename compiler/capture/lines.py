"""Where in Python an op was made: at which line of the user's, in which function."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path
from typing import Any

import paddle

from pirol.compiler.capture.masks import makes_mask

_FRAME = re.compile(r'File "(.+)", line (\d+), in (\S+)')
_HIDDEN = (
    str(Path(paddle.__file__).parent),
    str(Path(__file__).parent),
    sysconfig.get_paths()["stdlib"],
)
# Paddle's functions that make masks of uniform numbers: dropout along axes, of whole
# channels for one, and the alpha dropouts.
_COMMON = str(Path(paddle.__file__).parent / "nn" / "functional" / "common.py")
_DROPOUTS = ("dropout", "_feature_alpha_dropout_impl")


def line_of(op: Any) -> str:
    """The innermost of the user's own lines, "file.py:12"."""
    for path, number, _ in _frames(op):
        if not path.startswith((*_HIDDEN, "<")):
            return f"{Path(path).name}:{number}"
    return ""


def of_dropout(op: Any) -> bool:
    """Whether uniform numbers are drawn for a dropout's mask."""
    if op.name() != "pd_op.uniform":
        return False
    frames = _frames(op)
    if any(p == _COMMON and name in _DROPOUTS for p, _, name in frames[:4]):
        return True
    told = bool(frames) and frames[0][0].startswith(_HIDDEN)  # by Paddle's functions
    return not told and makes_mask(op)


def _frames(op: Any) -> list[tuple[str, str, str]]:
    """File, line and function, the innermost first."""
    found = map(_FRAME.search, reversed(getattr(op, "callstack", [])))
    return [(m[1], m[2], m[3]) for m in found if m]
