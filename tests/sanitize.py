"""compute-sanitizer over the tests that want a GPU, one process a test.

    python tests/sanitize.py [--tools memcheck,racecheck,..] [--jobs 8] [-k EXPRESSION]

Prints how many tests each tool ran and found fault with; status 1 where it found any.
racecheck and synccheck, which cuDNN's kernels do not pass, look into Pirol's alone.
initcheck must see all, and takes what cuDNN's attention wrote for unwritten.
It is on PATH with the CUDA toolkit, or in pip's nvidia-cuda-sanitizer-api.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
FAULT = 99
OURS = ("--kernel-name", "kns=pirol_")
APART = ("racecheck", "synccheck")
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def program() -> str:
    """The path of compute-sanitizer."""
    found = shutil.which("compute-sanitizer")
    spec = importlib.util.find_spec("nvidia")
    folders = (spec.submodule_search_locations if spec else None) or ()
    inside = (p for f in folders for p in Path(f).glob("*/**/compute-sanitizer"))
    path = found or next((str(p) for p in inside if p.is_file()), None)
    if path is None:
        raise SystemExit("no compute-sanitizer: pip install nvidia-cuda-sanitizer-api")
    Path(path).chmod(0o755)
    return path


def tests(expression: str) -> list[str]:
    """The names of the tests."""
    listed = subprocess.run(
        [*PYTEST, "--collect-only", "-k", expression, "test_gpu.py"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in listed.stdout.splitlines() if "::" in line]


def checked(tool: str, test: str) -> tuple[str, int, str]:
    """The test, the exit status, what was printed."""
    options = ["--tool", tool, "--error-exitcode", str(FAULT)]
    options += OURS if tool in APART else ()
    command = [program(), *options, *PYTEST, test.split("/")[-1]]
    run = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=600)
    return test, run.returncode, run.stdout + run.stderr


def main() -> int:
    """Run all; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("-k", dest="expression", default="")
    args = parser.parse_args()
    names, faults = tests(args.expression), 0
    for tool in args.tools.split(","):
        with ThreadPoolExecutor(args.jobs) as pool:
            found = [*pool.map(partial(checked, tool), names)]
        bad = [each for each in found if each[1]]
        for test, status, text in bad:
            what = "a fault" if status == FAULT else f"status {status}"
            print(f"{tool} {test}: {what}\n{text[-1500:]}")
        print(f"{tool}: {len(names)} tests, faults in {len(bad)}", flush=True)
        faults += len(bad)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
