"""Whole networks as workloads: the suite `models` of the comparison with the peers."""

from __future__ import annotations

from pirol.bench.workloads import Workload

Steps = tuple[str, ...]


def normed(out: int, k: int, stride: int = 1, groups: int = 1, act: str = "") -> Steps:
    """A convolution of k x k that pads by half of it, batch norm, an activation."""
    conv = f"convolve:{out},{k},{stride},{k // 2},{groups}"
    return (conv, "batch_norm", *filter(None, [act]))


def bottleneck(middle: int, stride: int, first: bool) -> Steps:
    """ResNet's block of three convolutions; the first of a stage has one aside."""
    aside = (*normed(4 * middle, 1, stride), "swap") if first else ()
    path = (
        *normed(middle, 1, act="relu"),
        *normed(middle, 3, stride, act="relu"),
        *normed(4 * middle, 1),
    )
    return ("keep", *aside, *path, "join", "relu")


def resnet(blocks: tuple[int, ...], classes: int = 1000) -> Steps:
    """ResNet with bottlenecks; He et al. 2016."""
    steps = (*normed(64, 7, 2, act="relu"), "pool:3,2,1,1")
    for stage, count in enumerate(blocks):
        for k in range(count):
            stride = 2 if k == 0 and stage > 0 else 1
            steps += bottleneck(64 << stage, stride, k == 0)
    return (*steps, "mean_space", f"dense:{classes}")


# MobileNetV3-large's blocks: kernel, expanded, out, squeezes, activation, stride.
LARGE = (
    (3, 16, 16, False, "relu", 1), (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1), (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1), (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hardswish", 2), (3, 200, 80, False, "hardswish", 1),
    (3, 184, 80, False, "hardswish", 1), (3, 184, 80, False, "hardswish", 1),
    (3, 480, 112, True, "hardswish", 1), (3, 672, 112, True, "hardswish", 1),
    (5, 672, 160, True, "hardswish", 2), (5, 960, 160, True, "hardswish", 1),
    (5, 960, 160, True, "hardswish", 1),
)  # fmt: skip


def mobilenet() -> Steps:
    """MobileNetV3-large; Howard et al. 2019."""
    steps, width = normed(16, 3, 2, act="hardswish"), 16
    for k, expanded, out, squeezes, act, stride in LARGE:
        path = normed(expanded, 1, act=act) if expanded != width else ()
        path += normed(expanded, k, stride, expanded, "" if squeezes else act)
        if squeezes:
            less = expanded // 4
            scale = ("keep", "squeeze", f"convolve:{less},1,1,0,1", "relu")
            path += (*scale, f"convolve:{expanded},1,1,0,1", "hardsigmoid", "gate", act)
        path += normed(out, 1)
        same = stride == 1 and out == width
        steps += ("keep", *path, "join") if same else path
        width = out
    steps += normed(960, 1, act="hardswish")
    return (*steps, "mean_space", "dense:1280", "hardswish", "dense:1000")


def encoder(width: int, heads: int, first: bool) -> Steps:
    """A transformer's layer; layer norm comes first, or behind each sum as in BERT."""
    before, behind = (("layer_norm",), ()) if first else ((), ("layer_norm",))
    mix = (f"dense:{3 * width}", f"attention:{heads}", f"dense:{width}")
    feed = (f"dense:{4 * width}", "gelu", f"dense:{width}")
    parts = ((*before, *part, "join", *behind) for part in (mix, feed))
    return tuple(step for part in parts for step in ("keep", *part))


def vit(layers: int, width: int, heads: int) -> Steps:
    """A vision transformer on patches of 16 x 16; Dosovitskiy et al. 2021."""
    body = encoder(width, heads, True) * layers
    patches = (f"convolve:{width},16,16,0,1", "tokens", "add")
    return (*patches, *body, "layer_norm", "mean_tokens", "dense:1000")


MODELS: tuple[Workload, ...] = (
    Workload("resnet50", (1, 3, 224, 224), resnet((3, 4, 6, 3))),
    Workload("mobilenet_v3", (1, 3, 224, 224), mobilenet()),
    Workload("bert_1x128", (1, 128, 768), encoder(768, 12, False) * 12),
    Workload("bert_8x512", (8, 512, 768), encoder(768, 12, False) * 2),
    Workload("vit_b", (1, 3, 224, 224), vit(12, 768, 12)),
)
