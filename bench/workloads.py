"""The workloads that Pirol is timed on: chains of named ops, fixed or drawn by a seed.

A workload's first input goes through its steps; the further operands of a step are
inputs of their own, whose shapes follow from the op. A step may have numbers behind a
colon, `pool:3,1,1,2`, which the function is given too. `keep` sets a value aside until
`join` adds it or `gate` multiplies by it; `swap` goes on with it, and keeps the other.
Where `back` is set the results are gradients of all inputs, and the last input is what
they are multiplied by (the result's cotangent).
The ops are functions of the same name in each `ops_FRAMEWORK.py`; `source` is the
function a user would write:

    Workload("residual", (4096, 1024), ("keep", "bias", "gelu", "join")).source()

    def workload(x0, x1):
        x = x0
        k0 = x
        x = bias(x, x1)
        x = gelu(x)
        x = add(x, k0)
        return result(x)
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pirol.bench.worker import load_function
from pirol.compiler.ir import DTYPES
from pirol.prim.window import window_extent

Shape = tuple[int, ...]

# Op -> the kinds of its operands beside the first; an op not named here has none.
OPERANDS = {
    "add": ("same",),
    "mul": ("same",),
    "bias": ("row",),
    "column_bias": ("column",),
    "layer_norm": ("row", "row"),
    "rms_norm": ("row",),
    "batch_norm": ("channel", "variance", "channel", "channel"),
    "linear": ("weight", "row"),
    "divide": ("same",),
    "conv": ("filter", "channel"),
    "spectral": ("modes", "modes", "square"),
    "dense": ("matrix", "out"),
    "convolve": ("filters",),
    "input_gradient": ("filters", "swept"),
    "weight_gradient": ("filters", "swept"),
}
# Op -> the shape of its result, of its first operand's and the step's numbers, where
# that is not its first operand's.
RESULTS: dict[str, Callable[..., Shape]] = {
    "transpose": lambda s: s[::-1],
    "sum_rows": lambda s: s[1:],
    "sum_columns": lambda s: s[:1],
    "sum_all": lambda s: (),
    "dense": lambda s, out: (*s[:-1], out),
    "convolve": lambda s, out, k, stride, pad, groups: _swept(
        s, out, k, stride, pad, 1
    ),
    "weight_gradient": lambda s, *numbers: _filters(s, *numbers),
    "pool": lambda s, *sizes: _swept(s, s[1], *sizes),
    "attention": lambda s, heads: (*s[:-1], s[-1] // 3),
    "tokens": lambda s: (s[0], math.prod(s[2:]), s[1]),
    "mean_space": lambda s: s[:2],
    "mean_tokens": lambda s: (s[0], s[2]),
    "squeeze": lambda s: (*s[:2], 1, 1),
    "topk": lambda s, k: (*s[:-1], k),
}
ASIDE = {"join": "add", "gate": "mul"}  # what takes back a value that `keep` set aside


def _swept(
    shape: Shape, channels: int, k: int, stride: int, pad: int, dilation: int
) -> Shape:
    sizes = (k, stride, (pad, pad), dilation)
    return shape[0], channels, *(window_extent(n, *sizes) for n in shape[2:])


def _filters(shape: Shape, out: int, k: int, *numbers: int) -> Shape:
    return out, shape[1] // numbers[-1], k, k


@dataclass(frozen=True)
class Workload:
    """A chain of ops, beginning at an input of this shape."""

    name: str
    shape: Shape
    steps: tuple[str, ...]
    dtype: str = "float32"
    back: bool = False

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        steps = ", ".join(self.steps[:SHOWN])
        more = len(self.steps) - SHOWN
        rest = f", and {more} more" if more > 0 else ""
        back = ", and back" if self.back else ""
        return f"{self.name}: {self.dtype} {shape}: {steps}{rest}{back}"

    def scaled(self, by: int) -> Workload:
        """The same with every dim divided, to no less than 2."""
        return replace(self, shape=tuple(min(d, max(2, d // by)) for d in self.shape))

    def source(self) -> str:
        """The function in Python; it takes the ops from its module."""
        at, depth = 1, 0
        lines: list[str] = []
        for op, numbers in self.told():
            if op == "keep":
                lines.append(f"k{depth} = x")
                depth += 1
            elif op == "swap":
                lines.append(f"x, k{depth - 1} = k{depth - 1}, x")
            elif op in ASIDE:
                depth -= 1
                lines.append(f"x = {ASIDE[op]}(x, k{depth})")
            else:
                end = at + len(OPERANDS.get(op, ()))
                operands = ["x", *(f"x{k}" for k in range(at, end)), *map(str, numbers)]
                lines.append(f"x = {op}({', '.join(operands)})")
                at = end
        names = ", ".join(f"x{k}" for k in range(at))
        lines = [f"def workload({names}):", "    x = x0", *(f"    {e}" for e in lines)]
        lines.append("    return result(x)")
        if self.back:
            whole = f"gradients(forward, ({names},), ct)"
            lines[0] = f"def forward({names}):"
            lines = [f"    {e}" for e in lines]
            lines = [f"def workload({names}, ct):", *lines, f"    return {whole}"]
        return "\n".join(lines) + "\n"

    def told(self) -> Iterator[tuple[str, list[int]]]:
        """Each step's op and its numbers."""
        for step in self.steps:
            op, _, numbers = step.partition(":")
            yield op, [int(n) for n in numbers.split(",") if n]

    def inputs(self, rng: Any = None) -> list[Any]:
        """All inputs, standard normal; weights and variances in their usual range.
        `rng` has a generator's standard_normal."""
        rng = np.random.default_rng(0) if rng is None else rng
        shape, kept = self.shape, [self.shape]
        found = [self.drawn(rng, "same", shape)]
        for op, numbers in self.told():
            for kind in OPERANDS.get(op, ()):
                found.append(self.drawn(rng, kind, shape, *numbers))
            if op == "keep":
                kept.append(shape)
            elif op == "swap":
                shape, kept[-1] = kept[-1], shape
            elif op in ASIDE:
                shape = np.broadcast_shapes(shape, kept.pop())
            elif op in RESULTS:
                shape = RESULTS[op](shape, *numbers)
        if self.back:
            found.append(self.drawn(rng, "same", shape))
        return [x.astype(DTYPES[self.dtype][1]) for x in found]

    def drawn(self, rng: Any, kind: str, shape: Shape, *numbers: int) -> Any:
        """An operand; of complex numbers, both parts by themselves."""
        real = _operand(rng, kind, shape, numbers)
        if not self.dtype.startswith("complex"):
            return real
        return (real + 1j * _operand(rng, kind, shape, numbers)) / math.sqrt(2)

    def save(self, folder: Path) -> Path:
        """Write the source into the folder; what reads sources needs a file."""
        path = folder / f"{self.name}.py"
        path.write_text(self.source())
        return path

    def reference(self, inputs: list[Any]) -> Any:
        """NumPy's result, in float64 or complex128."""
        with tempfile.TemporaryDirectory() as folder:
            function = load_function(self.save(Path(folder)), "numpy")
        wide = "complex128" if self.dtype.startswith("complex") else "float64"
        return function(*(x.astype(wide) for x in inputs))


