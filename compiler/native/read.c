/* A spec, as Python lists, into the arrays of a Plan. Here each value is checked by
   itself (types, ranges of ids); how they fit together is check.c's business.

   Only exact ints, lists and tuples are taken, so no foreign code runs meanwhile. */
#include <string.h>

#include "read.h"

int read_fail(Where where, const char *what) {
    if (where.index < 0)
        PyErr_Format(PyExc_ValueError, "%s: %s", where.key, what);
    else
        PyErr_Format(PyExc_ValueError, "%s[%d]: %s", where.key, where.index, what);
    return -1;
}

int read_fail_object(Where where, const char *want, PyObject *object) {
    char text[120];
    snprintf(text, sizeof text, "expected %s, got a %.60s", want,
             Py_TYPE(object)->tp_name);
    return read_fail(where, text);
}

/* ---- values ---- */

static int read_wide(Where where, PyObject *object, int64_t *out) {
    if (!PyLong_Check(object)) return read_fail_object(where, "an int", object);
    *out = PyLong_AsLongLong(object);
    if (*out != -1 || !PyErr_Occurred()) return 0;
    PyErr_Clear();
    return read_fail(where, "an int beyond 64 bits");
}

int read_int(Where where, PyObject *object, const char *what, int64_t low,
             int64_t high, int *out) {
    int64_t value;
    if (read_wide(where, object, &value)) return -1;
    *out = (int)value;
    if (value >= low && value < high) return 0;
    char text[120];
    snprintf(text, sizeof text, "%s %lld is not in [%lld, %lld)", what,
             (long long)value, (long long)low, (long long)high);
    return read_fail(where, text);
}

int read_dim(Plan *plan, Where where, PyObject *object, Dim *out) {
    if (read_wide(where, object, out)) return -1;
    if (*out >= -(int64_t)plan->n_slots) return 0;
    char text[120];
    snprintf(text, sizeof text, "dim %lld stands for no slot (there are %d)",
             (long long)*out, plan->n_slots);
    return read_fail(where, text);
}

/* The items of a list or tuple, borrowed. */
PyObject **read_items(Where where, PyObject *object, int *count) {
    if (!PyList_CheckExact(object) && !PyTuple_CheckExact(object)) {
        read_fail_object(where, "a list or tuple", object);
        return NULL;
    }
    Py_ssize_t size = PySequence_Fast_GET_SIZE(object);
    if (size > MOST) {
        read_fail(where, "too many items");
        return NULL;
    }
    *count = (int)size;
    static PyObject *none[1];
    return size ? PySequence_Fast_ITEMS(object) : none;
}

PyObject **read_tuple(Where where, PyObject *object, int size) {
    int count;
    PyObject **items = read_items(where, object, &count);
    if (!items || count == size) return items;
    char text[60];
    snprintf(text, sizeof text, "expected %d items, got %d", size, count);
    read_fail(where, text);
    return NULL;
}

int read_dims(Plan *plan, Where where, PyObject *object, Dims *out) {
    PyObject **items = read_items(where, object, &out->count);
    if (!items) return -1;
    out->at = plan_alloc(plan, (size_t)out->count, sizeof *out->at);
    if (!out->at) return -1;
    for (int i = 0; i < out->count; i++)
        if (read_dim(plan, where, items[i], &out->at[i])) return -1;
    return 0;
}

int read_ids(Plan *plan, Where where, PyObject *object, const char *what,
             int low, int high, Ids *out) {
    PyObject **items = read_items(where, object, &out->count);
    if (!items) return -1;
    out->at = plan_alloc(plan, (size_t)out->count, sizeof *out->at);
    if (!out->at) return -1;
    for (int i = 0; i < out->count; i++)
        if (read_int(where, items[i], what, low, high, &out->at[i])) return -1;
    return 0;
}

/* items: code, bits, dims */
static int read_type(Plan *plan, Where where, PyObject **items, TensorSpec *out) {
    int code, bits;
    if (read_int(where, items[0], "type code", 0, 256, &code)) return -1;
    if (read_int(where, items[1], "bits", 0, 129, &bits)) return -1;
    if (bits != 8 && bits != 16 && bits != 32 && bits != 64 && bits != 128)
        return read_fail(where, "an item must have 8, 16, 32, 64 or 128 bits");
    out->code = (uint8_t)code;
    out->bits = (uint8_t)bits;
    if (read_dims(plan, where, items[2], &out->dims)) return -1;
    if (out->dims.count > MAX_RANK) return read_fail(where, "too many dims");
    return 0;
}

/* ---- sections ---- */

static int read_input(Plan *plan, Where where, PyObject *object) {
    InputSpec *input = &plan->inputs[where.index];
    PyObject **items = read_tuple(where, object, 3);
    if (!items || read_type(plan, where, items, &input->type)) return -1;
    input->binds = plan_alloc(plan, (size_t)input->type.dims.count, sizeof(bool));
    return input->binds ? 0 : -1;
}

