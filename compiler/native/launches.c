/* Launches in a row on CUDA. All that goes into them is packed into words first: the
   very bytes that the driver copies. Words that come again are replayed as a graph,
   one call of the driver's in the place of many. */
#include <string.h>

#include "runtime.h"

enum { FEWEST = 2, HEAD = 2 }; /* launches of a graph; words before the parameters */
enum { FIRST_BUILDS = MAX_GRAPHS, CALLS_A_BUILD = 32 };

static int parameter_count(const LaunchStep *launch) {
    return launch->buffers.count + launch->dims.count + 1;
}

/* ---- the runs of a plan ---- */

static int run_end(const Plan *plan, int begin) {
    int end = begin;
    while (end < plan->n_steps && plan->steps[end].kind == LAUNCH) end++;
    return end;
}

static void fill_run(Plan *plan, Run *run, int begin, int end) {
    run->begin = begin;
    run->end = end;
    for (int step = begin; step < end; step++) {
        LaunchStep *launch = &plan->steps[step].launch;
        launch->run = (int)(run - plan->runs);
        run->n_words += HEAD + parameter_count(launch);
    }
    if (run->n_words > plan->max_words) plan->max_words = run->n_words;
}

int runs_find(Plan *plan) {
    if (!on_cuda(&plan->home)) return 0;
    plan->runs = plan_alloc(plan, (size_t)plan->n_steps, sizeof *plan->runs);
    if (!plan->runs) return -1;
    for (int begin = 0, end; begin < plan->n_steps; begin = end + 1) {
        end = run_end(plan, begin);
        if (end > begin) fill_run(plan, &plan->runs[plan->n_runs++], begin, end);
    }
    return 0;
}

/* ---- words: of each launch blocks, threads, and the parameters ---- */

/* Gives how many of the launches have any rows. */
static int pack(const Call *call, const Run *run, int64_t *word) {
    const int64_t *slots = call->slots;
    int count = 0;
    for (int step = run->begin; step < run->end; step++) {
        const LaunchStep *launch = &call->plan->steps[step].launch;
        int64_t rows = dim_value(launch->rows, slots);
        count += rows > 0;
        *word++ = blocks_of(rows, dim_value(launch->scratch, slots));
        *word++ = dim_value(launch->grain, slots);
        for (int i = 0; i < launch->buffers.count; i++)
            *word++ = (int64_t)call->buffers[launch->buffers.at[i]].data;
        for (int i = 0; i < launch->dims.count; i++)
            *word++ = dim_value(launch->dims.at[i], slots);
        *word++ = rows;
    }
    return count;
}

/* The launch whose words these are; gives those of the next. */
static int64_t *unpack(const Call *call, int step, int64_t *words, CudaLaunch *out) {
    const LaunchStep *launch = &call->plan->steps[step].launch;
    int count = parameter_count(launch);
    *(Kernel *)&out->function = launch->kernel;
    out->blocks = (unsigned)words[0];
    out->threads = (unsigned)words[1];
    out->parameters = call->parameters;
    for (int i = 0; i < count; i++) call->parameters[i] = &words[HEAD + i];
    return words + HEAD + count;
}

static int launch_each(Call *call, const Run *run) {
    int64_t *words = call->words;
    int code = 0;
    CudaLaunch launch;
    for (int step = run->begin; step < run->end && !code; step++) {
        words = unpack(call, step, words, &launch);
        if (!launch.blocks) continue;
        range_push(call->plan->steps[step].launch.label);
        watch_begin(call, step);
        code = cuda_launch(&launch, call->home.stream);
        watch_end(call, step);
        range_pop();
    }
    return code;
}

/* ---- graphs; used by the thread that holds run->busy ---- */

static uint64_t hash_of(const int64_t *words, int count) {
    uint64_t hash = 14695981039346656037u;
    for (int i = 0; i < count; i++)
        hash = (hash ^ (uint64_t)words[i]) * 1099511628211u, hash ^= hash >> 29;
    return hash;
}

