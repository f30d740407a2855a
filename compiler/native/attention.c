/* Attention by cuDNN, as one kernel that keeps the scores out of memory: a graph of its
   backend interface, one for each shape, built where it first comes and kept.

   The graph also gives each row's logarithm of the sum of exponentials, which nobody
   reads: without it cuDNN's flash kernels are not found. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libraries.h"

/* As the headers of cuDNN 9 have them. */
enum { IS_HANDLE, IS_TYPE, IS_BOOL, IS_INT, IS_POINTER = 6, IS_HEURISTIC = 8 };
enum { IS_POINTWISE = 14, IS_DESCRIPTOR, IS_REDUCTION = 18 };
enum { POINTWISE, ENGINE = 3, HEURISTIC, PLAN, RUN_POINTWISE = 13 };
enum { OPERATIONS = 15, PACK, TENSOR, MATMUL, RUN_MATMUL };
enum { REDUCTION = 21, RUN_REDUCTION };
enum { PLUS = 0, TIMES = 1, OVER = 6, MINUS = 9, EXPONENTIAL = 13, LOGARITHM = 15 };
enum { SUM = 0, LARGEST = 3 };
enum { BEST_FIRST = 3 };
enum { OLDEST = 90000 }; /* before, rows of all lengths were not right */
static const int types[] = {[F32] = 0, [F64] = 1, [F16] = 2, [BF16] = 9};

static struct {
    int (*create)(int, void **);
    int (*set)(void *, int, int, int64_t, const void *);
    int (*get)(const void *, int, int, int64_t, int64_t *, void *);
    int (*finish)(void *);
    int (*destroy)(void *);
    int (*execute)(void *, void *, void *);
    size_t (*version)(void);
} dnn;

static const Named functions[] = {
    {"cudnnBackendCreateDescriptor", (void **)&dnn.create},
    {"cudnnBackendSetAttribute", (void **)&dnn.set},
    {"cudnnBackendGetAttribute", (void **)&dnn.get},
    {"cudnnBackendFinalize", (void **)&dnn.finish},
    {"cudnnBackendDestroyDescriptor", (void **)&dnn.destroy},
    {"cudnnBackendExecute", (void **)&dnn.execute},
    {"cudnnGetVersion", (void **)&dnn.version},
};

PyObject *attention_open(PyObject *self, PyObject *args) {
    static const char *const parts[] = {"_graph", "_heuristic", "_engines_precompiled",
                                        "_engines_runtime_compiled"};
    (void)self;
    const char *library;
    int device, tune;
    if (!PyArg_ParseTuple(args, "sip:open_attention", &library, &device, &tune))
        return NULL;
    if (cuda_enter(device)) return NULL;
    void *found = dnn_reach(library, device);
    bool ready = found && !find_all(found, functions, COUNT(functions)) &&
                 dnn.version() >= OLDEST;
    for (size_t i = 0; ready && i < COUNT(parts); i++)
        ready = dnn_has_part(library, parts[i]);
    cuda_leave();
    return PyBool_FromLong(ready);
}

/* ---- a graph of cuDNN's operations ---- */

enum { MOST = 48, MOST_OPERATIONS = 12, MOST_ENGINES = 8 };

typedef struct {
    void *all[MOST]; /* descriptors, to be given back */
    void *operations[MOST_OPERATIONS];
    int count, n_operations;
    int status; /* of the first that failed; nothing is done after that */
} Made;

static void *begin(Made *made, int kind) {
    void *descriptor = NULL;
    if (made->status) return NULL;
    made->status = dnn.create(kind, &descriptor);
    if (!made->status) made->all[made->count++] = descriptor;
    return descriptor;
}

static void set(Made *made, void *descriptor, int name, int type, int64_t count,
                const void *value) {
    if (!made->status) made->status = dnn.set(descriptor, name, type, count, value);
}

static void set_one(Made *made, void *descriptor, int name, void *other) {
    set(made, descriptor, name, IS_DESCRIPTOR, 1, &other);
}

static void *end(Made *made, void *descriptor) {
    if (!made->status) made->status = dnn.finish(descriptor);
    return descriptor;
}

static void *ended_operation(Made *made, void *descriptor) {
    made->operations[made->n_operations++] = descriptor;
    return end(made, descriptor);
}

typedef enum { IN_MEMORY, VIRTUAL, BY_VALUE } Kind;

static void *tensor(Made *made, int64_t id, Float of, Kind kind, const int64_t *sizes,
                    const int64_t *steps) {
    static const int64_t bytes = VECTOR;
    static const bool yes = true;
    void *made_one = begin(made, TENSOR);
    set(made, made_one, 900, IS_INT, 1, &bytes);
    set(made, made_one, 901, IS_TYPE, 1, &types[of]);
    set(made, made_one, 902, IS_INT, 4, sizes);
    set(made, made_one, 903, IS_INT, 4, steps);
    set(made, made_one, 906, IS_INT, 1, &id);
    if (kind != IN_MEMORY)
        set(made, made_one, kind == VIRTUAL ? 907 : 908, IS_BOOL, 1, &yes);
    return end(made, made_one);
}

