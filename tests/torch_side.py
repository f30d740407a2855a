"""PyTorch's results for test_against_torch.py, in a process without Paddle.

    python torch_side.py FOLDER

FOLDER has cases.json, a list of {"call", "inputs", "gradients"}: an expression of x0,
x1, .. (arrays K_x0.npy, ..), and which of these have gradients of the loss, the real
part of sum(w * y ** 2) with K_w.npy. Written are K_y.npy; K_mask.npy, where the call
has two results; and, where PyTorch has them, K_g0.npy, ..; and K_h0.npy, .., of the
sum of the gradients' squared moduli.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def answer(folder: Path, k: int, case: dict[str, Any]) -> None:
    """Write one case's results."""
    arrays = [np.load(folder / f"{k}_x{j}.npy") for j in range(case["inputs"])]
    xs = [torch.from_numpy(a) for a in arrays]
    names = {f"x{j}": x for j, x in enumerate(xs)} | {"F": F, "torch": torch}
    with torch.no_grad():
        y = eval(case["call"], names)
    found = dict(zip(("y", "mask"), y if isinstance(y, tuple) else (y,)))
    chosen = [xs[j].requires_grad_() for j in case["gradients"]]
    with contextlib.suppress(RuntimeError):
        y = eval(case["call"], names) if chosen else y
        w = torch.from_numpy(np.load(folder / f"{k}_w.npy"))
        first = gradients(w * (y[0] if isinstance(y, tuple) else y) ** 2, chosen)
        found |= {f"g{j}": g for j, g in enumerate(first)}
        squares = sum((g * g.conj()).sum() for g in first)
        found |= {f"h{j}": h for j, h in enumerate(gradients(squares, chosen))}
    for name, value in found.items():
        np.save(folder / f"{k}_{name}.npy", value.detach().resolve_conj().numpy())


def gradients(y: Any, xs: list[Any]) -> Any:
    """Of the sum of what is real in it; of nothing none."""
    if not xs:
        return []
    loss = y.real.sum() if y.is_complex() else y.sum()
    return torch.autograd.grad(loss, xs, create_graph=True, materialize_grads=True)


def main() -> None:
    """Answer all cases of the folder."""
    folder = Path(sys.argv[1])
    for k, case in enumerate(json.loads((folder / "cases.json").read_text())):
        answer(folder, k, case)


if __name__ == "__main__":
    main()
