"""Kernel -> text, for a target given as a table of facts.

render(kernel, CPU)   C with `void name(buffers, dims, begin, end, scratch)`
render(kernel, CUDA)  CUDA C++ with one pointer a buffer, then one integer a Dim
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pirol.compiler import dims
from pirol.compiler.dims import Dim
from pirol.compiler.ir import (
    BITS,
    COMPLEX,
    DTYPES,
    FLOATS,
    HALVES,
    INTS,
    SHORT,
    TensorType,
)
from pirol.kernels.affine import ZERO, Affine, Data, Quotient, Remainder
from pirol.kernels.kernel import (
    AddInTurn,
    Along,
    Apply,
    Array,
    At,
    Barrier,
    Claim,
    Dot,
    Expr,
    Fetch,
    Guarded,
    If,
    Inverse,
    Kernel,
    Let,
    Loop,
    Move,
    Num,
    Offset,
    Outer,
    Over,
    Pairs,
    Put,
    Ref,
    Set,
    Stmt,
    Stream,
    Turn,
    Var,
    WarpReduce,
    statements_of,
)
from pirol.prim import PRIMS

HEADERS = Path(__file__).parent / "headers"
# What every CUDA kernel's text begins with.
PRELUDE = "".join(
    (HEADERS / f"pirol_{name}.h").read_text() for name in ("cuda", "half")
)


@dataclass(frozen=True)
class Target:
    """What the renderer must know of a dialect."""

    name: str
    types: dict[str, str]
    restrict: str
    head: str  # what a kernel's text begins with


_TYPES = {
    "bool": "unsigned char",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "int32": "int",
    "float16": "unsigned short",  # its bits
    "bfloat16": "unsigned short",
    "float32": "float",
    "float64": "double",
    "complex64": "float",  # what its parts are
    "complex128": "double",
}
CPU = Target(
    "cpu", _TYPES | {"int64": "int64_t"}, "restrict", '#include "pirol_cpu.h"\n'
)
CUDA = Target("cuda", _TYPES | {"int64": "long long"}, "__restrict__", PRELUDE)


# Of float32 by pirol_math.h, on a CPU.
OWN = ("erf", "exp", "log", "log1p", "sigmoid", "tanh")
# What joins copies of a variable, in OpenMP's words; "gt" and "lt" of no NaN.
JOINED = {"sum": "+", "prod": "*", "or": "|", "gt": "max", "lt": "min"}
# What the parameters of a CPU's kernel end with.
REST = "const int64_t *dims,\n    int64_t begin, int64_t end, void *scratch) {"


def _puts_by_data(kernel: Kernel) -> bool:
    puts = (s for s in statements_of(kernel) if isinstance(s, Put))
    return any(s.index.data() for s in puts)


def render(kernel: Kernel, target: Target, shared: Collection[str] = ()) -> str:
    """The kernel's whole source text; shared: buffers that may be the same memory."""
    return _Renderer(kernel, target, shared).text()


def class_of(dtype: str) -> str:
    """The dtype class that scalar expressions are chosen by."""
    if dtype == "bool":
        return "bool"
    return "float" if dtype in FLOATS else "int"


