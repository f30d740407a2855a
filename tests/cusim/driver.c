// driver.c - stands in for libcuda.so.1 where there is no GPU. Host memory is device
// memory; an image is "CUSIM:" and the path of kernels built by cuda_simulator_build.py,
// whose launches run here and now, every access checked against all live allocations.
//
// Also counts what a test wants to know: stand_in_launches, stand_in_live ...
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t Address;
enum { OUT_OF_MEMORY = 2, INVALID = 1, NO_FUNCTION = 500, LAUNCH_FAILED = 719 };
enum { MOST = 1 << 16, DEVICES = 2, MARGIN = 256 };

static struct {
    char *data;
    size_t bytes;
} live[MOST];
static int n_live;
static long launches, waits, skipping;
static void *current, *contexts[DEVICES];
static size_t limit = (size_t)1 << 32, used;
static char finding[512];

typedef struct {
    void *library;
    void (*run)(const unsigned *shape, size_t dynamic, void **arguments);
} Function;

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
static void *stack[16];
static int depth;
int cuCtxPushCurrent_v2(void *context) {
    if (!context || depth == 16) return INVALID;
    stack[depth++] = current;
    current = context;
    return 0;
}
int cuCtxPopCurrent_v2(void **context) {
    if (!depth) return INVALID;
    *context = current;
    current = stack[--depth];
    return 0;
}

// ---- memory: poisoned when it is taken and when it is given back ----

int cuMemAllocAsync(Address *address, size_t bytes, void *stream) {
    (void)stream;
    if (!current || !bytes) return INVALID;
    if (n_live == MOST || bytes > limit - used) return OUT_OF_MEMORY;
    char *data = aligned_alloc(256, (bytes + 255) / 256 * 256 + MARGIN);
    memset(data, 0xFF, bytes);
    live[n_live].data = data;
    live[n_live++].bytes = bytes;
    used += bytes;
    *address = (Address)data;
    return 0;
}
static int place_of(const char *data, size_t bytes) {
    for (int i = 0; i < n_live; i++)
        if (data >= live[i].data && data + bytes <= live[i].data + live[i].bytes)
            return i;
    return -1;
}
int cuMemFreeAsync(Address address, void *stream) {
    (void)stream;
    int place = place_of((char *)address, 1);
    if (!current || place < 0 || live[place].data != (char *)address) return INVALID;
    memset(live[place].data, 0xDB, live[place].bytes);
    free(live[place].data);
    used -= live[place].bytes;
    live[place] = live[--n_live];
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) {
    (void)stream;
    if (!current || place_of((char *)from, bytes) < 0) return INVALID;
    memcpy(to, (char *)from, bytes);
    return 0;
}
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) {
    (void)stream;
    if (!current || place_of((char *)to, bytes) < 0) return INVALID;
    memcpy((char *)to, from, bytes);
    return 0;
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *stream) {
    if (place_of((char *)from, bytes) < 0) return INVALID;
    return cuMemcpyHtoDAsync_v2(to, (char *)from, bytes, stream);
}
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void *stream) {
    (void)stream;
    if (!current || place_of((char *)to, bytes) < 0) return INVALID;
    memset((char *)to, value, bytes);
    return 0;
}
int cuStreamSynchronize(void *stream) {
    (void)stream;
    waits++;
    return current ? 0 : INVALID;
}

// ---- kernels ----

int cuModuleLoadData(void **module, const void *image) {
    if (!current || strncmp(image, "CUSIM:", 6)) return INVALID;
    *module = dlopen((const char *)image + 6, RTLD_NOW);
    if (!*module) snprintf(finding, sizeof finding, "%s", dlerror());
    return *module ? 0 : INVALID;
}
int cuModuleUnload(void *module) { return module ? 0 : INVALID; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    char symbol[512];
    snprintf(symbol, sizeof symbol, "%s__cpu", name);
    Function *found = malloc(sizeof *found);
    found->library = module;
    *(void **)&found->run = dlsym(module, symbol);
    *function = found;
    return found->run ? 0 : NO_FUNCTION;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                   unsigned by, unsigned bz, unsigned dynamic, void *stream,
                   void **arguments, void **extra) {
    (void)stream, (void)extra;
    const Function *kernel = function;
    const unsigned shape[6] = {gx, gy, gz, bx, by, bz};
    void (*reset)(void), (*buffer)(void *, size_t, int, int, const char *);
    int (*errors)(char *, size_t);
    *(void **)&reset = dlsym(kernel->library, "cusim_reset");
    *(void **)&buffer = dlsym(kernel->library, "cusim_buffer");
    *(void **)&errors = dlsym(kernel->library, "cusim_errors");
    if (!current || !gx || !bx || bx > 1024 || !reset || !buffer || !errors)
        return INVALID;
    launches++;
    if (skipping) return 0;
    reset();
    for (int i = 0; i < n_live; i++)
        buffer(live[i].data, live[i].bytes, 1, 0, "device memory");
    kernel->run(shape, dynamic, arguments);
    return errors(finding, sizeof finding) ? LAUNCH_FAILED : 0;
}
int cuGetErrorName(int code, const char **name) {
    static char text[600];
    const char *plain = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
                        : code == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED"
                                                : "CUDA_ERROR";
    snprintf(text, sizeof text, "%s %s", plain, code == LAUNCH_FAILED ? finding : "");
    *name = text;
    return 0;
}

// ---- for tests ----

int stand_in_holds(const void *data, size_t bytes) {
    return current && place_of(data, bytes) >= 0;
}
long stand_in_launches(void) { return launches; }
long stand_in_waits(void) { return waits; }
long stand_in_live(void) { return n_live; }
long stand_in_depth(void) { return depth; }
void stand_in_skip(long on) { skipping = on; }
void stand_in_limit(size_t bytes) { limit = bytes; }
