"""Train step: a graph and how its parameters are trained -> the graph of a whole step.

The gradients of the first output, the loss, are clipped, decayed and given to each
parameter's rule (Paddle's formulas); parameters and states become writes. Each op is
put as early as what it reads allows, so that a gradient need not be kept for long.

Numbers of optimizers are inputs, so that another one needs no compile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeAlias, TypeVar

from pirol.compiler.autodiff import joint
from pirol.compiler.errors import Unsupported, message
from pirol.compiler.ir import INEXACT, Graph, Op, Value, rename
from pirol.prim import Builder, Facts


@dataclass(frozen=True)
class Number:
    """One of the numbers that a step is given; while it is made, their Values."""

    at: int


Num: TypeAlias = float | Number | Value
Part = TypeVar("Part", "Update", "Rule", "Clip")


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

    mu: Num
    nesterov: bool
    states = ("velocity",)

    def updated(
        self, b: Builder, p: Value, g: Value, lr: Value, states: Sequence[Value]
    ) -> list[Value]:
        """The new parameter and velocity."""
        mu = _like(b, self.mu, p)
        v = b.add(b.mul(states[0], mu), g)
        step = b.add(g, b.mul(v, mu)) if self.nesterov else v
        return [b.sub(p, b.mul(step, lr)), v]


@dataclass(frozen=True)
class Adam:
    """Adam as Paddle's kernel has it: epsilon is scaled by the second bias correction.

    decay: AdamW's, of the parameter itself, times the learning rate. States: both
    moments, with amsgrad the largest second one, and the powers of beta1 and beta2,
    each of shape [1], that this step divides by.
    """

    beta1: Num
    beta2: Num
    epsilon: Num
    decay: Num = 0.0
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
        beta1, beta2 = (_like(b, x, p) for x in (self.beta1, self.beta2))
        m = b.add(b.mul(m, beta1), b.mul(g, b.sub(1.0, beta1)))
        square = b.mul(b.mul(g, b.sub(1.0, beta2)), g)
        v = b.add(b.mul(v, beta2), square)
        largest = [b.max(v, before) for before in largest]
        one1, one2 = (b.reshape(x, shape=()) for x in (power1, power2))
        root = b.sqrt(b.sub(1.0, one2))
        rate = b.mul(lr, b.div(root, b.sub(1.0, one1)))
        epsilon = _like(b, self.epsilon, root)
        below = b.add(b.sqrt((largest or [v])[0]), b.mul(root, epsilon))
        if self.decay != 0.0:
            p = b.sub(p, b.mul(b.mul(lr, _like(b, self.decay, p)), p))
        p = b.sub(p, b.mul(rate, b.div(m, below)))
        powers = [
            b.mul(power1, _like(b, self.beta1, power1)),
            b.mul(power2, _like(b, self.beta2, power2)),
        ]
        return [p, m, v, *largest, *powers]


Rule: TypeAlias = SGD | Momentum | Adam


@dataclass(frozen=True)
class ByValue:
    """Each element within [low, high]."""

    low: Num
    high: Num

    def clipped(self, b: Builder, grads: Sequence[Value]) -> list[Value]:
        """The gradients within bounds."""
        found = []
        for g in grads:
            low, high = (_like(b, x, g) for x in (self.low, self.high))
            found.append(b.min(b.max(g, low), high))
        return found


@dataclass(frozen=True)
class ByNorm:
    """Each gradient's own L2 norm at most `norm`."""

    norm: Num

    def clipped(self, b: Builder, grads: Sequence[Value]) -> list[Value]:
        """The gradients, scaled where their norms are larger."""
        found = []
        for g in grads:
            size, norm = b.sqrt(_squares(b, g)), _like(b, self.norm, g)
            scale = b.select(b.gt(size, norm), b.div(norm, size), 1.0)
            found.append(b.mul(g, scale))
        return found


@dataclass(frozen=True)
class ByGlobalNorm:
    """The L2 norm of all gradients together at most `norm`; skipping: by a comparison,
    which a norm of NaN does not pass."""

    norm: Num
    skipping: bool = False

    def clipped(self, b: Builder, grads: Sequence[Value]) -> list[Value]:
        """The gradients, all scaled by one number."""
        wide = "float64" if any(g.dtype == "float64" for g in grads) else "float32"
        total = _as(b, _squares(b, grads[0]), wide)
        for g in grads[1:]:
            total = b.add(total, _as(b, _squares(b, g), wide))
        size = b.sqrt(total)
        norm = _like(b, self.norm, size)
        scale = b.div(norm, b.max(size, norm))
        if self.skipping:
            scale = b.select(b.gt(size, norm), scale, 1.0)
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
    rate: Num = 1.0
    l1: Num = 0.0
    l2: Num = 0.0
    clip: Clip | None = None
    group: int = 0


def train_step(
    graph: Graph, updates: Sequence[Update], lr: int, numbers: Sequence[int]
) -> Graph:
    """The graph, whose input `lr` is the learning rate and `numbers` the updates'
    Numbers, with all updates as writes.

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
    given = [inputs[k] for k in numbers]
    grads = _clipped(b, updates, given, whole.outputs[len(graph.outputs) :])
    writes = list(whole.writes)
    for update, grad in zip(updates, grads):
        update = replace(_given(update, given), rule=_given(update.rule, given))
        new = _updated(b, update, grad, inputs, lr)
        writes += zip((update.parameter, *update.states), new)
    ops = _early(b.ops[:count], b.ops[count:])
    outputs = whole.outputs[: len(graph.outputs)]
    made = replace(graph, inputs=inputs, ops=ops, outputs=outputs)
    return replace(made, writes=tuple(writes))


def _given(part: Part, given: Sequence[Value]) -> Part:
    """An update, rule or clip, with values in the place of its Numbers."""
    own = {f.name: getattr(part, f.name) for f in fields(part)}
    found = {k: given[n.at] for k, n in own.items() if isinstance(n, Number)}
    return replace(part, **found)  # type: ignore[arg-type]


def _like(b: Builder, number: Num, x: Value) -> Value:
    """A number as one of x's dtype."""
    if isinstance(number, Value):
        return _as(b, number, x.dtype)
    made: Value = b.const(value=number, shape=(), dtype=x.dtype)
    return made


def _clipped(
    b: Builder,
    updates: Sequence[Update],
    given: Sequence[Value],
    grads: Sequence[Value],
) -> list[Value]:
    """The gradients, each group's clipped together."""
    found = list(grads)
    groups: dict[tuple[int, Clip], list[int]] = {}
    for k, update in enumerate(updates):
        if update.clip is not None:
            groups.setdefault((update.group, update.clip), []).append(k)
    for (_, clip), places in groups.items():
        together = _given(clip, given).clipped(b, [grads[k] for k in places])
        for k, grad in zip(places, together):
            found[k] = grad
    return found


def _updated(
    b: Builder, update: Update, g: Value, inputs: Sequence[Value], lr: int
) -> list[Value]:
    """The new parameter and states."""
    p = inputs[update.parameter]
    rate = inputs[lr]
    if update.rate != 1.0:
        rate = b.mul(rate, _like(b, update.rate, rate))
    if update.l1 != 0.0:
        g = b.add(g, b.mul(_sign(b, p), _like(b, update.l1, p)))
    if update.l2 != 0.0:
        g = b.add(g, b.mul(p, _like(b, update.l2, p)))
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