static void matmul(Made *made, void *a, void *b, void *c) {
    void *how = begin(made, MATMUL);
    set(made, how, 1500, IS_TYPE, 1, &types[F32]);
    end(made, how);
    void *run = begin(made, RUN_MATMUL);
    set_one(made, run, 1520, a);
    set_one(made, run, 1521, b);
    set_one(made, run, 1522, c);
    set_one(made, run, 1523, how);
    ended_operation(made, run);
}

/* y = x or x and b. */
static void pointwise(Made *made, int mode, void *x, void *b, void *y) {
    void *how = begin(made, POINTWISE);
    set(made, how, 0, IS_POINTWISE, 1, &mode);
    set(made, how, 1, IS_TYPE, 1, &types[F32]);
    end(made, how);
    void *run = begin(made, RUN_POINTWISE);
    set_one(made, run, 750, how);
    set_one(made, run, 751, x);
    if (b) set_one(made, run, 752, b);
    set_one(made, run, 753, y);
    ended_operation(made, run);
}

static void reduce(Made *made, int mode, void *x, void *y) {
    void *how = begin(made, REDUCTION);
    set(made, how, 1600, IS_REDUCTION, 1, &mode);
    set(made, how, 1601, IS_TYPE, 1, &types[F32]);
    end(made, how);
    void *run = begin(made, RUN_REDUCTION);
    set_one(made, run, 1610, x);
    set_one(made, run, 1611, y);
    set_one(made, run, 1612, how);
    ended_operation(made, run);
}

/* ---- what is kept for a shape ---- */

/* All that a plan depends on; no padding, so that bytes compare. */
typedef struct {
    int64_t device, of, added_of, turns; /* added_of: NO_FLOAT, nothing is added */
    int64_t batch, heads, rows, keys, terms, width;
    int64_t q[4], k[4], v[4], added[4];
} Key;

/* Ids of the tensors in memory; others follow. */
enum { SCALE = ADDED + 1, OUT, LOGARITHMS, OTHERS };

typedef struct {
    Key key;
    Made made;
    void *plan;
    int64_t workspace;
} Way;

enum { KEPT = 512 };
static Way *ways[KEPT]; /* by the key's hash; under the lock, as all below */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void way_free(Way *way) {
    while (way->made.count) dnn.destroy(way->made.all[--way->made.count]);
    free(way);
}

/* scale * q k' + what is added -> softmax -> times v */
static void describe(Way *way) {
    const Key *key = &way->key;
    const int64_t b = key->batch, h = key->heads, s = key->rows, t = key->keys;
    const int64_t d = key->terms, w = key->width;
    const Float of = (Float)key->of;
    const int64_t one[] = {1, 1, 1, 1}, of_q[] = {b, h, s, d}, of_k[] = {b, h, d, t};
    const int64_t of_v[] = {b, h, t, w}, of_out[] = {b, h, s, w};
    const int64_t turned[] = {key->k[0], key->k[1], key->k[3], key->k[2]};
    const int64_t along = key->turns ? h * w : w, heads = key->turns ? w : s * w;
    const int64_t out_steps[] = {s * h * w, heads, along, 1};
    const int64_t all[] = {b, h, s, t}, all_steps[] = {h * s * t, s * t, t, 1};
    const int64_t row[] = {b, h, s, 1}, row_steps[] = {h * s, s, 1, 1};
    Made *made = &way->made;
    int64_t id = OTHERS;

    void *q = tensor(made, QUERIES, of, IN_MEMORY, of_q, key->q);
    void *k = tensor(made, KEYS, of, IN_MEMORY, of_k, turned);
    void *v = tensor(made, VALUES, of, IN_MEMORY, of_v, key->v);
    void *scale = tensor(made, SCALE, F32, BY_VALUE, one, one);
    void *out = tensor(made, OUT, of, IN_MEMORY, of_out, out_steps);
    void *x = tensor(made, id++, F32, VIRTUAL, all, all_steps), *y = x;
    matmul(made, q, k, x);
    y = tensor(made, id++, F32, VIRTUAL, all, all_steps);
    pointwise(made, TIMES, x, scale, y);
    if (key->added_of != NO_FLOAT) {
        int64_t sizes[4], steps[4], each = 1;
        for (int i = 3; i >= 0; i--) {
            sizes[i] = key->added[i] ? all[i] : 1;
            steps[i] = key->added[i] ? key->added[i] : each;
            each *= sizes[i];
        }
        void *added =
            tensor(made, ADDED, (Float)key->added_of, IN_MEMORY, sizes, steps);
        x = y;
        y = tensor(made, id++, F32, VIRTUAL, all, all_steps);
        pointwise(made, PLUS, x, added, y);
    }
    void *most = tensor(made, id++, F32, VIRTUAL, row, row_steps);
    void *less = tensor(made, id++, F32, VIRTUAL, all, all_steps);
    void *powers = tensor(made, id++, F32, VIRTUAL, all, all_steps);
    void *total = tensor(made, id++, F32, VIRTUAL, row, row_steps);
    void *logarithm = tensor(made, id++, F32, VIRTUAL, row, row_steps);
    void *logarithms = tensor(made, LOGARITHMS, F32, IN_MEMORY, row, row_steps);
    void *shares = tensor(made, id++, of, VIRTUAL, all, all_steps);
    reduce(made, LARGEST, y, most);
    pointwise(made, MINUS, y, most, less);
    pointwise(made, EXPONENTIAL, less, NULL, powers);
    reduce(made, SUM, powers, total);
    pointwise(made, LOGARITHM, total, NULL, logarithm);
    pointwise(made, PLUS, most, logarithm, logarithms);
    pointwise(made, OVER, powers, total, shares);
    matmul(made, shares, v, out);
}

