"""What a program writes: by functions in place, several times, in branches and loops.

The oracle is the same function, run eagerly on a copy of its inputs.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle.static import InputSpec

import pirol
from pirol.compiler.capture import in_place
from pirol.compiler.capture.memory import Memory
from pirol.compiler.capture.reader import _Reader
from pirol.compiler.errors import PirolWarning

warnings.simplefilter("ignore", PirolWarning)
DATA = np.random.default_rng(0).uniform(0.2, 0.9, (3, 3)).astype("float32")


def exp(x: Any, n: Any) -> Any:
    y = x * 2
    z = y.exp_()
    return y, z + y


def binary(x: Any, n: Any) -> Any:
    y = x * 2
    y.add_(x)
    y.multiply_(paddle.ones([3]) * 3)
    y.clip_(max=4.0)
    return y


def activation(x: Any, n: Any) -> Any:
    y = x - 0.5
    F.relu_(y)
    paddle.tanh_(y)
    return y * y


def where(x: Any, n: Any) -> Any:
    y = x * 2
    paddle.where_(y > 1, y, x)
    return y + 0


def another_shape(x: Any, n: Any) -> Any:
    y = x * 2
    y.reshape_([-1])
    y.unsqueeze_(0)
    return y


def another_dtype(x: Any, n: Any) -> Any:
    y = x * 4
    y.cast_("int32")
    return y + y


def fills(x: Any, n: Any) -> Any:
    y, z, w = x * 2, x * 1, x * 3
    y.fill_(3.0)
    z.zero_()
    z.copy_(y * 2)
    w.fill_diagonal_(5.0)
    return y + z, w, x.fill_diagonal_tensor(y[0])


def of_no_dims(x: Any, n: Any) -> Any:
    y = x.sum()
    y.sqrt_()
    return y * x


def read_before(x: Any, n: Any) -> Any:
    y = x * 2
    z = y.sin()
    y.exp_()
    return z * y


DIFFERENTIABLE = (exp, binary, another_shape, of_no_dims)


def input_twice(x: Any, n: Any) -> Any:
    x[0] = 1.0
    x[1] = 2.0
    return x * 2


def input_by_methods(x: Any, n: Any) -> Any:
    x.sqrt_()
    x.add_(paddle.ones([3]))
    return x


def in_branch(x: Any, n: Any) -> Any:
    x[0] = 1.0
    if n > 1:
        x[1] = 2.0
        x.sqrt_()
    x[1, 0] = 3.0
    return x * 2


def in_both_branches(x: Any, n: Any) -> Any:
    if n > 1:
        x[1] = 2.0
    else:
        x.exp_()
    x[1, 0] = 3.0
    return x * 2


def in_loop(x: Any, n: Any) -> Any:
    i = paddle.zeros([], "int64")
    while i < n:
        x[i] = 5.0
        i = i + 1
    return x * 2


def by_two_names(x: Any, n: Any) -> Any:
    i, y = paddle.zeros([], "int64"), x
    while i < n:
        if i > 0:
            x[i] = 5.0
            x[i, 1] = 6.0
        i = i + 1
    y[0, 0] = 7.0
    return x * 2


def in_branch_of_made(x: Any, n: Any) -> Any:
    z = x * 2
    if n > 1:
        z[0] = 1.0
        z.exp_()
    else:
        z.sqrt_()
    z.add_(x)
    return z


INSIDE = (exp, binary, activation, where, another_shape, another_dtype, fills)
INSIDE += (of_no_dims, read_before, in_branch_of_made)
INPUTS = (input_twice, input_by_methods, in_branch, in_both_branches, in_loop)
INPUTS += (by_two_names,)


def flat(found: Any) -> Iterator[Any]:
    for value in found if isinstance(found, tuple) else (found,):
        yield value.dtype, value.numpy()


def compare(fn: Callable[..., Any], n: int, spec: Any = None) -> None:
    """Results and inputs, compiled and eagerly."""
    ours, theirs = paddle.to_tensor(DATA), paddle.to_tensor(DATA)
    fast, count = pirol.to_static(fn, input_spec=spec, strict=True), paddle.to_tensor(n)
    found = [*flat(fast(ours, count)), *flat(ours)]
    wanted = [*flat(fn(theirs, count)), *flat(theirs)]
    for (dtype, got), (expected, value) in zip(found, wanted, strict=True):
        assert dtype == expected
        np.testing.assert_allclose(got, value, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("fn", [*INSIDE, *INPUTS], ids=lambda f: f.__name__)
def test_what_is_written_is_as_in_eager(fn: Callable[..., Any], n: int) -> None:
    compare(fn, n)


def methods(x: Any, n: Any) -> Any:
    y, z, w = x * 2, x * 1, x * 3
    y.fill_(3.0)
    z.zero_()
    z.copy_(y * 2)
    w.fill_diagonal_(5.0)
    return y + z, w.exp_()


def test_sizes_need_not_be_known() -> None:
    spec = [InputSpec([None, None]), InputSpec([], "int64")]
    for fn in (methods, input_twice, in_branch):
        compare(fn, 2, spec)


@pytest.mark.parametrize("fn", DIFFERENTIABLE, ids=lambda f: f.__name__)
def test_gradients_go_through_what_is_written(fn: Callable[..., Any]) -> None:
    grads = []
    for run in (pirol.to_static(fn, strict=True), fn):
        x = paddle.to_tensor(DATA, stop_gradient=False)
        found = run(x, paddle.to_tensor(1))
        ends = found if isinstance(found, tuple) else (found,)
        sum(end.sum() for end in ends).backward()
        grads.append(x.grad.numpy())
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-5)


def test_what_was_read_before_keeps_its_gradient() -> None:
    """Eager refuses: sin's operand was overwritten."""
    x = paddle.to_tensor(DATA, stop_gradient=False)
    pirol.to_static(read_before, strict=True)(x, paddle.to_tensor(1)).sum().backward()
    wide = DATA.astype("float64") * 2
    expected = 2 * np.exp(wide) * (np.sin(wide) + np.cos(wide))
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-5)


