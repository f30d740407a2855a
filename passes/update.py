"""Train step: a graph and how its parameters are trained -> the graph of a whole step.

The gradients of the first output, the loss, are clipped, decayed and given to each
parameter's rule (Paddle's formulas); parameters and states become writes. Each op is
put as early as what it reads allows, so that a gradient need not be kept for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from pirol.compiler.autodiff import joint
from pirol.compiler.errors import Unsupported, message
from pirol.compiler.ir import INEXACT, Graph, Op, Value, rename
from pirol.prim import Builder, Facts


@dataclass(frozen=True)
class SGD:
    """p - lr g; no state."""

    states = ()

    def updated(
        self, b: Builder, p: Value, g: Value, lr: Value, states: Sequence[Value]
    ) -> list[Value]:
        """The new parameter."""
        return [b.sub(p, b.mul(lr, g))]


@dataclass(frozen=True)
class Momentum:
    """v = mu v + g; p - lr v, or by Nesterov p - lr (g + mu v); state: v."""

    mu: float
    nesterov: bool
    states = ("velocity",)

    def updated(
        self, b: Builder, p: Value, g: Value, lr: Value, states: Sequence[Value]
    ) -> list[Value]:
        """The new parameter and velocity."""
        v = b.add(b.mul(states[0], self.mu), g)
        step = b.add(g, b.mul(v, self.mu)) if self.nesterov else v
        return [b.sub(p, b.mul(step, lr)), v]


@dataclass(frozen=True)
class Adam:
    """Adam as Paddle's kernel has it: epsilon is scaled by the second bias correction.

    decay: AdamW's, of the parameter itself, times the learning rate. States: both
    moments, with amsgrad the largest second one, and the powers of beta1 and beta2,
    each of shape [1], that this step divides by.
    """

    beta1: float
    beta2: float
    epsilon: float
    decay: float = 0.0
    amsgrad: bool = False

    @property
    def states(self) -> tuple[str, ...]:
        """Paddle's names of the accumulators."""
        largest = ("moment2_max",) if self.amsgrad else ()
        return ("moment1", "moment2", *largest, "beta1_pow_acc", "beta2_pow_acc")

    def updated(
        self, b: Builder, p: Value, g: Value, lr: Value, states: Sequence[Value]
    ) -> list[Value]:
        """The new parameter and states."""
        m, v, *largest, power1, power2 = states
        m = b.add(b.mul(m, self.beta1), b.mul(g, _rest(self.beta1, g)))
        square = b.mul(b.mul(g, _rest(self.beta2, g)), g)
        v = b.add(b.mul(v, self.beta2), square)
        largest = [b.max(v, before) for before in largest]
        one1, one2 = (b.reshape(x, shape=()) for x in (power1, power2))
        root = b.sqrt(b.sub(1.0, one2))
        rate = b.mul(lr, b.div(root, b.sub(1.0, one1)))
        below = b.add(b.sqrt((largest or [v])[0]), b.mul(root, self.epsilon))
        if self.decay:
            p = b.sub(p, b.mul(b.mul(lr, self.decay), p))
        p = b.sub(p, b.mul(rate, b.div(m, below)))
        powers = b.mul(power1, self.beta1), b.mul(power2, self.beta2)
        return [p, m, v, *largest, *powers]


Rule: TypeAlias = SGD | Momentum | Adam


@dataclass(frozen=True)
class ByValue:
    """Each element within [low, high]."""

    low: float
    high: float

    def clipped(self, b: Builder, grads: Sequence[Value]) -> list[Value]:
        """The gradients within bounds."""
        return [b.min(b.max(g, self.low), self.high) for g in grads]


@dataclass(frozen=True)
class ByNorm:
    """Each gradient's own L2 norm at most `norm`."""

    norm: float

    def clipped(self, b: Builder, grads: Sequence[Value]) -> list[Value]:
        """The gradients, scaled where their norms are larger."""
        found = []
        for g in grads:
            size = b.sqrt(_squares(b, g))
            scale = b.select(b.gt(size, self.norm), b.div(self.norm, size), 1.0)
            found.append(b.mul(g, scale))
        return found


@dataclass(frozen=True)
class ByGlobalNorm:
    """The L2 norm of all gradients together at most `norm`; skipping: by a comparison,
    which a norm of NaN does not pass."""

    norm: float
    skipping: bool = False

    def clipped(self, b: Builder, grads: Sequence[Value]) -> list[Value]:
        """The gradients, all scaled by one number."""
        wide = "float64" if any(g.dtype == "float64" for g in grads) else "float32"
        total = _as(b, _squares(b, grads[0]), wide)
        for g in grads[1:]:
            total = b.add(total, _as(b, _squares(b, g), wide))
        size = b.sqrt(total)
        scale = b.div(self.norm, b.max(size, self.norm))
        if self.skipping:
            scale = b.select(b.gt(size, self.norm), scale, 1.0)
        return [b.mul(g, _as(b, scale, g.dtype)) for g in grads]


