/* Paddle's tensors: read through the DLPack exchange API, made by what Paddle's Python
   offers below its ops: an op would launch a kernel, be it `empty` or `reshape`.

   None is imported through DLPack. Paddle 3.3 keeps the deleters of imported tensors
   in a table keyed by address, and calls them under that table's lock: to import one
   address twice leaks, and to free a tensor over an imported one hangs. Tensors made
   by the exchange API's allocator are imported ones too. */
#include <string.h>

#include "runtime.h"

static struct {
    const DLExchange *exchange;
    PyTypeObject *type;
    PyObject *no_arguments, *stop_gradient, *place;
    PyObject *share, *dense;             /* methods of tensors */
    PyObject *clear, *resize, *allocate; /* of the DenseTensor inside them */
    PyObject *seed; /* a tensor with memory: all new ones start as views of it */
    PyObject *reshape;
} paddle;

/* Paddle's dtypes by DLPack code and bits. */
static struct {
    uint8_t code, bits;
    const char *name;
    PyObject *object;
} dtypes[] = {
    {DL_INT, 8, "INT8"},         {DL_INT, 16, "INT16"},
    {DL_INT, 32, "INT32"},       {DL_INT, 64, "INT64"},
    {DL_UINT, 8, "UINT8"},       {DL_FLOAT, 16, "FP16"},
    {DL_FLOAT, 32, "FP32"},      {DL_FLOAT, 64, "FP64"},
    {DL_BFLOAT, 16, "BF16"},     {DL_COMPLEX, 64, "COMPLEX64"},
    {DL_BOOL, 8, "BOOL"},        {DL_COMPLEX, 128, "COMPLEX128"},
    {10, 8, "FP8_E4M3FN"},       {12, 8, "FP8_E5M2"},
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

/* A function of a class, without what binds it. */
static int take_method(PyObject **where, PyObject *class, const char *name) {
    PyObject *method = PyObject_GetAttrString(class, name);
    if (method && PyInstanceMethod_Check(method)) {
        PyObject *function = Py_NewRef(PyInstanceMethod_GET_FUNCTION(method));
        Py_SETREF(method, function);
    }
    return take(where, method);
}

static int take_dense(PyObject *class) {
    return !class || take_method(&paddle.clear, class, "_clear") ||
                   take_method(&paddle.resize, class, "_set_dims") ||
                   take_method(&paddle.allocate, class, "_mutable_data")
               ? -1
               : 0;
}

static int take_tensor(PyObject *class) {
    if (!class || take((PyObject **)&paddle.type, Py_NewRef(class))) return -1;
    return take(&paddle.no_arguments, PyTuple_New(0)) ||
                   take(&paddle.stop_gradient,
                        PyUnicode_InternFromString("stop_gradient")) ||
                   take_method(&paddle.share, class, "_share_buffer_to") ||
                   take_method(&paddle.dense, class, "get_tensor")
               ? -1
               : 0;
}

static int take_seed(PyObject *kind) {
    PyObject *type = dtypes[0].object;
    PyObject *seed = PyObject_CallFunction((PyObject *)paddle.type, "O[i]sOO", type, 1,
                                           "", kind, Py_False);
    if (take(&paddle.seed, seed)) return -1;
    PyObject *dense = PyObject_CallOneArg(paddle.dense, seed);
    PyObject *data = dense ? PyObject_CallFunctionObjArgs(paddle.allocate, dense,
                                                          paddle.place, type, NULL)
                           : NULL;
    Py_XDECREF(dense);
    Py_XDECREF(data);
    return data ? 0 : -1;
}

static int take_dtypes(PyObject *types) {
    for (int i = 0; types && i < DTYPES; i++)
        if (take(&dtypes[i].object, PyObject_GetAttrString(types, dtypes[i].name)))
            return -1;
    PyObject *kind = types ? PyObject_GetAttrString(types, "DENSE_TENSOR") : NULL;
    int status = kind ? take_seed(kind) : -1;
    Py_XDECREF(kind);
    return status;
}

static int take_names(PyObject *core) {
    PyObject *variables = PyObject_GetAttrString(core, "VarDesc");
    PyObject *types = variables ? PyObject_GetAttrString(variables, "VarType") : NULL;
    PyObject *eager = PyObject_GetAttrString(core, "eager");
    PyObject *tensor = eager ? PyObject_GetAttrString(eager, "Tensor") : NULL;
    PyObject *dense = PyObject_GetAttrString(core, "DenseTensor");
    int status = take(&paddle.place, PyObject_CallMethod(core, "CPUPlace", NULL)) ||
                         take_tensor(tensor) || take_dense(dense) || take_dtypes(types)
                     ? -1
                     : 0;
    Py_XDECREF(dense);
    Py_XDECREF(tensor);
    Py_XDECREF(eager);
    Py_XDECREF(types);
    Py_XDECREF(variables);
    return status;
}

int paddle_set(PyObject *capsule) {
    const DLExchange *exchange = exchange_of(capsule);
    if (!exchange) return -1;
    PyObject *core = PyImport_ImportModule("paddle.base.core");
    PyObject *ops = core ? PyImport_ImportModule("paddle._C_ops") : NULL;
    int status = ops && !take(&paddle.reshape, PyObject_GetAttrString(ops, "reshape"))
                     ? take_names(core)
                     : -1;
    if (!status) paddle.exchange = exchange;
    Py_XDECREF(ops);
    Py_XDECREF(core);
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
    if (is_array(object)) {
        array_view(object, out);
        return 0;
    }
    if (!paddle.exchange || paddle.exchange->view_object(object, out)) {
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

/* ---- making tensors ---- */

static int call(PyObject *function, PyObject *const *arguments, size_t count) {
    PyObject *result = PyObject_Vectorcall(function, arguments, count, NULL);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static PyObject *dense_of(PyObject *tensor) {
    return PyObject_Vectorcall(paddle.dense, &tensor, 1, NULL);
}

/* The memory and type of `base`, but no shape. The constructor could make a tensor to
   begin with too, but takes several times as long. */
static PyObject *share(PyObject *base) {
    PyObject *tensor = paddle.type->tp_new(paddle.type, paddle.no_arguments, NULL);
    PyObject *arguments[] = {base, tensor};
    if (tensor && call(paddle.share, arguments, 2)) Py_CLEAR(tensor);
    return tensor;
}

static int resize(PyObject *dense, int rank, const int64_t *shape) {
    PyObject *list = shape_list(rank, shape);
    PyObject *arguments[] = {dense, list};
    int status = list ? call(paddle.resize, arguments, 2) : -1;
    Py_XDECREF(list);
    return status;
}

/* Also makes memory, unless what is there suffices. */
static int retype(PyObject *dense, const TensorSpec *type) {
    PyObject *arguments[] = {dense, paddle.place, dtype_of(type)};
    return arguments[2] ? call(paddle.allocate, arguments, 3) : -1;
}

static int make(PyObject *tensor, const TensorSpec *type, const int64_t *shape) {
    PyObject *dense = dense_of(tensor);
    if (!dense) return -1;
    int status = call(paddle.clear, &dense, 1) ||
                         resize(dense, type->dims.count, shape) || retype(dense, type)
                     ? -1
                     : 0;
    Py_DECREF(dense);
    return status;
}

static PyObject *paddle_new(const TensorSpec *type, const int64_t *shape, void **data) {
    DLTensor view;
    PyObject *tensor = share(paddle.seed);
    if (tensor && (make(tensor, type, shape) || tensor_view(tensor, &view)))
        Py_CLEAR(tensor);
    if (!tensor) return NULL;
    memory_large(*data = view.data, bytes_of(type, shape));
    return tensor;
}

PyObject *tensor_new(const Home *home, const TensorSpec *type, const int64_t *shape,
                     void **data) {
    return home->arrays ? array_new(home, type, shape, data)
                        : paddle_new(type, shape, data);
}

static int copy_failed(int code) {
    if (code != CUDA_TOO_MANY_AXES) return cuda_raise(code);
    PyErr_SetString(PyExc_ValueError,
                    "a tensor of too many strided axes; make it contiguous");
    return -1;
}

PyObject *tensor_flat(const Home *home, const TensorSpec *type, const DLTensor *from,
                      void **data) {
    /* Taken along, since without the GIL the tensor itself might change. */
    int64_t shape[MAX_RANK], strides[MAX_RANK];
    memcpy(shape, from->shape, (size_t)from->rank * sizeof *shape);
    memcpy(strides, from->strides, (size_t)from->rank * sizeof *strides);
    PyObject *tensor = tensor_new(home, type, shape, data);
    if (!tensor) return NULL;
    size_t item = type->bits / 8;
    int code = 0;
    Py_BEGIN_ALLOW_THREADS;
    if (on_cuda(home))
        code = cuda_copy_strided(home->copies, from->rank, shape, item, *data, NULL,
                                 from->data, strides, home->stream);
    else
        copy_strided(from->rank, shape, item, *data, NULL, from->data, strides);
    Py_END_ALLOW_THREADS;
    if (copy_failed(code)) Py_CLEAR(tensor);
    return tensor;
}

/* ---- views ---- */

/* The constructor copies the DenseTensor, its counter of in-place changes too. */
static PyObject *share_counted(PyObject *base) {
    PyObject *dense = dense_of(base);
    PyObject *tensor =
        dense ? PyObject_CallOneArg((PyObject *)paddle.type, dense) : NULL;
    Py_XDECREF(dense);
    return tensor;
}

static int reshape(PyObject *tensor, const TensorSpec *from, const TensorSpec *to,
                   const int64_t *shape) {
    PyObject *dense = dense_of(tensor);
    if (!dense) return -1;
    int status = resize(dense, to->dims.count, shape);
    if (!status && (from->code != to->code || from->bits != to->bits))
        status = retype(dense, to);
    Py_DECREF(dense);
    return status;
}

static int check_moved(PyObject *base, PyObject *tensor) {
    DLTensor from, to;
    if (tensor_view(base, &from) || tensor_view(tensor, &to)) return -1;
    if (from.data == to.data) return 0;
    PyErr_SetString(PyExc_RuntimeError, "Paddle gave a view memory of its own");
    return -1;
}

static bool is_empty(int rank, const int64_t *shape) {
    for (int i = 0; i < rank; i++)
        if (!shape[i]) return true;
    return false;
}

/* Where an axis of extent 1 has another stride than its place asks for, Paddle calls
   the memory strided, and only the op makes a view of it. */
static PyObject *tidied(PyObject *base) {
    DLTensor view;
    if (tensor_view(base, &view)) return NULL;
    int64_t items = 1;
    bool tidy = true;
    for (int i = view.strides ? view.rank - 1 : -1; i >= 0; i--) {
        tidy &= view.strides[i] == items;
        items *= view.shape[i];
    }
    if (tidy) return Py_NewRef(base);
    PyObject *list = shape_list(1, &items);
    PyObject *arguments[] = {base, list};
    PyObject *flat =
        list ? PyObject_Vectorcall(paddle.reshape, arguments, 2, NULL) : NULL;
    Py_XDECREF(list);
    return flat;
}

PyObject *tensor_over(PyObject *object, const TensorSpec *from, const TensorSpec *to,
                      const int64_t *shape, bool counted) {
    void *data;
    if (is_array(object)) return array_over(object, to, shape);
    if (is_empty(to->dims.count, shape)) return paddle_new(to, shape, &data);
    PyObject *base = tidied(object);
    if (!base) return NULL;
    PyObject *tensor = counted ? share_counted(base) : share(base);
    if (tensor && (reshape(tensor, from, to, shape) || check_moved(base, tensor)))
        Py_CLEAR(tensor);
    Py_DECREF(base);
    return tensor;
}

/* ---- who else knows a tensor ---- */

static bool has_weak_references(PyObject *object) {
    Py_ssize_t offset = Py_TYPE(object)->tp_weaklistoffset;
    return offset > 0 && *(PyObject **)((char *)object + offset);
}

bool tensor_is_private(PyObject *tensor) {
    return Py_REFCNT(tensor) == 1 && !has_weak_references(tensor);
}

bool tensor_is_attached(PyObject *tensor) {
    PyObject *stop = PyObject_GetAttr(tensor, paddle.stop_gradient);
    if (!stop) PyErr_Clear();
    Py_XDECREF(stop); /* it lives on: a bool */
    return stop != Py_True;
}