class Counts(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", paddle.zeros([3]))

    def forward(self, x: Any) -> Any:
        self.mean.add_(x.mean(0))
        self.mean.scale_(0.5)
        return x + self.mean


def test_a_buffer_is_written_by_methods() -> None:
    layer = Counts()
    fast = pirol.to_static(copy.deepcopy(layer), strict=True)
    x = paddle.to_tensor(DATA)
    for _ in range(2):
        np.testing.assert_allclose(fast(x).numpy(), layer(x).numpy(), rtol=1e-6)
        np.testing.assert_allclose(fast.mean.numpy(), layer.mean.numpy(), rtol=1e-6)


def flattened(x: Any) -> Any:
    x.flatten_()
    return x * 2


def test_an_input_that_would_get_another_shape_is_left_and_said() -> None:
    x = paddle.to_tensor(DATA)
    with pytest.warns(UserWarning, match=r"flatten_ of an input.*stays as it was"):
        found = pirol.to_static(flattened)(x)
    np.testing.assert_array_equal(found.numpy(), DATA.ravel() * 2)
    assert x.shape == [3, 3]


def test_nothing_is_said_of_what_is_done() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pirol.to_static(exp)(paddle.to_tensor(DATA), paddle.to_tensor(1))


ARRAYS = """
import numpy as np, paddle, pirol
array = np.arange(1, 4, dtype="float32")
def f(x):
    return x + array, array + x, array - x, x / array, array ** x, x > array, array @ x
def g(x):
    return x + 2j, 2j - x, x * (1 + 1j)
for h, x in ((f, paddle.rand([3, 3])), (g, paddle.rand([3])), (g, paddle.arange(3))):
    for a, b in zip(pirol.to_static(h, strict=True)(x), h(x)):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5)
print("done")
"""


def test_operators_take_arrays_and_complex_numbers(tmp_path: Any) -> None:
    """In a process of its own: Paddle's own ends it."""
    path = tmp_path / "arrays.py"
    path.write_text(ARRAYS)
    run = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert run.stdout == "done\n", run.stderr


def unwritten(old: Any, new: Any, title: str) -> Any:
    return new


def overwrite_one(self: Any, value: Any, new: Any) -> None:
    self.env[value] = new


FAULTS = {
    "not written": (in_place, "written", unwritten, exp),
    "one name": (_Reader, "overwrite", overwrite_one, input_twice),
    "another memory": (Memory, "same", lambda self, values: False, in_branch),
    "a loop's own": (Memory, "same", lambda self, values: False, in_loop),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, wrong, fn = FAULTS[fault]
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(AssertionError):
        compare(fn, 2)
