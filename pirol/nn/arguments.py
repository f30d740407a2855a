"""The arguments of pooling, brought into one form; errors name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pirol.compiler.errors import ArgumentError, message

Pair = tuple[int, int]
FLOATS = ("float16", "bfloat16", "float32", "float64")
INTS = ("uint8", "int8", "int16", "int32", "int64")
MASKS = ("int32", "int64")


@dataclass(frozen=True)
class Windows:
    """Windows over the dims `axes`; `pads` is (low, high) for each."""

    axes: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[Pair, ...]
    dilation: tuple[int, ...]
    mask: str | None  # its dtype, if it is asked for

    @property
    def reach(self) -> tuple[int, ...]:
        """How many elements a window spans."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.size, self.dilation))


@dataclass(frozen=True)
class Flags:
    """What is asked for, in whichever order it was told."""

    mask: str | None
    ceil_mode: bool
    ceil_correction: bool
    dilation: Any

    def operand(self, op: str, x: Any, other: dict[str, Any]) -> Any:
        """x by either name."""
        named = other.pop("input", None)
        if (x is None) == (named is None):
            got = "neither" if x is None else "both"
            refuse(op, "x (or input)", got, "one tensor")
        if other:
            refuse(op, "arguments", ", ".join(sorted(other)), "none of these")
        found = named if x is None else x
        if not hasattr(found, "dtype") or not hasattr(found, "shape"):
            refuse(op, "x", type(found).__name__, "a paddle.Tensor")
        place = getattr(found, "place", None)
        if place is not None and getattr(place, "is_xpu_place", lambda: False)():
            refuse(op, "x", "a tensor on an XPU", "one on a CPU or GPU")
        return found

    def format(self, op: str, given: Any, known: Sequence[str]) -> str:
        """The data format, if it is one of those known."""
        if given not in known:
            refuse(op, "data_format", repr(given), " or ".join(map(repr, known)))
        return str(given)


def refuse(op: str, argument: str, got: Any, expected: str) -> NoReturn:
    """Raise the error about an argument."""
    raise ArgumentError(message(f"{op}, {argument}", got=str(got), expected=expected))


def flags(op: str, told: Sequence[Any], other: dict[str, Any], second: str) -> Flags:
    """From (return_mask, ceil_mode, dilation) as positions have them.

    In PyTorch's order they are dilation, `second` ("ceil_mode" for functions,
    "return_mask" for layers), and the third one.
    """
    mask, ceil, dilation = told
    if not isinstance(mask, bool):
        last = dilation if isinstance(dilation, bool) else False
        if not (isinstance(dilation, bool) or dilation == 1):
            refuse(op, "dilation", f"{mask!r} and {dilation!r}", "one of them")
        dilation = mask
        ceil, mask = (ceil, last) if second == "ceil_mode" else (last, ceil)
    mask = other.pop("return_indices", mask)
    for argument, value in (("return_mask", mask), ("ceil_mode", ceil)):
        if not isinstance(value, bool):
            refuse(op, argument, repr(value), "True or False")
    kind = other.pop("mask_dtype", "int32")
    if kind not in MASKS:
        refuse(op, "mask_dtype", repr(kind), " or ".join(map(repr, MASKS)))
    correction = bool(other.pop("ceil_correction", False))
    return Flags(kind if mask else None, ceil, correction, dilation)


