"""The gradient of one of Paddle's ops, by Pirol's decomposition of it, in Paddle's ops.

mish(x), ct  ->  ct * (tanh(softplus(x)) + x * ..)

For a program in which `paddle.grad` is called again and again: what is made here has
gradients of any order, where Paddle's own gradient op, mish_grad, has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import paddle

from pirol.compiler.autodiff import vjp
from pirol.compiler.capture.attributes import attributes
from pirol.compiler.capture.reader import alone
from pirol.compiler.dims import same_shape
from pirol.compiler.errors import ShapeError, Unsupported
from pirol.compiler.ir import FLOATS, Graph, Op, Value
from pirol.passes.calls import inline
from pirol.passes.canonicalize import canonicalize
from pirol.passes.decompose import decompose
from pirol.prim import Facts

Lists = list[list[Any]]
# Elementwise primitives of one or two operands, where Paddle's name is another.
OTHERS = {
    **{"sub": "subtract", "mul": "multiply", "div": "divide"},
    **{"max": "maximum", "min": "minimum", "eq": "equal", "ne": "not_equal"},
    **{"lt": "less_than", "le": "less_equal", "gt": "greater_than"},
    **{"ge": "greater_equal", "not": "logical_not", "and": "logical_and"},
    **{"or": "logical_or", "xor": "logical_xor", "real": "real", "imag": "imag"},
}
SAME = (
    "neg abs exp log sqrt rsqrt tanh erf log1p expm1 sin cos log2 log10 tan asin acos"
    " atan sinh cosh asinh acosh atanh floor ceil round trunc add hypot atan2"
    " pow lgamma erfinv i0 i0e i1 i1e"
)
POINTWISE = {name: name for name in SAME.split()} | OTHERS
LOGICAL = ("not", "and", "or", "xor")  # of bools only


def translated(op: Any, inputs: Lists, outputs: Lists, cts: Lists) -> Lists | None:
    """The cotangents of an op's operands, None for one that has none; None where Pirol
    does not decompose the op, or by what Paddle has no function for."""
    try:
        graph, places = alone(op)
        found = {k: None for k in range(len(places))}
        wrt = [k for k, v in enumerate(graph.inputs) if v.dtype in FLOATS]
        pairs = [p for part, given in zip(outputs, cts) for p in zip(part, given)]
        told = [ct for output, ct in pairs if output.initialized()]
        ends = [(v, ct) for v, ct in zip(graph.outputs, told, strict=True) if _is(ct)]
        flat = decompose(replace(graph, outputs=tuple(v for v, _ in ends)), Facts())
        made = canonicalize(inline(vjp(flat, wrt=wrt)))
        values = [inputs[i][j] for i, j in places]
        emitted = _Emitter().run(made, [*values, *(ct for _, ct in ends)])
        found.update(zip(wrt, emitted))
    except (Unsupported, ShapeError, TypeError, ValueError):  # the last two: Paddle's
        return None
    result: Lists = [[None for _ in part] for part in inputs]
    for k, (i, j) in enumerate(places):
        result[i][j] = found[k]
    counts = op.get_input_grad_semantics()  # of the others Paddle wants nothing
    return [part for part, wanted in zip(result, counts, strict=True) if wanted]


def _is(ct: Any) -> bool:
    """Whether a result has a cotangent; of one that nobody reads it is zeros."""
    if ct is None or not ct.initialized() or paddle.pir.is_fake_value(ct):
        return False
    maker = ct.get_defining_op()
    if maker is None or maker.name() != "pd_op.full_like":
        return True
    number = maker.operand_source(1).get_defining_op()
    return number is None or attributes(number).get("value") != 0


class _Emitter:
    """Writes a graph of primitives as Paddle's ops. A constant, and what is computed of
    constants alone, is a scalar, until its shape is needed."""

    def __init__(self) -> None:
        self.env: dict[Value, Any] = {}
        self.whole: dict[Value, Any] = {}  # those of their graph's shape
        self.numbers: dict[Value, Any] = {}  # what constants are

    def run(self, graph: Graph, values: Sequence[Any]) -> list[Any]:
        self.whole.update(zip(graph.inputs, values))
        for op in graph.ops:
            self.op(op)
        return [self.full(v) for v in graph.outputs]

    def op(self, op: Op) -> None:
        attrs, scalars = op.attrs, [v for v in op.operands if v in self.env]
        if op.name == "const":
            if not isinstance(attrs["value"], (bool, int, float)):
                raise Unsupported("a constant that is no number")
            self.numbers[op.result] = attrs["value"]
            self.env[op.result] = paddle.full([], attrs["value"], attrs["dtype"])
        elif op.name == "broadcast" and scalars:
            self.env[op.result] = self.env[op.operands[0]]
        elif op.name in (*POINTWISE, "sigmoid", "cast", "stop_gradient"):
            given = [self.env.get(v, self.whole.get(v)) for v in op.operands]
            alike = len(scalars) == len(op.operands)
            (self.env if alike else self.whole)[op.result] = _pointwise(op, given)
        elif op.name == "check":  # the op itself, which stays, has it
            return
        elif op.name in EMIT:
            self.whole[op.result] = EMIT[op.name](self, op)
        else:
            raise Unsupported(f"{op.name} is not translated")

    def full(self, value: Value) -> Any:
        """The value in its shape."""
        if value not in self.whole:
            self.whole[value] = self.spread(self.env[value], value)
        return self.whole[value]

    def spread(self, found: Any, value: Value) -> Any:
        """What broadcasts to a value's shape, in that shape."""
        if all(isinstance(d, int) for d in value.shape):
            return paddle.expand(found, list(value.shape))
        like = self.like(value)
        return found + paddle.zeros_like(like, found.dtype)

    def like(self, value: Value) -> Any:
        """Something of a value's shape."""
        for other, found in self.whole.items():
            if same_shape(other.shape, value.shape):
                return found
        raise Unsupported("a shape that is known only when the program runs")


