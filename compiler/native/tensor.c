/* Paddle's tensors: read through the DLPack exchange API, made by Paddle's own ops.

   None is imported through DLPack. Paddle 3.3 keeps the deleters of imported tensors
   in a table keyed by address, and calls them under that table's lock: to import one
   address twice leaks, and to free a tensor over an imported one hangs. Tensors made
   by the exchange API's allocator are imported ones too. */
#include <string.h>

#include "runtime.h"

static struct {
    const DLExchange *exchange;
    PyObject *empty, *reshape, *view_dtype, *place;
} paddle;

/* Paddle's dtypes by DLPack code and bits. */
static struct {
    uint8_t code, bits;
    const char *name;
    PyObject *object;
} dtypes[] = {
    {DL_INT, 8, "int8"},         {DL_INT, 16, "int16"},
    {DL_INT, 32, "int32"},       {DL_INT, 64, "int64"},
    {DL_UINT, 8, "uint8"},       {DL_FLOAT, 16, "float16"},
    {DL_FLOAT, 32, "float32"},   {DL_FLOAT, 64, "float64"},
    {DL_BFLOAT, 16, "bfloat16"}, {DL_COMPLEX, 64, "complex64"},
    {DL_BOOL, 8, "bool"},        {DL_COMPLEX, 128, "complex128"},
    {10, 8, "float8_e4m3fn"},    {12, 8, "float8_e5m2"},
};

enum { DTYPES = sizeof dtypes / sizeof *dtypes };

static const DLExchange *exchange_of(PyObject *capsule) {
    const char *name = "dlpack_exchange_api";
    if (!PyCapsule_IsValid(capsule, name)) {
        PyErr_Format(PyExc_TypeError, "a capsule named %s is needed, not %R", name,
                     capsule);
        return NULL;
    }
    const DLExchange *table = PyCapsule_GetPointer(capsule, name);
    if (table->version.major == 1 && table->view_object) return table;
    PyErr_Format(PyExc_ValueError, "DLPack %u.%u is not supported",
                 table->version.major, table->version.minor);
    return NULL;
}

/* Replaces what was there, so that init may be called again. */
static int take(PyObject **where, PyObject *object) {
    Py_XDECREF(*where);
    *where = object;
    return object ? 0 : -1;
}

static int take_names(PyObject *module, PyObject *ops) {
    PyObject *place = PyObject_CallMethod(module, "CPUPlace", NULL);
    if (take(&paddle.place, place)) return -1;
    for (int i = 0; i < DTYPES; i++)
        if (take(&dtypes[i].object, PyObject_GetAttrString(module, dtypes[i].name)))
            return -1;
    return take(&paddle.empty, PyObject_GetAttrString(ops, "empty")) ||
                   take(&paddle.reshape, PyObject_GetAttrString(ops, "reshape")) ||
                   take(&paddle.view_dtype, PyObject_GetAttrString(ops, "view_dtype"))
               ? -1
               : 0;
}

int paddle_set(PyObject *capsule) {
    const DLExchange *exchange = exchange_of(capsule);
    if (!exchange) return -1;
    PyObject *module = PyImport_ImportModule("paddle");
    PyObject *ops = module ? PyObject_GetAttrString(module, "_C_ops") : NULL;
    int status = ops ? take_names(module, ops) : -1;
    if (!status) paddle.exchange = exchange;
    Py_XDECREF(ops);
    Py_XDECREF(module);
    return status;
}

bool paddle_ready(void) {
    return paddle.exchange != NULL;
}

const char *dtype_name(int code) {
    switch (code) {
        case DL_INT: return "int";
        case DL_UINT: return "uint";
        case DL_FLOAT: return "float";
        case DL_BFLOAT: return "bfloat";
        case DL_COMPLEX: return "complex";
        case DL_BOOL: return "bool";
        default: return "type of bits ";
    }
}

static int dtype_index(const TensorSpec *type) {
    for (int i = 0; i < DTYPES; i++)
        if (dtypes[i].code == type->code && dtypes[i].bits == type->bits) return i;
    return -1;
}

bool tensor_possible(const TensorSpec *type) {
    return dtype_index(type) >= 0;
}

