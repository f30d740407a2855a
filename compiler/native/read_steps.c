/* The steps of a spec. */
#include <string.h>

#include "read.h"

static int read_label(Plan *plan, Where where, PyObject *object, const char **out) {
    Py_ssize_t size;
    const char *text = PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &size)
                                               : NULL;
    if (!text) return read_fail_object(where, "a label", object);
    char *copy = plan_alloc(plan, (size_t)size + 1, 1);
    if (!copy) return -1;
    *out = memcpy(copy, text, (size_t)size);
    return 0;
}

/* The label may be missing. */
static int read_launch(Plan *plan, Where where, PyObject *object, LaunchStep *step) {
    int count;
    PyObject **items = read_items(where, object, &count);
    if (items && count != 8) items = read_tuple(where, object, 7);
    if (!items) return -1;
    step->label = "launch";
    if (count == 8 && read_label(plan, where, items[7], &step->label)) return -1;
    if (!PyLong_Check(items[1])) return read_fail_object(where, "an address", items[1]);
    *(void **)&step->kernel = PyLong_AsVoidPtr(items[1]);
    PyErr_Clear();
    if (!step->kernel) return read_fail(where, "the kernel has no address");
    if (read_ids(plan, where, items[2], "buffer", 0, plan->n_buffers, &step->buffers))
        return -1;
    if (read_dims(plan, where, items[3], &step->dims)) return -1;
    if (read_dim(plan, where, items[4], &step->rows)) return -1;
    if (read_dim(plan, where, items[5], &step->grain)) return -1;
    return read_dim(plan, where, items[6], &step->scratch);
}

static int read_opaque(Plan *plan, Where where, PyObject *object, OpaqueStep *step) {
    PyObject **items = read_tuple(where, object, 6);
    if (!items) return -1;
    if (!PyCallable_Check(items[1]))
        return read_fail_object(where, "a callable", items[1]);
    if (!PyUnicode_Check(items[4])) return read_fail_object(where, "a name", items[4]);
    if (!PyBool_Check(items[5])) return read_fail_object(where, "a bool", items[5]);
    step->fresh = items[5] == Py_True;
    step->callable = Py_NewRef(items[1]);
    step->name = Py_NewRef(items[4]);
    if (read_ids(plan, where, items[2], "buffer", 0, plan->n_buffers, &step->inputs))
        return -1;
    return read_ids(plan, where, items[3], "buffer", -1, plan->n_buffers,
                    &step->outputs);
}

static int read_binding(Plan *plan, Where where, PyObject *object, Binding *binding) {
    PyObject **items = read_tuple(where, object, 4);
    if (!items) return -1;
    if (!PyBool_Check(items[3])) return read_fail_object(where, "a bool", items[3]);
    binding->item = items[3] == Py_True;
    if (read_int(where, items[0], "buffer", 0, plan->n_buffers, &binding->source))
        return -1;
    return read_place(plan, where, items + 1, binding);
}

static int read_bind(Plan *plan, Where where, PyObject *object, BindStep *step) {
    PyObject **items = read_tuple(where, object, 3);
    if (!items) return -1;
    PyObject **bindings = read_items(where, items[1], &step->count);
    if (!bindings) return -1;
    step->bindings = plan_alloc(plan, (size_t)step->count, sizeof *step->bindings);
    if (!step->bindings) return -1;
    for (int i = 0; i < step->count; i++)
        if (read_binding(plan, where, bindings[i], &step->bindings[i])) return -1;
    return read_int(where, items[2], "segment", -1, plan->n_segments, &step->segment);
}

static int read_write(Plan *plan, Where where, PyObject *object, WriteStep *step) {
    PyObject **items = read_tuple(where, object, 3);
    if (!items) return -1;
    if (read_int(where, items[1], "buffer", 0, plan->n_buffers, &step->source))
        return -1;
    return read_int(where, items[2], "input", 0, plan->n_inputs, &step->input);
}

