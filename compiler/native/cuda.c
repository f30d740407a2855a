/* The CUDA driver, found by dlopen, so that nothing here is built against CUDA. Memory
   is ordered by streams: what is freed is free for what its stream does later. */
#include "libraries.h"

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
    int (*pool)(void **, int);
    int (*set_pool)(void *, int, void *);
    int (*finish)(void);
    int (*free)(Address);
} cu;

typedef struct {
    void *function;
    unsigned grid[3], block[3], shared;
    void **parameters, **extra;
    void *kernel, *context;
} NodeParams; /* CUDA_KERNEL_NODE_PARAMS_v2 */

/* Of CUDA 12; an older driver does without. */
static struct {
    bool ready;
    int (*capturing)(void *, int *);
    int (*exchange)(int *);
    int (*create)(void **, unsigned);
    int (*add)(void **, void *, void *const *, size_t, const NodeParams *);
    int (*instantiate)(void **, void *, unsigned long long);
    int (*launch)(void *, void *);
    int (*destroy)(void *);
    int (*destroy_exec)(void *);
} graphs;

/* Of every driver, but nothing that a program needs. */
static struct {
    bool ready;
    int (*create)(void **, unsigned);
    int (*record)(void *, void *);
    int (*wait)(void *);
    int (*elapsed)(float *, void *, void *);
    int (*destroy)(void *);
} events;

enum { TIMED_RUNS = 3, MAJOR = 75, MINOR = 76, BLOCK = 256 };
enum { RELEASE_THRESHOLD = 4, RELAXED = 2 };
enum { INVALID_HANDLE = 400, CONTEXT_IS_DESTROYED = 709 };

static void *contexts[MAX_DEVICES]; /* under the GIL */

static const Named functions[] = {
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
    {"cuDeviceGetDefaultMemPool", (void **)&cu.pool},
    {"cuMemPoolSetAttribute", (void **)&cu.set_pool},
    {"cuCtxSynchronize", (void **)&cu.finish},
    {"cuMemFree_v2", (void **)&cu.free},
};

static const Named graph_functions[] = {
    {"cuStreamIsCapturing", (void **)&graphs.capturing},
    {"cuThreadExchangeStreamCaptureMode", (void **)&graphs.exchange},
    {"cuGraphCreate", (void **)&graphs.create},
    {"cuGraphAddKernelNode_v2", (void **)&graphs.add},
    {"cuGraphInstantiateWithFlags", (void **)&graphs.instantiate},
    {"cuGraphLaunch", (void **)&graphs.launch},
    {"cuGraphDestroy", (void **)&graphs.destroy},
    {"cuGraphExecDestroy", (void **)&graphs.destroy_exec},
};

static const Named event_functions[] = {
    {"cuEventCreate", (void **)&events.create},
    {"cuEventRecord", (void **)&events.record},
    {"cuEventSynchronize", (void **)&events.wait},
    {"cuEventElapsedTime", (void **)&events.elapsed},
    {"cuEventDestroy_v2", (void **)&events.destroy},
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
    const char *missing = find_all(handle, functions, COUNT(functions));
    if (missing) {
        PyErr_Format(PyExc_RuntimeError, "the CUDA driver %s has no %s; 11.2 is needed",
                     library, missing);
        return -1;
    }
    graphs.ready = !find_all(handle, graph_functions, COUNT(graph_functions));
    events.ready = !find_all(handle, event_functions, COUNT(event_functions));
    if (cuda_raise(cu.init(0))) return -1;
    cu.ready = true;
    return 0;
}

/* What is freed stays with the process: mapping memory anew after each wait costs more
   than most kernels. The driver still gives it up where other allocations need it. */
static void keep_memory(int handle) {
    uint64_t threshold = UINT64_MAX;
    void *pool;
    if (!cu.pool(&pool, handle)) cu.set_pool(pool, RELEASE_THRESHOLD, &threshold);
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
    if (cuda_raise(cu.device(&handle, device)) ||
        cuda_raise(cu.retain(&contexts[device], handle)))
        return -1;
    keep_memory(handle);
    return 0;
}

int cuda_enter(int device) {
    return context_of(device) || cuda_raise(cu.push(contexts[device])) ? -1 : 0;
}

