"""Plan: a fused graph -> buffers with lifetimes, and the steps of a call in order.

Buffers: "input", "arena" (memory inside the call), "output" (a tensor returned),
"opaque" (what Paddle made), "alias" (another shape of a buffer).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from pirol.compiler.dims import Dim, symbols_of
from pirol.compiler.ir import Graph, Op, TensorType, Value, symbols_in

# Their results never share memory with operands, and nothing keeps the operands.
NEVER_ALIAS = (
    *("pd_op.matmul", "pd_op.conv2d", "pd_op.depthwise_conv2d", "pd_op.bmm"),
    *("fft", "rfft", "irfft", "inverse"),
)


@dataclass(frozen=True)
class Buffer:
    """Memory of one value; `of` is the input index, or the buffer that it aliases."""

    kind: str
    type: TensorType
    of: int = -1


@dataclass(frozen=True)
class Launch:
    """Run the kernel of a group."""

    op: Op
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """Let cuBLASLt multiply matrices: two inputs, and perhaps a row to add to each."""

    op: Op
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class Convolution:
    """Let cuDNN convolve an image with weights, the two inputs."""

    op: Op
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class Attention:
    """Let cuDNN attend: queries, keys, values, and perhaps what is added to scores."""

    op: Op
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class Transform:
    """Let cuFFT transform the lines of an input."""

    op: Op
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class Sort:
    """Sort the rows of an input: values and places; -1: not wanted."""

    op: Op
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


LIBRARY: dict[str, type[Product | Convolution | Attention | Transform]] = {
    "product": Product,
    "convolution": Convolution,
    "attention": Attention,
    "transform": Transform,
}


@dataclass(frozen=True)
class Opaque:
    """Let Paddle run an op, or a primitive; an output of -1 is dropped."""

    op: Op
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Read:
    """A number that data tell: the extent of an axis, or an item, of a buffer.

    `dim` is the symbol that it sets, or the number that it must be.
    """

    source: int
    place: int
    dim: Dim
    item: bool


@dataclass(frozen=True)
class Bind:
    """Read sizes that depend on data."""

    reads: tuple[Read, ...]


@dataclass(frozen=True)
class Write:
    """Copy a buffer into an input's own memory."""

    source: int
    input: int


@dataclass(frozen=True)
class Check:
    """End the call with an error where a bool scalar is false."""

    source: int
    message: str


@dataclass(frozen=True)
class Strip:
    """Launches that may run one after the other for each of `items` equal parts of
    their rows in turn; of the buffers `own` only so many parts are needed at a time as
    there are threads."""

    begin: int
    end: int
    items: Dim
    own: tuple[int, ...] = ()


Library = Product | Convolution | Attention | Transform
Step = Launch | Library | Sort | Opaque | Bind | Write | Check