/* The plan of the first engine that takes the graph. */
static void choose(Way *way) {
    static const int best = BEST_FIRST;
    Made *made = &way->made;
    void *handle = dnn_handle((int)way->key.device), *engines[MOST_ENGINES];
    int64_t count = 0;
    void *graph = begin(made, OPERATIONS);
    set(made, graph, 800, IS_HANDLE, 1, &handle);
    set(made, graph, 801, IS_DESCRIPTOR, made->n_operations, made->operations);
    end(made, graph);
    void *asked = begin(made, HEURISTIC);
    set_one(made, asked, 201, graph);
    set(made, asked, 200, IS_HEURISTIC, 1, &best);
    end(made, asked);
    for (int i = 0; i < MOST_ENGINES; i++) engines[i] = begin(made, ENGINE);
    if (!made->status)
        made->status =
            dnn.get(asked, 202, IS_DESCRIPTOR, MOST_ENGINES, &count, engines);
    if (made->status) return;
    made->status = LIBRARY_HAS_NONE;
    for (int64_t i = 0; i < count && made->status; i++) {
        made->status = 0;
        void *plan = begin(made, PLAN);
        set(made, plan, 400, IS_HANDLE, 1, &handle);
        set_one(made, plan, 401, engines[i]);
        way->plan = end(made, plan);
    }
    if (!made->status)
        made->status = dnn.get(way->plan, 402, IS_INT, 1, &count, &way->workspace);
}

static int find_way(const Key *key, Way **found) {
    Way **place = &ways[hash_bytes(key, sizeof *key) % KEPT];
    *found = *place;
    if (*place && !memcmp(key, &(*place)->key, sizeof *key)) return 0;
    Way *way = calloc(1, sizeof *way);
    if (!way) return LIBRARY_NO_MEMORY;
    way->key = *key;
    describe(way);
    choose(way);
    int status = way->made.status;
    if (status) {
        way_free(way);
        return status;
    }
    if (*place) way_free(*place);
    *found = *place = way;
    return 0;
}

/* ---- a call ---- */

static Key key_of(const Attend *of, int device) {
    Key key = {.device = device,
               .of = of->of,
               .added_of = of->added_of,
               .turns = of->turns,
               .batch = of->batch,
               .heads = of->heads,
               .rows = of->rows,
               .keys = of->keys,
               .terms = of->terms,
               .width = of->width};
    memcpy(key.q, of->operands[QUERIES].steps, sizeof key.q);
    memcpy(key.k, of->operands[KEYS].steps, sizeof key.k);
    memcpy(key.v, of->operands[VALUES].steps, sizeof key.v);
    if (of->added_of != NO_FLOAT)
        memcpy(key.added, of->operands[ADDED].steps, sizeof key.added);
    return key;
}

static int run(const Attend *of, const Way *way, const Home *home, Workspace *space) {
    size_t rows = aligned((size_t)(of->batch * of->heads * of->rows) * sizeof(float));
    if (!cuda_need(space, rows + (size_t)way->workspace, home->stream))
        return LIBRARY_NO_MEMORY;
    float scale = (float)of->scale;
    const int64_t ids[] = {QUERIES, KEYS, VALUES, SCALE, OUT, LOGARITHMS, ADDED};
    const void *data[] = {of->operands[QUERIES].data, of->operands[KEYS].data,
                          of->operands[VALUES].data,  &scale,
                          of->out,                    space->data,
                          of->operands[ADDED].data};
    int count = of->added_of == NO_FLOAT ? 6 : 7;
    void *after = (char *)space->data + rows;
    Made made = {0};
    void *pack = begin(&made, PACK);
    set(&made, pack, 1000, IS_INT, count, ids);
    set(&made, pack, 1001, IS_POINTER, count, data);
    set(&made, pack, 1003, IS_POINTER, 1, &after);
    end(&made, pack);
    if (!made.status)
        made.status = dnn.execute(dnn_handle(home->device), way->plan, pack);
    if (made.count) dnn.destroy(pack);
    return made.status;
}

int attention_run(const Attend *of, const Home *home, Workspace *space) {
    Key key = key_of(of, home->device);
    Way *way;
    pthread_mutex_lock(&lock);
    int status = dnn_on_stream(home);
    if (!status) status = find_way(&key, &way);
    if (!status) status = run(of, way, home, space);
    pthread_mutex_unlock(&lock);
    return status;
}
