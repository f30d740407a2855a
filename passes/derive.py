"""Derive: what Paddle's gradient ops compute, from the decompositions of forward ops.

`foo_grad` is the vector-Jacobian product of foo, `foo_double_grad` that of foo_grad,
and so on. Which operand is what, names tell: in `multiply_double_grad(x, y, grad_out,
grad_x_grad, grad_y_grad) -> x_grad, y_grad, grad_out_grad` the operand grad_x_grad is
the cotangent of what multiply_grad gave for x. A Key is a name in two parts: of what,
and how many times `grad`; the gradient of (name, n) is (name, n + 1).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

from pirol.compiler.autodiff import conjugate, pullback
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import Op, TensorType, Value
from pirol.prim import Builder
from pirol.prim.decomp import DECOMPOSITIONS, Decomposition
from pirol.prim.decomp.gradients import GRADIENTS

Key = tuple[str, int]
NAME = re.compile(r"(pd_op\..+?)_(double_|triple_|grad_)?grad_?")
ORDERS = {None: 1, "double_": 2, "grad_": 2, "triple_": 3}
# Operands that have a result's type, where a gradient op says nothing of them.
LIKE = {("pd_op.set_value_with_tensor", "x"): ("out", 1)}
FILLED = ("forward", "fwd", "new")  # parts of a name that say nothing
# What forward ops take where their gradient ops do not say it.
DEFAULTS: dict[str, Any] = {
    **{"padding_value": 0.0, "decimals": 0, "dtype": "undefined"},
    "output_size": (),  # of transposed conv2d an operand, of conv3d an attribute
}


def derived(op: Op) -> Decomposition | None:
    """A gradient op's decomposition; None for other ops, and where foo has none."""
    match = NAME.fullmatch(op.name)
    if match is None or "names" not in op.attrs:
        return None
    name, order = match[1], ORDERS[match[2]]
    forward = _forward(name)
    if forward is None and (name, 1) not in GRADIENTS:
        return None
    run = functools.partial(_run, op, name, order)
    keywords = frozenset(op.attrs)
    half = forward.compute_in if forward else None
    return Decomposition(op.name, run, op.attrs["names"], keywords, True, half)


def key(name: str) -> Key:
    """Of what a name tells, and how many times `grad`."""
    parts = [part for part in name.split("_") if part not in FILLED]
    return "_".join(p for p in parts if p != "grad"), parts.count("grad")


def _forward(name: str) -> Decomposition | None:
    """The decomposition of foo, which may only be known as written in place."""
    return DECOMPOSITIONS.get(name) or DECOMPOSITIONS.get(f"{name}_")


def _run(
    op: Op, name: str, order: int, b: Builder, *operands: Any, **attrs: Any
) -> tuple[Value | None, ...]:
    given: dict[Key, Any] = {}
    again: dict[Key, Any] = {}
    for at, value in zip(map(key, op.attrs["names"]), operands):
        (again if at in given else given)[at] = value
    wanted = [key(n) for n in op.attrs["results"]]
    lone = len(wanted) == len(op.results)  # else one is a list
    kinds: list[Any] = [r.type for r in op.results] if lone else [None] * len(wanted)
    types = dict(zip(wanted, kinds))
    chain = _Chain(b, name, order, {**DEFAULTS, **attrs}, given, again, types)
    found = chain.gradients(order)
    results = [v for k in wanted for v in _each(found.get(k))]
    chain.check(v for v in results if v is not None)
    return tuple(results)


