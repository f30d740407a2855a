/* Strips: launches that run one after the other for each item of a batch in turn. What
   one of them makes of an item is still in the thread's cache where the next reads it,
   and the item after it takes its place. */
#include "runtime.h"

enum { SMALLEST = ALIGNMENT }; /* bytes of an item: see place() */

/* A launch: its rows of an item, its sizes. */
typedef struct {
    const LaunchStep *step;
    int64_t each;
    int64_t *dims;
} Part;

typedef struct {
    const Call *call;
    const Strip *strip;
    int64_t items, chunks;
    size_t scratch, memory; /* bytes of a chunk: of the kernels; with the pointers */
    Part *parts;
    size_t *own; /* bytes of an item of each of the strip's own buffers */
    char *chunk_memory;
} Work;

static int count(const Strip *strip) {
    return strip->end - strip->begin;
}

/* ---- before the first run ---- */

static int own_index(const Strip *strip, int buffer) {
    for (int i = 0; i < strip->own.count; i++)
        if (strip->own.at[i] == buffer) return i;
    return -1;
}

static int find_owned(Plan *plan, Strip *strip) {
    for (int step = strip->begin; step < strip->end; step++) {
        strip->n_buffers += plan->steps[step].launch.buffers.count;
        strip->n_dims += plan->steps[step].launch.dims.count;
    }
    strip->owned = plan_alloc(plan, (size_t)strip->n_buffers, sizeof(int));
    if (!strip->owned) return -1;
    int *owned = strip->owned;
    for (int step = strip->begin; step < strip->end; step++) {
        const Ids *buffers = &plan->steps[step].launch.buffers;
        for (int i = 0; i < buffers->count; i++)
            *owned++ = own_index(strip, buffers->at[i]);
    }
    return 0;
}

int strips_find(Plan *plan) {
    for (int i = 0; i < plan->n_strips; i++) {
        Strip *strip = &plan->strips[i];
        if (strip->begin < strip->end) plan->steps[strip->begin].launch.strip = strip;
        if (find_owned(plan, strip)) return -1;
    }
    return 0;
}

/* ---- sizes ---- */

/* Chunks, items and scratch, if the items go round among the threads that the launches
   would have had. */
static bool share_out(Work *work) {
    const int64_t *slots = work->call->slots;
    const Step *steps = work->call->plan->steps;
    work->items = dim_value(work->strip->items, slots);
    work->chunks = 1;
    if (work->items < 1) return false;
    for (int step = work->strip->begin; step < work->strip->end; step++) {
        const LaunchStep *launch = &steps[step].launch;
        int64_t rows = dim_value(launch->rows, slots);
        int64_t chunks = chunk_count(rows, dim_value(launch->grain, slots));
        int64_t scratch = dim_value(launch->scratch, slots);
        if (rows < 1 || rows % work->items || scratch > INT32_MAX) return false;
        if (chunks > work->chunks) work->chunks = chunks;
        if (scratch > (int64_t)work->scratch) work->scratch = aligned((size_t)scratch);
    }
    int64_t most = (work->items + work->chunks - 1) / work->chunks;
    return most * work->chunks <= work->items + work->items / 4;
}

static size_t buffer_bytes(const Call *call, int buffer) {
    const TensorSpec *type = &call->plan->buffers[buffer].type;
    size_t bytes = type->bits / 8;
    for (int i = 0; i < type->dims.count; i++)
        bytes *= (size_t)dim_value(type->dims.at[i], call->slots);
    return bytes;
}

/* Of an item of each of its own buffers. */
static bool measure_own(Work *work) {
    for (int i = 0; i < work->strip->own.count; i++) {
        size_t bytes = buffer_bytes(work->call, work->strip->own.at[i]);
        if (bytes % (size_t)work->items) return false;
        work->own[i] = bytes / (size_t)work->items;
        if (work->own[i] < SMALLEST) return false;
    }
    return true;
}

static void fill_parts(Work *work, int64_t *dims) {
    const int64_t *slots = work->call->slots;
    for (int k = 0; k < count(work->strip); k++) {
        const Step *step = &work->call->plan->steps[work->strip->begin + k];
        const LaunchStep *launch = &step->launch;
        int64_t each = dim_value(launch->rows, slots) / work->items;
        work->parts[k] = (Part){launch, each, dims};
        for (int i = 0; i < launch->dims.count; i++)
            *dims++ = dim_value(launch->dims.at[i], slots);
    }
}

/* ---- the run ---- */

/* Where a kernel is to find item 0 so that it finds `item` at the place of the chunk's
   first, or as much after it as keeps the pointer aligned. */
static void *place(const Work *work, int own, int64_t first, int64_t item) {
    size_t bytes = work->own[own], later = (size_t)(item - first) * bytes;
    const Buffer *buffer = &work->call->buffers[work->strip->own.at[own]];
    return (void *)((uintptr_t)buffer->data - (later - later % ALIGNMENT));
}

static void run_item(const Work *work, int64_t first, int64_t item, char *memory) {
    void **pointers = (void **)memory;
    const int *owned = work->strip->owned;
    char *scratch = memory + (work->memory - work->scratch);
    for (int k = 0; k < count(work->strip); k++) {
        const Part *part = &work->parts[k];
        const Ids *buffers = &part->step->buffers;
        for (int i = 0; i < buffers->count; i++, owned++)
            pointers[i] = *owned < 0 ? work->call->buffers[buffers->at[i]].data
                                     : place(work, *owned, first, item);
        part->step->kernel(pointers, part->dims, item * part->each,
                           (item + 1) * part->each, scratch);
    }
}

static void run_chunk(const void *data, int64_t chunk) {
    const Work *work = data;
    Rows items = chunk_rows(work->items, work->chunks, chunk);
    char *memory = work->chunk_memory + (size_t)chunk * work->memory;
    for (int64_t item = items.begin; item < items.end; item++)
        run_item(work, items.begin, item, memory);
}

bool strip_run(Call *call, const Strip *strip) {
    Work work = {.call = call, .strip = strip};
    if (!share_out(&work)) return false;
    size_t parts = (size_t)count(strip) * sizeof(Part);
    size_t dims = (size_t)strip->n_dims * sizeof(int64_t);
    size_t own = (size_t)strip->own.count * sizeof(size_t);
    size_t shared = aligned(parts + dims + own);
    work.memory = aligned((size_t)strip->n_buffers * sizeof(void *)) + work.scratch;
    char *memory = call_scratch(call, shared + (size_t)work.chunks * work.memory);
    if (!memory) return false;
    work.parts = (Part *)memory;
    work.own = (size_t *)(memory + parts + dims);
    work.chunk_memory = memory + shared;
    if (!measure_own(&work)) return false;
    fill_parts(&work, (int64_t *)(memory + parts));
    run_chunks(run_chunk, &work, work.chunks);
    call->strips++;
    return true;
}
