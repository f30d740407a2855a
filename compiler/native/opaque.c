/* Steps that call Python. */
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

static int take_result(Call *call, int step, int id, PyObject *object) {
    DLTensor tensor;
    Buffer *buffer = &call->buffers[id];
    if (tensor_view(object, &tensor)) return -1;
    if (check_type(call->plan, step, id, &tensor)) return -1;
    if (differing_axis(call, id, &tensor) >= 0) return miss_shape(call, id, &tensor);
    buffer->object = Py_NewRef(object);
    buffer->data = tensor.data;
    if (!call->plan->buffers[id].read_flat) return 0;
    if (is_contiguous(tensor.rank, tensor.shape, tensor.strides)) return 0;
    buffer->flat =
        tensor_flat(&call->home, &call->plan->buffers[id].type, &tensor, &buffer->data);
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
