"""Functions of complex tensors where Paddle's own refuse them.

    spectrum = pirol.complex.conv1d(z, weight)  # z, weight: complex64 or complex128

Each takes the arguments of Paddle's function of its name and gives what that is for
complex numbers; real tensors go to Paddle's. They are made of Paddle's ops on real and
imaginary parts, so they work on tensors, have gradients, and are compiled with what
surrounds them.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn.functional as F

from pirol.compiler.capture.sot import known_to_sot
from pirol.compiler.errors import ArgumentError, message


def whole(real: Any, imag: Any) -> Any:
    """The complex tensor, or the list of them, of these parts."""
    if isinstance(real, (list, tuple)):
        return [whole(a, b) for a, b in zip(real, imag)]
    return paddle.complex(real, imag)


def _is_complex(value: Any) -> bool:
    tensor = isinstance(value, (paddle.Tensor, paddle.pir.Value))
    return tensor and str(value.dtype).endswith(("complex64", "complex128"))


def _of_parts(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is linear in its complex arguments, taken together."""

    @functools.wraps(run)
    def call(*args: Any, **named: Any) -> Any:
        if not any(map(_is_complex, (*args, *named.values()))):
            return run(*args, **named)
        how = named.get("reduce", "assign")
        if how not in LINEAR:
            what = f"pirol.complex.{run.__name__}"
            expected = f"one of {', '.join(LINEAR)} for complex numbers"
            raise ArgumentError(message(what, got=f"reduce={how!r}", expected=expected))

        def part(which: str) -> Any:
            def of(value: Any) -> Any:
                return getattr(value, which)() if _is_complex(value) else value

            return run(*map(of, args), **{k: of(v) for k, v in named.items()})

        return whole(part("real"), part("imag"))

    return call


def _product(run: Callable[..., Any], right: str) -> Callable[..., Any]:
    """A function that is linear in its `x` and in another argument."""
    signature = inspect.signature(run)

    @functools.wraps(run)
    def call(*args: Any, **named: Any) -> Any:
        given = signature.bind(*args, **named).arguments
        if not any(map(_is_complex, given.values())):
            return run(*args, **named)
        (a, b), (c, d) = _parts(given["x"]), _parts(given[right])

        def times(x: Any, weight: Any) -> Any:
            if x is None or weight is None:
                return None
            return run(**{**given, "x": x, right: weight})

        real, imag = times(a, c), _sum(times(a, d), times(b, c))
        both = times(b, d)
        real = real if both is None else real - both
        return real if imag is None else whole(real, imag)

    return call


def _convolution(
    run: Callable[..., Any], transposed: bool = False
) -> Callable[..., Any]:
    """A convolution: of complex numbers one of real ones, whose channels are both parts
    one behind the other, so that each is read once."""
    signature, apart = inspect.signature(run), _product(run, "weight")

    @functools.wraps(run)
    def call(*args: Any, **named: Any) -> Any:
        given = signature.bind(*args, **named).arguments
        if not any(map(_is_complex, given.values())):
            return run(*args, **named)
        x, weight, bias = (given.pop(name, None) for name in ("x", "weight", "bias"))
        last = given.get("data_format", "NCL").endswith("C")
        if _is_complex(x) and _is_complex(weight):
            axis = x.ndim - 1 if last else 1
            x = paddle.stack([x.real(), x.imag()], axis + 1).flatten(axis, axis + 1)
            found = run(x, _matrices(weight, transposed), **given)
            every = (slice(None),) * axis
            found = whole(*(found[every + (slice(k, None, 2),)] for k in range(2)))
        else:
            found = apart(x, weight, **given)
        if bias is None:
            return found
        return found + (bias if last else bias.reshape([-1] + [1] * (found.ndim - 2)))

    return call


def _matrices(weight: Any, transposed: bool) -> Any:
    """[m, n, ..] complex -> [2 m, 2 n, ..]: a 2 x 2 matrix for each number, which turns
    the parts of its factor into those of the product."""
    real, imag = weight.real(), weight.imag()
    imag = -imag if transposed else imag
    rows = [paddle.stack(row, 2) for row in ((real, -imag), (imag, real))]
    return paddle.stack(rows, 1).flatten(2, 3).flatten(0, 1)


