// driver_graphs.c - graphs of the stand-in driver: chains of kernels, each with a copy
// of its arguments. What CUDA leaves undefined is an error here.
#ifndef NO_GRAPHS
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "driver.h"

enum { PARAMETERS = 128, GRAPHS = 256 };

typedef struct Node {
    struct Node *before;
    const Function *kernel;
    unsigned shape[6];
    uint64_t values[PARAMETERS];
} Node;

typedef struct {
    Node *last;
    bool runnable, busy;
} Graph;

typedef struct {
    void *function;
    unsigned grid[3], block[3], shared;
    void **parameters, **extra;
    void *kernel, *context;
} NodeParams;  // CUDA_KERNEL_NODE_PARAMS_v2

static Graph *live[GRAPHS];
static int failing;

static int refuse(void) {
    counts.refused++;
    return INVALID;
}
static int place_of(const Graph *graph) {
    for (int i = 0; i < GRAPHS; i++)
        if (graph && live[i] == graph) return i;
    return -1;
}
static Graph *make(Node *last, bool runnable) {
    for (int i = 0; i < GRAPHS; i++) {
        if (live[i]) continue;
        live[i] = calloc(1, sizeof **live);
        *live[i] = (Graph){last, runnable, false};
        counts.graphs++;
        return live[i];
    }
    abort();
}

int cuGraphCreate(void **graph, unsigned flags) {
    if (flags || !in_context()) return LOCKED(refuse());
    *graph = LOCKED(make(NULL, false));
    return 0;
}

// ---- nodes: they stay, since graphs share them with what is instantiated ----

static int fill(Node *node, const NodeParams *params) {
    const char *kinds = node->kernel->parameters;
    memcpy(node->shape, params->grid, sizeof params->grid);
    memcpy(node->shape + 3, params->block, sizeof params->block);
    for (int i = 0; kinds[2 * i]; i++) {
        if (i == PARAMETERS || !params->parameters[i]) return refuse();
        memcpy(&node->values[i], params->parameters[i], kinds[2 * i + 1] - '0');
    }
    return is_shape(node->shape) ? 0 : refuse();
}
static int add(void **out, Graph *graph, void *const *before, size_t count,
               const NodeParams *params) {
    if (place_of(graph) < 0 || graph->runnable || !params->function) return refuse();
    if (params->extra || params->kernel || params->shared) return refuse();
    if (count != (graph->last ? 1 : 0)) return refuse();
    if (count && *before != graph->last) return refuse();
    Node *node = calloc(1, sizeof *node);
    node->kernel = params->function;
    node->before = graph->last;
    if (fill(node, params)) return INVALID;
    *out = graph->last = node;
    return 0;
}
int cuGraphAddKernelNode_v2(void **node, void *graph, void *const *before, size_t count,
                            const NodeParams *params) {
    return LOCKED(add(node, graph, before, count, params));
}

// ---- what is instantiated ----

static _Thread_local int mode;  // 0: global
int cuThreadExchangeStreamCaptureMode(int *value) {
    int before = mode;
    if (*value < 0 || *value > 2) return LOCKED(refuse());
    mode = *value;
    *value = before;
    return 0;
}
static int instantiate(void **exec, Graph *graph, unsigned long long flags) {
    if (place_of(graph) < 0 || graph->runnable || flags) return refuse();
    if (mode != 2) return refuse();
    if (failing == 1) return OUT_OF_MEMORY;
    *exec = make(graph->last, true);
    return 0;
}
int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    return LOCKED(instantiate(exec, graph, flags));
}
static int run(const Node *node) {
    int code = node->before ? run(node->before) : 0;
    void *arguments[PARAMETERS];
    for (int i = 0; i < PARAMETERS; i++) arguments[i] = (void *)&node->values[i];
    return code ? code : run_kernel(node->kernel, node->shape, arguments);
}
static bool begin(Graph *exec) {
    if (place_of(exec) < 0 || !exec->runnable || exec->busy) return refuse(), false;
    return exec->busy = true;
}
static int finish(Graph *exec) {
    exec->busy = false;
    if (failing == 2) return OUT_OF_MEMORY;
    counts.replayed++;
    return exec->last ? run(exec->last) : 0;
}
int cuGraphLaunch(void *exec, void *stream) {
    int captured;
    int cuStreamIsCapturing(void *, int *);
    if (mode) return LOCKED(refuse());
    if (cuStreamIsCapturing(stream, &captured) || captured || !in_context())
        return LOCKED(refuse());
    if (!LOCKED(begin(exec))) return INVALID;
    if (!skipping) usleep(50);  // so that another thread's launch would be seen
    return LOCKED(finish(exec));
}
static int destroy(Graph *graph, bool runnable) {
    int place = place_of(graph);
    if (place < 0 || graph->runnable != runnable || graph->busy) return refuse();
    if (runnable && !in_context()) return refuse();
    counts.graphs--;
    free(graph);
    live[place] = NULL;
    return 0;
}
int cuGraphDestroy(void *graph) { return LOCKED(destroy(graph, false)); }
int cuGraphExecDestroy(void *exec) { return LOCKED(destroy(exec, true)); }

// 1: none is instantiated, 2: none is launched.
void stand_in_fail(int what) { failing = what; }
#endif