class _Chain:
    """foo, its gradient, the gradient of that .. in one builder."""

    def __init__(
        self,
        b: Builder,
        name: str,
        order: int,
        attrs: dict[str, Any],
        given: dict[Key, Any],
        again: dict[Key, Any],
        types: dict[Key, TensorType | None],
    ) -> None:
        self.b, self.name, self.order, self.attrs = b, name, order, attrs
        self.given, self.again, self.types = given, again, types
        self.used: dict[Key, Any] = {}
        self.missing: dict[Value, str] = {}

    def gradients(self, order: int) -> dict[Key, Any]:
        """What the op of this order gives: of each float operand of the one below."""
        own, before = GRADIENTS.get((self.name, order)), dict(self.used)
        if own is not None:
            try:
                return dict(zip(map(key, own.results), self.by_rule(own.rule, order)))
            except Unsupported:  # by the rule; the forward op's may do
                if _forward(self.name) is None:
                    raise
                self.used = before
        mark = len(self.b.ops)
        below = self.forward() if order == 1 else self.gradients(order - 1)
        inputs = dict(self.used)
        again = [(of, n + 1) for of, n in below]
        names = again if order > 1 else self.results()
        # A name that stands for an operand already is, by its second place, this.
        cts = [self.again.get(k) if k in inputs else self.operand(k) for k in names]
        pairs = [
            (output, ct)
            for part, given in zip(below.values(), cts)
            for output, ct in zip(_each(part), _each(given))
            if output is not None and ct is not None
        ]
        wanted = [v for part in inputs.values() for v in _each(part) if _is(v)]
        grads = dict(zip(wanted, pullback(self.b, self.b.ops[mark:], pairs, wanted)))
        return {
            (of, n + 1): [grads[v] for v in part]
            if isinstance(part, list)
            else grads.get(part)
            for (of, n), part in inputs.items()
        }

    def by_rule(self, rule: Decomposition, order: int) -> list[Any]:
        """What an own rule gives; of complex numbers between conjugates, as a
        primitive's (compiler/autodiff.py)."""
        names = [key(n) for n in rule.operands]
        operands = [self.operand(name) for name in names]
        if not any(_is(v) and v.is_complex for part in operands for v in _each(part)):
            return list(rule(self.b, operands, self.attrs))
        if order > 1:
            raise Unsupported("its rule is for real numbers")
        pairs = zip(operands, names)
        turned = [conjugate(self.b, part) if n else part for part, (_, n) in pairs]
        return [conjugate(self.b, v) for v in rule(self.b, turned, self.attrs)]

    def forward(self) -> dict[Key, Any]:
        """The results of foo, by no names; where a lone one is a vector, as a list."""
        rule = _forward(self.name)
        if rule is None:
            raise Unsupported(f"Pirol has no decomposition of {self.name}")
        lacking = rule.keywords - self.attrs.keys()
        if lacking:
            raise Unsupported(f"it does not tell {', '.join(sorted(lacking))}")
        operands = [self.operand((name, 0)) for name in rule.operands]
        results = rule(self.b, operands, self.attrs)
        lists = [v for k, v in self.given.items() if k[1] == 1 and isinstance(v, list)]
        if lists:
            return {("", 0): list(results)}
        return {(str(k), 0): v for k, v in enumerate(results)}

    def results(self) -> list[Key]:
        """The cotangent of what foo gave first, which any order names in some way."""
        named = dict.fromkeys(of for of, n in (*self.given, *self.types) if n)
        found = [(of, 1) for of in named if (of, 0) not in self.used]
        if len(found) > 1:
            raise Unsupported("several results of the forward op have gradients")
        return found

    def operand(self, at: Key) -> Any:
        """What is given for a Key; else a value that nothing may need but its type."""
        if at not in self.used:
            self.used[at] = self.found(at)
        return self.used[at]

    def found(self, at: Key) -> Any:
        for same in (at, (f"{at[0]}_out", at[1]), (f"out_{at[0]}", at[1])):
            if same in self.given:
                return self.given[same]
        alike = [v.type for k, v in self.given.items() if k[0] == at[0] and _is(v)]
        alike += [t for k, t in self.types.items() if k[0] == at[0] and t]
        result: Any = self.given.get(LIKE.get((self.name, at[0]), at))
        alike += [result.type] if _is(result) else []
        if not alike or at[1] == self.order:  # an optional operand, or zeros
            return None
        value = Value(alike[0])
        self.missing[value] = at[0]
        return value

    def check(self, results: Iterable[Value]) -> None:
        """Raise where results need what was not given."""
        stack, seen = list(results), set[Value]()
        while stack:
            value = stack.pop()
            if value in self.missing:
                raise Unsupported(f"it does not tell {self.missing[value]}")
            if value not in seen and value in self.b.producers:
                stack += self.b.producers[value].operands
            seen.add(value)


def _is(value: Any) -> bool:
    return isinstance(value, Value)


def _each(part: Any) -> list[Any]:
    return part if isinstance(part, list) else [part]