def _parts(x: Any) -> tuple[Any, Any]:
    return (x.real(), x.imag()) if _is_complex(x) else (x, None)


def _sum(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return right if left is None else left
    return left + right


LINEAR = ("assign", "add", "mean")  # ways to put numbers that parts go by themselves


def bmm(x: Any, y: Any) -> Any:
    """x [B, N, K] @ y [B, K, M], as paddle.bmm."""
    return paddle.matmul(x, y)


def mv(x: Any, vec: Any) -> Any:
    """x [N, K] @ vec [K], as paddle.mv."""
    return paddle.matmul(x, vec)


def addmm(input: Any, x: Any, y: Any, beta: float = 1.0, alpha: float = 1.0) -> Any:
    """beta * input + alpha * (x @ y), as paddle.addmm."""
    return beta * input + alpha * paddle.matmul(x, y)


def baddbmm(input: Any, x: Any, y: Any, beta: float = 1.0, alpha: float = 1.0) -> Any:
    """beta * input + alpha * (x @ y) of batches, as paddle.baddbmm."""
    return addmm(input, x, y, beta, alpha)


def multi_dot(x: Any) -> Any:
    """The product of several matrices, from the left, as paddle.linalg.multi_dot."""
    return functools.reduce(paddle.matmul, x)


def solve(x: Any, y: Any) -> Any:
    """z where x @ z is y, as paddle.linalg.solve: by the inverse, and once more for
    what that leaves."""
    if not _is_complex(x) and not _is_complex(y):
        return paddle.linalg.solve(x, y)
    alone = y.ndim == 1
    y = y.unsqueeze(-1) if alone else y
    over = paddle.linalg.inv(x)
    first = paddle.matmul(over, y)
    found = first + paddle.matmul(over, y - paddle.matmul(x, first))
    return found.squeeze(-1) if alone else found


def logsumexp(x: Any, axis: Any = None, keepdim: bool = False) -> Any:
    """log(sum(exp(x))) over axes, without overflow, as paddle.logsumexp."""
    if not _is_complex(x):
        return paddle.logsumexp(x, axis, keepdim)
    largest = _largest(x, axis)
    total = paddle.exp(x - largest).sum(axis, keepdim=True).log() + largest
    if keepdim:
        return total
    return total.reshape([]) if axis is None else total.squeeze(axis)


def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) over its sum along an axis, as paddle.nn.functional.softmax."""
    if not _is_complex(x):
        return F.softmax(x, axis)
    found = paddle.exp(x - _largest(x, axis))
    return found / found.sum(axis, keepdim=True)


def _largest(x: Any, axis: Any) -> Any:
    """The largest real part over axes, where it is finite; no gradient comes of it."""
    found = x.real().detach().max(axis, keepdim=True)
    return paddle.where(found.isfinite(), found, paddle.zeros_like(found))


def cov(x: Any, rowvar: bool = True, ddof: bool = True) -> Any:
    """The covariance of rows (or columns), as paddle.linalg.cov."""
    if not _is_complex(x):
        return paddle.linalg.cov(x, rowvar, ddof)
    x = x.reshape([1, -1]) if x.ndim < 2 else x if rowvar else x.t()
    apart = x - x.mean(1, keepdim=True)
    found = paddle.matmul(apart, apart.conj().t())
    count = paddle.shape(x)[1].astype(found.real().dtype)
    return (found / (count - int(ddof))).squeeze()


def rsqrt(x: Any) -> Any:
    """1 / sqrt(x), the root with a real part of 0 or more."""
    return 1.0 / paddle.sqrt(x)


def lerp(x: Any, y: Any, weight: Any) -> Any:
    """x + weight * (y - x)"""
    return x + weight * (y - x)


def var(x: Any, axis: Any = None, unbiased: bool = True, keepdim: bool = False) -> Any:
    """The mean of |x - mean(x)| ** 2 over axes, a real number; unbiased: divided by one
    less than their count."""
    if not _is_complex(x):
        return paddle.var(x, axis, unbiased, keepdim)
    apart = x - x.mean(axis, keepdim=True)
    square = apart.real().square() + apart.imag().square()
    found = square.mean(axis, keepdim=keepdim)
    if not unbiased:
        return found
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    count = paddle.ones([], found.dtype)
    for k in axes:
        count = count * paddle.shape(x)[k].astype(found.dtype)
    return found * (count / (count - 1))


def std(x: Any, axis: Any = None, unbiased: bool = True, keepdim: bool = False) -> Any:
    """The root of var."""
    return paddle.sqrt(var(x, axis, unbiased, keepdim))


def dropout(
    x: Any, p: float = 0.5, training: bool = True, mode: str = "upscale_in_train"
) -> Any:
    """Each number kept or not as a whole, as paddle.nn.functional.dropout."""
    if not _is_complex(x):
        return F.dropout(x, p, training=training, mode=mode)
    return x * F.dropout(paddle.ones_like(x.real()), p, training=training, mode=mode)


def crelu(x: Any) -> Any:
    """relu of both parts (Trabelsi et al., "Deep complex networks", 2018)."""
    return whole(F.relu(x.real()), F.relu(x.imag()))


def zrelu(x: Any) -> Any:
    """x where both parts are over 0, else 0 (Guberman, 2016)."""
    return paddle.where((x.real() > 0).logical_and(x.imag() > 0), x, x * 0.0)


def modrelu(x: Any, bias: Any) -> Any:
    """relu(|x| + bias) x / |x|, 0 at 0 (Arjovsky et al., 2016).

    Args:
        bias: a number, or a real tensor that broadcasts to x.
    """
    size = x.abs()
    none = size == 0
    safe = paddle.where(none, paddle.ones_like(size), size)
    return x * (F.relu(size + bias) / safe)


split = _of_parts(paddle.split)
chunk = _of_parts(paddle.chunk)
take_along_axis = _of_parts(paddle.take_along_axis)
put_along_axis = _of_parts(paddle.put_along_axis)
scatter = _of_parts(paddle.scatter)
scatter_nd_add = _of_parts(paddle.scatter_nd_add)
index_add = _of_parts(paddle.index_add)
repeat_interleave = _of_parts(paddle.repeat_interleave)
diag_embed = _of_parts(paddle.diag_embed)
avg_pool1d = _of_parts(F.avg_pool1d)
avg_pool2d = _of_parts(F.avg_pool2d)
avg_pool3d = _of_parts(F.avg_pool3d)
interpolate = _of_parts(F.interpolate)
rot90 = _of_parts(paddle.rot90)
trapezoid = _of_parts(paddle.trapezoid)
nan_to_num = _of_parts(paddle.nan_to_num)
inner = _product(paddle.inner, "y")
tensordot = _product(paddle.tensordot, "y")
conv1d = _convolution(F.conv1d)
conv2d = _convolution(F.conv2d)
conv3d = _convolution(F.conv3d)
conv1d_transpose = _convolution(F.conv1d_transpose, True)
conv2d_transpose = _convolution(F.conv2d_transpose, True)
conv3d_transpose = _convolution(F.conv3d_transpose, True)

__all__ = [
    "addmm",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "baddbmm",
    "bmm",
    "chunk",
    "conv1d",
    "conv1d_transpose",
    "conv2d",
    "conv2d_transpose",
    "conv3d",
    "conv3d_transpose",
    "cov",
    "crelu",
    "diag_embed",
    "dropout",
    "index_add",
    "inner",
    "interpolate",
    "lerp",
    "logsumexp",
    "modrelu",
    "multi_dot",
    "mv",
    "nan_to_num",
    "put_along_axis",
    "repeat_interleave",
    "rot90",
    "rsqrt",
    "scatter",
    "scatter_nd_add",
    "softmax",
    "solve",
    "split",
    "std",
    "take_along_axis",
    "tensordot",
    "trapezoid",
    "var",
    "zrelu",
]

# Their code is run while a program is captured, and is not a part of it.
paddle.jit.ignore_module([sys.modules[__name__]])
known_to_sot(*(globals()[name] for name in __all__))
