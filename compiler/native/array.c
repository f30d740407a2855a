/* The Python type Array: memory of any DLPack producer, or our own, for plans that run
   without Paddle. */
#include <stdlib.h>

#include "runtime.h"

typedef struct {
    DLTensor tensor;
    void *context;
    void (*deleter)(void *self);
} Managed; /* DLPack before 1.0 */

typedef struct {
    DLVersion version;
    void *context;
    void (*deleter)(void *self);
    uint64_t flags;
    DLTensor tensor;
} Versioned;

enum { READ_ONLY = 1 };
static const char *const MANAGED = "dltensor", *const VERSIONED = "dltensor_versioned";

typedef struct {
    PyObject_HEAD DLTensor view;
    int64_t shape[MAX_RANK], strides[MAX_RANK]; /* in items */
    PyObject *base;                             /* whose memory it is, or: */
    void *managed;                              /* what was imported, or: */
    void *memory;                               /* its own */
    void *stream; /* that last had to do with its CUDA memory; of a base its own */
    void (*deleter)(void *self);                /* of `managed` */
    bool read_only;
} Array;

static bool is_cuda(const Array *array) {
    return array->view.device.type == DL_CUDA;
}

static void release(Array *array) {
    if (!array->memory) return;
    if (!is_cuda(array)) {
        free(array->memory);
    } else if (cuda_reenter(array->view.device.id)) {
        cuda_release(array->memory, array->stream);
        cuda_leave();
    }
}

static void array_dealloc(Array *array) {
    if (array->managed && array->deleter) array->deleter(array->managed);
    release(array);
    Py_XDECREF(array->base);
    Py_TYPE(array)->tp_free((PyObject *)array);
}

/* An array of this shape, contiguous, with no memory yet. */
static Array *blank(DLDataType type, int rank, const int64_t *shape) {
    if (rank > MAX_RANK) {
        PyErr_Format(PyExc_ValueError, "a tensor of %d dimensions; the most are %d",
                     rank, MAX_RANK);
        return NULL;
    }
    Array *array = (Array *)ArrayType.tp_alloc(&ArrayType, 0);
    if (!array) return NULL;
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        array->shape[i] = shape[i];
        array->strides[i] = stride;
        stride *= shape[i] > 1 ? shape[i] : 1;
    }
    array->view = (DLTensor){.device = {DL_CPU, 0},
                             .rank = rank,
                             .dtype = type,
                             .shape = array->shape,
                             .strides = array->strides};
    return array;
}

static DLDataType dtype_of(const TensorSpec *type) {
    return (DLDataType){type->code, type->bits, 1};
}

/* ---- for the plan runner ---- */

bool is_array(PyObject *object) {
    return Py_IS_TYPE(object, &ArrayType);
}

void array_view(PyObject *object, DLTensor *out) {
    *out = ((Array *)object)->view;
}

/* An array with memory; the device's context is the thread's. */
static Array *filled(const Home *home, DLDataType type, int rank, const int64_t *shape) {
    size_t bytes = type.bits / 8;
    for (int i = 0; i < rank; i++)
        if (__builtin_mul_overflow(bytes, (size_t)shape[i], &bytes) ||
            bytes > SIZE_MAX / 2)
            return (Array *)PyErr_NoMemory();
    Array *array = blank(type, rank, shape);
    if (!array) return NULL;
    if (on_cuda(home)) {
        array->view.device = (DLDevice){DL_CUDA, home->device};
        array->stream = home->stream;
        array->memory = cuda_allocate(bytes, home->stream);
    } else {
        array->memory = aligned_alloc(ALIGNMENT, aligned(bytes ? bytes : 1));
        memory_large(array->memory, bytes);
    }
    array->view.data = array->memory;
    if (!array->memory) {
        Py_DECREF(array);
        return (Array *)PyErr_NoMemory();
    }
    return array;
}

PyObject *array_new(const Home *home, const TensorSpec *type, const int64_t *shape,
                    void **data) {
    Array *array = filled(home, dtype_of(type), type->dims.count, shape);
    if (array) *data = array->memory;
    return (PyObject *)array;
}

PyObject *array_over(PyObject *base, const TensorSpec *type, const int64_t *shape) {
    Array *array = blank(dtype_of(type), type->dims.count, shape);
    if (!array) return NULL;
    array->view.data = ((Array *)base)->view.data;
    array->view.device = ((Array *)base)->view.device;
    array->read_only = ((Array *)base)->read_only;
    array->base = Py_NewRef(base);
    return (PyObject *)array;
}

