"""Peeling: lanes under conditions on their own number, cut where these change.

What pads, joins, shifts or masks along the lanes asks at each of them which part it is
in. As one loop for each part nothing is left to ask, and most parts only copy. Lanes
that a vector or two holds stay together. What is asked of all lanes alike, as where
tensors are joined along another axis, is asked before the loop, of which there is one
for each answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cmp_to_key

from pirol.compiler import dims
from pirol.kernels import affine
from pirol.kernels.affine import Affine, axis, constant
from pirol.kernels.emit import span_of
from pirol.kernels.kernel import (
    Apply,
    Expr,
    Guarded,
    If,
    Kernel,
    Let,
    Loop,
    Num,
    Offset,
    Put,
    Ref,
    Stmt,
    names_read,
    parts_of,
)
from pirol.prim import PRIMS

SHORT = 32  # lanes that stay together
LONG = 1024  # that are cut at another place in each row: parts do not fill vectors
MOST = 16  # places where conditions change
# Of a condition on lane + c: where it changes, from the lane where the sum is 0, and
# whether it holds from there on. Of one on c - lane it is the other's.
CHANGES = {"lt": (0, False), "ge": (0, True), "le": (1, False), "gt": (1, True)}
OTHER = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def peeled(kernel: Kernel) -> Kernel:
    """The kernel with its lanes' loops cut where conditions on the lane change."""
    return replace(kernel, body=tuple(_Peel().statements(kernel.body, {})))


@dataclass(frozen=True)
class _Change:
    """A condition on the lane: it holds from a place on, or else before it."""

    place: Affine
    after: bool


@dataclass
class _Peel:
    made: int = 0  # cuts
    asked: dict[str, tuple[Affine, str]] = field(default_factory=dict)

    def statements(
        self, body: Iterable[Stmt], known: Mapping[str, Affine]
    ) -> list[Stmt]:
        """Statements; `known`: what variables are as indices."""
        known, found = dict(known), list[Stmt]()
        asked = dict(self.asked)
        for stmt in body:
            _learn(stmt, known)
            self.asked |= _asked([stmt], known)
            if isinstance(stmt, Loop) and stmt.kind == "lanes":
                loops = self.lanes(stmt, known)
                found += self.branches(stmt, known) if loops == [stmt] else loops
            elif isinstance(stmt, (Loop, If)):
                inner = tuple(self.statements(stmt.body, known))
                found.append(replace(stmt, body=inner))
            else:
                found.append(stmt)
        self.asked = asked
        return found

    def lanes(self, loop: Loop, known: Mapping[str, Affine]) -> list[Stmt]:
        """A loop for each part, or the loop as it is."""
        span = span_of(loop)
        short = loop.limit is None and span is not None and span <= SHORT
        if short or loop.combine or not all(map(_is_simple, loop.body)):
            return [loop]
        changes = _changes(loop, dict(known))
        cuts = _in_order({c.place for c in changes.values()})
        if not 0 < len(cuts) <= MOST:
            return [loop]
        if any(c.terms for c in cuts) and span is not None and span < LONG:
            return [loop]
        lets, ends = self.ends(loop, cuts)
        for k, (start, stop) in enumerate(zip(ends, ends[1:])):
            if start == stop:
                continue
            body = _known(loop.body, cuts, changes, k)
            lets.append(replace(loop, start=start, stop=stop, body=body, limit=None))
        return lets

    def branches(self, loop: Loop, known: Mapping[str, Affine]) -> list[Stmt]:
        """A loop for each answer to what all lanes ask alike, or the loop as it is."""
        if loop.combine or not all(map(_is_plain, loop.body)):
            return [loop]
        asked = self.asked | _asked(loop.body, dict(known))
        inside = {loop.var, *_set_in(loop.body)}
        read = inside.union(*map(names_read, loop.body))
        found: dict[Affine, dict[str, _Change]] = {}
        for name in sorted(read & asked.keys()):
            apart, prim = asked[name]
            if not inside.isdisjoint(apart.axes()) or apart.data():
                continue
            of = affine.add(apart, constant(dims.mul(apart.const, -1)))
            step, after = CHANGES[prim]
            place = constant(dims.sub(step, apart.const))
            found.setdefault(of, {})[name] = _Change(place, after)
        for of, changes in found.items():
            cuts = _in_order({c.place for c in changes.values()})
            if 0 < len(cuts) <= MOST:
                parts = range(len(cuts) + 1)
                return [_branch(loop, of, cuts, changes, k) for k in parts]
        return [loop]

    def ends(
        self, loop: Loop, cuts: Sequence[Affine]
    ) -> tuple[list[Stmt], list[Affine]]:
        """Where the parts begin and end, and Lets of what is not known of that."""
        start, stop = loop.start, loop.stop
        lets: list[Stmt] = []

        def named(*parts: Affine, prims: Sequence[str]) -> Affine:
            first, *rest = map(Offset, parts)
            value: Expr = first
            for prim, part in zip(prims, rest):
                value = Apply(prim, (value, part), "int64", "int64")
            name = f"{loop.var}_cut{self.made}"
            self.made += 1
            lets.append(Let(name, "int64", value))
            return axis(name)

        if loop.limit is not None:
            stop = named(stop, loop.limit, prims=["min"])
        found = [start]
        for cut in cuts:
            low, at, high = map(affine.number, (start, cut, stop))
            if low is not None and at is not None and high is not None:
                found.append(constant(min(max(low, at), high)))
            else:
                found.append(named(cut, start, stop, prims=["max", "min"]))
        return lets, [*found, stop]


