"""Runs a function compiled and eager, and compares the two against float64.

Floats are held against Paddle in float64, so that the bound is on Pirol's own error;
there NaN and Inf stand where they should (eager float32 gives NaN for sqrt(inf)).
Shapes, dtypes and the signs of zeros are compared with eager exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle.static import InputSpec

import pirol

SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, -1.0, 1e-30, -87.0, 30.0]
SHAPES = [(3, 5), (1, 7), (0, 4), (13, 1), (64, 33)]


def of_tensors(run: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The function with one to four named parameters, which captures ask for."""

    def one(x: Any) -> Any:
        return run(x)

    def two(x: Any, y: Any) -> Any:
        return run(x, y)

    def three(x: Any, y: Any, z: Any) -> Any:
        return run(x, y, z)

    def four(x: Any, y: Any, z: Any, w: Any) -> Any:
        return run(x, y, z, w)

    return (one, two, three, four)[count - 1]


def data(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    """Random numbers, and the special ones where there is room."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith("int"):
        return rng.integers(-50, 50, shape).astype(dtype)
    values = (rng.normal(size=shape) * 3).astype(dtype)
    flat = values.reshape(-1)
    flat[: min(len(SPECIAL), flat.size)] = SPECIAL[: flat.size]
    return flat.reshape(shape)


def run(function: Any, arrays: list[Any], names: list[Any]) -> None:
    """Compiled result against eager, in the inputs' dtypes and against float64."""
    specs = [InputSpec(n, str(a.dtype)) for n, a in zip(names, arrays)]
    fast = pirol.to_static(function, input_spec=specs, strict=True)
    check(fast, function, arrays)
    assert pirol.explain(fast).coverage[0] == pirol.explain(fast).coverage[1]


SEEN: set[str] = set()


def check(fast: Callable[..., Any], function: Any, arrays: list[Any]) -> None:
    tensors = [paddle.to_tensor(a) for a in arrays]
    ours, theirs = fast(*tensors), function(*tensors)
    ops = pirol.explain(fast).stages["capture"].ops
    SEEN.update(op.name.removeprefix("pd_op.") for op in ops)
    exact = function(*(_wide(t) for t in tensors))
    for k, (a, b, c) in enumerate(zip(ours, theirs, exact)):
        compare(a, b, c, f"{getattr(function, '__name__', function)} output {k}")


def _wide(tensor: Any) -> Any:
    return tensor.astype("float64") if tensor.dtype == paddle.float32 else tensor


def compare(ours: Any, eager: Any, exact: Any, what: str) -> None:
    assert ours.dtype == eager.dtype, what
    assert list(ours.shape) == list(eager.shape), what
    a, b, c = ours.numpy(), eager.numpy(), exact.numpy()
    if a.dtype.kind in "biu":
        np.testing.assert_array_equal(a, b, err_msg=what)
        return
    with np.errstate(over="ignore"):
        rounded = c.astype(a.dtype)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(c), err_msg=what)
    np.testing.assert_array_equal(np.isinf(a), np.isinf(rounded), err_msg=what)
    zero = (a == 0) & (c == 0)
    signs = np.signbit(a[zero]) == np.signbit(c[zero])
    assert signs.all(), f"{what}: the sign of a zero"
    finite = np.isfinite(b) & np.isfinite(a)
    eps = np.finfo(a.dtype).eps
    scale = np.abs(c[finite]) + (np.abs(c[finite]).max() if finite.any() else 0) * 0.1
    error = np.abs(a[finite].astype("float64") - c[finite])
    theirs = np.abs(b[finite].astype("float64") - c[finite])
    worst = np.maximum(2 * theirs.max(initial=0.0), 64 * eps * scale)
    assert (error <= worst).all(), f"{what}: error {error.max():.2e}"