/* ---- streams: the default one is 1 to DLPack, null to the driver ---- */

static Array *owner(Array *array) {
    while (array->base) array = (Array *)array->base;
    return array;
}

/* The stream that a number of DLPack's, or none, stands for; false: an exception. */
static bool read_stream(PyObject *number, void **stream) {
    unsigned long long given = number && number != Py_None
                                   ? PyLong_AsUnsignedLongLongMask(number)
                                   : 1;
    *stream = given == 1 ? NULL : (void *)(size_t)given;
    return !PyErr_Occurred();
}

/* Work on this stream must find that of others done, and the memory is freed in its
   order from now on. DLPack's -1 asks for none of that. */
static int hand_over(Array *array, PyObject *number) {
    void *stream;
    array = owner(array);
    if (!read_stream(number, &stream)) return -1;
    if (stream == (void *)-1 || stream == array->stream) return 0;
    if (cuda_enter(array->view.device.id)) return -1;
    int code;
    Py_BEGIN_ALLOW_THREADS;
    code = cuda_wait(array->stream);
    Py_END_ALLOW_THREADS;
    cuda_leave();
    if (!code) array->stream = stream;
    return cuda_raise(code);
}

/* ---- importing ---- */

/* object.__dlpack__(max_version=(1, 0)), or without the argument where it is older.
   `stream`: where a CUDA tensor will be used, as DLPack numbers streams, or null. */
static PyObject *capsule_of(PyObject *object, PyObject *stream) {
    PyObject *export = PyObject_GetAttrString(object, "__dlpack__");
    if (!export) {
        PyErr_Clear();
        return PyErr_Format(PyExc_TypeError, "a %s is not a tensor (no __dlpack__)",
                            Py_TYPE(object)->tp_name);
    }
    PyObject *none = PyTuple_New(0);
    PyObject *newer = Py_BuildValue("{s(ii)}", "max_version", 1, 0);
    PyObject *capsule = NULL;
    if (none && newer && (!stream || !PyDict_SetItemString(newer, "stream", stream)))
        capsule = PyObject_Call(export, none, newer);
    if (!capsule && newer && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        if (!PyDict_DelItemString(newer, "max_version"))
            capsule = PyObject_Call(export, none, newer);
    }
    Py_XDECREF(none);
    Py_XDECREF(newer);
    Py_DECREF(export);
    return capsule;
}

static Array *imported(const DLTensor *tensor, void *managed, void (*deleter)(void *)) {
    Array *array = blank(tensor->dtype, tensor->rank, tensor->shape);
    if (!array) return NULL;
    for (int i = 0; tensor->strides && i < tensor->rank; i++)
        array->strides[i] = tensor->strides[i];
    array->view.device = tensor->device;
    if (tensor->data) array->view.data = (char *)tensor->data + tensor->byte_offset;
    array->managed = managed;
    array->deleter = deleter;
    return array;
}

static Array *import_versioned(Versioned *found) {
    if (found->version.major != 1) {
        PyErr_Format(PyExc_BufferError, "DLPack %u is not supported",
                     found->version.major);
        return NULL;
    }
    Array *array = imported(&found->tensor, found, found->deleter);
    if (array) array->read_only = found->flags & READ_ONLY;
    return array;
}

/* The capsule is spent once its tensor is ours. */
static Array *import(PyObject *capsule) {
    Array *array = NULL;
    if (PyCapsule_IsValid(capsule, VERSIONED)) {
        if ((array = import_versioned(PyCapsule_GetPointer(capsule, VERSIONED))))
            PyCapsule_SetName(capsule, "used_dltensor_versioned");
    } else if (PyCapsule_IsValid(capsule, MANAGED)) {
        Managed *found = PyCapsule_GetPointer(capsule, MANAGED);
        if ((array = imported(&found->tensor, found, found->deleter)))
            PyCapsule_SetName(capsule, "used_dltensor");
    } else {
        PyErr_SetString(PyExc_TypeError, "__dlpack__ gave no DLPack capsule");
    }
    return array;
}

static void *const NO_STREAM = (void *)-1;

/* By the exchange API of the tensor's library; null without an exception: not so. */
static Array *taken(PyObject *object, void *stream) {
    Versioned *found = (Versioned *)exchange_take(object, stream);
    Array *array = found ? import_versioned(found) : NULL;
    if (found && !array) found->deleter(found);
    return array;
}

