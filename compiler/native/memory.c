/* Blocks of memory for arenas and scratch. A pool keeps a few released ones,
   since fresh pages cost more than most kernels. */
#include <pthread.h>
#include <stdlib.h>

#include "runtime.h"

enum { KEPT = 6 };

struct Pool {
    pthread_mutex_t lock;
    int count;
    Block *kept[KEPT];
};

_Static_assert(sizeof(Block) <= ALIGNMENT, "the header lies before the data");

Pool *pool_new(void) {
    Pool *pool = calloc(1, sizeof *pool);
    if (pool) pthread_mutex_init(&pool->lock, NULL);
    return pool;
}

void pool_free(Pool *pool) {
    if (!pool) return;
    for (int i = 0; i < pool->count; i++) free(pool->kept[i]);
    pthread_mutex_destroy(&pool->lock);
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
    if (block) block->size = aligned(size);
    return block;
}

Block *block_take(Pool *pool, size_t size) {
    pthread_mutex_lock(&pool->lock);
    Block *block = take_kept(pool, size);
    pthread_mutex_unlock(&pool->lock);
    return block ? block : block_new(size);
}

void block_give(Pool *pool, Block *block) {
    if (!block) return;
    pthread_mutex_lock(&pool->lock);
    Block *spare = keep(pool, block);
    pthread_mutex_unlock(&pool->lock);
    free(spare);
}
