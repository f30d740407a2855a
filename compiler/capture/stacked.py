"""Layers of nn.LSTM, nn.GRU and nn.SimpleRNN with dropout between them, while Pirol
captures: one by one, with dropouts like all others.

Paddle has one op for the whole stack, which draws masks itself, so that no other can
compute its gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle.nn.layer.rnn import RNNBase

from pirol.compiler.capture.overwritten import capturing


@functools.cache
def follow() -> None:
    """Put ours before Paddle's function, once."""
    stack = RNNBase._cudnn_impl

    def run(self: Any, inputs: Any, states: Any, lengths: Any) -> Any:
        drops = self.training and self.num_layers > 1 and self.dropout
        if drops and capturing.counted and not paddle.in_dynamic_mode():
            return _one_by_one(self, inputs, states, lengths)
        return stack(self, inputs, states, lengths)

    RNNBase._cudnn_impl = run


def _one_by_one(stack: Any, x: Any, states: Sequence[Any], lengths: Any) -> Any:
    """Paddle's op, of one layer, for each layer."""
    x = x if stack.time_major else x.transpose([1, 0, 2])
    ways, found = stack.num_directions, []
    half = len(stack._all_weights) // 2
    for layer in range(stack.num_layers):
        if layer:
            x = F.dropout(x, stack.dropout)
        here = slice(2 * ways * layer, 2 * ways * (layer + 1))
        weights = [*stack._all_weights[:half][here], *stack._all_weights[half:][here]]
        before = [s[ways * layer : ways * (layer + 1)] for s in states]
        size = ways * stack.hidden_size if layer else stack.input_size
        x, _, after = paddle._C_ops.rnn(
            *(x, before, weights, lengths, stack._dropout_state, 0.0, ways == 2),
            *(size, stack.hidden_size, 1, stack.mode, 0, False),
        )
        found.append(after)
    x = x if stack.time_major else x.transpose([1, 0, 2])
    last = tuple(paddle.concat(part) for part in zip(*found))
    return x, last if len(last) > 1 else last[0]
