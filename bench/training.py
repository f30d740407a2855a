"""Training steps: forward, loss, backward; Pirol against eager Paddle and to_static.

    python -m pirol bench training --python /path/to/python/with/torch

Each step's loss and all gradients are held against eager's before anything is timed;
so are those of eager PyTorch, where an interpreter is named that has it.
Then whole steps, with clip and AdamW: pirol.train_step against Paddle's optimizer
behind a compiled model, and behind eager; what they change is held against eager's.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.base import core

import pirol
from pirol.bench.demo import medians, medians_told, seconds
from pirol.bench.graphnet import relative_l2
from pirol.bench.peers import Worker, environment
from pirol.compiler.process import threads

KEPT = 0.7  # of the bytes that Paddle keeps for backward, at most, in the encoder
TOLERANCE = 1e-3  # relative L2 of all gradients; eager itself is up to 1e-4 off float64
TORCH_TOLERANCE = 1e-2  # of PyTorch's, whose sums of a ResNet are in another order
STEP_TOLERANCE = 2e-2  # of AdamW's first step, by signs: tiny gradients decide some
Loss = Callable[..., Any]  # of a Layer or what is compiled of it, and a batch
Work = tuple[Any, Loss, tuple[Any, ...]]  # a Layer, its loss, a batch


class Encoder(nn.Layer):  # type: ignore[misc]
    """Words to classes: an embedding, transformer layers, a linear head."""

    def __init__(self, layers: int, width: int, words: int) -> None:
        super().__init__()
        one = nn.TransformerEncoderLayer(
            width, width // 64, 4 * width, dropout=0.0, activation="gelu"
        )
        self.embed = nn.Embedding(words, width)
        self.encode = nn.TransformerEncoder(one, layers)
        self.head = nn.Linear(width, words)

    def forward(self, words: Any) -> Any:
        """[batch, length] int64 -> [batch, length, words]."""
        return self.head(self.encode(self.embed(words)))


class Solution(nn.Layer):  # type: ignore[misc]
    """A network for u(x, t)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = [nn.Linear(2, width), nn.Tanh()]
        for _ in range(2):
            inner += [nn.Linear(width, width), nn.Tanh()]
        self.net = nn.Sequential(*inner, nn.Linear(width, 1))

    def forward(self, points: Any) -> Any:
        """[points, 2] -> [points, 1]."""
        return self.net(points)


def encoder(small: bool) -> Work:
    """Cross entropy of each word's class."""
    layers, width, batch = (1, 64, 2) if small else (4, 256, 8)
    layer = Encoder(layers, width, 1000)
    words, labels = (paddle.randint(0, 1000, [batch, 128]) for _ in range(2))

    def loss(model: Any, words: Any, labels: Any) -> Any:
        return F.cross_entropy(model(words).flatten(0, 1), labels.flatten())

    return layer, loss, (words, labels)


def resnet(small: bool) -> Work:
    """ResNet-18 on small images."""
    side = 32 if small else 112
    images, labels = paddle.randn([8, 3, side, side]), paddle.arange(8)
    layer = paddle.vision.models.resnet18()

    def loss(model: Any, images: Any, labels: Any) -> Any:
        return F.cross_entropy(model(images), labels)

    return layer, loss, (images, labels)


class Burgers(nn.Layer):  # type: ignore[misc]
    """The residual of Burgers' equation: second derivatives under the loss."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.solution = Solution(width)

    def forward(self, points: Any) -> Any:
        """[points, 2] -> the mean square."""
        return residual(self.solution(points), points)


def residual(u: Any, points: Any) -> Any:
    """Of u_t + u u_x = 0.01 u_xx, the mean square."""
    (first,) = paddle.grad(u.sum(), [points], create_graph=True)
    (second,) = paddle.grad(first[:, 0].sum(), [points], create_graph=True)
    rest = first[:, 1] + u[:, 0] * first[:, 0] - 0.01 * second[:, 0]
    return rest.square().mean()


def burgers_inside(small: bool) -> Work:
    """Burgers' equation, its derivatives taken inside what is compiled."""
    points = paddle.rand([200 if small else 2000, 2])
    points.stop_gradient = False
    return Burgers(20 if small else 50), lambda model, at: model(at), (points,)


