/* The CUDA driver, found by dlopen, so that nothing here is built against CUDA. Memory
   is ordered by streams: what is freed is free for what its stream does later. */
#include <dlfcn.h>

#include "runtime.h"

typedef uint64_t Address;

static struct {
    bool ready;
    int (*init)(unsigned);
    int (*count)(int *);
    int (*device)(int *, int);
    int (*attribute)(int *, int, int);
    int (*retain)(void **, int);
    int (*push)(void *);
    int (*pop)(void **);
    int (*load)(void **, const void *);
    int (*unload)(void *);
    int (*function)(void **, void *, const char *);
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                  unsigned, void *, void **, void **);
    int (*allocate)(Address *, size_t, void *);
    int (*release)(Address, void *);
    int (*to_host)(void *, Address, size_t, void *);
    int (*to_device)(Address, const void *, size_t, void *);
    int (*within)(Address, Address, size_t, void *);
    int (*fill)(Address, unsigned char, size_t, void *);
    int (*wait)(void *);
    int (*error)(int, const char **);
} cu;

enum { MAX_DEVICES = 64, MAJOR = 75, MINOR = 76, BLOCK = 256 };
static const int64_t MOST_BLOCKS = INT32_MAX;

static void *contexts[MAX_DEVICES]; /* under the GIL */

static const struct {
    const char *name;
    void **place;
} functions[] = {
    {"cuInit", (void **)&cu.init},
    {"cuDeviceGetCount", (void **)&cu.count},
    {"cuDeviceGet", (void **)&cu.device},
    {"cuDeviceGetAttribute", (void **)&cu.attribute},
    {"cuDevicePrimaryCtxRetain", (void **)&cu.retain},
    {"cuCtxPushCurrent_v2", (void **)&cu.push},
    {"cuCtxPopCurrent_v2", (void **)&cu.pop},
    {"cuModuleLoadData", (void **)&cu.load},
    {"cuModuleUnload", (void **)&cu.unload},
    {"cuModuleGetFunction", (void **)&cu.function},
    {"cuLaunchKernel", (void **)&cu.launch},
    {"cuMemAllocAsync", (void **)&cu.allocate},
    {"cuMemFreeAsync", (void **)&cu.release},
    {"cuMemcpyDtoHAsync_v2", (void **)&cu.to_host},
    {"cuMemcpyHtoDAsync_v2", (void **)&cu.to_device},
    {"cuMemcpyDtoDAsync_v2", (void **)&cu.within},
    {"cuMemsetD8Async", (void **)&cu.fill},
    {"cuStreamSynchronize", (void **)&cu.wait},
    {"cuGetErrorName", (void **)&cu.error},
};

int cuda_raise(int code) {
    const char *name = NULL;
    if (!code) return 0;
    if (cu.error(code, &name) || !name) name = "an unknown error";
    PyErr_Format(PyExc_RuntimeError, "CUDA: %s (%d)", name, code);
    return -1;
}

/* 0; else an exception says what is missing. */
int cuda_open(const char *library) {
    if (cu.ready) return 0;
    void *handle = dlopen(library, RTLD_NOW);
    if (!handle) {
        PyErr_Format(PyExc_RuntimeError, "no CUDA driver: %s", dlerror());
        return -1;
    }
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        *functions[i].place = dlsym(handle, functions[i].name);
        if (*functions[i].place) continue;
        PyErr_Format(PyExc_RuntimeError, "the CUDA driver %s has no %s; 11.2 is needed",
                     library, functions[i].name);
        return -1;
    }
    if (cuda_raise(cu.init(0))) return -1;
    cu.ready = true;
    return 0;
}

static int context_of(int device) {
    int count = 0, handle;
    if (!cu.ready) {
        PyErr_SetString(PyExc_RuntimeError, "call cuda_open() first");
        return -1;
    }
    if (cuda_raise(cu.count(&count))) return -1;
    if (device < 0 || device >= count || device >= MAX_DEVICES) {
        PyErr_Format(PyExc_ValueError, "CUDA device %d: there are %d", device, count);
        return -1;
    }
    if (contexts[device]) return 0;
    return cuda_raise(cu.device(&handle, device)) ||
                   cuda_raise(cu.retain(&contexts[device], handle))
               ? -1
               : 0;
}

int cuda_enter(int device) {
    return context_of(device) || cuda_raise(cu.push(contexts[device])) ? -1 : 0;
}

void cuda_leave(void) {
    void *context;
    cu.pop(&context);
}

/* ---- memory, within a context; none raises ---- */

void *cuda_allocate(size_t bytes, void *stream) {
    Address address = 0;
    return cu.allocate(&address, bytes ? bytes : 1, stream) ? NULL : (void *)address;
}

void cuda_release(void *data, void *stream) {
    cu.release((Address)data, stream);
}

int cuda_copy(void *to, const void *from, size_t bytes, void *stream) {
    return bytes ? cu.within((Address)to, (Address)from, bytes, stream) : 0;
}

int cuda_read(void *to, const void *from, size_t bytes, void *stream) {
    int code = bytes ? cu.to_host(to, (Address)from, bytes, stream) : 0;
    return code ? code : cu.wait(stream);
}