bool cuda_reenter(int device) {
    return contexts[device] && !cu.push(contexts[device]);
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

/* Others' streams may be gone by now; then all work of the device is waited for. */
static bool is_gone(int code) {
    return code == INVALID_HANDLE || code == CONTEXT_IS_DESTROYED;
}

void cuda_release(void *data, void *stream) {
    int code = cu.release((Address)data, stream);
    if (is_gone(code) && !cu.finish()) cu.free((Address)data);
}

bool cuda_need(Workspace *space, size_t bytes, void *stream) {
    if (bytes <= space->bytes) return true;
    if (space->data) cuda_release(space->data, stream);
    space->data = cuda_allocate(bytes, stream);
    space->bytes = space->data ? bytes : 0;
    return space->data != NULL;
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
    int code = cu.wait(stream);
    return is_gone(code) ? cu.finish() : code;
}

/* ---- time ---- */

static int time_it(void *stream, int (*run)(void *), void *context, void *const *ends,
                   float *time) {
    int code = run(context); /* the first may take longer */
    if (!code) code = events.record(ends[0], stream);
    for (int i = 0; i < TIMED_RUNS && !code; i++) code = run(context);
    if (!code) code = events.record(ends[1], stream);
    if (!code) code = events.wait(ends[1]);
    return code ? code : events.elapsed(time, ends[0], ends[1]);
}

float cuda_timed(void *stream, int (*run)(void *), void *context) {
    void *ends[2] = {NULL, NULL};
    float time;
    bool ready = events.ready && !events.create(&ends[0], 0) &&
                 !events.create(&ends[1], 0);
    if (!ready || time_it(stream, run, context, ends, &time)) time = -1;
    for (int i = 0; i < 2; i++)
        if (ends[i]) events.destroy(ends[i]);
    return time;
}

int cuda_mark(void **event, void *stream) {
    if (!events.ready) return INVALID_HANDLE;
    int code = *event ? 0 : events.create(event, 0);
    return code ? code : events.record(*event, stream);
}

int cuda_between(void *from, void *to, float *time) {
    int code = events.wait(to);
    return code ? code : events.elapsed(time, from, to);
}

void cuda_unmark(void **event) {
    if (*event) events.destroy(*event);
    *event = NULL;
}

/* ---- kernels ---- */

int cuda_launch(const CudaLaunch *launch, void *stream) {
    return cu.launch(launch->function, launch->blocks, 1, 1, launch->threads, 1, 1, 0,
                     stream, launch->parameters, NULL);
}

bool cuda_has_graphs(void) {
    return graphs.ready;
}

/* Also where it cannot be told, as of the default stream while others are captured. */
bool cuda_is_capturing(void *stream) {
    int status = 0;
    if (!graphs.ready) return false;
    return graphs.capturing(stream, &status) || status;
}

int cuda_graph_add(CudaGraph *graph, const CudaLaunch *launch) {
    int code = 0;
    if (!graph->handle) code = graphs.create(&graph->handle, 0);
    if (code) return code;
    NodeParams params = {.function = launch->function,
                         .grid = {launch->blocks, 1, 1},
                         .block = {launch->threads, 1, 1},
                         .parameters = launch->parameters};
    void *before = graph->last;
    return graphs.add(&graph->last, graph->handle, &before, before != NULL, &params);
}

/* It takes memory, which must not disturb what other threads capture meanwhile. */
int cuda_graph_instantiate(const CudaGraph *graph, void **exec) {
    int mode = RELAXED;
    graphs.exchange(&mode);
    int code = graphs.instantiate(exec, graph->handle, 0);
    graphs.exchange(&mode);
    return code;
}

void cuda_graph_drop(CudaGraph *graph) {
    if (graph->handle) graphs.destroy(graph->handle);
}

int cuda_graph_launch(void *exec, void *stream) {
    return graphs.launch(exec, stream);
}

/* Work that it does now is done all the same. */
void cuda_graph_free(void *exec) {
    graphs.destroy_exec(exec);
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
    CudaLaunch launch = {(void *)kernel, blocks_of(items, BLOCK), BLOCK, parameters};
    return cuda_launch(&launch, stream);
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
    if (self->module && cuda_reenter(self->device)) {
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
