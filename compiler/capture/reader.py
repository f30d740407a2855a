"""PIR Program -> Graph@PIR, with every op's site kept for Paddle to run it.

A dim of -1 becomes a fresh symbol: s0, s1.. for inputs, u0, u1.. inside. In-place ops
become functional; what an input holds in the end is one of the graph's writes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle.autograd.backward_utils import ValueDict

from pirol.compiler.capture import marks
from pirol.compiler.capture.attributes import attributes
from pirol.compiler.capture.facts import (
    FIRST,
    FIXED,
    FLOAT,
    INPLACE,
    MISTAKEN,
    PUT,
    REPEATED,
    SAID,
    SKIPPED_ATTRS,
    STOPPED,
    acts,
    differentiable,
)
from pirol.compiler.capture.lines import line_of, of_dropout
from pirol.compiler.capture.memory import Memory
from pirol.compiler.capture.stacks import STACKS, ends, stacked
from pirol.compiler.dims import symbol
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import DTYPES, INTS, Graph, Op, TensorType, Value
from pirol.prim.contents import small
from pirol.prim.decomp import DECOMPOSITIONS


@dataclass
class Program:
    """A captured program: its graph, and for each op's `site` the PIR op.

    `keep` holds the PIR program, without which its ops are gone; `inputs` says which
    of the tensors given at a call the graph's inputs are, the last `copies` as copies;
    `memories` (owned.py) which results are in one memory.
    """

    graph: Graph
    sites: list[Any]
    inputs: list[int]
    keep: Any
    copies: int = 0
    memories: tuple[int, ...] = ()


def read(
    program: Any, inputs: Sequence[Any], outputs: Sequence[Any], stops: bool = False
) -> Program:
    """Import a PIR program; `inputs` are its Values in the order of the tensors.

    stops: whether to show, as `stop_gradient`, where Paddle lets no gradient through.
    """
    return _Reader(_Shared(program, stops)).read(inputs, outputs)


@dataclass
class _Shared:
    """What the readers of a program's blocks have in common."""

    program: Any
    stops: bool
    sites: list[Any] = field(default_factory=list)
    symbols: int = 0
    pushed: dict[int, Any] = field(default_factory=dict)  # by stack: reader, op
    memory: Memory = field(default_factory=Memory)


