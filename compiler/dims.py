"""Symbolic dimensions: a Dim is an int or a SymPy expression over shape symbols.

Symbols are integers >= 0. Static dims stay plain ints and never touch SymPy.

>>> n = symbol("n"); to_text(floordiv(n + 255, 256))
'(n+255)//256'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, TypeAlias

import sympy

from pirol.compiler.errors import TextError

Dim: TypeAlias = Any  # int | sympy.Expr: SymPy ships no types
Shape: TypeAlias = tuple[Dim, ...]


class FloorDiv(sympy.Function):  # type: ignore[misc]
    """Integer division rounding down, 0 where the divisor is 0.

    SymPy's own floor() prints and folds floats.
    """

    nargs = (2,)
    is_integer = True

    @classmethod
    def eval(cls, a: Any, b: Any) -> Any:
        """Fold constants and exact quotients, and take whole ones out: (2*n-1)//2 is
        n-1; None leaves the call as it is."""
        if b == 1:
            return a
        if b == 0:
            return sympy.Integer(0)
        if a.is_Integer and b.is_Integer:
            return sympy.Integer(int(a) // int(b))
        exact = _exact_quotient(a, b)
        if exact is not None or not (b.is_Integer and b > 0):
            return exact
        whole = _whole_part(a, int(b))
        return whole + cls(sympy.expand(a - whole * b), b) if whole != 0 else None

    def _eval_is_nonnegative(self) -> bool | None:
        a, b = self.args
        return True if a.is_nonnegative and b.is_nonnegative else None


class Mod(sympy.Function):  # type: ignore[misc]
    """Integer remainder with the sign of the divisor, 0 where that is 0."""

    nargs = (2,)
    is_integer = True

    @classmethod
    def eval(cls, a: Any, b: Any) -> Any:
        """Fold constants; None leaves the call as it is."""
        if b in (0, 1):
            return sympy.Integer(0)
        if a.is_Integer and b.is_Integer:
            return sympy.Integer(int(a) % int(b))
        return None

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[1].is_nonnegative else None


def _exact_quotient(a: Any, b: Any) -> Any:
    quotient = sympy.cancel(a / b)
    numerator, denominator = quotient.as_numer_denom()
    if denominator == 1:
        return sympy.expand(numerator)
    return None


def _whole_part(a: Any, b: int) -> Any:
    """What the terms of a sum that b divides, and its constant, have of whole b."""
    found = sympy.Integer(0)
    for term in sympy.Add.make_args(sympy.expand(a)):
        count, of = term.as_coeff_Mul()
        if count.is_Integer and (of == 1 or int(count) % b == 0):
            found += int(count) // b * of
    return found


@cache
def symbol(name: str) -> Any:
    """The shape symbol of this name, an integer >= 0."""
    return sympy.Symbol(name, integer=True, nonnegative=True)


def normal(dim: Dim) -> Dim:
    """The canonical form: an int where the value is known, else expanded."""
    if isinstance(dim, int):
        return dim
    expanded = sympy.expand(dim)
    return int(expanded) if expanded.is_Integer else expanded


def add(a: Dim, b: Dim) -> Dim:
    """a + b."""
    return a + b if _static(a, b) else normal(a + b)


def sub(a: Dim, b: Dim) -> Dim:
    """a - b."""
    return a - b if _static(a, b) else normal(a - b)


def mul(a: Dim, b: Dim) -> Dim:
    """a * b."""
    return a * b if _static(a, b) else _symbolic_mul(a, b)


@lru_cache(maxsize=4096)
def _symbolic_mul(a: Dim, b: Dim) -> Dim:
    return normal(a * b)


def floordiv(a: Dim, b: Dim) -> Dim:
    """a // b, rounding down; exact quotients simplify (n*64 // 64 is n)."""
    if _static(a, b):
        return a // b if b else 0
    return _symbolic_floordiv(a, b)


