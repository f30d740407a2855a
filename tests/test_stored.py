"""Plans from disk: used where they should be, equal to new ones, never trusted."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.bench.graphnet import HERE, agrees, load
from pirol.compiler import stored
from pirol.compiler.capture import plans
from pirol.compiler.errors import PirolWarning

SPEC = paddle.static.InputSpec


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setenv("PIROL_CACHE_DIR", str(place))
    return place


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The programs that the passes were run on."""
    seen: list[Any] = []
    before = plans.lower

    def lower(graph: Any, *rest: Any, **options: Any) -> Any:
        seen.append(graph)
        return before(graph, *rest, **options)

    monkeypatch.setattr(plans, "lower", lower)
    return seen


@pytest.fixture
def specs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the native runtime was given, without what each process has of its own."""
    seen: list[Any] = []
    before = plans.assemble

    def assemble(*given: Any) -> Any:
        made = before(*given)
        seen.append(_plain(made.spec))
        return made

    monkeypatch.setattr(plans, "assemble", assemble)
    return seen


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return "callable" if callable(value) else value


def pointwise(x: Any, y: Any) -> Any:
    return paddle.sqrt(x) * 2.0 + y


def another(x: Any, y: Any) -> Any:
    return paddle.sqrt(x) * 2.5 + y


def library(x: Any, y: Any) -> Any:
    rows = paddle.cummax(x, axis=-1)[1].astype("float32")
    return paddle.matmul(rows, y, transpose_y=True), rows.max()


def sized(x: Any, y: Any) -> Any:
    kept = paddle.masked_select(x, x > 0)
    return kept * 2.0, kept.reshape([-1, 1]) + y.reshape([1, -1])[:, :3]


def branched(x: Any, y: Any) -> Any:
    out = x * 2.0
    if y.sum() > 0:
        out = paddle.exp(out) + y
    while out.sum() > 10:
        out = out / 2.0
    return out


def drawn(x: Any, y: Any) -> Any:
    return x + paddle.rand([3, 4]), paddle.nn.functional.dropout(y, 0.5)


def table(x: Any, y: Any) -> Any:
    return x * paddle.to_tensor([[0.5, float("inf"), -0.0, 1e-30]]), y[:, ::-1]


def ranged(x: Any, y: Any) -> Any:
    """A group reads, within, a size that a branch tells, and no operand has."""
    part = y.t()
    if y.shape[0] > 2:
        part = y.t()[:, :2]
    part[::2, (x > 0).astype("int64") % part.shape[1]]  # its index alone is checked
    return x * 2.0


FUNCTIONS = (pointwise, library, sized, branched, drawn, table, ranged)


def same(a: Any, b: Any) -> None:
    for one, other in zip(paddle.utils.flatten(a), paddle.utils.flatten(b)):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def fresh(function: Callable[..., Any], dynamic: bool) -> Any:
    spec = [SPEC([None, 4]), SPEC([None, 4])] if dynamic else None
    return pirol.to_static(function, input_spec=spec)


@pytest.mark.filterwarnings(f"ignore::{PirolWarning.__module__}.PirolWarning")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_functions(
    function: Any, dynamic: bool, lowered: list[Any], specs: list[Any]
) -> None:
    rng = np.random.default_rng(7)
    x, y = (paddle.to_tensor(rng.normal(size=(3, 4)).astype("float32")) for _ in "xy")
    found = []
    for made in (fresh(function, dynamic), fresh(function, dynamic)):
        paddle.seed(3)
        count = len(lowered)
        found.append(made(x, y))
    same(*found)
    assert len(lowered) == count > 0  # the second ran no pass
    half = len(specs) // 2
    assert half and specs[:half] == specs[half:]
    reports = [pirol.explain(f) for f in (fresh(function, dynamic), made)]
    assert reports[1].compiles and reports[1].coverage[1] and not reports[0].compiles


@pytest.mark.full
@pytest.mark.filterwarnings(f"ignore::{PirolWarning.__module__}.PirolWarning")
def test_graphs(lowered: list[Any], specs: list[Any]) -> None:
    for path in sorted(HERE.glob("*.json.gz"))[::4]:
        sample, found, reports = load(path), [], []
        for _ in range(2):
            ours, report = sample.pirols()
            paddle.seed(1)
            count = len(lowered)
            found.append(ours(sample.draw()))
            reports.append(report)
        assert len(lowered) == count and agrees(*found, tolerance=0.0) == ""
        half = len(specs) // 2
        assert specs[:half] == specs[half:]
        first, second = (r.settled() for r in reports)
        assert str(first) == str(second) and first.kernels == second.kernels
        specs.clear()


@pytest.mark.full
def test_another_process_runs_no_pass(folder: Path) -> None:
    text = (
        "import numpy, paddle, pirol, test_stored\n"
        "from pirol.compiler.capture import plans\n"
        "if len(__import__('sys').argv) > 1: plans.lower = None\n"
        "f = pirol.to_static(test_stored.pointwise, strict=True)\n"
        "x = paddle.arange(8.0)\n"
        "print(f(x, x).numpy().tolist())\n"
    )
    run = [sys.executable, "-c", text]
    here = Path(__file__).parent
    found = [
        subprocess.run(c, cwd=here, capture_output=True, text=True, check=False)
        for c in (run, [*run, "again"])
    ]
    assert [r.returncode for r in found] == [0, 0], found[-1].stderr[-2000:]
    assert found[0].stdout == found[1].stdout != ""


def arguments(*shape: int) -> list[Any]:
    return [paddle.ones(shape), paddle.ones(shape)]


def test_a_plan_is_for_its_program_sizes_and_passes(lowered: list[Any]) -> None:
    def runs(function: Any, given: list[Any], **options: Any) -> int:
        before = len(lowered)
        same(pirol.to_static(function, **options)(*given), function(*given))
        return len(lowered) - before

    assert runs(pointwise, arguments(2, 3)) == 1
    assert runs(pointwise, arguments(2, 3)) == 0
    assert runs(pointwise, arguments(3, 2)) == 1
    assert runs(another, arguments(2, 3)) == 1
    for _ in range(2):
        assert runs(pointwise, arguments(2, 3), passes=(lambda g: g,)) == 1


def test_a_dump_is_of_all_stages(
    lowered: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(2):
        monkeypatch.setenv("PIROL_DUMP", str(tmp_path / "dump"))
        pirol.to_static(pointwise)(*arguments(2, 3))
        assert len(lowered) == k + 1
    assert len([*(tmp_path / "dump").glob("program-*/*.ir")]) > 8


def _cut(path: Path) -> None:
    path.write_text(path.read_text()[:-40])


def _other_sum(path: Path) -> None:
    path.with_suffix(".sum").write_text("0" * 64)


def _writable(path: Path) -> None:
    path.chmod(0o666)


def _gone(path: Path) -> None:
    for kernel in path.parent.glob("*.so"):
        kernel.unlink()


FAULTS = (_cut, _other_sum, _writable, _gone)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_what_does_not_fit_is_made_again(
    fault: Any, folder: Path, lowered: list[Any]
) -> None:
    for expected in (1, 2, 2):
        compiled = pirol.to_static(pointwise, strict=True)
        same(compiled(*arguments(2, 3)), pointwise(*arguments(2, 3)))
        assert len(lowered) == expected
        (path,) = folder.glob("*.plan")
        if expected == 1:
            fault(path)


@pytest.mark.parametrize("part", ["graph", "codes", "facts"])
def test_a_plan_that_fits_its_sum_but_is_none(
    part: str, folder: Path, lowered: list[Any]
) -> None:
    pirol.to_static(pointwise)(*arguments(2, 3))
    (path,) = folder.glob("*.plan")
    entry = json.loads(path.read_text())
    entry[part] = {"graph": "graph @p(", "codes": [], "facts": [["eq", "(", "1"]]}[part]
    path.write_text(json.dumps(entry))
    path.with_suffix(".sum").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    compiled = pirol.to_static(pointwise, strict=True)
    same(compiled(*arguments(2, 3)), pointwise(*arguments(2, 3)))
    assert len(lowered) == 2


def test_where_nothing_can_be_kept_the_program_runs(
    lowered: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(*_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(stored.build, "keep", keep)
    for k in range(2):
        compiled = pirol.to_static(pointwise, strict=True)
        same(compiled(*arguments(2, 3)), pointwise(*arguments(2, 3)))
        assert len(lowered) == k + 1


def test_a_change_of_pirols_own_text_makes_plans_anew(
    lowered: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pirol.to_static(pointwise)(*arguments(2, 3))
    monkeypatch.setattr(stored, "_package", lambda: "another")
    pirol.to_static(pointwise)(*arguments(2, 3))
    assert len(lowered) == 2
