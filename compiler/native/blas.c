/* cuBLASLt, found by dlopen: products of matrices on a CUDA device.

   It holds matrices by columns, so what is rows here is columns there: the transposed
   result is computed, from the right operand and the left one. How a product may be
   computed is asked once for each shape, the answers are timed, the fastest is kept. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libraries.h"

/* As cublasLt.h of CUDA 12 and 13 has them. */
static const int types[] = {[F32] = 0, [F64] = 1, [F16] = 2, [BF16] = 14};
enum { COMPUTE32 = 68, COMPUTE64 = 70 };
enum { TURN_A = 3, TURN_B = 4, EPILOGUE = 7, BIAS = 8 }; /* of a product */
enum { ADD_BIAS = 4 };
enum { BATCH = 5, STRIDE = 6 };                                  /* of a layout */
enum { MOST_WORKSPACE = 1, REDUCTIONS = 3 }; /* preferences */
enum { ALIGN_A = 5, ALIGN_B, ALIGN_C, ALIGN_D };
enum { IN_PLACE = 1, AS_COMPUTED = 2 }; /* what adds up parts, none of it in halves */
enum { NOT_SUPPORTED = 15 };

typedef struct {
    struct {
        uint64_t data[8];
    } way;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
} Answer;

static struct {
    bool ready;
    int (*create)(void **);
    const char *(*name)(int);
    int (*describe)(void **, int, int);
    int (*describe_set)(void *, int, const void *, size_t);
    int (*describe_free)(void *);
    int (*layout)(void **, int, uint64_t, uint64_t, int64_t);
    int (*layout_set)(void *, int, const void *, size_t);
    int (*layout_free)(void *);
    int (*prefer)(void **);
    int (*prefer_set)(void *, int, const void *, size_t);
    int (*prefer_free)(void *);
    int (*ask)(void *, void *, void *, void *, void *, void *, void *, int, Answer *,
               int *);
    int (*multiply)(void *, void *, const void *, const void *, void *, const void *,
                    void *, const void *, const void *, void *, void *, void *,
                    const void *, void *, size_t, void *);
} lt;

static const Named functions[] = {
    {"cublasLtCreate", (void **)&lt.create},
    {"cublasLtGetStatusName", (void **)&lt.name},
    {"cublasLtMatmulDescCreate", (void **)&lt.describe},
    {"cublasLtMatmulDescSetAttribute", (void **)&lt.describe_set},
    {"cublasLtMatmulDescDestroy", (void **)&lt.describe_free},
    {"cublasLtMatrixLayoutCreate", (void **)&lt.layout},
    {"cublasLtMatrixLayoutSetAttribute", (void **)&lt.layout_set},
    {"cublasLtMatrixLayoutDestroy", (void **)&lt.layout_free},
    {"cublasLtMatmulPreferenceCreate", (void **)&lt.prefer},
    {"cublasLtMatmulPreferenceSetAttribute", (void **)&lt.prefer_set},
    {"cublasLtMatmulPreferenceDestroy", (void **)&lt.prefer_free},
    {"cublasLtMatmulAlgoGetHeuristic", (void **)&lt.ask},
    {"cublasLtMatmul", (void **)&lt.multiply},
};

enum { KEPT = 1024, MOST_ALIGNMENT = 256, ANSWERS = 8 };
static const uint64_t WORKSPACE = 32 << 20;

static void *handles[MAX_DEVICES];
static bool tunes; /* whether answers are timed; else the first is taken */

/* ---- the library ---- */

static bool open_library(const char *library) {
    if (lt.ready) return true;
    void *handle = dlopen(library, RTLD_NOW);
    if (!handle) return false;
    return !find_all(handle, functions, COUNT(functions));
}

/* A library that cannot be used on the device is not taken: it may be too new for the
   driver. */
PyObject *blas_open(PyObject *self, PyObject *args) {
    (void)self;
    const char *library;
    int device, tune;
    if (!PyArg_ParseTuple(args, "sip:open_blas", &library, &device, &tune)) return NULL;
    if (cuda_enter(device)) return NULL;
    bool found = open_library(library);
    if (found && !handles[device]) found = !lt.create(&handles[device]);
    lt.ready |= found;
    tunes = tune;
    cuda_leave();
    return PyBool_FromLong(found);
}

