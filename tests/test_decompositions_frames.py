"""Frames of a signal, their sum, and transforms of them, against eager."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from decomposition_runs import SEEN
from paddle.static import InputSpec

import pirol

OPS = frozenset({"frame", "overlap_add"})
signal = paddle.signal


def frames(x: Any) -> Any:
    """Of [rows, samples]."""
    some = signal.frame(x, 4, 2), signal.frame(x, 3, 5), signal.frame(x, 2, 1, 0)
    return *some, signal.frame(x[0], 4, 3), signal.frame(x[0], 4, 1, 0)


def sums(x: Any) -> Any:
    ways = signal.overlap_add(x, 2), signal.overlap_add(x, 1, 0)
    return *ways, signal.overlap_add(x * x, 3)


def spectra(x: Any) -> Any:
    window = paddle.sin(paddle.arange(1.0, 9.0, dtype=x.dtype)).abs() + 0.1
    short = signal.stft(x, 8, 2, window=window, center=False, normalized=True)
    return signal.stft(x, 6, 2), short, signal.stft(x, 8, 4, window=window)


def there_and_back(x: Any) -> Any:
    return signal.istft(signal.stft(x, 8, 2), 8, 2) * 2.0


SHAPES = {frames: (3, 16), sums: (2, 4, 5), spectra: (3, 24), there_and_back: (2, 24)}


def gradients(function: Any, x: Any) -> list[Any]:
    found = function(x)
    found = found if isinstance(found, tuple) else (found,)
    weights = [paddle.cos(paddle.arange(t.size).astype("float64")) for t in found]
    ends = [t if t.dtype == x.dtype else t.real() + 2.0 * t.imag() for t in found]
    pairs = zip(ends, weights)
    loss = sum((t * w.reshape(t.shape)).sum() for t, w in pairs)
    (grad,) = paddle.grad(loss, [x])
    return [*found, grad]


@pytest.mark.parametrize("open_dims", [False, True])
@pytest.mark.parametrize("function", SHAPES)
def test_as_eager(function: Any, open_dims: bool) -> None:
    shape = SHAPES[function]
    # istft repeats its window as often as there are frames, which Paddle has to know.
    free = len(shape) if function is not there_and_back else 1
    named = [None] * free + [*shape[free:]] if open_dims else shape
    spec = [InputSpec(named, "float64")]
    fast = pirol.to_static(function, input_spec=spec, strict=True)
    other = (*(n + 2 for n in shape[:free]), *shape[free:])
    others = [other, shape] if open_dims else []
    for sizes in (shape, *others):
        x = paddle.to_tensor(np.random.default_rng(0).standard_normal(sizes))
        x.stop_gradient = False
        for ours, theirs in zip(gradients(fast, x), gradients(function, x)):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), 1e-9, 1e-9)
    report = pirol.explain(fast)
    assert report.compiles == 1 and not report.fallbacks
    SEEN.update(op.name.removeprefix("pd_op.") for op in report.stages["capture"].ops)


@pytest.mark.parametrize("dtype", ["int64", "complex64", "float32"])
def test_dtypes(dtype: str) -> None:
    x = (np.arange(40) % 7).reshape(2, 4, 5).astype(dtype)
    fast = pirol.to_static(
        lambda x: (signal.overlap_add(x, 2), signal.frame(x[0], 2, 1))
    )
    given = paddle.to_tensor(x)
    for ours, theirs in zip(fast(given), (signal.overlap_add(given, 2),)):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert not pirol.explain(fast).fallbacks


def test_a_window_that_is_too_long_is_paddles_to_refuse() -> None:
    fast = pirol.to_static(signal.stft)
    with pytest.raises(Exception, match="window"):
        fast(paddle.ones([2, 32]), 8, 4, None, paddle.ones([9]))


def test_all_are_seen() -> None:
    assert not OPS - SEEN
