// driver.c - stands in for libcuda.so.1 where there is no GPU. Host memory is device
// memory; an image is "CUSIM:" and the path of kernels built by cuda_simulator_build.py,
// whose launches run here and now, every access checked against all live allocations.
// As with CUDA's, memory that was freed is what the next allocation of its size gets.
//
// Also counts what a test wants to know: stand_in_launches, stand_in_live ...
#include "driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 1 << 16, DEVICES = 2, MARGIN = 256 };

typedef struct {
    char *data;
    size_t bytes;
} Memory;

Counts counts;
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Memory live[MOST], kept[MOST];
static int n_live, n_kept;
static void *contexts[DEVICES], *capturing;
static uint64_t thresholds[DEVICES];
bool skipping;
static bool fresh;
static size_t limit = (size_t)1 << 32, used;
static char finding[512];

int cuInit(unsigned flags) { return flags ? INVALID : 0; }
int cuDeviceGetCount(int *count) { return *count = DEVICES, 0; }
int cuDeviceGet(int *device, int number) { return *device = number + 100, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (device < 100) return INVALID;
    *value = attribute == 75 ? 9 : 0;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &contexts[device - 100];
    return 0;
}

// ---- contexts: a stack for each thread ----

static _Thread_local void *current, *stack[16];
static _Thread_local int depth;

bool in_context(void) { return current != NULL; }
int cuCtxPushCurrent_v2(void *context) {
    if (!context || depth == 16) return INVALID;
    stack[depth++] = current;
    current = context;
    __atomic_add_fetch(&counts.depth, 1, __ATOMIC_RELAXED);
    return 0;
}
int cuCtxPopCurrent_v2(void **context) {
    if (!depth) return INVALID;
    *context = current;
    current = stack[--depth];
    __atomic_sub_fetch(&counts.depth, 1, __ATOMIC_RELAXED);
    return 0;
}
int cuCtxSynchronize(void) { return current ? 0 : INVALID; }

// ---- streams: any number is one ----

static bool is_captured(void *stream) { return stream && stream == capturing; }
int cuStreamIsCapturing(void *stream, int *status) {
    if (!skipping) usleep(50);  // so that what other threads change meanwhile would be seen
    *status = is_captured(stream);
    return current ? 0 : INVALID;
}
int cuStreamSynchronize(void *stream) {
    __atomic_add_fetch(&counts.waits, 1, __ATOMIC_RELAXED);
    if (is_captured(stream)) return CAPTURE_UNSUPPORTED;
    if (stream == GONE_STREAM) return INVALID_HANDLE;
    return current ? 0 : INVALID;
}

// ---- events: of a clock, in milliseconds, that stand_in_spend and launches move ----

static const float A_LAUNCH = 1.0f / 1024;
static float now;
void stand_in_spend(float time) { now += time; }
int cuEventCreate(void **event, unsigned flags) {
    *event = flags ? NULL : calloc(1, sizeof now);
    return current && *event ? 0 : INVALID;
}
int cuEventRecord(float *event, void *stream) {
    if (is_captured(stream)) return CAPTURE_UNSUPPORTED;
    *event = now;
    return current ? 0 : INVALID;
}
int cuEventSynchronize(void *event) { return event ? 0 : INVALID; }
int cuEventElapsedTime(float *time, const float *from, const float *to) {
    return *time = *to - *from, 0;
}
int cuEventDestroy_v2(void *event) { return free(event), 0; }

// ---- memory: poisoned when it is taken and when it is given back ----

