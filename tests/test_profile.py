"""What a steady call of an encoder runs of Paddle: nothing. Predicted times."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import paddle
import paddle.profiler as profiler
import pytest
from paddle.static import InputSpec

import pirol
from pirol.compiler import costs

LAUNCH = re.compile(r"(\w+) (?:kernel launch|compute|dygraph)\b")


def kernels_of(call: Any, folder: Path) -> Counter[str]:
    """Paddle's ops and kernels in the trace of one call, by name."""
    trace = profiler.Profiler(
        targets=[profiler.ProfilerTarget.CPU],
        on_trace_ready=profiler.export_chrome_tracing(str(folder)),
    )
    trace.start()
    call()
    trace.stop()
    (path,) = folder.glob("*.json")
    events = json.loads(path.read_text())["traceEvents"]
    names = (LAUNCH.match(e.get("name") or "") for e in events)
    return Counter(m.group(1) for m in names if m)


@pytest.mark.full
def test_a_steady_call_of_an_encoder_runs_nothing_of_paddles(tmp_path: Path) -> None:
    one = paddle.nn.TransformerEncoderLayer(32, 2, 64, dropout=0.1, activation="gelu")
    model = paddle.nn.TransformerEncoder(one, 2)
    model.eval()
    inputs = [paddle.randn([2, 5, 32]), paddle.zeros([2, 1, 1, 5])]
    eager = kernels_of(lambda: model(*inputs), tmp_path / "eager")
    assert {"softmax", "layer_norm", "gelu", "matmul"} <= eager.keys()
    spec = [InputSpec([None, None, 32]), InputSpec([None, 1, 1, None])]
    fast = pirol.to_static(model, input_spec=spec, strict=True)
    with paddle.no_grad():
        fast(*inputs)
        fast(*inputs)
        steady = kernels_of(lambda: fast(*inputs), tmp_path / "pirol")
    assert not steady


def test_predicted_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of memory alone, and of a function that takes longer than its memory."""
    monkeypatch.setattr("pirol.compiler.report.this_machine", lambda: costs.TYPICAL)

    def moved(x: Any) -> Any:
        return x + 1.0

    def costly(x: Any) -> Any:
        return paddle.tanh(x) * 2.0

    times = []
    for function in (moved, costly):
        compiled = pirol.to_static(function, strict=True)
        compiled(paddle.ones([500, 1000]))
        (group,) = pirol.explain(compiled).groups
        times.append(group.predicted)
    machine, far = costs.TYPICAL, 4e6
    each = machine.read.at(far) + machine.written.at(far)
    assert times[0] == pytest.approx(2e6 * each)
    assert times[1] > 1.5 * times[0]
