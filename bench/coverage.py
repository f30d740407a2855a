"""What a PIR program asks for, and how much of it Paddle's kernels did in a call.

coverage = 1 - (Paddle's kernel launches that are not a library's) / (compute ops)
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paddle.profiler as profiler

# Ops that make a literal, read a shape, or only hold a program together.
NO_COMPUTE = re.compile(
    r"builtin\..*|cf\..*|pd_op\.(data|fetch|feed|if|while|full|full_int_array|"
    r"assign_value_?|shape|shape64|shadow_output|share_data_?)"
)
# Kernels that are a library's work, or that no compiler replaces.
LIBRARY = re.compile(
    r"(matmul|bmm|einsum|conv.*|depthwise_conv.*|topk|argsort|nonzero|scatter|"
    r"roi_align|distribute_fpn_proposals|generate_proposals|(.*_)?nms.*|"
    r"uniform(_inplace)?|gaussian(_inplace)?)"
)
LAUNCH = re.compile(r"(\w+) kernel launch\b")


def ops(block: Any) -> Iterator[Any]:
    """All ops of a block and of the blocks within."""
    for op in block.ops:
        yield op
        for inner in op.blocks():
            yield from ops(inner)


def compute_ops(program: Any) -> int:
    """How many ops compute something (docs/bench.md) in a program as captured."""
    block = program.global_block()
    return sum(not NO_COMPUTE.fullmatch(op.name()) for op in ops(block))


def training_dropouts(program: Any) -> int:
    """The dropout ops that draw a mask."""
    found = [op for op in ops(program.global_block()) if op.name() == "pd_op.dropout"]
    return sum(not op.attrs().get("is_test") for op in found)


def launches(call: Callable[[], Any]) -> Counter[str]:
    """Paddle's kernel launches in the trace of one call, by kernel."""
    with tempfile.TemporaryDirectory() as folder:
        trace = profiler.Profiler(
            targets=[profiler.ProfilerTarget.CPU],
            on_trace_ready=profiler.export_chrome_tracing(folder),
        )
        trace.start()
        call()
        trace.stop()
        (path,) = Path(folder).glob("*.json")
        events = json.loads(path.read_text())["traceEvents"]
    names = (LAUNCH.match(e.get("name") or "") for e in events)
    return Counter(m.group(1) for m in names if m)


def replaceable(launched: Counter[str], dropouts: int = 0) -> int:
    """The launches that a compiler could have replaced; `dropouts` draw a mask."""
    plain = sum(n for name, n in launched.items() if not LIBRARY.fullmatch(name))
    return plain - min(dropouts, launched["dropout"])


def coverage(launched: Counter[str], compute: int, dropouts: int = 0) -> float:
    """The covered part of a program's compute ops, 1.0 where there are none."""
    left = replaceable(launched, dropouts)
    return max(0.0, 1 - left / compute) if compute else float(left == 0)


def gflop(program: Any) -> float:
    """An estimate of a program's work, over its matmuls and convs."""
    return sum(map(_flop, ops(program.global_block()))) / 1e9


def _flop(op: Any) -> float:
    name = op.name().removeprefix("pd_op.")
    if not name.startswith(("matmul", "bmm", "conv", "depthwise_conv")):
        return 0.0
    first, second = (_shape(op.operands()[k].source()) for k in (0, 1))
    out = math.prod(_shape(op.result(0)))
    if "transpose" in name:  # of conv: each input value meets a whole filter
        return 2.0 * math.prod(first) * math.prod(second[1:])
    if "conv" in name:
        return 2.0 * out * math.prod(second[1:])
    if not first:
        return 0.0
    turned = op.attrs().get("transpose_x") and len(first) > 1
    return 2.0 * out * first[-2 if turned else -1]


def _shape(value: Any) -> list[int]:
    return [max(int(d), 1) for d in value.shape]