static PyObject *array_make(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)type;
    static char *names[] = {"tensor", "stream", NULL};
    PyObject *object, *stream = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:Array", names, &object,
                                     &stream))
        return NULL;
    bool ordered = stream != Py_None;
    if (is_array(object)) {
        bool moves = ordered && is_cuda((Array *)object);
        return moves && hand_over((Array *)object, stream) ? NULL : Py_NewRef(object);
    }
    void *wanted;
    if (!read_stream(stream, &wanted)) return NULL;
    Array *array = taken(object, ordered ? wanted : NO_STREAM);
    if (!array && PyErr_Occurred()) return NULL;
    PyObject *capsule = array ? NULL : capsule_of(object, ordered ? stream : NULL);
    if (capsule) array = import(capsule);
    Py_XDECREF(capsule);
    if (array && ordered) array->stream = wanted;
    return (PyObject *)array;
}

/* ---- exporting ---- */

static void give_back(PyObject *array) {
    if (!Py_IsInitialized()) return;
    PyGILState_STATE state = PyGILState_Ensure();
    Py_DECREF(array);
    PyGILState_Release(state);
}

static void managed_delete(void *self) {
    give_back(((Managed *)self)->context);
    free(self);
}

static void versioned_delete(void *self) {
    give_back(((Versioned *)self)->context);
    free(self);
}

/* Of capsules that nobody took. */
static void drop_managed(PyObject *capsule) {
    if (PyCapsule_IsValid(capsule, MANAGED))
        managed_delete(PyCapsule_GetPointer(capsule, MANAGED));
}

static void drop_versioned(PyObject *capsule) {
    if (PyCapsule_IsValid(capsule, VERSIONED))
        versioned_delete(PyCapsule_GetPointer(capsule, VERSIONED));
}

static Versioned *versioned(Array *array) {
    Versioned *made = malloc(sizeof *made);
    if (!made) return (Versioned *)PyErr_NoMemory();
    *made = (Versioned){{1, 0}, Py_NewRef(array), versioned_delete,
                        array->read_only ? READ_ONLY : 0, array->view};
    return made;
}

static PyObject *export_versioned(Array *array) {
    Versioned *made = versioned(array);
    PyObject *capsule = made ? PyCapsule_New(made, VERSIONED, drop_versioned) : NULL;
    if (made && !capsule) versioned_delete(made);
    return capsule;
}

static DLManaged *export_to_library(PyObject *array) {
    return (DLManaged *)versioned((Array *)array);
}

static PyObject *array_like(PyObject *self, PyObject *tensor) {
    Array *array = (Array *)self;
    if (array->read_only) Py_RETURN_NONE;
    return exchange_give(tensor, array->view.device, owner(array)->stream,
                         export_to_library, self);
}

static PyObject *export_managed(Array *array) {
    if (array->read_only) {
        PyErr_SetString(PyExc_BufferError, "a read-only array needs DLPack 1.0");
        return NULL;
    }
    Managed *made = malloc(sizeof *made);
    if (!made) return PyErr_NoMemory();
    *made = (Managed){array->view, array, managed_delete};
    PyObject *capsule = PyCapsule_New(made, MANAGED, drop_managed);
    if (capsule) Py_INCREF(array);
    if (!capsule) free(made);
    return capsule;
}

static PyObject *array_dlpack(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"stream", "max_version", "dl_device", "copy", NULL};
    PyObject *stream = NULL, *device = NULL, *copy = Py_None, *version = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OOOO:__dlpack__", names, &stream,
                                     &version, &device, &copy))
        return NULL;
    if (copy == Py_True) {
        PyErr_SetString(PyExc_BufferError, "no copy is made; copy the result");
        return NULL;
    }
    unsigned major = 0, minor = 0;
    if (version != Py_None && !PyArg_ParseTuple(version, "II", &major, &minor))
        return NULL;
    Array *array = (Array *)self;
    if (is_cuda(array) && hand_over(array, stream)) return NULL;
    return major >= 1 ? export_versioned(array) : export_managed(array);
}

static PyObject *array_device(PyObject *self, PyObject *unused) {
    (void)unused;
    DLDevice device = ((Array *)self)->view.device;
    return Py_BuildValue("(ii)", device.type, device.id);
}

static PyObject *array_shape(PyObject *self, void *unused) {
    (void)unused;
    const Array *array = (Array *)self;
    PyObject *shape = PyTuple_New(array->view.rank);
    for (int i = 0; shape && i < array->view.rank; i++) {
        PyObject *extent = PyLong_FromLongLong(array->shape[i]);
        if (!extent) Py_CLEAR(shape);
        if (extent) PyTuple_SET_ITEM(shape, i, extent);
    }
    return shape;
}

