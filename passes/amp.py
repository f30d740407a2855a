"""amp: a captured float32 program in mixed precision, as paddle.amp.auto_cast has it.

Contractions are of halves; what only follows (elementwise ops, what moves elements) is
where its operands are. At level O1 all else is of float32; at O2 layer_norm, softmax
and sums follow too; inside they are computed in float32 at any level; at OD nothing
follows. A bias is added as a part of what it is added to. Inputs, outputs and what is
written keep their dtypes.

Paddle's own lists: python/paddle/amp/amp_lists.py of Paddle 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pirol.compiler.errors import PirolError, message
from pirol.compiler.ir import HALVES, Graph, Op, TensorType, Value
from pirol.prim.prim import WIDE

LEVELS = ("O1", "O2")
CONTRACTIONS = (
    *("matmul", "bmm", "mv", "dot", "addmm", "baddbmm", "einsum", "bilinear"),
    *("conv2d", "conv3d", "depthwise_conv2d", "conv2d_transpose", "conv3d_transpose"),
    "depthwise_conv2d_transpose",
)
FOLLOWING = (
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "fmax", "fmin"),
    *("scale", "abs", "clip", "sign", "sqrt", "tanh", "sigmoid", "erf", "where"),
    *("relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu"),
    *("swish", "swiglu", "mish", "hardsigmoid", "hardswish", "hardtanh", "logsigmoid"),
    *("dropout", "max", "min", "amax", "amin", "pool2d", "pool3d", "pirol.max_pool"),
    *("reshape", "transpose", "concat", "stack", "split", "split_with_num", "slice"),
    *("strided_slice", "squeeze", "unsqueeze", "unbind", "unstack", "expand", "tile"),
    *("expand_as", "flip", "roll", "pad", "pad3d", "gather", "gather_nd", "tril"),
    *("triu", "index_select", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *("assign", "share_data", "unfold", "broadcast_tensors", "masked_fill", "maxout"),
    *("batch_norm", "batch_norm_", "instance_norm"),
)
FOLLOWING_AT_O2 = (
    *("softmax", "log_softmax", "sum", "mean", "mean_all", "exp", "log", "square"),
    *("pow", "rsqrt", "reciprocal", "softplus", "cumsum", "logsumexp"),
    *("layer_norm", "group_norm"),
)
# Of these only the operand that is normalised is a half, and what becomes of it.
NORMS = ("layer_norm", "batch_norm", "batch_norm_", "group_norm", "instance_norm")
PREFIX = "pd_op."
MIXED = "mixed"  # the attribute of an op whose halves were float32 when captured
KEPT = "pirol_kept"  # that of an op captured under an auto_cast of its own
# The names by which a user's lists call ops, where they are not the program's.
LISTED = {
    "matmul": "matmul_v2",
    "bilinear": "bilinear_tensor_product",
    "mean_all": "mean",
    "cross_entropy_with_softmax": "softmax_with_cross_entropy",
    "embedding": "lookup_table_v2",
    "batch_norm_": "batch_norm",
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_swish",
    "flatten": "flatten_contiguous_range",
    "subtract": "elementwise_sub",
    "multiply": "elementwise_mul",
    "divide": "elementwise_div",
    "maximum": "elementwise_max",
    "minimum": "elementwise_min",
    **{name: f"elementwise_{name}" for name in ("add", "fmax", "fmin")},
    **{name: f"reduce_{name}" for name in ("sum", "mean", "max", "min", "prod")},
    **{name: f"{name}2" for name in ("reshape", "transpose", "squeeze", "unsqueeze")},
    **{name: f"{name}_v2" for name in ("expand", "expand_as")},
}


@dataclass(frozen=True)
class Mixed:
    """What mixed precision is asked for: the half; a level, one of LEVELS or "OD";
    ops that are of halves, and of float32, in any case, by the names of LISTED; whether
    one operand of float32 makes what follows float32."""

    dtype: str
    level: str = "O1"
    white: frozenset[str] = frozenset()
    black: frozenset[str] = frozenset()
    promote: bool = True


def amp(graph: Graph, asked: Mixed) -> Graph:
    """The graph, at level "pir", in mixed precision: float32 and a half."""
    return _Mixing(graph, asked).run()


def checked(dtype: str, level: str) -> Mixed:
    """As an option asks for it; raises PirolError where there is no such dtype or
    level."""
    if dtype not in HALVES:
        raise PirolError(message("amp", got=dtype, expected=" or ".join(HALVES)))
    if level not in LEVELS:
        raise PirolError(message("amp_level", got=level, expected=" or ".join(LEVELS)))
    return Mixed(dtype, level, promote=level != "O2")


class _Mixing:
    def __init__(self, graph: Graph, asked: Mixed) -> None:
        self.graph, self.asked, self.half = graph, asked, asked.dtype
        self.ops: list[Op] = []
        self.env: dict[Value, Value] = {v: v for v in graph.inputs}
        self.casts: dict[tuple[Value, str], Value] = {}
        self.contracted: set[Value] = set()
        self.numbers: set[Value] = set()  # constants, which go with all else
        self.line = ""

    def run(self) -> Graph:
        for op in self.graph.ops:
            self.line = op.line
            self.op(op)
        outputs = tuple(map(self.declared, self.graph.outputs))
        writes = tuple((k, self.declared(v)) for k, v in self.graph.writes)
        return replace(self.graph, ops=tuple(self.ops), outputs=outputs, writes=writes)

    def op(self, op: Op) -> None:
        name = op.name.removeprefix(PREFIX)
        narrow = self.narrow(op, name)
        operands, results = [], []
        for k, v in enumerate(op.operands):
            to = self.half if k in narrow and v.dtype == WIDE else v.dtype
            source = self.env[v]
            operands.append(source if name == "cast" else self.cast(source, to))
        for k, v in enumerate(op.results):
            kept = v.dtype != WIDE or not narrow or (name in NORMS and k > 0)
            results.append(v if kept else Value(TensorType(v.shape, self.half)))
        if narrow and name in CONTRACTIONS:
            self.contracted.update(results)
        attrs = {**op.attrs, MIXED: True} if narrow else op.attrs
        self.ops.append(
            replace(op, operands=tuple(operands), results=tuple(results), attrs=attrs)
        )
        if name == "full":
            self.numbers.update(op.results)
        self.env.update(zip(op.results, results))

    def narrow(self, op: Op, name: str) -> Sequence[int]:
        """The float32 operands that are to be halves; none: the op is of float32."""
        fixed = op.attrs.get("fixed", ())
        every = [k for k in range(len(op.operands)) if k not in fixed]
        given = [op.operands[k] for k in every]
        found = [
            self.env[v] for v in given if v.dtype == WIDE and v not in self.numbers
        ]
        asked, listed = self.asked, LISTED.get(name, name)
        if not found or not any(r.dtype == WIDE for r in op.results):
            return ()
        if KEPT in op.attrs or listed in asked.black:
            return ()
        if listed in asked.white:
            return (0,) if name in NORMS else every
        if name in CONTRACTIONS or self.adds_bias(op, name):
            return every
        follows = name in FOLLOWING or (asked.level == "O2" and name in FOLLOWING_AT_O2)
        halves = [v.dtype == self.half for v in found]
        if not follows or not any(halves) or asked.level == "OD":
            return ()
        if name in NORMS:
            return (0,) if self.env[op.operands[0]].dtype == self.half else ()
        return every if all(halves) or not asked.promote else ()

    def adds_bias(self, op: Op, name: str) -> bool:
        """Whether it adds a vector, of any rank, to what a contraction gave."""
        if name != "add" or self.asked.level == "OD":
            return False
        pairs = (op.operands, op.operands[::-1])
        return any(self.env[x] in self.contracted and _vector(y) for x, y in pairs)

    def declared(self, value: Value) -> Value:
        return self.cast(self.env[value], value.dtype)

    def cast(self, value: Value, dtype: str) -> Value:
        if value.dtype == dtype:
            return value
        key = (value, dtype)
        if key not in self.casts:
            made = Value(TensorType(value.shape, dtype))
            attrs = {"dtype": dtype, "layout": (-1,)}
            self.ops.append(
                Op(f"{PREFIX}cast", (value,), attrs, (made,), line=self.line)
            )
            self.casts[key] = made
        return self.casts[key]


def _vector(value: Value) -> bool:
    return len([d for d in value.shape if d != 1]) <= 1
