"""Plan -> Compiled: generates and builds the kernels, and makes the native plan.

The native plan works on a table of integers (slots): shape symbols, and every Dim
that buffers, kernels or guards need, computed by small programs of integer ops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import sympy

from pirol.compiler import dims
from pirol.compiler.dims import Dim, FloorDiv, Mod
from pirol.compiler.donate import SHARED
from pirol.compiler.errors import BuildError, Unsupported
from pirol.compiler.ir import BITS, Graph, Guard, Op, structure
from pirol.compiler.process import native_module
from pirol.kernels import cpu, cuda, sorting
from pirol.kernels.build import build, cache_folder, load
from pirol.kernels.cuda_build import build_cubin
from pirol.kernels.kernel import Kernel
from pirol.kernels.lower import Refusal, build_nest
from pirol.kernels.nest import Nest
from pirol.kernels.render import CPU, Target, render
from pirol.passes.convolutions import window
from pirol.passes.plan import (
    NEVER_ALIAS,
    Attention,
    Bind,
    Buffer,
    Check,
    Convolution,
    Launch,
    Opaque,
    Plan,
    Product,
    Read,
    Sort,
    Step,
    Transform,
    Write,
)
from pirol.passes.products import Side, matrix, sides

OPCODES = {
    "const": 0,
    "add": 1,
    "sub": 2,
    "mul": 3,
    "//": 4,
    "%": 5,
    "max": 6,
    "min": 7,
}
TRANSFORMS = {("c2c", True): 0, ("c2c", False): 1, ("r2c", True): 2, ("c2r", False): 3}
GUARDS = {"eq": 0, "ne": 1, "ge": 2, "lt": 3}
CODES = {"bool": 6, "bfloat16": 4, "complex64": 5, "complex128": 5}


@dataclass(frozen=True)
class Built:
    """One launch's kernel, from fused op to source text."""

    op: Op
    nest: Nest
    kernel: Kernel
    source: str


@dataclass(frozen=True)
class Code:
    """One launch's kernel as the native plan needs it; `key` names its object file."""

    name: str
    key: str
    params: tuple[Dim, ...]
    rows: Dim
    grain: Dim
    scratch: Dim


@dataclass
class Compiled:
    """A runnable plan. `spec` is what the native runtime was given.

    An output that is an input becomes a tensor of its own over the same memory.
    """

    plan: Plan
    spec: dict[str, Any]
    run: Callable[[Sequence[Any]], list[Any] | None]
    run_on: Callable[[Sequence[Any], int], list[Any] | None]
    stats: Callable[[], Mapping[str, int]]
    miss: Callable[[], str]
    learned: Callable[[], dict[str, int]]
    watch: Callable[[bool], None]
    times: Callable[[], list[tuple[int, float, float]]]
    own: Callable[[list[Any], Sequence[Any]], list[Any]] | None = None

    @cached_property
    def native(self) -> bool:
        """Whether no step of it is Paddle's, but for drawing keys."""
        paddles = (s.op.name for s in self.plan.steps if isinstance(s, Opaque))
        return all(name == "random_key" for name in paddles)

    def label(self, number: int) -> str:
        """What a step is called: its kernel, op or kind, and the user's line."""
        kind, *rest = self.spec["steps"][number]
        if kind == "launch":
            return str(rest[-1])
        op = getattr(self.plan.steps[number], "op", None)
        return kind if op is None else f"{kind} {op.title} {op.line}".rstrip()

    @cached_property
    def repeated(self) -> bool:
        """Whether an output is an input, or another output."""
        numbers = self.plan.outputs
        return bool(self.passed_on) or len({*numbers}) < len(numbers)

    @cached_property
    def fresh(self) -> bool:
        """Whether each output is a tensor that nobody else has."""
        return self.native and not self.repeated

    @cached_property
    def passed_on(self) -> list[int]:
        """Numbers of the outputs that are inputs."""
        kinds = [self.plan.buffers[n].kind for n in self.plan.outputs]
        return [k for k, kind in enumerate(kinds) if kind == "input"]


Caller = Callable[[Op], Callable[..., Any]]


def generate(plan: Plan, target: Target = CPU) -> list[Built]:
    """The kernels of the plan's launches, in order, as text."""
    alike: dict[Any, Built] = {}
    launches = (s.op for s in plan.steps if isinstance(s, Launch))
    return [_alike(op, alike, target) for op in launches]