/* items: axis or item; the slot that it sets, or (the int that it must be,) */
int read_place(Plan *plan, Where where, PyObject **items, Binding *binding) {
    int most = binding->item ? MOST : MAX_RANK;
    if (read_int(where, items[0], "place", 0, most, &binding->place)) return -1;
    binding->slot = -1;
    if (PyTuple_CheckExact(items[1])) {
        PyObject **literal = read_tuple(where, items[1], 1);
        return literal ? read_wide(where, literal[0], &binding->literal) : -1;
    }
    return read_int(where, items[1], "slot", 0, plan->n_slots, &binding->slot);
}

static int read_content(Plan *plan, Where where, PyObject *object) {
    Binding *binding = &plan->contents[where.index];
    PyObject **items = read_tuple(where, object, 3);
    if (!items) return -1;
    binding->item = true;
    if (read_int(where, items[0], "input", 0, plan->n_inputs, &binding->source))
        return -1;
    return read_place(plan, where, items + 1, binding);
}

static int read_slot_op(Plan *plan, Where where, PyObject *object, SlotOp *op) {
    int kind;
    PyObject **items = read_tuple(where, object, 4);
    if (!items || read_int(where, items[0], "op", SET, MIN + 1, &kind)) return -1;
    if (read_int(where, items[1], "slot", 0, plan->n_slots, &op->slot)) return -1;
    op->kind = (SlotOpKind)kind;
    if (op->kind == SET) return read_wide(where, items[2], &op->a);
    if (read_dim(plan, where, items[2], &op->a)) return -1;
    return read_dim(plan, where, items[3], &op->b);
}

static int read_segment(Plan *plan, Where where, PyObject *object) {
    Segment *segment = &plan->segments[where.index];
    PyObject **items = read_items(where, object, &segment->count);
    if (!items) return -1;
    segment->ops = plan_alloc(plan, (size_t)segment->count, sizeof *segment->ops);
    if (!segment->ops) return -1;
    for (int i = 0; i < segment->count; i++)
        if (read_slot_op(plan, where, items[i], &segment->ops[i])) return -1;
    return 0;
}

static int read_guard(Plan *plan, Where where, PyObject *object) {
    Guard *guard = &plan->guards[where.index];
    int kind;
    PyObject **items = read_tuple(where, object, 3);
    if (!items || read_int(where, items[0], "op", EQ, LT + 1, &kind)) return -1;
    guard->kind = (GuardKind)kind;
    if (read_dim(plan, where, items[1], &guard->a)) return -1;
    return read_dim(plan, where, items[2], &guard->b);
}

static int read_written(Plan *plan, Where where, PyObject *object) {
    int *input = &plan->written[where.index];
    if (read_int(where, object, "input", 0, plan->n_inputs, input)) return -1;
    if (plan->inputs[*input].written)
        return read_fail(where, "the input is listed twice");
    plan->inputs[*input].written = true;
    plan->inputs[*input].shape_at = plan->n_written_dims;
    plan->n_written_dims += 2 * plan->inputs[*input].type.dims.count;
    return 0;
}

int read_kind(Where where, PyObject *object, const char *const *names, int count,
              int *out) {
    for (int i = 0; PyUnicode_Check(object) && i < count; i++)
        if (PyUnicode_CompareWithASCIIString(object, names[i]) == 0) {
            *out = i;
            return 0;
        }
    return read_fail(where, "unknown kind");
}

static int read_buffer(Plan *plan, Where where, PyObject *object) {
    static const char *const names[] = {"input", "arena", "output", "opaque", "alias"};
    BufferSpec *buffer = &plan->buffers[where.index];
    int kind, limit;
    PyObject **items = read_tuple(where, object, 5);
    if (!items || read_kind(where, items[0], names, 5, &kind)) return -1;
    buffer->kind = (BufferKind)kind;
    limit = kind == ON_INPUT ? plan->n_inputs : plan->n_buffers;
    if (kind == ON_INPUT || kind == ON_ALIAS)
        if (read_int(where, items[1], "argument", 0, limit, &buffer->arg)) return -1;
    return read_type(plan, where, items + 2, &buffer->type);
}

static int read_lifetime(Plan *plan, Where where, PyObject *object) {
    BufferSpec *buffer = &plan->buffers[where.index];
    PyObject **items = read_tuple(where, object, 2);
    if (!items) return -1;
    if (read_int(where, items[0], "step", -MOST, MOST, &buffer->first)) return -1;
    return read_int(where, items[1], "step", -MOST, MOST, &buffer->last);
}

/* ---- the whole ---- */

typedef int Reader(Plan *plan, Where where, PyObject *object);

static PyObject *section(PyObject *spec, const char *key) {
    PyObject *value = PyDict_GetItemString(spec, key);
    if (!value) read_fail((Where){key, -1}, "missing from the spec");
    return value;
}

/* Reads spec[key] into a fresh array, one item at a time. */
static int read_section(Plan *plan, PyObject *spec, const char *key, size_t size,
                        void *array, int *count, Reader *reader) {
    PyObject *object = section(spec, key);
    PyObject **items = object ? read_items((Where){key, -1}, object, count) : NULL;
    if (!items) return -1;
    *(void **)array = plan_alloc(plan, (size_t)*count, size);
    if (!*(void **)array) return -1;
    for (int i = 0; i < *count; i++)
        if (reader(plan, (Where){key, i}, items[i])) return -1;
    return 0;
}

