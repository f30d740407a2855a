"""Native plans: a wrong spec is an error and never a crash."""

import contextlib
import random

import paddle
import pytest
from native_plans import F32, I64, plan, rand, slot

from pirol.compiler import _native

# ---- specs ----


def nop(*_):
    return None


ARENA = [("arena", 0, *F32, [4])]
TWO = [("opaque", 0, *F32, [slot(0)]), ("alias", 0, *F32, [4])]
SEE = ("opaque", nop, [], [0], "see", False)
CUDA = dict(arrays=True, cuda=(0, 1, 1, 1, 1))
MIXED = dict(buffers=[*ARENA, ("output", 0, *I64, [4])], lifetimes=[(0, 0)] * 2)
LIES = (False, 2, 0)


def product(buffers=(0, 0, -1, 0), left=LIES, right=LIES):
    return [("product", buffers, [1, 2, 2, 2], left, right)]


def convolution(buffers=(0, 0, 0), strides=(1,), padding=(0,), groups=1):
    return [("convolution", buffers, strides, padding, (1,), groups)]


def sort(buffers=(0, 0, -1), sizes=(1, 4, 4), down=True, kernels=(0, 0)):
    return [("sort", buffers, sizes, down, kernels)]


LINE = dict(buffers=[("arena", 0, *F32, [4, 4, 4])]) | CUDA


BAD_SPECS = {
    "unknown key": dict(stepz=[]),
    "stands for no slot": dict(inputs=[(*F32, [slot(0)])]),
    "slot 0 is read before it is set": dict(slots=1, guards=[(0, slot(0), 1)]),
    "slot 0 is set twice": dict(
        slots=1, inputs=[(*F32, [slot(0)])], segments=[[(0, 0, 1, 0)]]
    ),
    "slot 0 is never set": dict(slots=1, buffers=TWO),
    "run in a circle": dict(buffers=[("alias", 1, *F32, [1]), ("alias", 0, *F32, [1])]),
    "not of the type and rank": dict(
        inputs=[(*F32, [4])], buffers=[("input", 0, *I64, [4])]
    ),
    "is no range": dict(buffers=ARENA),
    "outside its lifetime": dict(
        buffers=ARENA, steps=[("opaque", nop, [i], [], "f", False) for i in (0, 0)]
    ),
    "before an opaque step returns": dict(
        buffers=[("opaque", 0, *F32, [4])], steps=[("opaque", nop, [0], [], "f", False)]
    ),
    "is returned twice": dict(buffers=[("opaque", 0, *F32, [4])], steps=[SEE, SEE]),
    "no tensors of DLPack type 1, 32 bits": dict(buffers=[("output", 0, 1, 32, [4])]),
    "is not opaque": dict(buffers=ARENA, steps=[SEE]),
    "no tensor of its own": dict(
        buffers=ARENA, steps=[("opaque", nop, [0], [], "f", False)], outputs=[0]
    ),
    "no step returns": dict(buffers=[("opaque", 0, *F32, [4])], outputs=[0]),
    "has no axis 1": dict(
        slots=2,
        buffers=[("opaque", 0, *F32, [slot(0)])],
        steps=[SEE, ("bind", [(0, 1, 0, False)], -1)],
    ),
    "size of buffer 1 is not known yet": dict(
        slots=2,
        buffers=[("opaque", 0, *F32, [slot(0)]), ("output", 0, *F32, [slot(0)])],
        steps=[SEE, ("launch", 1, [1], [], 1, 1, 0), ("bind", [(0, 0, 0, False)], -1)],
    ),
    "no integer item 4": dict(slots=1, inputs=[(*I64, [4])], contents=[(0, 4, 0)]),
    "no integer item 0": dict(slots=1, inputs=[(*F32, [4])], contents=[(0, 0, 0)]),
    "of no fixed size": dict(slots=2, inputs=[(*I64, [slot(1)])], contents=[(0, 0, 0)]),
    "not listed as written": dict(
        inputs=[(*F32, [4])],
        buffers=[("input", 0, *F32, [4])],
        steps=[("write", 0, 0)],
    ),
    "is no bool scalar": dict(
        inputs=[(*F32, [4])],
        buffers=[("input", 0, *F32, [4])],
        steps=[("check", 0, "")],
    ),
    "expected a message": dict(steps=[("check", 0, 0)]),
    "the kernel has no address": dict(steps=[("launch", 0, [], [], 1, 1, 0)]),
    "unknown kind": dict(steps=[("call", 0)]),
    "expected 7 items": dict(steps=[("launch", 0)]),
    "an empty step": dict(steps=[()]),
    "expected a bool": dict(steps=[("opaque", nop, [], [], "f", 1)]),
    "expected a callable": dict(steps=[("opaque", 5, [], [], "f", False)]),
    "no library multiplies these": dict(buffers=ARENA, steps=product()),
    "buffer 1 is of another type": MIXED | CUDA | dict(steps=product((0, 1, -1, 0))),
    r"buffer -1 is not in \[0": dict(buffers=ARENA, steps=product((0, -1, -1, 0))),
    r"buffer -2 is not in \[-1": dict(buffers=ARENA, steps=product((0, 0, -2, 0))),
    "expected 3 items, got 1": dict(buffers=ARENA, steps=product(right=(True,))),
    "expected a bool, got a int": dict(buffers=ARENA, steps=product(left=(1, 2, 0))),
    "slot 1 is read before": MIXED
    | CUDA
    | dict(slots=2, steps=product(right=(True, slot(1), 0))),
    "nothing sorts these": dict(buffers=[("arena", 0, 5, 64, [4])], steps=sort()),
    "a sort without kernels": CUDA | dict(buffers=ARENA, steps=sort(kernels=(1, 0))),
    "buffer 0 is of another type": dict(buffers=ARENA, steps=sort((0, 0, 0))),
    r"buffer -2 is not in \[-1, 1": dict(buffers=ARENA, steps=sort((0, 0, -2))),
    r"buffer -1 is not in \[0, 1": dict(buffers=ARENA, steps=sort((-1, 0, 0))),
    "expected 3 items, got 2": dict(buffers=ARENA, steps=sort(sizes=(1, 4))),
    "expected a bool, got a float": dict(buffers=ARENA, steps=sort(down=1.0)),
    "expected 2 items, got 1": dict(buffers=ARENA, steps=sort(kernels=(1,))),
    "no library convolves these": dict(buffers=ARENA, steps=convolution()),
    "buffer 0 is not of the window's rank": dict(buffers=ARENA, steps=convolution())
    | CUDA,
    "buffer 2 is not in": LINE | dict(steps=convolution((0, 2, 0))),
    "buffer 1 is of another": dict(
        buffers=[*LINE["buffers"], ("arena", 0, *I64, [4, 4, 4])],
        lifetimes=[(0, 0)] * 2,
        steps=convolution((0, 1, 0)),
    )
    | CUDA,
    "window of 1 to 3 dims": LINE | dict(steps=convolution(strides=())),
    r"number 0 is not in \[1": LINE | dict(steps=convolution(strides=(0,))),
    r"number -1 is not in \[0": LINE | dict(steps=convolution(padding=(-1,))),
    "expected 1 items, got 3": LINE | dict(steps=convolution(padding=(1, 1, 1))),
    "groups 0 is not in": LINE | dict(steps=convolution(groups=0)),
    "8, 16, 32": dict(inputs=[(2, 24, [])]),
    "too many dims": dict(inputs=[(2, 32, [1] * 17)]),
    "expected a list": dict(inputs=7),
    "beyond 64 bits": dict(inputs=[(2, 32, [2**70])]),
    "listed twice": dict(inputs=[(*F32, [4])], written=[0, 0]),
    "expected 1 items, got 2": dict(buffers=ARENA, lifetimes=[(0, 0)] * 2),
}


