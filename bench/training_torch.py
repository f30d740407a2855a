"""Eager PyTorch's steps of two models of training.py, in a process of its own.

Run as a file (`python -I training_torch.py THREADS`) by an interpreter that need not
have Pirol; requests and answers are lines of JSON:

    {"do": "load", "name", "file"}  -> {"output": [file]}
    {"do": "step"}                  -> {"seconds"}

The file has Paddle's parameters by name and the batch (`batch0`, ..); the answer's has
their gradients, by the same names.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

Step = Callable[[], Any]
Of = Callable[[Any], Any]  # a parameter -> its values, or its gradient


class Encoder(nn.Module):  # type: ignore[misc]
    """Words to classes, as training.py has it."""

    def __init__(self, layers: int, width: int, words: int) -> None:
        super().__init__()
        one = nn.TransformerEncoderLayer(
            *(width, width // 64, 4 * width, 0.0, "gelu"), batch_first=True
        )
        self.embed = nn.Embedding(words, width)
        self.encode = nn.TransformerEncoder(one, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, words)

    def forward(self, words: Any) -> Any:
        """[batch, length] int64 -> [batch, length, words]."""
        return self.head(self.encode(self.embed(words)))


class Block(nn.Module):  # type: ignore[misc]
    """Two convolutions beside a way past them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None
        if stride > 1:
            past = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(past, nn.BatchNorm2d(after))

    def forward(self, x: Any) -> Any:
        """[n, before, h, w] -> [n, after, h / stride, w / stride]."""
        past = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + past)


class ResNet18(nn.Module):  # type: ignore[misc]
    """As Paddle's, with its names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for k, after in enumerate((64, 128, 256, 512), 1):
            blocks = Block(before, after, 1 + (k > 1)), Block(after, after, 1)
            setattr(self, f"layer{k}", nn.Sequential(*blocks))
            before = after
        self.fc = nn.Linear(512, 1000)

    def forward(self, x: Any) -> Any:
        """[n, 3, h, w] -> [n, 1000]."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for k in range(1, 5):
            x = getattr(self, f"layer{k}")(x)
        return self.fc(x.mean((2, 3)))


def part(model: nn.Module, name: str, of: Of) -> Any:
    """What `of` gives for a parameter of Paddle's name, in Paddle's layout: matrices of
    linear layers are [in, out], and an attention's three are apart."""
    for number, letter in enumerate("qkv"):
        if f"self_attn.{letter}_proj." in name:
            own = name.replace(f"{letter}_proj.", "in_proj_")
            found = of(model.get_parameter(own)).chunk(3)[number]
            return found.T if found.ndim > 1 else found
    found = of(model.get_parameter(name))
    return found.T if found.ndim == 2 and name != "embed.weight" else found


def loaded(name: str, arrays: Mapping[str, Any]) -> tuple[nn.Module, Step]:
    """A model with these parameters, and its step; gradients are left in it."""
    words, width = arrays["embed.weight"].shape if name == "encoder" else (0, 0)
    count = sum(key.endswith("linear1.bias") for key in arrays)
    model = Encoder(count, width, words) if name == "encoder" else ResNet18()
    given, labels = (torch.from_numpy(arrays[f"batch{k}"]) for k in range(2))
    with torch.no_grad():
        for key in names(arrays):
            array = torch.from_numpy(arrays[key])
            part(model, key, lambda p: p.data).copy_(array)

    def step() -> None:
        model.zero_grad()
        found = model(given)
        F.cross_entropy(found.flatten(0, -2), labels.flatten()).backward()

    return model, step


def names(arrays: Mapping[str, Any]) -> list[str]:
    """Those of parameters."""
    return [key for key in arrays if not key.startswith("batch")]


def main() -> None:
    """Answer requests until there are no more."""
    torch.set_num_threads(int(sys.argv[1]))
    worker = runpy.run_path(str(Path(__file__).with_name("worker.py")))
    print(json.dumps({"version": torch.__version__}), flush=True)
    step: Step | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            if request["do"] == "load":
                arrays = np.load(request["file"])
                model, step = loaded(request["name"], arrays)
                step()
                file = str(Path(request["file"]).with_suffix(".gradients.npz"))
                grads = {
                    key: part(model, key, lambda p: p.grad).numpy()
                    for key in names(arrays)
                }
                np.savez(file, **grads)
                answer = {"output": [file]}
            else:
                assert step is not None, "a step before any load"
                start = time.perf_counter()
                step()
                answer = {"seconds": time.perf_counter() - start}
                worker["wait_until_quiet"]()
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
