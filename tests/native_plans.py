"""Small native plans, and the C kernels that they launch."""

import numpy as np
import paddle

from pirol.compiler import _native

SOURCE = """
#include <stdint.h>
#include <string.h>
typedef void *const *Buffers;
typedef const int64_t *Dims;

/* out[i] = a[i] + b[i], rows of dims[0] items */
void add(Buffers b, Dims d, int64_t begin, int64_t end, void *scratch) {
    const float *x = b[0], *y = b[1];
    float *out = b[2];
    for (int64_t i = begin * d[0]; i < end * d[0]; i++) out[i] = x[i] + y[i];
}
/* out[i] = dims[1] * a[i] */
void scale(Buffers b, Dims d, int64_t begin, int64_t end, void *scratch) {
    const float *x = b[0];
    float *out = b[1];
    for (int64_t i = begin * d[0]; i < end * d[0]; i++) out[i] = d[1] * x[i];
}
/* each row through the thread's scratch, reversed */
void reverse(Buffers b, Dims d, int64_t begin, int64_t end, void *scratch) {
    for (int64_t r = begin; r < end; r++) {
        memcpy(scratch, (float *)b[0] + r * d[0], d[0] * 4);
        for (int64_t i = 0; i < d[0]; i++)
            ((float *)b[1])[r * d[0] + i] = ((float *)scratch)[d[0] - 1 - i];
    }
}
/* out[i] = number of the chunk's rows */
void chunk(Buffers b, Dims d, int64_t begin, int64_t end, void *scratch) {
    for (int64_t i = begin; i < end; i++) ((int64_t *)b[1])[i] = end - begin;
}
/* out[i] = (float)a[i] */
void to_float(Buffers b, Dims d, int64_t begin, int64_t end, void *scratch) {
    for (int64_t i = begin * d[0]; i < end * d[0]; i++)
        ((float *)b[1])[i] = ((const int64_t *)b[0])[i];
}
"""

F32 = (2, 32)
I64 = (0, 64)


def slot(index: int) -> int:
    return -(index + 1)


def plan(**spec):
    """A plan; the keys that a test does not care about are empty."""
    whole = dict(slots=0, inputs=[], segments=[], guards=[], written=[], buffers=[])
    whole |= dict(lifetimes=[(0, 0)] * len(spec.get("buffers", [])), steps=[])
    whole |= dict(contents=[])
    return _native.Plan(whole | dict(outputs=[]) | spec)


def add_plan(kernels, **changes):
    """out = x + y over (n, m)."""
    dims = [slot(0), slot(1)]
    spec = dict(
        slots=2,
        inputs=[(*F32, dims), (*F32, dims)],
        buffers=[
            ("input", 0, *F32, dims),
            ("input", 1, *F32, dims),
            ("output", 0, *F32, dims),
        ],
        steps=[("launch", kernels["add"], [0, 1, 2], [slot(1)], slot(0), 1, 0)],
        outputs=[2],
    )
    return plan(**(spec | changes))


def chain_plan(kernels, call, result_dims, **changes):
    """x -> arena = 2 x -> opaque call(arena) -> output."""
    dims = [slot(0), slot(1)]
    spec = dict(
        slots=4,
        inputs=[(*F32, dims)],
        buffers=[
            ("input", 0, *F32, dims),
            ("arena", 0, *F32, dims),
            ("opaque", 0, *F32, result_dims),
        ],
        lifetimes=[(0, 0), (0, 1), (1, 1)],
        steps=[
            ("launch", kernels["scale"], [0, 1], [slot(1), 2], slot(0), 1, 0),
            ("opaque", call, [1], [2], "call", False),
        ],
        outputs=[2],
    )
    return plan(**(spec | changes))


def rand(*shape):
    return paddle.rand(list(shape))


def same(tensor, array):
    np.testing.assert_array_equal(tensor.numpy(), array)
