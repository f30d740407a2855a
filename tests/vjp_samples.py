"""Samples of every differentiable primitive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pirol.compiler.ir import FLOATS, Graph, TensorType, Value
from pirol.prim import Builder, matrices

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """A graph on inputs of these types, and how its numbers are drawn.

    "apart": all distinct and far from 0 and whole numbers, for what has kinks;
    "small": within -0.8 and 0.8; "above one": from 1.3 to 3;
    "ties": -1, 0 or 1; there only cotangents are moved for the second order;
    "whole": whole numbers and a step of 1/4, exact in float32 too.
    """

    build: Callable[..., Any]
    kinds: tuple[TensorType, ...]
    draw: str = "normal"

    def graph(self, dtype: str = "float64") -> Graph:
        """The sample's graph, its float inputs of this dtype."""
        b = Builder()
        inputs = [b.input(k) for k in _typed(self.kinds, dtype)]
        outputs = self.build(b, *inputs)
        many = outputs if isinstance(outputs, tuple) else (outputs,)
        return b.graph("f", many)


def _typed(kinds: Sequence[TensorType], dtype: str) -> list[TensorType]:
    return [replace(k, dtype=dtype) if k.dtype in FLOATS else k for k in kinds]


def f64(*shape: Any) -> TensorType:
    return TensorType(shape, "float64")


def samples(build: Callable[..., Any], *rows: Any, draw: str = "normal") -> list[Any]:
    """One sample for each row of shapes."""
    return [Sample(build, tuple(f64(*s) for s in row), draw) for row in rows]


SHAPES: tuple[Shape, ...] = ((), (1,), (7,), (0, 3), (2, 1, 5))


def unary(name: str, draw: str = "normal") -> list[Sample]:
    rows = [(s,) for s in SHAPES]
    return samples(lambda b, x: getattr(b, name)(x), *rows, draw=draw)


def binary(name: str, draw: str = "normal") -> list[Sample]:
    pairs: list[Any] = [(s, s) for s in SHAPES]
    pairs += [((3, 1), (1, 5)), ((5,), (2, 3, 5)), ((1, 1), (7,)), ((0, 3), (1,))]

    def both(b: Builder, x: Value, y: Value) -> Any:
        return getattr(b, name)(x, y)

    return samples(both, *pairs, draw=draw)


def by_order(b: Builder, x: Value) -> Any:
    return b.add(b.polygamma(0.0, x), b.polygamma(2.0, x))


def of_complex(
    build: Callable[[Builder, Value], Any], shapes: Sequence[Shape] = SHAPES
) -> list[Sample]:
    """Of complex numbers, made of two inputs."""

    def run(b: Builder, x: Value, y: Value) -> Any:
        return build(b, b.complex(x, y))

    return samples(run, *((s, s) for s in shapes))


LINES: tuple[Shape, ...] = ((1,), (6,), (7,))
CUBES: tuple[Shape, ...] = ((2, 1, 5), (3, 2, 4))


def inverted(b: Builder, x: Value) -> Any:
    """Of a matrix that has an inverse."""
    found, last = matrices.product(b, x, matrices.turned(b, x)), x.type.rank - 1
    row = b.iota(axis=last - 1, shape=x.shape, dtype="int64")
    column = b.iota(axis=last, shape=x.shape, dtype="int64")
    unit = b.cast(b.eq(row, column), dtype=x.dtype)
    return b.inverse(b.add(found, unit))


def transformed(
    name: str, axes: Any, forward: bool, scale: str, **size: int
) -> Callable[[Builder, Value], Any]:
    """A Fourier transform; rfft is given the product of the parts."""

    def run(b: Builder, z: Value) -> Any:
        given = b.mul(b.real(z), b.imag(z)) if name == "rfft" else b.mul(z, z)
        attrs = {"axes": axes, "forward": forward, "scale": scale, **size}
        found = getattr(b, name)(given, **attrs)
        return (found,) if name == "irfft" else parts_of(b, found)

    return run


def parts_of(b: Builder, z: Value) -> Any:
    return b.real(z), b.imag(z)


