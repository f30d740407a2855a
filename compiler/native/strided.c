/* Strided copies: of inputs that are not contiguous, and of results into them. */
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

enum { TILE = 16 };

static bool is_empty(int rank, const int64_t *shape) {
    for (int i = 0; i < rank; i++)
        if (shape[i] == 0) return true;
    return false;
}

bool is_contiguous(int rank, const int64_t *shape, const int64_t *strides) {
    if (!strides) return true;
    int64_t expected = 1;
    for (int i = rank - 1; i >= 0; i--) {
        if (shape[i] != 1 && strides[i] != expected) return is_empty(rank, shape);
        expected *= shape[i];
    }
    return true;
}

/* Axes by rising stride; no overlap is certain if each steps over all before it. */
bool overlaps_itself(int rank, const int64_t *shape, const int64_t *strides) {
    if (!strides || is_empty(rank, shape)) return false;
    bool done[MAX_RANK] = {false};
    int64_t span = 0;
    for (int n = 0; n < rank; n++) {
        int next = -1;
        for (int i = 0; i < rank; i++)
            if (!done[i] && (next < 0 || llabs(strides[i]) < llabs(strides[next])))
                next = i;
        done[next] = true;
        if (shape[next] == 1) continue;
        if (llabs(strides[next]) <= span) return true;
        span += (shape[next] - 1) * llabs(strides[next]);
    }
    return false;
}

/* Both sides of a copy; steps in bytes. */
typedef struct {
    int rank;
    int64_t shape[MAX_RANK], to[MAX_RANK], from[MAX_RANK];
} Walk;

static void to_bytes(int rank, const int64_t *shape, const int64_t *strides,
                     size_t item, int64_t *steps) {
    int64_t step = (int64_t)item;
    for (int i = rank - 1; i >= 0; i--) {
        steps[i] = strides ? strides[i] * (int64_t)item : step;
        step *= shape[i];
    }
}

/* Axis i goes in one step with the axis inside it, or is dropped if it has extent 1. */
static void push_axis(Walk *walk, int64_t extent, int64_t to, int64_t from) {
    if (extent == 1) return;
    int last = walk->rank - 1;
    if (last >= 0 && walk->to[last] == to * extent &&
        walk->from[last] == from * extent) {
        walk->shape[last] *= extent;
        walk->to[last] = to;
        walk->from[last] = from;
        return;
    }
    walk->shape[walk->rank] = extent;
    walk->to[walk->rank] = to;
    walk->from[walk->rank++] = from;
}

static void swap(int64_t *values, int i, int j) {
    int64_t value = values[i];
    values[i] = values[j];
    values[j] = value;
}

/* Puts the axis along which the source runs best beside the innermost one, so that
   tiles over these two touch whole cache lines of both sides. */
static void pair_axes(Walk *walk) {
    int last = walk->rank - 1, best = last - 1;
    for (int i = 0; i < last; i++)
        if (llabs(walk->from[i]) < llabs(walk->from[best])) best = i;
    swap(walk->shape, best, last - 1);
    swap(walk->to, best, last - 1);
    swap(walk->from, best, last - 1);
}

/* One tile of the two inner axes, by way of a small buffer where the source runs along
   the rows: so each of its lines is read once, even if all fall into one cache set. */
static inline __attribute__((always_inline)) void copy_tile(const Walk *walk,
                                                            int64_t rows, int64_t cols,
                                                            char *to, const char *from,
                                                            size_t size) {
    int row = walk->rank - 2, col = walk->rank - 1;
    int64_t from_row = walk->from[row], from_col = walk->from[col];
    int64_t to_row = walk->to[row], to_col = walk->to[col];
    char tile[TILE * TILE * 16];
    if (llabs(from_row) < llabs(from_col)) {
        for (int64_t c = 0; c < cols; c++)
            for (int64_t r = 0; r < rows; r++)
                memcpy(tile + (r * TILE + c) * (int64_t)size,
                       from + r * from_row + c * from_col, size);
        from = tile;
        from_row = TILE * (int64_t)size;
        from_col = (int64_t)size;
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            memcpy(to + r * to_row + c * to_col, from + r * from_row + c * from_col,
                   size);
}

/* The constant size lets each copy above become one move. */
static inline __attribute__((always_inline)) void copy_tiles(const Walk *walk, char *to,
                                                             const char *from,
                                                             size_t size) {
    int row = walk->rank - 2, col = walk->rank - 1;
    int64_t rows = walk->shape[row], cols = walk->shape[col];
    for (int64_t r = 0; r < rows; r += TILE)
        for (int64_t c = 0; c < cols; c += TILE)
            copy_tile(walk, rows - r < TILE ? rows - r : TILE,
                      cols - c < TILE ? cols - c : TILE,
                      to + r * walk->to[row] + c * walk->to[col],
                      from + r * walk->from[row] + c * walk->from[col], size);
}

static void copy_plane(const Walk *walk, size_t item, char *to, const char *from) {
    int row = walk->rank - 2, col = walk->rank - 1;
    if (walk->to[col] == (int64_t)item && walk->from[col] == (int64_t)item) {
        for (int64_t r = 0; r < walk->shape[row]; r++)
            memcpy(to + r * walk->to[row], from + r * walk->from[row],
                   item * (size_t)walk->shape[col]);
        return;
    }
    switch (item) {
        case 1: copy_tiles(walk, to, from, 1); break;
        case 2: copy_tiles(walk, to, from, 2); break;
        case 4: copy_tiles(walk, to, from, 4); break;
        case 8: copy_tiles(walk, to, from, 8); break;
        default: copy_tiles(walk, to, from, 16);
    }
}

static void copy_axis(const Walk *walk, int axis, size_t item, char *to,
                      const char *from) {
    if (axis == walk->rank - 2) {
        copy_plane(walk, item, to, from);
        return;
    }
    for (int64_t i = 0; i < walk->shape[axis]; i++)
        copy_axis(walk, axis + 1, item, to + i * walk->to[axis],
                  from + i * walk->from[axis]);
}

/* An axis of extent 1 outside all others; the loops want two axes at least. */
static void pad(Walk *walk, size_t item) {
    for (int i = walk->rank; i > 0; i--) {
        walk->shape[i] = walk->shape[i - 1];
        walk->to[i] = walk->to[i - 1];
        walk->from[i] = walk->from[i - 1];
    }
    walk->shape[0] = 1;
    walk->to[0] = walk->from[0] = (int64_t)item;
    walk->rank++;
}

void copy_strided(int rank, const int64_t *shape, size_t item, char *to,
                  const int64_t *to_strides, const char *from,
                  const int64_t *from_strides) {
    if (is_empty(rank, shape)) return;
    int64_t to_steps[MAX_RANK], from_steps[MAX_RANK];
    to_bytes(rank, shape, to_strides, item, to_steps);
    to_bytes(rank, shape, from_strides, item, from_steps);
    Walk walk = {.rank = 0};
    for (int i = 0; i < rank; i++)
        push_axis(&walk, shape[i], to_steps[i], from_steps[i]);
    while (walk.rank < 2) pad(&walk, item);
    pair_axes(&walk);
    copy_axis(&walk, 0, item, to, from);
}