@lru_cache(maxsize=4096)
def _symbolic_floordiv(a: Dim, b: Dim) -> Dim:
    return normal(FloorDiv(sympy.sympify(a), sympy.sympify(b)))


def ceildiv(a: Dim, b: int) -> Dim:
    """a / b, rounding up, for b > 0."""
    return floordiv(add(a, b - 1), b)


def mod(a: Dim, b: Dim) -> Dim:
    """a % b with the sign of b."""
    if _static(a, b):
        return a % b if b else 0
    return normal(Mod(sympy.sympify(a), sympy.sympify(b)))


def maximum(a: Dim, b: Dim) -> Dim:
    """max(a, b)."""
    return max(a, b) if _static(a, b) else normal(sympy.Max(a, b))


def minimum(a: Dim, b: Dim) -> Dim:
    """min(a, b)."""
    return min(a, b) if _static(a, b) else normal(sympy.Min(a, b))


def product(dims: Iterable[Dim]) -> Dim:
    """The product; 1 for none."""
    result: Dim = 1
    for dim in dims:
        result = mul(result, dim)
    return result


def _static(a: Dim, b: Dim) -> bool:
    return isinstance(a, int) and isinstance(b, int)


def equal(a: Dim, b: Dim) -> bool | None:
    """Whether a == b for all symbol values: True, False for none, None if unknown."""
    if _static(a, b):
        return bool(a == b)
    return _symbolic_equal(a, b)


@lru_cache(maxsize=4096)
def _symbolic_equal(a: Dim, b: Dim) -> bool | None:
    zero = sympy.expand(a - b).is_zero
    return None if zero is None else bool(zero)


def multiple(p: Dim, q: Dim) -> bool:
    """Whether p is sure to be a multiple of q."""
    if equal(q, 0) is True:
        return False
    return equal(mul(floordiv(p, q), q), p) is True