int blas_raise(int status) {
    PyErr_Format(PyExc_RuntimeError, "cuBLASLt: %s (%d)",
                 lt.ready ? lt.name(status) : "not open", status);
    return -1;
}

/* ---- what is kept for a shape ---- */

/* All that the best way depends on; no padding, so that bytes compare. */
typedef struct {
    int64_t device, of, to, batch, rows, columns, terms;
    int64_t left[3], right[3];
    int64_t added, aligned[4];
} Key;

typedef struct {
    Key key;
    void *product, *a, *b, *out; /* descriptors */
    Answer answers[ANSWERS];
    int count, chosen;
    bool used, settled; /* settled: chosen for good */
} Way;

static Way *ways[KEPT]; /* by the key's hash; under the lock, as all below */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint32_t alignment(const void *data) {
    uintptr_t place = (uintptr_t)data | MOST_ALIGNMENT;
    return (uint32_t)(place & -place);
}

static Key key_of(const Multiply *of, int device) {
    const Matrix *left = &of->left, *right = &of->right;
    return (Key){
        .device = device,
        .of = of->of,
        .to = of->to,
        .batch = of->batch,
        .rows = of->rows,
        .columns = of->columns,
        .terms = of->terms,
        .left = {left->turned, left->pitch, left->batch},
        .right = {right->turned, right->pitch, right->batch},
        .added = of->added != NULL,
        .aligned = {alignment(right->data), alignment(left->data), alignment(of->out),
                    of->added ? alignment(of->added) : 0},
    };
}

static void way_free(Way *way) {
    if (way->product) lt.describe_free(way->product);
    if (way->a) lt.layout_free(way->a);
    if (way->b) lt.layout_free(way->b);
    if (way->out) lt.layout_free(way->out);
    free(way);
}

static int make_layout(void **layout, const Multiply *of, Float kind, int64_t rows,
                       int64_t columns, int64_t pitch, int64_t stride) {
    int32_t count = (int32_t)of->batch;
    int status =
        lt.layout(layout, types[kind], (uint64_t)rows, (uint64_t)columns, pitch);
    if (status || count == 1) return status;
    status = lt.layout_set(*layout, BATCH, &count, sizeof count);
    return status ? status : lt.layout_set(*layout, STRIDE, &stride, sizeof stride);
}

/* Terms run along the columns there, unless it is turned. */
static int make_operand(void **layout, const Multiply *of, const Matrix *matrix,
                        int64_t places) {
    int64_t rows = matrix->turned ? places : of->terms;
    int64_t columns = matrix->turned ? of->terms : places;
    return make_layout(layout, of, of->of, rows, columns, matrix->pitch, matrix->batch);
}

static int describe(Way *way, const Multiply *of) {
    bool wide = of->of == F64;
    int32_t turn_a = !of->right.turned, turn_b = of->left.turned;
    uint32_t epilogue = ADD_BIAS;
    int status = lt.describe(&way->product, wide ? COMPUTE64 : COMPUTE32,
                             types[wide ? F64 : F32]);
    if (!status) status = lt.describe_set(way->product, TURN_A, &turn_a, sizeof turn_a);
    if (!status) status = lt.describe_set(way->product, TURN_B, &turn_b, sizeof turn_b);
    if (status || !of->added) return status;
    status = lt.describe_set(way->product, EPILOGUE, &epilogue, sizeof epilogue);
    return status ? status
                  : lt.describe_set(way->product, BIAS, &of->added, sizeof of->added);
}