static int read_check(Plan *plan, Where where, PyObject *object, CheckStep *step) {
    PyObject **items = read_tuple(where, object, 3);
    if (!items) return -1;
    if (!PyUnicode_Check(items[2]))
        return read_fail_object(where, "a message", items[2]);
    step->message = Py_NewRef(items[2]);
    return read_int(where, items[1], "buffer", 0, plan->n_buffers, &step->source);
}

/* object: whether it is turned, its pitch, from one of the batch to the next */
static int read_matrix(Plan *plan, Where where, PyObject *object, bool *turned,
                       Dim *pitch, Dim *batch) {
    PyObject **items = read_tuple(where, object, 3);
    if (!items) return -1;
    if (!PyBool_Check(items[0])) return read_fail_object(where, "a bool", items[0]);
    *turned = items[0] == Py_True;
    if (read_dim(plan, where, items[1], pitch)) return -1;
    return read_dim(plan, where, items[2], batch);
}

static int read_product(Plan *plan, Where where, PyObject *object, ProductStep *step) {
    int *const buffers[] = {&step->left, &step->right, &step->added, &step->out};
    Dim *const sizes[] = {&step->batch, &step->rows, &step->columns, &step->terms};
    PyObject **items = read_tuple(where, object, 5), **given;
    if (!items || !(given = read_tuple(where, items[1], 4))) return -1;
    for (int i = 0; i < 4; i++)
        if (read_int(where, given[i], "buffer", i == 2 ? -1 : 0, plan->n_buffers,
                     buffers[i]))
            return -1;
    if (!(given = read_tuple(where, items[2], 4))) return -1;
    for (int i = 0; i < 4; i++)
        if (read_dim(plan, where, given[i], sizes[i])) return -1;
    if (read_matrix(plan, where, items[3], &step->left_turned, &step->left_pitch,
                    &step->left_batch))
        return -1;
    return read_matrix(plan, where, items[4], &step->right_turned, &step->right_pitch,
                       &step->right_batch);
}

/* One number for each of the window's dims. */
static int read_each(Where where, PyObject *object, int rank, int low, int *out) {
    PyObject **items = read_tuple(where, object, rank);
    if (!items) return -1;
    for (int i = 0; i < rank; i++)
        if (read_int(where, items[i], "number", low, MOST, &out[i])) return -1;
    return 0;
}

static int read_convolution(Plan *plan, Where where, PyObject *object,
                            ConvolutionStep *step) {
    int *const buffers[] = {&step->x, &step->w, &step->out};
    Window *window = &step->window;
    PyObject **items = read_tuple(where, object, 6), **given;
    if (!items || !(given = read_tuple(where, items[1], 3))) return -1;
    for (int i = 0; i < 3; i++)
        if (read_int(where, given[i], "buffer", 0, plan->n_buffers, buffers[i]))
            return -1;
    if (!read_items(where, items[2], &window->rank)) return -1;
    if (window->rank < 1 || window->rank > MAX_WINDOW)
        return read_fail(where, "a window of 1 to 3 dims is needed");
    if (read_each(where, items[2], window->rank, 1, window->strides) ||
        read_each(where, items[3], window->rank, 0, window->padding) ||
        read_each(where, items[4], window->rank, 1, window->dilation))
        return -1;
    return read_int(where, items[5], "groups", 1, MOST, &window->groups);
}

/* object: a buffer, the first element, four steps */
static int read_lies(Plan *plan, Where where, PyObject *object, Lies *lies) {
    PyObject **items = read_tuple(where, object, 3), **steps;
    if (!items || !(steps = read_tuple(where, items[2], 4))) return -1;
    if (read_int(where, items[0], "buffer", 0, plan->n_buffers, &lies->buffer))
        return -1;
    for (int i = 0; i < 4; i++)
        if (read_dim(plan, where, steps[i], &lies->steps[i])) return -1;
    return read_dim(plan, where, items[1], &lies->from);
}

