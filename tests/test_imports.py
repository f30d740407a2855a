"""Imports go one way, and `import pirol` needs no Paddle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("pirol", "compiler", "prim", "passes", "kernels", "bench")
# Lowest first; a module may import only from its own rank or below.
RANKS = (
    (
        "pirol.compiler.errors",
        "pirol.compiler.dims",
        "pirol.compiler.ir",
        "pirol.compiler.process",
    ),
    ("pirol.compiler.text",),
    ("pirol.prim",),
    (
        "pirol.compiler.autodiff",
        "pirol.compiler.interpreter",
        "pirol.compiler.loops",
        "pirol.compiler.verify",
    ),
    ("pirol.passes",),
    ("pirol.kernels",),
    (
        "pirol.compiler.donate",
        "pirol.compiler.pipeline",
        "pirol.compiler.runtime",
        "pirol.compiler._native",
        "pirol.compiler.cache",
    ),
    (
        *("pirol.compiler.costs", "pirol.compiler.report", "pirol.compiler.stored"),
        "pirol.compiler.traffic",
    ),
    ("pirol.compiler.archive", "pirol.compiler.loaded"),
    ("pirol.compiler.micro", "pirol.compiler.calibrate"),
    ("pirol.compiler.capture",),
    ("pirol", "pirol.api"),
    ("pirol.nn", "pirol.complex", "pirol.doctor"),
    ("pirol.bench",),
    ("pirol.__main__",),
)
LATE = {("pirol.compiler.ir", "pirol.compiler.text")}  # Graph.__str__ prints


def rank(name: str) -> int:
    """The rank of the longest entry that the module lies under."""
    best = max(
        (
            (len(prefix), at)
            for at, row in enumerate(RANKS)
            for prefix in row
            if name == prefix or (prefix != "pirol" and name.startswith(prefix + "."))
        ),
        default=None,
    )
    assert best is not None, f"{name} has no rank: add it to RANKS"
    return best[1]


def modules() -> dict[str, Path]:
    """Installed name -> file."""
    found = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts if folder == "pirol" else ("pirol", *parts))
            found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """The modules that a file imports, `from a import b` as a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_is_ranked() -> None:
    names = modules()
    skipped = {"pirol.compiler"}
    assert len(names) > 30
    for name in names.keys() - skipped:
        rank(name)


def test_imports_go_one_way() -> None:
    names = modules()
    wrong = []
    for name, path in names.items():
        for used in imports(path) & names.keys():
            if used == "pirol.compiler" or name == "pirol.compiler":
                continue
            if (name, used) not in LATE and rank(used) > rank(name):
                wrong.append(f"{name} imports {used}")
    assert not wrong


def test_only_capture_and_bench_import_paddle() -> None:
    allowed = ("pirol.compiler.capture", "pirol.bench", "pirol.api", "pirol.nn")
    allowed += ("pirol.complex",)
    wrong = [
        name
        for name, path in modules().items()
        if not name.startswith(allowed)
        and any(used.split(".")[0] == "paddle" for used in imports(path))
    ]
    assert not wrong


def test_import_needs_no_paddle() -> None:
    code = "import sys, pirol; assert 'paddle' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_needs_paddle_is_there_once_asked_for() -> None:
    code = "import pirol; pirol.nn.MaxPool2D(2), pirol.complex.bmm\n"
    code += "try: pirol.other\nexcept AttributeError: pass\nelse: 1 / 0"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
