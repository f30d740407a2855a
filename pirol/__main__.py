"""The command line: `python -m pirol doctor`, `python -m pirol bench demo|peers|..`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

BENCHES = {
    "graphnet": "pirol.bench.graphnet_run",
    "peers": "pirol.bench.peers",
    "demo": "pirol.bench.demo",
    "calls": "pirol.bench.calls",
    "loaded": "pirol.bench.loaded",
    "complex": "pirol.bench.complex_table",
    "gpu": "pirol.bench.gpu",
    "profile": "pirol.bench.profile",
    "training": "pirol.bench.training",
    "derivatives": "pirol.bench.derivatives",
    "predictions": "pirol.bench.predictions",
}


def parser() -> argparse.ArgumentParser:
    """The parser; a bench parses what follows its name itself."""
    top = argparse.ArgumentParser(
        prog="python -m pirol", description="Pirol compiles PaddlePaddle programs."
    )
    commands = top.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench", help="time and check compiled programs")
    bench.add_argument("name", choices=BENCHES, help="NAME --help says more")
    bench.add_argument("rest", nargs=argparse.REMAINDER, help="passed on")
    doctor = commands.add_parser("doctor", help="what Pirol finds on this machine")
    measure = "measure this machine for the cost model, in a quarter of a minute"
    doctor.add_argument("--calibrate", action="store_true", help=measure)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit status."""
    chosen = parser().parse_args(arguments)
    if chosen.command == "doctor":
        status: int = importlib.import_module("pirol.doctor").examine(chosen.calibrate)
    else:
        status = importlib.import_module(BENCHES[chosen.name]).main(chosen.rest)
    return status


if __name__ == "__main__":
    sys.exit(main())
