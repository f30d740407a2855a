"""What Paddle does not say of its ops: which write, which draw, what is mistaken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paddle.base import core

from pirol.prim.decomp.pointwise import TAKE_INTS

PUT = "pd_op.assign_out_"  # of a buffer that a Layer sets, for one
# In-place ops: result number -> the operand number whose memory it is.
INPLACE = {
    PUT: {0: 1},
    "pd_op.batch_norm_": {1: 1, 2: 2},
}
# Ops that make constants, or compute with shapes: a branch makes them for itself.
REPEATED = {
    f"pd_op.{name}"
    for name in ("full", "full_int_array", "assign_value", "shape64", "slice")
}
FIXED = ("pd_op.full", "pd_op.full_int_array")
# Ops that draw random numbers or act otherwise: all run, in the program's order.
_ACTS = (
    "assert bernoulli binomial dirichlet dropout exponential_ gaussian"
    " gaussian_inplace_ gumbel_softmax multinomial poisson print randint randperm rrelu"
    " standard_gamma truncated_gaussian_random uniform uniform_inplace_ top_p_sampling"
)
EFFECTS = {f"pd_op.{name}" for name in _ACTS.split()}
# Those that do so only with some attributes.
SOMETIMES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "pd_op.rnn": lambda attrs: attrs["dropout_prob"] != 0,
    "pd_op.fractional_max_pool2d": lambda attrs: attrs["random_u"] == 0,
    "pd_op.fractional_max_pool3d": lambda attrs: attrs["random_u"] == 0,
}
# Results whose dtype Paddle declares otherwise than its kernel gives it: the dtype,
# that of the first operand (of integers float32), or what the attribute `dtype` says.
FIRST, FLOAT, SAID = "first", "float", "said"
MISTAKEN = {
    "pd_op.generate_proposals": {2: "int32"},
    "pd_op.matrix_rank": {0: "int64"},
    "pd_op.overlap_add": {0: FIRST},
    "pd_op.unique": {0: FIRST, 1: SAID, 2: SAID, 3: SAID},
    **{f"pd_op.{name}": {0: FLOAT} for name in TAKE_INTS},
    **dict.fromkeys(("pd_op.any", "pd_op.all", "pd_op.equal_all"), {0: "bool"}),
}
# The operand of floats to which Paddle's op has no gradient, not even zeros.
STOPPED = {"pd_op.expand_as": 1, "pd_op.gammaincc": 0, "pd_op.fused_softmax_mask": 1}
SKIPPED_ATTRS = ("op_callstack", "struct_name", "stop_gradient", "place")


def acts(name: str, attrs: Mapping[str, Any]) -> bool:
    """Whether it draws random numbers, or acts otherwise."""
    if attrs.get("is_test"):
        return False
    sometimes = SOMETIMES.get(name)
    return name in EFFECTS if sometimes is None else sometimes(attrs)


def differentiable(op: Any) -> bool:
    """Whether Paddle has a gradient of it, in eager mode at least; those of `foo_grad`
    are ours."""
    ours = op.name() == "pd_op.memcpy" or "_grad" in op.name()
    return ours or any(op.blocks()) or bool(core.has_vjp(op))
