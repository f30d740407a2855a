"""amp: a captured float32 program in mixed precision, as paddle.amp.auto_cast has it.

Contractions are of halves; what only follows (elementwise ops, what moves elements) is
where its operands are. At level O1 all else is of float32; at O2 layer_norm, softmax
and sums follow too; inside they are computed in float32 at any level. A bias is added
as a part of what it is added to. Inputs, outputs and what is written keep their dtypes.

Paddle's own lists: python/paddle/amp/amp_lists.py of Paddle 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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


def amp(graph: Graph, dtype: str, level: str = "O1") -> Graph:
    """The graph, at level "pir", in mixed precision: float32 and `dtype`, a half."""
    return _Mixed(graph, *checked(dtype, level)).run()


def checked(dtype: str, level: str) -> tuple[str, str]:
    """The two; raises PirolError where there is no such dtype or level."""
    if dtype not in HALVES:
        raise PirolError(message("amp", got=dtype, expected=" or ".join(HALVES)))
    if level not in LEVELS:
        raise PirolError(message("amp_level", got=level, expected=" or ".join(LEVELS)))
    return dtype, level


class _Mixed:
    def __init__(self, graph: Graph, dtype: str, level: str) -> None:
        self.graph, self.half, self.level = graph, dtype, level
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
        if not found or not any(r.dtype == WIDE for r in op.results):
            return ()
        if name in CONTRACTIONS or self.adds_bias(op, name):
            return every
        follows = name in FOLLOWING or (self.level == "O2" and name in FOLLOWING_AT_O2)
        halves = [v.dtype == self.half for v in found]
        if not follows or not any(halves):
            return ()
        if name in NORMS:
            return (0,) if self.env[op.operands[0]].dtype == self.half else ()
        return every if all(halves) or self.level == "O2" else ()

    def adds_bias(self, op: Op, name: str) -> bool:
        """Whether it adds a vector, of any rank, to what a contraction gave."""
        if name != "add":
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