def _pointwise(op: Op, given: list[Any]) -> Any:
    if op.name in LOGICAL and op.operands[0].dtype != "bool":
        raise Unsupported(f"{op.name} of {op.operands[0].dtype}")
    if op.name == "cast":
        return given[0].astype(op.attrs["dtype"])
    if op.name == "stop_gradient":
        return given[0].detach()
    if op.name == "sigmoid":
        return paddle.nn.functional.sigmoid(*given)
    return getattr(paddle, POINTWISE[op.name])(*given)


def _whole(function: Callable[..., Any]) -> Callable[[_Emitter, Op], Any]:
    return lambda e, op: function(*map(e.full, op.operands))


def _iota(e: _Emitter, op: Op) -> Any:
    return _places(e, op.result, op.attrs["axis"]).astype(op.result.dtype)


def _places(e: _Emitter, of: Value, axis: int) -> Any:
    """Where each element of a value lies along an axis."""
    size = of.shape[axis]
    count = size if isinstance(size, int) else paddle.shape(e.like(of))[axis]
    ones = [1] * (of.type.rank - axis - 1)
    return e.spread(paddle.arange(count).reshape([-1, *ones]), of)


def _where(e: _Emitter, of: Value, into: Value, op: Op) -> Any:
    """The coordinates, one behind the other, by which gather reads `into` for each
    element of a value."""
    rest = iter(op.operands[1:])
    found = []
    for k, size in zip(op.attrs["dims"], into.shape):
        if k >= 0:
            found.append(_places(e, of, k))
        elif isinstance(size, int):
            found.append(paddle.clip(e.full(next(rest)), 0, size - 1))
        else:
            raise Unsupported("places in a dim of unknown size")
    return paddle.stack(found, -1)


def _gather(e: _Emitter, op: Op) -> Any:
    x = op.operands[0]
    if not x.type.rank:
        return e.spread(e.full(x), op.result)
    return paddle.gather_nd(e.full(x), _where(e, op.result, x, op))


def _scatter_add(e: _Emitter, op: Op) -> Any:
    x = op.operands[0]
    if not op.result.type.rank:
        return paddle.sum(e.full(x))
    zero = e.spread(paddle.zeros([], x.dtype), op.result)
    return paddle.scatter_nd_add(zero, _where(e, x, op.result, op), e.full(x))


