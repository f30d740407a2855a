"""What users call a function, and how they call it: any callable, any arguments."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

import pirol


def two() -> tuple[Any, Any]:
    made = [paddle.to_tensor([k, 2.0, 3.0], stop_gradient=False) for k in (1.5, 5.0)]
    return made[0], made[1]


def any_number(*xs: Any) -> Any:
    return sum(x * (k + 1) for k, x in enumerate(xs))


def some_named(x: Any, *rest: Any, scale: Any = 2.0) -> Any:
    return (x + sum(rest)) * scale


def by_name(x: Any, **others: Any) -> Any:
    for name in sorted(others):
        x = x * others[name] + 1.0
    return x


def only_by_name(x: Any, *, mask: Any = None) -> Any:
    return x if mask is None else x * mask


def twice(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) * 2.0

    return run


@twice
def decorated(x: Any, y: Any) -> Any:
    return x - y if x.sum() > y.sum() else y - 2.0 * x


class Scaled:
    def __call__(self, x: Any) -> Any:
        return x * 3.0

    def method(self, x: Any, y: Any) -> Any:
        return x * y

    @classmethod
    def of_class(cls, x: Any) -> Any:
        return x * 5.0


class Inputs(paddle.nn.Layer):
    """A Layer whose forward takes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = paddle.nn.Linear(3, 2)

    def forward(self, *xs: Any, **named: Any) -> Any:
        return self.linear(sum(xs)) * named.get("scale", 1.0)


source: dict[str, Any] = {}
exec("def unseen(x, y):\n    return x * y + x\n", source)

CALLS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "any number, of one": (any_number, lambda f, x, y: f(x)),
    "any number, of three": (any_number, lambda f, x, y: f(x, y, x)),
    "some named": (some_named, lambda f, x, y: f(x, y, y)),
    "a number by name": (some_named, lambda f, x, y: f(x, y, scale=4.0)),
    "a tensor by name": (some_named, lambda f, x, y: f(x, scale=y)),
    "a named one by name": (some_named, lambda f, x, y: f(scale=y, x=x)),
    "several by name": (by_name, lambda f, x, y: f(x, b=y, a=x, c=2.0)),
    "only by name": (only_by_name, lambda f, x, y: f(x, mask=y)),
    "decorated": (decorated, lambda f, x, y: f(x, y)),
    "an object": (Scaled(), lambda f, x, y: f(x) + y),
    "a method": (Scaled().method, lambda f, x, y: f(x, y)),
    "a class method": (Scaled.of_class, lambda f, x, y: f(x) + y),
    "partial": (functools.partial(some_named, scale=3.0), lambda f, x, y: f(x, y)),
    "cached": (functools.lru_cache(lambda x, y: x * y), lambda f, x, y: f(x, y)),
    "a lambda": (lambda x, y: x * y + 1.0, lambda f, x, y: f(x, y)),
    "no source": (source["unseen"], lambda f, x, y: f(x, y)),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_any_callable_and_any_arguments(name: str) -> None:
    function, call = CALLS[name]
    fast = pirol.to_static(function, strict=True)
    for k in range(3):
        x, y = two()
        found, expected = call(fast, x * (k + 1.0), y), call(function, x * (k + 1.0), y)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)
        for got, want in zip(*(paddle.grad(v.sum(), [x, y], allow_unused=True)
                               for v in (found, expected))):  # fmt: skip
            assert (got is None) == (want is None)
            if got is not None:
                np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)
    assert pirol.explain(fast).plans


def test_tensors_by_name_are_inputs() -> None:
    """Not what they were when the program was captured; in any order."""
    fast = pirol.to_static(by_name, strict=True)
    x, y = two()
    for given in ({"a": x, "b": y}, {"b": x, "a": y}, {"a": y, "b": y}, {"c": x}):
        np.testing.assert_allclose(
            fast(x, **given).numpy(), by_name(x, **given).numpy()
        )


