"""A Paddle optimizer, read: how it trains each parameter, and what state it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.base import framework
from paddle.base.layer_helper import LayerHelper
from paddle.regularizer import L1Decay, L2Decay

from pirol.compiler.capture.reader import dtype_name
from pirol.compiler.errors import Unsupported, message
from pirol.passes.update import (
    SGD,
    Adam,
    ByGlobalNorm,
    ByNorm,
    ByValue,
    Clip,
    Momentum,
    Number,
    Rule,
    Update,
)

Group = Mapping[str, Any]  # "params", "grad_clip", and what the user set beside
Trained = tuple[str, Update]  # a parameter's name; its update, numbers not set yet


class Numbers:
    """The numbers of updates, with their dtypes: of parameters of one group the same
    ones have one place, so that they need no more inputs than there are numbers."""

    def __init__(self) -> None:
        self.places: dict[Any, int] = {}
        self.values: list[tuple[float, str]] = []

    def moved(self, part: Any, group: int, dtype: str) -> Any:
        """An update, rule or clip with its numbers here, but for those that say that
        there is nothing to do, as the defaults do."""
        own = [(f.name, getattr(part, f.name), f.default) for f in fields(part)]
        plain = [(k, v) for k, v, no in own if type(v) is float and v != no]
        found = {k: self.at((group, k), v, dtype) for k, v in plain}
        return replace(part, **found)

    def at(self, what: tuple[int, str], value: float, dtype: str) -> Number:
        """The place of a number."""
        key = what, value, dtype
        if key not in self.places:
            self.places[key] = len(self.values)
            self.values.append((value, dtype))
        return Number(self.places[key])


def trained(optimizer: Any) -> tuple[list[Trained], list[tuple[float, str]]]:
    """The parameters that do not stop gradients, with their updates, and the numbers
    of these; raises Unsupported, saying why, where Paddle's own `step` must be used.
    (`options` has said that the optimizer is known.)"""
    _check(optimizer)
    numbers = Numbers()
    found = [
        (p.name, _update(optimizer, group, number, p, numbers))
        for number, group in enumerate(_groups(optimizer))
        for p in group["params"]
        if not p.stop_gradient
    ]
    if len({name for name, _ in found}) < len(found):
        raise Unsupported("the optimizer has a parameter twice")
    return found, numbers.values


# What a user may change between steps; the rest of `trained` follows from it.
_OPTIONS = (
    *("_momentum", "_use_nesterov", "_rescale_grad", "_beta1", "_beta2", "_epsilon"),
    *("_regularization_method", "_regularization_coeff", "_weight_decay", "_lr_ratio"),
    *("_apply_decay_param_fun", "_amsgrad", "_use_fusion_storage", "_auxiliary_vars"),
    "_use_multi_tensor",
)


def options(optimizer: Any) -> list[Any]:
    """What is to be compared with what it was at the last step; raises Unsupported of
    an optimizer that is not known."""
    kind = type(optimizer)
    if kind not in RULES:
        known = ", ".join(k.__name__ for k in RULES)
        got = f"{kind.__module__}.{kind.__name__}"
        raise Unsupported(message("optimizer", got=got, expected=known))
    own = vars(optimizer)
    found = [own.get(name) for name in _OPTIONS]
    found += _plain(optimizer.regularization)
    for group in _groups(optimizer):
        found += [v for name, v in group.items() if name != "params"]
        found += _plain(group["grad_clip"])
        for p in group["params"]:
            regularizer = getattr(p, "regularizer", None)
            if regularizer is not None:
                found += _plain(regularizer)
            stops = p.stop_gradient
            found += (stops, _asked(p), getattr(p, "need_clip", True))
            found.append(0 if stops else _hooks(p))
    return found


def _plain(part: Any) -> list[Any]:
    """A clip or regularizer, and its numbers."""
    return [part, *getattr(part, "__dict__", {}).values()]


def create_states(optimizer: Any, names: set[str]) -> None:
    """Let the optimizer make its accumulators for these parameters, if it has none."""
    block = framework.default_main_program().global_block()
    for group in _groups(optimizer):
        params = [p for p in group["params"] if p.name in names]
        asked = {**group, "params": params} if _grouped(optimizer) else params
        optimizer._create_accumulators(block, asked)


def state(optimizer: Any, name: str, parameter: str) -> Any:
    """The accumulator of a parameter."""
    prefix = "" if optimizer._name is None else f"{optimizer._name}_"
    return optimizer._accumulators[prefix + name][parameter]


def learning_rate(optimizer: Any) -> Any:
    """The optimizer's own tensor of the rate that is in force now, of shape []."""
    if optimizer.helper is None:
        optimizer.helper = LayerHelper(type(optimizer).__name__)
    optimizer._create_global_learning_rate()
    return optimizer._global_learning_rate()


def _grouped(optimizer: Any) -> bool:
    groups = optimizer._param_groups
    return bool(groups) and isinstance(groups[0], dict)


def _groups(optimizer: Any) -> Sequence[Group]:
    if _grouped(optimizer):
        return optimizer._param_groups  # type: ignore[no-any-return]
    params, clip = optimizer._parameter_list, optimizer._grad_clip
    return [{"params": params, "grad_clip": clip}]


def _check(optimizer: Any) -> None:
    if optimizer._use_multi_tensor:
        raise Unsupported("use_multi_tensor has Paddle update all parameters at once")
    if optimizer._use_fusion_storage:
        raise Unsupported("the optimizer keeps its state in one fused storage")
    if optimizer._get_auxiliary_var("found_inf") is not None:
        raise Unsupported("a GradScaler tells the optimizer which steps to leave out")