def windows(
    op: str, x: Any, count: int, last: bool, sizes: Sequence[Any], asked: Flags
) -> Windows:
    """The windows over the `count` spatial dims of x; last: channels are."""
    dtype = str(x.dtype).rsplit(".", 1)[-1]
    if dtype not in (*FLOATS, *INTS):
        refuse(op, "x", dtype, f"one of {', '.join((*FLOATS, *INTS))}")
    rank = len(x.shape)
    if rank not in (count + 1, count + 2):
        refuse(op, "x", f"{rank} dims", f"{count + 2}, or {count + 1} without a batch")
    first = rank - count - int(last)
    axes = tuple(range(first, first + count))
    kernel, stride, padding = sizes
    size = positive(op, "kernel_size", kernel, count)
    steps = positive(op, "stride", size if stride is None else stride, count)
    dilation = positive(op, "dilation", asked.dilation, count)
    extents = [int(x.shape[a]) for a in axes]
    reach = [d * (k - 1) + 1 for k, d in zip(size, dilation)]
    pads = list(_pads(op, padding, axes, rank, extents, reach, steps))
    for k, (low, high) in enumerate(pads):
        pads[k] = low, high + _rest(op, asked, steps[k], extents[k], pads[k], reach[k])
        spanned = extents[k] + sum(pads[k])
        if extents[k] >= 0 and spanned < reach[k]:
            got = f"a window of {reach[k]} over {spanned} elements, padding included"
            refuse(op, "kernel_size", got, "an output size of at least 1")
    return Windows(axes, size, steps, tuple(pads), dilation, asked.mask)


def positive(op: str, argument: str, given: Any, count: int) -> tuple[int, ...]:
    """A number a dim, each at least 1."""
    many = isinstance(given, (list, tuple))
    found = list(given) if many else [given] * count
    if len(found) == 1:
        found *= count
    if len(found) != count or not all(_whole(k) and k >= 1 for k in found):
        refuse(op, argument, repr(given), f"a number or {count}, each 1 or more")
    return tuple(map(int, found))


def _whole(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _pads(
    op: str,
    given: Any,
    axes: Sequence[int],
    rank: int,
    extents: Sequence[int],
    reach: Sequence[int],
    steps: Sequence[int],
) -> Sequence[Pair]:
    count = len(axes)
    if isinstance(given, str):
        kind = given.upper()
        if kind == "VALID":
            return [(0, 0)] * count
        if kind == "SAME":
            return [_same(op, *facts) for facts in zip(extents, reach, steps)]
        refuse(op, "padding", repr(given), "'SAME' or 'VALID'")
    expected = f"a number, {count} or {2 * count} of them, or {rank} pairs, 0 or more"
    many = isinstance(given, (list, tuple))
    found = list(given) if many else [given] * count
    if many and len(found) == rank and all(isinstance(p, (list, tuple)) for p in found):
        rest = [tuple(p) for k, p in enumerate(found) if k not in axes]
        if any(p != (0, 0) for p in rest):
            refuse(op, "padding", repr(given), "none of batch and channels")
        found = [n for k in axes for n in found[k]]
    if len(found) == 1:
        found *= count
    if len(found) == count:
        found = [n for n in found for _ in range(2)]
    if len(found) != 2 * count or not all(_whole(n) and n >= 0 for n in found):
        refuse(op, "padding", repr(given), expected)
    numbers = list(map(int, found))
    return list(zip(numbers[::2], numbers[1::2]))


def _same(op: str, extent: int, reach: int, step: int) -> Pair:
    """So that an output dim is extent / step, rounded up."""
    if step == 1:
        return (reach - 1) // 2, reach - 1 - (reach - 1) // 2
    if extent < 0:
        refuse(op, "padding", "'SAME' of a dim known only later", "a stride of 1")
    both = max((-(-extent // step) - 1) * step + reach - extent, 0)
    return both // 2, both - both // 2


def _rest(op: str, asked: Flags, step: int, extent: int, pad: Pair, reach: int) -> int:
    """What ceil_mode adds to the high padding; less than 0 where the correction drops a
    window that would be whole."""
    if not asked.ceil_mode:
        return 0
    if not asked.ceil_correction:
        return step - 1
    if extent < 0:
        refuse(op, "ceil_correction", "a dim known only later", "ceil_mode without it")
    spare = extent + sum(pad) - reach
    last = -(-spare // step)
    if last * step < extent + pad[0]:
        return step - 1
    return -1 if spare % step == 0 else 0