static PyObject *array_dtype(PyObject *self, void *unused) {
    (void)unused;
    DLDataType type = ((Array *)self)->view.dtype;
    return Py_BuildValue("(iii)", type.code, type.bits, type.lanes);
}

static PyObject *array_read_only(PyObject *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(((Array *)self)->read_only);
}

/* A contiguous copy on another device, complete when it returns. */
static Array *moved(Array *from, Home *home) {
    int cuda = home->device >= 0 ? home->device : from->view.device.id;
    if (cuda_enter(cuda)) return NULL;
    const DLTensor *view = &from->view;
    Array *to = filled(home, view->dtype, view->rank, view->shape);
    int code = 0;
    if (to) {
        size_t bytes = view->dtype.bits / 8;
        for (int i = 0; i < view->rank; i++) bytes *= (size_t)view->shape[i];
        code = on_cuda(home)
                   ? cuda_fill(to->memory, view->data, bytes, home->stream)
                   : cuda_read(to->memory, view->data, bytes,
                               owner(from)->stream);
    }
    cuda_leave();
    if (to && cuda_raise(code)) Py_CLEAR(to);
    return to;
}

static PyObject *array_to(PyObject *self, PyObject *args) {
    Home home = {true, -1, NULL, {0}};
    unsigned long long stream = 0;
    if (!PyArg_ParseTuple(args, "i|K:to", &home.device, &stream)) return NULL;
    home.stream = (void *)(size_t)stream;
    Array *array = (Array *)self;
    DLDevice at = array->view.device;
    if (home.device < 0 ? at.type == DL_CPU
                        : at.type == DL_CUDA && at.id == home.device)
        return Py_NewRef(self);
    if (is_cuda(array) == on_cuda(&home) ||
        !is_contiguous(array->view.rank, array->shape, array->strides)) {
        PyErr_SetString(PyExc_ValueError,
                        "only contiguous memory goes from the CPU to a device or back");
        return NULL;
    }
    return (PyObject *)moved(array, &home);
}

static PyObject *array_as(PyObject *self, PyObject *args) {
    Array *from = (Array *)self;
    int code, bits, rank = from->view.rank;
    if (!PyArg_ParseTuple(args, "ii:as_type", &code, &bits)) return NULL;
    if (bits != from->view.dtype.bits) {
        PyErr_SetString(PyExc_ValueError, "the types have different sizes");
        return NULL;
    }
    Array *array = blank((DLDataType){(uint8_t)code, (uint8_t)bits, 1}, rank,
                         from->shape);
    if (!array) return NULL;
    memcpy(array->strides, from->strides, sizeof(int64_t) * (size_t)rank);
    array->view.data = from->view.data;
    array->view.device = from->view.device;
    array->view.byte_offset = from->view.byte_offset;
    array->read_only = from->read_only;
    array->base = Py_NewRef(self);
    return (PyObject *)array;
}

static PyMethodDef methods[] = {
    {"as_type", array_as, METH_VARARGS,
     "as_type(code, bits): the same memory as another DLPack type of as many bits."},
    {"to", array_to, METH_VARARGS,
     "to(device, stream=0): on a CUDA device, or (-1) the CPU; complete on return."},
    {"like", array_like, METH_O,
     "like(tensor): this memory as a tensor of the library that `tensor` is from, if "
     "it has DLPack's exchange API and works on the same stream; else None."},
    {"__dlpack__", (PyCFunction)(void (*)(void))array_dlpack,
     METH_VARARGS | METH_KEYWORDS, "A DLPack capsule over the same memory."},
    {"__dlpack_device__", array_device, METH_NOARGS, "(device type, device number)."},
    {0},
};

static PyGetSetDef attributes[] = {
    {"shape", array_shape, NULL, "Extents, outermost first.", NULL},
    {"dtype", array_dtype, NULL, "(DLPack type code, bits, lanes).", NULL},
    {"read_only", array_read_only, NULL, "Whether it must not be written.", NULL},
    {0},
};

PyTypeObject ArrayType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "pirol.compiler._native.Array",
    .tp_basicsize = sizeof(Array),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Array(tensor): the memory of a tensor that has __dlpack__.",
    .tp_new = array_make,
    .tp_dealloc = (destructor)array_dealloc,
    .tp_methods = methods,
    .tp_getset = attributes,
};
