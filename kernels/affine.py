"""Quasi-affine index arithmetic over loop axes, with symbolic coefficients.

An Affine is sum(coefficient * atom) + constant; an atom is an axis name, or the
quotient or remainder of an Affine by a Dim, or a number that the kernel computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pirol.compiler import dims
from pirol.compiler.dims import Dim, Shape


@dataclass(frozen=True)
class Quotient:
    """of // by, rounding down."""

    of: Affine
    by: Dim


@dataclass(frozen=True)
class Remainder:
    """of % by, in [0, by)."""

    of: Affine
    by: Dim


@dataclass(frozen=True)
class Data:
    """The value of a nest's node, which is in [0, below)."""

    node: int
    below: Dim

    @property
    def name(self) -> str:
        """The variable that holds it."""
        return f"v{self.node}"


Atom: TypeAlias = "str | Quotient | Remainder | Data"
Extents = Mapping[str, Dim]


@dataclass(frozen=True)
class Affine:
    """terms: (atom, coefficient != 0), ordered by the atoms' text; const: a Dim."""

    terms: tuple[tuple[Atom, Dim], ...] = ()
    const: Dim = 0

    def axes(self) -> set[str]:
        """The names of the axes that it depends on."""
        found: set[str] = set()
        for atom, _ in self.terms:
            match atom:
                case str():
                    found.add(atom)
                case Quotient(of, _) | Remainder(of, _):
                    found |= of.axes()
        return found

    def data(self) -> set[int]:
        """The nodes whose values it depends on."""
        found: set[int] = set()
        for atom, _ in self.terms:
            match atom:
                case Data(node, _):
                    found.add(node)
                case Quotient(of, _) | Remainder(of, _):
                    found |= of.data()
        return found

    def along(self, axis: str) -> bool:
        """Whether memory runs along an axis, by elements or by pairs of parts."""
        return self.coefficient(axis) in (1, 2)

    def coefficient(self, axis: str) -> Dim:
        """The coefficient of an axis (0 where it does not occur plainly)."""
        return dict(self.terms).get(axis, 0)

    def plain(self, axis: str) -> bool:
        """Whether the axis occurs in no quotient or remainder."""
        inside = (
            a.of.axes() for a, _ in self.terms if isinstance(a, (Quotient, Remainder))
        )
        return all(axis not in axes for axes in inside)


ZERO = Affine()


def constant(value: Dim) -> Affine:
    """The Affine of a Dim."""
    return Affine((), value)


def axis(name: str) -> Affine:
    """The Affine of one axis."""
    return Affine(((name, 1),))


def number(value: Affine) -> int | None:
    """What the value is, where that is known."""
    return value.const if not value.terms and isinstance(value.const, int) else None


def _make(terms: Mapping[Atom, Dim], const: Dim) -> Affine:
    kept = [(a, c) for a, c in terms.items() if dims.equal(c, 0) is not True]
    if len(kept) > 1:
        kept.sort(key=lambda t: str(t[0]))
    return Affine(tuple(kept), const)


def _is(dim: Dim, number: int) -> bool:
    return isinstance(dim, int) and dim == number


def add(a: Affine, b: Affine) -> Affine:
    """a + b."""
    for one, other in ((a, b), (b, a)):
        if not other.terms and _is(other.const, 0):
            return one
    terms: dict[Atom, Dim] = dict(a.terms)
    for atom, coefficient in b.terms:
        terms[atom] = dims.add(terms.get(atom, 0), coefficient)
    return _whole(terms, dims.add(a.const, b.const))


def _whole(terms: dict[Atom, Dim], const: Dim) -> Affine:
    """The Affine, a quotient and its remainder in it being what was divided."""
    for atom, coefficient in terms.items():
        if not isinstance(atom, Quotient):
            continue
        rest = Remainder(atom.of, atom.by)
        each = terms.get(rest, 0)
        if rest in terms and dims.equal(dims.mul(each, atom.by), coefficient) is True:
            others = {a: c for a, c in terms.items() if a not in (atom, rest)}
            return add(_make(others, const), scale(atom.of, each))
    return _make(terms, const)


def scale(a: Affine, by: Dim) -> Affine:
    """a * by."""
    if _is(by, 1):
        return a
    terms = {atom: dims.mul(c, by) for atom, c in a.terms}
    return _make(terms, dims.mul(a.const, by))


def linear(index: Sequence[Affine], shape: Shape) -> Affine:
    """The row-major offset of an index in a shape."""
    total = ZERO
    for part, step in zip(index, dims.strides(shape)):
        total = add(total, scale(part, step))
    return total


