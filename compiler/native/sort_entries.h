/* Sorting entries: keys with the places that they had, all different. sort.c includes
   this twice; ENTRY is the type, NAME(x) the name of x for it, BEFORE(a, b) their order,
   KEY(e) the key, DIGIT(e, k) byte k of it, of BYTES; COUNT holds how many there may be. */

/* Of few. */
static void NAME(insert)(ENTRY *entries, int64_t count) {
    for (int64_t i = 1; i < count; i++) {
        ENTRY entry = entries[i];
        int64_t at = i;
        for (; at > 0 && BEFORE(entry, entries[at - 1]); at--)
            entries[at] = entries[at - 1];
        entries[at] = entry;
    }
}

/* In order of the keys, those alike as they were, byte by byte; `other` has room for as
   many. */
static void NAME(sort)(ENTRY *entries, ENTRY *other, int64_t count) {
    COUNT starts[BYTES][256] = {{0}};
    ENTRY *from = entries;
    if (count <= FEW) {
        NAME(insert)(entries, count);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        for (int k = 0; k < BYTES; k++) starts[k][DIGIT(entries[i], k)]++;
    for (int k = 0; k < BYTES; k++) {
        COUNT *at = starts[k], next = 0;
        if (at[DIGIT(from[0], k)] == (COUNT)count) continue; /* all are alike */
        for (int digit = 0; digit < 256; digit++) {
            COUNT here = at[digit];
            at[digit] = next;
            next += here;
        }
        for (int64_t i = 0; i < count; i++) other[at[DIGIT(from[i], k)]++] = from[i];
        ENTRY *last = from;
        from = other;
        other = last;
    }
    if (from != entries) memcpy(entries, from, (size_t)count * sizeof *entries);
}

/* The entries from `begin` to `end` of a line. */
static void NAME(fill)(ENTRY *to, const Sort *of, int64_t line, int64_t begin,
                       int64_t end) {
    int64_t count = end - begin, first = line * of->length + begin;
    const Keys keys = of->keys; /* of its own, as what is written may be anything */
    switch (of->item) {
#define FILL(T)                                                \
    for (int64_t i = 0; i < count; i++) {                      \
        uint64_t bits = ((const T *)of->x + first)[i];         \
        to[i] = MAKE(key_of(bits, &keys), begin + i);          \
    }                                                          \
    break;
        case 1: FILL(uint8_t)
        case 2: FILL(uint16_t)
        case 4: FILL(uint32_t)
        default: FILL(uint64_t)
#undef FILL
    }
}

/* The results from `begin` to `end` of a line. */
static void NAME(give)(const ENTRY *from, const Sort *of, int64_t line, int64_t begin,
                       int64_t end) {
    int64_t to = line * of->count, first = line * of->length;
    if (of->indices) {
        int64_t *indices = of->indices + to;
        for (int64_t i = begin; i < end; i++) indices[i] = (int64_t)PLACE(from[i]);
    }
    if (!of->values) return;
    switch (of->item) {
#define GIVE(T)                                                         \
    {                                                                   \
        T *values = (T *)of->values + to;                               \
        const T *x = (const T *)of->x + first;                          \
        for (int64_t i = begin; i < end; i++) values[i] = x[PLACE(from[i])]; \
        break;                                                          \
    }
        case 1: GIVE(uint8_t)
        case 2: GIVE(uint16_t)
        case 4: GIVE(uint32_t)
        default: GIVE(uint64_t)
#undef GIVE
    }
}

/* ---- the first few: a heap with the last of them on top ---- */

static void NAME(sink)(ENTRY *heap, int64_t count, int64_t at) {
    ENTRY entry = heap[at];
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && BEFORE(heap[child], heap[child + 1])) child++;
        if (!BEFORE(entry, heap[child])) break;
        heap[at] = heap[child];
    }
    heap[at] = entry;
}

