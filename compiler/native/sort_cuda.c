/* Sorting rows on a device, by the kernels of pirol_sort.cu: tiles in shared memory; of
   longer rows they are runs, which are merged two by two. */
#include "sort.h"

enum { TILE = 2048, THREADS = 256, LEAST = 8 }; /* of pirol_sort.cu */
enum { TILES, MERGE };

typedef struct {
    const Sort *of;
    const void *const *kernels;
    void *stream;
    int64_t kept, runs; /* entries of a run, runs of a line */
    char *from, *to;    /* runs */
} Way;

static int launch(const Way *way, int kernel, int64_t blocks, void **parameters) {
    CudaLaunch launch = {(void *)way->kernels[kernel], blocks_of(blocks, 1), THREADS,
                         parameters};
    return launch.blocks ? cuda_launch(&launch, way->stream) : 0;
}

/* To way->to, where there are several runs, or to the results. */
static int sort_tiles(Way *way, int shift) {
    const Sort *of = way->of;
    int64_t each = shift, tiles = of->lines * way->runs, per = TILE >> shift;
    void *parameters[] = {(void *)&of->x,          (void *)&of->values,
                          (void *)&of->indices,    &way->to,
                          (void *)&of->lines,      (void *)&of->length,
                          &way->kept,              &each,
                          &way->runs,              (void *)&of->keys.sign,
                          (void *)&of->keys.infinity, (void *)&of->keys.mask,
                          (void *)&of->keys.turned};
    return launch(way, TILES, (tiles + per - 1) / per, parameters);
}

/* From way->from to way->to, the last of them to the results. */
static int merge_runs(Way *way) {
    const Sort *of = way->of;
    int64_t pairs = (way->runs + 1) / 2;
    int64_t kept = 2 * way->kept < of->count ? 2 * way->kept : of->count;
    int64_t blocks = of->lines * pairs * ((kept + TILE - 1) / TILE);
    void *none = NULL, *to = pairs > 1 ? way->to : none;
    void *parameters[] = {(void *)&of->x,       (void *)&of->values,
                          (void *)&of->indices, &way->from,
                          &to,                  (void *)&of->lines,
                          (void *)&of->length,  &way->runs,
                          &way->kept,           &kept,
                          (void *)&of->keys.sign, (void *)&of->keys.infinity,
                          (void *)&of->keys.mask, (void *)&of->keys.turned};
    int code = launch(way, MERGE, blocks, parameters);
    way->runs = pairs;
    way->kept = kept;
    return code;
}

/* How many entries the runs of a line ever are together. */
static int64_t most_entries(int64_t runs, int64_t kept, int64_t count) {
    int64_t most = runs * kept;
    for (; runs > 1; runs = (runs + 1) / 2) {
        kept = 2 * kept < count ? 2 * kept : count;
        if ((runs + 1) / 2 * kept > most) most = (runs + 1) / 2 * kept;
    }
    return most;
}

static int give_room(Way *way, Call *call) {
    const Sort *of = way->of;
    size_t entry = of->item <= 4 ? 8 : 16, bytes;
    int64_t most = most_entries(way->runs, way->kept, of->count);
    if (__builtin_mul_overflow(entry * (size_t)most, (size_t)of->lines, &bytes) ||
        bytes > SIZE_MAX / 4)
        return SORT_NO_MEMORY;
    bytes = aligned(bytes);
    if (!cuda_need(&call->workspace, 2 * bytes, way->stream)) return SORT_NO_MEMORY;
    way->to = call->workspace.data;
    way->from = way->to + bytes;
    return 0;
}

static void turn(Way *way) {
    char *last = way->from;
    way->from = way->to;
    way->to = last;
}

int sort_on_device(const Sort *of, const void *const *kernels, Call *call) {
    Way way = {.of = of, .kernels = kernels, .stream = call->home.stream, .runs = 1};
    int shift = 3; /* slots of a tile that a row has: LEAST and up */
    if (of->item <= 4 && of->length > UINT32_MAX) return SORT_TOO_LONG;
    while (1 << shift < TILE && (int64_t)1 << shift < of->length) shift++;
    way.runs = (of->length + TILE - 1) / TILE;
    way.kept = of->count < TILE ? of->count : TILE;
    if (way.runs == 1) return sort_tiles(&way, shift);
    int code = give_room(&way, call);
    if (!code) code = sort_tiles(&way, shift);
    while (!code && way.runs > 1) {
        turn(&way);
        code = merge_runs(&way);
    }
    return code;
}