class Refine(Exception):
    """An axis should be split into factors (outermost first), and all begun again."""

    def __init__(self, name: str, factors: Shape) -> None:
        super().__init__(f"split axis {name} into {factors}")
        self.name = name
        self.factors = factors


def divide(value: Affine, by: Dim, extents: Extents) -> tuple[Affine, Affine]:
    """(value // by, value % by), simplified with the axes' extents."""
    high: dict[Atom, Dim] = {}
    low: dict[Atom, Dim] = {}
    for atom, coefficient in value.terms:
        quotient = dims.floordiv(coefficient, by)
        exact = dims.equal(dims.mul(quotient, by), coefficient) is True
        (high if exact else low)[atom] = quotient if exact else coefficient
    const = dims.floordiv(value.const, by) if isinstance(by, int) else 0
    rest = _make(low, dims.sub(value.const, dims.mul(const, by)))
    if all(within(rest, 0, by, extents)):
        return _make(high, const), rest
    tail = Affine(((Quotient(rest, by), 1),))
    return add(_make(high, const), tail), Affine(((Remainder(rest, by), 1),))


def bounds(value: Affine, extents: Extents) -> tuple[Dim, Dim] | None:
    """The least and the largest value over all axes; None where they are not known."""
    low = high = value.const
    for atom, coefficient in value.terms:
        sign = 0 if isinstance(atom, Quotient) else _sign(coefficient)
        if sign == 0:
            return None
        assert not isinstance(atom, Quotient)
        reach = dims.mul(coefficient, dims.sub(_end(atom, extents), 1))
        low = dims.add(low, reach) if sign < 0 else low
        high = dims.add(high, reach) if sign > 0 else high
    return low, high


def within(value: Affine, low: Dim, high: Dim, extents: Extents) -> tuple[bool, bool]:
    """Whether low <= value is sure, and whether value < high is."""
    found = bounds(value, extents)
    if found is None:
        return False, False
    least, largest = found
    return nonnegative(dims.sub(least, low)), nonnegative(
        dims.sub(dims.sub(high, 1), largest)
    )


def reach(value: Affine, extents: Extents, most: int) -> int | None:
    """A bound of the absolute value, and of what it is computed from, over all axes;
    None where it is not known to be less than `most`."""
    total = abs(value.const) if isinstance(value.const, int) else most
    for atom, coefficient in value.terms:
        if isinstance(atom, (Quotient, Remainder)):
            end: Dim | None = reach(atom.of, extents, most)
            if isinstance(atom, Remainder) and end is not None:
                end = dims.sub(atom.by, 1)
        else:
            end = dims.sub(_end(atom, extents), 1)
        if not (isinstance(end, int) and isinstance(coefficient, int)):
            return None
        total += abs(coefficient) * end
    return total if total < most else None


def _end(atom: str | Remainder | Data, extents: Extents) -> Dim:
    """What the atom's value is below."""
    match atom:
        case Remainder(_, by):
            return by
        case Data(_, below):
            return below
    return extents[atom]


def _sign(coefficient: Dim) -> int:
    """1 where it is >= 0, -1 where it is <= 0, 0 where neither is known."""
    if nonnegative(coefficient):
        return 1
    return -1 if nonnegative(dims.mul(coefficient, -1)) else 0


def nonnegative(value: Dim) -> bool:
    """Whether it is sure to be 0 or more."""
    if isinstance(value, int):
        return value >= 0
    return bool(value.is_nonnegative)


def reshape(
    index: Sequence[Affine], source: Shape, target: Shape, extents: Extents
) -> tuple[Affine, ...]:
    """The index into `target` of the element at `index` of `source`, row-major.

    Raises Refine where splitting a loop axis would avoid a division.
    """
    result = [ZERO] * len(target)
    for ins, outs in _groups(source, target):
        part = [index[k] for k in ins]
        flat = linear(part, tuple(source[k] for k in ins))
        shape = tuple(target[k] for k in outs)
        for k, value in zip(outs, _delinearize(flat, shape, extents)):
            result[k] = value
    return tuple(result)


def _delinearize(flat: Affine, shape: Shape, extents: Extents) -> list[Affine]:
    if len(shape) == 1:
        return [flat]
    _suggest_split(flat, shape, extents)
    parts: list[Affine] = []
    for size in reversed(shape[1:]):
        flat, rest = divide(flat, size, extents)
        _suggest_finer(rest, extents)
        parts.append(rest)
    return [flat, *reversed(parts)]


