"""Max-pooling as Paddle's ops, marked as the one op that it is to Pirol.

A marked program means the same to Paddle: a tap of all windows is a strided slice, the
largest of the stacked taps says which place of the plane to read. Only that reading has
a gradient, so that one that Paddle appends to a captured program is a sum at places.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import paddle

from pirol.api import to_static
from pirol.compiler.capture.marks import Marked
from pirol.nn.arguments import Windows

END = 2**31 - 1
# In what Paddle's own ops compute the other types.
WIDER = {"float16": "float32", "bfloat16": "float32"}
WIDER |= dict.fromkeys(("uint8", "int8", "int16"), "int32")


def pool(x: Any, windows: Windows) -> Any:
    """The values, and the mask if it is asked for."""
    if not paddle.in_dynamic_mode():
        return _traced(x, windows)
    return _compiled(windows, len(x.shape), x.dtype)(x)


@functools.lru_cache(maxsize=512)
def _compiled(windows: Windows, rank: int, dtype: Any) -> Any:
    """A compiled function of tensors of any size."""

    def pooled(x: Any) -> Any:
        return traced(x, windows)

    traced = paddle.jit.not_to_static(_traced)
    spec = [paddle.static.InputSpec([None] * rank, dtype)]
    return to_static(pooled, input_spec=spec)


def _traced(x: Any, windows: Windows) -> Any:
    name, mask = str(x.dtype).rsplit(".", 1)[-1], windows.mask or "int32"
    attrs = {
        "axes": windows.axes,
        "size": windows.size,
        "strides": windows.stride,
        "padding": windows.pads,
        "dilation": windows.dilation,
        "index": mask,
    }
    marked = Marked("pirol.max_pool", attrs, [name, mask])
    inner = marked.operand(x)
    lowest = float("-inf") if "float" in name else float(np.iinfo(name).min)
    taps = _taps(inner.astype(WIDER.get(name, name)).detach(), windows, lowest)
    place = _places(inner, _first_largest(taps), windows).astype(mask)
    place = marked.result(place, 1)
    value = _read(inner.astype(WIDER.get(name, name)), place, windows, lowest)
    value = marked.result(value.astype(x.dtype), 0)
    return value if windows.mask is None else (value, place)


def _read(x: Any, place: Any, windows: Windows, lowest: float) -> Any:
    """x at a place of its plane for each window; `lowest` where there is none."""
    ends = windows.axes[0], windows.axes[-1]
    line = paddle.clip(place, 0).flatten(*ends)
    found = paddle._C_ops.take_along_axis(x.flatten(*ends), line, ends[0])
    found = paddle.reshape(found, paddle.shape(place))
    return paddle.where(place < 0, paddle.full_like(found, lowest), found)


def _taps(x: Any, windows: Windows, lowest: float) -> Any:
    """[taps, ...]: what each tap of all windows reads; `lowest` in the padding."""
    pads = [0] * (2 * len(x.shape))
    for axis, (low, high) in zip(windows.axes, windows.pads):
        pads[2 * axis], pads[2 * axis + 1] = low, high
    wide = paddle._C_ops.pad(x, pads, lowest)
    found = []
    for tap in np.ndindex(*windows.size):
        starts, ends = [], []
        for k, (t, d) in enumerate(zip(tap, windows.dilation)):
            behind = windows.reach[k] - 1 - t * d
            starts.append(t * d)
            ends.append(-behind if behind else END)
        axes, steps = list(windows.axes), list(windows.stride)
        found.append(paddle.strided_slice(wide, axes, starts, ends, steps))
    return paddle.stack(found)


def _first_largest(taps: Any) -> Any:
    """The number of the first tap that is the largest, or NaN."""
    best = taps.argmax(0)
    if "float" not in str(taps.dtype):
        return best
    lost = paddle.isnan(taps)
    return paddle.where(lost.any(0), lost.astype("int32").argmax(0), best)


def _places(x: Any, best: Any, windows: Windows) -> Any:
    """The place in its plane of what each window chose."""
    sizes = paddle.shape(x)
    rank, flat, outside = len(best.shape), None, None
    rest = int(np.prod(windows.size))
    for k, axis in enumerate(windows.axes):
        rest //= windows.size[k]
        tap = best // rest % windows.size[k]
        line = paddle.arange(paddle.shape(best)[axis], dtype="int64")
        start = line * windows.stride[k] - windows.pads[k][0]
        shape = [-1 if at == axis else 1 for at in range(rank)]
        place = start.reshape(shape) + tap * windows.dilation[k]
        extent = sizes[axis].astype("int64")
        beyond = (place < 0) | (place >= extent)
        outside = beyond if outside is None else outside | beyond
        flat = place if flat is None else flat * extent + place
    nowhere = paddle.full([], -1, "int64")
    return paddle.where(outside, nowhere, flat)
