"""Suites of workloads beside the nine: complex numbers, GPUs, networks, sorts .."""

from __future__ import annotations

from dataclasses import replace

from pirol.bench.networks import MODELS, bottleneck, encoder
from pirol.bench.workloads import POINTWISE, Shape, Workload

WIDE = (1024, 1024)
CHAIN = ("mul", "scale", "add", "conj", "mul", "modulus", "mul")
FUNCTIONS = ("modulus", "tanh", "exp", "sin", "square", "scale")


def _complex(name: str, shape: Shape, *steps: str) -> Workload:
    return Workload(name, shape, steps, "complex64")


COMPLEX: tuple[Workload, ...] = (
    _complex("complex_chain", WIDE, *CHAIN),
    _complex("complex_functions", WIDE, *FUNCTIONS),
    _complex("complex_divide", WIDE, "mul", "divide", "add"),
    _complex("complex_sum", WIDE, "mul", "sum_columns"),
    _complex("complex_matmul", (512, 512), "linear", "crelu"),
    _complex("complex_conv", (4, 32, 64, 64), "conv", "modrelu", "conv", "modrelu"),
    _complex("stft_mask", (256, 512), "fft", "mul", "modulus", "mul", "ifft"),
    Workload("fno_block", (8, 32, 1024), ("spectral", "gelu", "spectral", "gelu")),
)

LINE, PLANE, SMALL = (16, 64, 4096), (8, 32, 112, 112), (4, 16, 14, 14)
VOLUME = (2, 16, 16, 32, 32)


