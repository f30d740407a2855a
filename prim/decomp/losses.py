"""Losses, an element or a row at a time; Paddle takes their means itself.

Paddle has no gradient for the labels of any but huber_loss, so none passes here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pirol.compiler import dims
from pirol.compiler.ir import FLOATS, INTS, Value
from pirol.prim.builder import Builder
from pirol.prim.decomp.activations import log1p_exp
from pirol.prim.decomp.norms import centred_exp
from pirol.prim.decomp.reductions import spread
from pirol.prim.decomp.registry import axis_in, decomposes, need
from pirol.prim.decomp.shape import sized

SAME_LABEL = 1e-6  # labels that differ by no more are the same
LOWEST_LOG = -100.0  # what Paddle's bce_loss takes for the logarithm of 0


@decomposes(
    "pd_op.sigmoid_cross_entropy_with_logits",
    compute_in="float32",
    operands="x label pos_weight",
)
def sigmoid_cross_entropy(
    b: Builder,
    x: Value,
    label: Value,
    weight: Value | None,
    *,
    normalize: bool,
    ignore_index: int,
) -> Any:
    """x * (1 - label) + log(1 + exp(-x)) (* weight); 0 where the label is ignored.

    As in Paddle, a label is ignored once its fraction is cut off, but only what is
    equal to ignore_index is left out of the number that `normalize` divides by.
    """
    label = b.stop_gradient(label)
    tail = log1p_exp(b, b.neg(b.abs(x)))
    if weight is None:
        loss = b.add(b.sub(b.max(x, 0.0), b.mul(x, label)), tail)
    else:
        weight = b.stop_gradient(weight)
        curve = b.add(b.max(b.neg(x), 0.0), tail)
        loss = b.add(b.mul(b.sub(1.0, label), x), b.mul(curve, weight))
    zero = b.const(value=0.0, shape=(), dtype=x.dtype)
    loss = b.select(b.eq(b.trunc(label), ignore_index), zero, loss)
    if not normalize:
        return loss
    axes = tuple(range(x.type.rank))
    counts = b.gt(b.abs(b.sub(label, ignore_index)), SAME_LABEL)
    number = b.reduce_sum(b.cast(counts, dtype=x.dtype), axes=axes)
    return b.div(loss, spread(b, number, x, axes))


@decomposes("pd_op.bce_loss", compute_in="float32", operands="input label")
def bce_loss(b: Builder, x: Value, label: Value) -> Any:
    """-label * log(x) - (1 - label) * log(1 - x), no logarithm under -100."""
    b.check(b.and_(b.ge(x, 0.0), b.le(x, 1.0)), "bce_loss of what is not in 0..1")
    label = b.stop_gradient(label)
    hit = b.max(b.log(x), LOWEST_LOG)
    miss = b.max(b.log1p(b.neg(x)), LOWEST_LOG)
    return b.sub(b.mul(b.sub(label, 1.0), miss), b.mul(label, hit))


@decomposes("pd_op.huber_loss", compute_in="float32", operands="input label")
def huber_loss(b: Builder, x: Value, label: Value, *, delta: float) -> Any:
    """r * r / 2 of r = label - x, and delta * (|r| - delta / 2) beyond delta; and r."""
    rest = b.sub(label, x)
    size = b.abs(rest)
    square = b.mul(b.mul(rest, 0.5), rest)
    line = b.mul(b.sub(size, 0.5 * delta), delta)
    return b.select(b.le(size, delta), square, line), rest


@decomposes("pd_op.kldiv_loss", compute_in="float32")
def kldiv_loss(
    b: Builder, x: Value, label: Value, *, reduction: str, log_target: bool
) -> Any:
    """label * (log(label) - x), 0 where the label is not over 0; or of log(label)."""
    need(reduction == "none", f"kldiv_loss with the reduction {reduction}")
    label = b.stop_gradient(label)
    if log_target:
        return b.mul(b.exp(label), b.sub(label, x))
    one = b.const(value=1.0, shape=(), dtype=x.dtype)
    none = b.le(label, 0.0)
    safe = b.select(none, one, label)
    loss = b.mul(label, b.sub(b.log(safe), x))
    return b.select(none, b.const(value=0.0, shape=(), dtype=x.dtype), loss)


@decomposes("pd_op.label_smooth", compute_in="float32", operands="label prior_dist")
def label_smooth(
    b: Builder, label: Value, prior: Value | None, *, epsilon: float
) -> Any:
    """(1 - epsilon) * label + epsilon * prior; the prior else 1 / classes.

    Paddle's factors are float32 whatever the label's dtype.
    """
    kept = b.mul(label, float(np.float32(1) - np.float32(epsilon)))
    if prior is not None:
        flat = b.reshape(b.stop_gradient(prior), shape=(prior.shape[-1],))
        return b.add(kept, b.mul(flat, epsilon))
    classes = b.const(value=label.shape[-1], shape=(), dtype="float32")
    return b.add(kept, b.cast(b.div(epsilon, classes), dtype=label.dtype))


@decomposes(
    "pd_op.cross_entropy_with_softmax", compute_in="float32", operands="input label"
)
def cross_entropy(
    b: Builder,
    x: Value,
    label: Value,
    *,
    soft_label: bool,
    use_softmax: bool,
    ignore_index: int,
    axis: int,
) -> Any:
    """softmax(x), and -log of it at the label; for soft labels, their mean of -log.
    Or x is a softmax already."""
    need(x.dtype in FLOATS, f"cross_entropy of {x.dtype}")
    axes = (axis_in(axis, x.type.rank, "cross_entropy"),)
    if use_softmax:
        low, total = centred_exp(b, x, axes)
        softmax, log = b.div(b.exp(low), spread(b, total, x, axes)), b.log(total)
    else:
        rest = tuple(d for k, d in enumerate(x.shape) if k not in axes)
        log = b.const(value=0.0, shape=rest, dtype=x.dtype)
        softmax, low = x, b.log(x)
    if soft_label:
        loss = _soft_loss(b, low, log, b.stop_gradient(label), axes)
    else:
        loss = _hard_loss(b, low, log, label, axes, ignore_index)
    kept = tuple(1 if k in axes else d for k, d in enumerate(x.shape))
    return softmax, b.reshape(loss, shape=kept)


def _soft_loss(
    b: Builder, low: Value, log: Value, label: Value, axes: tuple[int, ...]
) -> Any:
    need(label.dtype == low.dtype, f"labels of {label.dtype}")
    zero = b.const(value=0.0, shape=(), dtype=low.dtype)
    logs = b.sub(low, spread(b, log, low, axes))
    part = b.select(b.eq(label, 0.0), zero, b.mul(label, logs))
    return b.neg(b.reduce_sum(part, axes=axes))


def _hard_loss(
    b: Builder,
    low: Value,
    log: Value,
    label: Value,
    axes: tuple[int, ...],
    ignore_index: int,
) -> Any:
    need(label.dtype in INTS and label.type.rank == low.type.rank, "labels' type")
    (axis,) = axes
    need(dims.equal(label.shape[axis], 1) is True, "labels of more than one class")
    rows = tuple(d for k, d in enumerate(low.shape) if k != axis)
    for k, size in enumerate(low.shape):
        if k != axis:
            b.require_equal(size, label.shape[k], "cross_entropy")
    label = b.reshape(b.cast(label, dtype="int64"), shape=rows)
    ignored = _ignored(b, label, low.shape[axis], ignore_index)
    places = b.iota(axis=axis, shape=low.shape, dtype="int64")
    zero = b.const(value=0.0, shape=(), dtype=low.dtype)
    here = b.select(b.eq(places, spread(b, label, low, axes)), low, zero)
    loss = b.neg(b.sub(b.reduce_sum(here, axes=axes), log))
    return b.select(ignored, zero, loss)


def _ignored(b: Builder, label: Value, classes: Any, ignore_index: int) -> Value:
    """Which labels are left out; the others are checked to be classes."""
    ignored: Value = b.eq(label, ignore_index)
    valid = b.and_(b.ge(label, 0), b.lt(label, b.dim(classes)))
    b.check(b.or_(ignored, valid), "a label is no class")
    return ignored


@decomposes("pd_op.log_loss", compute_in="float32", operands="input label")
def log_loss(b: Builder, x: Value, label: Value, *, epsilon: float) -> Any:
    """-log of the probability x where the label is 1, of 1 - x where it is 0."""
    label = b.stop_gradient(label)
    right = b.mul(label, b.log(b.add(x, epsilon)))
    wrong = b.mul(b.sub(1.0, label), b.log(b.add(b.sub(1.0, x), epsilon)))
    return b.sub(b.neg(right), wrong)


@decomposes("pd_op.nll_loss", compute_in="float32", operands="input label weight")
def nll_loss(
    b: Builder,
    x: Value,
    label: Value,
    weight: Value | None,
    *,
    ignore_index: int,
    reduction: str,
) -> Any:
    """-x at each label's class, weighted; x [N, classes, ...]. And the weights' sum."""
    need(x.dtype in FLOATS and x.type.rank == label.type.rank + 1, "nll_loss's types")
    rows = (x.shape[0], *x.shape[2:])
    label = sized(b, "nll_loss", b.cast(label, dtype="int64"), rows)
    ignored = _ignored(b, label, x.shape[1], ignore_index)
    at = (0, -1, *range(1, label.type.rank))
    here = b.gather(x, label, shape=label.shape, dims=at)
    each = b.const(value=1.0, shape=label.shape, dtype=x.dtype)
    if weight is not None:  # which has no gradient
        each = b.gather(b.stop_gradient(weight), label, shape=label.shape, dims=(-1,))
    each = b.select(ignored, 0.0, each)
    loss = b.select(ignored, 0.0, b.neg(b.mul(here, each)))
    axes = tuple(range(label.type.rank))
    if reduction == "none":
        return loss, b.const(value=0.0, shape=(), dtype=x.dtype)
    total, weights = b.reduce_sum(loss, axes=axes), b.reduce_sum(each, axes=axes)
    if reduction == "mean":
        total = b.div(total, b.select(b.eq(weights, 0.0), 1.0, weights))
    return total, weights
