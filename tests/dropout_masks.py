"""What dropout's masks must be, by NumPy, and a block that has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from graph_meaning import random_word
from paddle.base import core

SEED = 7


def masks(p: Sequence[float], *shapes: Sequence[int]) -> list[Any]:
    """Whether each element is kept, of dropouts one after the other; the generator goes
    on as by a call."""
    draw = core.default_cpu_generator().random
    return [mask_of(draw(), rate, shape) for rate, shape in zip(p, shapes)]


def mask_of(key: int, p: float, shape: Sequence[int]) -> Any:
    places = np.arange(int(np.prod(shape)), dtype=np.int64)
    keys = np.full(places.shape, key % 2**64, np.uint64).view(np.int64)
    bits = random_word(keys, places).value.astype(np.int64)
    return (bits < 2**31 - round(float(np.float32(p)) * 2**32)).reshape(shape)


def numbers(*shape: int, dtype: str = "float32") -> Any:
    """Tensors without zeros, that need gradients."""
    rng = np.random.default_rng(int(np.prod(shape)))
    made = paddle.to_tensor(rng.uniform(1, 2, shape)).astype(dtype)
    made.stop_gradient = False
    return made


def is_kept(y: Any, mask: Any) -> None:
    np.testing.assert_array_equal(y.astype("float32").numpy() != 0, mask)


def block(x: Any, w: Any, rest: Any) -> Any:
    y = F.dropout(x * w, 0.3) + rest
    return F.layer_norm(y, y.shape[-1:])


def eager_block(x: Any, w: Any, rest: Any, mask: Any) -> Any:
    kept = paddle.to_tensor(mask.astype("float32"))
    y = x * w * kept / float(np.float32(1) - np.float32(0.3)) + rest
    return F.layer_norm(y, y.shape[-1:])


def dropped(p: float, mode: str = "upscale_in_train") -> Any:
    def f(x: Any) -> Any:
        return F.dropout(x, p, mode=mode)

    return f


def twice(x: Any) -> Any:
    y = F.dropout(x, 0.5)
    return y, F.dropout(x, 0.5)