def burgers(small: bool) -> Work:
    """Burgers' equation, its derivatives taken of a compiled network."""
    points = paddle.rand([200 if small else 2000, 2])
    points.stop_gradient = False

    def loss(model: Any, points: Any) -> Any:
        return residual(model(points), points)

    return Solution(20 if small else 50), loss, (points,)


WORKLOADS = {
    "encoder": encoder,
    "resnet18": resnet,
    "burgers": burgers,
    "inside": burgers_inside,
}
WHOLE = ("encoder", "resnet18", "inside")
SIDES = ("Pirol", "eager", "to_static", "torch")
TORCH = ("encoder", "resnet18")  # that training_torch.py has, too
WORKER = Path(__file__).with_name("training_torch.py")
STATIC = ("encoder", "resnet18")  # others have derivatives that to_static has not


@contextlib.contextmanager
def torch_worker(python: str | None) -> Iterator[Worker | None]:
    """The process of PyTorch's steps, if an interpreter is named."""
    if python is None:
        yield None
        return
    count = threads()
    # Isolated: this folder is no place of modules.
    command = [python, "-I", str(WORKER), str(count)]
    worker = Worker("torch", command, environment(count))
    print(f"torch: {worker.started['version']}")
    try:
        yield worker
    finally:
        worker.close()