@dataclass
class _Reader:
    """Reads one block; `parent` reads the block around it, whose values it may use."""

    shared: _Shared
    parent: _Reader | None = None
    env: Any = field(default_factory=ValueDict)
    ops: list[Op] = field(default_factory=list)
    made: dict[Value, tuple[Any, Op]] = field(default_factory=dict)  # by PIR op
    taken: dict[Value, Value] = field(default_factory=dict)  # the parent's -> ours
    names: Any = field(default_factory=ValueDict)  # PIR values taken -> ours
    spans: dict[int, Any] = field(default_factory=dict)  # marked: operand, then op
    begun: dict[int, int] = field(default_factory=dict)  # where a marked span begins
    spanned: set[Op] = field(default_factory=set)  # what spans hold

    def read(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Program:
        used = [k for k, v in enumerate(inputs) if not paddle.pir.is_fake_value(v)]
        given = [Value(self.type(inputs[k], "s")) for k in used]
        for k, value in zip(used, given):
            self.env[inputs[k]] = value
        for op in self.shared.program.global_block().ops:
            self.op(op)
        if not all(v.initialized() for v in outputs):
            raise Unsupported("a result that its op leaves out")
        results = tuple(self.env[v] for v in outputs)
        latest = [self.env[inputs[k]] for k in used]
        writes = tuple(
            (k, new)
            for k, (old, new) in enumerate(zip(given, latest))
            if new is not old
        )
        ops = self.live([*results, *(new for _, new in writes)])
        graph = Graph("program", tuple(given), ops, results, writes)
        return Program(graph, self.shared.sites, used, self.shared.program)

    def of(self, value: Any) -> Any:
        """Our Value (a list for a vector) of a PIR value of this block or around it."""
        if value not in self.env:
            assert self.parent is not None
            outer = self.parent.of(value)
            many = isinstance(outer, list)
            self.env[value] = [*map(self.take, outer)] if many else self.take(outer)
            if value not in self.names:
                self.names[value] = self.env[value]
        return self.env[value]

    def take(self, outer: Value) -> Value:
        """A value of the block around this one: made again if small, else an input."""
        assert self.parent is not None
        maker = self.parent.repeatable(outer)
        if maker is not None:
            self.op(maker)
            return self.env[maker.result(0)]  # type: ignore[no-any-return]
        return self.taken.setdefault(outer, Value(outer.type))

    def repeatable(self, value: Value) -> Any:
        """The op that made a small constant or part of a shape, if its operands are
        what they were; else None."""
        if value not in self.made:
            return None
        op, made = self.made[value]
        if op.name() not in REPEATED or len(made.results) != 1:
            return None
        same = [*map(self.of, _sources(op))] == [*made.operands]
        return op if same and small(value) else None

    def type(self, value: Any, letter: str) -> TensorType:
        shape = []
        for size in value.shape:
            shape.append(self.symbol(letter) if size < 0 else int(size))
        return TensorType(tuple(shape), dtype_name(value.dtype))

    def symbol(self, letter: str) -> Any:
        self.shared.symbols += 1
        return symbol(f"{letter}{self.shared.symbols - 1}")

    def op(self, op: Any) -> None:
        match op.name():
            case "builtin.parameter" | "pd_op.data" | "builtin.shadow_output":
                return
            case "builtin.combine":
                self.env[op.result(0)] = [self.of(s) for s in _sources(op)]
            case "builtin.split":
                (whole,) = _sources(op)
                for result, part in zip(op.results(), self.of(whole)):
                    self.env[result] = part
            case "builtin.slice":
                whole = op.operands()[0].source()
                self.env[op.result(0)] = self.of(whole)[op.attrs()["index"]]
            case "pd_op.if" | "pd_op.while":
                control(self, op)
            case name if name in STACKS:
                stacked(self, op)
            case "pd_op.assign" if op.has_attr(marks.SPAN):
                self.marked(op)
            case _:
                self.plain(op)

    def plain(self, op: Any) -> None:
        name, aliases = self.functional(op)
        if list(op.blocks()):
            raise Unsupported(f"control flow by {name} is not compiled")
        operands, layout = self.operands(op)
        if self.shared.stops and name in STOPPED:
            operands[STOPPED[name]] = self.stopped(operands[STOPPED[name]], op)
        attrs = {"site": len(self.shared.sites), "layout": layout, **_attrs(op)}
        if acts(name, attrs):
            attrs["effect"] = True
        if of_dropout(op):
            attrs["dropout"] = True
        fixed = tuple(k for k, v in enumerate(flat_operands(op)) if is_fixed(v))
        if fixed:
            attrs["fixed"] = fixed
        if "_grad" in name:  # what it is the gradient of, they tell (passes/derive.py)
            given = [r.initialized() for r in op.results()]
            attrs["names"] = tuple(op.get_input_names())
            attrs["results"] = tuple(itertools.compress(op.get_output_names(), given))
        if name == "pd_op.assign_value":
            operands, attrs["layout"] = [], ()
        results = [r for r in op.results() if r.initialized()]
        types = [t for r in results for t in self.types(r)]
        first = operands[0].dtype if operands else ""
        real = "float32" if first in INTS else first
        known = {FIRST: first, FLOAT: real, SAID: attrs.get("dtype")}
        for number, dtype in MISTAKEN.get(name, {}).items():
            if number < len(types):
                right = str(known.get(dtype, dtype))
                types[number] = TensorType(types[number].shape, right)
        new = Op(
            name, tuple(operands), attrs, tuple(map(Value, types)), None, line_of(op)
        )
        self.append(new, op)
        self.define(results, list(new.results))
        if self.shared.stops:
            self.stop(op, results)
        for result, operand in aliases.items():
            if op.result(result).initialized():
                old, new = op.operands()[operand].source(), op.result(result)
                self.shared.memory.take(new, old)
                self.overwrite(old, self.env[new])

    def overwrite(self, value: Any, new: Value) -> None:
        """Another value is in a PIR value's memory, by all its names."""
        for name in self.shared.memory.names(value):
            self.env[name] = new

    def marked(self, op: Any) -> None:
        """An end of a span that stands for one op of ours (marks.py)."""
        (source,), result, attrs = _sources(op), op.result(0), op.attrs()
        number = attrs[marks.SPAN]
        if marks.OPERAND in attrs:
            self.env[result] = self.spans[number] = self.of(source)
            self.begun[number] = len(self.ops)
            return
        self.spanned.update(self.ops[self.begun[number] :])
        made = self.spans[number]
        if isinstance(made, Value):
            name, told, dtypes = marks.described(op)
            shape = self.type(result, "u").shape
            results = tuple(Value(TensorType(shape, dtype)) for dtype in dtypes)
            told["layout"] = (-1,)
            self.spans[number] = made = Op(
                name, (made,), told, results, None, line_of(op)
            )
            self.ops.append(made)
            self.begun[number] = len(self.ops)
        self.define([result], [made.results[attrs[marks.RESULT]]])

    def live(self, results: Sequence[Value]) -> tuple[Op, ...]:
        """The ops, but for those of marked spans that nobody needs any more."""
        needed, kept = set(results), []
        for op in reversed(self.ops):
            if op not in self.spanned or not needed.isdisjoint(op.results):
                needed.update(op.operands)
                kept.append(op)
        return tuple(reversed(kept))

    def stop(self, op: Any, results: Sequence[Any]) -> None:
        """Stop gradients at results that Paddle says have none, though operands do, or
        that nobody has a gradient of. What is put in another's place has that one's
        word, which says nothing of it."""
        ends, put = not differentiable(op), op.name() == PUT
        sources = (s for s in _sources(op) if s.initialized())
        if not ends and all(s.stop_gradient for s in sources):
            return
        for result in results:
            value = self.env[result]
            stops = ends or (result.stop_gradient and not put)
            if stops and not isinstance(value, list):
                self.env[result] = self.stopped(value, op)

    def stopped(self, value: Value, op: Any) -> Value:
        """The value, through which no gradient goes."""
        made = Value(value.type)
        self.ops.append(Op("stop_gradient", (value,), {}, (made,), None, line_of(op)))
        return made

    def written(self) -> list[Any]:
        """The PIR values from outside that the block gave another value."""
        return [
            value
            for value, at_first in self.names.items()
            if self.env[value] is not at_first and not isinstance(at_first, list)
        ]

    def append(self, new: Op, op: Any) -> None:
        """Add an op; `op` is the PIR op that it stands for."""
        self.ops.append(new)
        self.shared.sites.append(op)
        self.made.update(dict.fromkeys(new.results, (op, new)))

    def functional(self, op: Any) -> tuple[str, dict[int, int]]:
        """The op's name, and which results take the place of which operands."""
        name = str(op.name())
        if not name.endswith("_") or name.endswith("__"):
            return name, {}
        if name == "pd_op.assign_value_":
            return "pd_op.assign_value", {0: 0}
        if name == "pd_op.share_data_":  # it writes nothing: detach
            return "pd_op.share_data", {}
        if name == PUT:
            return "pd_op.assign", INPLACE[name]
        if name in INPLACE:
            return name, INPLACE[name]
        if name[:-1] in DECOMPOSITIONS and len(op.results()) == 1:
            return name[:-1], {0: 0}
        raise Unsupported(f"the in-place op {name} is not compiled")

    def operands(self, op: Any) -> tuple[list[Value], tuple[int, ...]]:
        found: list[Value] = []
        layout: list[int] = []
        for operand in op.operands():
            source = operand.source()
            if not source.initialized():
                layout.append(-2)
                continue
            value = self.of(source)
            many = isinstance(value, list)
            layout.append(len(value) if many else -1)
            found += value if many else [value]
        if op.name() == "pd_op.assign_out_":
            return found[:1], (-1,)
        return found, tuple(layout)

    def types(self, result: Any) -> list[TensorType]:
        vector = result.type().as_vec_type()
        if vector is None:
            return [self.type(result, "u")]
        return [self.type(_Typed(t), "u") for t in vector.as_list()]

    def define(self, results: list[Any], values: list[Value]) -> None:
        for result in results:
            vector = result.type().as_vec_type()
            if vector is None:
                self.env[result] = values.pop(0)
            else:
                size = len(vector.as_list())
                self.env[result] = [values.pop(0) for _ in range(size)]


def control(outer: _Reader, op: Any) -> None:
    """Read `if` or `while`: each block a graph, what it uses from outside an input."""
    loop = op.name() == "pd_op.while"
    blocks = [op.as_while_op().body()] if loop else _two_blocks(op)
    inner = [_Reader(outer.shared, outer) for _ in blocks]
    args = [_read_block(r, b) for r, b in zip(inner, blocks)]
    results = [ends(r, op, _sources(b.ops[-1])) for r, b in zip(inner, blocks)]
    written = _written(inner)
    if loop and written:
        raise Unsupported("a loop's body writes to a tensor outside it")
    for reader, found in zip(inner, results):
        found += [reader.of(v) for v in written]
    taken = list(dict.fromkeys(v for r in inner for v in r.taken))
    branches = [
        Graph(
            "branch",
            (*first, *(r.taken.get(v) or Value(v.type) for v in taken)),
            r.live(found),
            tuple(found),
        )
        for r, first, found in zip(inner, args, results)
    ]
    operands = [outer.of(s) for s in _sources(op)] + taken
    types = [t for r in op.results() for t in outer.types(r)]
    types += [outer.of(v).type for v in written]
    attrs: dict[str, Any] = {"site": len(outer.shared.sites)}
    if any(o.attrs.get("effect") for b in branches for o in b.walk()):
        attrs["effect"] = True
    values = tuple(map(Value, types))
    new = Op(
        op.name(), tuple(operands), attrs, values, None, line_of(op), tuple(branches)
    )
    outer.append(new, op)
    outer.define(op.results(), list(values))
    _overwrite_by_results(outer, op, blocks)
    for value, result in zip(written, values[len(values) - len(written) :]):
        outer.overwrite(value, result)


def _overwrite_by_results(outer: _Reader, op: Any, blocks: Sequence[Any]) -> None:
    """Results of `if` and `while` that are in an older value's memory."""
    memory, ends = outer.shared.memory, [_sources(b.ops[-1]) for b in blocks]
    if op.name() == "pd_op.if":
        for result, *found in zip(op.results(), *ends):
            if memory.same(found):
                memory.take(result, found[0])
        return
    (body,), (_, *last), (_, *first) = blocks, ends[0], _sources(op)
    for result, arg, end, old in zip(op.results(), body.args(), last, first):
        if memory.same([arg, end]) and not arg.is_same(end):
            memory.take(result, old)
            outer.overwrite(old, outer.env[result])


def _two_blocks(op: Any) -> list[Any]:
    found = op.as_if_op()
    return [found.true_block(), found.false_block()]


def _read_block(reader: _Reader, block: Any) -> list[Value]:
    """Read a block's ops; its arguments' Values."""
    found = []
    for arg in block.args():
        reader.env[arg] = Value(reader.type(arg, "s"))
        found.append(reader.env[arg])
    for op in block.ops[:-1]:
        reader.op(op)
    return found


def _written(readers: Sequence[_Reader]) -> list[Any]:
    """The PIR values from outside that some block gave another value."""
    found = ValueDict()
    for value in (v for reader in readers for v in reader.written()):
        found[value] = True
    return [value for value, _ in found.items()]


def flat_operands(op: Any) -> list[Any]:
    """An op's operand values, those of vectors one by one, the null ones left out."""
    found: list[Any] = []
    for value in _sources(op):
        if not value.initialized():
            continue
        maker = value.get_defining_op()
        whole = value.type().as_vec_type() is None
        if not whole and maker is not None and maker.name() == "builtin.combine":
            found += _sources(maker)
        else:
            found.append(value)
    return found


def is_fixed(value: Any) -> bool:
    """Whether an operand is a constant of the program, which Paddle can make itself."""
    maker = value.get_defining_op()
    return maker is not None and maker.name() in FIXED


class _Typed:
    """Shape and dtype of a PIR type, read as of a value."""

    def __init__(self, kind: Any) -> None:
        self.shape = kind.shape
        self.dtype = kind.dtype


def _sources(op: Any) -> list[Any]:
    return [operand.source() for operand in op.operands()]


def dtype_name(dtype: Any) -> str:
    """Paddle's DataType as its plain name; raises Unsupported for others."""
    name = str(dtype).rsplit(".", 1)[-1].lower()
    if name not in DTYPES:
        raise Unsupported(f"dtype {name} is not supported")
    return name


def _attrs(op: Any) -> dict[str, Any]:
    found = attributes(op).items()
    return {k: _plain(v) for k, v in found if k not in SKIPPED_ATTRS}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    if value is None or isinstance(value, (bool, int, float, str, complex)):
        return value
    return str(value).rsplit(".", 1)[-1].lower()


def alone(op: Any) -> tuple[Graph, list[tuple[int, int]]]:
    """The graph of one op, and which operand, and which of a vector, each input is."""
    reader, places, given = _Reader(_Shared(None, False)), [], []
    for k, source in enumerate(_sources(op)):
        if not source.initialized():
            continue
        maker = source.get_defining_op()
        if maker is not None and maker.name() in FIXED:
            reader.op(maker)
            continue
        many = source.type().as_vec_type() is not None
        parts = _sources(maker) if many else [source]
        for j, part in enumerate(parts):
            reader.env[part] = Value(reader.type(part, "s"))
            places.append((k, j))
            given.append(reader.env[part])
        if many:
            reader.op(maker)
    reader.op(op)
    made = [v for r in op.results() if r.initialized() for v in _each(reader.env[r])]
    return Graph("op", tuple(given), tuple(reader.ops), tuple(made)), places


def _each(value: Any) -> list[Value]:
    return value if isinstance(value, list) else [value]
