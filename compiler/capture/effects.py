"""Which ops of Paddle's draw random numbers or act otherwise, so that all of them run,
in the program's order; and which have gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paddle.base import core

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
