/* One run of a plan: guards on the inputs, memory, the steps, the results. */
#include <stdlib.h>

#include "runtime.h"

/* ---- a call's memory: one block, cut up ---- */

static void *cut(char *memory, size_t *at, int count, size_t size) {
    void *piece = memory ? memory + *at : NULL;
    *at += (size_t)count * size;
    return piece;
}

/* Every piece is a multiple of 8 bytes. With no memory yet it gives the size. */
static size_t lay_out(const Plan *plan, Call *call, char *memory) {
    size_t at = sizeof(Call);
    int addresses = plan->n_written ? plan->n_inputs : 0;
    int parameters = plan->max_launch_buffers + plan->max_launch_dims + 1;
    call->slots = cut(memory, &at, plan->n_slots, sizeof(int64_t));
    call->inputs = cut(memory, &at, plan->n_inputs, sizeof(Input));
    call->buffers = cut(memory, &at, plan->n_buffers, sizeof(Buffer));
    call->layouts = cut(memory, &at, plan->n_stages, sizeof(Layout *));
    call->regions = cut(memory, &at, plan->n_stages, sizeof(Region));
    call->pointers = cut(memory, &at, plan->max_launch_buffers, sizeof(void *));
    call->dims = cut(memory, &at, plan->max_launch_dims, sizeof(int64_t));
    call->words = cut(memory, &at, plan->max_words, sizeof(int64_t));
    call->parameters = cut(memory, &at, parameters, sizeof(void *));
    call->arguments = cut(memory, &at, plan->max_arguments + 1, sizeof(PyObject *));
    call->by_address = cut(memory, &at, addresses, sizeof(Input *));
    int64_t *written = cut(memory, &at, plan->n_written_dims, sizeof(int64_t));
    for (int i = 0; memory && i < plan->n_written; i++) {
        const InputSpec *spec = &plan->inputs[plan->written[i]];
        Input *input = &call->inputs[plan->written[i]];
        input->shape = written + spec->shape_at;
        input->strides = input->shape + spec->type.dims.count;
    }
    return at;
}

static Call *call_new(Plan *plan, void *stream) {
    Call sizes;
    char *memory = PyMem_RawCalloc(1, lay_out(plan, &sizes, NULL));
    if (!memory) {
        PyErr_NoMemory();
        return NULL;
    }
    Call *call = (Call *)memory;
    lay_out(plan, call, memory);
    call->plan = (Plan *)Py_NewRef(plan);
    call->number = ++plan->calls;
    call->home = plan->home;
    call->home.stream = stream;
    return call;
}

static void release_region(Call *call, Region *region) {
    if (!region->data) return;
    if (on_cuda(&call->home))
        cuda_release(region->data, call->home.stream);
    else
        block_give(call->plan->pool, region->block);
}

static void call_free(Call *call) {
    Plan *plan = call->plan;
    for (int i = 0; i < plan->n_buffers; i++) {
        if (plan->buffers[i].kind == ON_INPUT) continue;
        Py_XDECREF(call->buffers[i].object);
        Py_XDECREF(call->buffers[i].flat);
    }
    for (int i = 0; i < plan->n_inputs; i++) {
        Py_XDECREF(call->inputs[i].object);
        Py_XDECREF(call->inputs[i].flat);
    }
    for (int i = 0; i < plan->n_stages; i++) {
        release_region(call, &call->regions[i]);
        layout_release(call->layouts[i]);
    }
    if (call->workspace.data) cuda_release(call->workspace.data, call->home.stream);
    block_give(plan->pool, call->scratch);
    PyMem_RawFree(call);
    Py_DECREF(plan);
}

/* ---- inputs ---- */