/* What is behind with an equal key comes later, so that keys tell. */
static void NAME(choose)(const Sort *of, int64_t line, ENTRY *heap) {
    int64_t count = of->count, length = of->length, first = line * length;
    const Keys keys = of->keys;
    NAME(fill)(heap, of, line, 0, count);
    for (int64_t at = count / 2; at-- > 0;) NAME(sink)(heap, count, at);
    uint64_t limit = KEY(heap[0]);
    switch (of->item) {
#define CHOOSE(T)                                                  \
    for (int64_t i = count; i < length; i++) {                     \
        uint64_t key = key_of(((const T *)of->x + first)[i], &keys); \
        if (key >= limit) continue;                                \
        heap[0] = MAKE(key, i);                                    \
        NAME(sink)(heap, count, 0);                                \
        limit = KEY(heap[0]);                                      \
    }                                                              \
    break;
        case 1: CHOOSE(uint8_t)
        case 2: CHOOSE(uint16_t)
        case 4: CHOOSE(uint32_t)
        default: CHOOSE(uint64_t)
#undef CHOOSE
    }
    for (int64_t last = count - 1; last > 0; last--) {
        ENTRY entry = heap[0];
        heap[0] = heap[last];
        heap[last] = entry;
        NAME(sink)(heap, last, 0);
    }
}

/* ---- lines shared out among threads ---- */

static void NAME(lines)(const void *work, int64_t chunk) {
    const Shared *all = work;
    const Sort *of = all->of;
    Rows rows = chunk_rows(of->lines, all->chunks, chunk);
    ENTRY *entries = (ENTRY *)(all->scratch + chunk * all->step);
    ENTRY *other = entries + all->room;
    for (int64_t line = rows.begin; line < rows.end; line++) {
        if (all->chooses) {
            NAME(choose)(of, line, entries);
        } else {
            NAME(fill)(entries, of, line, 0, of->length);
            NAME(sort)(entries, other, of->length);
        }
        NAME(give)(entries, of, line, 0, of->count);
    }
}

/* ---- one line shared out: sorted runs, merged two by two ---- */

/* How many of the first `both` of two runs are of the left one. */
static int64_t NAME(split)(const ENTRY *left, int64_t n_left, const ENTRY *right,
                           int64_t n_right, int64_t both) {
    int64_t low = both > n_right ? both - n_right : 0;
    int64_t high = both < n_left ? both : n_left;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (BEFORE(left[middle], right[both - 1 - middle]))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void NAME(run)(const void *work, int64_t chunk) {
    const Shared *all = work;
    const Sort *of = all->of;
    int64_t begin = chunk * all->run, end = begin + all->run;
    if (end > of->length) end = of->length;
    if (begin >= end) return;
    ENTRY *entries = (ENTRY *)all->scratch + begin;
    NAME(fill)(entries, of, all->line, begin, end);
    NAME(sort)(entries, entries + all->room, end - begin);
}

/* From `from`, of runs of all->run, to `to`, of runs twice as long: a part of each. */
static void NAME(merge)(const void *work, int64_t chunk) {
    const Shared *all = work;
    int64_t length = all->of->length, run = all->run;
    const ENTRY *from = (const ENTRY *)all->scratch + (all->turned ? all->room : 0);
    ENTRY *to = (ENTRY *)all->scratch + (all->turned ? 0 : all->room);
    Rows part = chunk_rows(length, all->chunks, chunk);
    for (int64_t at = part.begin; at < part.end;) {
        int64_t start = at / (2 * run) * (2 * run);
        int64_t middle = start + run < length ? start + run : length;
        int64_t stop = middle + run < length ? middle + run : length;
        const ENTRY *left = from + start, *right = from + middle;
        int64_t i = NAME(split)(left, middle - start, right, stop - middle, at - start);
        int64_t j = at - start - i;
        for (; at < stop && at < part.end; at++) {
            bool is_left = i < middle - start &&
                           (j >= stop - middle || BEFORE(left[i], right[j]));
            to[at] = is_left ? left[i++] : right[j++];
        }
    }
}

static void NAME(give_part)(const void *work, int64_t chunk) {
    const Shared *all = work;
    Rows part = chunk_rows(all->of->count, all->chunks, chunk);
    const ENTRY *from = (const ENTRY *)all->scratch + (all->turned ? all->room : 0);
    NAME(give)(from, all->of, all->line, part.begin, part.end);
}

static void NAME(long_lines)(Shared *all) {
    for (all->line = 0; all->line < all->of->lines; all->line++) {
        all->run = (all->of->length + all->chunks - 1) / all->chunks;
        all->turned = false;
        run_chunks(NAME(run), all, all->chunks);
        for (; all->run < all->of->length; all->run *= 2, all->turned = !all->turned)
            run_chunks(NAME(merge), all, all->chunks);
        run_chunks(NAME(give_part), all, all->chunks);
    }
}
