"""Errors that Pirol raises: each names op, source line, got, expected, next step."""

from __future__ import annotations


class PirolError(Exception):
    """Base of all errors raised by Pirol."""


class PirolWarning(UserWarning):
    """Something runs as Paddle runs it, and not compiled by Pirol."""


class ShapeError(PirolError):
    """An op's operands do not fit its shape or dtype rule."""


class VerifyError(PirolError):
    """A graph breaks a rule of its level; a fault of a pass, not of the user."""


class TextError(PirolError):
    """The text of a graph does not parse."""


class Unsupported(PirolError):
    """The program, or one op of it, cannot be compiled; the message is the reason."""


class BuildError(PirolError):
    """The C compiler is missing or refused a kernel."""


class ArgumentError(PirolError, ValueError):
    """An argument of one of Pirol's own functions is not what it must be."""


class StrictError(PirolError):
    """Raised under `strict=True` where Pirol would hand work to Paddle."""


def message(
    op: str, *, got: str, expected: str, next_step: str = "", line: str = ""
) -> str:
    """One error text in the common form.

    >>> message("add", got="f32[3] and i64[3]", expected="one dtype")
    'add: got f32[3] and i64[3], expected one dtype'
    """
    where = f" (at {line})" if line else ""
    advice = f"; {next_step}" if next_step else ""
    return f"{op}{where}: got {got}, expected {expected}{advice}"
