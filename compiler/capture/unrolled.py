"""A recurrent network of any cell, nn.RNN(cell), while Pirol captures.

Paddle's program of it is a `while` with arrays of tensors, which Paddle itself cannot
run backward. Of a known number of steps it is captured as eager runs it, step by step;
in eval mode only of few, since Paddle can run the loop then, and a program is compiled
the longer, the more steps it has.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import paddle

from pirol.compiler.capture.overwritten import capturing

FEW = 32


@functools.cache
def follow() -> None:
    """Put ours before Paddle's function, once."""
    rnn: Any = importlib.import_module("paddle.nn.layer.rnn")
    as_loop, as_steps = rnn._rnn_static_graph, rnn._rnn_dynamic_graph

    def run(
        cell: Any,
        inputs: Any,
        initial_states: Any = None,
        sequence_length: Any = None,
        time_major: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        first, *_ = paddle.utils.flatten(inputs)
        steps = first.shape[0 if time_major else 1]
        known = 0 < steps <= FEW or (steps > 0 and cell.training)
        make = as_steps if capturing.now and known else as_loop
        states = initial_states, sequence_length
        return make(cell, inputs, *states, time_major, *args, **kwargs)

    rnn._rnn_static_graph = run
