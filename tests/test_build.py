"""Building and caching kernels; what fails there never breaks the user's program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.compiler.capture import seam
from pirol.compiler.errors import BuildError, PirolWarning
from pirol.kernels import build

SOURCE = """#include "pirol_cpu.h"
void %s(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end,
        void *scratch) { (void)buffers, (void)dims, (void)begin, (void)end; }
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PIROL_CACHE_DIR", str(folder))
    return folder


def square(x: Any) -> Any:
    return x * x + 1.0


def check_square(fast: Any) -> None:
    x = paddle.randn([5, 3])
    np.testing.assert_array_equal(fast(x).numpy(), square(x).numpy())


def test_a_kernel_is_built_once(own_cache: Path) -> None:
    (first,) = build.build([SOURCE % "one"])
    stamp = first.stat().st_mtime_ns
    (again,) = build.build([SOURCE % "one"])
    assert again == first and again.stat().st_mtime_ns == stamp
    assert build.load(str(first), "one")
    assert own_cache.stat().st_mode & 0o777 == 0o700


def test_a_tampered_kernel_is_built_again() -> None:
    (path,) = build.build([SOURCE % "two"])
    good = path.read_bytes()
    path.write_bytes(b"not what was built")
    (again,) = build.build([SOURCE % "two"])
    assert len(again.read_bytes()) == len(good)
    path.with_suffix(".sum").unlink()
    (third,) = build.build([SOURCE % "two"])
    assert third.with_suffix(".sum").exists()


def test_a_compiler_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "TIMEOUT", 1e-6)
    with pytest.raises(BuildError, match="took more than"):
        build.build([SOURCE % "late"])


def test_a_folder_that_others_may_write_is_refused(own_cache: Path) -> None:
    own_cache.mkdir()
    own_cache.chmod(0o777)
    with pytest.raises(BuildError, match="PIROL_CACHE_DIR"):
        build.build([SOURCE % "three"])
    fast = pirol.to_static(square)
    with pytest.warns(PirolWarning, match="PIROL_CACHE_DIR"):
        check_square(fast)
    assert pirol.explain(fast).compiles == 0


def test_wrong_text_is_an_error_with_the_compilers_words() -> None:
    with pytest.raises(BuildError, match="error"):
        build.build(["this is not C"])


def test_without_a_compiler_paddle_runs_and_one_warning_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    build.compiler.cache_clear()
    try:
        fast = pirol.to_static(square)
        with pytest.warns(PirolWarning, match="no C compiler") as caught:
            check_square(fast)
            check_square(fast)
        assert len([w for w in caught if w.category is PirolWarning]) == 1
    finally:
        monkeypatch.undo()
        build.compiler.cache_clear()


def test_a_full_disk_does_not_break_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "_compile", full)
    fast = pirol.to_static(square)
    with pytest.warns(PirolWarning, match="No space left"):
        check_square(fast)


def test_another_paddle_runs_the_program_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seam, "NEEDED", ("_not_there",))
    monkeypatch.setattr(seam.partial, "partial_program_from", seam._PADDLES)
    with pytest.warns(PirolWarning, match="no _not_there"):
        fast = pirol.to_static(square)
    check_square(fast)
    assert pirol.explain(fast).compiles == 0


def run_script(text: str, tmp_path: Path, **env: str) -> str:
    script = tmp_path / "script.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


PROGRAM = """
import hashlib
import numpy as np, paddle, pirol
import paddle.nn.functional as F

def f(x, w):
    return F.softmax(x), F.gelu(x).sum(axis=0), (x * w).sum(axis=1)

x = paddle.to_tensor(np.random.default_rng(0).normal(size=(777, 1031)).astype("f"))
w = paddle.to_tensor(np.random.default_rng(1).normal(size=(1031,)).astype("f"))
out = pirol.to_static(f, strict=True)(x, w)
print(hashlib.sha256(b"".join(t.numpy().tobytes() for t in out)).hexdigest())
"""


@pytest.mark.full
def test_results_are_the_same_bits_for_any_thread_count(tmp_path: Path) -> None:
    found = {run_script(PROGRAM, tmp_path, PIROL_THREADS=str(n)) for n in (1, 2, 3)}
    assert len(found) == 1


def test_dump_holds_each_pass_and_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIROL_DUMP", str(tmp_path / "dump"))
    check_square(pirol.to_static(square))
    names = {p.name for p in (tmp_path / "dump").rglob("*") if p.is_file()}
    assert "00-capture.ir" in names and any(n.endswith("-fuse.ir") for n in names)
    assert any(n.endswith(".c") for n in names)


def test_strict_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIROL_STRICT", "1")
    fast = pirol.to_static(lambda_free)
    with pytest.raises(pirol.StrictError, match="nonzero"):
        fast(paddle.randn([3]))


def lambda_free(x: Any) -> Any:
    return paddle.nonzero(x)