def chosen() -> list[Sample]:
    kinds = [(TensorType(s, "bool"), f64(*s), f64(*s)) for s in SHAPES]
    wide = (TensorType((3, 1), "bool"), f64(1, 5), f64(3, 5))

    def pick(b: Builder, c: Value, x: Value, y: Value) -> Any:
        return b.select(c, x, y)

    return [Sample(pick, k) for k in (*kinds, wide)]


def casts() -> list[Sample]:
    def narrow(b: Builder, x: Value, y: Value) -> Any:
        product = b.mul(b.cast(x, dtype="float32"), b.cast(y, dtype="float32"))
        return product, b.cast(product, dtype="float64")

    def through_ints(b: Builder, x: Value) -> Any:
        return b.add(x, b.cast(b.cast(x, dtype="int64"), dtype="float64"))

    def from_bool(b: Builder, x: Value) -> Any:
        return b.mul(x, b.cast(b.gt(x, 0.0), dtype="float64"))

    return [
        *samples(narrow, ((7,), (7,)), ((0, 3), (0, 3)), draw="whole"),
        *samples(through_ints, ((7,),), draw="apart"),
        *samples(from_bool, ((7,),), draw="apart"),
    ]


def reductions(name: str, draw: str = "normal") -> Iterator[Sample]:
    places: list[tuple[Shape, Shape]] = [
        ((5,), (0,)),
        ((1,), (0,)),
        ((2, 3, 5), (1,)),
        ((2, 3, 5), (0, 2)),
        ((2, 3, 5), ()),
        ((3, 1, 7), (1, 2)),
        ((0, 3), (1,)),
        ((), ()),
    ]
    for shape, axes in places:
        yield Sample(
            lambda b, x, axes=axes: getattr(b, name)(x, axes=axes), (f64(*shape),), draw
        )


def windows(name: str, draw: str = "normal") -> Iterator[Sample]:
    places: list[Any] = [
        # shape, window, strides, padding, dilation
        ((7,), (2,), (2,), ((0, 0),), (1,)),
        ((7,), (3,), (1,), ((1, 1),), (1,)),
        ((7,), (3,), (2,), ((0, 2),), (2,)),
        ((11,), (2,), (3,), ((1, 0),), (3,)),
        ((11,), (1,), (4,), ((0, 0),), (1,)),
        ((1,), (3,), (1,), ((1, 1),), (1,)),
        ((5, 7), (2, 3), (1, 2), ((1, 0), (1, 1)), (2, 1)),
        ((0, 5), (1, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)),
        ((2, 1, 5, 4), (1, 1, 2, 2), (1, 1, 2, 1), ((0, 0),) * 2 + ((1, 1),) * 2,
         (1, 1, 1, 2)),
    ]  # fmt: skip
    for shape, window, strides, padding, dilation in places:
        at = dict(window=window, strides=strides, padding=padding, dilation=dilation)
        if name == "window_max":
            at["plane"] = (0, len(shape))
        yield Sample(
            lambda b, x, at=at: getattr(b, name)(x, **at), (f64(*shape),), draw
        )


def products() -> Iterator[Sample]:
    places: list[Any] = [
        # shapes, then batch and summed dims of x and of y
        ((3, 5), (5, 7), (), (), (1,), (0,)),
        ((3, 5), (7, 5), (), (), (1,), (1,)),
        ((5, 3), (5, 7), (), (), (0,), (0,)),
        ((5,), (5,), (), (), (0,), (0,)),
        ((3,), (5,), (), (), (), ()),
        ((2, 3, 5), (2, 5, 1), (0,), (0,), (2,), (1,)),
        ((3, 2, 5, 4), (5, 4, 7, 2), (1, 3), (3, 1), (2,), (0,)),
        ((2, 3, 5, 7), (7, 2, 11, 5), (0,), (1,), (2, 3), (3, 0)),
        ((2, 3), (2, 3), (0, 1), (0, 1), (), ()),
        ((0, 5), (5, 3), (), (), (1,), (0,)),
        ((3, 0), (0, 5), (), (), (1,), (0,)),
    ]
    for x, y, xb, yb, xc, yc in places:
        at = dict(x_batch=xb, y_batch=yb, x_sum=xc, y_sum=yc)
        yield Sample(
            lambda b, x, y, at=at: b.dot_general(x, y, **at), (f64(*x), f64(*y))
        )


