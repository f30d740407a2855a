"""Fourier transforms as graphs of primitives, and their meaning in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pirol.compiler.archive import Archive, Source
from pirol.compiler.interpreter import interpret
from pirol.compiler.ir import Graph, TensorType
from pirol.prim import Builder

EPS = {"float32": 6e-8, "float64": 1.1e-16}
WHOLE = {"float32": "complex64", "float64": "complex128"}


@dataclass(frozen=True)
class Transform:
    """A primitive, the shape and the parts' dtype of its operand, its attributes."""

    name: str
    shape: tuple[int, ...]
    real: str
    axes: tuple[int, ...]
    forward: bool = True
    scale: str = "none"
    size: int = 0  # of irfft

    def graph(self) -> Graph:
        """The primitive alone."""
        b = Builder()
        dtype = self.real if self.name == "rfft" else WHOLE[self.real]
        attrs = {"axes": self.axes, "forward": self.forward, "scale": self.scale}
        attrs |= {"size": self.size} if self.name == "irfft" else {}
        x = b.input(TensorType(self.shape, dtype))
        return b.graph("transform", [getattr(b, self.name)(x, **attrs)])

    def archive(self) -> Archive:
        """As a file has it."""
        return Archive(self.graph(), (Source("x", False),), ["output", 0], {}, ())

    def data(self, seed: int) -> Any:
        """An operand; what real numbers cannot have is in it too."""
        rng = np.random.default_rng(seed)
        parts = [rng.normal(size=self.shape).astype(self.real) for _ in range(2)]
        if self.name == "rfft":
            return parts[0]
        return (parts[0] + 1j * parts[1]).astype(WHOLE[self.real])

    def check(self, x: Any, found: Any) -> None:
        """AssertionError where it is not NumPy's, within rounding."""
        (wanted,), found = interpret(self.graph(), [x]), np.asarray(found)
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        terms = np.prod([max(wanted.shape[a], x.shape[a]) for a in self.axes])
        limit = np.linalg.norm(wanted) * EPS[self.real] * (8 + 2 * np.log2(terms) ** 2)
        assert np.linalg.norm(found - wanted) <= limit + 1e-30


CASES = (
    Transform("fft", (64, 1024), "float32", (1,)),
    Transform("fft", (3, 521, 5), "float64", (1,), False, "n"),
    Transform("fft", (4, 6, 9), "float32", (2, 0, 1), True, "sqrt"),
    Transform("rfft", (5, 96), "float32", (1,), True, "n"),
    Transform("rfft", (6, 5, 8), "float64", (2, 0), False, "sqrt"),
    Transform("irfft", (7, 33), "float32", (1,), False, "n", 64),
    Transform("irfft", (5, 6, 4), "float64", (2, 0), True, "none", 9),
    Transform("irfft", (40, 1), "float32", (1,), False, "n", 1),
)