def _operand(rng: Any, kind: str, shape: Shape, numbers: Sequence[int]) -> Any:
    match kind:
        case "same":
            return rng.standard_normal(shape)
        case "row":
            return rng.standard_normal(shape[-1])
        case "column":
            return rng.standard_normal((shape[0], 1))
        case "channel":
            return rng.standard_normal(shape[1])
        case "variance":
            return np.abs(rng.standard_normal(shape[1])) + 0.5
        case "weight":
            # So that values keep their size, and rounding errors too, layer by layer.
            return rng.standard_normal((shape[-1],) * 2) / math.sqrt(shape[-1])
        case "filter":
            return rng.standard_normal((shape[1],) * 2 + (3, 3)) / math.sqrt(
                9 * shape[1]
            )
        case "matrix":
            weight = rng.standard_normal((shape[-1], numbers[0]))
            return weight / math.sqrt(shape[-1])
        case "out":
            return rng.standard_normal(numbers[0])
        case "filters":
            weight = rng.standard_normal(_filters(shape, *numbers))
            return weight / math.sqrt(weight[0].size)
        case "swept":
            return rng.standard_normal(RESULTS["convolve"](shape, *numbers))
        case "square":
            return rng.standard_normal((shape[1],) * 2) / math.sqrt(shape[1])
        case "modes":
            return rng.standard_normal((shape[1],) * 2 + (MODES,)) / math.sqrt(shape[1])
        case _:
            raise ValueError(f"operand kind {kind!r} is not known")


