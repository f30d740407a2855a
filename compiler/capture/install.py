"""Pirol in the place of CINN: what asks paddle.jit.to_static for CINN gets Pirol.

Two names of Paddle are replaced: the question whether CINN is to be used (the wheel
answers no), and the constructor of StaticFunction, which sees the answer.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle.jit import api
from paddle.jit.dy2static import utils
from paddle.jit.dy2static.program_translator import StaticFunction

from pirol.compiler.capture.options import Options
from pirol.compiler.capture.quick import quicken
from pirol.compiler.capture.seam import connect
from pirol.compiler.capture.sot import own_code
from pirol.compiler.errors import PirolError, message

_ASKED = api.infer_use_cinn_backend
_MADE = StaticFunction.__init__


def install() -> None:
    """Make Pirol the CINN of this process; a second call changes nothing.

    Raises:
        PirolError: this Paddle lacks what Pirol needs.
    """
    lacking = connect()
    if lacking:
        raise PirolError(
            message("install", got=lacking, expected=f"not {paddle.__version__}")
        )
    api.infer_use_cinn_backend = _asks_for_cinn
    StaticFunction.__init__ = _make


def uninstall() -> None:
    """Put Paddle's own back; what was compiled meanwhile stays Pirol's."""
    api.infer_use_cinn_backend = _ASKED
    StaticFunction.__init__ = _MADE


def _asks_for_cinn(backend: Any, strategy: Any) -> bool:
    wanted = utils.ENV_ENABLE_CINN_IN_DY2ST.get()
    return bool(wanted and utils.cinn_is_enabled(strategy, backend))


def _make(self: Any, function: Any, input_spec: Any = None, **options: Any) -> None:
    """StaticFunction.__init__, which turns CINN into Pirol's options."""
    ours = options.get("backend") is utils.Backend.CINN
    if ours:
        options |= {"backend": utils.Backend.PHI, "build_strategy": Options()}
    _MADE(self, function, input_spec, **options)
    if ours:
        own_code(self)
        quicken(self)