static void to_front(Run *run, int at) {
    Graph graph = run->graphs[at];
    memmove(run->graphs + 1, run->graphs, (size_t)at * sizeof graph);
    run->graphs[0] = graph;
}

static Graph *find(Run *run, const int64_t *words, uint64_t hash) {
    for (int i = 0; i < run->n_graphs; i++) {
        const Graph *graph = &run->graphs[i];
        if (graph->hash != hash) continue;
        if (memcmp(graph->words, words, (size_t)run->n_words * sizeof *words)) continue;
        if (i) to_front(run, i);
        return &run->graphs[0];
    }
    return NULL;
}

static bool came_before(Run *run, uint64_t hash) {
    for (int i = 0; i < RECENT; i++)
        if (run->recent[i] == hash) return true;
    run->recent[run->next_recent++ % RECENT] = hash;
    return false;
}

/* A build costs what many launches do. Where the words of more calls than there are
   graphs take turns, each would be built for nothing; so they are kept rare. */
static bool may_build(const Run *run) {
    return run->built < FIRST_BUILDS + run->calls / CALLS_A_BUILD;
}

static void graph_free(Graph *graph) {
    cuda_graph_free(graph->exec);
    PyMem_RawFree(graph->words);
}

static int instantiate(Call *call, const Run *run, void **exec) {
    CudaGraph graph = {0};
    int64_t *words = call->words;
    int code = 0;
    CudaLaunch launch;
    for (int step = run->begin; step < run->end && !code; step++) {
        words = unpack(call, step, words, &launch);
        if (launch.blocks) code = cuda_graph_add(&graph, &launch);
    }
    if (!code) code = cuda_graph_instantiate(&graph, exec);
    cuda_graph_drop(&graph);
    return code;
}

static Graph *build(Call *call, Run *run, uint64_t hash) {
    size_t bytes = (size_t)run->n_words * sizeof *call->words;
    Graph graph = {.hash = hash, .words = PyMem_RawMalloc(bytes)};
    run->built++;
    if (!graph.words || instantiate(call, run, &graph.exec)) {
        run->off = true;
        PyMem_RawFree(graph.words);
        return NULL;
    }
    memcpy(graph.words, call->words, bytes);
    if (run->n_graphs == MAX_GRAPHS) graph_free(&run->graphs[--run->n_graphs]);
    run->graphs[run->n_graphs++] = graph;
    to_front(run, run->n_graphs - 1);
    return &run->graphs[0];
}

static bool replay(Call *call, Run *run) {
    uint64_t hash = hash_of(call->words, run->n_words);
    Graph *graph = find(run, call->words, hash);
    run->calls++;
    if (!graph && (!came_before(run, hash) || !may_build(run))) return false;
    if (cuda_is_capturing(call->home.stream)) return false;
    if (!graph && !(graph = build(call, run, hash))) return false;
    if (cuda_graph_launch(graph->exec, call->home.stream)) {
        run->off = true; /* the launches themselves tell what is wrong, if they fail */
        return false;
    }
    run->replays++;
    return true;
}

/* Profilers see each launch in its range, and a watch each one's times, so there are no
   graphs then. */
static bool try_replay(Call *call, Run *run) {
    if (!call->plan->graphs || call->plan->watched || ranges_wanted()) return false;
    if (atomic_flag_test_and_set(&run->busy)) return false; /* in another thread */
    bool done = !run->off && replay(call, run);
    atomic_flag_clear(&run->busy);
    return done;
}

int run_launches(Call *call, Run *run) {
    bool several = pack(call, run, call->words) >= FEWEST;
    return several && try_replay(call, run) ? 0 : launch_each(call, run);
}

void runs_clear(Plan *plan) {
    bool any = false;
    for (int i = 0; i < plan->n_runs; i++) any |= plan->runs[i].n_graphs > 0;
    if (!any || !cuda_reenter(plan->home.device)) return;
    for (int i = 0; i < plan->n_runs; i++) {
        Run *run = &plan->runs[i];
        while (run->n_graphs) graph_free(&run->graphs[--run->n_graphs]);
    }
    cuda_leave();
}
