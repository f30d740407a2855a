/* Operand tensors from one use to the next, of this call or a later one: to make one
   takes longer than a small kernel, and fresh pages longer than a large one. A tensor
   comes back only if nobody else can see its memory. */
#include <string.h>

#include "runtime.h"

/* Larger ones go back to the allocator, which gives their memory to tensors of any
   shape; what making one costs is then little beside its use. */
enum { LARGEST = 1 << 20 };

static const int64_t *shape_of(const Call *call, int id) {
    const BufferSpec *spec = &call->plan->buffers[id];
    return call->layouts[spec->stage]->extents + spec->dims_at;
}

/* Is the tensor contiguous, and of this type and shape? */
static bool fits(PyObject *tensor, const TensorSpec *type, const int64_t *shape,
                 void **data) {
    DLTensor view;
    if (tensor_view(tensor, &view)) {
        PyErr_Clear();
        return false;
    }
    *data = view.data;
    size_t bytes = (size_t)type->dims.count * sizeof *shape;
    return view.dtype.code == type->code && view.dtype.bits == type->bits &&
           view.rank == type->dims.count &&
           (!bytes || !memcmp(view.shape, shape, bytes)) &&
           is_contiguous(view.rank, view.shape, view.strides);
}

/* ---- the list ---- */

static PyObject *take_out(Plan *plan, int at) {
    PyObject *object = plan->spares[at].object;
    plan->spare_bytes -= plan->spares[at].bytes;
    plan->n_spares--;
    memmove(plan->spares + at, plan->spares + at + 1,
            (size_t)(plan->n_spares - at) * sizeof *plan->spares);
    return object;
}

/* To free a tensor may run other code, so the list is in order before each. */
static void trim(Plan *plan, int count, size_t bytes) {
    while (plan->n_spares > count || (plan->n_spares && plan->spare_bytes > bytes))
        Py_DECREF(take_out(plan, 0));
}

void spare_limit(Plan *plan, size_t bytes) {
    plan->spare_limit = bytes;
    trim(plan, MAX_SPARES, bytes);
}

void spare_clear(Plan *plan) {
    trim(plan, 0, 0);
}

/* ---- one call's operands ---- */

int spare_take(Call *call, int id) {
    Plan *plan = call->plan;
    const TensorSpec *type = &plan->buffers[id].type;
    const int64_t *shape = shape_of(call, id);
    size_t bytes = bytes_of(type, shape);
    Buffer *buffer = &call->buffers[id];
    for (int i = plan->n_spares - 1; i >= 0; i--) {
        const Spare *spare = &plan->spares[i];
        if (spare->bytes != bytes || !fits(spare->object, type, shape, &buffer->data))
            continue;
        if (spare->call != call->number) call->operand_bytes += bytes;
        buffer->object = take_out(plan, i);
        return 0;
    }
    call->operand_bytes += bytes;
    return call_make(call, id);
}

static bool is_reusable(Call *call, int id) {
    const BufferSpec *spec = &call->plan->buffers[id];
    const Buffer *buffer = &call->buffers[id];
    void *data;
    return !spec->exposed && !buffer->seen && tensor_is_private(buffer->object) &&
           fits(buffer->object, &spec->type, shape_of(call, id), &data) &&
           data == buffer->data;
}

void spare_give(Call *call, int id) {
    Plan *plan = call->plan;
    Buffer *buffer = &call->buffers[id];
    size_t bytes = bytes_of(&plan->buffers[id].type, shape_of(call, id));
    if (bytes > LARGEST || !is_reusable(call, id)) {
        Py_CLEAR(buffer->object);
        return;
    }
    size_t limit = plan->spare_limit;
    if (limit < call->operand_bytes) limit = call->operand_bytes;
    trim(plan, MAX_SPARES - 1, limit);
    plan->spares[plan->n_spares++] =
        (Spare){buffer->object, bytes, call->number};
    buffer->object = NULL;
    plan->spare_bytes += bytes;
    trim(plan, MAX_SPARES, limit);
}
