// cublaslt.c - stands in for libcublasLt.so where there is no GPU: checks what it is
// given, against the live allocations of driver.c too, and multiplies plainly, here and
// now. What it does not know, or what does not fit, is INVALID.
//
// Also counts what a test wants to know: stand_in_products, stand_in_asked ...
#define _GNU_SOURCE

enum { NOT_INITIALIZED = 1, INVALID = 7, NOT_SUPPORTED = 15 };
#define REFUSED INVALID
#define BFLOAT16 14
#include "library.h"

enum { COMPUTE_32 = 68, COMPUTE_64 = 70 };
enum { PRODUCT = 0x70, LAYOUT = 0x6c, PREFERENCE = 0x65, HANDLE = 0x68 };

typedef struct {
    int what, type, turn[2];
    uint32_t epilogue;
    const void *bias;
} Product;

typedef struct {
    int what, type;
    uint64_t rows, columns;
    int64_t pitch, stride;
    int32_t count;
} Layout;

typedef struct {
    int what;
    uint64_t workspace;
    uint32_t reductions, align[4];
} Preference;

// What an algorithm was chosen for, in its 64 bytes.
typedef struct {
    uint64_t rows, columns, terms;
    uint32_t count, workspace, align[4];
    uint64_t epilogue, mark;
} Choice;

typedef struct {
    Choice choice;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
} Answer;

_Static_assert(sizeof(Choice) == 64 && sizeof(Answer) == 96, "as cublasLt.h has them");

enum { WAYS = 2 };  // of which the first, and best by its own account, is slow

static long products, slow, with_row, batched;

static void *made(void *object) { return described++, object; }

int cublasLtCreate(void **handle) {
    static int one = HANDLE;
    *handle = &one;
    return holds ? 0 : NOT_INITIALIZED;
}
const char *cublasLtGetStatusName(int status) {
    static char text[400];
    snprintf(text, sizeof text, "CUBLAS_STATUS_%s %s",
             status == NOT_SUPPORTED ? "NOT_SUPPORTED" : "INVALID_VALUE", finding);
    return text;
}

// ---- descriptors ----

int cublasLtMatmulDescCreate(Product **out, int compute, int scale) {
    NEED((compute == COMPUTE_32 && scale == R32) ||
         (compute == COMPUTE_64 && scale == R64));
    *out = made(calloc(1, sizeof **out));
    **out = (Product){PRODUCT, scale, {0, 0}, 1, NULL};
    return 0;
}
int cublasLtMatmulDescSetAttribute(Product *p, int kind, const void *from, size_t size) {
    NEED(p->what == PRODUCT && from);
    NEED(size == (kind == 8 ? 8 : 4));
    int value;
    memcpy(&value, from, 4);
    switch (kind) {
        case 3:
        case 4: p->turn[kind - 3] = value; return value < 2 ? 0 : INVALID;
        case 7: p->epilogue = (uint32_t)value; return value == 4 ? 0 : INVALID;
        case 8: memcpy(&p->bias, from, 8); return 0;
        default: return refuse("an unknown attribute of a product");
    }
}
int cublasLtMatmulDescDestroy(void *p) { return gone(p, PRODUCT); }

int cublasLtMatrixLayoutCreate(Layout **out, int type, uint64_t rows, uint64_t columns,
                               int64_t pitch) {
    NEED(item_of(type));
    NEED(rows && columns && rows < INT32_MAX && columns < INT32_MAX);
    NEED(pitch >= (int64_t)rows);
    *out = made(calloc(1, sizeof **out));
    **out = (Layout){LAYOUT, type, rows, columns, pitch, 0, 1};
    return 0;
}
int cublasLtMatrixLayoutSetAttribute(Layout *l, int kind, const void *from,
                                     size_t size) {
    NEED(l->what == LAYOUT && from);
    NEED((kind == 5 && size == 4) || (kind == 6 && size == 8));
    memcpy(kind == 5 ? (void *)&l->count : &l->stride, from, size);
    NEED(l->count > 0 && l->stride >= 0);
    return 0;
}
int cublasLtMatrixLayoutDestroy(void *l) { return gone(l, LAYOUT); }

int cublasLtMatmulPreferenceCreate(Preference **out) {
    *out = made(calloc(1, sizeof **out));
    **out = (Preference){PREFERENCE, 0, 7, {256, 256, 256, 256}};
    return 0;
}
int cublasLtMatmulPreferenceSetAttribute(Preference *p, int kind, const void *from,
                                         size_t size) {
    NEED(p->what == PREFERENCE && from);
    NEED((kind == 1 && size == 8) ||
         ((kind == 3 || (kind >= 5 && kind <= 8)) && size == 4));
    memcpy(kind == 1   ? (void *)&p->workspace
           : kind == 3 ? &p->reductions
                       : &p->align[kind - 5],
           from, size);
    return 0;
}
int cublasLtMatmulPreferenceDestroy(void *p) { return gone(p, PREFERENCE); }

// ---- products ----

typedef struct {
    const Layout *at;
    int turned;
} Side;

static uint64_t rows_of(Side s) { return s.turned ? s.at->columns : s.at->rows; }
static uint64_t columns_of(Side s) { return s.turned ? s.at->rows : s.at->columns; }