@pytest.mark.parametrize("why", BAD_SPECS)
def test_bad_specs(why):
    with pytest.raises(ValueError, match=why):
        plan(**BAD_SPECS[why])


def test_missing_keys():
    whole = dict(slots=0, inputs=[], segments=[], guards=[], written=[], buffers=[])
    whole |= dict(contents=[], lifetimes=[], steps=[], outputs=[])
    _native.Plan(whole)
    for key in whole:
        with pytest.raises(ValueError, match=f"{key}: missing"):
            _native.Plan({k: v for k, v in whole.items() if k != key})
    with pytest.raises(TypeError):
        _native.Plan([])


def mutate(rng, value):
    """`value` with one int, somewhere inside, replaced."""
    if isinstance(value, list | tuple) and value:
        at = rng.randrange(len(value))
        items = list(value)
        items[at] = mutate(rng, items[at])
        return type(value)(items)
    if isinstance(value, int):
        return rng.choice([-99, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 2**31, 2**63, "x"])
    return value


def test_no_index_crashes():
    """Specs with one number wrong are refused, or run and raise, or are harmless."""
    dims, found = [slot(0), slot(1)], [slot(2), 2]
    spec = dict(
        slots=6,
        inputs=[(*F32, dims), (*F32, dims), (*I64, [3])],
        contents=[(2, 1, 4), (2, 2, (7,))],
        segments=[[], [(3, 3, slot(2), 2)]],
        guards=[(2, slot(0), 1)],
        written=[1],
        buffers=[
            ("input", 0, *F32, dims),
            ("opaque", 0, *I64, found),
            ("arena", 0, *F32, found),
            ("alias", 1, *I64, [slot(3)]),
            ("arena", 0, *F32, dims),
            ("output", 0, *F32, [slot(3)]),
            ("input", 2, *I64, [3]),
        ],
        lifetimes=[(0, 0), (0, 2), (2, 2), (0, 2), (0, 3), (3, 3), (0, 3)],
        steps=[
            ("opaque", lambda *t: paddle.nonzero(t[0]), [0, 4], [1], "nonzero", False),
            ("bind", [(1, 0, 2, False), (6, 0, 5, True), (6, 2, (7,), True)], 1),
            ("opaque", nop, [2, 3], [], "see", False),
            ("write", 4, 1),
        ],
        outputs=[1, 3, 5, 0],
    )
    rng = random.Random(1)
    inputs = [paddle.ones([2, 3]), rand(2, 3), paddle.to_tensor([5, 6, 7])]
    assert _native.Plan(spec).run(inputs) is not None
    refused = 0
    for _ in range(3000):
        key = rng.choice(list(spec))
        changed = spec | {key: mutate(rng, spec[key])}
        try:
            built = _native.Plan(changed)
        except ValueError:
            refused += 1
            continue
        with contextlib.suppress(TypeError, RuntimeError, MemoryError, ValueError):
            built.run(inputs)
    assert refused > 1000


def test_threads():
    _native.set_threads(3)
    assert _native.get_threads() == 3
    for count in (0, -1, 5000):
        with pytest.raises(ValueError):
            _native.set_threads(count)
    with pytest.raises(TypeError):
        _native.init(5)
