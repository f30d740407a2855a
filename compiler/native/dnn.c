/* cuDNN, found by dlopen: convolutions on a CUDA device.

   Of its algorithms only those that add up the products themselves are taken: with
   Fourier's and Winograd's transforms a NaN or an infinity spreads to results that do
   not depend on it, and rounding is coarser. Which is best for a shape is asked once,
   and kept; where a shape comes again, they are timed. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libraries.h"

/* As the headers of cuDNN 8 and 9 have them. */
static const int types[] = {[F32] = 0, [F64] = 1, [F16] = 2, [BF16] = 9};
enum { PLAIN_LAYOUT = 0, CROSS_CORRELATION = 1 };
/* By default float32 may become tf32. */
enum { DEFAULT_MATH = 0, TENSOR_MATH = 1, FMA_MATH = 3 };
static const int maths[] = {
    [F32] = FMA_MATH, [F64] = DEFAULT_MATH, [F16] = TENSOR_MATH, [BF16] = TENSOR_MATH};
enum { IMPLICIT, PRECOMPUTED, EXPLICIT, DIRECT, MOST_ALGORITHMS = 8 };

typedef struct {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
} Answer;

static struct {
    int (*create)(void **);
    const char *(*name)(int);
    int (*set_stream)(void *, void *);
    int (*tensor)(void **);
    int (*tensor_set)(void *, int, int, const int *, const int *);
    int (*tensor_free)(void *);
    int (*filter)(void **);
    int (*filter_set)(void *, int, int, int, const int *);
    int (*filter_free)(void *);
    int (*window)(void **);
    int (*window_set)(void *, int, const int *, const int *, const int *, int, int);
    int (*set_groups)(void *, int);
    int (*set_math)(void *, int);
    int (*window_free)(void *);
    int (*ask)(void *, void *, void *, void *, void *, int, int *, Answer *);
    int (*workspace)(void *, void *, void *, void *, void *, int, size_t *);
    int (*convolve)(void *, const void *, void *, const void *, void *, const void *,
                    void *, int, void *, size_t, const void *, void *, void *);
} dnn;

static const Named functions[] = {
    {"cudnnCreate", (void **)&dnn.create},
    {"cudnnGetErrorString", (void **)&dnn.name},
    {"cudnnSetStream", (void **)&dnn.set_stream},
    {"cudnnCreateTensorDescriptor", (void **)&dnn.tensor},
    {"cudnnSetTensorNdDescriptor", (void **)&dnn.tensor_set},
    {"cudnnDestroyTensorDescriptor", (void **)&dnn.tensor_free},
    {"cudnnCreateFilterDescriptor", (void **)&dnn.filter},
    {"cudnnSetFilterNdDescriptor", (void **)&dnn.filter_set},
    {"cudnnDestroyFilterDescriptor", (void **)&dnn.filter_free},
    {"cudnnCreateConvolutionDescriptor", (void **)&dnn.window},
    {"cudnnSetConvolutionNdDescriptor", (void **)&dnn.window_set},
    {"cudnnSetConvolutionGroupCount", (void **)&dnn.set_groups},
    {"cudnnSetConvolutionMathType", (void **)&dnn.set_math},
    {"cudnnDestroyConvolutionDescriptor", (void **)&dnn.window_free},
    {"cudnnGetConvolutionForwardAlgorithm_v7", (void **)&dnn.ask},
    {"cudnnGetConvolutionForwardWorkspaceSize", (void **)&dnn.workspace},
    {"cudnnConvolutionForward", (void **)&dnn.convolve},
};

enum { KEPT = 1024, MOST_RANK = 2 + MAX_WINDOW };
static const size_t WORKSPACE = (size_t)256 << 20;

static void *handles[MAX_DEVICES];
static bool tunes; /* whether algorithms are timed; else the first is taken */

/* ---- the library ---- */

/* It opens its parts where they are first used, and ends the process where it finds
   none; so they are looked for here. */
bool dnn_has_part(const char *library, const char *part) {
    const char *file = strrchr(library, '/');
    const char *end = strstr(file ? file : library, ".so");
    char name[4096];
    if (!end) return false;
    snprintf(name, sizeof name, "%.*s%s%s", (int)(end - library), library, part, end);
    return dlopen(name, RTLD_NOW) != NULL;
}

static void *opened; /* what dlopen gave */

static bool open_library(const char *library) {
    if (opened) return true;
    void *handle = dlopen(library, RTLD_NOW);
    if (!handle || find_all(handle, functions, COUNT(functions))) return false;
    /* of cuDNN 9, of 8 */
    if (!dnn_has_part(library, "_cnn") && !dnn_has_part(library, "_cnn_infer"))
        return false;
    opened = handle;
    return true;
}

