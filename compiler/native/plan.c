/* The Python type Plan. */
#include "runtime.h"

typedef struct Chunk {
    struct Chunk *next;
    int64_t data[]; /* aligned for all that a plan holds */
} Chunk;

void *plan_alloc(Plan *plan, size_t count, size_t size) {
    Chunk *chunk = PyMem_RawCalloc(1, sizeof *chunk + count * size);
    if (!chunk) return PyErr_NoMemory();
    chunk->next = plan->owned;
    plan->owned = chunk;
    return chunk->data;
}

static int plan_traverse(Plan *plan, visitproc visit, void *arg) {
    for (int i = 0; plan->steps && i < plan->n_steps; i++)
        if (plan->steps[i].kind == OPAQUE) Py_VISIT(plan->steps[i].opaque.callable);
    for (int i = 0; i < plan->n_spares; i++) Py_VISIT(plan->spares[i].object);
    Py_VISIT(plan->keep);
    return 0;
}

/* The steps go with what they hold, so that a plan reached afterwards does nothing. */
static int plan_clear(Plan *plan) {
    int count = plan->steps ? plan->n_steps : 0;
    watch_clear(plan);
    plan->n_steps = plan->outputs.count = 0;
    for (int i = 0; i < count; i++) {
        Step *step = &plan->steps[i];
        if (step->kind == CHECK) Py_CLEAR(step->check.message);
        if (step->kind != OPAQUE) continue;
        Py_CLEAR(step->opaque.callable);
        Py_CLEAR(step->opaque.name);
    }
    runs_clear(plan);
    Py_CLEAR(plan->keep);
    spare_clear(plan);
    return 0;
}

static void plan_dealloc(Plan *plan) {
    PyObject_GC_UnTrack(plan);
    plan_clear(plan);
    for (int i = 0; i < plan->n_layouts; i++) layout_release(plan->layouts[i]);
    pool_free(plan->pool);
    for (Chunk *chunk = plan->owned, *next; chunk; chunk = next) {
        next = chunk->next;
        PyMem_RawFree(chunk);
    }
    Py_TYPE(plan)->tp_free((PyObject *)plan);
}

static int plan_build(Plan *plan, PyObject *spec) {
    if (!(plan->pool = pool_new())) {
        PyErr_NoMemory();
        return -1;
    }
    plan->learned.stage = -1;
    return read_spec(plan, spec) || check_plan(plan) || runs_find(plan) ? -1 : 0;
}

static PyObject *plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"spec", NULL};
    PyObject *spec;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:Plan", names, &PyDict_Type,
                                     &spec))
        return NULL;
    Plan *plan = (Plan *)type->tp_alloc(type, 0);
    if (!plan) return NULL;
    if (plan_build(plan, spec)) {
        Py_DECREF(plan);
        return NULL;
    }
    return (PyObject *)plan;
}

static PyObject *run(PyObject *self, PyObject *tensors) {
    Plan *plan = (Plan *)self;
    if (plan->home.arrays || paddle_ready()) return plan_run(plan, tensors, NULL);
    PyErr_SetString(PyExc_RuntimeError, "call init() before running a plan");
    return NULL;
}

static PyObject *run_on(PyObject *self, PyObject *args) {
    PyObject *tensors;
    unsigned long long stream;
    if (!PyArg_ParseTuple(args, "OK:run_on", &tensors, &stream)) return NULL;
    Plan *plan = (Plan *)self;
    if (on_cuda(&plan->home)) return plan_run(plan, tensors, (void *)(size_t)stream);
    PyErr_SetString(PyExc_ValueError, "the plan runs on no CUDA device");
    return NULL;
}

static PyObject *plan_miss(PyObject *self, PyObject *unused) {
    (void)unused;
    return PyUnicode_FromString(((Plan *)self)->miss);
}

static PyObject *slot_list(const Plan *plan) {
    PyObject *slots = PyList_New(plan->n_slots);
    for (int i = 0; slots && i < plan->n_slots; i++) {
        bool known = plan->slot_stage[i] <= plan->learned.stage;
        PyObject *value = known ? PyLong_FromLongLong(plan->learned.slots[i])
                                : Py_NewRef(Py_None);
        if (!value) Py_CLEAR(slots);
        if (value) PyList_SET_ITEM(slots, i, value);
    }
    return slots;
}

static PyObject *learned(PyObject *self, PyObject *unused) {
    (void)unused;
    const Plan *plan = (Plan *)self;
    if (plan->learned.stage < 0) Py_RETURN_NONE;
    PyObject *shape = PyList_New(plan->learned.rank);
    for (int i = 0; shape && i < plan->learned.rank; i++) {
        PyObject *extent = PyLong_FromLongLong(plan->learned.shape[i]);
        if (!extent) Py_CLEAR(shape);
        if (extent) PyList_SET_ITEM(shape, i, extent);
    }
    if (!shape) return NULL;
    return Py_BuildValue("(NiN)", slot_list(plan), plan->learned.buffer, shape);
}

static PyObject *stats(PyObject *self, PyObject *unused) {
    (void)unused;
    Plan *plan = (Plan *)self;
    long long built = 0, replays = 0;
    for (int i = 0; i < plan->n_runs; i++) {
        built += plan->runs[i].built;
        replays += plan->runs[i].replays;
    }
    return Py_BuildValue("{s:L,s:L,s:n,s:L,s:L,s:L}", "calls", (long long)plan->calls,
                         "layouts", (long long)plan->layouts_computed, "arena_bytes",
                         (Py_ssize_t)plan->arena_bytes, "graphs", built, "replays",
                         replays, "strips", (long long)plan->strips_run);
}

static PyObject *watch(PyObject *self, PyObject *on) {
    int wanted = PyObject_IsTrue(on);
    if (wanted < 0 || watch_set((Plan *)self, wanted)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *times(PyObject *self, PyObject *unused) {
    (void)unused;
    return watch_times((Plan *)self);
}

static PyMethodDef methods[] = {
    {"run", run, METH_O, "run(tensors) -> list of results, or None: a guard missed"},
    {"run_on", run_on, METH_VARARGS, "run_on(tensors, stream): as run, on a CUstream."},
    {"miss", plan_miss, METH_NOARGS, "Why the last run that missed did so."},
    {"learned", learned, METH_NOARGS,
     "(slots, buffer, its shape): what the last run knew when it missed on its way."},
    {"watch", watch, METH_O, "watch(on): whether calls, one at a time, note their times"},
    {"times", times, METH_NOARGS,
     "(step, begin, end) of the last watched call's steps, in us from its start."},
    {"stats", stats, METH_NOARGS,
     "calls, layouts computed, arena_bytes of the last, graphs built, replays, strips."},
    {0},
};

PyTypeObject PlanType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "pirol.compiler._native.Plan",
    .tp_basicsize = sizeof(Plan),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "A program's steps, checked once and run natively.",
    .tp_new = plan_new,
    .tp_dealloc = (destructor)plan_dealloc,
    .tp_traverse = (traverseproc)plan_traverse,
    .tp_clear = (inquiry)plan_clear,
    .tp_methods = methods,
};