static int ask(Way *way, void *preference) {
    static const int kinds[] = {ALIGN_A, ALIGN_B, ALIGN_C, ALIGN_D}, of[] = {0, 1, 2, 2};
    static const uint32_t reductions = IN_PLACE | AS_COMPUTED;
    int status =
        lt.prefer_set(preference, MOST_WORKSPACE, &WORKSPACE, sizeof WORKSPACE);
    if (!status)
        status = lt.prefer_set(preference, REDUCTIONS, &reductions, sizeof reductions);
    for (int i = 0; i < 4 && !status; i++) {
        uint32_t bytes = (uint32_t)way->key.aligned[of[i]];
        status = lt.prefer_set(preference, kinds[i], &bytes, sizeof bytes);
    }
    if (!status)
        status = lt.ask(handles[way->key.device], way->product, way->a, way->b,
                        way->out, way->out, preference, ANSWERS, way->answers,
                        &way->count);
    if (!status && !way->count) status = NOT_SUPPORTED;
    return status ? status : way->answers[0].status;
}

static int make_way(Way *way, const Multiply *of) {
    void *preference = NULL;
    int status = describe(way, of);
    if (!status) status = make_operand(&way->a, of, &of->right, of->columns);
    if (!status) status = make_operand(&way->b, of, &of->left, of->rows);
    if (!status)
        status = make_layout(&way->out, of, of->to, of->columns, of->rows, of->columns,
                             of->rows * of->columns);
    if (!status) status = lt.prefer(&preference);
    if (!status) status = ask(way, preference);
    if (preference) lt.prefer_free(preference);
    return status;
}

static int find_way(const Multiply *of, int device, Way **found) {
    Key key = key_of(of, device);
    Way **place = &ways[hash_bytes(&key, sizeof key) % KEPT];
    *found = *place;
    if (*place && !memcmp(&key, &(*place)->key, sizeof key)) return 0;
    Way *made = calloc(1, sizeof *made);
    if (!made) return LIBRARY_NO_MEMORY;
    made->key = key;
    int status = make_way(made, of);
    if (status) {
        way_free(made);
        return status;
    }
    if (*place) way_free(*place);
    *found = *place = made;
    return 0;
}

/* ---- a product ---- */

typedef struct {
    const Multiply *of;
    const Way *way;
    const Answer *answer;
    const Home *home;
    Workspace *space;
} Trial;

static int run_once(void *context) {
    const Trial *run = context;
    static const float one = 1, none = 0;
    static const double one64 = 1, none64 = 0;
    const Multiply *of = run->of;
    const Way *way = run->way;
    bool wide = of->of == F64;
    return lt.multiply(handles[run->home->device], way->product,
                       wide ? (const void *)&one64 : &one, of->right.data, way->a,
                       of->left.data, way->b, wide ? (const void *)&none64 : &none,
                       of->out, way->out, of->out, way->out, &run->answer->way,
                       run->space->data, run->space->bytes, run->home->stream);
}

/* The fastest answer; one that fails, or that there is no memory for, is left out. */
static void settle(Way *way, Trial run) {
    float best = -1;
    way->settled = true;
    for (int i = 0; i < way->count; i++) {
        run.answer = &way->answers[i];
        if (run.answer->status) continue;
        if (!cuda_need(run.space, run.answer->workspace, run.home->stream)) continue;
        float time = cuda_timed(run.home->stream, run_once, &run);
        if (time < 0 || (best >= 0 && time >= best)) continue;
        best = time;
        way->chosen = i;
    }
}

static int multiply(const Multiply *of, const Home *home, Workspace *space) {
    Way *way;
    int status = find_way(of, home->device, &way);
    if (!status && of->added)
        status = lt.describe_set(way->product, BIAS, &of->added, sizeof of->added);
    if (status) return status;
    Trial run = {of, way, NULL, home, space};
    bool again = way->used; /* a shape that comes once is not worth it */
    way->used = true;
    if (tunes && again && !way->settled && !cuda_is_capturing(home->stream))
        settle(way, run);
    run.answer = &way->answers[way->chosen];
    if (!cuda_need(space, run.answer->workspace, home->stream))
        return LIBRARY_NO_MEMORY;
    return run_once(&run);
}

int blas_multiply(const Multiply *of, const Home *home, Workspace *space) {
    if (!handles[home->device] || of->batch > INT32_MAX) return NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    int status = multiply(of, home, space);
    pthread_mutex_unlock(&lock);
    return status;
}