def _branch(
    loop: Loop,
    of: Affine,
    cuts: Sequence[Affine],
    changes: Mapping[str, _Change],
    k: int,
) -> Stmt:
    """The loop where an index lies in a part between cuts."""
    ends = [*(("ge", c) for c in cuts[:k][-1:]), *(("lt", c) for c in cuts[k:][:1])]
    asked = [Apply(p, (Offset(of), Offset(c)), "int64", "bool") for p, c in ends]
    both = asked[0] if len(asked) == 1 else Apply("and", (*asked,), "bool", "bool")
    return If(both, (replace(loop, body=_known(loop.body, cuts, changes, k)),))


def _known(
    body: Iterable[Stmt],
    cuts: Sequence[Affine],
    changes: Mapping[str, _Change],
    k: int,
) -> tuple[Stmt, ...]:
    """Statements in part k of those that cuts make, with what conditions are there."""
    facts = {n: (cuts.index(c.place) < k) == c.after for n, c in changes.items()}
    return _needed(map(_Facts(facts).statement, body))


def _is_plain(stmt: Stmt) -> bool:
    """Whether it is nothing but values that are computed and stored."""
    if isinstance(stmt, Loop):
        plain = stmt.kind == "serial" and not stmt.combine
        return plain and all(map(_is_plain, stmt.body))
    return isinstance(stmt, (Let, Put))


def _set_in(body: Iterable[Stmt]) -> set[str]:
    """The variables that statements set, loops' own among them."""
    found = set[str]()
    for stmt in body:
        if isinstance(stmt, Loop):
            found |= {stmt.var, *_set_in(stmt.body)}
        elif isinstance(stmt, Let):
            found.add(stmt.name)
    return found


def _asked(
    body: Iterable[Stmt], known: dict[str, Affine]
) -> dict[str, tuple[Affine, str]]:
    """Of the conditions on indices that variables are: what is compared with 0."""
    found: dict[str, tuple[Affine, str]] = {}
    for stmt in body:
        _learn(stmt, known)
        match stmt:
            case Loop():
                found |= _asked(stmt.body, dict(known))
            case Let(name, "bool", Apply(prim, (a, b), "int64", _)) if prim in CHANGES:
                first, second = (_place(e, known) for e in (a, b))
                if first is not None and second is not None:
                    found[name] = affine.add(first, affine.scale(second, -1)), prim
    return found


def _is_simple(stmt: Stmt) -> bool:
    """Whether iterations of it are alike in all parts: a costly function's need not
    be, in a vector and alone."""
    if not isinstance(stmt, (Let, Put)):
        return False
    prims = (p.prim for p in parts_of(stmt) if isinstance(p, Apply))
    return not any(PRIMS[p].costly for p in prims if p in PRIMS)


def _learn(stmt: Stmt, known: dict[str, Affine]) -> None:
    """What a variable is as an index, if it is one."""
    if not isinstance(stmt, Let):
        return
    known.pop(stmt.name, None)
    if (place := _place(stmt.value, known)) is not None:
        known[stmt.name] = place