int cuDeviceGetDefaultMemPool(void **pool, int device) {
    if (device < 100 || device >= 100 + DEVICES) return INVALID;
    *pool = &thresholds[device - 100];
    return 0;
}
int cuMemPoolSetAttribute(void *pool, int attribute, void *value) {
    if (attribute != 4) return INVALID;
    memcpy(pool, value, sizeof *thresholds);
    return 0;
}
static char *take(size_t bytes) {
    for (int i = n_kept - 1; i >= 0 && !fresh; i--) {
        if (kept[i].bytes != bytes) continue;
        char *data = kept[i].data;
        memmove(kept + i, kept + i + 1, (size_t)(--n_kept - i) * sizeof *kept);
        return data;
    }
    return aligned_alloc(256, (bytes + 255) / 256 * 256 + MARGIN);
}
static int allocate(Address *address, size_t bytes) {
    if (!current || !bytes) return INVALID;
    if (n_live == MOST || bytes > limit - used) return OUT_OF_MEMORY;
    char *data = take(bytes);
    memset(data, 0xFF, bytes);
    live[n_live++] = (Memory){data, bytes};
    used += bytes;
    *address = (Address)data;
    return 0;
}
int cuMemAllocAsync(Address *address, size_t bytes, void *stream) {
    (void)stream;
    return LOCKED(allocate(address, bytes));
}
static int place_of(const char *data, size_t bytes) {
    for (int i = 0; i < n_live; i++)
        if (data >= live[i].data && data + bytes <= live[i].data + live[i].bytes)
            return i;
    return -1;
}
static int release(Address address) {
    int place = place_of((char *)address, 1);
    if (!current || place < 0 || live[place].data != (char *)address) return INVALID;
    memset(live[place].data, 0xDB, live[place].bytes);
    used -= live[place].bytes;
    if (n_kept < MOST) kept[n_kept++] = live[place];
    live[place] = live[--n_live];
    return 0;
}
int cuMemFreeAsync(Address address, void *stream) {
    counts.freed_on = stream;
    if (stream == GONE_STREAM) return INVALID_HANDLE;
    return LOCKED(release(address));
}
int cuMemFree_v2(Address address) { return LOCKED(release(address)); }
static int copy(char *to, const char *from, size_t bytes, const char *on_device) {
    if (!current || place_of(on_device, bytes) < 0) return INVALID;
    memcpy(to, from, bytes);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) {
    (void)stream;
    return LOCKED(copy(to, (char *)from, bytes, (char *)from));
}
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) {
    (void)stream;
    return LOCKED(copy((char *)to, from, bytes, (char *)to));
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *stream) {
    (void)stream;
    if (LOCKED(place_of((char *)from, bytes)) < 0) return INVALID;
    return LOCKED(copy((char *)to, (char *)from, bytes, (char *)to));
}
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void *stream) {
    (void)stream;
    if (!current || LOCKED(place_of((char *)to, bytes)) < 0) return INVALID;
    memset((char *)to, value, bytes);
    return 0;
}

// ---- kernels ----

int cuModuleLoadData(void **module, const void *image) {
    if (!current || strncmp(image, "CUSIM:", 6)) return INVALID;
    *module = dlopen((const char *)image + 6, RTLD_NOW);
    if (!*module) snprintf(finding, sizeof finding, "%s", dlerror());
    return *module ? 0 : INVALID;
}
int cuModuleUnload(void *module) { return module ? 0 : INVALID; }
static void *symbol(void *module, const char *name, const char *suffix) {
    char whole[512];
    snprintf(whole, sizeof whole, "%s%s", name, suffix);
    return dlsym(module, whole);
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    Function *found = malloc(sizeof *found);
    *(void **)&found->run = symbol(module, name, "__cpu");
    found->parameters = symbol(module, name, "__params");
    *(void **)&found->reset = dlsym(module, "cusim_reset");
    *(void **)&found->buffer = dlsym(module, "cusim_buffer");
    *(void **)&found->errors = dlsym(module, "cusim_errors");
    *function = found;
    return found->run && found->parameters && found->errors ? 0 : NO_FUNCTION;
}
int run_kernel(const Function *kernel, const unsigned *shape, void **arguments) {
    counts.launches++;
    stand_in_spend(A_LAUNCH);
    if (skipping) return 0;
    kernel->reset();
    for (int i = 0; i < n_live; i++)
        kernel->buffer(live[i].data, live[i].bytes, 1, 0, "device memory");
    kernel->run(shape, 0, arguments);
    return kernel->errors(finding, sizeof finding) ? LAUNCH_FAILED : 0;
}
bool is_shape(const unsigned *shape) {
    return shape[0] && shape[3] && shape[3] <= 1024 && shape[1] == 1 && shape[2] == 1 &&
           shape[4] == 1 && shape[5] == 1;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                   unsigned by, unsigned bz, unsigned dynamic, void *stream,
                   void **arguments, void **extra) {
    const unsigned shape[6] = {gx, gy, gz, bx, by, bz};
    if (!current || !is_shape(shape) || dynamic || extra) return INVALID;
    if (is_captured(stream)) counts.captured++;
    return LOCKED(run_kernel(function, shape, arguments));
}
int cuGetErrorName(int code, const char **name) {
    static char text[600];
    const char *plain = code == OUT_OF_MEMORY   ? "CUDA_ERROR_OUT_OF_MEMORY"
                        : code == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED"
                                                : "CUDA_ERROR";
    snprintf(text, sizeof text, "%s %s", plain, code == LAUNCH_FAILED ? finding : "");
    *name = text;
    return 0;
}

// ---- for tests ----

int stand_in_holds(const void *data, size_t bytes) {
    return current && LOCKED(place_of(data, bytes)) >= 0;
}
const Counts *stand_in_counts(void) { return &counts; }
long stand_in_live(void) { return n_live; }
uint64_t stand_in_threshold(int device) { return thresholds[device]; }
void stand_in_skip(bool on) { skipping = on; }
void stand_in_fresh(bool on) { fresh = on; }
void stand_in_capture(void *stream) { capturing = stream; }
void stand_in_limit(size_t bytes) { limit = bytes; }