def by_torch(worker: Worker, name: str, layer: Any, batch: Sequence[Any]) -> Any:
    """All gradients of a step of PyTorch's, one behind the other."""
    named = layer.named_parameters()
    arrays = {key: p.numpy() for key, p in named if not p.stop_gradient}
    given = {f"batch{k}": tensor.numpy() for k, tensor in enumerate(batch)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "step.npz"
        np.savez(file, **arrays, **given)
        answer = worker.ask(do="load", name=name, file=str(file))
        with np.load(answer["output"][0]) as found:
            return np.concatenate([found[key].ravel() for key in arrays])


def by_itself(worker: Worker) -> float:
    """Seconds of a step of PyTorch's, which waits for its threads to sleep then."""
    return float(worker.ask(do="step")["seconds"])


def step(layer: Any, model: Any, loss: Callable[[Any], Any], look: bool = False) -> Any:
    """One step; to look, all its gradients one behind the other."""
    loss(model).backward()
    found = None
    if look:
        grads = [p.grad for p in layer.parameters()]
        found = np.concatenate([g.numpy().ravel() for g in grads if g is not None])
    for p in layer.parameters():
        p.clear_gradient(set_to_zero=False)
    return found


def row(name: str, small: bool, rounds: int, torch: Worker | None = None) -> str:
    """A workload's times and ratios; an error where results differ."""
    paddle.seed(0)
    layer, of, batch = WORKLOADS[name](small)

    def loss(model: Any) -> Any:
        return of(model, *batch)

    copies = [copy.deepcopy(layer) for _ in range(2)]
    fast = pirol.to_static(layer)
    models = [fast, copies[0]]
    if name in STATIC:
        models.append(paddle.jit.to_static(copies[1], full_graph=True, backend=None))
    layers = [layer, *copies]
    first = seconds(lambda: step(layer, fast, loss))
    looks = [step(each, model, loss, True) for each, model in zip(layers, models)]
    far = relative_l2(looks[0], looks[1])
    if not far <= TOLERANCE:
        raise SystemExit(f"{name}: gradients are {far:.1e} from eager's")
    timers: list[Callable[[], float] | None] = [
        partial(seconds, partial(step, each, model, loss))
        for each, model in zip(layers, models)
    ]
    timers += [None] * (len(SIDES) - len(timers))
    if torch is not None and name in TORCH:
        found = by_torch(torch, name, layer, batch)
        if not relative_l2(found, looks[1]) <= TORCH_TOLERANCE:
            raise SystemExit(f"{name}: PyTorch's gradients are not eager's")
        timers[-1] = partial(by_itself, torch)
    ours, *others = medians_told(timers, rounds)
    return (
        f"{name:10}{first:9.2f}{far:11.1e}"
        + "".join(f"{_shown(t, 1):>14}" for t in (ours, *others))
        + "".join(f"{_shown(t and t / ours, 2):>13}" for t in others)
        + kept(name, fast)
    )


def _shown(number: float | None, digits: int) -> str:
    return "-" if number is None else f"{number:.{digits}f}"


def kept(name: str, fast: Any) -> str:
    """MB kept for backward, and the share of Paddle's (compiler/capture/kept.py)."""
    ours, paddles = pirol.explain(fast).kept or (0, None)
    share = ours / paddles if paddles else None
    if name == "encoder" and (share is None or share > KEPT):
        raise SystemExit(f"{name}: keeps {share} of Paddle's bytes, not {KEPT}")
    return f"{ours / 1e6:10.1f}{'-' if share is None else f'{share:.2f}':>8}"


class Whole(nn.Layer):  # type: ignore[misc]
    """A workload's loss as a layer."""

    def __init__(self, layer: Any, loss: Loss) -> None:
        super().__init__()
        self.layer, self.loss = layer, loss

    def forward(self, *batch: Any) -> Any:
        """The loss."""
        return self.loss(self.layer, *batch)


def adamw(layer: Any) -> Any:
    """The optimizer of whole steps."""
    clip = nn.ClipGradByGlobalNorm(1.0)
    return paddle.optimizer.AdamW(1e-3, parameters=layer.parameters(), grad_clip=clip)


def by_paddle(loss: Loss, model: Any, optimizer: Any, batch: Sequence[Any]) -> None:
    """One step with Paddle's optimizer."""
    loss(model, *batch).backward()
    optimizer.step()
    optimizer.clear_grad()


def change(layer: Any, before: Any) -> Any:
    """What became of all parameters, one behind the other."""
    now = np.concatenate([p.numpy().ravel() for p in layer.parameters()])
    return now if before is None else now - before


def whole_row(name: str, small: bool, rounds: int) -> str:
    """A workload's times of whole steps; an error where parameters differ."""
    paddle.seed(0)
    layer, loss, batch = WORKLOADS[name](small)
    layers = [layer, *(copy.deepcopy(layer) for _ in range(2))]
    ours, *others = map(adamw, layers)
    before = change(layer, None)
    models = [pirol.to_static(layers[1]), layers[2]]
    runs = [partial(pirol.train_step(Whole(layer, loss), None, ours), *batch)]
    runs += [partial(by_paddle, loss, *two, batch) for two in zip(models, others)]
    first = seconds(runs[0])
    for run in runs[1:]:
        run()
    far = relative_l2(*(change(layers[k], before) for k in (0, 2)))
    if not far <= STEP_TOLERANCE:
        raise SystemExit(f"{name}: parameters are {far:.1e} from eager's")
    step, apart, eager = medians(runs, rounds)
    return (
        f"{name:10}{first:9.2f}{far:11.1e}{step:11.1f}{apart:15.1f}{eager:10.1f}"
        f"{apart / step:15.2f}{eager / step:10.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Time, and print milliseconds a step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=9, help="turns of each (%(default)s)")
    add("--small", action="store_true", help="small models, for a try")
    add("--python", help="interpreter that has PyTorch (without: no torch)")
    chosen = parser.parse_args(arguments)
    core.set_num_threads(threads())
    head = "".join(f"{f'{side} ms':>14}" for side in SIDES)
    head += "".join(f"{side:>13}" for side in SIDES[1:])
    with torch_worker(chosen.python) as torch:
        print(f"workload  first s    rel. L2{head}   kept MB   share")
        for name in WORKLOADS:
            print(row(name, chosen.small, chosen.rounds, torch), flush=True)
    print(
        "\nwhole step first s    rel. L2   Pirol ms  optimizer apart  eager ms", end=""
    )
    print("  optimizer apart     eager")
    for name in WHOLE:
        print(whole_row(name, chosen.small, chosen.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