def _place(value: Expr, known: Mapping[str, Affine]) -> Affine | None:
    match value:
        case Offset(place):
            return place
        case Num(number, "int64"):
            return constant(number)
        case Ref(name):
            return known.get(name)
        case Apply("add" | "sub" as prim, (first, second), "int64", "int64"):
            a, b = (_place(e, known) for e in (first, second))
            if a is not None and b is not None:
                return affine.add(a, affine.scale(b, 1 if prim == "add" else -1))
    return None


def _changes(loop: Loop, known: dict[str, Affine]) -> dict[str, _Change]:
    """The conditions on the lane that the loop's variables are."""
    found: dict[str, _Change] = {}
    inside = {s.name for s in loop.body if isinstance(s, Let)}
    for name, (apart, prim) in _asked(loop.body, known).items():
        each = apart.coefficient(loop.var)
        if each not in (1, -1) or not apart.plain(loop.var):
            continue
        if each == -1:
            prim, apart = OTHER[prim], affine.scale(apart, -1)
        rest = affine.add(apart, affine.scale(axis(loop.var), -1))
        if rest.data() or not inside.isdisjoint(rest.axes()):
            continue
        step, after = CHANGES[prim]
        place = affine.add(affine.scale(rest, -1), constant(step))
        found[name] = _Change(place, after)
    return found


def _in_order(places: set[Affine]) -> list[Affine]:
    """Places from the lowest on; none where that is not known."""
    known = True

    def compare(a: Affine, b: Affine) -> int:
        nonlocal known
        apart = affine.add(a, affine.scale(b, -1))
        if not apart.terms and affine.nonnegative(apart.const):
            return 1
        known &= not apart.terms and affine.nonnegative(dims.mul(apart.const, -1))
        return -1

    found = sorted(places, key=cmp_to_key(compare))
    return found if known else []


@dataclass(frozen=True)
class _Facts:
    """Which of the variables hold, or do not; others are found on the way."""

    known: dict[str, bool]

    def statement(self, stmt: Stmt) -> Stmt:
        """A statement without what is known."""
        match stmt:
            case Let(name, _, value):
                made = self.expr(value)
                if name in self.known:
                    made = Num(self.known[name], "bool")
                elif isinstance(made, Num) and isinstance(made.value, bool):
                    self.known[name] = made.value
                return replace(stmt, value=made)
            case Put(_, _, value):
                return replace(stmt, value=self.expr(value))
            case Loop():
                return replace(stmt, body=_needed(map(self.statement, stmt.body)))
        return stmt

    def expr(self, value: Expr) -> Expr:
        """An expression without what is known."""
        match value:
            case Ref(name) if name in self.known:
                return Num(self.known[name], "bool")
            case Guarded(condition, item, dtype):
                given = self.expr(condition)
                if isinstance(given, Num):
                    return item if given.value else Num(0, dtype)
                return replace(value, condition=given)
            case Apply(prim, args, _, dtype):
                made = tuple(map(self.expr, args))
                return _folded(prim, made, dtype) or replace(value, args=made)
        return value


def _folded(prim: str, args: tuple[Expr, ...], dtype: str) -> Expr | None:
    """What an operation on booleans is, of which some are known."""
    first = args[0]
    known = [a.value for a in args if isinstance(a, Num) and isinstance(a.value, bool)]
    others = [a for a in args if not (isinstance(a, Num) and isinstance(a.value, bool))]
    match prim:
        case "select" if isinstance(first, Num):
            return args[1] if first.value else args[2]
        case "not" if dtype == "bool" and known:
            return Num(not known[0], "bool")
        case "and" | "or" if dtype == "bool" and known:
            decides = prim == "or"
            if decides in known:
                return Num(decides, "bool")
            return others[0] if others else Num(not decides, "bool")
    return None


def _needed(body: Iterable[Stmt]) -> tuple[Stmt, ...]:
    """Statements without variables that none of them reads."""
    read, found = set[str](), list[Stmt]()
    for stmt in reversed(list(body)):
        if not isinstance(stmt, Let) or stmt.name in read:
            read |= {*names_read(stmt)}
            found.append(stmt)
    return tuple(reversed(found))
