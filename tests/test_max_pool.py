"""Max-pooling with dilation: pirol.nn against its definition in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pirol
import pirol.nn.functional as F
from pirol.compiler.errors import ArgumentError
from pirol.nn import MaxPool1D, MaxPool2D, MaxPool3D

FUNCTIONS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
LAYERS = {1: MaxPool1D, 2: MaxPool2D, 3: MaxPool3D}
FULL = pytest.mark.full
LAST = {1: "NLC", 2: "NHWC", 3: "NDHWC"}


def defined(
    x: Any,
    size: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    extra: Sequence[int],
) -> tuple[Any, Any, Any]:
    """The values, the mask, and x's flat places: of the last dims, window by window."""
    lead, dims = x.shape[: -len(size)], x.shape[-len(size) :]
    out = [
        (n + lo + hi + e - d * (k - 1) - 1) // s + 1
        for n, (lo, hi), e, d, k, s in zip(dims, pads, extra, dilation, size, stride)
    ]
    low = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    values = np.full((*lead, *out), low, x.dtype)
    mask = np.full((*lead, *out), -1, np.int64)
    for at in np.ndindex(*lead, *out):
        plane = x[at[: len(lead)]]
        for tap in np.ndindex(*size):
            place = [
                o * s - lo + t * d
                for o, s, (lo, _), t, d in zip(
                    at[len(lead) :], stride, pads, tap, dilation
                )
            ]
            if not all(0 <= p < n for p, n in zip(place, dims)):
                continue
            value = plane[tuple(place)]
            first = mask[at] < 0
            if first or (values[at] == values[at] and not value <= values[at]):
                values[at], mask[at] = value, np.ravel_multi_index(place, dims)
    return values, mask, np.prod(dims)


