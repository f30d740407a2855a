"""The native runtime: runs a checked plan over Paddle tensors, or over Arrays.

A dim (`Dim`) is an extent if >= 0; d < 0 stands for slot -(d + 1) of the call's table
of 64-bit integers. The C sources in native/ say the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict

from typing_extensions import NotRequired

Dim = int
Dims = Sequence[Dim]

# DLPack type code and bits (bool is code 6 bits 8), dims.
Input = tuple[int, int, Dims]
# op, dst slot, a, b: 0 set dst to the int a, 1 add, 2 sub, 3 mul, 4 floordiv (by 0
# gives 0), 5 mod, 6 max, 7 min.
SlotOp = tuple[int, int, int, int]
# op, a, b: 0 ==, 1 !=, 2 >=, 3 <
Guard = tuple[int, Dim, Dim]
# kind, argument (input index, aliased buffer), type code, bits, dims
Buffer = tuple[
    Literal["input", "arena", "output", "opaque", "alias"], int, int, int, Dims
]
# void kernel(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end,
#             void *scratch): address, buffers, dims, rows, grain, scratch bytes.
# On CUDA: a CUfunction, buffers, dims, rows, threads a block, rows a block takes. Last
# what profilers call it, which may be missing.
Launch = (
    tuple[Literal["launch"], int, Sequence[int], Dims, Dim, Dim, Dim]
    | tuple[Literal["launch"], int, Sequence[int], Dims, Dim, Dim, Dim, str]
)
# callable, input buffers, result buffers (-1: not wanted), name, fresh: no result
# shares memory with an operand, and no operand is kept (so their tensors serve again)
Opaque = tuple[
    Literal["opaque"], Callable[..., Any], Sequence[int], Sequence[int], str, bool
]
# Numbers that data tell. What is read: the slot that it sets, or (the int it must be,)
Set = int | tuple[int]
# (input, item, what it sets): read before anything runs
Content = tuple[int, int, Set]
# (buffer, axis or item, what it sets, whether an item)..., then the segment or -1
Bind = tuple[Literal["bind"], Sequence[tuple[int, int, Set, bool]], int]
# source buffer, input index
Write = tuple[Literal["write"], int, int]

# buffer of a bool scalar, what to say where it is false
Check = tuple[Literal["check"], int, str]

# Whether it is turned, from one row to the next, from one of the batch to the next.
Matrix = tuple[bool, Dim, Dim]
# buffers of x, y, the row that is added (-1: none) and the result; how many products,
# rows, columns and terms; how x and y lie
Product = tuple[Literal["product"], tuple[int, int, int, int], Dims, Matrix, Matrix]
# buffers of x, the weights and the result; of each dim of the window its stride, the
# padding on both sides, the dilation; groups
Numbers = Sequence[int]
Convolution = tuple[
    Literal["convolution"], Sequence[int], Numbers, Numbers, Numbers, int
]

class Spec(TypedDict):
    slots: int
    inputs: Sequence[Input]
    contents: Sequence[Content]
    segments: Sequence[Sequence[SlotOp]]
    guards: Sequence[Guard]
    written: Sequence[int]
    buffers: Sequence[Buffer]
    lifetimes: Sequence[tuple[int, int]]
    steps: Sequence[Launch | Product | Convolution | Opaque | Bind | Write | Check]
    outputs: Sequence[int]
    keep: NotRequired[object]  # held while the plan lives: what owns the kernels
    arrays: NotRequired[bool]  # takes and makes Arrays, not Paddle's tensors
    # Device, and the addresses of the kernels that copy items of 1, 2, 4 and 8 bytes.
    cuda: NotRequired[tuple[int, int, int, int, int] | None]
    graphs: NotRequired[bool]  # replay launches that come again as CUDA graphs

class Stats(TypedDict):
    calls: int
    layouts: int
    arena_bytes: int
    graphs: int  # built so far
    replays: int

class Plan:
    def __new__(cls, spec: Spec | dict[str, Any]) -> Plan: ...
    def run(self, tensors: Sequence[Any]) -> list[Any] | None: ...
    def run_on(self, tensors: Sequence[Any], stream: int) -> list[Any] | None: ...
    def miss(self) -> str: ...
    def learned(self) -> tuple[list[int | None], int, list[int]] | None: ...
    def stats(self) -> Stats: ...
    def watch(self, on: bool) -> None: ...
    def times(self) -> list[tuple[int, float, float]]: ...

class Array:
    def __new__(cls, tensor: Any, stream: int | None = None) -> Array: ...
    def to(self, device: int, stream: int = 0) -> Array: ...
    def as_type(self, code: int, bits: int) -> Array: ...
    def like(self, tensor: object) -> Any: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> tuple[int, int, int]: ...
    @property
    def read_only(self) -> bool: ...
    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

class Module:
    def __new__(cls, image: bytes, device: int) -> Module: ...
    def function(self, name: str) -> int: ...

def open_cuda(library: str) -> None: ...
def work_stream(tensor: object, device: int) -> int | None: ...
def open_blas(library: str, device: int, tune: bool) -> bool: ...
def open_attention(library: str, device: int, tune: bool) -> bool: ...
def open_dnn(library: str, device: int, tune: bool) -> bool: ...
def open_profiler(library: str) -> bool: ...
def cuda_arch(device: int) -> str: ...
def init(dlpack_capsule: object) -> None: ...
def open_threads(library: str) -> bool: ...
def set_threads(count: int) -> None: ...
def get_threads() -> int: ...
