/* Steps that call Python, and the sizes read from their results. */
#include "runtime.h"

/* ---- results ---- */

static int wrong(const Plan *plan, int step, int buffer, const char *what, int64_t got,
                 int64_t expected) {
    PyErr_Format(PyExc_RuntimeError,
                 "step %d (%U): the result for buffer %d has %s %lld, expected %lld",
                 step, plan->steps[step].opaque.name, buffer, what, (long long)got,
                 (long long)expected);
    return -1;
}

static int check_type(const Plan *plan, int step, int id, const DLTensor *tensor) {
    const TensorSpec *type = &plan->buffers[id].type;
    DLDataType dtype = tensor->dtype;
    if (dtype.code != type->code || dtype.bits != type->bits || dtype.lanes != 1) {
        PyErr_Format(PyExc_RuntimeError,
                     "step %d (%U): the result for buffer %d is %s%d, expected %s%d",
                     step, plan->steps[step].opaque.name, id, dtype_name(dtype.code),
                     dtype.bits, dtype_name(type->code), type->bits);
        return -1;
    }
    if (tensor->device.type != DL_CPU)
        return wrong(plan, step, id, "device type", tensor->device.type, DL_CPU);
    if (tensor->rank != type->dims.count)
        return wrong(plan, step, id, "rank", tensor->rank, type->dims.count);
    return 0;
}

/* The first extent that differs from what is known by now; -1 if none does. */
static int differing_axis(const Call *call, int id, const DLTensor *tensor) {
    const Dims *dims = &call->plan->buffers[id].type.dims;
    if (tensor->rank != dims->count) return 0;
    for (int i = 0; i < dims->count; i++) {
        Dim dim = dims->at[i];
        if (dim < 0 && call->plan->slot_stage[dim_slot(dim)] > call->stage) continue;
        if (tensor->shape[i] != dim_value(dim, call->slots)) return i;
    }
    return -1;
}

static int check_shape(const Call *call, int step, int id, const DLTensor *tensor) {
    int axis = differing_axis(call, id, tensor);
    if (axis < 0) return 0;
    char what[32];
    snprintf(what, sizeof what, "at axis %d the extent", axis);
    Dim dim = call->plan->buffers[id].type.dims.at[axis];
    return wrong(call->plan, step, id, what, tensor->shape[axis],
                 dim_value(dim, call->slots));
}

static int take_result(Call *call, int step, int id, PyObject *object) {
    DLTensor tensor;
    Buffer *buffer = &call->buffers[id];
    if (tensor_view(object, &tensor)) return -1;
    if (check_type(call->plan, step, id, &tensor)) return -1;
    if (check_shape(call, step, id, &tensor)) return -1;
    buffer->object = Py_NewRef(object);
    buffer->data = tensor.data;
    if (!call->plan->buffers[id].read_flat) return 0;
    if (is_contiguous(tensor.rank, tensor.shape, tensor.strides)) return 0;
    buffer->flat = tensor_flat(&call->plan->buffers[id].type, &tensor, &buffer->data);
    return buffer->flat ? 0 : -1;
}

/* An op that gradients go through keeps its operands for them. */
static void see_operands(Call *call, const OpaqueStep *opaque) {
    for (int i = 0; i < opaque->inputs.count; i++)
        call->buffers[call->plan->buffers[opaque->inputs.at[i]].root].seen = true;
}

/* `results` is a tuple of its own, so nobody can change it meanwhile. */
static int take_results(Call *call, int step, PyObject *results) {
    const OpaqueStep *opaque = &call->plan->steps[step].opaque;
    Py_ssize_t count = PyTuple_GET_SIZE(results);
    if (count != opaque->outputs.count) {
        PyErr_Format(PyExc_RuntimeError, "step %d (%U): %zd results, expected %d", step,
                     opaque->name, count, opaque->outputs.count);
        return -1;
    }
    bool attached = false;
    for (int i = 0; i < count; i++) {
        PyObject *result = PyTuple_GET_ITEM(results, i);
        int id = opaque->outputs.at[i];
        if (id < 0) continue;
        if (result == Py_None) {
            PyErr_Format(PyExc_RuntimeError, "step %d (%U): no result for buffer %d",
                         step, opaque->name, id);
            return -1;
        }
        if (take_result(call, step, id, result)) return -1;
        attached |= tensor_is_attached(result);
    }
    if (attached) see_operands(call, opaque);
    return 0;
}

