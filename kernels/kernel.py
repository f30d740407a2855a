"""Kernel: what one launch does, as loops, lanes, memory scopes, barriers, shuffles.

Made from a Nest by a schedule; a renderer turns it into text. Buffers are named:
in0.., out0.. (global), and the arrays that the kernel declares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from pirol.compiler.dims import Dim
from pirol.compiler.ir import TensorType
from pirol.kernels.affine import Affine, dims_of


@dataclass(frozen=True)
class Ref:
    """A variable."""

    name: str


@dataclass(frozen=True)
class Num:
    """A number of a dtype, or a Dim."""

    value: Any
    dtype: str


@dataclass(frozen=True)
class At:
    """Element `index` of a buffer or array."""

    buffer: str
    index: Affine


@dataclass(frozen=True)
class Offset:
    """An index expression as a 64-bit integer."""

    value: Affine


@dataclass(frozen=True)
class Apply:
    """A primitive on expressions; `of` is the operands' dtype, `dtype` the result's."""

    prim: str
    args: tuple[Expr, ...]
    of: str
    dtype: str


@dataclass(frozen=True)
class Guarded:
    """`value` where `condition` holds (only then is it read), else 0."""

    condition: Expr
    value: Expr
    dtype: str


Expr: TypeAlias = "Ref | Num | At | Offset | Apply | Guarded"


@dataclass(frozen=True)
class Let:
    """A constant variable; its dtype may be "index", as wide as indices are."""

    name: str
    dtype: str
    value: Expr


@dataclass(frozen=True)
class Var:
    """A variable that Set changes."""

    name: str
    dtype: str
    value: Expr


@dataclass(frozen=True)
class Set:
    """Assign to a Var."""

    name: str
    value: Expr


@dataclass(frozen=True)
class Array:
    """Memory of a scope: "local" (one lane's or thread's), "shared", or "scratch".

    Scratch is the thread's own part of the launch's scratch memory, `offset` bytes in.
    """

    name: str
    dtype: str
    length: Dim
    scope: str
    offset: Dim = 0


@dataclass(frozen=True)
class Put:
    """Store to a buffer or array."""

    buffer: str
    index: Affine
    value: Expr


@dataclass(frozen=True)
class Loop:
    """var from start to stop (and to limit, if that is less), by step.

    kind: "serial"; "lanes" (iterations independent but for `combine`: variables with
    how the lanes' copies are joined, and their dtypes); "threads" (shared out over the
    block's threads); "rows" (shared out over the launch). `unroll`: how many
    iterations CUDA's text has one behind the other.
    """

    var: str
    start: Affine
    stop: Affine
    body: tuple[Stmt, ...]
    kind: str = "serial"
    step: int = 1
    limit: Affine | None = None
    combine: tuple[tuple[str, str, str], ...] = ()
    unroll: int = 0


@dataclass(frozen=True)
class Move:
    """to[0..count) = source[0..count), as one access to memory (CUDA): both places
    (name, first element) are multiples of `count` elements, which have 16 bytes or
    less."""

    dtype: str
    count: int
    to: tuple[str, Affine]
    source: tuple[str, Affine]


@dataclass(frozen=True)
class Fetch:
    """Bring the line of memory with buffer[index] into the cache (CPU); the index may
    be outside of the buffer."""

    buffer: str
    index: Affine


@dataclass(frozen=True)
class If:
    """Statements under a condition."""

    condition: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Turn:
    """to[i * step of `to` + j] = source[i + j * step of `source`], for a block.

    Each place is (name, first element, step); i goes up to `high`, j up to `wide`:
    what is left of the axes, and at most so many.
    """

    dtype: str
    to: tuple[str, Affine, Affine]
    source: tuple[str, Affine, Affine]
    wide: tuple[Affine, int]
    high: tuple[Affine, int]


@dataclass(frozen=True)
class Stream:
    """to[0..count) = the array `source`'s elements, its whole lines past the caches
    (CPU); `to` is (name, first element), `count` what is left, and at most so many."""

    dtype: str
    to: tuple[str, Affine]
    source: str
    count: tuple[Affine, int]


@dataclass(frozen=True)
class Dot:
    """to[i, j] = sum over k of left[i, k] * right[k, j].

    Each place is (name, first element, its steps): of `to` a row's, of `left` a row's
    and a term's, of `right` a term's. With `tables`, arrays of places, left[i, k] is
    rows[i] + terms[k] after the first instead. What lies up to a vector after the
    columns is read and written too, but with `reads`, for a `right` that is no panel:
    there it is only written. Of bfloat16, added up in float32, `left` has its
    terms one behind the other, and `right` has them in pairs, as Pairs makes them.
    """

    dtype: str
    to: tuple[str, Affine, Affine]
    left: tuple[str, Affine, Affine, Affine]
    right: tuple[str, Affine, Affine]
    rows: Affine
    columns: Affine
    terms: Affine
    tables: tuple[str, str] = ("0", "0")
    reads: bool = False


@dataclass(frozen=True)
class Pairs:
    """to[k // 2, j, k % 2] = source[k, j] of 16 bits, for `terms` terms k and up to
    `width` columns j; 0 for what is behind the last term or column.

    `source` is (name, first element, a term's step).
    """

    to: str
    source: tuple[str, Affine, Affine]
    columns: Affine
    width: int
    terms: Affine


@dataclass(frozen=True)
class Along:
    """to[i] = sum over lines l and j < length of left[its row i + its line l + j] *
    right[its line l + j].

    `left` is (name, rows' places, lines' places), `right` (name, first element, lines'
    places): places are arrays.
    """

    dtype: str
    to: str
    left: tuple[str, str, str]
    right: tuple[str, Affine, str]
    rows: Dim
    lines: Dim
    length: Dim


@dataclass(frozen=True)
class Outer:
    """The thread's sums[i, j] += left[k, its row i] * right[k, its column j], over the
    terms in shared memory, in order (CUDA; see cuda_contract.py)."""

    dtype: str
    sums: str
    left: str
    right: str


@dataclass(frozen=True)
class WarpReduce:
    """Join a variable over each so many of a warp's lanes, by a tree of shuffles; all
    get it."""

    prim: str
    name: str
    dtype: str
    lanes: int = 32


@dataclass(frozen=True)
class Claim:
    """array[index] = the larger of it and `number`; threads take turns (CUDA)."""

    array: str
    index: Affine
    number: Affine


@dataclass(frozen=True)
class AddInTurn:
    """The lanes of a warp, in order, each add their variable `term` to sums[at + to],
    where `to` is not below 0; the lane `to` % 32 does it (CUDA)."""

    sums: str
    at: Affine
    to: str
    term: str
    dtype: str


@dataclass(frozen=True)
class Inverse:
    """A float32 constant from which Over divides by `by` (CUDA)."""

    name: str
    by: Expr


@dataclass(frozen=True)
class Over:
    """A float32 constant `name` = value / by, from by's `inverse` (CUDA); `far` is set
    where it may be another number than a division gives."""

    name: str
    value: Expr
    by: Expr
    inverse: str
    far: str


@dataclass(frozen=True)
class Barrier:
    """All threads of the block wait for each other."""


Stmt: TypeAlias = (
    "Let | Var | Set | Array | Put | Move | Fetch | Loop | If | Turn | Stream | Dot"
    " | Pairs | Along | Outer | WarpReduce | Claim | AddInTurn | Inverse | Over"
    " | Barrier"
)


@dataclass(frozen=True)
class Kernel:
    """`rows`: how many iterations the "rows" loop has; `grain`: the least worth
    a thread of its own; `scratch`: bytes a thread; `block`: CUDA threads a block, of
    which `team` take a row together: 1, a warp's 32, or all; `turns`: how many rows
    are worth a team's start; `resident`: how many
    blocks registers are to be left for; `narrow`: whether all indices fit in 32 bits;
    `lead`: the outermost axes (name, extent) of what a row's number is unravelled to.
    """

    name: str
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    body: tuple[Stmt, ...]
    rows: Dim
    grain: Dim = 1
    scratch: Dim = 0
    block: int = 0
    team: int = 1
    turns: int = 1
    resident: int = 0
    narrow: bool = False
    lead: tuple[tuple[str, Dim], ...] = ()

    @property
    def dots(self) -> set[str]:
        """The dtypes of its Dots."""
        return {s.dtype for s in statements_of(self) if isinstance(s, Dot)}

    def has(self, kind: type) -> bool:
        """Whether there is a statement of a kind in it."""
        return any(isinstance(s, kind) for s in statements_of(self))

    @property
    def params(self) -> tuple[Dim, ...]:
        """The symbolic Dims that the kernel reads, in order of appearance."""
        found: dict[Dim, None] = {}
        for stmt in self.body:
            found.update(dict.fromkeys(_dims(stmt)))
        return tuple(found)


def statements_of(of: Kernel | Loop | If) -> Iterator[Stmt]:
    """All statements in it."""
    for stmt in of.body:
        yield stmt
        if isinstance(stmt, (Loop, If)):
            yield from statements_of(stmt)


def parts_of(of: Any) -> Iterator[Any]:
    """A statement, or an expression, and all that it is made of."""
    yield of
    match of:
        case Let(_, _, value) | Set(_, value) | Offset(value) | At(_, value):
            parts: tuple[Any, ...] = (value,)
        case Put(_, first, second) | Guarded(first, second, _):
            parts = (first, second)
        case Apply(_, parts, _, _):
            pass
        case _:
            parts = ()
    for part in parts:
        yield from parts_of(part)


def buffers_read(stmt: Stmt) -> Iterator[str]:
    """The buffers that a statement reads."""
    return (part.buffer for part in parts_of(stmt) if isinstance(part, At))


def names_read(stmt: Stmt) -> Iterator[str]:
    """The variables that a statement reads."""
    for part in parts_of(stmt):
        if isinstance(part, Ref):
            yield part.name
        elif isinstance(part, Affine):
            yield from part.axes()
            yield from (f"v{node}" for node in part.data())


def _dims(node: Any) -> Iterator[Dim]:
    if isinstance(node, Affine):
        yield from dims_of(node)
    elif isinstance(node, Num):
        if not isinstance(node.value, (int, float, bool, complex)):
            yield node.value
    elif isinstance(node, Array):
        if not isinstance(node.offset, int):
            yield node.offset
    elif isinstance(node, tuple):
        for item in node:
            yield from _dims(item)
    elif hasattr(node, "__dataclass_fields__"):
        if isinstance(node, Along):
            extents = (node.rows, node.lines, node.length)
            yield from (d for d in extents if not isinstance(d, int))
        for entry in fields(node):
            yield from _dims(getattr(node, entry.name))