@st.composite
def cases(draw: Any) -> dict[str, Any]:
    """An input and windows that fit it."""
    count = draw(st.integers(1, 3))
    dims = [draw(st.integers(1, 7 if count < 3 else 4)) for _ in range(count)]
    kinds = ["float32", "float64", "float16", "int64", "int32", "int8"]
    kind = draw(st.sampled_from(kinds))
    size, stride, dilation, pads = [], [], [], []
    for n in dims:
        lo, hi = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        most = n + lo + hi
        k = draw(st.integers(1, min(most, 4)))
        d = draw(st.integers(1, 3 if k == 1 else max(1, min(3, (most - 1) // (k - 1)))))
        size.append(k)
        dilation.append(d)
        pads.append((lo, hi))
        stride.append(draw(st.integers(1, 4)))
    lead = draw(st.sampled_from([(2, 3), (1, 1), (3,), (0, 2)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.integers(-3, 4, (*lead, *dims)).astype(kind)  # many ties
    if x.dtype.kind == "f" and draw(st.booleans()):
        x[rng.random(x.shape) < 0.1] = np.nan
        x[rng.random(x.shape) < 0.1] = np.inf
        x[rng.random(x.shape) < 0.4] = -np.inf
    return {
        "x": x,
        "size": size,
        "stride": stride,
        "pads": pads,
        "dilation": dilation,
        "ceil": draw(st.booleans()),
        "last": draw(st.booleans()),
    }


@settings(max_examples=5)
@given(cases())
def test_some_against_the_definition(case: dict[str, Any]) -> None:
    check(case)


@FULL
@settings(max_examples=60)
@given(cases())
def test_against_the_definition(case: dict[str, Any]) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=400)
@given(cases())
def test_many_against_the_definition(case: dict[str, Any]) -> None:
    check(case)


def check(case: dict[str, Any]) -> None:
    """Values and mask, exactly."""
    x, count = case["x"], len(case["size"])
    extra = [s - 1 if case["ceil"] else 0 for s in case["stride"]]
    windows = (case["size"], case["stride"], case["pads"], case["dilation"])
    expected, mask, _ = defined(x, *windows, extra)
    channel = x.ndim - count - 1
    given = np.moveaxis(x, channel, -1) if case["last"] else x
    found = FUNCTIONS[count](
        paddle.to_tensor(given),
        case["size"],
        case["stride"],
        [n for pair in case["pads"] for n in pair],
        True,
        case["ceil"],
        case["dilation"],
        **({"data_format": LAST[count]} if case["last"] else {}),
    )
    for tensor, array in zip(found, (expected, mask.astype("int32"))):
        got = tensor.numpy()
        got = np.moveaxis(got, -1, channel) if case["last"] else got
        assert got.dtype == array.dtype and got.shape == array.shape
        np.testing.assert_array_equal(got, array)


def test_gradients_to_second_order() -> None:
    """To the first of equal elements; the second of squares is theirs again."""
    rng = np.random.default_rng(0)
    array = rng.integers(-2, 3, (2, 3, 8, 9)).astype("float64")
    size, stride, pads, dilation = [3, 2], [2, 1], [(1, 0), (2, 1)], [2, 3]
    values, mask, plane = defined(array, size, stride, pads, dilation, [0, 0])
    weights = rng.random(values.shape)
    flat = np.zeros((6, plane))
    second = np.zeros((6, plane))
    for k in range(6):
        at = mask.reshape(6, -1)[k]
        w, v = weights.reshape(6, -1)[k], values.reshape(6, -1)[k]
        np.add.at(flat[k], at, 3 * w * v * v)
        np.add.at(second[k], at, 6 * w * v)
    x = paddle.to_tensor(array, stop_gradient=False)
    out = F.max_pool2d(x, size, stride, [1, 0, 2, 1], dilation=dilation)
    loss = (out**3 * paddle.to_tensor(weights)).sum()
    (first,) = paddle.grad(loss, [x], create_graph=True)
    np.testing.assert_allclose(first.numpy().reshape(6, -1), flat, rtol=1e-12)
    (again,) = paddle.grad(first.sum(), [x])
    np.testing.assert_allclose(again.numpy().reshape(6, -1), second, rtol=1e-12)


def numbers(*shape: int) -> Any:
    return paddle.to_tensor(np.random.default_rng(0).random(shape).astype("float32"))


def same(a: Any, b: Any) -> bool:
    pairs = zip(a, b) if isinstance(a, (list, tuple)) else [(a, b)]
    return all(np.array_equal(p.numpy(), q.numpy()) for p, q in pairs)


@pytest.mark.parametrize("count", [2, *(pytest.param(k, marks=FULL) for k in (1, 3))])
def test_every_form_of_the_arguments(count: int) -> None:
    """Paddle's order, today's calls among them, and PyTorch's; numbers and lists."""
    pool, layer = FUNCTIONS[count], LAYERS[count]
    x = numbers(2, 3, *[7] * count)
    both = pool(x, 3, 2, 1, True, True, 2)
    assert isinstance(both, tuple) and both[1].dtype == paddle.int32
    values = both[0]
    many = ([3] * count, [2] * count, [1] * count)
    assert same(values, pool(x, *many, False, True, [2] * count))
    assert same(values, pool(x, 3, 2, [1] * 2 * count, False, True, 2))
    pairs = [[0, 0], [0, 0], *[[1, 1]] * count]
    assert same(values, pool(x, 3, 2, pairs, ceil_mode=True, dilation=2))
    assert same(values, pool(x, 3, 2, 1, 2, True))  # PyTorch's function
    assert same(both, pool(x, 3, 2, 1, 2, True, True))
    assert same(both, pool(input=x, kernel_size=3, stride=2, padding=1, dilation=2,
                           ceil_mode=True, return_indices=True))  # fmt: skip
    assert same(both, layer(3, 2, 1, True, True, 2)(x))
    assert same(both, layer(3, 2, 1, 2, True, True)(x))  # PyTorch's layer
    assert same(values, layer(3, 2, 1, 2, False, True)(x))
    assert same(values, layer(3, 2, 1, ceil_mode=True, dilation=2)(input=x))
    assert same(pool(x, 3), pool(x, 3, 3, 0))
    assert same(pool(x, 3, 2, "VALID"), pool(x, 3, 2))
    assert pool(x, 3, 2, 1, True, mask_dtype="int64")[1].dtype == paddle.int64
    assert same(pool(x[0], 3, 2, dilation=2), pool(x, 3, 2, dilation=2)[0])


def test_paddles_own_where_there_is_no_dilation() -> None:
    x = numbers(2, 3, 9, 10)
    for arguments in ((2,), (3, 2, 1), (3, 2, 1, True), (3, 2, [0, 1], False, True)):
        theirs = paddle.nn.functional.max_pool2d(x, *arguments)
        assert same(F.max_pool2d(x, *arguments), theirs), arguments


def test_same_padding_is_honoured_with_the_mask() -> None:
    x = numbers(1, 2, 7, 10)
    values, mask = F.max_pool2d(x, 3, [2, 1], "SAME", True, dilation=2)
    assert values.shape == [1, 2, 4, 10]
    expected, places, _ = defined(
        x.numpy(), (3, 3), (2, 1), [(2, 2), (2, 2)], (2, 2), (0, 0)
    )
    np.testing.assert_array_equal(values.numpy(), expected)
    np.testing.assert_array_equal(mask.numpy(), places)


def test_ceil_correction_drops_a_last_window_in_the_padding() -> None:
    x = numbers(1, 1, 5)
    whole = F.max_pool1d(x, 1, 3, [0, 2], ceil_mode=True)
    assert whole.shape == [1, 1, 3] and float(whole[0, 0, 2]) == -np.inf
    assert F.max_pool1d(x, 1, 3, [0, 2], False, True, ceil_correction=True).shape == [
        *(1, 1, 2)
    ]


BAD = {
    "kernel_size": {"kernel_size": 0},
    "kernel_size, got a window of 9 over 8": {"kernel_size": 3, "dilation": 4},
    "kernel_size: got [2]*3": {"kernel_size": [2, 2, 2]},
    "stride": {"stride": -1},
    "dilation": {"dilation": 0},
    "padding": {"padding": [1, 2, 3]},
    "padding: got -1": {"padding": -1},
    "padding: got 'MOST'": {"padding": "MOST"},
    "padding, of channels": {"padding": [[0, 0], [1, 0], [0, 0], [0, 0]]},
    "data_format": {"data_format": "NCL"},
    "return_mask": {"return_mask": True, "dilation": False},
    "ceil_mode": {"ceil_mode": 1},
    "mask_dtype": {"mask_dtype": "float32", "return_mask": True},
    "arguments": {"kernel": 2},
}


@pytest.mark.parametrize("what", BAD)
def test_errors_name_the_argument(what: str) -> None:
    asked = {"kernel_size": 2, **BAD[what]}
    if what == "return_mask":
        asked = {"kernel_size": 2, "return_mask": "yes", "ceil_mode": False}
    argument = what.replace(":", ",").split(",")[0]
    pattern = f"max_pool2d, ({argument}|dilation)"
    with pytest.raises(ArgumentError, match=pattern + ".*: got .*, expected"):
        F.max_pool2d(numbers(1, 1, 8, 8), **asked)


def test_errors_of_inputs() -> None:
    for x, got in (
        (numbers(8, 8), "2 dims"),
        (numbers(1, 1, 8, 8).astype("bool"), "bool"),
        (numbers(1, 1, 8, 8).astype("complex64"), "complex64"),
        ([1.0], "list"),
    ):
        with pytest.raises(ArgumentError, match=f"max_pool2d, x: got {got}"):
            F.max_pool2d(x, 2, return_mask=True)


class Net(paddle.nn.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 4, 3)
        self.pool = MaxPool2D(3, 2, 1, dilation=2)

    def forward(self, x: Any) -> Any:
        """A pooling between two ops that it fuses with."""
        return self.pool(paddle.nn.functional.relu(self.conv(x))) + 1.0


@pytest.mark.parametrize("full_graph", [True, pytest.param(False, marks=FULL)])
def test_captured_as_one_op(full_graph: bool) -> None:
    """Fused, for any size on one plan, and as Paddle runs the same program."""
    net = Net()
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32")]
    plain = paddle.jit.to_static(Net(), spec, full_graph=True, backend=None)
    plain.set_state_dict(net.state_dict())
    fast = pirol.to_static(net, input_spec=spec, full_graph=full_graph)
    for shape in ((2, 3, 9, 12), (1, 3, 16, 9), (0, 3, 9, 9)):
        x = numbers(*shape)
        with paddle.no_grad():
            a, b = fast(x), plain(x)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)
    report = pirol.explain(fast)
    assert not report.fallbacks and (report.compiles == 1 or not full_graph)
    assert "window_max" in str(report) and "strided" not in str(report)


def test_saved_programs_mean_the_same(tmp_path: Any) -> None:
    net = Net()
    net.eval()
    x = numbers(2, 3, 9, 12)
    expected = net(x)
    spec = [paddle.static.InputSpec([None, 3, 9, 12], "float32")]
    paddle.jit.save(net, str(tmp_path / "net"), spec)
    for load in (paddle.jit.load, pirol.load_inference_model):
        found = load(str(tmp_path / "net"))(x)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5)


def test_exported_without_paddle(tmp_path: Any) -> None:
    net = Net()
    x = numbers(2, 3, 9, 12)
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32")]
    with paddle.no_grad():
        expected = net(x)
        fast = pirol.to_static(net, input_spec=spec)
        fast(x)
    pirol.export(fast, tmp_path / "net.pirol")
    found = pirol.load(tmp_path / "net.pirol")(x.numpy())
    np.testing.assert_allclose(np.asarray(found), expected.numpy(), rtol=1e-5)


def test_trains() -> None:
    """A captured network and its gradients, by ours and by Paddle's run of the taps."""
    net = Net()
    x = numbers(2, 3, 9, 12)
    fast = pirol.to_static(net)
    fast(x).square().mean().backward()
    ours = [p.grad.numpy() for p in net.parameters()]
    net.clear_gradients()
    plain = paddle.jit.to_static(Net(), full_graph=True, backend=None)
    plain.set_state_dict(net.state_dict())
    plain(x).square().mean().backward()
    for a, p in zip(ours, plain.parameters()):
        np.testing.assert_allclose(a, p.grad.numpy(), rtol=1e-4, atol=1e-6)
    assert not pirol.explain(fast).fallbacks


INSIDE = [
    (F.max_pool1d, (2, 3, 17), {"padding": 2, "dilation": 2}, {}),
    (F.max_pool2d, (2, 3, 9, 12), {"stride": 2, "padding": 1}, {}),
    (F.max_pool2d, (2, 9, 12, 3), {"dilation": 2}, {"data_format": "NHWC"}),
    (F.max_pool2d, (3, 9, 12), {"stride": 1, "padding": 2, "dilation": 2}, {}),
    (F.max_pool3d, (1, 2, 5, 6, 7), {"stride": 2, "dilation": 2}, {}),
]


@pytest.mark.parametrize("sized", [True, pytest.param(False, marks=FULL)])
@pytest.mark.parametrize("run, shape, kind, form", INSIDE)
def test_gradients_inside(
    run: Any, shape: Any, kind: Any, form: Any, sized: bool
) -> None:
    """What `paddle.grad` appends to a captured program are sums at places too."""

    def slope(x: Any) -> Any:
        value = run(x, 3, **kind, **form)
        return paddle.grad((value * value.detach()).sum(), [x])[0]

    x = numbers(*shape)
    x[..., :1, :2] = 3.0  # equals
    x.stop_gradient = False
    spec = [
        paddle.static.InputSpec([None] * len(shape), "float32", stop_gradient=False)
    ]
    fast = pirol.to_static(slope, input_spec=None if sized else spec)
    found = fast(x)
    value = run(x, 3, **kind, **form)
    (wanted,) = paddle.grad(value, [x], [value.detach()])
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())
    report = pirol.explain(fast)
    assert not report.fallbacks and report.compiles == 1
    ops = [op for group in report.groups for op in group.ops]
    assert "scatter_add" in ops and "pad" not in ops
