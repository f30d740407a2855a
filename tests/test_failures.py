"""What may fail around a compile: the program runs as Paddle's, one warning says so.

All cases run in one child process, which is no root and may write only where the
file modes say so. Where the machine offers no such process, that is the skip's reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.full

# argv: a folder for the cases, one on a full disk or "".
SCRIPT = """
import json, os, pathlib, sys, warnings
import numpy as np, paddle, pirol
from pirol.compiler.errors import PirolWarning
from pirol.kernels import build

work, disk = pathlib.Path(sys.argv[1]), sys.argv[2]
x, found = paddle.randn([5, 3]), {}

def functions(k):
    source = work / f"user{k}.py"
    source.write_text(f"def f(x):\\n    return x * {k}.5 + 1.0\\n")
    scope = {}
    exec(compile(source.read_text(), str(source), "exec"), scope)
    return scope["f"]

def fresh():
    for part in (build.compiler, build._machine, build._vector_math):
        part.cache_clear()

def case(name, **env):
    f = functions(len(found) + 2)
    before = dict(os.environ)
    os.environ.update({"PIROL_CACHE_DIR": str(work / f"cache-{name}"), **env})
    fresh()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fast = pirol.to_static(f)
        right = all(np.array_equal(fast(x).numpy(), f(x).numpy()) for _ in range(3))
    said = [str(w.message) for w in caught if w.category is PirolWarning]
    try:
        pirol.to_static(f, strict=True)(x)
        strict = ""
    except pirol.StrictError as error:
        strict = str(error)
    os.environ.clear()
    os.environ.update(before)
    fresh()
    compiles = pirol.explain(fast).compiles
    found[name] = {"right": right, "said": said, "strict": strict, "plans": compiles}

def script(name, text):
    path = work / name
    version = '[ "$1" = --version ] && echo x && exit'
    path.write_text(f"#!/bin/sh\\n{version}\\n{text}\\n")
    path.chmod(0o755)
    return str(path)

def folder(name, mode):
    path = work / name
    path.mkdir()
    path.chmod(mode)
    return str(path)

case("fine")
case("another_compiler_is_tried", CC="/bin/false")
case("no_compiler", CC="/bin/false", PATH="/nowhere")
case("refused", CC=script("refuses", "echo boom >&2; exit 1"))
build.TIMEOUT = 1
case("hangs", CC=script("hangs", "exec sleep 30"))
build.TIMEOUT = 600
case("read_only_cache", PIROL_CACHE_DIR=folder("locked", 0o555))
os.environ.pop("PIROL_CACHE_DIR", None)
# Paddle's own to_static must write below ~/.cache/paddle.
folder("home", 0o755)
folder("home/.cache", 0o755)
folder("home/.cache/paddle", 0o755)
(work / "home/.cache").chmod(0o555)
case("read_only_home", PIROL_CACHE_DIR="", HOME=str(work / "home"))
(work / "file").write_text("")
case("cache_is_a_file", PIROL_CACHE_DIR=str(work / "file"))
case("dump_is_read_only", PIROL_DUMP=str(work / "locked" / "dump"))
if disk:
    case("full_disk", PIROL_CACHE_DIR=disk)
print(json.dumps(found))
"""
PROBE = """
import os, sys, pirol, paddle
os.listdir(sys.argv[1])
try:
    open(f"{sys.argv[1]}/{os.getpid()}", "w")
except PermissionError:
    print("bound")
"""
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
WITHOUT = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
WITHOUT += ["--inh-caps=-all", "--ambient-caps=-all"]


def runs(command: list[str]) -> str:
    """Standard output, or "" where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.strip()


def bound_user(folder: Path) -> list[str] | None:
    """What to put before a command so that file modes bind it; None: nothing does."""
    locked = folder / "probe"
    locked.mkdir(mode=0o755)
    locked.chmod(0o555)
    probe = [sys.executable, "-c", PROBE, str(locked)]
    for prefix in ([], NOBODY, WITHOUT):
        if runs([*prefix, *probe]).endswith("bound"):
            return prefix
    return None


def owner(prefix: list[str]) -> int:
    return 65534 if prefix is NOBODY else os.getuid()


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Any]]:
    """What became of each case."""
    # Not pytest's folder, which only this user may enter.
    with tempfile.TemporaryDirectory() as folder:
        yield run_cases(Path(folder))


def run_cases(work: Path) -> dict[str, Any]:
    """Run the script, as who may not write everywhere."""
    work.chmod(0o755)
    prefix = bound_user(work)
    if prefix is None:
        pytest.skip("this user may write anywhere, and setpriv cannot change that")
    for place in (work / "cases", work / "disk"):
        place.mkdir()
        os.chown(place, owner(prefix), -1)
    script = work / "script.py"
    script.write_text(SCRIPT)
    command = [*prefix, sys.executable, str(script), str(work / "cases")]
    mount = f"mount -t tmpfs -o size=8k,mode=0700,uid={owner(prefix)} none {work}/disk"
    if os.getuid() == 0 and runs(["unshare", "-m", "sh", "-c", f"{mount} && echo y"]):
        start = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]
        command = [*start, *command, str(work / "disk")]
    else:
        command.append("")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIROL_")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cases: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return cases


@pytest.mark.parametrize("name", ["fine", "another_compiler_is_tried"])
def test_what_is_no_failure(found: dict[str, Any], name: str) -> None:
    assert found[name] == {"right": True, "said": [], "strict": "", "plans": 1}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_compiler", "no C compiler was found"),
        ("refused", "boom"),
        ("hangs", "took more than 1 s"),
        ("read_only_cache", "Permission denied"),
        ("read_only_home", "Permission denied"),
        ("cache_is_a_file", "File exists"),
        ("dump_is_read_only", "Permission denied"),
        ("full_disk", "No space left on device"),
    ],
)
def test_the_program_runs_and_one_warning_says_why(
    found: dict[str, Any], name: str, words: str
) -> None:
    if name not in found:
        pytest.skip("no tmpfs can be mounted here")
    case = found[name]
    assert case["right"] and case["plans"] == 0
    assert len(case["said"]) == 1 and words in case["said"][0], case
    assert words in case["strict"] and "drop strict=True" in case["strict"]
    if name not in ("hangs", "dump_is_read_only"):  # before there is any kernel
        assert "kernel pirol_mul_add" in case["strict"]
        assert ".py:2" in case["strict"]
