"""What the work of kernels costs, for predictions: figures of one core.

They are those of a common server core on a quiet machine, until `python -m pirol doctor
--calibrate` has measured this machine's (calibrate.py), which are kept in the cache.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from pirol.compiler.ir import BITS
from pirol.compiler.process import MAPPED_FROM
from pirol.kernels.build import cache_folder, key_of
from pirol.kernels.work import APART
from pirol.prim import PRIMS

FIGURES = "figures of the cost model"  # whose key names their file
LAUNCH = "launch"  # the start of a kernel, beside the pieces of work
SLOWER = 8.0  # how many times longer an element by itself takes, where not measured
Moved = Sequence[tuple[int, int]]  # bytes, and how many were touched since


@dataclass(frozen=True)
class Curve:
    """Seconds a byte, by how many bytes were touched since it was."""

    bytes: tuple[float, ...]
    seconds: tuple[float, ...]

    def at(self, distance: float) -> float:
        """Between two points, by the logarithm of the distance."""
        points = np.log(self.bytes)
        return float(np.interp(np.log(max(distance, 1.0)), points, self.seconds))


@dataclass(frozen=True)
class Machine:
    """The figures of one core: seconds of each piece of work (kernels/work.py) that was
    measured, and of memory read and written; `fresh`: seconds a byte of a result whose
    memory the process gets anew."""

    work: Mapping[str, float]
    read: Curve
    written: Curve
    fresh: float
    measured: bool = False

    def seconds(self, work: Mapping[str, float], read: Moved, written: Moved) -> float:
        """Of a kernel on one thread: its work, with its start, or its memory, whichever
        takes longer."""
        computed = sum(times * self.each(piece) for piece, times in work.items())
        moved = sum(size * self.read.at(far) for size, far in read)
        for size, far in written:
            new = size >= MAPPED_FROM
            moved += size * (self.fresh if new else self.written.at(far))
        return max(computed, moved)

    def each(self, piece: str) -> float:
        """Seconds of a piece; of one that was not measured, by its weight."""
        if piece in self.work:
            return self.work[piece]
        name = " ".join(piece.split()[:2])
        slower = SLOWER if piece.endswith(APART) else 1.0
        return slower * self.work.get(name, self.unit * weight(name))

    @cached_property
    def unit(self) -> float:
        """Seconds of a piece of weight 1: the measured ones' median."""
        each = (s / weight(p) for p, s in self.work.items() if p != LAUNCH)
        return statistics.median(each)


def weight(piece: str) -> float:
    """A piece's cost beside an addition of 32 bits, by the primitives' records."""
    name, _, kind = piece.partition(" ")
    cost = PRIMS[name].cost if name in PRIMS else 1
    size = BITS[kind] / 8 if kind in BITS else float(kind) if kind.isdigit() else 4.0
    return cost * size / 4


TYPICAL = Machine(
    {
        LAUNCH: 3e-8,
        **{"add float32": 1.6e-11, "load 4": 1e-11, "store 4": 5e-12},
        **{"dot float32": 8e-12, "dot float64": 1.6e-11, "serial": 5e-10},
    },
    Curve((1 << 16, 1 << 22, 1 << 26), (6e-12, 1e-11, 2.2e-11)),
    Curve((1 << 16, 1 << 22, 1 << 26), (1e-12, 8e-12, 1.2e-11)),
    fresh=5e-11,
)


def path() -> Path:
    """Where this machine's figures are kept."""
    return cache_folder() / f"{key_of(FIGURES)}.machine"


def keep(machine: Machine) -> None:
    """Keep figures for all later processes, and this one."""
    path().write_text(json.dumps(asdict(machine)) + "\n")
    this_machine.cache_clear()


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """This machine's figures, if they were measured, else typical ones."""
    try:
        found = json.loads(path().read_text())
        for name in ("read", "written"):
            found[name] = Curve(*map(tuple, found[name].values()))
        return Machine(**found)
    except (OSError, ValueError, TypeError, KeyError):
        return TYPICAL