# x, w, y, strides, padding, dilation, groups
CONVS: list[Any] = [
    ((2, 3, 7), (5, 3, 3), (2, 5, 5), (1,), ((0, 0),), (1,), 1),
    ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1,), ((0, 0),), (1,), 1),
    ((2, 4, 5, 6), (6, 2, 2, 3), (2, 6, 3, 3), (2, 2), ((1, 0), (2, 0)), (1, 1), 2),
    ((1, 3, 7, 5), (3, 1, 3, 2), (1, 3, 5, 3), (1, 2), ((1, 1), (1, 1)), (2, 1), 3),
    ((2, 2, 11), (3, 2, 2), (2, 3, 3), (3,), ((0, 1),), (3,), 1),
    ((0, 2, 5), (3, 2, 2), (0, 3, 4), (1,), ((0, 0),), (1,), 1),
    ((1, 1, 3, 4, 3), (2, 1, 2, 2, 2), (1, 2, 2, 3, 2), (1,) * 3, ((0, 0),) * 3,
     (1,) * 3, 1),
]  # fmt: skip


def convolutions(name: str) -> Iterator[Sample]:
    for x, w, y, strides, padding, dilation, groups in CONVS:
        at = dict(strides=strides, padding=padding, dilation=dilation, groups=groups)
        operands, shape = {
            "conv": ((x, w), None),
            "conv_input_grad": ((y, w), x),
            "conv_weight_grad": ((x, y), w),
        }[name]
        if shape is not None:
            at["shape"] = shape
        yield Sample(
            lambda b, *xs, at=at: getattr(b, name)(*xs, **at),
            tuple(f64(*s) for s in operands),
        )


def broadcasts() -> Iterator[Sample]:
    places: list[Any] = [
        ((), (2, 3), ()),
        ((3,), (2, 3), (1,)),
        ((2,), (2, 3), (0,)),
        ((1, 3), (5, 2, 3), (1, 2)),
        ((2, 1), (2, 1), (0, 1)),
        ((1,), (0, 7), (1,)),
        ((1, 1), (1, 7), (0, 1)),
    ]
    for shape, target, at in places:
        yield Sample(
            lambda b, x, target=target, at=at: b.broadcast(x, shape=target, dims=at),
            (f64(*shape),),
        )


def slices() -> Iterator[Sample]:
    places: list[Any] = [
        ((7,), (1,), (3,), (2,)),
        ((7,), (0,), (7,), (1,)),
        ((7,), (2,), (2,), (3,)),
        ((7,), (7,), (0,), (2,)),
        ((3, 11), (1, 2), (2, 4), (1, 2)),
        ((5, 1, 7), (4, 0, 0), (1, 1, 3), (5, 1, 3)),
        ((0, 3), (0, 1), (0, 2), (1, 1)),
    ]
    for shape, starts, sizes, steps in places:
        at = dict(starts=starts, sizes=sizes, steps=steps)
        yield Sample(lambda b, x, at=at: b.slice(x, **at), (f64(*shape),))


def pads() -> Iterator[Sample]:
    places: list[Any] = [
        ((3,), (1,), (2,), (0,), 0),
        ((5,), (0,), (1,), (2,), 1.5),
        ((1,), (2,), (0,), (3,), 0),
        ((0,), (2,), (1,), (1,), 0),
        ((2, 3), (0, 1), (1, 0), (3, 1), -1.0),
    ]
    for shape, low, high, interior, value in places:
        at = dict(low=low, high=high, interior=interior, value=value)
        yield Sample(lambda b, x, at=at: b.pad(x, **at), (f64(*shape),))


def joined(axis: int) -> Callable[..., Any]:
    return lambda b, *xs: b.concat(*xs, axis=axis)


def reshaped(*shape: int) -> Callable[..., Any]:
    return lambda b, x: b.reshape(x, shape=shape)


def turned(*perm: int) -> Callable[..., Any]:
    return lambda b, x: b.transpose(x, perm=perm)


def by_const(b: Builder, x: Value) -> Any:
    return b.mul(x, b.const(value=2.5, shape=x.shape, dtype=x.dtype))


