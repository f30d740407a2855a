"""Pirol compiles PaddlePaddle programs.

import pirol
fast = pirol.to_static(layer, input_spec=[InputSpec([None, 768])])
print(pirol.explain(fast))
"""

import importlib
from typing import Any

from pirol.api import (
    cache_clear,
    explain,
    export,
    install,
    load,
    load_inference_model,
    to_static,
    train_step,
    uninstall,
)
from pirol.compiler.errors import PirolError, PirolWarning, StrictError
from pirol.compiler.report import Report

__version__ = "0.1.0"

__all__ = [
    "PirolError",
    "PirolWarning",
    "Report",
    "StrictError",
    "cache_clear",
    "explain",
    "export",
    "install",
    "load",
    "load_inference_model",
    "to_static",
    "train_step",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    """`pirol.nn` and `pirol.complex`, which need Paddle, once they are asked for."""
    if name in ("complex", "nn"):
        return importlib.import_module(f"pirol.{name}")
    raise AttributeError(f"module 'pirol' has no attribute {name!r}")
