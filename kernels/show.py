"""Nests as text, for people.

nest softmax: rows i0 < n, columns i1 < 4
  v0 = in0[4*i0 + i1]
  v1 = max v0
"""

from __future__ import annotations

from pirol.compiler import dims
from pirol.compiler.dims import to_text
from pirol.kernels.affine import Affine, Data, Quotient, Remainder
from pirol.kernels.nest import (
    PLACE,
    Axis,
    Const,
    Index,
    Load,
    Nest,
    Node,
    Reduce,
    Scan,
)


def show(nest: Nest) -> str:
    """The nest's axes, nodes and stores, one a line."""
    rows, columns = (_axes(a) for a in (nest.rows, nest.columns))
    head = f"nest {nest.name}: rows {rows or 'none'}"
    lines = [f"{head}, columns {columns}" if columns else head]
    for k, node in enumerate(nest.nodes):
        lines.append(f"  v{k} = {_node(node)}")
    for store in nest.stores:
        sign = "+=" if store.among is not None and store.base is None else "="
        if store.base is not None:
            lines.append(f"  out{store.output}[{PLACE}] = {_node(store.base)}")
        place = f"out{store.output}[{index_text(store.index)}]"
        lines.append(f"  {place} {sign} v{store.node}")
    return "\n".join(lines)


def _axes(axes: tuple[Axis, ...]) -> str:
    return ", ".join(f"{a.name} < {to_text(a.extent)}" for a in axes)


def _node(node: Node) -> str:
    match node:
        case Load(buffer, index, guard, _):
            when = "" if guard is None else f" where v{guard}"
            return f"in{buffer}[{index_text(index)}]{when}"
        case Const(value, dtype):
            plain = isinstance(value, (int, float, bool, complex))
            return f"{value if plain else to_text(value)} as {dtype}"
        case Index(value):
            return index_text(value)
        case Scan(kind, args, _):
            return f"running {kind} {' '.join(f'v{a}' for a in args)}"
        case Reduce(kind, args, _):
            return f"{kind} {' '.join(f'v{a}' for a in args)}"
        case _:
            cast = f" as {node.dtype}" if node.prim == "cast" else ""
            return f"{node.prim} {' '.join(f'v{a}' for a in node.args)}{cast}"


def index_text(value: Affine) -> str:
    """An index expression as text."""
    parts = []
    for atom, coefficient in value.terms:
        name = atom if isinstance(atom, str) else _named(atom)
        factor = to_text(coefficient)
        factor = f"({factor})" if "+" in factor else factor
        parts.append(name if coefficient == 1 else f"{factor}*{name}")
    if not parts or dims.equal(value.const, 0) is not True:
        parts.append(to_text(value.const))
    return " + ".join(parts)


def _named(atom: Quotient | Remainder | Data) -> str:
    if isinstance(atom, Data):
        return atom.name
    sign = "//" if isinstance(atom, Quotient) else "%"
    return f"(({index_text(atom.of)}) {sign} {to_text(atom.by)})"
