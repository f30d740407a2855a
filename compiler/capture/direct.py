"""Ops that are run through `paddle._C_ops`, at a few microseconds a call.

Their arguments were checked by hand: a wrong count would crash Paddle. What is not
listed, or was built otherwise in this Paddle, runs as a program of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import paddle
from paddle.base import core

from pirol.compiler.capture.reader import is_fixed

_WINDOW = ("strides", "paddings", "padding_algorithm")
_DECONV = "x filter strides paddings output_padding output_size padding_algorithm"
# The names of the arguments in order: the op's operands, and its attributes.
SIGNATURES: dict[str, tuple[str, ...]] = {
    "matmul": ("x", "y", "transpose_x", "transpose_y"),
    "conv2d": ("input", "filter", *_WINDOW, "dilations", "groups", "data_format"),
    "conv3d": ("input", "filter", *_WINDOW, "groups", "dilations", "data_format"),
    "depthwise_conv2d": (
        *("input", "filter", *_WINDOW),
        *("groups", "dilations", "data_format"),
    ),
}
for _line in f"""
    bmm x y
    conv2d_transpose {_DECONV} groups dilations data_format
    conv3d_transpose {_DECONV} groups dilations data_format
    topk x k axis largest sorted
    argsort x axis descending stable
    kthvalue x k axis keepdim
    searchsorted sorted_sequence values out_int32 right
    bincount x weights minlength
    cummax x axis dtype
    cummin x axis dtype
    nonzero condition
    masked_select x mask
    scatter x index updates overwrite
    scatter_nd_add x index updates
    put_along_axis arr indices values axis reduce include_self
    grid_sample x grid mode padding_mode align_corners
    unfold x kernel_sizes strides paddings dilations
    arange start end step dtype place
    tile x repeat_times
    expand x shape
    reshape x shape
    dropout x seed_tensor p is_test mode seed fix_seed
    uniform shape dtype min max seed place
    gaussian shape mean std seed dtype place
    randint low high shape dtype place
    randperm n dtype place
    bernoulli x
    roi_align x boxes boxes_num pooled_height pooled_width spatial_scale sampling_ratio aligned
""".strip().splitlines():  # noqa: E501
    _name, *_arguments = _line.split()
    SIGNATURES[_name] = tuple(_arguments)
_PAIRS = (
    "add subtract multiply divide maximum minimum less_than less_equal greater_than "
    "greater_equal equal not_equal logical_and logical_or"
)
SIGNATURES |= dict.fromkeys(_PAIRS.split(), ("x", "y"))
# Operands that must be tensors, constant or not.
TENSORS: dict[str, tuple[str, ...]] = dict.fromkeys(
    SIGNATURES, ("x", "y", "index", "updates")
)
TENSORS |= {"arange": ("start", "end", "step"), "put_along_axis": ("arr", "values")}
TENSORS |= {"searchsorted": ("sorted_sequence", "values"), "bincount": ("x", "weights")}
TENSORS |= {"grid_sample": ("x", "grid"), "nonzero": ("condition",)}
# Where sparse ops of the same name hide the arguments from Paddle's own table.
HIDDEN = ("matmul", "conv2d", "conv3d", "divide", "multiply", "subtract", "add")
LACKING = ("dropout",)  # `_C_ops` gives the first result alone


def direct(site: Any, fixed: bool, lone: bool) -> Callable[..., Any] | None:
    """A callable of the op's operand tensors, or None where this way is not open.

    fixed: whether constant operands are not among the tensors; lone: whether only the
    first result is needed.
    """
    name = site.name().removeprefix("pd_op.")
    names = SIGNATURES.get(name)
    if names is None or not _as_listed(name) or (name in LACKING and not lone):
        return None
    given: dict[str, Any] = {**site.attrs(), "place": paddle.CPUPlace()}
    places: list[int] = []
    for key, operand in zip(site.get_input_names(), site.operands()):
        value = operand.source()
        if value.initialized() and value.type().as_vec_type() is not None:
            return None
        constant = _constant(value) if fixed or not value.initialized() else _TENSOR
        if key in TENSORS.get(name, ()) and constant not in (None, _TENSOR):
            constant = _as_tensor(value)
        given[key] = constant
        if constant is _TENSOR:
            places.append(names.index(key))
    if not {*names} <= given.keys():
        return None
    call = _bound(getattr(paddle._C_ops, name), [given[n] for n in names], places)
    if name not in LACKING:
        return call
    rest = [None] * (sum(r.initialized() for r in site.results()) - 1)
    return lambda *tensors: [call(*tensors), *rest]


class _Tensor:
    """Stands for an operand that is known when the program runs."""


_TENSOR = _Tensor()


def _constant(value: Any) -> Any:
    """A null operand's None, a constant operand's number or numbers, else _TENSOR."""
    if not value.initialized():
        return None
    if not is_fixed(value):
        return _TENSOR
    attrs = value.get_defining_op().attrs()
    whole = "int" in str(attrs["dtype"]).lower()
    found = attrs["value"]
    return int(found) if whole and isinstance(found, float) else found


def _as_tensor(value: Any) -> Any:
    """A constant operand as Paddle's tensor."""
    attrs = value.get_defining_op().attrs()
    if value.get_defining_op().name() == "pd_op.full":
        return paddle.full(attrs["shape"], attrs["value"], attrs["dtype"])
    return paddle.to_tensor(attrs["value"], dtype=attrs["dtype"])


def _bound(run: Any, arguments: list[Any], places: list[int]) -> Callable[..., Any]:
    count = len(places)
    if places == list(range(count)):
        rest = arguments[count:]
        return lambda *tensors: run(*tensors, *rest)

    def call(*tensors: Any) -> Any:
        filled = list(arguments)
        for at, tensor in zip(places, tensors):
            filled[at] = tensor
        return run(*filled)

    return call


@functools.cache
def _as_listed(name: str) -> bool:
    """Whether this Paddle's arguments are those that were checked."""
    known = core.eager.ops.get_core_ops_args_info().get(name)  # type: ignore[no-untyped-call]
    return name in HIDDEN or list(known or ()) == list(SIGNATURES[name])
