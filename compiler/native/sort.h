/* Sorting rows: sort.c on the CPU, sort_cuda.c on a device. Both are stable, so that the
   result is one whatever the threads. */
#ifndef PIROL_SORT_H
#define PIROL_SORT_H

#include "runtime.h"

/* How the bits of an item become an unsigned number that is ordered as the items are:
   NaN above all, one zero. */
typedef struct {
    uint64_t sign;     /* the bit of it; 0: they have none */
    uint64_t infinity; /* its bits; 0: they are no floats */
    uint64_t mask;     /* all bits of an item */
    uint64_t turned;   /* the mask where the largest comes first, else 0 */
} Keys;

/* The first `count` of each of `lines` rows of `length`, and where they were; either
   may be null; no size is 0. */
typedef struct {
    Keys keys;
    int item; /* bytes: 1, 2, 4, 8 */
    int64_t lines, length, count;
    const void *x;
    void *values;
    int64_t *indices;
} Sort;

bool keys_of(const TensorSpec *type, bool descending, Keys *out); /* are there any? */

static inline uint64_t key_of(uint64_t bits, const Keys *keys) {
    if (keys->infinity) {
        uint64_t size = bits & ~keys->sign;
        if (size > keys->infinity) return keys->mask ^ keys->turned;
        if (!size) bits = 0;
        bits ^= bits & keys->sign ? keys->mask : keys->sign;
    } else {
        bits ^= keys->sign;
    }
    return bits ^ keys->turned;
}

enum { SORT_NO_MEMORY = -1, SORT_TOO_LONG = -2 };

int sort_rows(const Sort *sort, Call *call);
/* A code of CUDA's, or one of these; the kernels are those of an item's size. */
int sort_on_device(const Sort *sort, const void *const *kernels, Call *call);

#endif
