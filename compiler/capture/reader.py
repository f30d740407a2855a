"""PIR Program -> Graph@PIR, with every op's site kept for Paddle to run it.

A dim of -1 becomes a fresh symbol: s0, s1.. for inputs, u0, u1.. inside. In-place ops
become functional; what an input holds in the end is one of the graph's writes.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paddle
from paddle.autograd.backward_utils import ValueDict

from pirol.compiler.dims import symbol
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import DTYPES, Graph, Op, TensorType, Value
from pirol.prim.decomp import DECOMPOSITIONS

# In-place ops: result number -> the operand number whose memory it is.
INPLACE = {
    "pd_op.assign_out_": {0: 1},
    "pd_op.batch_norm_": {1: 1, 2: 2},
}
SKIPPED_ATTRS = ("op_callstack", "struct_name", "stop_gradient", "place")
_FRAME = re.compile(r'File "(.+)", line (\d+)')
_HIDDEN = (str(Path(paddle.__file__).parent), sysconfig.get_paths()["stdlib"])


@dataclass
class Program:
    """A captured program: its graph, and for each op's `site` the PIR op.

    `keep` holds the PIR program, without which its ops are gone; `inputs` says which
    of the tensors given at a call the graph's inputs are.
    """

    graph: Graph
    sites: list[Any]
    inputs: list[int]
    keep: Any


def read(program: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Program:
    """Import a PIR program; `inputs` are its Values in the order of the tensors."""
    return _Reader(program).read(inputs, outputs)


@dataclass
class _Reader:
    program: Any
    env: Any = field(default_factory=ValueDict)
    ops: list[Op] = field(default_factory=list)
    sites: list[Any] = field(default_factory=list)
    symbols: int = 0

    def read(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Program:
        used = [k for k, v in enumerate(inputs) if not paddle.pir.is_fake_value(v)]
        given = [Value(self.type(inputs[k], "s")) for k in used]
        for k, value in zip(used, given):
            self.env[inputs[k]] = value
        for op in self.program.global_block().ops:
            self.op(op)
        results = tuple(self.env[v] for v in outputs)
        latest = [self.env[inputs[k]] for k in used]
        writes = tuple(
            (k, new)
            for k, (old, new) in enumerate(zip(given, latest))
            if new is not old
        )
        graph = Graph("program", tuple(given), tuple(self.ops), results, writes)
        return Program(graph, self.sites, used, self.program)

    def type(self, value: Any, letter: str) -> TensorType:
        shape = []
        for size in value.shape:
            shape.append(self.symbol(letter) if size < 0 else int(size))
        return TensorType(tuple(shape), dtype_name(value.dtype))

    def symbol(self, letter: str) -> Any:
        self.symbols += 1
        return symbol(f"{letter}{self.symbols - 1}")

    def op(self, op: Any) -> None:
        match op.name():
            case "builtin.parameter" | "pd_op.data" | "builtin.shadow_output":
                return
            case "builtin.combine":
                self.env[op.result(0)] = [self.env[s] for s in _sources(op)]
            case "builtin.split":
                (whole,) = _sources(op)
                for result, part in zip(op.results(), self.env[whole]):
                    self.env[result] = part
            case "builtin.slice":
                whole = op.operands()[0].source()
                self.env[op.result(0)] = self.env[whole][op.attrs()["index"]]
            case _:
                self.plain(op)

    def plain(self, op: Any) -> None:
        name, aliases = self.functional(op)
        if list(op.blocks()):
            raise Unsupported(f"control flow ({name}) is not compiled yet")
        operands, layout = self.operands(op)
        attrs = {"site": len(self.sites), "layout": layout, **_attrs(op)}
        if name == "pd_op.assign_value":
            operands, attrs["layout"] = [], ()
        results = [r for r in op.results() if r.initialized()]
        types = [t for r in results for t in self.types(r)]
        new = Op(
            name, tuple(operands), attrs, tuple(map(Value, types)), None, _line(op)
        )
        self.ops.append(new)
        self.sites.append(op)
        self.define(results, list(new.results))
        for result, operand in aliases.items():
            if op.result(result).initialized():
                self.env[op.operands()[operand].source()] = self.env[op.result(result)]

    def functional(self, op: Any) -> tuple[str, dict[int, int]]:
        """The op's name, and which results take the place of which operands."""
        name = str(op.name())
        if not name.endswith("_") or name.endswith("__"):
            return name, {}
        if name == "pd_op.assign_value_":
            return "pd_op.assign_value", {0: 0}
        if name == "pd_op.assign_out_":
            return "pd_op.assign", INPLACE[name]
        if name in INPLACE:
            frozen = op.attrs().get("is_test") or op.attrs().get("use_global_stats")
            if not frozen:
                raise Unsupported(f"{name} in training writes its statistics")
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
            value = self.env[source]
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
    found = op.attrs().items()
    return {k: _plain(v) for k, v in found if k not in SKIPPED_ATTRS}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    if value is None or isinstance(value, (bool, int, float, str, complex)):
        return value
    return str(value).rsplit(".", 1)[-1].lower()


def _line(op: Any) -> str:
    """The innermost of the user's own lines, "file.py:12"."""
    for text in reversed(getattr(op, "callstack", [])):
        frame = _FRAME.search(text)
        if frame and not frame.group(1).startswith((*_HIDDEN, "<")):
            return f"{Path(frame.group(1)).name}:{frame.group(2)}"
    return ""