def _update(
    optimizer: Any, group: Group, number: int, p: Any, numbers: Numbers
) -> Update:
    if p.dtype not in (paddle.float32, paddle.float64):
        kind = str(p.dtype).rsplit(".")[-1]
        expected = "float32 or float64"
        raise Unsupported(message(f"parameter {p.name}", got=kind, expected=expected))
    if getattr(p, "main_grad", None) is not None:
        raise Unsupported(f"parameter {p.name} has a main_grad")
    if _hooks(p):
        raise Unsupported(f"a hook was registered on parameter {p.name}")
    rule = RULES[type(optimizer)](optimizer, group, p)
    l1, l2 = _decays(optimizer, group, p)
    clip = group["grad_clip"] if getattr(p, "need_clip", True) is not False else None
    given = number, dtype_name(p.dtype)
    made = None if clip is None else numbers.moved(_clip(clip), *given)
    rate = _number(_asked(p), f"the learning rate of parameter {p.name}")
    rule = numbers.moved(rule, *given)
    update = Update(-1, (), rule, rate, l1, l2, made, number)
    return numbers.moved(update, *given)  # type: ignore[no-any-return]


def _hooks(p: Any) -> int:
    """How many hooks were registered on a tensor, but for those registered here: Paddle
    tells no more of them than a new one's number."""
    number = p._register_grad_hook(_no_hook)
    p._remove_grad_hook(number)
    of, ours = getattr(p, "_pirol_hooks", (id(p), 0))
    ours = ours if of == id(p) else 0  # else it was copied with the tensor
    p._pirol_hooks = (id(p), ours + 1)
    return int(number) - ours


def _no_hook(grad: Any) -> None:
    """Leaves a gradient as it is."""


def _asked(p: Any) -> Any:
    """The parameter's own factor of the learning rate."""
    return (getattr(p, "optimize_attr", None) or {}).get("learning_rate", 1.0)


def _number(value: Any, what: str) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    got = type(value).__name__
    raise Unsupported(message(what, got=got, expected="a Python number"))


def _option(optimizer: Any, group: Group, name: str) -> Any:
    """The group's own, else the optimizer's."""
    if _grouped(optimizer):
        return group.get(name, optimizer._default_dict[name])
    return getattr(optimizer, f"_{name}")


def _sgd(optimizer: Any, group: Group, p: Any) -> Rule:
    return SGD()


def _momentum(optimizer: Any, group: Group, p: Any) -> Rule:
    scale = _option(optimizer, group, "rescale_grad")
    if scale != 1.0:
        raise Unsupported(message("rescale_grad", got=str(scale), expected="1.0"))
    mu = _number(_option(optimizer, group, "momentum"), "momentum")
    nesterov = bool(_option(optimizer, group, "use_nesterov"))
    return Momentum(float(np.float32(mu)), nesterov)  # Paddle's kernel takes a float32


def _adam(optimizer: Any, group: Group, p: Any) -> Adam:
    names = ("beta1", "beta2", "epsilon")
    beta1, beta2, epsilon = (_number(_option(optimizer, group, n), n) for n in names)
    return Adam(beta1, beta2, epsilon, amsgrad=optimizer._amsgrad)


def _adamw(optimizer: Any, group: Group, p: Any) -> Rule:
    chosen = optimizer._apply_decay_param_fun
    decay = 0.0
    if chosen is None or chosen(p.name):
        size = _number(_option(optimizer, group, "weight_decay"), "weight_decay")
        decay = float(np.float32(size))  # as Paddle's kernel takes it
    if decay and optimizer._lr_ratio is not None:
        ratio = _number(optimizer._lr_ratio(p), "lr_ratio")
        decay *= float(np.float32(ratio))
    return replace(_adam(optimizer, group, p), decay=decay)


RULES = {
    paddle.optimizer.SGD: _sgd,
    paddle.optimizer.Momentum: _momentum,
    paddle.optimizer.Adam: _adam,
    paddle.optimizer.AdamW: _adamw,
}


def _decays(optimizer: Any, group: Group, p: Any) -> tuple[float, float]:
    """The coefficients of L1 and L2 decay; a parameter's own go before all others."""
    own = getattr(p, "regularizer", None)
    found = optimizer.regularization if own is None else own
    fused = isinstance(optimizer, paddle.optimizer.Momentum)  # in Paddle's kernel
    if fused and own is None and _option(optimizer, group, "regularization_method"):
        return 0.0, float(np.float32(_option(optimizer, group, "regularization_coeff")))
    if found is None:
        return 0.0, 0.0
    if type(found) not in (L1Decay, L2Decay):
        got = type(found).__name__
        expected = "L1Decay or L2Decay"
        what = f"the regularizer of parameter {p.name}"
        raise Unsupported(message(what, got=got, expected=expected))
    size = _number(found._coeff, "weight decay")
    if type(found) is L1Decay:
        return size, 0.0
    return 0.0, float(np.float32(size)) if fused else size


def _clip(clip: Any) -> Clip:
    kind = type(clip)
    if kind is nn.ClipGradByValue:
        return ByValue(_number(clip.min, "min"), _number(clip.max, "max"))
    if kind is nn.ClipGradByNorm:
        return ByNorm(_number(clip.clip_norm, "clip_norm"))
    if kind is nn.ClipGradByGlobalNorm and not clip.should_comm_on_shard_dim:
        norm = _number(clip.clip_norm, "clip_norm")
        return ByGlobalNorm(norm, bool(clip.auto_skip_clip))
    expected = "ClipGradByGlobalNorm, ClipGradByNorm or ClipGradByValue"
    raise Unsupported(message("grad_clip", got=kind.__name__, expected=expected))