static int read_attention(Plan *plan, Where where, PyObject *object,
                          AttentionStep *step) {
    Dim *const sizes[] = {&step->batch, &step->heads, &step->rows,
                          &step->width, &step->keys, &step->terms};
    PyObject **items = read_tuple(where, object, 6), **given;
    int count;
    if (!items || !(given = read_items(where, items[1], &count))) return -1;
    step->adds = count == ADDED + 1;
    if (count != VALUES + 1 && !step->adds) return read_fail(where, "3 or 4 operands");
    for (int i = 0; i < count; i++)
        if (read_lies(plan, where, given[i], &step->operands[i])) return -1;
    if (read_int(where, items[2], "buffer", 0, plan->n_buffers, &step->out)) return -1;
    if (!(given = read_tuple(where, items[3], 6))) return -1;
    for (int i = 0; i < 6; i++)
        if (read_dim(plan, where, given[i], sizes[i])) return -1;
    if (!PyBool_Check(items[4])) return read_fail_object(where, "a bool", items[4]);
    if (!PyFloat_Check(items[5])) return read_fail_object(where, "a float", items[5]);
    step->turns = items[4] == Py_True;
    step->scale = PyFloat_AS_DOUBLE(items[5]);
    return 0;
}

static int read_transform(Plan *plan, Where where, PyObject *object,
                          TransformStep *step) {
    PyObject **items = read_tuple(where, object, 5), **sizes;
    int kind;
    if (!items || !(sizes = read_tuple(where, items[4], 2))) return -1;
    if (read_int(where, items[1], "buffer", 0, plan->n_buffers, &step->x) ||
        read_int(where, items[2], "buffer", 0, plan->n_buffers, &step->out) ||
        read_int(where, items[3], "kind", C2C_FORWARD, C2R + 1, &kind))
        return -1;
    step->kind = (TransformKind)kind;
    if (read_dim(plan, where, sizes[0], &step->lines)) return -1;
    return read_dim(plan, where, sizes[1], &step->length);
}

static int read_sort(Plan *plan, Where where, PyObject *object, SortStep *step) {
    int *const buffers[] = {&step->x, &step->values, &step->indices};
    Dim *const dims[] = {&step->lines, &step->length, &step->count};
    PyObject **items = read_tuple(where, object, 5), **given;
    if (!items || !(given = read_tuple(where, items[1], 3))) return -1;
    for (int i = 0; i < 3; i++)
        if (read_int(where, given[i], "buffer", i ? -1 : 0, plan->n_buffers,
                     buffers[i]))
            return -1;
    if (!(given = read_tuple(where, items[2], 3))) return -1;
    for (int i = 0; i < 3; i++)
        if (read_dim(plan, where, given[i], dims[i])) return -1;
    if (!PyBool_Check(items[3])) return read_fail_object(where, "a bool", items[3]);
    step->descending = items[3] == Py_True;
    if (!(given = read_tuple(where, items[4], 2))) return -1;
    for (int i = 0; i < 2; i++) {
        step->kernels[i] = PyLong_AsVoidPtr(given[i]);
        if (PyErr_Occurred()) return -1;
    }
    return 0;
}

int read_step(Plan *plan, Where where, PyObject *object) {
    static const char *const names[] = {"launch",  "opaque",      "bind",
                                        "write",   "check",       "product",
                                        "convolution", "attention",   "transform",
                                        "sort"};
    Step *step = &plan->steps[where.index];
    int count, kind;
    PyObject **items = read_items(where, object, &count);
    if (!items) return -1;
    if (!count) return read_fail(where, "an empty step");
    if (read_kind(where, items[0], names, 10, &kind)) return -1;
    step->kind = (StepKind)kind;
    switch (step->kind) {
        case LAUNCH: return read_launch(plan, where, object, &step->launch);
        case OPAQUE: return read_opaque(plan, where, object, &step->opaque);
        case BIND: return read_bind(plan, where, object, &step->bind);
        case WRITE: return read_write(plan, where, object, &step->write);
        case PRODUCT: return read_product(plan, where, object, &step->product);
        case CONVOLUTION:
            return read_convolution(plan, where, object, &step->convolution);
        case ATTENTION: return read_attention(plan, where, object, &step->attention);
        case TRANSFORM: return read_transform(plan, where, object, &step->transform);
        case SORT: return read_sort(plan, where, object, &step->sort);
        default: return read_check(plan, where, object, &step->check);
    }
}
