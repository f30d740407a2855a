"""Where the elements of views lie: an index of a result as one of its operand."""

from __future__ import annotations

from collections.abc import Sequence

from pirol.compiler import dims
from pirol.compiler.ir import Op
from pirol.kernels import affine
from pirol.kernels.affine import Affine, constant


def part(place: Affine, k: int) -> Affine:
    """Where a part of the complex number at a place lies, among all parts."""
    return affine.add(affine.scale(place, 2), constant(k))


def narrow(op: Op, index: Sequence[Affine]) -> list[Affine]:
    """That of what is broadcast."""
    source = op.operands[0].shape
    return [
        affine.ZERO if dims.equal(d, 1) is True else index[k]
        for d, k in zip(source, op.attrs["dims"])
    ]


def mirrored(op: Op, index: Sequence[Affine]) -> list[Affine]:
    """The index counted from the end on the reversed axes."""
    axes, shape = op.attrs["axes"], op.result.shape
    return [
        affine.add(constant(dims.sub(shape[k], 1)), affine.scale(i, -1))
        if k in axes
        else i
        for k, i in enumerate(index)
    ]