static int read_lifetimes(Plan *plan, PyObject *spec) {
    PyObject *object = section(spec, "lifetimes");
    if (!object) return -1;
    PyObject **items = read_tuple((Where){"lifetimes", -1}, object, plan->n_buffers);
    if (!items) return -1;
    for (int i = 0; i < plan->n_buffers; i++)
        if (read_lifetime(plan, (Where){"lifetimes", i}, items[i])) return -1;
    return 0;
}

/* Buffers may name later ones, so their number comes first. */
static int read_buffers(Plan *plan, PyObject *spec) {
    PyObject *object = section(spec, "buffers");
    if (!object) return -1;
    if (!read_items((Where){"buffers", -1}, object, &plan->n_buffers)) return -1;
    return read_section(plan, spec, "buffers", sizeof *plan->buffers, &plan->buffers,
                        &plan->n_buffers, read_buffer);
}

/* "cuda": (device, the addresses of the kernels that copy). */
static int read_home(Plan *plan, PyObject *spec) {
    Home *home = &plan->home;
    home->arrays = PyDict_GetItemString(spec, "arrays") == Py_True;
    home->device = -1;
    plan->graphs = PyDict_GetItemString(spec, "graphs") == Py_True && cuda_has_graphs();
    PyObject *cuda = PyDict_GetItemString(spec, "cuda");
    if (!cuda || cuda == Py_None) return 0;
    Where where = {"cuda", -1};
    if (!home->arrays) return read_fail(where, "only of plans over Arrays");
    PyObject **items = read_tuple(where, cuda, 5);
    if (!items || read_int(where, items[0], "device", 0, 64, &home->device)) return -1;
    for (int i = 0; i < 4; i++) {
        home->copies[i] = PyLong_AsVoidPtr(items[i + 1]);
        if (!home->copies[i]) return -1;
    }
    return 0;
}

/* (first step, step after the last, items, buffers); a spec may do without strips. */
static int read_strip(Plan *plan, Where where, PyObject *object) {
    Strip *strip = &plan->strips[where.index];
    PyObject **items = read_tuple(where, object, 4);
    if (!items) return -1;
    if (read_int(where, items[0], "step", 0, plan->n_steps, &strip->begin)) return -1;
    if (read_int(where, items[1], "step", strip->begin, plan->n_steps + 1, &strip->end))
        return -1;
    if (read_dim(plan, where, items[2], &strip->items)) return -1;
    return read_ids(plan, where, items[3], "buffer", 0, plan->n_buffers, &strip->own);
}

static int read_strips(Plan *plan, PyObject *spec) {
    if (!PyDict_GetItemString(spec, "strips")) return 0;
    return read_section(plan, spec, "strips", sizeof *plan->strips, &plan->strips,
                        &plan->n_strips, read_strip);
}

static int check_keys(PyObject *spec) {
    static const char *const keys[] = {"slots",     "inputs",  "contents", "segments",
                                       "guards",    "written", "buffers",  "lifetimes",
                                       "steps",     "outputs", "keep",     "arrays",
                                       "cuda",      "graphs",  "strips"};
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(spec, &at, &key, &value)) {
        int i;
        if (read_kind((Where){"spec", -1}, key, keys, 15, &i)) {
            PyErr_Format(PyExc_ValueError, "unknown key %R", key);
            return -1;
        }
    }
    return 0;
}

int read_spec(Plan *plan, PyObject *spec) {
    PyObject *slots, *outputs;
    if (check_keys(spec) || !(slots = section(spec, "slots"))) return -1;
    if (read_int((Where){"slots", -1}, slots, "count", 0, MOST, &plan->n_slots))
        return -1;
    if (read_section(plan, spec, "inputs", sizeof *plan->inputs, &plan->inputs,
                     &plan->n_inputs, read_input) ||
        read_section(plan, spec, "contents", sizeof *plan->contents, &plan->contents,
                     &plan->n_contents, read_content) ||
        read_section(plan, spec, "segments", sizeof *plan->segments, &plan->segments,
                     &plan->n_segments, read_segment) ||
        read_section(plan, spec, "guards", sizeof *plan->guards, &plan->guards,
                     &plan->n_guards, read_guard) ||
        read_section(plan, spec, "written", sizeof *plan->written, &plan->written,
                     &plan->n_written, read_written) ||
        read_buffers(plan, spec) || read_lifetimes(plan, spec) ||
        read_section(plan, spec, "steps", sizeof *plan->steps, &plan->steps,
                     &plan->n_steps, read_step) ||
        read_strips(plan, spec) || !(outputs = section(spec, "outputs")))
        return -1;
    plan->keep = Py_XNewRef(PyDict_GetItemString(spec, "keep"));
    if (read_home(plan, spec)) return -1;
    return read_ids(plan, (Where){"outputs", -1}, outputs, "buffer", 0, plan->n_buffers,
                    &plan->outputs);
}
