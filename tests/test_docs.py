"""The docs are executed: Python blocks print what stands below them, commands run.

In a Markdown file of the project, ```python blocks run in order as one script; a
```text block right behind one is its output (`--update-docs` writes it anew). ```sh
blocks are commands, run in the project's folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MARK = "\x1e"
PREDICTED = re.compile(r"[\d.]+(e[-+]?\d+)? us\b")  # by this machine's figures
# Commands that CI runs themselves, or that are this very run.
ELSEWHERE = ("make demo", "make test", "make quick", "make lint", "make fuzz")


def run(command: list[str], folder: Path) -> str:
    """Standard output of a command that must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (
        f"{command}:\n{done.stdout[-500:]}{done.stderr[-3000:]}"
    )
    return done.stdout


def python_blocks(text: str) -> list[re.Match[str]]:
    return [m for m in BLOCK.finditer(text) if m.group(1) == "python"]


@pytest.mark.full
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    text = page.read_text()
    blocks = python_blocks(text)
    if not blocks:
        return
    script = tmp_path / page.with_suffix(".py").name
    script.write_text("".join(f"{m.group(2)}\nprint({MARK!r})\n" for m in blocks))
    outputs = run([sys.executable, str(script)], tmp_path).split(f"{MARK}\n")
    edits: list[tuple[re.Match[str], str]] = []
    for block, output in zip(blocks, outputs):
        shown = BLOCK.match(text, block.end() + 2)
        if shown is None or shown.group(1) != "text":
            continue
        clean = "\n".join(line.rstrip() for line in output.splitlines()).strip("\n")
        if request.config.getoption("--update-docs"):
            edits.append((shown, f"```text\n{clean}\n```"))
        else:
            told, found = (
                PREDICTED.sub("? us", t) for t in (shown.group(2).strip("\n"), clean)
            )
            assert found == told, f"{page.name}: output changed"
    for shown, new in reversed(edits):
        text = text[: shown.start()] + new + text[shown.end() :]
    if edits:
        page.write_text(text)


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in BLOCK.finditer(page.read_text()):
            if block.group(1) == "sh":
                found += [line for line in block.group(2).splitlines() if line.strip()]
    return [c for c in dict.fromkeys(found) if not c.startswith(ELSEWHERE)]


@pytest.mark.full
@pytest.mark.parametrize("command", commands())
def test_commands(command: str) -> None:
    run(["bash", "-ec", command], ROOT)


def test_there_are_docs() -> None:
    names = {p.name for p in PAGES}
    assert {"README.md", "tour.md", "users.md", "passes.md"} <= names
    tour = next(p for p in PAGES if p.name == "tour.md").read_text()
    assert len(python_blocks(tour)) >= 8


def test_environment_names_are_documented() -> None:
    """Each PIROL_ name that the code reads stands in docs/users.md, and no other."""
    code = "".join(
        p.read_text()
        for f in ("pirol", "compiler", "kernels", "bench")
        for p in (ROOT / f).rglob("*.py")
    )
    read = set(re.findall(r"[\"'](PIROL_[A-Z_]+)[\"']", code))
    documented = set(
        re.findall(r"`(PIROL_[A-Z_]+)", (ROOT / "docs/users.md").read_text())
    )
    assert read == documented
