"""What ops mean, in NumPy and apart from Pirol: values, error bounds, doubts.

Reductions, scans and windows are in graph_totals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from ml_dtypes import finfo

from pirol.compiler.ir import DTYPES, FLOATS, HALVES
from pirol.prim import PRIMS

Array: TypeAlias = np.ndarray[Any, Any]
Sizes: TypeAlias = Mapping[str, int]
Wide = np.longdouble
EPSILON = np.finfo(np.float64).eps

KINDS = ("float32", "float64", "int64", "int32", "int8", "uint8", "bool")
ALL_KINDS = (*KINDS, *HALVES)  # kernels move halves, and convert them
FLOATING = ("float32", "float64", *HALVES)
WHOLE = ("int64", "int32", "int8", "uint8")

# Rounding errors allowed, in units in the last place. Arithmetic is correctly rounded
# (0.5) and elementary functions are within 4; one more is for this file's own doubt.
INEXACT = ("exp", "log", "tanh", "erf", "log1p", "expm1", "sin", "cos", "pow")
INEXACT += ("sigmoid", "log2", "log10", "tan", "asin", "acos", "atan", "sinh", "cosh")
INEXACT += ("asinh", "acosh", "atanh", "atan2", "hypot", "log_hypot")
SPECIAL = ("lgamma", "polygamma", "erfinv", "i0", "i0e", "i1", "i1e")
INEXACT += SPECIAL
ULPS = dict.fromkeys(INEXACT, 5.0) | {"rsqrt": 2.0} | dict.fromkeys(SPECIAL, 10.0)


def dtype_of(name: str) -> Any:
    """The NumPy dtype of Paddle's name."""
    return np.dtype(DTYPES[name][1])


# What an array should be ---------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Expected:
    """Exactly `value`, or (with a bound) within `bound` of it; inf: anything goes.

    `signed`: whether the signs of zeros are determined too.
    """

    dtype: str
    value: Array
    bound: Array | None = None
    signed: bool = True

    def wide(self) -> tuple[Array, Array]:
        """(value, bound) in the widest float."""
        value = self.value.astype(Wide)
        return value, np.zeros(value.shape, Wide) if self.bound is None else self.bound


def check(got: Array, wanted: Expected, what: str) -> None:
    """AssertionError where `got` is not what was expected."""
    assert got.dtype == dtype_of(wanted.dtype), f"{what}: dtype {got.dtype}"
    assert got.shape == wanted.value.shape, f"{what}: shape {got.shape}"
    if got.dtype == bool:  # NumPy takes a 2 for True as well
        assert (got.view(np.uint8) <= 1).all(), f"{what}: are wrong, not 0 or 1"
    if wanted.bound is None:
        wrong = _differs(got, wanted)
    else:
        with np.errstate(all="ignore"):
            near = np.abs(got.astype(Wide) - wanted.value) <= wanted.bound
        same = got == wanted.value
        both_nan = np.isnan(got) & np.isnan(wanted.value)
        wrong = ~(near | same | both_nan | np.isinf(wanted.bound))
    if wrong.any():
        at = tuple(int(k) for k in np.argwhere(wrong)[0])
        bound = 0 if wanted.bound is None else wanted.bound[at]
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.size} are wrong; at {at} got "
            f"{got[at]!r}, expected {wanted.value[at]!r} within {bound}"
        )


def _differs(got: Array, wanted: Expected) -> Array:
    wrong = got != wanted.value
    if wanted.dtype in FLOATS:
        wrong &= ~(np.isnan(got) & np.isnan(wanted.value))
        if wanted.signed:
            zero = wanted.value == 0
            wrong |= zero & (np.signbit(got) != np.signbit(wanted.value))
    return np.asarray(wrong)


def same_bits(a: Array, b: Array) -> bool:
    """Whether all bits are equal, but for those of NaNs."""
    as_bytes = [np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b)]
    equal = (as_bytes[0] == as_bytes[1]).reshape(a.size, a.itemsize).all(axis=1)
    if a.dtype.kind not in "biu":
        equal |= np.isnan(a.reshape(-1)) & np.isnan(b.reshape(-1))
    return a.shape == b.shape and bool(equal.all())


