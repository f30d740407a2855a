"""Functions of matrices of which Paddle's static op tells or gives too little.

slogdet: its result is declared in the shape of the matrices. Values of eigvalsh and
svdvals have no second derivative: those of eigh and svd have (where one may be asked
for). multi_dot's gradients are declared float32: products in the best order. Of matmul
of batches the shape of one is declared, though both be broadcast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import paddle

from pirol.compiler.capture.overwritten import capturing
from pirol.prim.decomp.products import chained

ops: Any = paddle._C_ops
_VALUE: Any = paddle.pir.Value
_REAL = (paddle.float32, paddle.float64)


@functools.cache
def follow() -> None:
    """Put ours around the functions, once."""
    for name, ours in OURS.items():
        setattr(ops, name, _while_capturing(getattr(ops, name), ours))


def _while_capturing(
    plain: Callable[..., Any], ours: Callable[..., Any]
) -> Callable[..., Any]:
    @functools.wraps(plain)
    def run(x: Any, *args: Any, **kwargs: Any) -> Any:
        first = x[0] if isinstance(x, (list, tuple)) and x else x
        if not capturing.now or not isinstance(first, _VALUE) or kwargs:
            return plain(x, *args, **kwargs)
        return ours(plain, x, *args)

    return run


def _slogdet(plain: Callable[..., Any], x: Any) -> Any:
    """Of each matrix a sign and a logarithm: all signs, then all logarithms."""
    found = plain(x)
    found.set_shape([2, *x.shape[:-2]])
    return found


def _eigvalsh(plain: Callable[..., Any], x: Any, uplo: str, *rest: Any) -> Any:
    if x.stop_gradient or x.dtype not in _REAL:
        return plain(x, uplo, *rest)
    return ops.eigh(x, uplo)


def _svdvals(plain: Callable[..., Any], x: Any) -> Any:
    if x.stop_gradient or x.dtype not in _REAL or 0 in x.shape:
        return plain(x)
    return ops.svd(x, False)[1]


def _matmul(plain: Callable[..., Any], x: Any, y: Any, *rest: Any) -> Any:
    found = plain(x, y, *rest)
    batches = [v.shape[:-2] for v in (x, y)]
    if all(batches) and min(*batches[0], *batches[1]) > 0:
        batch = paddle.broadcast_shape(*map(list, batches))
        if [*batch] != [*found.shape[: len(batch)]]:
            found.set_shape([*batch, *found.shape[-2:]])
    return found


def _multi_dot(plain: Callable[..., Any], x: Any) -> Any:
    ranks = [len(v.shape) for v in x]
    ends = len(x) > 1 and {ranks[0], ranks[-1]} <= {1, 2}
    if not ends or any(rank != 2 for rank in ranks[1:-1]):
        return plain(x)
    rows = x[0].shape[0] if ranks[0] == 2 else 1
    sizes = [rows, *(v.shape[0] for v in x[1:]), x[-1].shape[-1]]
    if ranks[-1] == 1:
        sizes[-1] = 1
    if min(sizes) < 0:  # known only when the program runs
        return functools.reduce(ops.matmul, x)
    return chained(x, sizes, lambda a, b: ops.matmul(a, b, False, False))


OURS: dict[str, Callable[..., Any]] = {
    "slogdet": _slogdet,
    "eigvalsh": _eigvalsh,
    "svdvals": _svdvals,
    "matmul": _matmul,
    "multi_dot": _multi_dot,
}