def same_shape(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    """Whether the shapes are proved equal."""
    return len(a) == len(b) and all(equal(x, y) is True for x, y in zip(a, b))


def symbols_of(*dims: Dim) -> set[str]:
    """The names of the symbols in the dims."""
    names: set[str] = set()
    for dim in dims:
        if not isinstance(dim, int):
            names |= {s.name for s in dim.free_symbols}
    return names


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """The dim with symbols replaced by name."""
    if isinstance(dim, int) or not values:
        return dim
    used = {s: values[s.name] for s in dim.free_symbols if s.name in values}
    return normal(dim.xreplace({k: sympy.sympify(v) for k, v in used.items()}))


def evaluate(dim: Dim, values: Mapping[str, int]) -> int:
    """The dim's value, every symbol given."""
    result = substitute(dim, values)
    if not isinstance(result, int):
        missing = ", ".join(sorted(symbols_of(result) - set(values)))
        raise KeyError(f"no value for {missing} in {to_text(dim)}")
    return result


def known(dim: Dim, values: Mapping[str, int]) -> int:
    """The dim's value; 0 where a symbol has none."""
    try:
        return evaluate(dim, values)
    except KeyError:
        return 0


def about(dim: Dim, unknown: int = 1024) -> int:
    """The dim's value, if each of its symbols were `unknown`."""
    return evaluate(dim, dict.fromkeys(symbols_of(dim), unknown))


def strides(shape: Sequence[Dim]) -> Shape:
    """Row-major strides in elements."""
    result: list[Dim] = []
    step: Dim = 1
    for dim in reversed(shape):
        result.append(step)
        step = mul(step, dim)
    return tuple(reversed(result))


def to_text(dim: Dim) -> str:
    """The dim as integer arithmetic: + - * // % max min and parentheses."""
    return str(dim) if isinstance(dim, int) else _print(dim, 0)


def _print(e: Any, level: int) -> str:
    if e.is_Integer:
        return str(e) if e >= 0 or level == 0 else f"({e})"
    if e.is_Symbol:
        return str(e.name)
    if isinstance(e, (sympy.Max, sympy.Min)):
        name = "max" if isinstance(e, sympy.Max) else "min"
        return f"{name}({', '.join(_print(a, 0) for a in _ordered(e.args))})"
    if e.is_Add:
        return _parens("+".join(_print(a, 1) for a in _ordered(e.args)), level > 1)
    if e.is_Mul or e.is_Pow:
        return _parens("*".join(_print(a, 2) for a in _factors(e)), level > 2)
    if isinstance(e, FloorDiv):
        return _parens(f"{_print(e.args[0], 2)}//{_print(e.args[1], 3)}", level > 1)
    if isinstance(e, Mod):
        return _parens(f"{_print(e.args[0], 2)}%{_print(e.args[1], 3)}", level > 1)
    raise TypeError(f"not an integer dimension: {e!r}")


def _ordered(args: Iterable[Any]) -> list[Any]:
    return sorted(args, key=lambda a: (bool(a.is_Integer), str(a)))


def _factors(e: Any) -> list[Any]:
    factors: list[Any] = []
    for arg in sorted(sympy.Mul.make_args(e), key=lambda a: (not a.is_Integer, str(a))):
        if arg.is_Pow:
            factors += [arg.base] * int(arg.exp)
        else:
            factors.append(arg)
    return factors


def _parens(text: str, needed: bool) -> str:
    return f"({text})" if needed else text


_TOKEN = re.compile(r"\s*(//|[-+*%(),]|\d+|[A-Za-z_]\w*)")
_BINARY = {"*": mul, "//": floordiv, "%": mod}


def parse(text: str) -> Dim:
    """Read what `to_text` prints; raises TextError."""
    tokens = _tokens(text)
    value, rest = _sum(tokens)
    if rest:
        raise TextError(f"dimension {text!r}: unexpected {rest[0]!r}")
    return value


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    stripped = text.rstrip()
    while at < len(stripped):
        match = _TOKEN.match(stripped, at)
        if match is None:
            raise TextError(f"dimension {text!r}: bad character at {at}")
        tokens.append(match.group(1))
        at = match.end()
    return tokens


def _sum(tokens: list[str]) -> tuple[Dim, list[str]]:
    value, tokens = _term(tokens)
    while tokens and tokens[0] in "+-":
        sign, (other, tokens) = tokens[0], _term(tokens[1:])
        value = add(value, other) if sign == "+" else sub(value, other)
    return value, tokens


def _term(tokens: list[str]) -> tuple[Dim, list[str]]:
    value, tokens = _atom(tokens)
    while tokens and tokens[0] in _BINARY:
        combine, (other, tokens) = _BINARY[tokens[0]], _atom(tokens[1:])
        value = combine(value, other)
    return value, tokens


def _atom(tokens: list[str]) -> tuple[Dim, list[str]]:
    if not tokens:
        raise TextError("dimension ends too early")
    head, rest = tokens[0], tokens[1:]
    if head == "-":
        value, rest = _atom(rest)
        return mul(-1, value), rest
    if head == "(":
        value, rest = _sum(rest)
        return value, _expect(rest, ")")
    if head in ("max", "min"):
        return _call(maximum if head == "max" else minimum, rest)
    if head.isdigit():
        return int(head), rest
    if head.isidentifier():
        return symbol(head), rest
    raise TextError(f"dimension: unexpected {head!r}")


def _call(combine: Any, tokens: list[str]) -> tuple[Dim, list[str]]:
    value, tokens = _sum(_expect(tokens, "("))
    while tokens and tokens[0] == ",":
        other, tokens = _sum(tokens[1:])
        value = combine(value, other)
    return value, _expect(tokens, ")")


def _expect(tokens: list[str], wanted: str) -> list[str]:
    if not tokens or tokens[0] != wanted:
        raise TextError(f"dimension: expected {wanted!r}, got {tokens[:1]}")
    return tokens[1:]
