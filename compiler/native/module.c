/* The extension module pirol.compiler._native. */
#include "libraries.h"

static PyObject *init(PyObject *self, PyObject *args, PyObject *kwargs) {
    (void)self;
    static char *names[] = {"dlpack_capsule", NULL};
    PyObject *capsule;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:init", names, &capsule))
        return NULL;
    if (paddle_set(capsule)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *open_threads(PyObject *self, PyObject *library) {
    (void)self;
    const char *name = PyUnicode_AsUTF8(library);
    return name ? PyBool_FromLong(threads_open(name)) : NULL;
}

static PyObject *open_cuda(PyObject *self, PyObject *library) {
    (void)self;
    const char *name = PyUnicode_AsUTF8(library);
    if (!name || cuda_open(name)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *open_profiler(PyObject *self, PyObject *library) {
    (void)self;
    const char *name = PyUnicode_AsUTF8(library);
    return name ? PyBool_FromLong(ranges_open(name)) : NULL;
}

static PyObject *set_threads(PyObject *self, PyObject *object) {
    (void)self;
    long count = PyLong_AsLong(object);
    if (count == -1 && PyErr_Occurred()) return NULL;
    if (count < 1 || count > 1024)
        return PyErr_Format(PyExc_ValueError, "%ld threads: expected 1 to 1024", count);
    threads_set((int)count);
    Py_RETURN_NONE;
}

static PyObject *get_threads(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyLong_FromLong(threads_get());
}

static PyMethodDef functions[] = {
    {"init", (PyCFunction)(void (*)(void))init, METH_VARARGS | METH_KEYWORDS,
     "Take Paddle's DLPack exchange API: plans over its tensors may run."},
    {"open_threads", open_threads, METH_O,
     "Share out launches over the threads of an OpenMP library; was it found?"},
    {"open_cuda", open_cuda, METH_O, "Take the CUDA driver, a library."},
    {"open_blas", blas_open, METH_VARARGS,
     "open_blas(library, device, tune): may cuBLASLt be used there? tune: time ways."},
    {"open_dnn", dnn_open, METH_VARARGS,
     "open_dnn(library, device, tune): may cuDNN be used there? tune: time algorithms."},
    {"open_attention", attention_open, METH_VARARGS,
     "open_attention(library, device, tune): may cuDNN's attention be used there?"},
    {"open_fft", fft_open, METH_VARARGS,
     "open_fft(library, device): may cuFFT be used there?"},
    {"open_profiler", open_profiler, METH_O,
     "Name launches for the NVTX library of a profiler, or '' for none; is it there?"},
    {"work_stream", exchange_stream, METH_VARARGS,
     "work_stream(tensor, device): the CUstream that its library's work on the device "
     "is ordered by; None: the library does not say."},
    {"cuda_arch", cuda_arch, METH_O, "The architecture of a CUDA device, sm_90."},
    {"set_threads", set_threads, METH_O, "How many threads a launch may use."},
    {"get_threads", get_threads, METH_NOARGS, "How many threads a launch may use."},
    {0},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The native runtime: plans, arrays and the thread pool.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    if (PyModule_AddType(module, &PlanType) ||
        PyModule_AddType(module, &ArrayType) ||
        PyModule_AddType(module, &ModuleType))
        Py_CLEAR(module);
    return module;
}
