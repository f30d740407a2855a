"""Uniform numbers drawn for a dropout's mask, told by what is made of them.

u = uniform(..); keep = cast(u >= p); dropout along axes: cast(x) * keep, where the
shape of u is made of that of x; alpha dropouts: x * keep + (1 - keep) * .., where p is
as large as u.

A program that was saved has no functions in which its ops were made. Users' own draws
that are compared, and multiplied with, are not of these shapes.
"""

from __future__ import annotations

from typing import Any

from pirol.compiler.capture.attributes import attributes


def makes_mask(op: Any) -> bool:
    """Whether a `uniform` op's numbers become the mask of one of Paddle's dropouts."""
    if not _is_full(op.operand_source(1), 0.0) or not _is_full(
        op.operand_source(2), 1.0
    ):
        return False
    compare = _user(op, "pd_op.greater_equal")
    cast = _user(compare, "pd_op.cast")
    if cast is None or _maker(compare, 0).id() != op.id():
        return False
    limit = _maker(compare, 1)
    if limit is None or limit.name() != "pd_op.full":
        return False
    users = cast.result(0).all_used_ops()
    names = sorted(user.name() for user in users)
    if names == ["pd_op.multiply"]:
        return _along_axes(op, users[0])
    if names != ["pd_op.multiply", "pd_op.subtract"]:
        return False
    whole = next(user for user in users if user.name() == "pd_op.subtract")
    same = attributes(limit)["shape"] == [*op.result(0).shape]
    return same and _is_full(whole.operand_source(0), 1.0)


def _along_axes(op: Any, multiply: Any) -> bool:
    """Whether x is cast, and the draw's shape is that of x with ones in it."""
    cast, stack = _maker(multiply, 0), _maker(op, 0)
    if cast is None or cast.name() != "pd_op.cast":
        return False
    if stack is None or stack.name() != "pd_op.stack":
        return False
    x, scale = cast.operand_source(0), _maker(cast, 0)
    if scale is not None and scale.name() == "pd_op.scale":
        x = scale.operand_source(0)
    for part in _maker(stack, 0).operands():
        maker = part.source().get_defining_op()
        if maker.name() == "pd_op.slice":
            shape = _maker(maker, 0)
            if shape.name() != "pd_op.shape64" or not shape.operand_source(0).is_same(
                x
            ):
                return False
        elif not _is_full(part.source(), 1.0):
            return False
    return True


def _maker(op: Any, operand: int) -> Any:
    return op.operand_source(operand).get_defining_op()


def _user(op: Any, name: str) -> Any:
    """The only op that reads what an op makes, if it is of that name."""
    users = op.result(0).all_used_ops() if op is not None else []
    return users[0] if len(users) == 1 and users[0].name() == name else None


def _is_full(value: Any, number: float) -> bool:
    """Whether a value is a constant, all of that number."""
    maker = value.get_defining_op()
    if maker is None or maker.name() != "pd_op.full":
        return False
    return bool(attributes(maker)["value"] == number)