/* A library that cannot be used on the device is not taken: it may be too new for the
   driver. */
void *dnn_reach(const char *library, int device) {
    if (!open_library(library)) return NULL;
    if (!handles[device] && dnn.create(&handles[device])) return NULL;
    return opened;
}

void *dnn_handle(int device) {
    return handles[device];
}

int dnn_on_stream(const Home *home) {
    void *handle = handles[home->device];
    return handle ? dnn.set_stream(handle, home->stream) : LIBRARY_NOT_OPEN;
}

PyObject *dnn_open(PyObject *self, PyObject *args) {
    (void)self;
    const char *library;
    int device, tune;
    if (!PyArg_ParseTuple(args, "sip:open_dnn", &library, &device, &tune)) return NULL;
    if (cuda_enter(device)) return NULL;
    bool found = dnn_reach(library, device);
    tunes = tune;
    cuda_leave();
    return PyBool_FromLong(found);
}

int dnn_raise(int status) {
    const char *name = dnn.name(status);
    if (status == LIBRARY_NOT_OPEN) name = "not open";
    if (status == LIBRARY_TOO_LARGE) name = "a tensor of 2 ** 31 elements or more";
    if (status == LIBRARY_HAS_NONE) name = "it has no engine for this attention";
    PyErr_Format(PyExc_RuntimeError, "cuDNN: %s (%d)", name, status);
    return -1;
}

/* ---- what is kept for a shape ---- */

/* All that the best way depends on; no padding, so that bytes compare. */
typedef struct {
    int device, of, rank, groups;
    int strides[MAX_WINDOW], padding[MAX_WINDOW], dilation[MAX_WINDOW];
    int x[MOST_RANK], w[MOST_RANK], out[MOST_RANK];
} Key;

typedef struct {
    Key key;
    void *x, *w, *window, *out; /* descriptors */
    int algorithm;
    size_t workspace;
    bool used, settled; /* settled: they were timed */
} Way;

static Way *ways[KEPT]; /* by the key's hash; under the lock, as all below */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The library has no images of one dim; they become ones of one line. */
static int sizes_of(const Image *image, int rank, int *sizes) {
    int64_t items = 1;
    int lines = rank == 1;
    for (int i = 0; i < 2 + rank; i++) {
        if (__builtin_mul_overflow(items, image->shape[i], &items) || items > INT32_MAX)
            return LIBRARY_TOO_LARGE;
        sizes[i < 2 ? i : lines + i] = (int)image->shape[i];
    }
    if (lines) sizes[2] = 1;
    return 0;
}

static int key_of(const Convolve *of, int device, Key *key) {
    const Window *window = of->window;
    int rank = window->rank, lines = rank == 1;
    *key = (Key){.device = device,
                 .of = of->of,
                 .rank = lines + rank,
                 .groups = window->groups};
    key->strides[0] = key->dilation[0] = 1;
    for (int i = 0; i < rank; i++) {
        key->strides[lines + i] = window->strides[i];
        key->padding[lines + i] = window->padding[i];
        key->dilation[lines + i] = window->dilation[i];
    }
    int status = sizes_of(&of->x, rank, key->x);
    if (!status) status = sizes_of(&of->w, rank, key->w);
    return status ? status : sizes_of(&of->out, rank, key->out);
}

static void way_free(Way *way) {
    if (way->x) dnn.tensor_free(way->x);
    if (way->w) dnn.filter_free(way->w);
    if (way->window) dnn.window_free(way->window);
    if (way->out) dnn.tensor_free(way->out);
    free(way);
}

static int make_tensor(void **tensor, const Key *key, const int *sizes) {
    int steps[MOST_RANK], rank = 2 + key->rank, status = dnn.tensor(tensor);
    for (int i = rank - 1, step = 1; i >= 0; step *= sizes[i--]) steps[i] = step;
    return status ? status : dnn.tensor_set(*tensor, types[key->of], rank, sizes, steps);
}

static int make_window(Way *way) {
    const Key *key = &way->key;
    int computed = types[key->of == F64 ? F64 : F32];
    int status = dnn.window(&way->window);
    if (!status)
        status = dnn.window_set(way->window, key->rank, key->padding, key->strides,
                                key->dilation, CROSS_CORRELATION, computed);
    if (!status) status = dnn.set_groups(way->window, key->groups);
    if (status) return status;
    return dnn.set_math(way->window, maths[key->of]);
}

