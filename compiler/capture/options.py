"""What a user asked of `pirol.to_static`, and the report of what came of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import paddle

from pirol.compiler.errors import PirolWarning, StrictError
from pirol.compiler.pipeline import Pass, Progress
from pirol.compiler.report import Report
from pirol.passes.amp import Mixed


class Options(paddle.static.BuildStrategy):  # type: ignore[misc]
    """What a user asked of `pirol.to_static`, and the report of what came of it."""

    def __init__(
        self,
        *,
        strict: bool = False,
        progress: Progress | None = None,
        passes: Sequence[Pass] = (),
        amp: Mixed | None = None,
        recompute: str = "auto",
        later: bool = False,
        counted: bool = True,
        ordered: bool = False,
    ) -> None:
        super().__init__()
        self.later = later  # plans are made in the background
        self.counted = counted  # dropout's masks are, else they are drawn as by eager
        self.ordered = ordered  # sums are in eager mode's order
        self.amp = amp
        self.recompute = recompute
        self.passes = tuple(passes)
        self.strict = strict or os.environ.get("PIROL_STRICT", "") not in ("", "0")
        self.progress = progress
        self.report = Report()
        self.latest: Any = None  # the program layer of the last call that a plan served

    def fall_back(self, op: str, why: str, line: str = "") -> None:
        """Note that Paddle runs something: raise if strict, else warn once."""
        first = self.report.fall_back(op, why, line)
        if self.strict:
            where = f" at {line}" if line else ""
            raise StrictError(
                f"{op}{where}: Pirol cannot compile it ({why}); expected a compiled "
                "program under strict; drop strict=True to let Paddle run it"
            )
        if first and len(self.report.fallbacks) == 1:
            text = f"Paddle runs {op}: {why}; pirol.explain(...) lists all such"
            warnings.warn(text, PirolWarning, stacklevel=2)
