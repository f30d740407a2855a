"""Max-pooling over sliding windows, dilated or not.

    value, mask = max_pool2d(x, 3, stride=2, dilation=2, return_mask=True)

On tensors and in captured programs alike, one kernel of Pirol's does it. The signature
is that of Paddle's develop branch; PyTorch's positional order, dilation behind padding,
is told apart by that argument not being a bool.
"""

from __future__ import annotations

from typing import Any

from pirol.nn.arguments import flags, windows
from pirol.nn.pooling_op import pool

FORMATS = {1: ("NCL", "NLC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}


def max_pool1d(
    x: Any = None,
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    return_mask: Any = False,
    ceil_mode: Any = False,
    dilation: Any = 1,
    data_format: str = "NCL",
    name: str | None = None,
    **other: Any,
) -> Any:
    """The largest value of each window of a line; see `max_pool2d`.

    Args:
        x: [batch, channels, length], or without batch; "NLC": channels last.
    """
    given = (x, kernel_size, stride, padding, return_mask, ceil_mode, dilation)
    return _pooled("max_pool1d", 1, given, data_format, other)


def max_pool2d(
    x: Any = None,
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    return_mask: Any = False,
    ceil_mode: Any = False,
    dilation: Any = 1,
    data_format: str = "NCHW",
    name: str | None = None,
    **other: Any,
) -> Any:
    """The largest value of each window of a plane.

    A window has kernel_size taps, dilation apart; the next begins a stride later. What
    lies in the padding is -Inf (for integers the lowest); NaN wins; of equal values the
    first counts. An output dim is floor((in + pads - dilation (kernel_size - 1) - 1 +
    (stride - 1 if ceil_mode)) / stride) + 1.

    Args:
        x: [batch, channels, height, width], or without batch; "NHWC": channels last.
            float16, bfloat16, float32, float64 or an integer type.
        kernel_size, stride, dilation: a number, or one a dim; stride None is the
            kernel's size.
        padding: a number, one or two a dim, (low, high) pairs of all dims of x,
            "VALID" (none), or "SAME" (an output dim is in / stride, rounded up).
        return_mask: also give where each value was found.
        ceil_mode: keep the last window where it is not whole.
        data_format: "NCHW" or "NHWC".
        other: `input` for x and `return_indices` for return_mask, as PyTorch names
            them; `mask_dtype`, "int32" (as Paddle) or "int64"; `ceil_correction`: with
            ceil_mode, drop a last window that begins behind x and its low padding, as
            PyTorch does.

    Returns:
        The values; with return_mask (values, mask): the mask has their shape, and
        numbers the elements of each plane row by row; -1 where a window lies in the
        padding alone.

    Raises:
        ArgumentError: naming the argument, what was got, and what was expected.

    Source: paddle.nn.functional.max_pool2d, torch.nn.functional.max_pool2d.
    """
    given = (x, kernel_size, stride, padding, return_mask, ceil_mode, dilation)
    return _pooled("max_pool2d", 2, given, data_format, other)


def max_pool3d(
    x: Any = None,
    kernel_size: Any = None,
    stride: Any = None,
    padding: Any = 0,
    return_mask: Any = False,
    ceil_mode: Any = False,
    dilation: Any = 1,
    data_format: str = "NCDHW",
    name: str | None = None,
    **other: Any,
) -> Any:
    """The largest value of each window of a volume; see `max_pool2d`.

    Args:
        x: [batch, channels, depth, height, width], or without batch; "NDHWC": channels
            last.
    """
    given = (x, kernel_size, stride, padding, return_mask, ceil_mode, dilation)
    return _pooled("max_pool3d", 3, given, data_format, other)


def _pooled(
    op: str, count: int, given: tuple[Any, ...], data_format: str, other: dict[str, Any]
) -> Any:
    x, kernel, stride, padding, *told = given
    asked = flags(op, told, other, second="ceil_mode")
    x = asked.operand(op, x, other)
    last = FORMATS[count].index(asked.format(op, data_format, FORMATS[count]))
    return pool(x, windows(op, x, count, bool(last), (kernel, stride, padding), asked))