def compile_kernels(kernels: Sequence[Built]) -> tuple[Code, ...]:
    """The kernels as machine code on disk; an error names the first that cannot be."""
    try:
        paths = build([k.source for k in kernels])
    except (BuildError, OSError):
        for k in kernels:
            _build_alone(k)
        raise
    return tuple(_code(b.kernel, path.stem) for b, path in zip(kernels, paths))


def _code(k: Kernel, key: str) -> Code:
    return Code(k.name, key, k.params, k.rows, k.grain, k.scratch)


def sources_of(kernels: Sequence[Built], sorts: Sequence[int] = ()) -> dict[str, str]:
    """The kernels' texts by name; `sorts`: the sizes of items that are sorted, too."""
    found = {b.kernel.name: b.source for b in kernels}
    return found | ({"pirol_sort": sorting.text(sorts)} if sorts else {})


def sorts_of(plan: Plan) -> list[int]:
    """The sizes, in bytes, of the items that a plan sorts."""
    steps = (s for s in plan.steps if isinstance(s, Sort))
    return sorted({BITS[s.op.operands[0].dtype] // 8 for s in steps})


def compile_cuda(
    kernels: Sequence[Built],
    arch: str,
    given: Mapping[str, bytes],
    sorts: Sequence[int] = (),
) -> tuple[Code, ...]:
    """The kernels, and those of sorts, as one cubin on disk, which each Code's key
    names; one of `given`, where it is among them."""
    key = build_cubin(sources_of(kernels, sorts), arch, given)
    return tuple(_cuda_code(b.kernel, key) for b in kernels)


def _cuda_code(k: Kernel, key: str) -> Code:
    """For a CUDA launch grain is the threads of a block, scratch the rows it takes."""
    rows = k.block // k.team * k.turns
    return Code(k.name, key, k.params, k.rows, k.block, rows)


def assemble(
    plan: Plan,
    original: Graph,
    caller: Caller,
    codes: Sequence[Code],
    home: Mapping[str, Any] | None = None,
) -> Compiled:
    """Load the kernels of the plan's launches for the CPU and make its native form.

    `original` has the input types before facts about dims were applied; `caller`
    gives the Python callable that lets Paddle run an opaque op or claimed call; `home`
    is what else the native plan must know of where tensors live.
    """
    folder = cache_folder()
    addresses = [load(str(folder / f"{c.key}.so"), c.name) for c in codes]
    return connect(plan, original, caller, list(zip(codes, addresses)), home or {})


def connect(
    plan: Plan,
    original: Graph,
    caller: Caller,
    kernels: list[tuple[Code, int]],
    home: Mapping[str, Any],
    sorters: Mapping[int, tuple[int, ...]] | None = None,
) -> Compiled:
    """The native form of a plan whose launches' kernels have these addresses; `home`
    is what else it must know of where tensors live; `sorters`: the addresses of CUDA's
    kernels of sorts, by the size of an item."""
    made = _Assembler(plan, original, caller, sorters or {})
    spec = made.spec(kernels) | dict(home)
    native = native_module().Plan(spec)

    def learned() -> dict[str, int]:
        return _learned(plan, original, made.slots, native.learned())

    runs = (native.run, native.run_on, native.stats, native.miss)
    return Compiled(plan, spec, *runs, learned, native.watch, native.times)


def _learned(
    plan: Plan, original: Graph, slots: Mapping[Dim, int], found: Any
) -> dict[str, int]:
    """The symbols' values that the last run knew when it missed on its way."""
    if found is None:
        return {}
    numbers, buffer, extents = found
    symbols = [d for d in slots if d.is_Symbol and numbers[slots[d]] is not None]
    values = {d.name: numbers[slots[d]] for d in symbols}
    for step in plan.steps:
        if isinstance(step, Opaque) and buffer in step.outputs and buffer >= 0:
            which = _site(step.op)
            (op,) = (o for o in original.ops if _site(o) == which)
            declared = op.results[step.outputs.index(buffer)].shape
            pairs = zip(declared, extents)
            values |= {d.name: n for d, n in pairs if not isinstance(d, int)}
    return values


def _site(op: Op) -> Any:
    """What tells an opaque op of a program from the others."""
    return op.attrs.get("site"), op.attrs.get("gradient")


def _build_alone(built: Built) -> None:
    try:
        build([built.source])
    except (BuildError, OSError) as error:
        where = f" at {built.op.line}" if built.op.line else ""
        raise BuildError(f"kernel {built.kernel.name}{where}: {error}") from error


def _alike(op: Op, alike: dict[Any, Built], target: Target) -> Built:
    """The group's kernel: the one in `alike` of a group that is built the same."""
    assert op.body is not None
    key = structure(op.body), op.attrs.get(SHARED), "strip" in op.attrs
    if key not in alike:
        alike[key] = _kernel(op, target)
    return replace(alike[key], op=op)


def _kernel(op: Op, target: Target) -> Built:
    assert op.body is not None
    nest = build_nest(op.body)
    if isinstance(nest, Refusal):
        raise Unsupported(f"no kernel for {op.title} {op.line}: {nest}")
    nest = replace(nest, name=kernel_name(op.body, nest))
    if target is CPU:
        kernel = cpu.schedule(nest, near="strip" in op.attrs)
    else:
        kernel = cuda.schedule(nest)
    text = render(kernel, target, op.attrs.get(SHARED, ()))
    return Built(op, nest, kernel, text)


QUIET = ("const", "reshape", "broadcast", "iota", "cast")


def kernel_name(body: Graph, nest: Nest) -> str:
    """The group's primitives and a hash of its nest; equal nests have equal names."""
    words = dict.fromkeys(
        op.name.removeprefix("reduce_") for op in body.ops if op.name not in QUIET
    )
    digest = hashlib.sha256(repr(nest).encode()).hexdigest()[:6]
    return "_".join(["pirol", *([*words][:8] or ["copy"]), digest])


@dataclass
class _Assembler:
    plan: Plan
    original: Graph
    caller: Caller
    sorters: Mapping[int, tuple[int, ...]]
    slots: dict[Dim, int] = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)
    segments: list[list[tuple[int, int, int, int]]] = field(default_factory=list)
    used: int = 0

    def spec(self, kernels: list[tuple[Code, int]]) -> dict[str, Any]:
        binds = [s for s in self.plan.steps if isinstance(s, Bind)]
        self.segments = [[] for _ in range(len(binds) + 1)]
        inputs = [self.input(v.type) for v in self.original.inputs]
        for k, reads in enumerate([self.plan.contents, *(b.reads for b in binds)]):
            for name in dims.symbols_of(*(r.dim for r in reads)):
                self.stages.setdefault(name, k)
        guards = [self.guard(g) for g in self.plan.graph.guards]
        queue = iter(kernels)
        steps = [self.step(s, queue, binds) for s in self.plan.steps]
        return {
            "inputs": inputs,
            "contents": [self.read(r)[:3] for r in self.plan.contents],
            "guards": guards,
            "written": sorted({i for i, _ in self.plan.graph.writes}),
            "buffers": [self.buffer(b) for b in self.plan.buffers],
            "lifetimes": list(self.plan.lifetimes),
            "steps": steps,
            "strips": [
                (s.begin, s.end, self.encode(s.items), list(s.own))
                for s in self.plan.strips
            ],
            "outputs": list(self.plan.outputs),
            "segments": self.segments,
            "slots": self.used,
        }

    def input(self, kind: Any) -> tuple[int, int, list[int]]:
        for dim in kind.shape:
            for name in dims.symbols_of(dim):
                self.stages.setdefault(name, 0)
        return (*_dlpack(kind.dtype), [self.encode(d) for d in kind.shape])

    def guard(self, guard: Guard) -> tuple[int, int, int]:
        return GUARDS[guard.kind], self.encode(guard.a), self.encode(guard.b)

    def buffer(self, buffer: Buffer) -> tuple[str, int, int, int, list[int]]:
        shape = [self.encode(d) for d in buffer.type.shape]
        return (buffer.kind, max(buffer.of, 0), *_dlpack(buffer.type.dtype), shape)

    def step(self, step: Step, kernels: Any, binds: list[Bind]) -> tuple[Any, ...]:
        match step:
            case Launch(op, inputs, outputs):
                k, address = next(kernels)
                sizes = [self.encode(d) for d in k.params]
                numbers = [self.encode(d) for d in (k.rows, k.grain, k.scratch)]
                label = f"{k.name} {op.line}".rstrip()
                return ("launch", address, [*inputs, *outputs], sizes, *numbers, label)
            case Product(op, inputs, output):
                return self.product(op, inputs, output)
            case Convolution(op, inputs, output):
                return ("convolution", [*inputs, output], *window(op))
            case Transform(op, inputs, output):
                x, out = self.plan.buffers[inputs[0]].type, op.result.type
                size = (x if op.attrs["kind"] == "r2c" else out).shape[-1]
                lines = dims.product(x.shape[:-1])
                kind = TRANSFORMS[op.attrs["kind"], op.attrs["forward"]]
                sizes = [self.encode(d) for d in (lines, size)]
                return ("transform", inputs[0], output, kind, sizes)
            case Sort(op, inputs, outputs):
                x = op.operands[0].type
                lines, *row = dims.product(x.shape[:-1]), x.shape[-1], op.attrs["count"]
                encoded = tuple(self.encode(d) for d in (lines, *row))
                ways = self.sorters.get(BITS[x.dtype] // 8, (0, 0))
                buffers = (*inputs, *outputs)
                return ("sort", buffers, encoded, op.attrs["descending"], ways)
            case Attention(op, inputs, output):
                return self.attention(op, inputs, output)
            case Opaque(op, inputs, outputs):
                call = self.caller(op)
                fresh = op.title in NEVER_ALIAS
                return ("opaque", call, list(inputs), list(outputs), op.title, fresh)
            case Bind(reads):
                return ("bind", [*map(self.read, reads)], binds.index(step) + 1)
            case Check(source, message):
                return ("check", source, message)
            case Write(source, index):
                return ("write", source, index)

    def product(self, op: Op, inputs: Sequence[int], output: int) -> tuple[Any, ...]:
        """Buffers; how many products, rows, columns and terms; how operands lie."""
        x, y = sides(op)
        sizes = (y.count(y.batch), x.count(x.free), y.count(y.free), x.count(x.summed))
        row = inputs[2] if len(inputs) > 2 else -1
        buffers = (*inputs[:2], row, output)
        lies = (self.matrix(x), self.matrix(y))
        return ("product", buffers, [self.encode(d) for d in sizes], *lies)

    def attention(self, op: Op, inputs: Sequence[int], output: int) -> tuple[Any, ...]:
        """Where operands lie; the result; sizes; what scores are multiplied by."""
        at = op.attrs
        lies = [
            (buffer, self.encode(start), [self.encode(d) for d in steps])
            for buffer, (start, steps) in zip(inputs, at["lies"])
        ]
        batch, rows, heads, width = op.result.shape
        if not at["turns"]:
            rows, heads = heads, rows
        sizes = (batch, heads, rows, width, at["keys"], at["terms"])
        encoded = [self.encode(d) for d in sizes]
        return ("attention", lies, output, encoded, at["turns"], at["scale"])

    def matrix(self, side: Side) -> tuple[bool, int, int]:
        found = matrix(side)
        if found is None:
            raise Unsupported(f"a product of {side.value.type}, which is no matrices")
        return found.turned, self.encode(found.pitch), self.encode(found.batch)

    def read(self, read: Read) -> tuple[int, int, Any, bool]:
        """The slot that is set, or (number,)."""
        fixed = isinstance(read.dim, int)
        where = (read.dim,) if fixed else -self.encode(read.dim) - 1
        return read.source, read.place, where, read.item

    def encode(self, dim: Dim) -> int:
        """A Dim as the native runtime has it: >= 0 itself, < 0 a slot."""
        if isinstance(dim, int):
            return dim if dim >= 0 else -self.constant(dim) - 1
        if dim not in self.slots:
            if dim.is_Symbol:
                self.slots[dim] = self.fresh()
            else:
                self.slots[dim] = self.compute(dim)
        return -self.slots[dim] - 1

    def fresh(self) -> int:
        self.used += 1
        return self.used - 1

    def constant(self, value: int) -> int:
        slot = self.fresh()
        self.segments[0].append((OPCODES["const"], slot, value, 0))
        return slot

    def compute(self, dim: Any) -> int:
        """Emit the integer program of an expression; the slot of its value."""
        name, args = _parts(dim)
        encoded = [self.encode(a) for a in args]
        stage = max((self.stages.get(s, 0) for s in dims.symbols_of(dim)), default=0)
        value = encoded[0]
        for other in encoded[1:]:
            slot = self.fresh()
            self.segments[stage].append((OPCODES[name], slot, value, other))
            value = -slot - 1
        return -value - 1


def _parts(dim: Any) -> tuple[str, list[Dim]]:
    if isinstance(dim, (FloorDiv, Mod)):
        name = "//" if isinstance(dim, FloorDiv) else "%"
        return name, [dims.normal(a) for a in dim.args]
    if dim.is_Pow:
        return "mul", [dims.normal(dim.base)] * int(dim.exp)
    kinds = {sympy.Add: "add", sympy.Mul: "mul", sympy.Max: "max", sympy.Min: "min"}
    return kinds[dim.func], [dims.normal(a) for a in dim.args]


def _dlpack(dtype: str) -> tuple[int, int]:
    if dtype in CODES:
        return CODES[dtype], BITS[dtype]
    code = 0 if dtype.startswith("int") else 1 if dtype.startswith("uint") else 2
    return code, BITS[dtype]