ROWS = (4096, 1024)
SHOWN = 16  # steps, where a workload is named
MODES = 16  # of a spectrum that a Fourier neural operator keeps
# On values in [-1, 1], as they are behind a tanh.
POINTWISE = ("scale", "sin", "square", "exp", "abs", "cos", "sigmoid", "neg")
FIXED: tuple[Workload, ...] = (
    Workload("bias_gelu", ROWS, ("bias", "gelu")),
    Workload("residual_layer_norm", ROWS, ("add", "layer_norm")),
    Workload("softmax", ROWS, ("softmax",)),
    Workload("rms_norm_swiglu", ROWS, ("rms_norm", "silu", "mul")),
    Workload("batch_norm_relu_add", (8, 64, 56, 56), ("batch_norm", "relu", "add")),
    Workload("chain", ROWS, tuple(s for op in POINTWISE for s in ("tanh", op))),
    Workload("column_squares", ROWS, ("square", "sum_rows")),
    Workload("transpose_add", (2048, 2048), ("transpose", "add")),
    Workload("mlp", (100, 20), ("linear", "tanh") * 8),
)
# Run only when named. The small one has little else to time than the call.
FURTHER: tuple[Workload, ...] = (
    Workload("layer_norm", ROWS, ("layer_norm",)),
    Workload("small_bias_relu", (32, 64), ("bias", "relu")),
)


# The seeded variants: steps and shape drawn, the same in all frameworks.

ACTIVATIONS = ("gelu", "silu", "tanh", "relu")
BOUNDED = ("tanh", "sin", "sigmoid", "cos")
MATRICES = (
    (4093, 1021), (37, 50021), (50021, 37), (8191, 509), (1009, 131), (61, 67), (7, 13),
)  # fmt: skip
IMAGES = ((8, 63, 55, 57), (3, 17, 113, 109), (1, 255, 29, 31), (2, 5, 7, 9))


def _shuffled(rng: random.Random, *steps: str) -> tuple[str, ...]:
    return tuple(rng.sample(steps, len(steps)))


def _bias(rng: random.Random, act: str) -> tuple[str, ...]:
    return _shuffled(rng, rng.choice(("bias", "column_bias")), act)


def _residual(rng: random.Random, act: str) -> tuple[str, ...]:
    return (*_shuffled(rng, "add", "layer_norm"), *rng.choice(((), (act,))))


def _softmax(rng: random.Random, act: str) -> tuple[str, ...]:
    first = rng.choice(((), ("mul",), ("bias",)))
    return (*first, rng.choice(("softmax", "softmax_rows", "log_softmax")))


def _gated(rng: random.Random, act: str) -> tuple[str, ...]:
    return rng.choice((("rms_norm", act, "mul"), (act, "mul", "rms_norm")))


def _batch_norm(rng: random.Random, act: str) -> tuple[str, ...]:
    return ("batch_norm", *_shuffled(rng, act, "add"))


def _chain(rng: random.Random, act: str) -> tuple[str, ...]:
    pairs = [(rng.choice(BOUNDED), rng.choice(POINTWISE)) for _ in range(8)]
    return tuple(step for pair in pairs for step in pair)


def _squares(rng: random.Random, act: str) -> tuple[str, ...]:
    first, last = ("square", "abs", "exp"), ("sum_rows", "sum_columns")
    return rng.choice(first), rng.choice(last)


def _transpose(rng: random.Random, act: str) -> tuple[str, ...]:
    return _shuffled(rng, "transpose", rng.choice(("add", "mul", "bias")))


def _mlp(rng: random.Random, act: str) -> tuple[str, ...]:
    return _shuffled(rng, "linear", act) * rng.randint(2, 12)


Draw = Callable[[random.Random, str], tuple[str, ...]]
DRAWS: dict[str, Draw] = {
    "bias_gelu": _bias,
    "residual_layer_norm": _residual,
    "softmax": _softmax,
    "rms_norm_swiglu": _gated,
    "batch_norm_relu_add": _batch_norm,
    "chain": _chain,
    "column_squares": _squares,
    "transpose_add": _transpose,
    "mlp": _mlp,
}


def _shape(rng: random.Random, name: str) -> Shape:
    match name:
        case "batch_norm_relu_add":
            return rng.choice(IMAGES)
        case "mlp":
            return rng.choice((1, 3, 100, 301, 1025)), rng.choice((7, 20, 33, 64, 129))
        case _:
            return rng.choice(MATRICES)


def drawn(seed: int) -> tuple[Workload, ...]:
    """A variant of each fixed workload: shape, dtype and steps of the seed."""
    found = []
    for name, draw in DRAWS.items():
        rng = random.Random(f"{name} {seed}")
        shape, dtype = _shape(rng, name), rng.choice(("float32", "float64"))
        steps = draw(rng, rng.choice(ACTIVATIONS))
        found.append(Workload(name, shape, steps, dtype))
    return tuple(found)
