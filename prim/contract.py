"""Contractions: dot_general, and convolution in three forms closed under VJP; product
and convolution, the same as steps of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pirol.compiler.dims import equal, same_shape
from pirol.compiler.ir import COMPLEX, FLOATS, HALVES, INTS, TensorType
from pirol.prim.prim import Attrs, Prim, define, require
from pirol.prim.window import window_extent, window_offsets

Types = Sequence[TensorType]


# What kernels compute, and of which dtypes; a library does the others.
COMPILED, COMPILED_IN = ("dot_general", "conv"), (*FLOATS, *COMPLEX)


def _free(rank: int, batch: Sequence[int], contract: Sequence[int]) -> list[int]:
    return [k for k in range(rank) if k not in batch and k not in contract]


def _infer_dot(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Result dims: batch, then the free dims of x, then those of y."""
    x, y = types
    xb, yb, xc, yc = (attrs[k] for k in ("x_batch", "y_batch", "x_sum", "y_sum"))
    pairs = [*zip(xb, yb), *zip(xc, yc)]
    ok = len(xb) == len(yb) and len(xc) == len(yc) and x.dtype == y.dtype
    ok = ok and all(equal(x.shape[i], y.shape[j]) is True for i, j in pairs)
    ok = ok and x.dtype in FLOATS + COMPLEX + INTS
    require(ok, "dot_general", types, "one dtype, and equal batch and summed dims")
    shape = [x.shape[i] for i in xb]
    shape += [x.shape[i] for i in _free(x.rank, xb, xc)]
    shape += [y.shape[i] for i in _free(y.rank, yb, yc)]
    return (TensorType(tuple(shape), x.dtype),)


def _dot(x: Any, y: Any, *, x_batch: Any, y_batch: Any, x_sum: Any, y_sum: Any) -> Any:
    names = iter(range(52))
    xs = [next(names) for _ in x.shape]
    ys = [next(names) for _ in y.shape]
    for i, j in [*zip(x_batch, y_batch), *zip(x_sum, y_sum)]:
        ys[j] = xs[i]
    out = [xs[i] for i in x_batch]
    out += [xs[i] for i in _free(x.ndim, x_batch, x_sum)]
    out += [ys[i] for i in _free(y.ndim, y_batch, y_sum)]
    return np.einsum(x, xs, y, ys, out).astype(x.dtype, copy=False)


def _dot_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    (x, y), at = op.operands, op.attrs
    xb, yb, xc, yc = (tuple(at[k]) for k in ("x_batch", "y_batch", "x_sum", "y_sum"))
    xf, yf = _free(x.type.rank, xb, xc), _free(y.type.rank, yb, yc)
    nb, nx = len(xb), len(xf)
    batch, from_x = tuple(range(nb)), tuple(range(nb, nb + nx))
    from_y = tuple(range(nb + nx, nb + nx + len(yf)))
    dx = b.dot_general(
        cts[0], y, x_batch=batch, y_batch=yb, x_sum=from_y, y_sum=tuple(yf)
    )
    dy = b.dot_general(
        cts[0], x, x_batch=batch, y_batch=xb, x_sum=from_x, y_sum=tuple(xf)
    )
    return (
        _restore(b, dx, xb, xf, [xc[k] for k in np.argsort(yc)]),
        _restore(b, dy, yb, yf, [yc[k] for k in np.argsort(xc)]),
    )


def _restore(b: Any, grad: Any, batch: Any, free: Any, summed: Any) -> Any:
    """Transpose (batch, free, summed) dims back to the operand's order."""
    order = [*batch, *free, *summed]
    return b.transpose(grad, perm=tuple(int(k) for k in np.argsort(order)))


define(Prim("dot_general", "contract", _infer_dot, _dot, _dot_vjp))


# For cuBLASLt, the result of `dtype`: x without batch dims serves the whole batch, and
# a third operand is added to each row.


def _serving(y: Sequence[Any], attrs: Attrs) -> tuple[tuple[Any, ...], Attrs]:
    """The batch dims that x lacks, and the attributes for an x that has them first."""
    lead = () if attrs["x_batch"] else tuple(y[i] for i in attrs["y_batch"])
    if not lead:
        return lead, attrs
    summed = tuple(k + len(lead) for k in attrs["x_sum"])
    return lead, {**attrs, "x_batch": tuple(range(len(lead))), "x_sum": summed}