Clip: TypeAlias = ByValue | ByNorm | ByGlobalNorm


@dataclass(frozen=True)
class Update:
    """How one parameter is trained.

    parameter, states: numbers of the graph's inputs; rate: a factor of the learning
    rate; l1, l2: what is added to the clipped gradient, times the parameter's sign and
    the parameter; clip: together with the others of the `group`, or None.
    """

    parameter: int
    states: tuple[int, ...]
    rule: Rule
    rate: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    clip: Clip | None = None
    group: int = 0


def train_step(graph: Graph, updates: Sequence[Update], lr: int) -> Graph:
    """The graph, whose input `lr` is the learning rate, with all updates as writes.

    Raises Unsupported as joint does, and where the loss is no float.
    """
    loss = graph.outputs[0].type
    if loss.dtype not in INEXACT:
        raise Unsupported(message("the loss", got=str(loss), expected="a float"))
    both = joint(graph, [u.parameter for u in updates], given=(0,), unused=True).graph
    (ct,) = both.inputs[len(graph.inputs) :]
    b = Builder(Facts(guards=list(both.guards)))
    seed = b.const(value=1.0, shape=loss.shape, dtype=loss.dtype)
    whole = rename(both, {ct: seed})
    inputs = whole.inputs[: len(graph.inputs)]
    for op in whole.ops:
        b.add_op(op)
    count = len(b.ops)
    grads = _clipped(b, updates, whole.outputs[len(graph.outputs) :])
    writes = list(whole.writes)
    for update, grad in zip(updates, grads):
        new = _updated(b, update, grad, inputs, lr)
        writes += zip((update.parameter, *update.states), new)
    ops = _early(b.ops[:count], b.ops[count:])
    outputs = whole.outputs[: len(graph.outputs)]
    made = replace(graph, inputs=inputs, ops=ops, outputs=outputs)
    return replace(made, writes=tuple(writes))


def _clipped(
    b: Builder, updates: Sequence[Update], grads: Sequence[Value]
) -> list[Value]:
    """The gradients, each group's clipped together."""
    found = list(grads)
    groups: dict[tuple[int, Clip], list[int]] = {}
    for k, update in enumerate(updates):
        if update.clip is not None:
            groups.setdefault((update.group, update.clip), []).append(k)
    for (_, clip), places in groups.items():
        for k, grad in zip(places, clip.clipped(b, [grads[k] for k in places])):
            found[k] = grad
    return found


def _updated(
    b: Builder, update: Update, g: Value, inputs: Sequence[Value], lr: int
) -> list[Value]:
    """The new parameter and states."""
    p = inputs[update.parameter]
    rate = inputs[lr] if update.rate == 1.0 else b.mul(inputs[lr], update.rate)
    if update.l1:
        g = b.add(g, b.mul(_sign(b, p), update.l1))
    if update.l2:
        g = b.add(g, b.mul(p, update.l2))
    states = [inputs[k] for k in update.states]
    return update.rule.updated(b, p, g, _as(b, rate, p.dtype), states)


def _early(ops: Sequence[Op], more: Sequence[Op]) -> tuple[Op, ...]:
    """Ops in order, and more, each of these right behind what it reads."""
    places = {r: k + 1 for k, op in enumerate(ops) for r in op.results}
    entries = [((k, 1), op) for k, op in enumerate(ops)]
    for op in more:
        place = max((places.get(v, 0) for v in op.operands), default=0)
        places.update(dict.fromkeys(op.results, place))
        entries.append(((place, 0), op))
    return tuple(op for _, op in sorted(entries, key=lambda entry: entry[0]))


def _squares(b: Builder, g: Value) -> Value:
    """The sum of all squares, of no axes."""
    axes = tuple(range(g.type.rank))
    return b.one("reduce_sum", b.mul(g, g), axes=axes)


def _sign(b: Builder, x: Value) -> Value:
    """-1, 0, 1, or NaN of NaN."""
    found: Value = b.select(b.gt(x, 0.0), 1.0, b.select(b.lt(x, 0.0), -1.0, x))
    return found


def _as(b: Builder, x: Value, dtype: str) -> Value:
    return x if x.dtype == dtype else b.one("cast", x, dtype=dtype)


def _rest(beta: float, like: Value) -> float:
    """1 - beta, rounded as in the dtype itself."""
    kind = np.float32 if like.dtype == "float32" else np.float64
    return float(kind(1) - kind(beta))