static Verdict bind_shape(Call *call, int index, const DLTensor *tensor) {
    const InputSpec *spec = &call->plan->inputs[index];
    int64_t items = 1;
    for (int axis = 0; axis < tensor->rank; axis++) {
        Dim dim = spec->type.dims.at[axis];
        int64_t extent = tensor->shape[axis];
        items *= extent;
        if (spec->binds[axis])
            call->slots[dim_slot(dim)] = extent;
        else if (extent != dim_value(dim, call->slots))
            return miss(call->plan, "input %d: extent %lld at axis %d, expected %lld",
                        index, (long long)extent, axis,
                        (long long)dim_value(dim, call->slots));
    }
    call->inputs[index].items = items;
    return PASSED;
}

static void note_span(Input *input, const DLTensor *tensor) {
    int64_t low = 0, high = 1;
    for (int i = 0; tensor->strides && i < tensor->rank; i++) {
        int64_t reach = (tensor->shape[i] - 1) * tensor->strides[i];
        *(reach < 0 ? &low : &high) += reach;
    }
    if (!tensor->strides) high = input->items;
    int64_t item = tensor->dtype.bits / 8;
    input->low = input->items ? input->data + low * item : NULL;
    input->high = input->items ? input->data + high * item : NULL;
}

static void keep_strides(Input *input, const DLTensor *tensor) {
    int64_t stride = 1;
    for (int i = tensor->rank - 1; i >= 0; i--) {
        input->shape[i] = tensor->shape[i];
        input->strides[i] = tensor->strides ? tensor->strides[i] : stride;
        stride *= tensor->shape[i];
    }
}

static Verdict check_type(Plan *plan, int index, const DLTensor *tensor) {
    const TensorSpec *type = &plan->inputs[index].type;
    DLDataType dtype = tensor->dtype;
    if (tensor->device.type != (on_cuda(&plan->home) ? DL_CUDA : DL_CPU) ||
        (on_cuda(&plan->home) && tensor->device.id != plan->home.device))
        return miss(plan, "input %d: on device (%d, %d)", index, tensor->device.type,
                    tensor->device.id);
    if (dtype.code != type->code || dtype.bits != type->bits || dtype.lanes != 1)
        return miss(plan, "input %d: %s%d, expected %s%d", index,
                    dtype_name(dtype.code), dtype.bits, dtype_name(type->code),
                    type->bits);
    if (tensor->rank != type->dims.count)
        return miss(plan, "input %d: rank %d, expected %d", index, tensor->rank,
                    type->dims.count);
    return PASSED;
}

/* CUDA kernels load and store VECTOR bytes at once, from where buffers begin. */
static bool in_place(const Home *home, const void *data) {
    return !on_cuda(home) || (uintptr_t)data % VECTOR == 0;
}

/* What is where it was, as weights are, is likely to come again. */
static void note_place(InputSpec *spec, const DLTensor *tensor) {
    enum { OFTEN = 3 };
    if (spec->last != tensor->data) {
        spec->last = tensor->data;
        spec->times = 1;
    } else if (spec->times < OFTEN && ++spec->times == OFTEN) {
        memory_large(tensor->data, bytes_of(&spec->type, tensor->shape));
    }
}

static Verdict read_input(Call *call, int index, PyObject *object) {
    Plan *plan = call->plan;
    Input *input = &call->inputs[index];
    DLTensor tensor;
    if (tensor_view(object, &tensor)) return FAILED;
    Verdict verdict = check_type(plan, index, &tensor);
    if (verdict == PASSED) verdict = bind_shape(call, index, &tensor);
    if (verdict != PASSED) return verdict;
    input->object = Py_NewRef(object);
    input->data = input->flat_data = tensor.data;
    input->contiguous = is_contiguous(tensor.rank, tensor.shape, tensor.strides) &&
                        in_place(&plan->home, tensor.data);
    if (input->contiguous && !on_cuda(&plan->home))
        note_place(&plan->inputs[index], &tensor);
    if (plan->n_written) note_span(input, &tensor);
    if (!plan->inputs[index].written) return PASSED;
    keep_strides(input, &tensor);
    if (overlaps_itself(tensor.rank, input->shape, input->strides))
        return miss(plan, "input %d is written, but its items overlap", index);
    return PASSED;
}

