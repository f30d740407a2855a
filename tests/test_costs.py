"""The cost model: work counted, figures fitted and kept, predictions, the doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cuda_simulator import has_compiler

from pirol import doctor
from pirol.compiler import calibrate, costs, micro
from pirol.compiler.costs import LAUNCH, Curve, Machine
from pirol.compiler.dims import symbol
from pirol.compiler.errors import BuildError
from pirol.compiler.ir import TensorType
from pirol.compiler.pipeline import lower
from pirol.compiler.runtime import generate
from pirol.compiler.traffic import touches
from pirol.kernels.work import Work, work
from pirol.prim import Builder

FLAT = Curve((1.0, 1e9), (1e-9, 1e-9))
PLAIN = Machine({LAUNCH: 1e-6, "mul float32": 2e-9, "load 4": 1e-9}, FLAT, FLAT, 5e-9)
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PIROL_CACHE_DIR", str(tmp_path))
    costs.this_machine.cache_clear()
    yield tmp_path
    costs.this_machine.cache_clear()


def counted(make: micro.Make, *kinds: Any, **sizes: int) -> Work:
    graph = micro.micro("f", make, *kinds).graph
    (built,) = generate(lower(graph, {}, level="calls", target="cpu").plan)
    return work(built.kernel, sizes)


def product(b: Builder, x: Any, y: Any) -> Any:
    return b.mul(b.mul(x, y), x)


def test_work_is_counted_from_loops() -> None:
    line = ((1000,), "float32")
    found = counted(product, line, line)
    assert found == {"lanes": 1, "load 4": 2000, "mul float32": 2000, "store 4": 1000}
    column = micro.called("reduce_max", axes=(0,))
    found = counted(column, ((64, 300), "float64"))  # two tiles, the second not whole
    assert found["max float64"] == pytest.approx(64 * 300, rel=0.2)
    twice = micro.called("slice", starts=(0,), sizes=(100,), steps=(2,))
    apart = counted(lambda b, x: b.neg(twice(b, x)), ((200,), "float32"))
    assert apart["load 4 apart"] == 100


def test_work_of_products_and_of_symbols() -> None:
    at = {"x_batch": (), "y_batch": (), "x_sum": (1,), "y_sum": (0,)}
    dot = micro.called("dot_general", **at)
    found = counted(dot, ((32, 64), "float32"), ((64, 32), "float32"))
    assert found["dot float32"] == 32 * 64 * 32
    n = symbol("n")
    for size in (10, 1000):
        found = counted(product, ((n,), "float32"), ((n,), "float32"), n=size)
        assert found["mul float32"] == 2 * size


def test_fitted_figures() -> None:
    """What the times were made of is found again; no figure is below 0."""
    true = {LAUNCH: 30.0, "a": 2.0, "b": 0.5}
    counts = [
        {LAUNCH: 1.0, "a": float(a), "b": float(b)}
        for a, b in ((0, 0), (10, 0), (0, 40), (20, 30), (7, 90))
    ]
    times = [sum(true[k] * n for k, n in c.items()) for c in counts]
    found = calibrate.fitted(counts, times)
    assert found == pytest.approx(true, rel=1e-3)
    times[1] /= 3  # as if "a" took less than nothing
    assert min(calibrate.fitted(counts, times).values()) >= 0


def test_a_prediction_is_of_work_or_of_memory() -> None:
    does = {LAUNCH: 1.0, "mul float32": 100.0}
    assert PLAIN.seconds(does, [], []) == pytest.approx(1e-6 + 2e-7)
    assert PLAIN.seconds(does, [(4000, 1)], [(4000, 1)]) == pytest.approx(8e-6)
    large = 64 << 20
    assert PLAIN.seconds(does, [], [(large, 1)]) == pytest.approx(5e-9 * large)
    slow = PLAIN.each("mul float32 apart")
    assert slow == pytest.approx(costs.SLOWER * PLAIN.each("mul float32"))
    assert PLAIN.each("tanh float64") > PLAIN.each("tanh float32") > PLAIN.unit


def test_memory_is_near_where_it_was_touched_before() -> None:
    b = Builder()
    x, weight = (b.input(TensorType(n, "float32")) for n in ((50, 32), (32, 32)))
    at = {"x_batch": (), "y_batch": (), "x_sum": (1,), "y_sum": (0,)}
    inner = b.tanh(b.dot_general(x, weight, **at))
    graph = b.graph("f", [b.dot_general(inner, weight, **at)])
    plan = lower(graph, {}, level="calls", target="cpu").plan
    found = list(touches(plan, {}))
    assert len(found) == 2
    whole = sum(size for read, written in found for size, _ in (*read, *written))
    for read, written in found:
        assert all(size <= far <= whole for size, far in (*read, *written))
    distances = {far for read, _ in found for _, far in read}
    assert min(distances) < whole == max(distances)


@needs_compiler
def test_figures_are_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert costs.this_machine() is costs.TYPICAL
    costs.keep(PLAIN)
    kept = costs.this_machine()
    assert (kept.work, kept.read, kept.fresh) == (PLAIN.work, FLAT, 5e-9)
    costs.path().write_text('{"work": 1}')
    costs.this_machine.cache_clear()
    assert costs.this_machine() is costs.TYPICAL


@needs_compiler
def test_calibration(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """On few of its programs: what was timed is predicted again."""
    some = [m for m in micro.near() if m.name.endswith(("start 64", "tanh float32"))]
    monkeypatch.setattr(calibrate, "near", lambda: some)
    monkeypatch.setattr(calibrate, "FOOTPRINTS", (1 << 16, 1 << 18))
    monkeypatch.setattr(calibrate, "MAPPED_FROM", 1 << 18)
    assert doctor.examine(calibrated=True) == 0
    machine = costs.this_machine()
    assert machine.measured and machine.each("tanh float32") > 0
    assert min(machine.read.seconds) > 0 and machine.fresh != 0
    shown = capsys.readouterr().out
    assert "ok   cost model: measured here" in shown and "LACK" not in shown


def test_what_the_doctor_misses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> str:
        raise BuildError("no C compiler was found")

    monkeypatch.setitem(doctor.CHECKS, "C compiler", missing)
    assert doctor.examine() == 1
    assert "LACK C compiler: no C compiler was found" in capsys.readouterr().out
