/* Numbers that only data tell: extents of results, items of small integer tensors. And
   the guards on all sizes: where one does not hold, another plan must serve the call. */
#include <string.h>

#include "runtime.h"

Verdict miss(Plan *plan, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(plan->miss, sizeof plan->miss, format, arguments);
    va_end(arguments);
    return MISSED;
}

/* ---- a miss on the way ---- */

/* Keeps what the run knows; -1 without an exception. */
static int miss_late(Call *call, int buffer, const DLTensor *tensor) {
    Learned *learned = &call->plan->learned;
    call->missed = true;
    learned->stage = call->stage;
    learned->buffer = buffer;
    learned->rank = tensor ? tensor->rank : 0;
    for (int i = 0; i < learned->rank; i++) learned->shape[i] = tensor->shape[i];
    if (call->plan->n_slots)
        memcpy(learned->slots, call->slots, (size_t)call->plan->n_slots * 8);
    return -1;
}

int differing_axis(const Call *call, int id, const DLTensor *tensor) {
    const Dims *dims = &call->plan->buffers[id].type.dims;
    for (int i = 0; i < dims->count; i++) {
        Dim dim = dims->at[i];
        if (dim < 0 && call->plan->slot_stage[dim_slot(dim)] > call->stage) continue;
        if (tensor->shape[i] != dim_value(dim, call->slots)) return i;
    }
    return -1;
}

int miss_shape(Call *call, int id, const DLTensor *tensor) {
    int axis = differing_axis(call, id, tensor);
    miss(call->plan, "guard: buffer %d has the extent %lld at axis %d, expected %lld",
         id, (long long)tensor->shape[axis], axis,
         (long long)dim_value(call->plan->buffers[id].type.dims.at[axis], call->slots));
    return miss_late(call, id, tensor);
}

/* ---- guards ---- */

static bool holds(const Guard *guard, const int64_t *slots) {
    int64_t a = dim_value(guard->a, slots), b = dim_value(guard->b, slots);
    switch (guard->kind) {
        case EQ: return a == b;
        case NE: return a != b;
        case GE: return a >= b;
        default: return a < b;
    }
}

Verdict check_guards(Call *call) {
    Plan *plan = call->plan;
    static const char *const names[] = {"==", "!=", ">=", "<"};
    for (int i = 0; i < plan->n_guards; i++) {
        const Guard *guard = &plan->guards[i];
        if (guard->stage != call->stage || holds(guard, call->slots)) continue;
        return miss(plan, "guard %d: not %lld %s %lld", i,
                    (long long)dim_value(guard->a, call->slots), names[guard->kind],
                    (long long)dim_value(guard->b, call->slots));
    }
    return PASSED;
}

/* ---- bindings ---- */

static int64_t integer(const char *data, DLDataType type) {
    bool is_signed = type.code == DL_INT;
    switch (type.bits) {
        case 8: return is_signed ? *(const int8_t *)data : *(const uint8_t *)data;
        case 16: return *(const int16_t *)data;
        case 32: return *(const int32_t *)data;
        default: return *(const int64_t *)data;
    }
}

static int fetch(const Call *call, const char *data, DLDataType type, int64_t *out) {
    char item[8];
    if (!on_cuda(&call->home)) {
        *out = integer(data, type);
        return 0;
    }
    size_t bytes = type.bits / 8;
    if (cuda_raise(cuda_read(item, data, bytes, call->home.stream))) return -1;
    *out = integer(item, type);
    return 0;
}

/* The item at this place in row-major order, whatever the strides. */
static const char *item_at(const DLTensor *tensor, int64_t place) {
    int64_t offset = place;
    if (tensor->strides) {
        offset = 0;
        for (int i = tensor->rank - 1; i >= 0; i--) {
            offset += place % tensor->shape[i] * tensor->strides[i];
            place /= tensor->shape[i];
        }
    }
    return (const char *)tensor->data + offset * (tensor->dtype.bits / 8);
}

static void set(Call *call, const Binding *binding, int64_t value) {
    if (binding->slot >= 0 && !binding->known) call->slots[binding->slot] = value;
}

static Verdict compare(Call *call, const Binding *binding, int64_t value) {
    bool any = binding->slot >= 0;
    int64_t want = any ? call->slots[binding->slot] : binding->literal;
    if (value == want && (value >= 0 || !any)) return PASSED;
    return miss(call->plan, "guard: %s %d of %d is %lld, expected %lld",
                binding->item ? "item" : "axis", binding->place, binding->source,
                (long long)value, (long long)(any && want < 0 ? 0 : want));
}

Verdict bind_contents(Call *call) {
    for (int i = 0; i < call->plan->n_contents; i++) {
        const Binding *binding = &call->plan->contents[i];
        DLTensor tensor;
        if (tensor_view(call->inputs[binding->source].object, &tensor)) return FAILED;
        const char *item = item_at(&tensor, binding->place);
        int64_t value;
        if (fetch(call, item, tensor.dtype, &value)) return FAILED;
        set(call, binding, value);
        Verdict verdict = compare(call, binding, value);
        if (verdict != PASSED) return verdict;
    }
    return PASSED;
}

/* Of a buffer: its memory is contiguous where items of it are read. */
static int read_number(Call *call, const Binding *binding, int64_t *out) {
    const BufferSpec *spec = &call->plan->buffers[binding->source];
    const Buffer *buffer = &call->buffers[spec->root];
    DLTensor tensor;
    if (binding->item) {
        DLDataType type = {spec->type.code, spec->type.bits, 1};
        char *item = (char *)buffer->data + binding->place * (type.bits / 8);
        return fetch(call, item, type, out);
    }
    if (tensor_view(buffer->object, &tensor)) return -1;
    *out = tensor.shape[binding->place];
    return 0;
}

/* Results taken before this stage were checked but for what it has just set. */
static int check_earlier(Call *call) {
    const Plan *plan = call->plan;
    const Groups *stages = &plan->stages;
    for (int i = stages->begin[call->stage]; i < stages->begin[call->stage + 1]; i++) {
        int id = stages->ids[i];
        DLTensor tensor;
        if (plan->buffers[id].kind != ON_OPAQUE || !call->buffers[id].object) continue;
        if (tensor_view(call->buffers[id].object, &tensor)) return -1;
        if (differing_axis(call, id, &tensor) >= 0)
            return miss_shape(call, id, &tensor);
    }
    return 0;
}

int run_bind(Call *call, int step) {
    const BindStep *at = &call->plan->steps[step].bind;
    int64_t value;
    for (int i = 0; i < at->count; i++) {
        if (read_number(call, &at->bindings[i], &value)) return -1;
        set(call, &at->bindings[i], value);
    }
    if (at->segment >= 0) run_segment(&call->plan->segments[at->segment], call->slots);
    call->stage++;
    for (int i = 0; i < at->count; i++) {
        if (read_number(call, &at->bindings[i], &value)) return -1;
        if (compare(call, &at->bindings[i], value) != PASSED)
            return miss_late(call, -1, NULL);
    }
    if (check_earlier(call)) return -1;
    if (check_guards(call) != PASSED) return miss_late(call, -1, NULL);
    return call_enter_stage(call, call->stage);
}