def _pool(name: str, shape: Shape, k: int, stride: int, dilation: int) -> Workload:
    """Padded as much as keeps the size, or half of it, at a stride of 1."""
    pad = min(dilation * (k - 1) // 2, k // 2)
    return Workload(name, shape, (f"pool:{k},{stride},{pad},{dilation}",))


VALUES: tuple[Workload, ...] = (
    *(_pool(f"plane_k{k}", PLANE, k, 1, 1) for k in (2, 3, 5, 7)),
    *(_pool(f"plane_k3_d{d}", PLANE, 3, 1, d) for d in (2, 4)),
    _pool("plane_k3_s2", PLANE, 3, 2, 1),
    _pool("plane_k2_s2", PLANE, 2, 2, 1),
    _pool("small_k3", SMALL, 3, 1, 1),
    _pool("small_k3_s2", SMALL, 3, 2, 1),
    *(_pool(f"line_k{k}_d{d}", LINE, k, 1, d) for k, d in ((3, 1), (7, 1), (3, 4))),
    *(_pool(f"volume_k{k}", VOLUME, k, 1, 1) for k in (2, 3)),
    _pool("volume_k3_s2_d2", VOLUME, 3, 2, 2),
)
MORE = (
    *("plane_k3", "plane_k7", "plane_k3_d2", "plane_k3_s2", "plane_k2_s2"),
    *("small_k3_s2", "line_k7_d1", "volume_k3"),
)
BACK = ("plane_k3_s2", "plane_k2_s2", "small_k3_s2")
POOLING = VALUES + tuple(
    replace(w, name=f"{w.name}_{op}", steps=(w.steps[0].replace("pool", f"pool_{op}"),))
    for op, names in (("mask", MORE), ("gradient", MORE), ("back", BACK))
    for w in VALUES
    if w.name in names
)

ROWS = (4096, 1024)
SORTING: tuple[Workload, ...] = (
    Workload("sort", ROWS, ("sort",)),
    Workload("sort_places", ROWS, ("sort_places",)),
    Workload("sort_short", (1 << 18, 32), ("sort",)),
    Workload("sort_long", (128, 1 << 16), ("sort",)),
    Workload("sort_line", (1, 1 << 20), ("sort",)),
    Workload("sort_f64", ROWS, ("sort",), "float64"),
    Workload("topk", ROWS, ("topk:8",)),
    Workload("topk_words", (64, 1 << 17), ("topk:50",)),
)

# 256 MB each, but for sorts and for four: one of calls with little else to time, and
# three that are mostly matrix products.
TALL, LONG, SQUARE = (1 << 16, 1024), (1 << 15, 1024), (8192, 8192)
GPU: tuple[Workload, ...] = (
    Workload("pointwise", TALL, ("scale", "mul")),
    Workload("bias_gelu", TALL, ("bias", "gelu")),
    Workload("chain", TALL, tuple(s for op in POINTWISE for s in ("tanh", op))),
    Workload("softmax", TALL, ("softmax",)),
    Workload("layer_norm", TALL, ("layer_norm",)),
    Workload("residual_rms_norm", TALL, ("add", "rms_norm")),
    Workload("transpose", SQUARE, ("transpose", "scale")),
    Workload("transpose_add", SQUARE, ("transpose", "add")),
    Workload("sum_all", TALL, ("square", "sum_all")),
    Workload("sum_columns", TALL, ("square", "sum_columns")),
    Workload("sum_rows", TALL, ("square", "sum_rows")),
    Workload("batch_norm_relu_add", (64, 64, 128, 128), ("batch_norm", "relu", "add")),
    Workload("small_chain", (64, 64), ("bias", "gelu", "layer_norm") * 4),
    Workload("mlp", (4096, 1024), ("linear", "relu") * 4),
    Workload("encoder_layer", (8, 512, 768), encoder(768, 12, False)),
    Workload("resnet_block", (16, 256, 56, 56), bottleneck(64, 1, False)),
    _complex("complex_chain", LONG, *CHAIN),
    _complex("complex_functions", LONG, *FUNCTIONS),
    _complex("stft_mask", LONG, "fft", "mul", "modulus", "mul", "ifft"),
    Workload("fno_block", (64, 64, 4096), ("spectral", "gelu", "spectral", "gelu")),
    _pool("pool_k3_s2", (80, 64, 112, 112), 3, 2, 1),
    _pool("pool_k3_d2", (80, 64, 112, 112), 3, 1, 2),
    *SORTING,
)
# Forward and backward: gradients of all inputs, weights too.
GPU += tuple(
    replace(w, name=f"{w.name}_back", back=True)
    for w in (*GPU, Workload("gelu_mlp", (4096, 1024), ("linear", "gelu") * 4))
    if w.name
    in (
        *("bias_gelu", "softmax", "layer_norm", "residual_rms_norm"),
        *("gelu_mlp", "encoder_layer"),
    )
)
# The same of halves, those in memory 256 MB each as well.
GPU += tuple(
    replace(
        w,
        name=f"{w.name}_bf16",
        shape=(1 << 17, 1024) if w.shape == TALL else w.shape,
        dtype="bfloat16",
    )
    for w in GPU
    if w.name
    in (
        *("pointwise", "bias_gelu", "softmax", "layer_norm", "transpose_add"),
        *("mlp", "encoder_layer", "sort"),
    )
)
# ResNet-18's convolutions of images of 112 x 112, and some in groups: channels, side,
# and the numbers of a convolution.
LAYERS = {
    "first": (3, 112, 64, 7, 2, 3, 1),
    "64_at_28": (64, 28, 64, 3, 1, 1, 1),
    "128_at_14": (128, 14, 128, 3, 1, 1, 1),
    "256_at_7": (256, 7, 256, 3, 1, 1, 1),
    "512_at_4": (512, 4, 512, 3, 1, 1, 1),
    "to_128": (64, 28, 128, 3, 2, 1, 1),
    "to_512": (256, 7, 512, 3, 2, 1, 1),
    "aside_128": (64, 28, 128, 1, 2, 0, 1),
    "1x1_256": (256, 28, 64, 1, 1, 0, 1),
    "groups_32": (128, 28, 128, 3, 1, 1, 32),
    "by_channel": (96, 28, 96, 3, 1, 1, 96),
}
PARTS = {"": "convolve", "_x": "input_gradient", "_w": "weight_gradient"}
CONVOLUTIONS: tuple[Workload, ...] = tuple(
    Workload(
        f"{name}{part}", (8, c, side, side), (f"{op}:{','.join(map(str, sizes))}",)
    )
    for name, (c, side, *sizes) in LAYERS.items()
    for part, op in PARTS.items()
)
SUITES = {
    "complex": COMPLEX,
    "convolutions": CONVOLUTIONS,
    "gpu": GPU,
    "models": MODELS,
    "pooling": POOLING,
    "sorting": SORTING,
}