def _suggest_split(flat: Affine, shape: Shape, extents: Extents) -> None:
    if len(flat.terms) != 1 or flat.const != 0:
        return
    atom, coefficient = flat.terms[0]
    if not isinstance(atom, str) or coefficient != 1:
        return
    size = dims.product(shape)
    # An extent of 0 has itself as a factor: there would be no end to it.
    if dims.equal(extents[atom], size) is True and dims.equal(size, 0) is not True:
        raise Refine(atom, shape)


def _suggest_finer(rest: Affine, extents: Extents) -> None:
    """Of a remainder, an axis whose steps add up to the divisor: the number of its
    whole rounds is a quotient, and what is left of it small."""
    remainder = rest.terms[0][0] if rest.terms else None
    if not isinstance(remainder, Remainder):
        return
    for atom, step in remainder.of.terms:
        whole = _sign(step) > 0 and dims.multiple(remainder.by, step)
        if not isinstance(atom, str) or not whole:
            continue
        count = dims.floordiv(remainder.by, step)
        rounds = dims.floordiv(extents[atom], count)
        alone = any(dims.equal(n, 1) is True for n in (count, rounds))
        if not alone and dims.multiple(extents[atom], count):
            raise Refine(atom, (rounds, count))


def _groups(source: Shape, target: Shape) -> list[tuple[list[int], list[int]]]:
    """Runs of source and target dims with equal products; dims of 1 left out."""
    left = [k for k, d in enumerate(source) if dims.equal(d, 1) is not True]
    right = [k for k, d in enumerate(target) if dims.equal(d, 1) is not True]
    groups: list[tuple[list[int], list[int]]] = []
    while left or right:
        group = _next_group(source, target, left, right)
        groups.append(group)
        del left[: len(group[0])], right[: len(group[1])]
    return groups


def _next_group(
    source: Shape, target: Shape, left: list[int], right: list[int]
) -> tuple[list[int], list[int]]:
    i, j = min(1, len(left)), min(1, len(right))
    while i < len(left) or j < len(right):
        p = dims.product(source[k] for k in left[:i])
        q = dims.product(target[k] for k in right[:j])
        if dims.equal(p, q) is True:
            break
        if i < len(left) and (j == len(right) or not dims.multiple(p, q)):
            i += 1
        else:
            j += 1
    return left[:i], right[:j]


def evaluate(value: Affine, axes: Mapping[str, Any], symbols: Mapping[str, int]) -> Any:
    """Its value, given each axis and datum (ints or arrays) and each shape symbol."""
    total: Any = dims.evaluate(value.const, symbols)
    for atom, coefficient in value.terms:
        match atom:
            case str():
                part = axes[atom]
            case Quotient(of, by):
                part = evaluate(of, axes, symbols) // dims.evaluate(by, symbols)
            case Remainder(of, by):
                part = evaluate(of, axes, symbols) % dims.evaluate(by, symbols)
            case Data():
                part = axes[atom.name]
        total = total + part * dims.evaluate(coefficient, symbols)
    return total


def substitute(value: Affine, replaced: Mapping[str, Affine]) -> Affine:
    """The Affine with axes replaced by Affines."""
    if value.axes().isdisjoint(replaced):
        return value
    total = constant(value.const)
    for atom, coefficient in value.terms:
        match atom:
            case str():
                part = replaced.get(atom, axis(atom))
            case Quotient(of, by):
                part = Affine(((Quotient(substitute(of, replaced), by), 1),))
            case Remainder(of, by):
                part = Affine(((Remainder(substitute(of, replaced), by), 1),))
            case Data():
                part = Affine(((atom, 1),))
        total = add(total, scale(part, coefficient))
    return total


def nonzero(value: Affine) -> Affine:
    """The Affine with divisors of at least 1.

    It may then be computed where nothing is read, such as beside an empty part of a
    concat, whose dims are 0.
    """
    total = constant(value.const)
    for atom, coefficient in value.terms:
        if isinstance(atom, (Quotient, Remainder)):
            by = dims.maximum(atom.by, 1)
            atom = replace(atom, of=nonzero(atom.of), by=by)
        total = add(total, Affine(((atom, coefficient),)))
    return total


def dims_of(value: Affine) -> list[Dim]:
    """Every Dim in it that is not a plain int."""
    found = [value.const, *(c for _, c in value.terms)]
    for atom, _ in value.terms:
        if isinstance(atom, (Quotient, Remainder)):
            found += [atom.by, *dims_of(atom.of)]
    return [d for d in found if not isinstance(d, int)]
