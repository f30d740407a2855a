"""explain(.., measure=True): the time of each group beside what was predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
import pytest

import pirol


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIROL_CACHE_DIR", str(tmp_path / "cache"))


def two(few: Any, many: Any) -> Any:
    """Two groups, of which the second has much to do."""
    return few * 2.0 + 1.0, paddle.tanh(paddle.exp(-many * many)).sin()


def inputs() -> Any:
    return paddle.rand([8]), paddle.rand([1 << 20])


def times(function: Any) -> list[float | None]:
    groups = pirol.explain(function).groups
    assert [("measured" in str(g)) == (g.measured is not None) for g in groups]
    return [g.measured for g in sorted(groups, key=lambda g: g.predicted)]


def test_calls_are_measured_once_that_is_asked_for() -> None:
    fast = pirol.to_static(two, strict=True)
    fast(*inputs())
    assert times(fast) == [None, None]
    pirol.explain(fast, measure=True)
    assert times(fast) == [None, None]
    fast(*inputs())
    few, many = times(fast)
    assert few is not None and many is not None
    assert 0 < 10 * few < many < 10


def test_plans_made_later_and_those_from_disk() -> None:
    pirol.to_static(two)(*inputs())
    fast = pirol.to_static(two, strict=True)  # its plan comes from disk
    fast(*inputs())
    pirol.explain(fast, measure=True)
    fast(*inputs())
    few, many = times(fast)
    assert few is not None and many is not None and few < many
    fast(paddle.rand([8]), paddle.rand([1 << 19, 2]))
    report = pirol.explain(fast)
    assert report.compiles == 2 and len(report.groups) == 4
    assert None not in times(fast)


def test_backward_too() -> None:
    fast = pirol.to_static(two, strict=True)
    pirol.explain(fast, measure=True)
    x = paddle.rand([1 << 16])
    x.stop_gradient = False
    fast(paddle.rand([8]), x)[1].sum().backward()
    assert len(times(fast)) > 2 and None not in times(fast)