def _ulp(value: Array, bound: Array, dtype: str) -> Array:
    info = finfo(dtype_of(dtype))
    at = np.where(np.isnan(value), 0, np.abs(value)) + bound
    power = np.frexp(np.minimum(at, Wide(info.max)))[1] - 1
    return np.ldexp(Wide(1), np.maximum(power, info.minexp) - info.nmant)


def _settled(value: Array, bound: Array, doubt: Any, dtype: str) -> Expected:
    """What the dtype makes of it: too large is inf; what could be either is free."""
    info = finfo(dtype_of(dtype))
    limit, finite = Wide(info.max), np.isfinite(value)
    bound = np.where(finite, bound, 0)
    over = finite & (np.abs(value) - bound > limit * Wide(1 + 2 * float(info.eps)))
    unsure = finite & ~over & (np.abs(value) + bound > limit)
    value = np.where(over, np.copysign(Wide(np.inf), value), value)
    bound = np.where(over, 0, bound)
    free = np.broadcast_to(doubt, value.shape) | unsure | np.isnan(bound)
    return Expected(dtype, value, np.where(free, Wide(np.inf), bound), signed=False)


# Elementwise meanings ------------------------------------------------------------


def _larger(a: Array, b: Array) -> Array:
    return np.where((a > b) | (a != a), a, b)


def _smaller(a: Array, b: Array) -> Array:
    return np.where((a < b) | (a != a), a, b)


def _divided(x: Array, y: Array) -> tuple[Array, Array]:
    """Quotients rounded down and their remainders, in Python's own integers."""
    pairs = [divmod(int(a), int(b)) if b else (0, 0) for a, b in zip(x.flat, y.flat)]
    both = [np.array([p[k] for p in pairs], object) for k in (0, 1)]
    least, count = int(np.iinfo(x.dtype).min), 2 ** (8 * x.dtype.itemsize)
    wrapped = [(b - least) % count + least for b in both]
    quotient, rest = (w.astype(x.dtype).reshape(x.shape) for w in wrapped)
    return quotient, rest


def _shifted(x: Array, y: Array, sign: int) -> Array:
    """Shifts to the left (sign 1) or the right, in Python's own integers."""
    bits = 8 * x.dtype.itemsize
    counts = [int(b) if 0 <= b < bits else bits for b in y.flat]
    least, count = int(np.iinfo(x.dtype).min), 2**bits
    moved = [int(a) << b if sign > 0 else int(a) >> b for a, b in zip(x.flat, counts)]
    wrapped = np.array([(m - least) % count + least for m in moved], object)
    return wrapped.astype(x.dtype).reshape(x.shape)


def _threefry(key: int, place: int) -> int:
    """The first word of Threefry2x32-13, as Salmon et al. write it."""
    count, mask = 2**32, 2**32 - 1
    keys = [key & mask, key >> 32 & mask]
    keys.append(keys[0] ^ keys[1] ^ 0x1BD11BDA)
    a, b = place & mask, place >> 32 & mask
    for k in range(13):
        if k % 4 == 0:
            n = k // 4
            a, b = a + keys[n % 3], b + keys[(n + 1) % 3] + n
        a, b = (a + b) % count, b % count
        by = (13, 15, 26, 6, 17, 29, 16, 24)[k % 8]
        b = (b << by & mask | b >> (32 - by)) ^ a
    return a - count * (a >> 31)


def random_word(keys: Array, places: Array) -> Expected:
    """What random_bits gives."""
    words = [_threefry(int(k), int(p)) for k, p in zip(keys.flat, places.flat)]
    return Expected("int32", np.array(words, np.int32).reshape(places.shape))


EXACT: dict[str, Callable[..., Any]] = {
    "neg": lambda x: -x,
    "abs": lambda x: np.where(x < 0, -x, x) if x.dtype.kind in "iu" else np.fabs(x),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: np.ones((), x.dtype) / np.sqrt(x),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "fmod": np.fmod,
    "copysign": np.copysign,
    "nextafter": np.nextafter,
    "not": lambda x: ~x,
    "idiv": lambda x, y: _divided(x, y)[0],
    "rem": lambda x, y: _divided(x, y)[1],
    "xor": lambda x, y: x ^ y,
    "shift_left": lambda x, y: _shifted(x, y, 1),
    "shift_right": lambda x, y: _shifted(x, y, -1),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "max": _larger,
    "min": _smaller,
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "select": lambda c, x, y: np.choose(c.astype(np.intp), [y, x]),
}
COMPARES = ("eq", "ne", "lt", "le", "gt", "ge")
UNSTABLE = (
    *COMPARES,
    "floor",
    "ceil",
    "round",
    "trunc",
    "fmod",
    "copysign",
    "nextafter",
)  # a small error of an operand changes the result