/* Whether the algorithm can be used; its workspace then. */
static int try_algorithm(Way *way, int algorithm) {
    way->algorithm = algorithm;
    return dnn.workspace(handles[way->key.device], way->x, way->w, way->window,
                         way->out, algorithm, &way->workspace);
}

static bool is_plain(const Way *way, const Answer *answer) {
    bool exact = way->key.of != F32 || answer->math == FMA_MATH;
    return !answer->status && answer->algorithm <= DIRECT && exact;
}

/* The first that the library names and that will do, else one that fits all shapes. */
static int ask(Way *way) {
    Answer answers[MOST_ALGORITHMS];
    int count = 0;
    int status = dnn.ask(handles[way->key.device], way->x, way->w, way->window,
                         way->out, MOST_ALGORITHMS, &count, answers);
    for (int i = 0; i < count && !status; i++)
        if (is_plain(way, &answers[i]) && !try_algorithm(way, answers[i].algorithm) &&
            way->workspace <= WORKSPACE)
            return 0;
    status = try_algorithm(way, IMPLICIT);
    return status ? try_algorithm(way, PRECOMPUTED) : 0;
}

static int make_way(Way *way) {
    const Key *key = &way->key;
    int status = make_tensor(&way->x, key, key->x);
    if (!status) status = dnn.filter(&way->w);
    if (!status)
        status = dnn.filter_set(way->w, types[key->of], PLAIN_LAYOUT, 2 + key->rank,
                                key->w);
    if (!status) status = make_tensor(&way->out, key, key->out);
    if (!status) status = make_window(way);
    return status ? status : ask(way);
}

static int find_way(const Key *key, Way **found) {
    Way **place = &ways[hash_bytes(key, sizeof *key) % KEPT];
    *found = *place;
    if (*place && !memcmp(key, &(*place)->key, sizeof *key)) return 0;
    Way *made = calloc(1, sizeof *made);
    if (!made) return LIBRARY_NO_MEMORY;
    made->key = *key;
    int status = make_way(made);
    if (status) {
        way_free(made);
        return status;
    }
    if (*place) way_free(*place);
    *found = *place = made;
    return 0;
}

/* ---- a convolution ---- */

typedef struct {
    const Convolve *of;
    const Way *way;
    const Home *home;
    Workspace *space;
} Trial;

static int run_once(void *context) {
    const Trial *run = context;
    static const float one = 1, none = 0;
    static const double one64 = 1, none64 = 0;
    const Convolve *of = run->of;
    const Way *way = run->way;
    const Workspace *space = run->space;
    bool wide = of->of == F64;
    return dnn.convolve(handles[run->home->device],
                        wide ? (const void *)&one64 : &one, way->x, of->x.data,
                        way->w, of->w.data, way->window, way->algorithm, space->data,
                        space->bytes, wide ? (const void *)&none64 : &none, way->out,
                        of->out.data);
}

/* Seconds or the like; < 0 where it fails, or there is no memory for it. */
static float time_of(Way *way, int algorithm, Trial run) {
    if (try_algorithm(way, algorithm) || way->workspace > WORKSPACE) return -1;
    if (!cuda_need(run.space, way->workspace, run.home->stream)) return -1;
    return cuda_timed(run.home->stream, run_once, &run);
}

/* The fastest algorithm. */
static int settle(Way *way, Trial run) {
    int best = way->algorithm;
    float least = -1;
    way->settled = true;
    for (int algorithm = IMPLICIT; algorithm <= DIRECT; algorithm++) {
        float time = time_of(way, algorithm, run);
        if (time < 0 || (least >= 0 && time >= least)) continue;
        least = time;
        best = algorithm;
    }
    return try_algorithm(way, best);
}

static int convolve(const Convolve *of, const Key *key, const Home *home,
                    Workspace *space) {
    Way *way;
    int status = dnn_on_stream(home);
    if (!status) status = find_way(key, &way);
    if (status) return status;
    Trial run = {of, way, home, space};
    bool again = way->used; /* a shape that comes once is not worth it */
    way->used = true;
    if (tunes && again && !way->settled && !cuda_is_capturing(home->stream))
        status = settle(way, run);
    if (status) return status;
    if (!cuda_need(space, way->workspace, home->stream)) return LIBRARY_NO_MEMORY;
    return run_once(&run);
}

int dnn_convolve(const Convolve *of, const Home *home, Workspace *space) {
    Key key;
    int status = key_of(of, home->device, &key);
    if (status) return status;
    pthread_mutex_lock(&lock);
    status = convolve(of, &key, home, space);
    pthread_mutex_unlock(&lock);
    return status;
}
