"""The text form of a graph, with an exact round trip.

graph @f(%0: f32[n, 4]) {
  %1 = exp(%0) : f32[n, 4]  # "model.py:3"
  return %1
}
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pirol.compiler.dims import Dim, parse, to_text
from pirol.compiler.errors import TextError
from pirol.compiler.ir import LONG, Graph, Guard, Op, TensorType, Value


def print_graph(graph: Graph) -> str:
    """The graph as text; `parse_graph` reads it back exactly."""
    return "\n".join(_Printer().graph(graph, "graph @" + graph.name, "")) + "\n"


class _Printer:
    def __init__(self) -> None:
        self.names: dict[Value, str] = {}
        self.count = itertools.count()

    def define(self, value: Value) -> str:
        """A new name; a branch that stands in two ops has its own in each."""
        self.names[value] = f"%{next(self.count)}"
        return self.names[value]

    def name(self, value: Value) -> str:
        return self.names.get(value) or self.define(value)

    def graph(self, graph: Graph, head: str, pad: str) -> list[str]:
        inputs = ", ".join(f"{self.define(v)}: {v.type}" for v in graph.inputs)
        lines = [f"{pad}{head}({inputs}) {{"]
        lines += [f"{pad}  guard {g}" for g in graph.guards]
        for op in graph.ops:
            lines += self.op(op, pad + "  ")
        lines += [f"{pad}  write {i} = {self.name(v)}" for i, v in graph.writes]
        lines.append(f"{pad}  return {', '.join(map(self.name, graph.outputs))}")
        return [*lines, pad + "}"]

    def op(self, op: Op, pad: str) -> list[str]:
        operands = ", ".join(map(self.name, op.operands))
        results = ", ".join(map(self.define, op.results))
        types = ", ".join(str(r.type) for r in op.results)
        line = f"  # {json.dumps(op.line)}" if op.line else ""
        head = f"{pad}{results} = " if results else f"{pad}= "
        call = f"{op.name}({operands}){print_attrs(op.attrs)}"
        text = f"{head}{call} : {types}{line}"
        head = "branch" if op.branches else "body"
        return [text, *(line for g in op.inner for line in self.graph(g, head, pad))]


def print_attrs(attrs: Mapping[str, Any]) -> str:
    """Attributes as ` {name = value, ...}`, sorted; empty text for none."""
    if not attrs:
        return ""
    items = (f"{k} = {_print_attr(v)}" for k, v in sorted(attrs.items()))
    return f" {{{', '.join(items)}}}"


def _print_attr(value: Any) -> str:
    match value:
        case None | bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(value)
        case tuple() | list():
            return f"[{', '.join(map(_print_attr, value))}]"
        case complex():
            return f"complex[{value.real!r}, {value.imag!r}]"
        case _:
            return f"<{to_text(value)}>"


_TOKEN = re.compile(
    r"""\s*("(?:[^"\\]|\\.)*"|<[^>]*>|%\d+|@[\w.]+|\#|->|[-+]?(?:inf|nan)\b
    |[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|[A-Za-z_][\w.]*|//|.)""",
    re.VERBOSE,
)


def parse_graph(text: str) -> Graph:
    """Read a graph's text; raises TextError that names the line."""
    reader = _Reader(text)
    reader.expect("graph")
    name = reader.take().removeprefix("@")
    graph = reader.graph(name)
    reader.end()
    return graph