def _positive_only(x: Array, e: Array) -> Any:
    """Doubt of sqrt and log: the operand may be on either side of 0."""
    return (np.abs(x) <= e) & (e > 0)


def _mul(x: Array, y: Array, e: Array, f: Array) -> tuple[Array, Array, Any]:
    doubt = (np.isinf(x) & (np.abs(y) <= f) & (f > 0)) | (
        np.isinf(y) & (np.abs(x) <= e) & (e > 0)
    )
    return x * y, np.abs(x) * f + np.abs(y) * e + e * f, doubt


def _div(x: Array, y: Array, e: Array, f: Array) -> tuple[Array, Array, Any]:
    doubt = (np.abs(y) <= f) & (f > 0)
    return x / y, (e + np.abs(x / y) * f) / (np.abs(y) - f), doubt


def _pow(x: Array, y: Array, e: Array, f: Array) -> tuple[Array, Array, Any]:
    """By logarithms; what is not sure to be of a positive base is free."""
    value = np.power(x, y)
    still = (e == 0) & (f == 0)
    edge = (x <= e) | np.isinf(x) | np.isinf(y)
    moved = (np.abs(y) + f) * -np.log1p(-e / x) + np.abs(np.log(x)) * f
    bound = np.where(still, 0, np.abs(value) * np.expm1(moved))
    return value, bound, edge & ~still


def _near_one(x: Array, e: Array) -> Any:
    """Doubt of functions that end at -1 and 1."""
    return (np.abs(x) + e >= 1) & (e > 0)


def _angle(y: Array, x: Array, e: Array, f: Array) -> tuple[Array, Array, Any]:
    """Free where the operands may be on another side of 0."""
    moved, far = e + f, np.hypot(x, y)
    edge = ((np.abs(y) <= e) | (np.abs(x) <= f) | (far <= 2 * moved)) & (moved > 0)
    return np.arctan2(y, x), 2 * moved / far, edge


def _log_hypot(x: Array, y: Array, e: Array, f: Array) -> tuple[Array, Array, Any]:
    """Near 1 float64 is left with the rounding errors of squares."""
    x, y = np.abs(x), np.abs(y)
    large, less, size = np.maximum(x, y), np.minimum(x, y), np.hypot(x, y)
    beyond = np.log1p((large - 1) * (large + 1) + less * less) / 2
    near = (large > 0.5) & (large < 2)
    value = np.where(near, beyond, np.log(size))
    moved = e + f
    bound = np.where(moved > 0, -np.log1p(-moved / size), 0) + 4 * EPSILON
    return value, bound, (size <= moved) & (moved > 0)


def _erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in x.reshape(-1)], Wide).reshape(x.shape)