class _Renderer:
    def __init__(self, kernel: Kernel, target: Target, shared: Collection[str]) -> None:
        self.kernel = kernel
        self.shared = shared
        self.target = target
        self.params = {d: f"d{k}" for k, d in enumerate(kernel.params)}
        self.headers: dict[str, None] = {}  # that primitives in it need
        self.apart = target is CPU and _puts_by_data(kernel)
        self.pairs = any(t.dtype in COMPLEX for t in kernel.outputs)

    def text(self) -> str:
        lines = self.cuda_head() if self.target is CUDA else self.cpu_head()
        lines += self.block(self.kernel.body, 1)
        lines += ["  pr_streamed();"] if self.kernel.has(Stream) else []
        tail = self.cpu_tail() if self.apart else []
        return "\n".join([self.header(), *lines, "}", *tail, ""])

    def header(self) -> str:
        halves = "_bf16" if "bfloat16" in self.kernel.dots else ""
        found = [f"pirol_dot{halves}.h"] if self.kernel.dots else []
        found += ["pirol_stream.h"] if self.kernel.has(Stream) else []
        found += ["pirol_along.h"] if self.kernel.has(Along) else []
        found += self.headers
        if self.target is CUDA:  # NVRTC is given no files
            return self.target.head + "".join((HEADERS / n).read_text() for n in found)
        return self.target.head + "".join(f'#include "{name}"\n' for name in found)

    def cpu_head(self) -> list[str]:
        """The kernel's function; where it is `apart`, one that has its buffers as
        parameters: compilers trust `restrict` there alone, and so take loops that store
        at places named by data for vectors."""
        pointers = [
            f"{const}{self.type(kind.dtype)} *{self.alone(name)}{name}"
            for name, kind, const in self.buffers()
        ]
        if self.apart:
            lines = [f"static void rows_of_{self.kernel.name}("]
            lines += [f"    {pointer}," for pointer in pointers]
            lines.append(f"    {REST}")
        else:
            lines = [f"void {self.kernel.name}(void *const *buffers, {REST}"]
            lines += [f"  {p} = buffers[{k}];" for k, p in enumerate(pointers)]
        lines += [
            f"  const int64_t {p} = dims[{k}];"
            for k, p in enumerate(self.params.values())
        ]
        return [*lines, "  (void)dims, (void)scratch;"]

    def cpu_tail(self) -> list[str]:
        """The function that is called, which gives the buffers one by one."""
        count = len(self.buffers())
        return [
            f"void {self.kernel.name}(void *const *buffers, {REST}",
            f"  rows_of_{self.kernel.name}(",
            *(f"    buffers[{k}]," for k in range(count)),
            "    dims, begin, end, scratch);",
            "}",
        ]

    def cuda_head(self) -> list[str]:
        given = [
            f"{const}{self.type(kind.dtype)} *{self.alone(name)}{name}"
            for name, kind, const in self.buffers()
        ]
        given += [f"long long {p}" for p in self.params.values()]
        given.append("long long rows")
        kernel = self.kernel
        limits = (
            f"{kernel.block}, {kernel.resident}" if kernel.resident else kernel.block
        )
        head = f'extern "C" __global__ void __launch_bounds__({limits})'
        return [
            f"{head} {kernel.name}({', '.join(given)}) {{",
            *self.thread_names(),
        ]

    def thread_names(self) -> list[str]:
        """What names a thread, and the rows that it takes with its team."""
        index, team = self.type("index"), self.kernel.team
        rows = self.kernel.block // team
        return [
            f"  const {index} thread = threadIdx.x, lane = thread % 32;",
            f"  const {index} warp = thread / 32, each = {rows};",
            f"  const {index} begin = blockIdx.x * each + thread / {team};",
            f"  const {index} stride = gridDim.x * each;",
            "  (void)lane, (void)warp;",
        ]

    def alone(self, buffer: str) -> str:
        """What tells the compiler that a buffer shares no memory with others."""
        return "" if buffer in self.shared else f"{self.target.restrict} "

    def buffers(self) -> list[tuple[str, TensorType, str]]:
        found = [(f"in{k}", t, "const ") for k, t in enumerate(self.kernel.inputs)]
        return found + [(f"out{k}", t, "") for k, t in enumerate(self.kernel.outputs)]

    def type(self, dtype: str) -> str:
        if dtype == "index":
            dtype = "int32" if self.kernel.narrow else "int64"
        return self.target.types[dtype]

    def block(self, body: Sequence[Stmt], depth: int) -> list[str]:
        return [line for stmt in body for line in self.stmt(stmt, depth)]

    def stmt(self, stmt: Stmt, depth: int) -> list[str]:
        pad = "  " * depth
        match stmt:
            case Let(name, dtype, value):
                return [f"{pad}const {self.type(dtype)} {name} = {self.expr(value)};"]
            case Var(name, dtype, value):
                return [f"{pad}{self.type(dtype)} {name} = {self.expr(value)};"]
            case Set(name, value):
                return [f"{pad}{name} = {self.expr(value)};"]
            case Put(buffer, index, value):
                return [f"{pad}{buffer}[{self.index(index)}] = {self.expr(value)};"]
            case Move(dtype, count, to, source):
                ends = ", ".join(self.place(*end)[0] for end in (to, source))
                return [f"{pad}pr_move_{BITS[dtype] // 8 * count}({ends});"]
            case Fetch(buffer, index):
                return [f"{pad}pr_fetch({buffer}, {self.index(index)});"]
            case Array():
                return [pad + self.array(stmt)]
            case If(condition, body):
                head = f"{pad}if ({self.expr(condition)}) {{"
                return [head, *self.block(body, depth + 1), pad + "}"]
            case Turn(dtype, to, source, wide, high):
                given = [text for place in (to, source) for text in self.place(*place)]
                for rest, most in (wide, high):
                    given.append(f"pr_least({self.index(rest)}, {most})")
                return [f"{pad}pr_turn_{BITS[dtype] // 8}({', '.join(given)});"]
            case Stream(dtype, to, source, (rest, most)):
                least = f"pr_least({self.index(rest)}, {most})"
                given = [*self.place(*to), source, f"{least} * {BITS[dtype] // 8}"]
                return [f"{pad}pr_stream({', '.join(given)});"]
            case Dot():
                return [pad + self.dot(stmt)]
            case Pairs(to, source, columns, width, terms):
                given = [to, *self.place(*source), self.index(columns), str(width)]
                return [f"{pad}pr_pairs_of({', '.join([*given, self.index(terms)])});"]
            case Along():
                return [pad + self.along(stmt)]
            case Outer(dtype, sums, left, right):
                return [f"{pad}pr_outer_{SHORT[dtype]}({sums}, {left}, {right});"]
            case WarpReduce():
                return [pad + line for line in self.warp(stmt)]
            case Claim(array, index, number):
                where = f"{array} + {self.operand(index)}"
                return [f"{pad}atomicMax({where}, {self.index(number)});"]
            case AddInTurn(sums, at, to, term, dtype):
                where = f"{sums} + {self.operand(at)}"
                return [f"{pad}pr_add_in_turn_{SHORT[dtype]}({where}, {to}, {term});"]
            case Inverse(name, by):
                return [f"{pad}const float {name} = pr_inverse({self.expr(by)});"]
            case Over(name, value, by, inverse, far):
                given = [self.expr(value), self.expr(by), inverse, f"&{far}"]
                return [f"{pad}const float {name} = pr_over({', '.join(given)});"]
            case Barrier():
                return [f"{pad}__syncthreads();"]
            case Loop():
                return self.loop(stmt, depth)

    def place(self, name: str, first: Affine, *steps: Affine) -> tuple[str, ...]:
        """A pointer to an element, and steps."""
        start = name if first == ZERO else f"{name} + {self.index(first)}"
        return start, *map(self.index, steps)

    def dot(self, dot: Dot) -> str:
        left, wide = self.place(*dot.left), dot.dtype != "bfloat16"
        given = [*self.place(*dot.to), *(left if wide else left[:-1])]
        given += [*(dot.tables if wide else ()), *self.place(*dot.right)]
        given += [self.index(n) for n in (dot.rows, dot.columns, dot.terms)]
        name = f"pr_dot{'_read' if dot.reads else ''}_{SHORT[dot.dtype]}"
        return f"{name}({', '.join(given)});"

    def along(self, along: Along) -> str:
        name, first, right_at = along.right
        given = [along.to, *along.left, *self.place(name, first), right_at]
        given += map(self.dim, (along.rows, along.lines, along.length))
        return f"pr_along_{SHORT[along.dtype]}({', '.join(given)});"

    def array(self, array: Array) -> str:
        kind = self.type(array.dtype)
        if array.scope == "scratch":
            offset = self.dim(array.offset)
            return (
                f"{kind} *{self.target.restrict} {array.name} = "
                f"({kind} *)((char *)scratch + {offset});"
            )
        scope = "__shared__ " if array.scope == "shared" else ""
        if self.target is CUDA:
            scope = f"__align__(16) {scope}"
        return f"{scope}{kind} {array.name}[{array.length}];"

    def loop(self, loop: Loop, depth: int) -> list[str]:
        pad, kind, var = "  " * depth, self.type("index"), loop.var
        start, stop, step = (
            self.index(loop.start),
            self.index(loop.stop),
            str(loop.step),
        )
        if loop.limit is not None:
            limit = self.index(loop.limit)
            stop = f"({stop} < {limit} ? {stop} : {limit})"
        if loop.kind == "threads":
            start, step = "threadIdx.x", str(self.kernel.block)
        elif loop.kind == "rows" and self.target is CUDA:
            start, stop, step = "begin", "rows", "stride"
        lines = [pad + p for p in self.pragmas(loop)]
        if loop.kind == "lanes" and self.target is CPU:
            lines.insert(0, f"{pad}const int64_t {var}_stop = {stop};")
            stop = f"{var}_stop"
            head = f"{pad}for ({kind} {var} = {start}; {var} < {stop}; ++{var}) {{"
            body = [*lines[1:], head, *self.block(loop.body, depth + 1), pad + "}"]
            return [pad + "{", lines[0], *body, pad + "}"]
        head = f"{pad}for ({kind} {var} = {start}; {var} < {stop}; {var} += {step}) {{"
        return [*lines, head, *self.block(loop.body, depth + 1), pad + "}"]

    def pragmas(self, loop: Loop) -> list[str]:
        if self.target is CUDA:
            return [f"#pragma unroll {loop.unroll}"] if loop.unroll > 1 else []
        if loop.kind != "lanes":
            return []
        joined = ""
        for name, kind, dtype in loop.combine:
            how = JOINED.get(kind, kind)
            how += f"_{SHORT[dtype]}" if how == kind and dtype in FLOATS else ""
            joined += f" reduction({how}: {name})"
        return [f"#pragma omp simd{joined}"]

    def expr(self, e: Expr) -> str:
        match e:
            case Ref(name):
                return name
            case Num(value, dtype):
                return self.number(value, dtype)
            case At(buffer, index):
                return f"{buffer}[{self.index(index)}]"
            case Offset(value):
                return self.operand(value)
            case Guarded(condition, value, _):
                here = self.expr(condition)
                here = f"({here} | pr_zero)" if self.target is CPU else here
                return f"({here} ? {self.expr(value)} : 0)"
            case Apply():
                return self.apply(e)

    def apply(self, e: Apply) -> str:
        if e.prim == "cast" and e.dtype == "bool":
            return f"({self.expr(e.args[0])} != 0)"
        if e.prim == "cast" and (e.of in HALVES or e.dtype in HALVES):
            wide = e.of in HALVES
            name = f"widen_{SHORT[e.of]}" if wide else f"narrow_{SHORT[e.dtype]}"
            return f"pr_{name}({self.expr(e.args[0])})"
        if self.target is CPU and e.of == "float32" and e.prim in OWN:
            self.headers["pirol_math.h"] = None
            return f"pr_{e.prim}_f32({self.expr(e.args[0])})"
        if e.prim in ("largest", "smallest"):
            return f"pr_{e.prim}_{SHORT[e.of]}({', '.join(map(self.expr, e.args))})"
        table, header = PRIMS[e.prim].scalar, PRIMS[e.prim].header
        assert table is not None
        self.headers |= {header: None} if header else {}
        template = table.get(class_of(e.of)) or table["any"]
        args = [self.expr(a) for a in e.args]
        if self.target is CPU and e.prim == "cast" and e.dtype in FLOATS:
            args = [f"({a} | pr_zero)" if e.of in INTS else a for a in args]
        elif self.target is CPU and e.prim == "pow":
            args[1] += " + pr_zero"
        text = template.format(
            *args,
            c=self.type(e.dtype),
            u="unsigned long long" if e.dtype == "int64" else "unsigned",
            t=SHORT[e.of],
            f="f" if e.of == "float32" else "",
        )
        rounded = self.target is CPU and e.prim == "mul" and self.pairs
        return f"PR_ROUNDED({text})" if rounded else text

    def warp(self, stmt: WarpReduce) -> list[str]:
        """Each lane is joined with the one at half the distance, down to 1."""
        name, dtype, lines = stmt.name, stmt.dtype, []
        joined = self.apply(Apply(stmt.prim, (Ref(name), Ref("other")), dtype, dtype))
        distance = stmt.lanes
        while distance := distance // 2:
            # A name: in `a > b ? a : b` the shuffle itself would be run divergently.
            other = f"__shfl_xor_sync(0xffffffffu, {name}, {distance})"
            head = f"const {self.type(dtype)} other = {other};"
            lines.append(f"{{ {head} {name} = {joined}; }}")
        return lines

    def number(self, value: Any, dtype: str) -> str:
        if not isinstance(value, (int, float, bool)):
            whole = f"({self.dim(value)} != 0)" if dtype == "bool" else self.dim(value)
            return f"(({self.type(dtype)}){whole})"
        if dtype in HALVES:
            bits = int(np.asarray(value, DTYPES[dtype][1]).view(np.uint16))
            return f"((unsigned short){bits:#06x})"
        if dtype in FLOATS:
            return self.float(float(DTYPES[dtype][1](value)), dtype)
        exact = int(np.asarray(value).astype(DTYPES[dtype][1]))
        if dtype == "int64":
            low = -(2**63)
            return f"({low + 1}LL - 1)" if exact == low else f"{exact}LL"
        return (
            f"(({self.type(dtype)}){exact})"
            if abs(exact) < 2**31
            else f"({exact + 1} - 1)"
        )

    def float(self, value: float, dtype: str) -> str:
        if math.isnan(value):
            return f"PR_NAN_{SHORT[dtype]}"
        if math.isinf(value):
            return f"{'-' if value < 0 else ''}PR_INF_{SHORT[dtype]}"
        text = repr(value) if value == int(value) and abs(value) < 1e6 else value.hex()
        text = f"{text}{'f' if dtype == 'float32' else ''}"
        return f"({text})" if text.startswith("-") else text

    def operand(self, value: Affine) -> str:
        """An index expression that binds as tightly as a name."""
        text = self.index(value)
        return text if text.isidentifier() else f"({text})"

    def dim(self, value: Dim) -> str:
        return str(value) if isinstance(value, int) else self.params[value]

    def index(self, value: Affine) -> str:
        parts = []
        for atom, coefficient in value.terms:
            match atom:
                case str():
                    name = atom
                case Data():
                    name = atom.name
                case Quotient(of, by):
                    name = f"({self.operand(of)} / {self.dim(by)})"
                case Remainder(of, by):
                    name = f"({self.operand(of)} % {self.dim(by)})"
            parts.append(
                name if coefficient == 1 else f"{name} * {self.dim(coefficient)}"
            )
        if not parts or dims.equal(value.const, 0) is not True:
            parts.append(self.dim(value.const))
        return " + ".join(parts)
