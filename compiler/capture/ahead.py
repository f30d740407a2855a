"""Plans made in the background, for `compile="async"`: Paddle runs the calls meanwhile.

What needs nothing of Paddle's runs in a thread of its own, one plan at a time: the
passes, and the building of kernels. The call that finds it done connects it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any


class Later(Exception):
    """A plan is being made in the background."""


class Ahead:
    """What `make` gives for a first call of such sizes, computed in the background."""

    def __init__(self, make: Callable[[], Any], hints: dict[str, int]) -> None:
        self.make, self.hints = make, hints
        self.found: list[Any] = []
        self.error: Exception | None = None
        self.thread = threading.Thread(
            target=self._run, name="pirol-compile", daemon=True
        )
        self.thread.start()

    def _run(self) -> None:
        try:
            with _turn:
                self.found.append(self.make())
        except Exception as error:
            self.error = error

    @property
    def done(self) -> bool:
        """Whether `result` has not to wait. A fork's child has no such thread: there it
        is computed by `result`."""
        return not self.thread.is_alive()

    def result(self) -> Any:
        """What was made; raises what `make` raised."""
        if not self.found and self.error is None:
            self._run()
        if self.error is not None:
            raise self.error
        return self.found[0]


def _new_turn() -> None:
    global _turn
    _turn = threading.Lock()


_turn = threading.Lock()
os.register_at_fork(after_in_child=_new_turn)