/* Waits, since pageable host memory may be gone once the caller goes on. */
int cuda_fill(void *to, const void *from, size_t bytes, void *stream) {
    int code = bytes ? cu.to_device((Address)to, from, bytes, stream) : 0;
    return code ? code : cu.wait(stream);
}

int cuda_zero(void *to, size_t bytes, void *stream) {
    return bytes ? cu.fill((Address)to, 0, bytes, stream) : 0;
}

int cuda_wait(void *stream) {
    return cu.wait(stream);
}

/* ---- kernels ---- */

int cuda_launch(const void *function, int64_t blocks, int threads, void **parameters,
                void *stream) {
    if (blocks > MOST_BLOCKS) blocks = MOST_BLOCKS; /* kernels stride over the rest */
    return cu.launch((void *)function, (unsigned)blocks, 1, 1, (unsigned)threads, 1, 1,
                     0, stream, parameters, NULL);
}

enum { AXES = 8 }; /* of pirol_copy.cu */

/* Neighbouring axes that run on in both are one. */
static int collapse(int rank, const int64_t *shape, const int64_t *to,
                    const int64_t *from, int64_t out[3][AXES]) {
    int count = 0;
    for (int i = 0; i < rank; i++) {
        if (shape[i] == 1) continue;
        int last = count - 1;
        if (count && out[1][last] == to[i] * shape[i] &&
            out[2][last] == from[i] * shape[i]) {
            out[0][last] *= shape[i];
        } else {
            if (count == AXES) return -1;
            last = count++;
            out[0][last] = shape[i];
        }
        out[1][last] = to[i];
        out[2][last] = from[i];
    }
    return count;
}

int cuda_copy_strided(const void *const *kernels, int rank, const int64_t *shape,
                      size_t item, char *to, const int64_t *to_strides,
                      const char *from, const int64_t *from_strides, void *stream) {
    int64_t axes[3][AXES], dense[MAX_RANK], items = 1;
    for (int i = rank - 1; i >= 0; i--) {
        dense[i] = items;
        items *= shape[i];
    }
    if (!items) return 0;
    int count = collapse(rank, shape, to_strides ? to_strides : dense,
                         from_strides ? from_strides : dense, axes);
    if (count < 0) return CUDA_TOO_MANY_AXES;
    for (int i = count; i < AXES; i++) axes[0][i] = 1, axes[1][i] = axes[2][i] = 0;
    void *parameters[3 + 3 * AXES] = {&to, &from, &items};
    for (int i = 0; i < 3 * AXES; i++) parameters[3 + i] = &axes[i / AXES][i % AXES];
    const void *kernel = kernels[item == 1 ? 0 : item == 2 ? 1 : item == 4 ? 2 : 3];
    return cuda_launch(kernel, (items + BLOCK - 1) / BLOCK, BLOCK, parameters, stream);
}

/* ---- the Python type Module ---- */

typedef struct {
    PyObject_HEAD void *module;
    int device;
} Module;

static PyObject *module_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"image", "device", NULL};
    Py_buffer image;
    int device;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*i:Module", names, &image,
                                     &device))
        return NULL;
    Module *made = (Module *)type->tp_alloc(type, 0);
    if (made && cuda_enter(device)) Py_CLEAR(made);
    if (made) {
        made->device = device;
        if (cuda_raise(cu.load(&made->module, image.buf))) Py_CLEAR(made);
        cuda_leave();
    }
    PyBuffer_Release(&image);
    return (PyObject *)made;
}

static void module_dealloc(Module *self) {
    if (self->module && !cu.push(contexts[self->device])) {
        cu.unload(self->module);
        cuda_leave();
    }
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *module_function(PyObject *self, PyObject *name) {
    const char *text = PyUnicode_AsUTF8(name);
    Module *module = (Module *)self;
    void *found = NULL;
    if (!text || cuda_enter(module->device)) return NULL;
    int code = cu.function(&found, module->module, text);
    cuda_leave();
    return cuda_raise(code) ? NULL : PyLong_FromVoidPtr(found);
}

static PyMethodDef methods[] = {
    {"function", module_function, METH_O, "The address of a kernel's CUfunction."},
    {0},
};

PyTypeObject ModuleType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "pirol.compiler._native.Module",
    .tp_basicsize = sizeof(Module),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Module(image, device): a cubin on a CUDA device.",
    .tp_new = module_new,
    .tp_dealloc = (destructor)module_dealloc,
    .tp_methods = methods,
};

PyObject *cuda_arch(PyObject *self, PyObject *number) {
    (void)self;
    int handle, major, minor, device = (int)PyLong_AsLong(number);
    if (PyErr_Occurred() || context_of(device)) return NULL;
    if (cuda_raise(cu.device(&handle, device)) ||
        cuda_raise(cu.attribute(&major, MAJOR, handle)) ||
        cuda_raise(cu.attribute(&minor, MINOR, handle)))
        return NULL;
    return PyUnicode_FromFormat("sm_%d%d", major, minor);
}