/* ---- the call ---- */

/* A view that outlives the step shows its root's memory. */
static void release(Call *call, int id, PyObject *tensor) {
    Buffer *root = &call->buffers[call->plan->buffers[id].root];
    if (tensor != root->object && !tensor_is_private(tensor)) root->seen = true;
    Py_DECREF(tensor);
}

static PyObject *call_python(Call *call, const OpaqueStep *opaque) {
    PyObject **arguments = call->arguments + 1; /* vectorcall may use the slot before */
    int count = 0;
    PyObject *result = NULL;
    for (; count < opaque->inputs.count; count++)
        if (!(arguments[count] = call_tensor(call, opaque->inputs.at[count], false)))
            break;
    if (count == opaque->inputs.count)
        result =
            PyObject_Vectorcall(opaque->callable, arguments,
                                (size_t)count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    while (count-- > 0) release(call, opaque->inputs.at[count], arguments[count]);
    return result;
}

static PyObject *as_tuple(PyObject *result) {
    if (PyTuple_Check(result) || PyList_Check(result)) return PySequence_Tuple(result);
    return PyTuple_Pack(1, result);
}

int run_opaque(Call *call, int step) {
    const OpaqueStep *opaque = &call->plan->steps[step].opaque;
    PyObject *result = call_python(call, opaque);
    if (!result) return -1;
    int status = 0;
    if (opaque->outputs.count) {
        PyObject *results = as_tuple(result);
        status = results ? take_results(call, step, results) : -1;
        Py_XDECREF(results);
    }
    Py_DECREF(result);
    return status;
}

/* ---- binds ---- */

static int bind(Call *call, int step, const Binding *binding) {
    DLTensor tensor;
    if (tensor_view(call->buffers[binding->buffer].object, &tensor)) return -1;
    int64_t *slot = &call->slots[binding->slot];
    int64_t extent = binding->axis < tensor.rank ? tensor.shape[binding->axis] : -1;
    if (!binding->known) *slot = extent;
    if (*slot == extent && extent >= 0) return 0;
    PyErr_Format(PyExc_RuntimeError,
                 "step %d: axis %d of buffer %d has the extent %lld, expected %lld",
                 step, binding->axis, binding->buffer, (long long)extent,
                 (long long)*slot);
    return -1;
}

/* Results taken before this stage were checked but for what it has just set. */
static int check_earlier(Call *call, int step) {
    const Plan *plan = call->plan;
    const Groups *stages = &plan->stages;
    for (int i = stages->begin[call->stage]; i < stages->begin[call->stage + 1]; i++) {
        int id = stages->ids[i];
        DLTensor tensor;
        if (plan->buffers[id].kind != ON_OPAQUE || !call->buffers[id].object) continue;
        if (tensor_view(call->buffers[id].object, &tensor)) return -1;
        int axis = differing_axis(call, id, &tensor);
        if (axis < 0) continue;
        PyErr_Format(PyExc_RuntimeError,
                     "step %d: axis %d of buffer %d is not as bound", step, axis, id);
        return -1;
    }
    return 0;
}

int run_bind(Call *call, int step) {
    const BindStep *at = &call->plan->steps[step].bind;
    for (int i = 0; i < at->count; i++)
        if (bind(call, step, &at->bindings[i])) return -1;
    if (at->segment >= 0) run_segment(&call->plan->segments[at->segment], call->slots);
    call->stage++;
    if (check_earlier(call, step)) return -1;
    return call_enter_stage(call, call->stage);
}
