/* Sorting rows on the CPU, by the bytes of keys (LSD radix sort, Knuth vol. 3, 5.2.5); of
   long rows that few threads would have, runs that are merged (merge path, Odeh et al.,
   2012); the first few of many are chosen with a heap. */
#include "sort.h"

#include <string.h>

enum { FEW = 48 };               /* entries that are sorted by insertion */
enum { LONG = 1 << 15 };         /* entries of a row that are worth several threads */
enum { SCARCE = 8, MOST = 512 }; /* one in so many, and no more, are chosen */
enum { WORTH = 1 << 13 };        /* entries that are worth a thread */

typedef struct {
    const Sort *of;
    int64_t chunks;
    bool chooses;
    char *scratch; /* twice `room` entries, for each chunk where lines are shared out */
    size_t step;
    int64_t room;
    int64_t line, run; /* of a line that is shared out: its number, how long runs are */
    bool turned;       /* they are in the second half of the scratch */
} Shared;

typedef struct {
    uint64_t key, place;
} Wide;

#define ENTRY uint64_t
#define COUNT uint32_t
#define BYTES 4
#define NAME(x) packed_##x
#define BEFORE(a, b) ((a) < (b))
#define KEY(e) ((e) >> 32)
#define DIGIT(e, k) ((e) >> (32 + 8 * (k)) & 255)
#define MAKE(key, place) ((key) << 32 | (uint64_t)(place))
#define PLACE(e) ((e) & UINT32_MAX)
#include "sort_entries.h"
#undef ENTRY
#undef COUNT
#undef BYTES
#undef NAME
#undef BEFORE
#undef KEY
#undef DIGIT
#undef MAKE
#undef PLACE
#define ENTRY Wide
#define COUNT uint64_t
#define BYTES 8
#define NAME(x) wide_##x
#define BEFORE(a, b) \
    ((a).key < (b).key || ((a).key == (b).key && (a).place < (b).place))
#define KEY(e) ((e).key)
#define DIGIT(e, k) ((e).key >> (8 * (k)) & 255)
#define MAKE(k, p) ((Wide){(k), (uint64_t)(p)})
#define PLACE(e) ((e).place)
#include "sort_entries.h"

bool keys_of(const TensorSpec *type, bool descending, Keys *out) {
    int bits = type->bits, code = type->code;
    bool small = bits == 8 || bits == 16 || bits == 32 || bits == 64;
    bool brain = code == DL_BFLOAT && bits == 16;
    bool floats = (code == DL_FLOAT && bits > 8) || brain;
    if (!small || !(floats || code == DL_INT || code == DL_UINT || code == DL_BOOL))
        return false;
    int fraction = brain ? 7 : bits == 16 ? 10 : bits == 32 ? 23 : 52;
    uint64_t sign = (uint64_t)1 << (bits - 1);
    bool is_signed = floats || code == DL_INT;
    *out = (Keys){.sign = is_signed ? sign : 0, .mask = sign | (sign - 1)};
    if (floats) out->infinity = sign - ((uint64_t)1 << fraction);
    if (descending) out->turned = out->mask;
    return true;
}

static bool is_packed(const Sort *of) {
    return of->item <= 4 && of->length <= UINT32_MAX;
}

static bool give_scratch(Shared *all, Call *call, int64_t parts) {
    const Sort *of = all->of;
    size_t entry = is_packed(of) ? sizeof(uint64_t) : sizeof(Wide), bytes;
    all->room = all->chooses ? of->count : of->length;
    if (__builtin_mul_overflow(2 * entry, (size_t)all->room, &bytes) ||
        bytes > SIZE_MAX / 4)
        return false;
    all->step = aligned(bytes);
    if (__builtin_mul_overflow(all->step, (size_t)parts, &bytes)) return false;
    all->scratch = call_scratch(call, bytes);
    return all->scratch != NULL;
}

int sort_rows(const Sort *of, Call *call) {
    bool few = of->count <= MOST && of->count <= of->length / SCARCE;
    Shared all = {.of = of, .chooses = few};
    all.chunks = chunk_count(of->lines, WORTH / of->length + 1);
    int64_t parts = all.chunks, threads = chunk_count(of->length, LONG / 2);
    bool shares = !all.chooses && of->lines < threads;
    if (shares) all.chunks = threads, parts = 1;
    if (!give_scratch(&all, call, parts)) return SORT_NO_MEMORY;
    if (shares)
        (is_packed(of) ? packed_long_lines : wide_long_lines)(&all);
    else
        run_chunks(is_packed(of) ? packed_lines : wide_lines, &all, all.chunks);
    return 0;
}
