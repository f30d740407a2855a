"""Streamed stores: large results that bypass the caches on their way to memory.

An ordinary store to a line that no cache holds reads it from memory first. Of a result
that the caches cannot hold until it is read again, that is a third of what a kernel
moves. So lanes keep a tile of it in an array, and the array's whole lines are stored
past the caches. What is smaller is read faster where ordinary stores leave it. And
where much is computed, ordinary stores wait for memory meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from pirol.compiler import dims
from pirol.compiler.ir import BITS
from pirol.kernels import affine
from pirol.kernels.affine import axis
from pirol.kernels.emit import TILE, in_tiles, span_of, with_lanes
from pirol.kernels.kernel import (
    Array,
    Kernel,
    Loop,
    Put,
    Stmt,
    Stream,
)

SYSTEM = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
COMMON = 32 << 20  # bytes of a last-level cache that the system does not tell
LONG = 1024  # elements of a tile
LINES = 256  # bytes; what is stored in shorter pieces has few whole lines


@lru_cache(maxsize=1)
def least() -> int:
    """Bytes of a result from which on its stores are streamed: half of the last cache,
    the other half of which is for what is read."""
    try:
        text = SYSTEM.read_text().strip()
        return int(text.removesuffix("K")) << 9
    except (OSError, ValueError):
        return COMMON // 2


def streamed(kernel: Kernel) -> Kernel:
    """The kernel with the stores of its large results streamed."""
    large = {
        f"out{k}": kind.dtype
        for k, kind in enumerate(kernel.outputs)
        if isinstance(kind.size, int) and kind.size * BITS[kind.dtype] // 8 >= least()
    }
    if not large:
        return kernel
    return replace(kernel, body=tuple(with_lanes(kernel.body, _Streams(large).lanes)))


@dataclass
class _Streams:
    """`large`: the results to be streamed, and their dtypes."""

    large: dict[str, str]
    made: int = 0  # arrays

    def lanes(self, loop: Loop) -> list[Stmt]:
        """A loop that keeps tiles of large results, or as it is."""
        puts = [s for s in loop.body if isinstance(s, Put) and self.fits(s, loop)]
        if not puts:
            return [loop]
        size = LONG if loop.limit is None else TILE
        return in_tiles(loop, size, "some", partial(self.tile, puts))

    def fits(self, put: Put, loop: Loop) -> bool:
        """Whether the lanes store a large result's elements one behind the other."""
        at, var = put.index, loop.var
        if put.buffer not in self.large or at.data() or not at.plain(var):
            return False
        span, size = span_of(loop), BITS[self.large[put.buffer]] // 8
        if span is not None and span * size < LINES:
            return False
        return dims.equal(at.coefficient(var), 1) is True

    def tile(self, puts: list[Put], loop: Loop) -> list[Stmt]:
        """A loop of a known number of iterations or fewer, its results streamed."""
        most = span_of(loop)
        assert most is not None
        place = affine.add(axis(loop.var), affine.scale(loop.start, -1))
        end = loop.stop if loop.limit is None else loop.limit
        count = affine.add(end, affine.scale(loop.start, -1)), most
        arrays: dict[Put, str] = {}
        for put in puts:
            arrays[put] = f"tile{self.made}"
            self.made += 1
        body = [
            replace(s, buffer=arrays[s], index=place) if s in arrays else s
            for s in loop.body
        ]
        first = {loop.var: loop.start}
        found: list[Stmt] = [replace(loop, body=tuple(body))]
        for put, name in arrays.items():
            dtype, to = self.large[put.buffer], affine.substitute(put.index, first)
            found.insert(0, Array(name, dtype, most, "local"))
            found.append(Stream(dtype, (put.buffer, to), name, count))
        return found