static Verdict read_inputs(Call *call, PyObject *tensors) {
    Plan *plan = call->plan;
    bool list = PyList_CheckExact(tensors);
    if (!list && !PyTuple_CheckExact(tensors)) {
        PyErr_Format(PyExc_TypeError, "run takes a list of tensors, not a %s",
                     Py_TYPE(tensors)->tp_name);
        return FAILED;
    }
    for (int i = 0; i < plan->n_inputs; i++) {
        /* Looked at each time: reading a tensor may run code that shrinks the list. */
        Py_ssize_t count = PySequence_Fast_GET_SIZE(tensors);
        if (count != plan->n_inputs) break;
        Verdict verdict = read_input(call, i, PySequence_Fast_GET_ITEM(tensors, i));
        if (verdict != PASSED) return verdict;
    }
    if (PySequence_Fast_GET_SIZE(tensors) == plan->n_inputs) return PASSED;
    PyErr_Format(PyExc_TypeError, "the plan takes %d tensors, got %zd", plan->n_inputs,
                 PySequence_Fast_GET_SIZE(tensors));
    return FAILED;
}

/* ---- shared memory ---- */

static int lower_first(const void *a, const void *b) {
    const Input *x = *(Input *const *)a, *y = *(Input *const *)b;
    return (x->low > y->low) - (x->low < y->low);
}

/* Swept by address: does anything reach into a written input, or the other way? */
static Verdict check_overlap(Call *call) {
    Plan *plan = call->plan;
    int count = 0;
    for (int i = 0; i < plan->n_inputs; i++)
        if (call->inputs[i].low) call->by_address[count++] = &call->inputs[i];
    qsort(call->by_address, (size_t)count, sizeof(Input *), lower_first);
    char *any = NULL, *written = NULL; /* how far up those before reach */
    for (int i = 0; i < count; i++) {
        const Input *input = call->by_address[i];
        int index = (int)(input - call->inputs);
        bool is_written = plan->inputs[index].written;
        if (input->low < (is_written ? any : written))
            return miss(plan, "input %d shares memory with one that is written", index);
        if (input->high > any) any = input->high;
        if (is_written && input->high > written) written = input->high;
    }
    return PASSED;
}

/* ---- memory ---- */

static int copy_inputs(Call *call) {
    for (int i = 0; i < call->plan->n_inputs; i++) {
        Input *input = &call->inputs[i];
        const InputSpec *spec = &call->plan->inputs[i];
        DLTensor tensor;
        if (input->contiguous || !spec->read_flat) continue;
        if (tensor_view(input->object, &tensor)) return -1;
        input->flat = tensor_flat(&call->home, &spec->type, &tensor,
                                  (void **)&input->flat_data);
        if (!input->flat) return -1;
    }
    return 0;
}

static int take_region(Call *call, int stage) {
    size_t bytes = call->layouts[stage]->arena_bytes;
    if (!bytes) return 0;
    call->arena_bytes += bytes;
    Region *region = &call->regions[stage];
    if (on_cuda(&call->home))
        region->data = cuda_allocate(bytes, call->home.stream);
    else if ((region->block = block_take(call->plan->pool, bytes)))
        region->data = block_data(region->block);
    if (region->data) return 0;
    PyErr_NoMemory();
    return -1;
}

int call_make(Call *call, int id) {
    const BufferSpec *spec = &call->plan->buffers[id];
    const int64_t *shape = call->layouts[spec->stage]->extents + spec->dims_at;
    Buffer *buffer = &call->buffers[id];
    buffer->object = tensor_new(&call->home, &spec->type, shape, &buffer->data);
    return buffer->object ? 0 : -1;
}

static int place_buffer(Call *call, int id, char *region) {
    const BufferSpec *spec = &call->plan->buffers[id];
    Buffer *buffer = &call->buffers[id];
    if (spec->kind == ON_OUTPUT) return call_make(call, id);
    if (spec->kind == ON_INPUT) {
        const Input *input = &call->inputs[spec->arg];
        *buffer = (Buffer){input->flat_data, input->object, input->flat, false};
    } else if (spec->kind == ON_ARENA && region) {
        buffer->data = region + call->layouts[spec->stage]->offsets[id];
    }
    return 0;
}