def _dot(e: _Emitter, op: Op) -> Any:
    """By a product of matrices, or of batches of them."""
    (x, y), attrs = op.operands, op.attrs
    if not all(isinstance(d, int) for v in (x, y) for d in v.shape):
        raise Unsupported(
            "a product of a size that is known only when the program runs"
        )
    batch = [x.shape[k] for k in attrs["x_batch"]]
    parts = []
    for value, side in ((x, "x"), (y, "y")):
        first, summed = attrs[f"{side}_batch"], attrs[f"{side}_sum"]
        free = [k for k in range(value.type.rank) if k not in (*first, *summed)]
        turned = paddle.transpose(e.full(value), [*first, *free, *summed])
        size = math.prod(value.shape[k] for k in summed)
        parts.append(paddle.reshape(turned, [*batch, -1, size]))
    found = paddle.matmul(*parts, transpose_y=True)
    return paddle.reshape(found, [*op.result.shape])


def _polygamma(e: _Emitter, op: Op) -> Any:
    order, x = op.operands
    if order not in e.numbers:
        raise Unsupported("polygamma of an order that is not known")
    return paddle.polygamma(e.full(x), int(e.numbers[order]))


def _fmod(e: _Emitter, op: Op) -> Any:
    """Paddle's is rounded down, as is this of positive numbers."""
    x, y = map(e.full, op.operands)
    return paddle.copysign(paddle.mod(paddle.abs(x), paddle.abs(y)), x)


def _reduce(
    function: Callable[..., Any], of_bools: Callable[..., Any]
) -> Callable[[_Emitter, Op], Any]:
    def run(e: _Emitter, op: Op) -> Any:
        (x,) = op.operands
        chosen = of_bools if x.dtype == "bool" else function
        return chosen(e.full(x), axis=[*op.attrs["axes"]])

    return run


def _reshape(e: _Emitter, op: Op) -> Any:
    shape = [d if isinstance(d, int) else -1 for d in op.result.shape]
    if shape.count(-1) > 1:
        like = e.like(op.result)
        return paddle.reshape(e.full(op.operands[0]), paddle.shape(like))
    return paddle.reshape(e.full(op.operands[0]), shape)


def _transpose(e: _Emitter, op: Op) -> Any:
    return paddle.transpose(e.full(op.operands[0]), [*op.attrs["perm"]])


def _broadcast(e: _Emitter, op: Op) -> Any:
    new = [k for k in range(op.result.type.rank) if k not in op.attrs["dims"]]
    found = e.full(op.operands[0])
    return e.spread(paddle.unsqueeze(found, new) if new else found, op.result)


def _reverse(e: _Emitter, op: Op) -> Any:
    return paddle.flip(e.full(op.operands[0]), [*op.attrs["axes"]])


def _concat(e: _Emitter, op: Op) -> Any:
    return paddle.concat([*map(e.full, op.operands)], op.attrs["axis"])


def _slice(e: _Emitter, op: Op) -> Any:
    starts, sizes, steps = (op.attrs[k] for k in ("starts", "sizes", "steps"))
    if not all(isinstance(n, int) for n in (*starts, *sizes)):
        raise Unsupported("a slice by sizes that are known only when the program runs")
    ends = [a + (n - 1) * s + 1 for a, n, s in zip(starts, sizes, steps)]
    axes = [*range(len(starts))]
    found = e.full(op.operands[0])
    return paddle.strided_slice(found, axes, [*starts], ends, [*steps])


def _pad(e: _Emitter, op: Op) -> Any:
    low, high = op.attrs["low"], op.attrs["high"]
    if any(op.attrs["interior"]) or not all(isinstance(n, int) for n in (*low, *high)):
        raise Unsupported("padding within, or of unknown widths")
    sides = [n for pair in zip(low, high) for n in pair]
    found = e.full(op.operands[0])
    return paddle._C_ops.pad(found, sides, float(op.attrs["value"]))


EMIT: dict[str, Callable[[_Emitter, Op], Any]] = {
    "select": _whole(paddle.where),
    "copysign": _whole(paddle.copysign),
    "iota": _iota,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "dot_general": _dot,
    "polygamma": _polygamma,
    "fmod": _fmod,
    "reduce_sum": _reduce(paddle.sum, paddle.any),
    "reduce_prod": _reduce(paddle.prod, paddle.all),
    "reduce_max": _reduce(paddle.max, paddle.any),
    "reduce_min": _reduce(paddle.min, paddle.all),
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "reverse": _reverse,
    "concat": _concat,
    "slice": _slice,
    "pad": _pad,
}
