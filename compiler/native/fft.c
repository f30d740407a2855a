/* cuFFT, found by dlopen: Fourier transforms of lines on a CUDA device. A plan of its
   own is made once for a shape, and kept. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libraries.h"

/* As cufft.h has them. */
enum { SUCCESS = 0, FORWARD = -1, BACKWARD = 1, DOUBLE = 0x40 };
static const int types[] = {
    [C2C_FORWARD] = 0x29, [C2C_BACKWARD] = 0x29, [R2C] = 0x2a, [C2R] = 0x2c};

static struct {
    int (*create)(int *);
    int (*destroy)(int);
    int (*set_own)(int, int);
    int (*make)(int, int, long long *, long long *, long long, long long, long long *,
                long long, long long, int, long long, size_t *);
    int (*set_stream)(int, void *);
    int (*set_area)(int, void *);
    int (*c2c)(int, void *, void *, int), (*z2z)(int, void *, void *, int);
    int (*r2c)(int, void *, void *), (*d2z)(int, void *, void *);
    int (*c2r)(int, void *, void *), (*z2d)(int, void *, void *);
} fft;

static const Named functions[] = {
    {"cufftCreate", (void **)&fft.create},
    {"cufftDestroy", (void **)&fft.destroy},
    {"cufftSetAutoAllocation", (void **)&fft.set_own},
    {"cufftMakePlanMany64", (void **)&fft.make},
    {"cufftSetStream", (void **)&fft.set_stream},
    {"cufftSetWorkArea", (void **)&fft.set_area},
    {"cufftExecC2C", (void **)&fft.c2c},
    {"cufftExecZ2Z", (void **)&fft.z2z},
    {"cufftExecR2C", (void **)&fft.r2c},
    {"cufftExecD2Z", (void **)&fft.d2z},
    {"cufftExecC2R", (void **)&fft.c2r},
    {"cufftExecZ2D", (void **)&fft.z2d},
};

enum { KEPT = 128, NEAR = 8 };

/* No padding, so that bytes compare. */
typedef struct {
    int64_t device, type, lines, length;
} Key;

typedef struct {
    Key key;
    int plan;
    size_t workspace;
    bool made;
} Way;

static Way ways[KEPT]; /* within NEAR of the key's hash; under the lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool opened;

/* ---- the library ---- */

static bool open_library(const char *library) {
    if (opened) return true;
    void *handle = dlopen(library, RTLD_NOW);
    if (!handle || find_all(handle, functions, COUNT(functions))) return false;
    return opened = true;
}

/* One that is too new for the driver makes no plans. */
PyObject *fft_open(PyObject *self, PyObject *args) {
    (void)self;
    const char *library;
    int device, plan;
    if (!PyArg_ParseTuple(args, "si:open_fft", &library, &device)) return NULL;
    if (cuda_enter(device)) return NULL;
    bool found = open_library(library) && fft.create(&plan) == SUCCESS;
    if (found) fft.destroy(plan);
    cuda_leave();
    return PyBool_FromLong(found);
}

int fft_raise(int status) {
    const char *why = status == LIBRARY_NOT_OPEN ? "not open" : "it failed";
    PyErr_Format(PyExc_RuntimeError, "cuFFT: %s (%d)", why, status);
    return -1;
}

/* ---- a transform ---- */

/* A plan's memory is the call's, not its own. */
static int make_way(Way *way) {
    long long length = way->key.length;
    int status = fft.create(&way->plan);
    if (status) return status;
    way->made = true;
    status = fft.set_own(way->plan, 0);
    if (status) return status;
    return fft.make(way->plan, 1, &length, NULL, 1, 0, NULL, 1, 0, (int)way->key.type,
                    way->key.lines, &way->workspace);
}

static void drop_way(Way *way) {
    if (way->made) fft.destroy(way->plan);
    *way = (Way){0};
}

/* The way of the key, else a place for it. */
static Way *look_up(const Key *key) {
    uint64_t hash = hash_bytes(key, sizeof *key);
    Way *unused = NULL;
    for (int i = 0; i < NEAR; i++) {
        Way *way = &ways[(hash + i) % KEPT];
        if (way->made && !memcmp(key, &way->key, sizeof *key)) return way;
        if (!way->made && !unused) unused = way;
    }
    return unused ? unused : &ways[hash % KEPT];
}

static int find_way(const Key *key, Way **found) {
    Way *way = *found = look_up(key);
    if (way->made && !memcmp(key, &way->key, sizeof *key)) return 0;
    drop_way(way);
    way->key = *key;
    int status = make_way(way);
    if (status) drop_way(way);
    return status;
}

static int execute(const Lines *of, int plan) {
    int way = of->kind == C2C_FORWARD ? FORWARD : BACKWARD;
    switch (of->kind) {
        case R2C: return (of->wide ? fft.d2z : fft.r2c)(plan, of->x, of->out);
        case C2R: return (of->wide ? fft.z2d : fft.c2r)(plan, of->x, of->out);
        default: return (of->wide ? fft.z2z : fft.c2c)(plan, of->x, of->out, way);
    }
}

static int transform(const Lines *of, const Home *home, Workspace *space) {
    int type = types[of->kind] | (of->wide ? DOUBLE : 0);
    Key key = {home->device, type, of->lines, of->length};
    Way *way;
    int status = find_way(&key, &way);
    if (status) return status;
    if (!cuda_need(space, way->workspace, home->stream)) return LIBRARY_NO_MEMORY;
    status = fft.set_stream(way->plan, home->stream);
    if (!status) status = fft.set_area(way->plan, space->data);
    return status ? status : execute(of, way->plan);
}

int fft_run(const Lines *of, const Home *home, Workspace *space) {
    if (!opened) return LIBRARY_NOT_OPEN;
    pthread_mutex_lock(&lock);
    int status = transform(of, home, space);
    pthread_mutex_unlock(&lock);
    return status;
}