def by_iota(b: Builder, x: Value) -> Any:
    return b.mul(x, b.iota(axis=0, shape=x.shape, dtype=x.dtype))


SAMPLES: dict[str, list[Sample]] = {
    "neg": unary("neg"),
    "abs": unary("abs", "apart") + unary("abs", "ties"),
    "exp": unary("exp"),
    "log": unary("log", "positive"),
    "sqrt": unary("sqrt", "positive"),
    "rsqrt": unary("rsqrt", "positive"),
    "tanh": unary("tanh"),
    "erf": unary("erf"),
    "sigmoid": unary("sigmoid"),
    "log1p": unary("log1p", "positive"),
    "expm1": unary("expm1"),
    "sin": unary("sin"),
    "cos": unary("cos"),
    "log2": unary("log2", "positive"),
    "log10": unary("log10", "positive"),
    "tan": unary("tan", "small"),
    "asin": unary("asin", "small"),
    "acos": unary("acos", "small"),
    "atan": unary("atan"),
    "sinh": unary("sinh"),
    "cosh": unary("cosh"),
    "asinh": unary("asinh"),
    "acosh": unary("acosh", "above one"),
    "atanh": unary("atanh", "small"),
    "lgamma": unary("lgamma", "positive"),
    "erfinv": unary("erfinv", "small"),
    "i0": unary("i0"),
    "i0e": unary("i0e", "apart"),
    "i1": unary("i1"),
    "i1e": unary("i1e", "apart"),
    "polygamma": samples(by_order, *((s,) for s in SHAPES), draw="positive"),
    "atan2": binary("atan2", "positive"),
    "hypot": binary("hypot", "apart"),
    "log_hypot": binary("log_hypot", "apart"),
    "copysign": binary("copysign", "apart"),
    "real": of_complex(lambda b, z: (b.real(z),)),
    "imag": of_complex(lambda b, z: (b.imag(z),)),
    "complex": of_complex(lambda b, z: (b.real(b.mul(z, z)), b.imag(z))),
    "conj": of_complex(lambda b, z: parts_of(b, b.mul(b.conj(z), z))),
    "fft": [
        *of_complex(transformed("fft", (0,), True, "n"), LINES),
        *of_complex(transformed("fft", (2, 0), False, "sqrt"), CUBES),
    ],
    "rfft": [
        *of_complex(transformed("rfft", (0,), True, "none"), LINES),
        *of_complex(transformed("rfft", (2, 0), False, "sqrt"), CUBES),
    ],
    "irfft": [
        *of_complex(transformed("irfft", (0,), False, "n", size=6), ((4,),)),
        *of_complex(transformed("irfft", (0, 2), True, "none", size=7), ((2, 1, 4),)),
    ],
    "inverse": samples(inverted, ((4, 4),), ((2, 3, 3),), ((1, 1),)),
    "floor": unary("floor", "apart"),
    "ceil": unary("ceil", "apart"),
    "round": unary("round", "apart"),
    "trunc": unary("trunc", "apart"),
    "add": binary("add"),
    "sub": binary("sub"),
    "mul": binary("mul"),
    "div": binary("div", "positive"),
    "pow": binary("pow", "positive"),
    "fmod": binary("fmod", "apart"),
    "max": binary("max", "apart") + binary("max", "ties"),
    "min": binary("min", "apart") + binary("min", "ties"),
    "select": chosen(),
    "cast": casts(),
    "const": samples(by_const, ((3,),), ((0, 1),)),
    "iota": samples(by_iota, ((3, 2),), ((0,),)),
    "reshape": [
        *samples(reshaped(3, 4), ((2, 6),)),
        *samples(reshaped(), ((1, 1),)),
        *samples(reshaped(0, 7), ((3, 0),)),
    ],
    "transpose": [
        *samples(turned(2, 0, 1), ((2, 3, 5),), ((1, 7, 0),)),
        *samples(turned(), ((),)),
    ],
    "broadcast": list(broadcasts()),
    "slice": list(slices()),
    "pad": list(pads()),
    "concat": [
        *samples(joined(0), ((3,),), ((1,), (0,), (5,))),
        *samples(joined(1), ((2, 3), (2, 1), (2, 7)), ((0, 2), (0, 3))),
    ],
    "reduce_sum": list(reductions("reduce_sum")),
    "reduce_prod": list(reductions("reduce_prod", "positive")),
    "reduce_max": list(reductions("reduce_max", "apart")),
    "reduce_min": list(reductions("reduce_min", "apart")),
    "window_max": list(windows("window_max", "apart")),
    "window_sum": list(windows("window_sum")),
    "reverse": [
        *samples(lambda b, x: b.reverse(x, axes=(0, 1)), ((2, 3),), ((0, 2),)),
        *samples(lambda b, x: b.reverse(x, axes=(1,)), ((2, 5, 3),)),
    ],
    "cumsum": [
        *samples(lambda b, x: b.cumsum(x, axis=0), ((5,),), ((0,),), ((3, 2),)),
        *samples(lambda b, x: b.cumsum(x, axis=1), ((2, 7, 3),)),
    ],
    "cumprod": [
        *samples(lambda b, x: b.cumprod(x, axis=0), ((5,),), ((0,),), ((3, 2),)),
        *samples(lambda b, x: b.cumprod(x, axis=1), ((2, 7, 3),)),
        *samples(lambda b, x: b.cumprod(x, axis=1), ((4, 7),), draw="ties"),
    ],
    "cummax": [
        *samples(lambda b, x: b.cummax(x, axis=0), ((5,),), ((0,),), draw="apart"),
        *samples(lambda b, x: b.cummax(x, axis=1), ((2, 7, 3),), draw="apart"),
    ],
    "cummin": samples(lambda b, x: b.cummin(x, axis=1), ((2, 7, 3),), draw="apart"),
    "dot_general": list(products()),
    "conv": list(convolutions("conv")),
    "conv_input_grad": list(convolutions("conv_input_grad")),
    "conv_weight_grad": list(convolutions("conv_weight_grad")),
}