def test_beside_an_input_spec() -> None:
    """Those that it does not name are inputs too."""
    fast = pirol.to_static(by_name, input_spec=[InputSpec([None])], strict=True)
    more = pirol.to_static(any_number, input_spec=[InputSpec([None])], strict=True)
    x, y = two()
    for n, given in enumerate(({}, {"a": y}, {"a": x, "b": y}, {"a": y, "b": x}) * 2):
        part = x[: 2 + n // 4]
        cut = {k: v[: 2 + n // 4] for k, v in given.items()}
        np.testing.assert_allclose(
            fast(part, **cut).numpy(), by_name(part, **cut).numpy()
        )
        found, expected = (f(part, *cut.values()) for f in (more, any_number))
        np.testing.assert_allclose(found.numpy(), expected.numpy())


def test_a_layer(tmp_path: Any) -> None:
    layer = Inputs()
    x, y = two()
    eager = [f() for f in (lambda: layer(x), lambda: layer(x, y, scale=y[:2]))]
    fast = pirol.to_static(layer, strict=True)
    found = [fast(x), fast(x, y, scale=y[:2])]
    for got, want in zip(found, eager):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5)
    found[1].sum().backward()
    assert layer.linear.weight.grad is not None and y.grad is not None
    paddle.jit.save(
        fast, str(tmp_path / "m"), input_spec=[InputSpec([3]), InputSpec([3])]
    )
    loaded = paddle.jit.load(str(tmp_path / "m"))
    np.testing.assert_allclose(loaded(x, y).numpy(), layer(x, y).numpy(), rtol=1e-5)


def test_branches_without_a_source() -> None:
    """They cannot be captured: the function runs as Paddle runs it, and one is told."""
    function = eval("lambda x: x * 2.0 if x.sum() > 0 else -x")
    fast = pirol.to_static(function)
    with pytest.warns(pirol.PirolWarning, match="could not be captured"):
        found = fast(paddle.to_tensor([1.0, 2.0]))
    np.testing.assert_array_equal(found.numpy(), [2.0, 4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", pirol.PirolWarning)
        found = fast(paddle.to_tensor([-1.0, -2.0]))
    np.testing.assert_array_equal(found.numpy(), [1.0, 2.0])


def test_wrong_calls_are_told_as_by_python() -> None:
    fast = pirol.to_static(some_named)
    with pytest.raises(TypeError, match="unexpected keyword argument 'scales'"):
        fast(two()[0], scales=2.0)
    with pytest.raises(ValueError, match="requires `x` arguments"):
        fast()


@dataclasses.dataclass(frozen=True)
class Found:
    """A result with names."""

    value: Any
    parts: Any
    name: str = "found"


def named_results(x: Any) -> Any:
    return [Found(x * 2.0, {"inner": Found(x + 1.0, None, "inner")}), x.shape[0]]


def test_dataclasses_as_results() -> None:
    fast = pirol.to_static(named_results, strict=True)
    for _ in range(2):
        x = two()[0]
        found, size = fast(x)
        inner = found.parts["inner"]
        assert type(found) is type(inner) is Found
        assert (found.name, inner.name, inner.parts, size) == (
            "found",
            "inner",
            None,
            3,
        )
        np.testing.assert_array_equal(found.value, x * 2.0)
        np.testing.assert_array_equal(inner.value, x + 1.0)
        (grad,) = paddle.grad(found.value.sum(), x)
        np.testing.assert_array_equal(grad, [2.0, 2.0, 2.0])


def checked(x: Any, more: Any) -> Any:
    if not isinstance(x, (int, paddle.Tensor)):
        return x - 100.0
    return doubled_if_tensor(x) if isinstance(more, paddle.Tensor) else x


def doubled_if_tensor(x: Any) -> Any:
    return x * 2.0 if isinstance(x, paddle.Tensor) else x


def looked_through(x: Any, stop: int) -> Any:
    for k in range(4):
        if k == stop:
            break
        if k == 2:
            continue
        x = x * 2.0
    else:
        x = x + 1.0
    return x


def last_row(x: Any) -> Any:
    for k, row in enumerate(x):  # noqa: B007
        if k == 2:
            break
    return row * 1.0


def as_a_list(x: Any) -> Any:
    return x * float(len(x.tolist()))


def test_what_conversion_gets_wrong() -> None:
    x, y = two()
    fast = pirol.to_static(checked, strict=True)
    np.testing.assert_array_equal(fast(x, y), checked(x, y))
    np.testing.assert_array_equal(fast(x, 3), checked(x, 3))
    fast = pirol.to_static(looked_through, strict=True)
    for stop in (1, 9):
        np.testing.assert_array_equal(fast(x, stop), looked_through(x, stop))


@pytest.mark.parametrize("function", [last_row, as_a_list])
def test_what_cannot_be_captured_runs_as_eager(function: Any) -> None:
    fast, x = pirol.to_static(function), two()[0]
    with pytest.warns(pirol.PirolWarning, match="could not be captured"):
        found = fast(x)
    np.testing.assert_array_equal(found, function(x))
    assert not found.stop_gradient
    with warnings.catch_warnings():
        warnings.simplefilter("error", pirol.PirolWarning)
        np.testing.assert_array_equal(fast(x), function(x))