def _special(name: str) -> Callable[..., tuple[Array, Array, Any]]:
    """Of exact operands, as mpmath has it; digamma near its zeros is not to all digits,
    nor CUDA's lgamma left of 0. Of others it is left open."""
    near = {"polygamma": 64, "lgamma": 2}.get(name, 0) * EPSILON

    def run(*both: Array) -> tuple[Array, Array, Any]:
        args, errors = both[: len(both) // 2], both[len(both) // 2 :]
        value = PRIMS[name].numpy(*(a.astype(np.float64) for a in args)).astype(Wide)
        bound = np.full(value.shape, near, Wide)
        return value, bound, np.any([e > 0 for e in errors], axis=0)

    return run


# (value, bound, doubt) from operands' values, then their bounds.
SPREAD: dict[str, Callable[..., tuple[Array, Array, Any]]] = {
    "neg": lambda x, e: (-x, e, False),
    "abs": lambda x, e: (np.abs(x), e, False),
    "sqrt": lambda x, e: (np.sqrt(x), e / np.sqrt(x), _positive_only(x, e)),
    "rsqrt": lambda x, e: (1 / np.sqrt(x), e * (x - e) ** -1.5, _positive_only(x, e)),
    "exp": lambda x, e: (np.exp(x), np.exp(x) * np.expm1(e), False),
    "log": lambda x, e: (np.log(x), -np.log1p(-e / x), _positive_only(x, e)),
    "tanh": lambda x, e: (np.tanh(x), e, False),
    "erf": lambda x, e: (_erf(x), e * Wide(1.13), False),
    "sigmoid": lambda x, e: (1 / (1 + np.exp(-x)), e / 4, False),
    "log1p": lambda x, e: (np.log1p(x), -np.log1p(-e / (1 + x)), np.abs(1 + x) <= e),
    "expm1": lambda x, e: (np.expm1(x), np.exp(x) * np.expm1(e), False),
    "sin": lambda x, e: (np.sin(x), np.minimum(e, 2), False),
    "cos": lambda x, e: (np.cos(x), np.minimum(e, 2), False),
    "pow": _pow,
    "log2": lambda x, e: (
        np.log2(x),
        -np.log1p(-e / x) / np.log(Wide(2)),
        _positive_only(x, e),
    ),
    "log10": lambda x, e: (
        np.log10(x),
        -np.log1p(-e / x) / np.log(Wide(10)),
        _positive_only(x, e),
    ),
    "tan": lambda x, e: (
        np.tan(x),
        e / (np.abs(np.cos(x)) - e) ** 2,
        (np.abs(np.cos(x)) <= 2 * e) & (e > 0),
    ),
    "asin": lambda x, e: (
        np.arcsin(x),
        e / np.sqrt(1 - (np.abs(x) + e) ** 2),
        _near_one(x, e),
    ),
    "acos": lambda x, e: (
        np.arccos(x),
        e / np.sqrt(1 - (np.abs(x) + e) ** 2),
        _near_one(x, e),
    ),
    "atan": lambda x, e: (np.arctan(x), e, False),
    "sinh": lambda x, e: (np.sinh(x), e * np.cosh(np.abs(x) + e), False),
    "cosh": lambda x, e: (np.cosh(x), e * np.sinh(np.abs(x) + e), False),
    "asinh": lambda x, e: (np.arcsinh(x), e, False),
    "acosh": lambda x, e: (
        np.arccosh(x),
        e / np.sqrt((x - e) ** 2 - 1),
        (x - e <= 1) & (e > 0),
    ),
    "atanh": lambda x, e: (
        np.arctanh(x),
        e / (1 - (np.abs(x) + e) ** 2),
        _near_one(x, e),
    ),
    "atan2": _angle,
    "hypot": lambda x, y, e, f: (np.hypot(x, y), e + f, False),
    "log_hypot": _log_hypot,
    **{name: _special(name) for name in SPECIAL},
    "add": lambda x, y, e, f: (x + y, e + f, False),
    "sub": lambda x, y, e, f: (x - y, e + f, False),
    "mul": _mul,
    "div": _div,
    "max": lambda x, y, e, f: (_larger(x, y), np.maximum(e, f), False),
    "min": lambda x, y, e, f: (_smaller(x, y), np.maximum(e, f), False),
}


def elementwise(name: str, args: Sequence[Expected]) -> Expected:
    """What an elementwise primitive gives."""
    last = args[-1]
    if last.dtype in HALVES and name != "select":
        found = elementwise(name, [converted(a, "float32") for a in args])
        return found if name in COMPARES else converted(found, last.dtype)
    out = "bool" if name in COMPARES else last.dtype
    signed = all(a.signed for a in args)
    with np.errstate(all="ignore"):
        if name == "select" and any(a.bound is not None for a in args):
            return _select(*args)
        exact = name not in INEXACT and all(a.bound is None for a in args)
        pole = name in ("div", "rsqrt") and not last.signed
        if exact and not pole:
            value = np.asarray(EXACT[name](*(a.value for a in args)))
            kept = out not in FLOATS or (signed and name not in ("max", "min"))
            return Expected(out, value.astype(dtype_of(out), copy=False), None, kept)
        pairs = [a.wide() for a in args]
        bounds = [b for _, b in pairs]
        value, bound, doubt = SPREAD[name](*(v for v, _ in pairs), *bounds)
        for free in bounds:
            doubt = doubt | np.isinf(free)
        if pole:  # 1 / 0 is inf or -inf
            doubt = doubt | (pairs[-1][0] == 0)
        if name == "pow" and not args[0].signed:
            doubt = doubt | (pairs[0][0] == 0)
        if name == "atan2" and not signed:
            doubt = doubt | (pairs[0][0] == 0) | (pairs[1][0] == 0)
        ulps = ULPS.get(name, 1.0)
        return _settled(value, bound + ulps * _ulp(value, bound, out), doubt, out)


def _select(cond: Expected, x: Expected, y: Expected) -> Expected:
    (a, e), (b, f) = x.wide(), y.wide()
    value, bound = np.where(cond.value, a, b), np.where(cond.value, e, f)
    return Expected(x.dtype, value, bound, signed=False)


def converted(x: Expected, dtype: str) -> Expected:
    """What cast gives; out of an integer's range nothing is defined, so never ask."""
    if dtype in HALVES and x.dtype not in ("float32", *HALVES):
        x = converted(x, "float32")
    with np.errstate(all="ignore"):
        if x.bound is None:
            value = (x.value != 0) if dtype == "bool" else x.value
            kept = dtype not in FLOATS or x.signed
            return Expected(dtype, value.astype(dtype_of(dtype)), None, kept)
        assert dtype in FLOATS, "a cast of an inexact value to a whole number"
        bound = x.bound + _ulp(x.value, x.bound, dtype)
        return _settled(x.value, bound, np.isinf(x.bound), dtype)


# Movement and reductions ---------------------------------------------------------


def moved(x: Expected, fn: Callable[[Array, Any], Array], fill: Any = 0) -> Expected:
    """The function of places applied to value and bound; `fill` is for new places."""
    value = fn(x.value, fill)
    return replace(x, value=value, bound=None if x.bound is None else fn(x.bound, 0))


def _picked(x: Array, shape: Sequence[int], places: Sequence[Array | None]) -> Array:
    """out[i0, i1, ..] = x[places[0], ..]; a place is an array over `shape`."""
    full = [np.broadcast_to(0 if p is None else p, shape) for p in places]
    return x[tuple(full)] if full else np.broadcast_to(x, shape).copy()


def put_over(x: Expected, part: Expected, places: Sequence[Array]) -> Expected:
    """x with the elements of the part put in order at places, held within x."""

    def put(a: Array, b: Array) -> Array:
        out = a.copy()
        ends = [np.maximum(np.minimum(p, n - 1), 0) for p, n in zip(places, a.shape)]
        for k in np.ndindex(b.shape if a.size else (0,)):
            out[tuple(end[k] for end in ends)] = b[k]
        return out

    if x.bound is None and part.bound is None:
        signed = x.signed and part.signed
        return Expected(x.dtype, put(x.value, part.value), None, signed)
    values, bounds = zip(x.wide(), part.wide())
    return Expected(x.dtype, put(*values), put(*bounds), signed=False)


def _broadcast(x: Array, shape: Sequence[int], at: Sequence[int]) -> Array:
    grid = np.indices(shape)
    places = [None if x.shape[k] == 1 else grid[a] for k, a in enumerate(at)]
    return _picked(x, shape, places)


def _slice(
    x: Array, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]
) -> Array:
    for k, (start, size, step) in enumerate(zip(starts, sizes, steps)):
        x = np.take(x, start + step * np.arange(size), axis=k)
    return x


def _pad(
    x: Array, low: Sequence[int], high: Sequence[int], inner: Sequence[int], fill: Any
) -> Array:
    for k, (before, after, gap) in enumerate(zip(low, high, inner)):
        size = x.shape[k]
        span = size + max(size - 1, 0) * gap
        wide = list(x.shape)
        wide[k] = before + span + after
        out = np.empty(wide, x.dtype)
        out[...] = fill
        for j in range(size):
            to = (slice(None),) * k + (before + j * (gap + 1),)
            out[to] = np.take(x, j, axis=k)
        x = out
    return x