def looked_up(name: str) -> Iterator[Sample]:
    """x at, or to, places: some dims kept, the others by an index each."""
    for x, result, dims in (
        ((5,), (3,), (-1,)),
        ((4, 3), (6, 3), (-1, 1)),
        ((4, 3), (4, 5), (0, -1)),
        ((4, 3), (2, 5), (-1, -1)),
        ((3, 4, 2), (4, 6), (-1, 0, -1)),
        ((0, 2), (3, 2), (-1, 1)),
        ((2, 3), (0, 3), (-1, 1)),
    ):
        indices = [TensorType(result, "int64")] * sum(k < 0 for k in dims)
        given, shape = (x, result) if name == "gather" else (result, x)
        yield Sample(
            lambda b, v, *i, shape=shape, dims=dims: getattr(b, name)(
                v, *i, shape=shape, dims=dims
            ),
            (f64(*given), *indices),
        )


def put_over() -> Iterator[Sample]:
    """Elements of a second operand over those of the first, some at one place."""
    for x, part, dims in (
        ((4,), (3,), (-1,)),
        ((3,), (7,), (-1,)),
        ((4, 3), (6, 3), (-1, 1)),
        ((4, 3), (4, 5), (0, -1)),
        ((3, 4, 3), (4, 6), (-1, 0, -1)),
        ((0, 2), (3, 2), (-1, 1)),
        ((3, 3), (0, 3), (-1, 1)),
    ):
        indices = [TensorType(part, "int64")] * sum(k < 0 for k in dims)
        yield Sample(
            lambda b, x, y, *i, dims=dims: b.put(x, y, *i, dims=dims),
            (f64(*x), f64(*part), *indices),
        )


SAMPLES["put"] = list(put_over())
SAMPLES["gather"] = list(looked_up("gather"))
SAMPLES["scatter_add"] = list(looked_up("scatter_add"))


def ordered() -> Iterator[Sample]:
    """Rows of numbers that are all different; where they were has no gradient."""
    sizes = (((5,), 5), ((3, 4), 4), ((2, 3, 6), 2), ((3, 0), 0), ((1,), 1))
    for shape, count in sizes:
        for down in (False, True):
            yield Sample(
                lambda b, x, down=down, count=count: b.sort(
                    x, descending=down, count=count
                ),
                (f64(*shape),),
                "apart",
            )


SAMPLES["sort"] = list(ordered())
