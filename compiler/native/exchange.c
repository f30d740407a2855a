/* DLPack's C exchange API: tensors to and from a library whose type has its table,
   with no Python in between. */
#include "runtime.h"

static const char *const ATTRIBUTE = "__dlpack_c_exchange_api__";

/* The table that the type itself has, not one that it inherits; null without an
   exception for other types. */
static const DLExchange *table_of(PyTypeObject *type) {
    static PyTypeObject *known; /* held, so that no other type gets its address */
    static const DLExchange *found;
    if (type == known) return found;
    PyObject *own = PyObject_GetAttrString((PyObject *)type, "__dict__");
    PyObject *capsule = own ? PyMapping_GetItemString(own, ATTRIBUTE) : NULL;
    found = capsule ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : NULL;
    PyErr_Clear();
    while (found && found->version.major != 1) found = found->previous;
    Py_XDECREF(capsule);
    Py_XDECREF(own);
    PyTypeObject *before = known;
    known = (PyTypeObject *)Py_NewRef(type);
    Py_XDECREF(before);
    return found;
}

/* Whether an attribute, or what a method of that name returns, is true. */
static bool says(PyObject *object, const char *name) {
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value && PyCallable_Check(value)) Py_SETREF(value, PyObject_CallNoArgs(value));
    bool found = value && PyObject_IsTrue(value) == 1;
    PyErr_Clear();
    Py_XDECREF(value);
    return found;
}

/* Is it the stream that the library's work on the device is ordered by? */
static bool is_current(const DLExchange *table, DLDevice device, const void *stream) {
    void *current;
    if (device.type == DL_CPU) return true;
    if (device.type == DL_CUDA && !table->current_stream(DL_CUDA, device.id, &current))
        return current == stream;
    PyErr_Clear();
    return false;
}

DLManaged *exchange_take(PyObject *object, const void *stream) {
    const DLExchange *table = table_of(Py_TYPE(object));
    DLTensor view;
    DLManaged *tensor;
    if (!table || !table->view_object) return NULL;
    if (says(object, "is_neg")) { /* torch itself exports the memory as it is */
        PyErr_SetString(PyExc_BufferError,
                        "a tensor with the negative bit set; call resolve_neg()");
        return NULL;
    }
    if (says(object, "requires_grad") || says(object, "is_conj")) return NULL;
    if (!table->view_object(object, &view) && is_current(table, view.device, stream) &&
        !table->from_object(object, &tensor))
        return tensor;
    PyErr_Clear();
    return NULL;
}

PyObject *exchange_give(PyObject *like, DLDevice device, const void *stream,
                        DLManaged *(*export)(PyObject *array), PyObject *array) {
    const DLExchange *table = table_of(Py_TYPE(like));
    void *made;
    if (!table || !is_current(table, device, stream)) Py_RETURN_NONE;
    DLManaged *tensor = export(array);
    if (!tensor) return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    return table->to_object(tensor, &made) ? NULL : made;
}

PyObject *exchange_stream(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *tensor;
    int device;
    void *stream;
    if (!PyArg_ParseTuple(args, "Oi:work_stream", &tensor, &device)) return NULL;
    const DLExchange *table = table_of(Py_TYPE(tensor));
    if (!table) Py_RETURN_NONE;
    if (table->current_stream(DL_CUDA, device, &stream)) return NULL;
    return PyLong_FromVoidPtr(stream);
}