static int fit(const Product *p, const Layout *a, const Layout *b, const Layout *c,
               const Layout *d) {
    Side x = {a, p->turn[0]}, y = {b, p->turn[1]};
    const Layout *all[] = {a, b, c, d};
    NEED(p->what == PRODUCT);
    for (int i = 0; i < 4; i++) {
        NEED(all[i]->what == LAYOUT);
        NEED(all[i]->count == d->count);
    }
    NEED(a->type == b->type && c->type == d->type);
    NEED(p->type == (a->type == R64 ? R64 : R32));
    NEED(d->type == a->type || (is_half(a->type) && d->type == R32));
    NEED(columns_of(x) == rows_of(y));
    NEED(rows_of(x) == d->rows && columns_of(y) == d->columns);
    NEED(c->rows == d->rows && c->columns == d->columns && c->pitch == d->pitch);
    NEED(d->count == 1 || d->stride >= d->pitch * (int64_t)d->columns);
    NEED(p->epilogue == 1 || p->bias);
    return 0;
}

static Choice choice_for(const Product *p, const Layout *a, const Layout *d) {
    Side x = {a, p->turn[0]};
    return (Choice){.rows = d->rows,
                    .columns = d->columns,
                    .terms = columns_of(x),
                    .count = (uint32_t)d->count,
                    .epilogue = p->epilogue,
                    .mark = 0xC0B1A5};
}

int cublasLtMatmulAlgoGetHeuristic(const int *handle, const Product *p, const Layout *a,
                                   const Layout *b, const Layout *c, const Layout *d,
                                   const Preference *wish, int most, Answer *answers,
                                   int *count) {
    *count = 0;
    NEED(*handle == HANDLE && wish->what == PREFERENCE && most > 0);
    NEED(!(wish->reductions & 4));  // no parts of sums in halves
    asked++;
    if (refusing) return NOT_SUPPORTED;
    int status = fit(p, a, b, c, d);
    if (status) return status;
    for (; *count < most && *count < WAYS; ++*count) {
        Answer *answer = &answers[*count];
        memset(answer, 0, sizeof *answer);
        answer->choice = choice_for(p, a, d);
        answer->choice.mark += (uint64_t)*count;
        memcpy(answer->choice.align, wish->align, sizeof wish->align);
        answer->workspace = d->columns % 2 ? 0 : 4096 * (1 + d->columns % 7);
        if (answer->workspace > wish->workspace) answer->workspace = 0;
        answer->choice.workspace = (uint32_t)answer->workspace;
    }
    return 0;
}

static size_t item(const Layout *l) { return item_of(l->type); }

static int lies(const void *data, const Layout *l, uint32_t align) {
    size_t reach = (size_t)((l->count - 1) * l->stride) +
                   (size_t)l->pitch * (l->columns - 1) + l->rows;
    NEED(holds(data, reach * item(l)));
    NEED((uintptr_t)data % align == 0 && align >= item(l));
    return 0;
}

static double number(const void *data, const Layout *l, int64_t place) {
    return number_at(data, l->type, place);
}

static void multiply(const Product *p, const void *x, const Layout *a, const void *y,
                     const Layout *b, void *out, const Layout *d) {
    int64_t terms = (int64_t)(p->turn[0] ? a->rows : a->columns);
    int64_t step_a = p->turn[0] ? 1 : a->pitch, step_b = p->turn[1] ? b->pitch : 1;
    for (int32_t n = 0; n < d->count; n++)
        for (uint64_t j = 0; j < d->columns; j++)
            for (uint64_t i = 0; i < d->rows; i++) {
                int64_t to = n * d->stride + (int64_t)j * d->pitch + (int64_t)i;
                int64_t at = n * a->stride + (int64_t)i * (p->turn[0] ? a->pitch : 1);
                int64_t with = n * b->stride + (int64_t)j * (p->turn[1] ? 1 : b->pitch);
                double sum = 0;
                for (int64_t k = 0; k < terms; k++)
                    sum += number(x, a, at + k * step_a) *
                           number(y, b, with + k * step_b);
                if (p->epilogue == 4) sum += number(p->bias, d, (int64_t)i);
                set_number(out, d->type, to, sum);
            }
}

static int is(const void *number, const Product *p, double value) {
    return (p->type == R32 ? *(const float *)number : *(const double *)number) == value;
}

int cublasLtMatmul(const int *handle, const Product *p, const void *alpha,
                   const void *x, const Layout *a, const void *y, const Layout *b,
                   const void *beta, const void *c, const Layout *of_c, void *out,
                   const Layout *d, const Choice *choice, void *workspace, size_t bytes,
                   void *stream) {
    (void)stream;
    int status = fit(p, a, b, of_c, d);
    if (status) return status;
    Choice wanted = choice_for(p, a, d);
    wanted.workspace = choice->workspace;
    memcpy(wanted.align, choice->align, sizeof choice->align);
    uint64_t way = choice->mark - wanted.mark;
    NEED(way < WAYS);
    wanted.mark = choice->mark;
    NEED(*handle == HANDLE && c == out);
    NEED(!memcmp(&wanted, choice, sizeof wanted));
    NEED(is(alpha, p, 1) && is(beta, p, 0));
    status = lies(x, a, choice->align[0]);
    if (!status) status = lies(y, b, choice->align[1]);
    if (!status) status = lies(out, d, choice->align[3]);
    if (status) return status;
    NEED(p->epilogue == 1 || holds(p->bias, d->rows * item(d)));
    NEED(bytes >= choice->workspace);
    if (choice->workspace) {
        NEED(holds(workspace, bytes) && (uintptr_t)workspace % 256 == 0);
        memset(workspace, 0xEE, bytes);
    }
    multiply(p, x, a, y, b, out, d);
    spend(way == 0 ? 2 : 1);
    slow += way == 0;
    products++;
    with_row += p->epilogue == 4;
    batched += d->count > 1;
    return 0;
}

// ---- for tests ----

long stand_in_products(void) { return products; }
long stand_in_slow(void) { return slow; }
long stand_in_with_row(void) { return with_row; }
long stand_in_batched(void) { return batched; }