@dataclass
class _Reader:
    text: str
    at: int = 0
    values: dict[str, Value] = field(default_factory=dict)

    def peek(self) -> str:
        match = _TOKEN.match(self.text, self.at)
        return match.group(1) if match else ""

    def take(self) -> str:
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            raise self.error("the text ends too early")
        self.at = match.end()
        return match.group(1)

    def error(self, what: str) -> TextError:
        line = self.text.count("\n", 0, self.at) + 1
        return TextError(f"graph text, line {line}: {what}")

    def expect(self, wanted: str) -> None:
        got = self.take()
        if got != wanted:
            raise self.error(f"got {got!r}, expected {wanted!r}")

    def accept(self, wanted: str) -> bool:
        if self.peek() != wanted:
            return False
        self.take()
        return True

    def end(self) -> None:
        if self.text[self.at :].strip():
            raise self.error("text after the end of the graph")

    def value(self) -> Value:
        name = self.take()
        if name not in self.values:
            raise self.error(f"{name!r} is used before it is defined")
        return self.values[name]

    def define(self, name: str, kind: TensorType) -> Value:
        if name in self.values or not name.startswith("%"):
            raise self.error(f"bad or repeated value name {name!r}")
        self.values[name] = Value(kind)
        return self.values[name]

    def listed(self, read: Any, stop: str) -> list[Any]:
        items: list[Any] = []
        while not self.accept(stop):
            if items:
                self.expect(",")
            items.append(read())
        return items

    def type(self) -> TensorType:
        short = self.take()
        if short not in LONG:
            raise self.error(f"unknown dtype {short!r}")
        return TensorType(self.dims(), LONG[short])

    def dims(self) -> tuple[Dim, ...]:
        self.expect("[")
        close = self.text.find("]", self.at)
        if close < 0:
            raise self.error("no closing ]")
        inner, self.at = self.text[self.at : close], close + 1
        return tuple(map(self.dim, _split_dims(inner)))

    def dim(self, text: str) -> Dim:
        try:
            return parse(text)
        except TextError as error:
            raise self.error(str(error)) from None

    def string(self, token: str) -> str:
        try:
            return str(json.loads(token))
        except ValueError:
            raise self.error(f"bad string {token}") from None

    def graph(self, name: str) -> Graph:
        self.expect("(")
        inputs = tuple(self.listed(self.parameter, ")"))
        self.expect("{")
        guards, ops, writes = [], [], []
        while self.accept("guard"):
            guards.append(self.guard())
        while self.peek() not in ("write", "return", ""):
            ops.append(self.op())
        while self.accept("write"):
            token = self.take()
            if not token.isdecimal() or int(token) >= len(inputs):
                raise self.error(f"no input has the number {token!r}")
            self.expect("=")
            writes.append((int(token), self.value()))
        self.expect("return")
        outputs = tuple(self.listed(self.value, "}"))
        return Graph(name, inputs, tuple(ops), outputs, tuple(writes), tuple(guards))

    def parameter(self) -> Value:
        name = self.take()
        self.expect(":")
        return self.define(name, self.type())

    def guard(self) -> Guard:
        kind = self.take()
        self.expect("(")
        depth, start = 1, self.at
        while depth and (char := self.text[self.at : self.at + 1]) not in ("", "\n"):
            depth += {"(": 1, ")": -1}.get(char, 0)
            self.at += 1
        sides = _split_dims(self.text[start : self.at - 1])
        if depth or len(sides) != 2 or kind not in ("eq", "ne", "ge", "lt"):
            raise self.error("a guard is eq, ne, ge or lt of two dims")
        return Guard(kind, *map(self.dim, sides))

    def op(self) -> Op:
        names = [] if self.peek() == "=" else self.listed(self.take, "=")
        if not names:
            self.accept("=")
        name = self.take()
        self.expect("(")
        operands = tuple(self.listed(self.value, ")"))
        attrs = dict(self.listed(self.attr, "}")) if self.accept("{") else {}
        self.expect(":")
        types = [self.type() for _ in names[:1]]
        types += [self.next_type() for _ in names[1:]]
        line = self.string(self.take()) if self.accept("#") else ""
        body = self.graph("body") if self.accept("body") else None
        branches = []
        while self.accept("branch"):
            branches.append(self.graph("branch"))
        results = tuple(map(self.define, names, types))
        return Op(name, operands, attrs, results, body, line, tuple(branches))

    def next_type(self) -> TensorType:
        self.expect(",")
        return self.type()

    def attr(self) -> tuple[str, Any]:
        name = self.take()
        self.expect("=")
        return name, self.attr_value()

    def attr_value(self) -> Any:
        token = self.take()
        if token == "[":
            return tuple(self.listed(self.attr_value, "]"))
        if token == "complex":
            self.expect("[")
            parts = self.listed(self.attr_value, "]")
            if len(parts) != 2 or not all(isinstance(p, float) for p in parts):
                raise self.error("a complex number is two floats")
            return complex(*parts)
        if token.startswith('"'):
            return self.string(token)
        if token.startswith("<"):
            return self.dim(token[1:-1])
        constants = {"none": None, "true": True, "false": False}
        if token in constants:
            return constants[token]
        try:
            return int(token)
        except ValueError:
            return self.float(token)

    def float(self, token: str) -> float:
        try:
            return float(token)
        except ValueError:
            raise self.error(f"bad attribute value {token!r}") from None


def _split_dims(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]] if text.strip() else []