int call_enter_stage(Call *call, int stage) {
    const Groups *stages = &call->plan->stages;
    call->stage = stage;
    call->layouts[stage] = layout_get(call->plan, stage, call->slots);
    if (!call->layouts[stage] || take_region(call, stage)) return -1;
    for (int i = stages->begin[stage]; i < stages->begin[stage + 1]; i++)
        if (place_buffer(call, stages->ids[i], call->regions[stage].data)) return -1;
    return 0;
}

/* ---- results ---- */

static bool same_type(const Call *call, const TensorSpec *a, const TensorSpec *b) {
    if (a->code != b->code || a->bits != b->bits || a->dims.count != b->dims.count)
        return false;
    for (int i = 0; i < a->dims.count; i++)
        if (dim_value(a->dims.at[i], call->slots) !=
            dim_value(b->dims.at[i], call->slots))
            return false;
    return true;
}

PyObject *call_tensor(Call *call, int id, bool counted) {
    const BufferSpec *spec = &call->plan->buffers[id];
    const BufferSpec *root = &call->plan->buffers[spec->root];
    const Buffer *buffer = &call->buffers[spec->root];
    if (spec == root || same_type(call, &spec->type, &root->type))
        return Py_NewRef(buffer->object);
    const int64_t *shape = call->layouts[spec->stage]->extents + spec->dims_at;
    return tensor_over(buffer->flat ? buffer->flat : buffer->object, &root->type,
                       &spec->type, shape, counted);
}

/* Could anybody but the caller have another tensor with the memory of this output? */
static bool is_shared(const Plan *plan, int id) {
    const BufferSpec *root = &plan->buffers[plan->buffers[id].root];
    return root->exposed || root->shown > 1;
}

static PyObject *call_results(Call *call) {
    const Ids *outputs = &call->plan->outputs;
    PyObject *results = PyList_New(outputs->count);
    for (int i = 0; results && i < outputs->count; i++) {
        int id = outputs->at[i];
        PyObject *tensor = call_tensor(call, id, is_shared(call->plan, id));
        if (!tensor) Py_CLEAR(results);
        if (tensor) PyList_SET_ITEM(results, i, tensor);
    }
    return results;
}

static Verdict check_call(Call *call, PyObject *tensors) {
    Verdict verdict = read_inputs(call, tensors);
    if (verdict == PASSED) verdict = bind_contents(call);
    if (verdict != PASSED) return verdict;
    if (call->plan->n_segments) run_segment(&call->plan->segments[0], call->slots);
    verdict = check_guards(call);
    if (verdict == PASSED && call->plan->n_written) verdict = check_overlap(call);
    return verdict;
}

static PyObject *call_run(Call *call) {
    if (copy_inputs(call) || call_enter_stage(call, 0) || run_steps(call)) return NULL;
    call->plan->arena_bytes = call->arena_bytes;
    call->plan->strips_run += call->strips;
    spare_limit(call->plan, call->operand_bytes);
    return call_results(call);
}

PyObject *plan_run(Plan *plan, PyObject *tensors, void *stream) {
    bool cuda = on_cuda(&plan->home);
    if (cuda && cuda_enter(plan->home.device)) return NULL;
    Call *call = call_new(plan, stream);
    if (!call) {
        if (cuda) cuda_leave();
        return NULL;
    }
    PyObject *result = NULL;
    plan->learned.stage = -1;
    switch (check_call(call, tensors)) {
        case PASSED:
            result = call_run(call);
            if (call->missed) result = Py_NewRef(Py_None);
            break;
        case MISSED: result = Py_NewRef(Py_None); break;
        default: break;
    }
    call_free(call);
    if (cuda) cuda_leave();
    return result;
}
