/* Blocks of memory for arenas and scratch. A pool keeps a few released ones,
   since fresh pages cost more than most kernels; large ones get large pages. */
#include <pthread.h>
#include <stdlib.h>

#include "runtime.h"

enum { KEPT = 6 };

struct Pool {
    int count;
    Block *kept[KEPT];
};

/* One for all pools, held for a few instructions: a fork waits for it, so that the
   child, which has no thread that could give it back, finds it free. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void hold(void) {
    pthread_mutex_lock(&lock);
}

static void release(void) {
    pthread_mutex_unlock(&lock);
}

static void watch_forks(void) {
    pthread_atfork(hold, release, release);
}

_Static_assert(sizeof(Block) <= ALIGNMENT, "the header lies before the data");

Pool *pool_new(void) {
    pthread_once(&once, watch_forks);
    return calloc(1, sizeof(Pool));
}

void pool_free(Pool *pool) {
    if (!pool) return;
    for (int i = 0; i < pool->count; i++) free(pool->kept[i]);
    free(pool);
}

/* The smallest kept block that fits. */
static Block *take_kept(Pool *pool, size_t size) {
    int best = -1;
    for (int i = 0; i < pool->count; i++) {
        if (pool->kept[i]->size < size) continue;
        if (best < 0 || pool->kept[i]->size < pool->kept[best]->size) best = i;
    }
    if (best < 0) return NULL;
    Block *block = pool->kept[best];
    pool->kept[best] = pool->kept[--pool->count];
    return block;
}

/* Returns what does not fit on the list: the smallest of all. */
static Block *keep(Pool *pool, Block *block) {
    if (pool->count < KEPT) {
        pool->kept[pool->count++] = block;
        return NULL;
    }
    int smallest = 0;
    for (int i = 1; i < KEPT; i++)
        if (pool->kept[i]->size < pool->kept[smallest]->size) smallest = i;
    if (pool->kept[smallest]->size >= block->size) return block;
    Block *out = pool->kept[smallest];
    pool->kept[smallest] = block;
    return out;
}

static Block *block_new(size_t size) {
    if (size > SIZE_MAX - 2 * ALIGNMENT) return NULL;
    Block *block = aligned_alloc(ALIGNMENT, ALIGNMENT + aligned(size));
    if (!block) return NULL;
    block->size = aligned(size);
    memory_large(block, ALIGNMENT + block->size);
    return block;
}

Block *block_take(Pool *pool, size_t size) {
    hold();
    Block *block = take_kept(pool, size);
    release();
    return block ? block : block_new(size);
}

void block_give(Pool *pool, Block *block) {
    if (!block) return;
    hold();
    Block *spare = keep(pool, block);
    release();
    free(spare);
}
