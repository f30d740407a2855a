"""The kernel cache's size on disk: what is removed, by whom, and that none minds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest

import pirol
from pirol.compiler import cache, runtime
from pirol.kernels import build


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setenv("PIROL_CACHE_DIR", str(place))
    monkeypatch.setattr(cache, "_looked", -cache.EACH)
    return place


def put(folder: Path, key: str, age: float, size: int = 1000) -> None:
    """A kernel's files, last used `age` seconds ago."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for suffix in (".so", ".sum", ".c"):
        path = folder / f"{key}{suffix}"
        path.write_bytes(b"0" * size)
        then = time.time() - age
        os.utime(path, (then, then))


def keys(folder: Path) -> set[str]:
    return {p.stem for p in folder.iterdir()}


def test_the_oldest_kernels_go_first(folder: Path) -> None:
    for key, age in (("a", 30.0), ("b", 10.0), ("c", 20.0)):
        put(folder, key, age)
    assert cache.trim(folder, 9000) == 0
    assert cache.trim(folder, 6000) == 1 and keys(folder) == {"b", "c"}
    os.utime(folder / "c.so")  # used now
    assert cache.trim(folder, 5999) == 1 and keys(folder) == {"c"}
    put(folder, "d", 0.0)
    (folder / "notes.txt").write_text("not a kernel")
    assert cache.clear() == 2 and keys(folder) == {"notes"}


def test_what_a_killed_build_left_goes_too(folder: Path) -> None:
    put(folder, "a", 0.0)
    for name, age in (("tmpold", 2 * cache.ABANDONED), ("tmpnew", 1.0), ("mine", 1e6)):
        (folder / name).mkdir()
        (folder / name / "x.c").write_text("")
        os.utime(folder / name, (time.time() - age,) * 2)
    cache.trim(folder, 1 << 20)
    assert keys(folder) == {"a", "tmpnew", "mine"}


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIROL_CACHE_MB", raising=False)
    assert cache.limit() == 1024 << 20
    for text, found in (("3", 3 << 20), ("0", 0), ("-1", 1024 << 20), ("x", 1 << 30)):
        monkeypatch.setenv("PIROL_CACHE_MB", text)
        assert cache.limit() == found


def shifted(x: Any) -> Any:
    return x * 3.0 - 1.5


def check(fast: Any) -> None:
    x = paddle.randn([7])
    np.testing.assert_array_equal(fast(x).numpy(), shifted(x).numpy())


def test_a_compile_trims_and_the_kernel_still_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, "old", 100.0, size=1 << 20)
    monkeypatch.setenv("PIROL_CACHE_MB", "1")
    fast = pirol.to_static(shifted, strict=True)
    check(fast)
    left = keys(folder)
    assert left and "old" not in left
    put(folder, "old", 100.0, size=1 << 20)
    check(pirol.to_static(shifted, strict=True))
    assert "old" in keys(folder)  # no second look so soon
    assert pirol.cache_clear() == 3 and not keys(folder)  # kernel, plan, and `old`
    check(fast)
    check(pirol.to_static(shifted, strict=True))
    assert keys(folder) == left


def test_a_kernel_that_another_process_removed_is_built_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []

    def load(path: str, name: str) -> int:
        if not gone:
            gone.append(path)
            cache.trim(folder, -1)
        return build.load.__wrapped__(path, name)

    monkeypatch.setattr(runtime, "load", load)
    check(pirol.to_static(shifted, strict=True))
    assert gone and {p.stem for p in folder.glob("*.so")} == {Path(gone[0]).stem}


def test_a_folder_in_a_kernels_place_does_not_break_the_program(folder: Path) -> None:
    check(pirol.to_static(shifted, strict=True))
    (kernel,) = folder.glob("*.so")
    kernel.unlink()
    kernel.mkdir()
    fast = pirol.to_static(shifted)
    with pytest.warns(UserWarning, match=r"kernel pirol_\w+ at test_cache.py:\d+: "):
        check(fast)
    assert pirol.explain(fast).compiles == 0


def test_a_file_that_is_being_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no name left, and still a size."""
    folder.mkdir(exist_ok=True)
    (folder / "key.so").write_bytes(b"x" * 100)
    found = list((folder / "key.so").stat())
    found[3] = 0
    entry = SimpleNamespace(
        name="key.so", stat=lambda follow_symlinks: os.stat_result(found)
    )
    monkeypatch.setattr(cache.os, "scandir", lambda _: [entry])
    assert [(size, key) for _, size, key in cache._entries(folder)] == [(100, "key")]


@pytest.mark.full
def test_trimming_and_building_at_once(folder: Path) -> None:
    source = '#include "pirol_cpu.h"\nint number_%d(void) { return %d; }\n'
    trimmer = (
        "import sys, pathlib; from pirol.compiler import cache\n"
        "print('up', flush=True)\n"
        "while True: cache.trim(pathlib.Path(sys.argv[1]), 40_000)\n"
    )
    build.build([source % (0, 0)])
    others = [
        subprocess.Popen(
            [sys.executable, "-c", trimmer, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for other in others:
            assert other.stdout is not None and other.stdout.readline() == "up\n"
        for k in range(6):
            build.build([source % (k, k)])
        assert all(other.poll() is None for other in others)  # none of them failed
    finally:
        for other in others:
            other.kill()
            other.communicate()
    cache.trim(folder, 40_000)
    assert len(list(folder.glob("*.so"))) <= 2
