"""What Paddle's own backward keeps of a program's forward run, in bytes.

Paddle appends the backward ops to a copy of the program; what these read of the forward
part is kept until they run. Left out is what is there in any case (inputs, parameters,
outputs, constants), and operands of which an op needs the shape alone, as Paddle says.
A view counts as what it is a view of, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import paddle
from paddle.autograd.backward_utils import ValueDict, ValueSet

from pirol.compiler.capture import undone
from pirol.compiler.capture.in_place import INPUTS
from pirol.compiler.capture.reader import Program
from pirol.compiler.capture.views import may_end
from pirol.compiler.dims import known
from pirol.compiler.errors import Unsupported
from pirol.compiler.ir import BITS, Value
from pirol.passes.decompose import decompose
from pirol.prim import Facts

VIEWS = {
    f"pd_op.{name}"
    for name in ("reshape", "flatten", "squeeze", "unsqueeze", "share_data")
}
CONSTANTS = ("pd_op.full", "pd_op.full_int_array", "pd_op.assign_value")


def kept_by_paddle(layer: Any, program: Program, hints: Mapping[str, int]) -> int:
    """Bytes, for these values of the symbols; `program` was read of the layer's."""
    original = layer.origin_runnable_program
    if may_end(original.program):
        raise Unsupported("Paddle's backward of it may end the process")
    with undone.kept():
        both = layer._append_backward(original.clone())
    ops = list(both.program.global_block().ops)
    (_, end), (start, _) = both.forward_range, both.backward_range
    free = ValueSet(v for v in both.out_values if not paddle.pir.is_fake_value(v))
    sizes = _sizes(original, ops[:end], program, hints)
    kept = ValueSet(_base(v) for op in ops[start:] for v in _read(op))
    return sum(sizes[v] for v in kept if v in sizes and v not in free)


def _read(op: Any) -> Iterable[Any]:
    """The values that an op needs the elements of, those of its blocks among them."""
    for operand in op.operands():
        source = operand.source()
        if source.initialized() and not op.is_no_need_buffer(source):
            yield source
    for block in op.blocks():
        for inner in block.ops:
            yield from _read(inner)


def _base(value: Any) -> Any:
    """What a value is a view of."""
    op = value.get_defining_op()
    while op is not None and op.name() in VIEWS:
        value = op.operands()[0].source()
        op = value.get_defining_op()
    return value


def _sizes(
    original: Any, copied: Sequence[Any], program: Program, hints: Mapping[str, int]
) -> Mapping[Any, int]:
    """The bytes of each value that the forward ops make, of which Pirol knows them."""
    ours = _bytes(program, hints)
    found: dict[Any, int] = ValueDict()
    for op, copy in zip(original.program.global_block().ops, copied):
        if op.name() not in (*CONSTANTS, *INPUTS):
            for before, after in zip(op.results(), copy.results()):
                if before.id in ours:
                    found[after] = ours[before.id]
    return found


def _bytes(program: Program, hints: Mapping[str, int]) -> dict[int, int]:
    """By the ids of Paddle's values; dims that only ops compute are known of what these
    are decomposed into."""
    graph, ids = program.graph, dict[Value, int]()
    for op in graph.ops:
        if "site" in op.attrs:
            made = [r for r in program.sites[op.attrs["site"]].results()]
            plain = [r.id for r in made if r.initialized()]
            if len(plain) == len(op.results):  # no vectors among them
                ids.update(zip(op.results, plain))
    every = replace(graph, outputs=tuple(ids), writes=())
    sized = decompose(every, Facts(dict(hints), list(graph.guards))).outputs
    return {
        place: known(value.type.size, hints) * BITS[value.dtype] // 8
        for place, value in zip(ids.values(), sized)
    }