@dataclass(frozen=True)
class Plan:
    """What a call does; lifetimes are (first step, last step) of each buffer.

    `contents` are items of inputs (`source` counts inputs), read before all steps.
    """

    graph: Graph
    contents: tuple[Read, ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    lifetimes: tuple[tuple[int, int], ...]
    outputs: tuple[int, ...]

    @property
    def strips(self) -> list[Strip]:
        """The strips among the steps."""
        found = strips_of(self.steps)
        roots = [root_of(self.buffers, n) for n in range(len(self.buffers))]
        users: dict[int, set[int]] = {}
        for k, step in enumerate(self.steps):
            for number in touched(step):
                users.setdefault(roots[number], set()).add(k)
        return [replace(s, own=self.own(s, users)) for s in found]

    def own(self, strip: Strip, users: Mapping[int, set[int]]) -> tuple[int, ...]:
        """The arena buffers that only a strip uses, and with more than one step."""
        steps = set(range(strip.begin, strip.end))
        return tuple(
            number
            for number, by in sorted(users.items())
            if self.buffers[number].kind == "arena" and len(by) > 1 and by <= steps
        )


def plan(graph: Graph) -> Plan:
    """The plan of a graph at level "fused"."""
    return _Planner(graph).plan()


@dataclass
class _Planner:
    graph: Graph
    buffers: list[Buffer] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    contents: list[Read] = field(default_factory=list)
    ids: dict[Value, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.used = {v for op in self.graph.ops for v in op.operands}
        self.returned = set(self.graph.outputs)
        self.sizes = _sizes(self.graph, self.used)
        self.bound = symbols_of(*(d for v in self.graph.inputs for d in v.shape))

    def plan(self) -> Plan:
        for k, value in enumerate(self.graph.inputs):
            self.buffer(value, "input", k)
        for op in self.graph.ops:
            self.add(op)
        for index, value in self.graph.writes:
            self.steps.append(Write(self.ids[value], index))
        outputs = tuple(self.ids[v] for v in self.graph.outputs)
        spans = tuple(lifetimes(self.buffers, self.steps))
        buffers, steps = tuple(self.buffers), tuple(self.steps)
        return Plan(self.graph, tuple(self.contents), buffers, steps, spans, outputs)

    def buffer(self, value: Value, kind: str, of: int = -1) -> int:
        self.ids[value] = len(self.buffers)
        self.buffers.append(Buffer(kind, value.type, of))
        return self.ids[value]

    def add(self, op: Op) -> None:
        if op.name == "group":
            self.group(op)
        elif op.name in LIBRARY:
            inputs = tuple(self.ids[v] for v in op.operands)
            self.steps.append(LIBRARY[op.name](op, inputs, self.made(op.result)))
        elif op.name == "sort":
            self.sort(op)
        elif op.name == "check":
            step = Check(self.ids[op.operands[0]], op.attrs["message"])
            self.steps.append(step)
        elif op.name == "bind":
            self.bind_items(op)
        else:
            self.opaque(op)

    def bind_items(self, op: Op) -> None:
        number = self.ids[op.operands[0]]
        buffer = self.buffers[number]
        given = buffer.kind == "input"
        source = buffer.of if given else number
        reads = [Read(source, k, d, True) for k, d in enumerate(op.attrs["items"])]
        self.bound |= symbols_of(*op.attrs["items"])
        if given:
            self.contents += reads
        else:
            self.steps.append(Bind(tuple(reads)))

    def group(self, op: Op) -> None:
        if self.is_view(op):
            self.buffer(op.result, "alias", self.ids[op.operands[0]])
            return
        inputs = tuple(self.ids[v] for v in op.operands)
        self.steps.append(Launch(op, inputs, tuple(map(self.made, op.results))))

    def sort(self, op: Op) -> None:
        inputs = tuple(self.ids[v] for v in op.operands)
        outputs = tuple(self.made(r) if self.is_needed(r) else -1 for r in op.results)
        self.steps.append(Sort(op, inputs, outputs))

    def made(self, value: Value) -> int:
        """A buffer for what a step makes in memory of ours."""
        return self.buffer(value, "output" if value in self.returned else "arena")

    def is_view(self, op: Op) -> bool:
        """A reshape of memory that may be shared: no kernel is needed."""
        if not is_reshape(op):
            return False
        base = self.buffers[root_of(self.buffers, self.ids[op.operands[0]])]
        return op.result not in self.returned or base.kind == "opaque"

    def opaque(self, op: Op) -> None:
        inputs = tuple(self.ids[v] for v in op.operands)
        outputs = tuple(
            self.buffer(r, "opaque") if self.is_needed(r) else -1 for r in op.results
        )
        self.steps.append(Opaque(op, inputs, outputs))
        self.bind(outputs)

    def is_needed(self, result: Value) -> bool:
        """Whether it is read, or defines dims that something reads."""
        fresh = symbols_of(*result.shape) & self.sizes - self.bound
        return bool(fresh) or result in self.used or result in self.graph.results

    def bind(self, outputs: tuple[int, ...]) -> None:
        reads = []
        for number in outputs:
            shape = self.buffers[number].type.shape if number >= 0 else ()
            for axis, dim in enumerate(shape):
                fresh = not isinstance(dim, int) and dim.is_Symbol
                if fresh and dim.name not in self.bound:
                    self.bound.add(dim.name)
                    reads.append(Read(number, axis, dim, False))
        if reads:
            self.steps.append(Bind(tuple(reads)))


def is_reshape(op: Op) -> bool:
    """Whether the group only gives its operand another shape."""
    if op.body is None or len(op.operands) != 1 or len(op.results) != 1:
        return False
    return all(inner.name == "reshape" for inner in op.body.ops)


def _sizes(graph: Graph, used: Iterable[Value]) -> set[str]:
    """The symbols that shapes, attributes and guards read."""
    shapes = (v.shape for v in (*used, *graph.results))
    found = symbols_of(*(d for shape in shapes for d in shape))
    found |= symbols_of(*(d for g in graph.guards for d in (g.a, g.b)))
    for op in graph.walk():
        found |= symbols_in(tuple(op.attrs.values()))
    return found


def lifetimes(
    buffers: Sequence[Buffer], steps: Sequence[Step]
) -> list[tuple[int, int]]:
    """First and last step that touches each buffer; views extend what they show.

    An opaque result may share memory with the step's inputs, and then lives on. What a
    strip uses lives while it runs.
    """
    first = [len(steps)] * len(buffers)
    last = [-1] * len(buffers)
    spans = [(k, k) for k in range(len(steps))]
    for strip in strips_of(steps):
        span = (strip.begin, strip.end - 1)
        spans[strip.begin : strip.end] = [span] * (strip.end - strip.begin)
    for (begin, end), step in zip(spans, steps):
        for number in touched(step):
            first[number] = min(first[number], begin)
            last[number] = max(last[number], end)
    for step in reversed(steps):
        if isinstance(step, Opaque) and step.op.title not in NEVER_ALIAS:
            end = max(
                (_end(buffers, last, n) for n in step.outputs if n >= 0), default=-1
            )
            for number in step.inputs:
                last[number] = max(last[number], end)
    for number in reversed(range(len(buffers))):
        base = buffers[number]
        if base.kind == "alias" and last[number] >= 0:
            first[base.of] = min(first[base.of], first[number])
            last[base.of] = max(last[base.of], last[number])
    return [(min(a, max(b, 0)), max(b, 0)) for a, b in zip(first, last)]


def strips_of(steps: Sequence[Step]) -> list[Strip]:
    """Launches of one strip that stand in a row."""
    found: list[Strip] = []
    for number, row in groupby(enumerate(steps), lambda pair: _strip(pair[1])):
        at = [k for k, _ in row]
        first = steps[at[0]]
        if number is not None and len(at) > 1 and isinstance(first, Launch):
            found.append(Strip(at[0], at[-1] + 1, first.op.attrs["items"]))
    return found


def _strip(step: Step) -> int | None:
    return step.op.attrs.get("strip") if isinstance(step, Launch) else None


def root_of(buffers: Sequence[Buffer], number: int) -> int:
    """The buffer whose memory it is."""
    while buffers[number].kind == "alias":
        number = buffers[number].of
    return number


def _end(buffers: Sequence[Buffer], last: list[int], number: int) -> int:
    """The last step that reads a buffer or a view of it."""
    ends = [last[number]]
    ends += [
        _end(buffers, last, k)
        for k, b in enumerate(buffers)
        if b.kind == "alias" and b.of == number
    ]
    return max(ends)


def touched(step: Step) -> tuple[int, ...]:
    match step:
        case (
            Launch(_, inputs, outputs)
            | Opaque(_, inputs, outputs)
            | Sort(_, inputs, outputs)
        ):
            return (*inputs, *(n for n in outputs if n >= 0))
        case Product() | Convolution() | Attention() | Transform():
            return (*step.inputs, step.output)
        case Bind(reads):
            return tuple(r.source for r in reads)
        case Write(source, _) | Check(source, _):
            return (source,)