def _infer_product(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    (x, y, *rows), dtype = types, attrs["dtype"]
    lead, given = _serving(y.shape, attrs)
    (found,) = _infer_dot([TensorType((*lead, *x.shape), x.dtype), y], given)
    wide = [y.shape[k] for k in _free(y.rank, attrs["y_batch"], attrs["y_sum"])]
    ok = len(rows) <= 1 and x.dtype in FLOATS
    ok = ok and (dtype == x.dtype or (x.dtype in HALVES and dtype == "float32"))
    ok = ok and all(
        r.rank == 1 and r.dtype == dtype and same_shape(r.shape, wide) for r in rows
    )
    require(ok, "product", types, "two matrices of floats, and a row as wide")
    return (TensorType(found.shape, dtype),)


def _widened(x: Any) -> Any:
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def _product(x: Any, y: Any, *rows: Any, dtype: str, **attrs: Any) -> Any:
    x, y = _widened(x), _widened(y)
    lead, given = _serving(np.shape(y), attrs)
    found = _dot(np.broadcast_to(x, (*lead, *np.shape(x))), y, **given)
    return sum(map(_widened, rows), found)


def _convolution(x: Any, w: Any, **attrs: Any) -> Any:
    return _conv(_widened(x), _widened(w), **attrs)


define(Prim("product", "library", _infer_product, _product))


def _conv_shape(x: TensorType, w: TensorType, attrs: Attrs) -> TensorType:
    spatial = map(
        window_extent,
        x.shape[2:],
        w.shape[2:],
        attrs["strides"],
        attrs["padding"],
        attrs["dilation"],
    )
    return TensorType((x.shape[0], w.shape[0], *spatial), x.dtype)


def _infer_conv(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x [N, C, ...], w [O, C / groups, ...] -> [N, O, ...]."""
    x, w = types
    ok = x.rank == w.rank >= 3 and x.dtype == w.dtype and x.dtype in FLOATS + COMPLEX
    ok = ok and equal(x.shape[1], w.shape[1] * attrs["groups"]) is True
    require(ok, "conv", types, "x [N, C, ...] and w [O, C / groups, ...]")
    return (_conv_shape(x, w, attrs),)


def _given_shape(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    return (TensorType(tuple(attrs["shape"]), types[0].dtype),)


def _taps(
    size: Sequence[int], out: Sequence[int], kernel: Sequence[int], attrs: Attrs
) -> Any:
    """For each tap: (tap, slices of outputs, slices of inputs) that meet in range."""
    for tap in window_offsets(kernel):
        outs, ins = [], []
        for n, m, t, s, p, d in zip(
            size, out, tap, attrs["strides"], attrs["padding"], attrs["dilation"]
        ):
            shift = t * d - p[0]
            first = max(0, -(shift // s))
            last = min(m, (n - 1 - shift) // s + 1)
            count = max(last - first, 0)
            start = first * s + shift if count else 0
            outs.append(slice(first, first + count))
            ins.append(slice(start, start + (count - 1) * s + 1 if count else start, s))
        yield tap, (..., *outs), (..., *ins)


def _grouped(x: Any, groups: int, axis: int) -> Any:
    shape = (*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
    return x.reshape(shape)


def _flat(x: Any, axis: int) -> Any:
    """The dims from `axis` on as one; NumPy's -1 fails where another dim is 0."""
    return x.reshape(*x.shape[:axis], math.prod(x.shape[axis:]))


def _conv(x: Any, w: Any, **attrs: Any) -> Any:
    g = attrs["groups"]
    out = [
        window_extent(*a)
        for a in zip(
            x.shape[2:],
            w.shape[2:],
            attrs["strides"],
            attrs["padding"],
            attrs["dilation"],
        )
    ]
    xs, ws = _grouped(x, g, 1), _grouped(w, g, 0)
    y = np.zeros((x.shape[0], g, w.shape[0] // g, *out), x.dtype)
    for tap, outs, ins in _taps(x.shape[2:], out, w.shape[2:], attrs):
        at = (..., *tap)
        y[outs] += np.einsum("ngc...,goc->ngo...", xs[ins], ws[at])
    return y.reshape(x.shape[0], w.shape[0], *out)


def _input_grad(ct: Any, w: Any, *, shape: Any, **attrs: Any) -> Any:
    g = attrs["groups"]
    cs, ws = _grouped(ct, g, 1), _grouped(w, g, 0)
    dx = np.zeros((shape[0], g, shape[1] // g, *shape[2:]), ct.dtype)
    for tap, outs, ins in _taps(shape[2:], ct.shape[2:], w.shape[2:], attrs):
        at = (..., *tap)
        dx[ins] += np.einsum("ngo...,goc->ngc...", cs[outs], ws[at])
    return dx.reshape(shape)


def _weight_grad(x: Any, ct: Any, *, shape: Any, **attrs: Any) -> Any:
    g = attrs["groups"]
    xs, cs = _grouped(x, g, 1), _grouped(ct, g, 1)
    dw = np.zeros((g, shape[0] // g, *shape[1:]), x.dtype)
    for tap, outs, ins in _taps(x.shape[2:], ct.shape[2:], shape[2:], attrs):
        a, c = (_flat(v, 3) for v in (xs[ins], cs[outs]))
        at = (..., *tap)
        dw[at] = np.einsum("ngcs,ngos->goc", a, c)
    return dw.reshape(shape)


def _window(op: Any) -> dict[str, Any]:
    return {k: op.attrs[k] for k in ("strides", "padding", "dilation", "groups")}


def _conv_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    (x, w), at = op.operands, _window(op)
    return (
        b.conv_input_grad(cts[0], w, shape=x.shape, **at),
        b.conv_weight_grad(x, cts[0], shape=w.shape, **at),
    )


def _input_grad_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    (ct, w), at = op.operands, _window(op)
    return (
        b.conv(cts[0], w, **at),
        b.conv_weight_grad(cts[0], ct, shape=w.shape, **at),
    )


def _weight_grad_vjp(b: Any, op: Any, cts: Any) -> Sequence[Any]:
    (x, ct), at = op.operands, _window(op)
    return (
        b.conv_input_grad(ct, cts[0], shape=x.shape, **at),
        b.conv(x, cts[0], **at),
    )


define(Prim("conv", "contract", _infer_conv, _conv, _conv_vjp))
define(Prim("convolution", "library", _infer_conv, _convolution))  # for cuDNN


def _infer_attention(types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    dtype, lies = types[0].dtype, attrs["lies"]
    ok = len(types) in (3, 4) and len(lies) == len(types) and dtype in HALVES
    ok = ok and all(t.dtype == dtype for t in types[:3])
    ok = ok and all(t.dtype in (dtype, "float32") for t in types[3:])
    require(ok, "attention", types, "queries, keys and values, all of one half")
    return (TensorType(attrs["shape"], dtype),)


def _attention(
    *given: Any, shape: Any, turns: bool, keys: int, terms: int, lies: Any, scale: float
) -> Any:
    batch, rows, heads, width = shape
    rows, heads = (rows, heads) if turns else (heads, rows)
    ends = (rows, terms), (keys, terms), (keys, width), (rows, keys)
    q, k, v, *added = (
        _lying(_widened(x), (batch, heads, *end), *lie)
        for x, end, lie in zip(given, ends, lies)
    )
    scores = sum(added, q @ k.swapaxes(2, 3) * np.float32(scale))
    powers = np.exp(scores - scores.max(3, keepdims=True, initial=-np.inf))
    found = powers / powers.sum(3, keepdims=True) @ v
    return found.swapaxes(1, 2) if turns else found


def _lying(x: Any, shape: Any, start: int, steps: Any) -> Any:
    flat = np.ravel(x)[start:]
    strides = [step * flat.itemsize for step in steps]
    return np.lib.stride_tricks.as_strided(flat, shape, strides)


# out[b, h, row, column] of q, k, v, each [b, h, row or key, term or column]: softmax(q
# k' * scale + what is added, if anything) v; where it turns, out[b, row, h, column].
# `shape` is the result's, `keys` and `terms` the other sizes; `lies` has the place of
# each operand's first element, and its steps along the four axes, 0 where it repeats.
# For cuDNN.
define(Prim("attention", "library", _infer_attention, _attention))
define(Prim("conv_input_grad", "contract", _given_shape, _input_grad, _input_grad_vjp))
define(
    Prim("conv_weight_grad", "contract", _given_shape, _weight_grad, _weight_grad_vjp)
)
