"""`paddle.grad` in a program, as it is in eager Paddle.

Paddle's own hands its outputs and inputs to a pass over the program, and the rest of
what it is given is lost:

    x = z.detach(); y = f(x) + g(x); paddle.grad(y, [x])

What the readers of a value give it is added up where its maker's own gradient is made;
detach has none, nor has the end of a split, and of x all but one would be left out. So
f and g read a copy, and it is the copy by which is differentiated. A parameter may be
an input, too: it stands for its value in the program. Without create_graph gradients
stop there, and without allow_unused an input that counts for nothing is an error.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import paddle
from paddle.base.dygraph import base
from paddle.jit.dy2static.parameter_recorder import _global_parameter_recorder

from pirol.compiler.capture.overwritten import capturing, pir, reads, tell_apart

UNUSED = "an input of paddle.grad does not count for its outputs; see allow_unused"


@functools.cache
def follow() -> None:
    """Put ours before Paddle's functions, once."""
    made: Any = importlib.import_module("paddle.autograd.ir_backward")
    make, warn = made.calc_gradient, base.to_static_unsupported_argument_warning

    def told(name: str, names: Sequence[str], values: Sequence[Any], *rest: Any) -> Any:
        if capturing.depth and name == "paddle.grad":
            capturing.options = dict(zip(names, values))
        else:
            warn(name, names, values, *rest)

    def calc_gradient(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not capturing.depth:
            return make(outputs, inputs, *args, **kwargs)
        options, capturing.options = capturing.options, {}
        block = pir.get_current_insertion_point().block()
        tell_apart(block)
        given = list(map(_value, inputs))
        copies = [(x, _copied(x)) for x in given]
        pir.set_insertion_point_to_block_end(block)

        def by_copies(values: Any) -> list[Any]:
            return [next((c for x, c in copies if x.is_same(v)), v) for v in values]

        found = make(by_copies(outputs), by_copies(given), *args, **kwargs)
        if any(v is None for v in found) and options.get("allow_unused") is False:
            raise ValueError(UNUSED)
        if options.get("create_graph", True):
            return found
        return [None if v is None else v.detach() for v in found]

    made.calc_gradient = calc_gradient
    base.to_static_unsupported_argument_warning = told


def _value(given: Any) -> Any:
    """What an input is in the program."""
    if isinstance(given, paddle.pir.Value):
        return given
    program = paddle.static.default_main_program()
    return _global_parameter_recorder.get(program, given)


def _copied(value: Any) -> Any:
    """A copy that all read in its place; itself where it has no maker, or a maker that
    reads nothing, of which Paddle knows."""
    maker = value.get_defining_op()
    if maker is None or not maker.num_operands():
        return value
    users = value.all_used_ops()
    pir.set_insertion_point_after(maker)
    copy = paddle.assign(value)
    for operand in reads(value, users):
        operand.set_source(copy)
    return copy