/* Borrowed. */
static PyObject *dtype_of(const TensorSpec *type) {
    int index = dtype_index(type);
    if (index >= 0) return dtypes[index].object;
    PyErr_Format(PyExc_RuntimeError, "Paddle has no tensors of DLPack type %d, %d bits",
                 type->code, type->bits);
    return NULL;
}

int tensor_view(PyObject *object, DLTensor *out) {
    if (paddle.exchange->view_object(object, out)) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_TypeError, "a %s is not a tensor",
                         Py_TYPE(object)->tp_name);
        return -1;
    }
    if (out->rank > MAX_RANK) {
        PyErr_SetString(PyExc_RuntimeError, "a tensor of too many dimensions");
        return -1;
    }
    /* 0-size tensors have no memory at all. */
    if (out->data) out->data = (char *)out->data + out->byte_offset;
    return 0;
}

static PyObject *shape_list(int rank, const int64_t *shape) {
    PyObject *list = PyList_New(rank);
    for (int i = 0; list && i < rank; i++) {
        PyObject *extent = PyLong_FromLongLong(shape[i]);
        if (!extent) Py_CLEAR(list);
        if (extent) PyList_SET_ITEM(list, i, extent);
    }
    return list;
}

PyObject *tensor_new(const TensorSpec *type, const int64_t *shape, void **data) {
    PyObject *dtype = dtype_of(type);
    PyObject *list = dtype ? shape_list(type->dims.count, shape) : NULL;
    if (!list) return NULL;
    PyObject *arguments[] = {list, dtype, paddle.place};
    PyObject *tensor = PyObject_Vectorcall(paddle.empty, arguments, 3, NULL);
    Py_DECREF(list);
    DLTensor view;
    if (tensor && tensor_view(tensor, &view)) Py_CLEAR(tensor);
    if (tensor) *data = view.data;
    return tensor;
}

PyObject *tensor_flat(const TensorSpec *type, const DLTensor *from, void **data) {
    /* Taken along, since without the GIL the tensor itself might change. */
    int64_t shape[MAX_RANK], strides[MAX_RANK];
    memcpy(shape, from->shape, (size_t)from->rank * sizeof *shape);
    memcpy(strides, from->strides, (size_t)from->rank * sizeof *strides);
    PyObject *tensor = tensor_new(type, shape, data);
    if (!tensor) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    copy_strided(from->rank, shape, type->bits / 8, *data, NULL, from->data, strides);
    Py_END_ALLOW_THREADS;
    return tensor;
}

/* ---- views ---- */

/* Each takes over the reference to `tensor`, and passes null on. */

static PyObject *reshaped(PyObject *tensor, int rank, const int64_t *shape) {
    PyObject *list = tensor ? shape_list(rank, shape) : NULL;
    PyObject *arguments[] = {tensor, list};
    PyObject *view =
        list ? PyObject_Vectorcall(paddle.reshape, arguments, 2, NULL) : NULL;
    Py_XDECREF(list);
    Py_XDECREF(tensor);
    return view;
}

static PyObject *retyped(PyObject *tensor, PyObject *dtype) {
    PyObject *arguments[] = {tensor, dtype};
    PyObject *view =
        tensor ? PyObject_Vectorcall(paddle.view_dtype, arguments, 2, NULL) : NULL;
    Py_XDECREF(tensor);
    return view;
}

/* By way of one axis, since items of another size change the last one. */
static PyObject *flat_retyped(PyObject *tensor, const TensorSpec *to) {
    DLTensor view;
    PyObject *dtype = dtype_of(to);
    if (!dtype || !tensor || tensor_view(tensor, &view)) {
        Py_XDECREF(tensor);
        return NULL;
    }
    int64_t items = 1;
    for (int i = 0; i < view.rank; i++) items *= view.shape[i];
    return retyped(reshaped(tensor, 1, &items), dtype);
}

PyObject *tensor_over(PyObject *base, const TensorSpec *from, const TensorSpec *to,
                      const int64_t *shape) {
    static PyObject *detach;
    if (!detach && !(detach = PyUnicode_InternFromString("detach"))) return NULL;
    PyObject *tensor = PyObject_CallMethodNoArgs(base, detach);
    if (from->code != to->code || from->bits != to->bits)
        tensor = flat_retyped(tensor, to);
    return reshaped(tensor, to->dims.count, shape);
}
